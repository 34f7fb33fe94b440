"""The model-centric protocol on a running node, by hand over HTTP and WebSocket."""

from __future__ import annotations

import asyncio
import base64
import json

import httpx
import numpy as np
import pytest
import websockets

from gridkit.wire.state import pack_state, read_state
from tests.support import DIFF, MODEL, TOKEN, NodeUnderTest, RawWorker, host_files, rows, wait_for


def test_one_round_by_hand(node: NodeUnderTest, host) -> None:
    hosted = host(num_cycles=1, min_diffs=2, max_diffs=2)
    workers = [RawWorker(node, hosted["worker_token"], hosted["name"]) for _ in range(2)]
    for worker in workers:
        cycle = worker.ask()
        assert cycle["status"] == "accepted" and cycle["cycle"] == 1 and cycle["protocols"] == {}
        assert cycle["data"]["request_key"] == cycle["request_key"]  # both families of clients
        model = worker.http.get("/model-centric/get-model", params={**worker.ids(), "model_id": cycle["model_id"]})
        assert {k: v.tolist() for k, v in read_state(model.content).items()} == {
            k: v.tolist() for k, v in MODEL.items()
        }
    for n, worker in enumerate(workers):
        scaled = {name: value * (n + 1) for name, value in DIFF.items()}
        answer = worker.report(scaled)
        assert answer.status_code == 200 and answer.json()["status"] == "success"
    got = rows(node, hosted["process"])
    assert [row["kind"] for row in got if row["kind"] not in ("assigned",)] == [
        "opened",
        "reported",
        "reported",
        "aggregated",
        "finished",
    ]
    with node.http() as http:
        retrieved = http.get("/model-centric/retrieve-model", params={"name": hosted["name"], "version": "1.0"})
    new = read_state(retrieved.content)
    assert np.array_equal(new["w"], np.full((3, 2), -0.75, np.float32))
    assert np.array_equal(new["b"], np.full(2, 1.5, np.float32))
    over = workers[0].ask()
    assert over["status"] == "rejected" and "timeout" not in over


def test_rows_hold_no_secret(node: NodeUnderTest, host) -> None:
    hosted = host(num_cycles=1)
    worker = RawWorker(node, hosted["worker_token"], hosted["name"])
    key = worker.ask()["request_key"]
    worker.report(DIFF)
    text = json.dumps(rows(node, hosted["process"]))
    for secret in (key, worker.worker_id, hosted["worker_token"], TOKEN):
        assert secret not in text


def test_asking_again_gives_the_same_key(node: NodeUnderTest, host) -> None:
    hosted = host(min_diffs=2)
    worker = RawWorker(node, hosted["worker_token"], hosted["name"])
    assert worker.ask()["request_key"] == worker.ask()["request_key"]


def test_a_rejection_waits_for_the_next_cycle(node: NodeUnderTest, host) -> None:
    hosted = host(num_cycles=2, min_diffs=2, max_diffs=2)
    first, second = (RawWorker(node, hosted["worker_token"], hosted["name"]) for _ in range(2))
    first.ask(), second.ask()
    first.report(DIFF)
    rejected = first.ask()
    assert rejected["status"] == "rejected" and rejected["timeout"] > 0 and rejected["reason"]

    async def wait_for_it() -> dict:
        async with httpx.AsyncClient(base_url=node.url, timeout=30, trust_env=False) as http:
            wish = {"worker_id": first.worker_id, "model": first.name, "wait": 20.0}
            waiting = asyncio.ensure_future(http.post("/model-centric/cycle-request", json=wish))
            await asyncio.sleep(0.3)
            assert not waiting.done()
            await asyncio.to_thread(second.report, DIFF)
            return (await waiting).json()

    assert asyncio.run(wait_for_it())["cycle"] == 2


def test_the_websocket_speaks_the_same(node: NodeUnderTest, host) -> None:
    hosted = host(num_cycles=1)

    async def talk() -> list[dict]:
        async with websockets.connect(node.url.replace("http", "ws") + "/") as socket:

            async def call(kind: str, **data: object) -> dict:
                message = {"type": f"model-centric/{kind}", "data": data, "request_id": kind}
                await socket.send(json.dumps(message))
                answer = json.loads(await socket.recv())
                assert answer["type"] == f"model-centric/{kind}" and answer["request_id"] == kind
                return answer["data"]

            got = [await call("authenticate", model_name=hosted["name"], auth_token=hosted["worker_token"])]
            worker = got[0]["worker_id"]
            got.append(await call("cycle-request", worker_id=worker, model=hosted["name"], version="1.0", ping=0))
            diff = base64.b64encode(pack_state(DIFF)).decode()
            got.append(await call("report", worker_id=worker, request_key=got[1]["request_key"], diff=diff))
            await socket.send('{"type": "nonsense", "data": {}}')
            got.append(json.loads(await socket.recv())["data"])
            await socket.send("not json")
            got.append(json.loads(await socket.recv())["data"])
            await socket.send(b"binary")
            got.append(json.loads(await socket.recv(decode=False))["data"])
            return got

    answers = asyncio.run(talk())
    assert [answer["status"] for answer in answers] == ["success", "accepted", "success", "error", "error", "error"]
    assert [answer["code"] for answer in answers[3:]] == ["UNKNOWN_TYPE", "BAD_JSON", "BAD_REQUEST"]
    assert rows(node, hosted["process"])[-1]["outcome"] == "completed"


def test_downloads_and_large_messages_over_the_websocket(node: NodeUnderTest, host, plan_bytes: bytes) -> None:
    hosted = host(num_cycles=1)

    async def talk() -> None:
        async with websockets.connect(node.url.replace("http", "ws") + "/") as socket:

            async def call(kind: str, **data: object) -> dict:
                await socket.send(json.dumps({"type": f"model-centric/{kind}", "data": data}))
                return json.loads(await socket.recv())["data"]

            name = {"model_name": hosted["name"], "auth_token": hosted["worker_token"]}
            worker = (await call("authenticate", **name))["worker_id"]
            cycle = await call("cycle-request", worker_id=worker, model=hosted["name"])
            ids = {"worker_id": worker, "request_key": cycle["request_key"]}
            model = (await call("get-model", **ids, model_id=cycle["model_id"]))["model"]
            assert read_state(base64.b64decode(model)).keys() == MODEL.keys()
            plan = {"plan_id": cycle["plans"]["training_plan"], "receive_operations_as": "gridkit"}
            assert base64.b64decode((await call("get-plan", **ids, **plan))["plan"]) == plan_bytes
            other = {**ids, "request_key": "0" * 64}
            assert (await call("get-model", **other, model_id=cycle["model_id"]))["code"] == "BAD_KEY"
            assert (await call("get-plan", **ids, plan_id=10**6))["code"] == "NOT_FOUND"
            assert (await call("retrieve-model", name=hosted["name"]))["code"] == "UNAUTHENTICATED"
            # beyond the 64 KiB of a socket that hasn't authenticated; unknown members are ignored
            diff = base64.b64encode(pack_state(DIFF)).decode()
            assert (await call("report", **ids, diff=diff, padding="x" * 200_000))["status"] == "success"
        owner = {"Authorization": f"Bearer {TOKEN}"}
        async with websockets.connect(node.url.replace("http", "ws") + "/", additional_headers=owner) as socket:
            got = await call("retrieve-model", name=hosted["name"], version="1.0", checkpoint="1")
            assert got["checkpoint"] == 1 and base64.b64decode(got["model"]) == pack_state(MODEL)

    asyncio.run(talk())


def test_hosting_over_the_websocket(node: NodeUnderTest, plan_bytes: bytes) -> None:
    async def talk(headers: dict[str, str]) -> dict:
        url = node.url.replace("http", "ws") + "/"
        async with websockets.connect(url, additional_headers=headers) as socket:
            data = {
                "model": pack_state(MODEL).hex(),
                "plans": {"training_plan": plan_bytes.hex()},
                "client_config": {"name": "by socket", "version": "1"},
                "server_config": {"num_cycles": 1, "cycle_length": None},
            }
            await socket.send(json.dumps({"type": "model-centric/host-training", "data": data}))
            return json.loads(await socket.recv())["data"]

    assert asyncio.run(talk({}))["code"] == "UNAUTHENTICATED"
    assert asyncio.run(talk({"Authorization": f"Api-Key {TOKEN}"}))["status"] == "success"


def test_doubled_slashes_and_odd_names(node: NodeUnderTest, plan_bytes: bytes) -> None:
    name = "../../etc/päss %2f?&#"
    with node.http() as http:
        files = host_files(plan_bytes, {"num_cycles": 1}, name, "v/1")
        assert http.post(f"{node.url}//model-centric//host-training", files=files).status_code == 200
        got = http.get("/model-centric/retrieve-model", params={"name": name, "version": "v/1", "checkpoint": "1"})
        assert read_state(got.content).keys() == MODEL.keys()
        before = node.files()
        again = http.post("/model-centric/host-training", files=files)
        assert node.files() == before
    assert again.status_code == 409 and again.json()["code"] == "ALREADY_EXISTS"


def test_foreign_forms_of_a_plan_are_refused(node: NodeUnderTest, host) -> None:
    hosted = host(num_cycles=1)
    worker = RawWorker(node, hosted["worker_token"], hosted["name"])
    cycle = worker.ask()
    query = {**worker.ids(), "plan_id": next(iter(cycle["plans"].values()))}
    ours = worker.http.get("/model-centric/get-plan", params={**query, "receive_operations_as": "gridkit"})
    assert ours.status_code == 200 and ours.content.startswith(b"GKP1")
    for form in ("list", "torchscript", "tfjs", "?"):
        refused = worker.http.get("/model-centric/get-plan", params={**query, "receive_operations_as": form})
        assert refused.status_code == 400 and refused.json()["code"] == "BAD_PLAN"


def test_a_worker_that_failed_is_a_verdict(node: NodeUnderTest, host) -> None:
    hosted = host(num_cycles=1)
    failing, working = (RawWorker(node, hosted["worker_token"], hosted["name"]) for _ in range(2))
    failing.ask()
    error = {"type": "IndexError", "message": "Target 11 is out of bounds", "traceback": "…"}
    assert failing.post("report", {**failing.ids(), "error": error}).status_code == 200
    working.ask()
    working.report(DIFF)
    got = [row for row in rows(node, hosted["process"]) if row["kind"] == "reported"]
    assert [row["verdict"] for row in got] == ["WORKER_ERROR", "accepted"]
    assert got[0]["error"] == error


def test_the_deadline_is_kept_without_a_visitor(node: NodeUnderTest, host) -> None:
    """R4: the cycle closes by the timer."""
    hosted = host(num_cycles=1, min_diffs=1, max_diffs=5, cycle_length=1.0)
    here, gone = (RawWorker(node, hosted["worker_token"], hosted["name"]) for _ in range(2))
    here.ask(), gone.ask()
    here.report(DIFF)
    got = rows(node, hosted["process"], seconds=20)
    closed = next(row for row in got if row["kind"] == "aggregated")
    assert (closed["accepted"], closed["refused"]) == (1, 0)
    assert closed["at"] - got[0]["at"] >= 1.0


@pytest.mark.parametrize("now", [False, True])
def test_stop(node: NodeUnderTest, host, now: bool) -> None:
    hosted = host(min_diffs=1)
    worker = RawWorker(node, hosted["worker_token"], hosted["name"])
    worker.ask()
    with node.http() as http:
        http.post("/model-centric/stop", json={"name": hosted["name"], "version": "1.0", "now": now})
        late = worker.report(DIFF)
        assert late.status_code == (409 if now else 200)
        got = rows(node, hosted["process"])
    assert got[-1]["outcome"] == "stopped"
    assert [row["kind"] for row in got].count("aggregated") == (0 if now else 1)


def test_retention_keeps_the_last_and_every_kth(node: NodeUnderTest, host) -> None:
    hosted = host(num_cycles=6, keep_last=2, keep_every=4)
    worker = RawWorker(node, hosted["worker_token"], hosted["name"])
    for _ in range(6):
        worker.ask(20.0)
        worker.report(DIFF)
    rows(node, hosted["process"])
    with node.http() as http:
        query = {"name": hosted["name"]}

        def kept() -> list[int]:
            statuses = {
                n: http.get("/model-centric/retrieve-model", params={**query, "checkpoint": str(n)}).status_code
                for n in range(1, 9)
            }
            return [n for n, status in statuses.items() if status == 200]

        assert wait_for(lambda: kept() if kept() == [1, 4, 6, 7] else None) == [1, 4, 6, 7]


def test_a_node_ends_though_a_cycle_has_a_deadline(tmp_path, plan_bytes: bytes) -> None:
    node = NodeUnderTest(tmp_path / "data")
    with node.http() as http:
        files = host_files(plan_bytes, {"cycle_length": 1000}, "open")
        assert http.post("/model-centric/host-training", files=files).status_code == 200
        assert http.get("/status/").status_code == 200
    assert node.terminate() == 0
    assert not node.said


def test_sigterm_closes_sockets_with_1012_and_ends_cleanly(tmp_path) -> None:
    node = NodeUnderTest(tmp_path / "data")

    async def watch() -> int:
        async with websockets.connect(node.url.replace("http", "ws") + "/") as socket:
            await asyncio.to_thread(node.process.terminate)
            await socket.wait_closed()
            return socket.close_code

    assert asyncio.run(watch()) == 1012
    assert node.terminate() == 0
    assert not node.said
