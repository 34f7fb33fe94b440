"""R6, R7: two nodes on one database, and clocks that jump; through every transport."""

from __future__ import annotations

import ast
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

import gridkit
from tests.support import DIFF, NodeUnderTest, host_files, rows, tiny_plan, wait_for
from tests.transports import TRANSPORTS, Caller

DAY = 86400.0
JUMPING = """
import os, time
_real = time.time
def _shifted():
    with open(os.environ["GRIDKIT_TEST_CLOCK"]) as file:
        return _real() + float(file.read() or 0)
time.time = _shifted
"""


def hosted_on(node: NodeUnderTest, name: str, **server: Any) -> dict[str, Any]:
    with node.http() as http:
        answer = http.post("/model-centric/host-training", files=host_files(tiny_plan(), server, name))
    assert answer.status_code == 200, answer.text
    return {**answer.json(), "name": name}


# ---- R6


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeUnderTest]]:
    """Two node processes on one database and one store of blobs."""
    shared = tmp_path_factory.mktemp("shared")
    stores = [f"--database=sqlite:///{shared / 'grid.db'}", f"--blobs={shared / 'blobs'}"]
    nodes = [NodeUnderTest(tmp_path_factory.mktemp("node") / "data", *stores) for _ in range(2)]
    yield nodes
    for node in nodes:
        assert node.terminate() == 0
        assert "Traceback" not in "".join(node.said)


@pytest.mark.parametrize("how", TRANSPORTS)
def test_r6_two_nodes_close_a_cycle_once(twins: list[NodeUnderTest], how: str) -> None:
    one, two = twins
    hosted = hosted_on(one, f"twins {how}", num_cycles=3, min_diffs=6, max_diffs=6)
    ids = [Caller(one, how, hosted).worker_id for _ in range(8)]
    workers = [Caller(twins[place % 2], how, hosted, worker_id) for place, worker_id in enumerate(ids)]
    for number in (1, 2, 3):
        for worker in workers:
            wait_for(lambda worker=worker: worker.ask()["status"] == "accepted", what="work at both nodes")
            assert worker.cycle["cycle"] == number
        codes = [worker.report(DIFF)["code"] for worker in workers]
        assert (codes.count(None), codes.count("CYCLE_CLOSED")) == (6, 2)
    got = rows(two, hosted["process"])
    assert [row["cycle"] for row in got if row["kind"] == "aggregated"] == [1, 2, 3]
    assert [row["cycle"] for row in got if row["kind"] == "opened"] == [1, 2, 3]
    assert sum(row["kind"] == "finished" for row in got) == 1


# ---- R7


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose `offset` file shifts the wall clock of a Python that has the folder on its path."""
    folder = tmp_path_factory.mktemp("clock")
    (folder / "sitecustomize.py").write_text(JUMPING)
    (folder / "offset").write_text("0")
    return folder


@pytest.fixture
def jumpy(clock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NodeUnderTest]:
    (clock / "offset").write_text("0")
    monkeypatch.setenv("PYTHONPATH", str(clock))
    monkeypatch.setenv("GRIDKIT_TEST_CLOCK", str(clock / "offset"))
    node = NodeUnderTest(tmp_path / "data")
    yield node
    assert node.terminate() == 0
    assert "Traceback" not in "".join(node.said)


@pytest.mark.parametrize("step", [DAY, -DAY], ids=["forwards", "backwards"])
def test_r7_a_step_of_the_wall_clock_moves_no_deadline(jumpy: NodeUnderTest, clock: Path, step: float) -> None:
    hosted = hosted_on(jumpy, "steps", num_cycles=1, cycle_length=1.5, max_diffs=9)
    begun = time.monotonic()
    workers = [Caller(jumpy, how, hosted) for how in TRANSPORTS]
    for worker in workers:
        worker.ask()
    (clock / "offset").write_text(str(step))
    with jumpy.http() as http:
        token = http.post("/model-centric/worker-token", json={"name": "steps", "expires": 2 * DAY}).json()
    ends = jwt.decode(token["worker_token"], options={"verify_signature": False})["exp"]
    assert abs(ends - time.time() - 2 * DAY - step) < 60, "the node's wall clock did jump"
    for worker in workers:
        assert worker.ask()["cycle"] == 1 or time.monotonic() - begun >= 1.5, "closed early"
        assert worker.report(DIFF)["code"] is None or time.monotonic() - begun >= 1.5, "closed early"
    got = rows(jumpy, hosted["process"], seconds=20)
    closed = next(row for row in got if row["kind"] == "aggregated")
    assert got[0]["deadline"] - got[0]["at"] == 1.5
    assert 1.5 <= closed["at"] - got[0]["at"] < DAY / 2
    for worker in workers:
        worker.close()


def test_r7_a_workers_clock_is_nobodys_business(twins: list[NodeUnderTest]) -> None:
    """Whatever it says of the time, in its messages or in a header."""
    node = twins[0]
    hosted = hosted_on(node, "skewed", num_cycles=1, cycle_length=1.0, max_diffs=9)
    for how in TRANSPORTS:
        worker = Caller(node, how, hosted)
        worker.http.headers["date"] = "Tue, 15 Nov 1994 08:12:31 GMT"
        worker.ask(at=time.time() + DAY, timestamp=-1, started_at="2999-01-01T00:00:00")
        assert worker.report(DIFF)["code"] is None
        worker.close()
    got = rows(node, hosted["process"], seconds=20)
    assert got[-1]["outcome"] == "completed"
    assert all(abs(row["at"] - time.time()) < 60 for row in got)


@pytest.mark.parametrize("part", ["federated", "node", "client", "workers"])
def test_r7_no_time_is_naive(part: str) -> None:
    """PyGrid's deadlines moved with daylight saving, and every row had the time at which the node was started. Here
    times are seconds since 1970 (UTC), taken where something happens; only a widget shows local time."""
    wrong = []
    for path in (Path(gridkit.__file__).parent / part).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            naive = isinstance(node, ast.Attribute) and node.attr in ("now", "utcnow", "today", "utcfromtimestamp")
            if naive and "date" in ast.unparse(node).lower():
                wrong.append(f"{path.name}:{node.lineno}")
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                defaults = [*node.args.defaults, *(value for value in node.args.kw_defaults if value is not None)]
                wrong += [f"{path.name}:{node.lineno}" for value in defaults if "time.time(" in ast.unparse(value)]
    assert wrong == []
