"""R1-R5 and M1-M3: reports that come twice, late, by another, not at all, all at once, or with what is no diff; each
through every transport."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridkit.wire.state import read_state
from tests.node.test_bad_input import BAD_DIFFS
from tests.support import DIFF, MODEL, NodeUnderTest, host_files, rows, tiny_plan, wait_for
from tests.transports import TRANSPORTS, Caller

Call = Callable[..., Caller]
OTHER = {**DIFF, "b": np.ones(2, np.float32)}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data", "--limit=wrong_rate=100000")
    yield node
    assert node.terminate() == 0
    assert "Traceback" not in "".join(node.said)


@pytest.fixture(params=TRANSPORTS)
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def host(node: NodeUnderTest, request: pytest.FixtureRequest) -> Callable[..., dict[str, Any]]:
    def host(suffix: str = "", **server: Any) -> dict[str, Any]:
        name = request.node.name[:150] + suffix
        with node.http() as http:
            answer = http.post("/model-centric/host-training", files=host_files(tiny_plan(), server, name))
        assert answer.status_code == 200, answer.text
        return {**answer.json(), "name": name}

    return host


@pytest.fixture
def call(node: NodeUnderTest, how: str) -> Iterator[Call]:
    """`call(hosted)`: a worker of this training."""
    made: list[Caller] = []

    def call(hosted: dict[str, Any], **named: Any) -> Caller:
        made.append(Caller(node, how, hosted, **named))
        return made[-1]

    yield call
    for caller in made:
        caller.close()


def latest(node: NodeUnderTest, hosted: dict[str, Any]) -> dict[str, np.ndarray]:
    with node.http() as http:
        return read_state(http.get("/model-centric/retrieve-model", params={"name": hosted["name"]}).content)


def moved(*diffs: dict[str, np.ndarray]) -> dict[str, list[Any]]:
    """The model after a round of these reports."""
    return {name: (old - np.mean([diff[name] for diff in diffs], 0)).tolist() for name, old in MODEL.items()}


def plain(model: dict[str, np.ndarray]) -> dict[str, list[Any]]:
    return {name: array.tolist() for name, array in model.items()}


def aggregated(node: NodeUnderTest, hosted: dict[str, Any]) -> dict[str, Any]:
    return next(row for row in rows(node, hosted["process"]) if row["kind"] == "aggregated")


# ---- R1: again


def test_r1_the_same_bytes_again_are_a_success_and_count_once(node: NodeUnderTest, host: Any, call: Call) -> None:
    hosted = host(num_cycles=1, min_diffs=2, max_diffs=2)
    one, two = call(hosted), call(hosted)
    one.ask(), two.ask()
    assert [one.report(DIFF)["code"] for _ in range(3)] == [None] * 3
    assert two.report(OTHER)["code"] is None
    assert aggregated(node, hosted)["accepted"] == 2
    assert plain(latest(node, hosted)) == moved(DIFF, OTHER)
    assert one.report(DIFF)["code"] is None, "also when the training is over: its answer may have been lost"


def test_r1_other_bytes_are_refused_and_the_first_stay(node: NodeUnderTest, host: Any, call: Call) -> None:
    hosted = host(num_cycles=1, min_diffs=2, max_diffs=2)
    one, two = call(hosted), call(hosted)
    one.ask(), two.ask()
    one.report(DIFF)
    before = node.files()
    assert one.report(OTHER)["code"] == "ALREADY_REPORTED"
    assert one.report(b"\xff")["code"] == "ALREADY_REPORTED"
    assert node.files() == before
    two.report(DIFF)
    rows(node, hosted["process"])
    assert plain(latest(node, hosted)) == moved(DIFF)


def test_r1_by_another_transport_it_is_the_same_report(node: NodeUnderTest, host: Any, call: Call, how: str) -> None:
    hosted = host(num_cycles=1, min_diffs=2, max_diffs=2)
    one = call(hosted)
    one.ask()
    one.report(DIFF)
    for other in TRANSPORTS:
        again = Caller(node, other, hosted, one.worker_id)
        assert again.report(DIFF, **one.ids())["code"] is None
        assert again.report(OTHER, **one.ids())["code"] == "ALREADY_REPORTED"
        again.close()
    reported = [row for row in _rows_until_now(node, hosted) if row["kind"] == "reported"]
    assert len(reported) == 1


def _rows_until_now(node: NodeUnderTest, hosted: dict[str, Any]) -> list[dict[str, Any]]:
    with node.http() as http:
        http.post("/model-centric/stop", json={"name": hosted["name"], "now": True})
    return rows(node, hosted["process"])


# ---- R2: late, or before


def test_r2_after_its_cycle_a_report_changes_nothing(node: NodeUnderTest, host: Any, call: Call) -> None:
    hosted = host(num_cycles=2)
    late, one = call(hosted), call(hosted)
    late.ask(), one.ask()
    old = dict(late.ids())
    one.report(DIFF)
    wait_for(lambda: one.ask()["status"] == "accepted", what="the next cycle")
    before = node.files()
    assert late.report(OTHER, **old)["code"] == "CYCLE_CLOSED"
    assert late.model(**old)["code"] == "CYCLE_CLOSED"
    assert node.files().keys() <= before.keys()  # the report that was averaged goes meanwhile
    one.report(OTHER)
    assert [row["accepted"] for row in rows(node, hosted["process"]) if row["kind"] == "aggregated"] == [1, 1]
    assert plain(latest(node, hosted)) == {name: (a - DIFF[name] - OTHER[name]).tolist() for name, a in MODEL.items()}
    assert late.report(OTHER, **old)["code"] in ("CYCLE_CLOSED", "BAD_KEY"), "of the cycle before last"


def test_r2_after_a_stop_a_report_changes_nothing(node: NodeUnderTest, host: Any, call: Call) -> None:
    hosted = host(num_cycles=5)
    worker = call(hosted)
    worker.ask()
    with node.http() as http:
        assert http.post("/model-centric/stop", json={"name": hosted["name"], "now": True}).status_code == 200
    before = node.files()
    assert worker.report(DIFF)["code"] == "CYCLE_CLOSED"
    assert node.files() == before
    over = worker.ask()
    assert (over["status"], over["code"]) == ("rejected", "TRAINING_OVER") and "timeout" not in over


def test_r2_without_having_asked(node: NodeUnderTest, host: Any, call: Call) -> None:
    hosted = host(num_cycles=1)
    worker = call(hosted)
    before = node.files()
    for key in ("0" * 64, "x", "\ufffd"):
        assert worker.report(DIFF, worker_id=worker.worker_id, request_key=key)["code"] == "BAD_KEY"
    assert worker.report(DIFF, worker_id="f" * 32, request_key="0" * 64)["code"] == "BAD_KEY"
    assert node.files() == before and worker.ask()["status"] == "accepted"


# ---- R3: another's key


def test_r3_a_key_opens_for_its_worker_only(node: NodeUnderTest, host: Any, call: Call) -> None:
    hosted = host(num_cycles=1, min_diffs=2, max_diffs=2)
    mine, thief = call(hosted), call(hosted)
    mine.ask(), thief.ask()
    key, before = mine.cycle["request_key"], node.files()
    for wrong in ({"request_key": key}, {"worker_id": mine.worker_id}):
        assert thief.report(DIFF, **wrong)["code"] == "BAD_KEY"
        assert thief.model(**wrong)["code"] == "BAD_KEY"
    for near in (key[:-1], key + "0", key.upper(), key[::-1], "0" * len(key)):
        assert mine.report(DIFF, request_key=near)["code"] == "BAD_KEY"
    assert node.files() == before
    assert mine.report(DIFF)["code"] is None and thief.report(DIFF)["code"] is None
    with node.http() as http:
        noted = [row for row in http.get("/audit").json()["rows"] if row["verdict"] == "BAD_KEY"]
    assert noted and key not in json.dumps(noted)


def test_r3_a_key_is_good_for_one_training(node: NodeUnderTest, host: Any, call: Call) -> None:
    here, there = (host(suffix, num_cycles=1) for suffix in ("a", "b"))
    one, two = call(here), call(there)
    one.ask(), two.ask()
    assert two.report(DIFF, request_key=one.cycle["request_key"])["code"] == "BAD_KEY"
    assert one.model(model_id=two.cycle["model_id"])["code"] == "BAD_KEY"
    assert one.report(DIFF, worker_id=two.worker_id)["code"] == "BAD_KEY"


def test_r3_a_key_is_good_for_one_cycle(node: NodeUnderTest, host: Any, call: Call) -> None:
    hosted = host(num_cycles=3)
    worker = call(hosted)
    worker.ask()
    first = dict(worker.ids())
    worker.report(DIFF)
    assert wait_for(lambda: worker.ask()["status"] == "accepted", what="the next cycle")
    assert worker.cycle["request_key"] != first["request_key"]
    assert worker.report(OTHER, **first)["code"] == "CYCLE_CLOSED"
    assert worker.model(**first)["code"] == "CYCLE_CLOSED"


def test_r3_keys_are_not_to_be_guessed(tmp_path: Path, how: str) -> None:
    node = NodeUnderTest(tmp_path / "data", "--limit", "wrong_rate=0.2")
    try:
        with node.http() as http:
            answer = http.post("/model-centric/host-training", files=host_files(tiny_plan(), {}, "digits"))
        worker = Caller(node, how, {**answer.json(), "name": "digits"})
        worker.ask()
        codes = [worker.report(DIFF, request_key=f"{n:064x}")["code"] for n in range(30)]
        assert codes[:10] == ["BAD_KEY"] * 10 and codes[-1] == "TOO_MANY"
        assert worker.report(DIFF)["code"] is None, "who has a key isn't held up by who guesses"
        worker.close()
    finally:
        node.terminate()


# ---- R4: never


def test_r4_who_vanishes_leaves_its_place(node: NodeUnderTest, host: Any, call: Call) -> None:
    hosted = host(num_cycles=1, cycle_length=1.0, max_workers=1, min_diffs=1, max_diffs=1)
    gone, here = call(hosted), call(hosted)
    gone.ask()
    assert here.ask()["code"] == "CYCLE_FULL"
    wait_for(lambda: here.ask()["status"] == "accepted", what="the place that came free")
    assert gone.report(OTHER)["code"] == "CYCLE_CLOSED"
    assert here.report(DIFF)["code"] is None
    got = rows(node, hosted["process"])
    assert [row["kind"] for row in got if row["kind"] == "expired"] == ["expired"]
    assert got[-1]["outcome"] == "completed" and plain(latest(node, hosted)) == moved(DIFF)


def test_r4_a_cycle_closes_though_nobody_comes_by(node: NodeUnderTest, host: Any, call: Call) -> None:
    hosted = host(num_cycles=1, cycle_length=1.0, min_diffs=1, max_diffs=9)
    here, gone = call(hosted), call(hosted)
    here.ask(), gone.ask()
    here.report(DIFF)
    closed = aggregated(node, hosted)
    assert (closed["accepted"], closed["refused"]) == (1, 0)


# ---- R5: all at once


def test_r5_of_a_hundred_reports_at_once_exactly_max_diffs_count(node: NodeUnderTest, host: Any, call: Call) -> None:
    hosted = host(num_cycles=2, min_diffs=50, max_diffs=50)
    workers = [call(hosted) for _ in range(100)]
    for worker in workers:
        worker.ask()
    start = threading.Barrier(20)

    def report(some: list[Caller]) -> list[str | None]:
        start.wait(20)
        return [worker.report(DIFF)["code"] for worker in some]

    with ThreadPoolExecutor(20) as pool:
        codes = [code for some in pool.map(report, [workers[n::20] for n in range(20)]) for code in some]
    assert (codes.count(None), codes.count("CYCLE_CLOSED")) == (50, 50)
    kinds = [row["kind"] for row in _rows_until_now(node, hosted)]
    counts = {kind: kinds.count(kind) for kind in ("reported", "aggregated", "opened")}
    assert counts == {"reported": 50, "aggregated": 1, "opened": 2}
    assert plain(latest(node, hosted)) == moved(DIFF)


# ---- M1-M3: what is no diff of this model


@pytest.mark.parametrize("bad", BAD_DIFFS)
def test_m1_m2_m3_a_bad_diff_is_named_and_the_rest_counts(node: NodeUnderTest, host: Any, call: Call, bad: str) -> None:
    diff, code, tensor = BAD_DIFFS[bad]
    hosted = host(num_cycles=1, max_norm=100.0)
    worse, good = call(hosted), call(hosted)
    worse.ask(), good.ask()
    refused = worse.report(diff)
    assert refused["code"] == code and tensor in refused["error"]
    assert worse.report(DIFF)["code"] == "ALREADY_REPORTED", "its verdict stands"
    assert good.report(DIFF)["code"] is None
    closed = aggregated(node, hosted)
    assert (closed["accepted"], closed["refused"]) == (1, 1)
    assert plain(latest(node, hosted)) == moved(DIFF)


def test_m2_what_is_finite_may_be_tiny_or_huge(node: NodeUnderTest, host: Any, call: Call) -> None:
    """Subnormal numbers stay as they are; two that overflow float32 when added are averaged in float64."""
    hosted = host(num_cycles=1, min_diffs=2, max_diffs=2)
    tiny, huge = np.full((3, 2), 1e-40, np.float32), np.full(2, 3e38, np.float32)
    for _ in range(2):
        worker = call(hosted)
        worker.ask()
        assert worker.report({"w": tiny, "b": huge})["code"] is None
    rows(node, hosted["process"])
    new = latest(node, hosted)
    assert np.array_equal(new["w"], -tiny) and np.array_equal(new["b"], -huge)


def test_m3_an_unusual_norm_is_told(node: NodeUnderTest, host: Any, call: Call) -> None:
    """Without a ceiling: a warning in the verdict, of what is more than ten times the usual."""
    hosted = host(num_cycles=1, min_diffs=4, max_diffs=4)
    diffs = [DIFF, DIFF, {name: -array for name, array in DIFF.items()}, {n: array * 1e6 for n, array in DIFF.items()}]
    for diff in diffs:
        worker = call(hosted)
        worker.ask()
        assert worker.report(diff)["code"] is None
    warned = [row["warning"] for row in rows(node, hosted["process"]) if row["kind"] == "reported"]
    assert warned[:3] == [None] * 3 and "times the usual" in warned[3]
