"""R8-R10: connections that come twice, that nobody reads, that nobody is at the other end of."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.raw import RawSocket, head, resident
from tests.support import DIFF, TOKEN, NodeUnderTest, RawWorker, host_files, rows, tiny_plan, wait_for
from tests.transports import Caller

Host = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    limits = [f"--limit={name}" for name in ("wrong_rate=100000", "ping_seconds=0.4")]
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data", *limits)
    yield node
    assert node.terminate() == 0
    assert "Traceback" not in "".join(node.said)


@pytest.fixture
def host(node: NodeUnderTest, request: pytest.FixtureRequest) -> Host:
    def host(**server: Any) -> dict[str, Any]:
        name = request.node.name[:150]
        with node.http() as http:
            answer = http.post("/model-centric/host-training", files=host_files(tiny_plan(), server, name))
        assert answer.status_code == 200, answer.text
        return {**answer.json(), "name": name}

    return host


def close_code(caller: Caller) -> int:
    """The code with which the node closes this socket; nothing comes before it."""
    assert caller.socket is not None
    with pytest.raises(ConnectionClosed) as closed:
        caller.socket.recv(30)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


# ---- R8: the same worker by a second socket


def test_r8_the_new_socket_wins_and_the_work_goes_on(node: NodeUnderTest, host: Host) -> None:
    hosted = host(num_cycles=1)
    old = Caller(node, "socket", hosted)
    key = old.ask()["request_key"]
    new = Caller(node, "socket", hosted, old.worker_id)
    assert new.ask()["request_key"] == key
    assert close_code(old) == 4001
    assert new.report(DIFF)["code"] is None
    assert rows(node, hosted["process"])[-1]["outcome"] == "completed"
    new.close()


def test_r8_what_the_old_one_waited_for_comes_to_the_new_one(node: NodeUnderTest, host: Host) -> None:
    """A question that the node held back until there is work: the old socket's end takes nothing with it."""
    hosted = host(num_cycles=1, max_workers=1, min_diffs=2, max_diffs=2)
    first, old = Caller(node, "json", hosted), Caller(node, "socket", hosted)
    assert first.ask()["status"] == "accepted" and old.ask()["code"] == "CYCLE_FULL"
    wish = {"worker_id": old.worker_id, "model": hosted["name"], "wait": 30, "seen_cycle": 9}
    assert old.socket is not None
    old.socket.send(json.dumps({"type": "model-centric/cycle-request", "data": wish}))
    new = Caller(node, "socket", hosted, old.worker_id)
    assert new.ask()["code"] == "CYCLE_FULL"
    assert close_code(old) == 4001
    first.report(DIFF)
    assert new.ask()["status"] == "accepted" and new.report(DIFF)["code"] is None
    new.close()


def test_r8_by_authenticating_again(node: NodeUnderTest, host: Host) -> None:
    hosted = host(num_cycles=1)
    old, new = Caller(node, "socket", hosted), Caller(node, "socket", hosted, "not yet")
    wish = {"model_name": hosted["name"], "auth_token": hosted["worker_token"], "worker_id": old.worker_id}
    assert new.call("authenticate", **wish)["worker_id"] == old.worker_id
    assert close_code(old) == 4001
    new.close()


def test_r8_a_socket_of_several_workers_stays_while_it_has_one(node: NodeUnderTest, host: Host) -> None:
    hosted = host(num_cycles=1)
    many = Caller(node, "socket", hosted)
    second = many.call("authenticate", model_name=hosted["name"], auth_token=hosted["worker_token"])["worker_id"]
    news = [Caller(node, "socket", hosted, worker_id) for worker_id in (many.worker_id, second)]
    assert news[0].ask()["status"] == "accepted"
    assert many.ask(worker_id=second)["status"] == "accepted"
    assert news[1].ask()["status"] == "accepted"
    assert close_code(many) == 4001
    for new in news:
        new.close()


@pytest.mark.parametrize("wrong", [{"worker_id": "f" * 32}, {"model": "another"}])
def test_r8_who_doesnt_have_the_right_takes_nobodys_socket(node: NodeUnderTest, host: Host, wrong: Any) -> None:
    hosted = host(num_cycles=1)
    mine, thief = Caller(node, "socket", hosted), Caller(node, "socket", hosted)
    assert thief.ask(**{"worker_id": mine.worker_id, **wrong})["code"] in ("BAD_KEY", "FORBIDDEN")
    assert thief.call("report", worker_id=mine.worker_id, request_key="0" * 64, diff="")["code"] == "BAD_KEY"
    assert mine.ask()["status"] == "accepted"
    for caller in (mine, thief):
        caller.close()


def test_r8_over_http_connections_dont_matter(node: NodeUnderTest, host: Host) -> None:
    hosted = host(num_cycles=1)
    old = Caller(node, "json", hosted)
    key = old.ask()["request_key"]
    new = Caller(node, "octets", hosted, old.worker_id)
    assert new.ask()["request_key"] == key and old.ask()["request_key"] == key
    assert new.report(DIFF)["code"] is None and old.report(DIFF, **new.ids())["code"] is None
    old.close(), new.close()


# ---- R9: who doesn't read


def test_r9_a_slow_reader_of_events_costs_nothing_and_misses_nothing(node: NodeUnderTest, host: Host) -> None:
    hosted = host(max_diffs=10_000, min_diffs=10_000)
    failing = Caller(node, "json", hosted)
    slow = socket.create_connection(("127.0.0.1", node.port), timeout=20)
    slow.sendall(head(node, f"GET /events?after=0&run={hosted['process']} HTTP/1.1"))
    error = {"type": "E", "message": "m", "traceback": "…" * 20_000}
    before = resident(node)
    count = 110
    for _ in range(count):  # 13 MB of rows
        wish = {"model_name": hosted["name"], "auth_token": hosted["worker_token"]}
        worker_id = failing.call("authenticate", **wish)["worker_id"]
        key = failing.ask(worker_id=worker_id)["request_key"]
        assert failing.call("report", worker_id=worker_id, request_key=key, error=error)["code"] is None
    with node.http() as http:
        http.post("/model-centric/stop", json={"name": hosted["name"], "now": True})
    quick = rows(node, hosted["process"])
    assert sum(row["kind"] == "reported" for row in quick) == count
    assert resident(node) - before < 100 << 20
    data = bytearray()
    while b'"finished"' not in data[-1000:]:
        piece = slow.recv(1 << 20)
        assert piece, "the node ended the stream"
        data += piece
    got = [json.loads(line[6:]) for line in data.split(b"\n") if line.startswith(b"data: ")]
    slow.close()
    assert got == quick


def test_r9_who_asks_and_never_reads_is_not_answered_without_end(node: NodeUnderTest, host: Host) -> None:
    hosted = host(num_cycles=1)
    caller = Caller(node, "json", hosted)
    deaf = RawSocket(node)
    before = resident(node)
    question = json.dumps({"type": "x" * 100, "data": {}, "request_id": "r" * 200}).encode()

    def shout() -> None:
        with contextlib.suppress(OSError):
            for _ in range(200_000):  # 80 MB of questions
                deaf.send(0x81, question)

    shouting = threading.Thread(target=shout, daemon=True)
    shouting.start()
    assert caller.ask()["status"] == "accepted" and caller.report(DIFF)["code"] is None
    assert rows(node, hosted["process"])[-1]["outcome"] == "completed"
    assert resident(node) - before < 50 << 20
    deaf.end()
    deaf.close()
    shouting.join(20)


# ---- R10: nobody there


def test_r10_a_socket_that_answers_no_ping_is_gone(node: NodeUnderTest, host: Host) -> None:
    hosted = host(num_cycles=1)
    dead, alive = RawSocket(node), Caller(node, "socket", hosted)
    kinds = []
    while (kind := dead.receive()[0]) != 8:
        kinds.append(kind)
    assert kinds and set(kinds) == {9}, "pings, and then the end"
    dead.close()
    assert alive.ask()["status"] == "accepted", "it has answered its pings"
    alive.close()


def test_r10_a_dead_sockets_worker_comes_back_by_another(node: NodeUnderTest, host: Host) -> None:
    """Also before the node has noticed; and its place is not lost meanwhile."""
    hosted = host(num_cycles=1, max_workers=1)
    worker = RawWorker(node, hosted["worker_token"], hosted["name"])
    dead = RawSocket(node)
    wish = {"worker_id": worker.worker_id, "model": hosted["name"]}
    dead.send(0x81, json.dumps({"type": "model-centric/cycle-request", "data": wish}).encode())
    while (answer := dead.receive())[0] != 1:
        pass
    key = json.loads(answer[1])["data"]["request_key"]
    new = Caller(node, "socket", hosted, worker.worker_id)
    assert new.ask()["request_key"] == key and new.report(DIFF)["code"] is None
    new.close()


@pytest.mark.parametrize("binary", [False, True], ids=["json", "octets"])
def test_r10_half_a_report_is_none(node: NodeUnderTest, host: Host, binary: bool) -> None:
    """The cable is pulled while a report is on its way: its cycle closes by the timer, without it."""
    hosted = host(num_cycles=1, cycle_length=1.5, max_diffs=5)
    here, gone = (RawWorker(node, hosted["worker_token"], hosted["name"]) for _ in range(2))
    here.ask(), gone.ask()
    kind = "application/octet-stream" if binary else "application/json"
    query = "?" + "&".join(f"{name}={value}" for name, value in gone.ids().items()) if binary else ""
    cut = socket.create_connection(("127.0.0.1", node.port), timeout=20)
    line = f"POST /model-centric/report{query} HTTP/1.1"
    cut.sendall(head(node, line, f"Content-Type: {kind}", "Content-Length: 150", token=TOKEN) + b"{" * 40)
    here.report(DIFF)
    closed = next(row for row in rows(node, hosted["process"]) if row["kind"] == "aggregated")
    assert (closed["accepted"], closed["refused"]) == (1, 0)
    cut.close()


def test_r10_who_left_a_stream_of_events_is_forgotten(node: NodeUnderTest, host: Host) -> None:
    hosted = host(num_cycles=1)
    sockets = Path(f"/proc/{node.process.pid}/fd")
    streams = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(20)]
    for stream in streams:
        stream.sendall(head(node, f"GET /events?after=0&run={hosted['process']} HTTP/1.1"))
        assert stream.recv(100)
    count = len(list(sockets.iterdir()))
    for stream in streams:
        stream.close()
    wait_for(lambda: len(list(sockets.iterdir())) <= count - 20, what="the end of the streams")
