"""W18: each refused action and each change leaves a row that nobody can forge."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from gridkit.node import audit
from gridkit.node.audit import Audit, about
from gridkit.node.rights import ANONYMOUS, OWNER, RULES, Principal, Role
from tests.node.grid import serve
from tests.support import NodeUnderTest, host_files, tiny_plan


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def log(tmp_path: Path, clock: Time) -> Iterator[Audit]:
    made = Audit(tmp_path / "audit.jsonl", clock)
    yield made
    made.close()


def test_a_row_says_who_what_to_which_object_and_the_verdict(log: Audit, clock: Time, tmp_path: Path) -> None:
    ana = Principal(Role.SCIENTIST, "ana", token="1234")
    log.note(ana, "10.0.0.7", "delete-model", "FORBIDDEN", "it is ben's", "/models/digits")
    (row,) = log.read(10)
    assert row == {
        "time": clock.now,
        "who": "ana",
        "role": "data scientist",
        "token": "1234",
        "address": "10.0.0.7",
        "operation": "delete-model",
        "object": "/models/digits",
        "verdict": "FORBIDDEN",
        "why": "it is ben's",
    }
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_w18_no_name_forges_a_row_or_colours_a_terminal(log: Audit, tmp_path: Path) -> None:
    forged = '\n{"who": "owner", "verdict": "done"}\r\n\x1b[31m\u2028\u202e\x00'
    log.note(Principal(Role.SCIENTIST, forged), forged, forged, forged, forged, forged)
    log.note(OWNER, "127.0.0.1", "stop", "done")
    assert [row["who"] for row in log.read(10)] == [forged, "owner"]
    data = (tmp_path / "audit.jsonl").read_bytes()
    assert data.count(b"\n") == 2 and all(32 <= byte < 127 for byte in data.replace(b"\n", b""))


def test_refusals_are_written_at_a_rate_and_the_rest_is_counted(log: Audit, clock: Time) -> None:
    for _ in range(500):
        log.note(ANONYMOUS, "10.0.0.7", "work", "BAD_KEY", "wrong")
    for _ in range(30):
        log.note(OWNER, "10.0.0.1", "stop", "done")  # changes are never left out
    log.note(ANONYMOUS, "10.0.0.8", "work", "BAD_KEY", "wrong")
    rows = log.read(1000)
    assert [row["who"] for row in rows].count("owner") == 30
    assert sum(row["address"] == "10.0.0.8" for row in rows) == 1
    mine = [row for row in rows if row["address"] == "10.0.0.7"]
    assert len(mine) == 11 and mine[-1]["suppressed"] == 490  # reading tells what is not yet told
    for _ in range(7):
        log.note(ANONYMOUS, "10.0.0.7", "work", "BAD_KEY", "wrong")
    clock.now += 1000
    log.note(ANONYMOUS, "10.0.0.7", "work", "BAD_KEY", "wrong")
    assert [row.get("suppressed", 0) for row in log.read(2)] == [7, 0]


def test_many_addresses_fill_neither_disk_nor_memory(log: Audit) -> None:
    for number in range(5000):
        log.note(ANONYMOUS, f"address {number}", "work", "BAD_KEY", "wrong")
    assert len(log._suppressed) <= 1001
    rows = log.read(100_000)
    assert len(rows) < 2000 and sum(row.get("suppressed", 1) for row in rows) == 5000


def test_the_file_is_rotated_and_read_as_one(log: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "FILE_BYTES", 2000)
    monkeypatch.setattr(audit, "FILES", 4)
    for number in range(100):
        log.note(OWNER, "", "stop", "done", subject=str(number))
    newest = [row["object"] for row in log.read(20)]
    assert newest == [str(number) for number in range(80, 100)]
    kept = log.read(1000)
    assert 20 < len(kept) < 100 and kept[-1]["object"] == "99"
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["audit.1.jsonl", "audit.2.jsonl", "audit.3.jsonl", "audit.jsonl"]
    assert all(path.stat().st_size < 3000 for path in tmp_path.iterdir())


def test_c3_what_a_full_disk_swallowed_is_counted(
    log: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log.note(OWNER, "", "stop", "done", subject="before")
    log.read(1)
    with monkeypatch.context() as full:
        full.setattr("os.open", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        for _ in range(5):
            log.note(OWNER, "", "stop", "done", subject="lost")
        log._thread.submit(int).result()
    with open(tmp_path / "audit.jsonl", "ab") as file:
        file.write(b'{"who": "cut o')
    log.note(OWNER, "", "stop", "done", subject="after")
    assert [(row["object"], row.get("lost")) for row in log.read(10)] == [("before", None), ("after", 5)]
    assert len(caplog.records) == 1  # one line a trouble


def test_what_a_request_is_about_is_its_own(log: Audit) -> None:
    async def request(name: str) -> None:
        about(name)
        await asyncio.sleep(0)
        log.note(OWNER, "", "stop", "done", subject="/path")

    async def run() -> None:
        await asyncio.gather(*(asyncio.create_task(request(name)) for name in ("a", "b")))
        await asyncio.create_task(asyncio.sleep(0))
        log.note(OWNER, "", "stop", "done", subject="/path")

    asyncio.run(run())
    assert [row["object"] for row in log.read(3)] == ["a", "b", "/path"]


# -- on a node


def rows_of(node: NodeUnderTest, operation: str) -> list[dict[str, Any]]:
    with node.http() as http:
        return [row for row in http.get("/audit").json()["rows"] if row["operation"] == operation]


def test_w18_changes_leave_rows(node: NodeUnderTest) -> None:
    ana = node.add_user("ana")
    with node.http(ana) as http, node.http() as owner:
        hosted = http.post("/model-centric/host-training", files=host_files(tiny_plan(), {"num_cycles": 1}, "digits"))
        assert hosted.status_code == 200
        serve(http, "mlp")
        http.post("/model-centric/stop", json={"name": "digits"})
        http.delete("/models/mlp")
        owner.delete("/users/ana")
    seen = {
        operation: [(row["who"], row["object"]) for row in rows_of(node, operation) if row["verdict"] == "done"][-1]
        for operation in ("add-user", "create-token", "host-training", "stop", "delete-model", "remove-user")
    }
    assert seen == {
        "add-user": ("owner", "ana"),
        "create-token": ("owner", "ana"),
        "host-training": ("ana", "digits 1.0"),
        "stop": ("ana", "digits"),
        "delete-model": ("ana", "mlp"),
        "remove-user": ("owner", "ana"),
    }


def test_w18_refusals_leave_one_row_each(node: NodeUnderTest) -> None:
    ben = node.add_user("ben")

    async def socket() -> None:
        async with websockets.connect(node.url.replace("http", "ws") + "/") as socket:
            await socket.send(json.dumps({"type": "delete-model", "model_id": "not\nhis"}))
            await socket.recv()
            await socket.send(b"(foreign")
            await socket.recv()

    asyncio.run(socket())
    with pytest.raises(websockets.InvalidStatus):
        asyncio.run(asyncio.wait_for(_connect(node, {"origin": "http://evil.example"}), 10))
    with node.http(ben) as http, node.http(None) as nobody, node.http("gk_1_2") as wrong:
        http.post("/users", json={"name": "eve"})
        nobody.post("/users/login", json={"username": "eve\x1b[31m", "password": "guess"})
        wrong.get("/tokens")
        nobody.get("/status", headers={"host": "attacker.example"})
    asked = [
        ("delete-model", "", "not\nhis", "UNAUTHENTICATED"),
        ("message", "", "", "BAD_REQUEST"),
        ("request", "", "/", "FOREIGN_ORIGIN"),
        ("request", "", "/status", "FOREIGN_HOST"),
        ("add-user", "ben", "/users", "FORBIDDEN"),
        ("login", "", "eve\x1b[31m", "UNAUTHENTICATED"),
        ("list-tokens", "", "/tokens", "UNAUTHENTICATED"),
    ]
    with node.http() as http:
        rows = [(r["operation"], r["who"], r["object"], r["verdict"]) for r in http.get("/audit").json()["rows"]]
    assert [rows.count(row) for row in asked] == [1] * len(asked), rows
    assert all(row["address"] == "127.0.0.1" and row["why"] for row in rows_of(node, "add-user") if row["who"] == "ben")


async def _connect(node: NodeUnderTest, headers: dict[str, str]) -> None:
    async with websockets.connect(node.url.replace("http", "ws") + "/", additional_headers=headers):
        pass


def test_the_audit_is_the_owners_and_asked_for_in_bounds(node: NodeUnderTest) -> None:
    with node.http() as http:
        for limit in ("0", "-1", "x", "100001", "9" * 30):
            assert http.get("/audit", params={"limit": limit}).status_code == 400
        assert len(http.get("/audit", params={"limit": 1}).json()["rows"]) == 1
        assert http.get("/audit").headers["content-type"] == "application/json"


def test_the_audit_outlives_the_node_and_is_written_to_its_end(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "data")
    node.add_user("ana")
    node.terminate()
    node.start()
    try:
        assert [row["object"] for row in rows_of(node, "add-user")] == ["ana"]
    finally:
        node.terminate()


def test_what_changes_something_is_marked_in_the_table() -> None:
    """By its name: a verb that changes."""
    verbs = {"add", "remove", "set", "create", "revoke", "delete", "host", "publish", "stop", "issue", "connect"}
    changing = {name for name in RULES if name.split("-")[0] in verbs} | {"login", "authenticate"}
    assert changing <= {name for name, rule in RULES.items() if rule.changes}


def test_a_refused_request_says_so_when_it_may_come_again(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "data", "--limit", "anonymous_rate=1")
    try:
        answers: list[httpx.Response] = []
        with node.http(None) as http:
            while not answers or answers[-1].status_code == 200:
                answers.append(http.get("/status"))
        assert answers[-1].json()["retry_after"] > 0 and int(answers[-1].headers["retry-after"]) >= 1
        assert [row["verdict"] for row in rows_of(node, "status")] == ["TOO_MANY"]
    finally:
        node.terminate()
