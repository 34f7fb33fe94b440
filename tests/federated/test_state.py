"""A state is JSON, and what an earlier version wrote can be gone on with."""

from __future__ import annotations

import json
from typing import Any

from gridkit.federated import cycle
from gridkit.federated.cycle import Answer, CycleState, Departure, Phase
from tests.federated.machine import Training

RULES: dict[str, Any] = {
    "num_cycles": 3, "cycle_length": 10.0, "min_diffs": 1, "max_diffs": None, "min_workers": 0, "max_workers": None,
    "pool_selection": "iterate", "selection_length": 2.0, "do_not_reuse_workers_until_cycle": 0,
    "minimum_download_speed": 0.0, "minimum_upload_speed": 0.0, "clients": 3, "fraction": 1.0, "tolerate": 1, "seed": 0,
    "weighting": "samples", "max_samples": None, "max_norm": None, "strategy": "fedavg", "iterative_plan": False,
    "keep_last": 20, "keep_every": 0,
}  # fmt: skip
REPORTED = {"status": "accepted", "digest": "d", "samples": 10, "norm": 1.0, "loss": 0.5, "size": 100, "cause": ""}
NOTHING = {"status": "assigned", "digest": None, "samples": None, "norm": 0.0, "loss": None, "size": 0, "cause": ""}


def assignment(slot: int, rest: dict[str, Any]) -> dict[str, Any]:
    who = {"worker": f"id-{slot}", "label": f"client {slot}", "slot": slot, "request_key": f"key-{slot}-0.0"}
    return {**who, "at": 0.0, **rest}


BEFORE_TESTS = {
    "rules": RULES, "phase": "open", "sequence": 2, "opened_at": 0.0, "deadline": 10.0,
    "assignments": {"id-1": assignment(1, REPORTED), "id-0": assignment(0, NOTHING)},
    "previous": {f"id-{slot}": assignment(slot, REPORTED) for slot in range(3)},
    "present": {}, "queue": {}, "draws": 0, "draw_at": None, "served": {}, "stopping": False, "outcome": None,
    "reason": None,
}  # fmt: skip
"""Written by the version before test rounds and departures."""


def test_a_state_from_before_test_rounds_goes_on() -> None:
    training = Training(**{name: value for name, value in RULES.items() if value is not None})
    for slot in range(3):
        training.work(slot)
    training.aggregated()
    training.work(1), training.ask(0)
    state = CycleState.from_json(json.loads(json.dumps(BEFORE_TESTS)))
    assert state == training.state
    state, _ = cycle.decide(state, cycle.WorkerLeft(1.0, "id-2", 2, "client 2", "answered 500"))
    state, _ = cycle.decide(state, cycle.WorkerLeft(1.0, "id-0", 0, "client 0", "answered 500"))
    assert state.outcome == "failed"


def test_departures_and_tests_are_json() -> None:
    training = Training(clients=12, tolerate=11, cycle_length=10)
    training.leave(11, "answered 500")
    for slot in range(11):
        training.work(slot)
    training.aggregated(0, 1, 2, 11)
    training.tests(1, "digest")
    again = CycleState.from_json(json.loads(json.dumps(training.state.to_json(), allow_nan=False)))
    assert again == training.state
    assert again.phase is Phase.TESTING and again.due == 10.0
    assert again.left == {11: Departure(1, "client 11", "answered 500")}
    assert again.tests == {
        "id-0": cycle.Tested("client 0", 0, 0.0),
        "id-1": cycle.Tested("client 1", 1, 0.0, Answer.DONE, "digest"),
        "id-2": cycle.Tested("client 2", 2, 0.0),
    }
    assert isinstance(again.tests["id-1"].status, Answer)


def test_a_state_stays_small() -> None:
    """It is written with each event."""
    training = Training(clients=100, tolerate=99, cycle_length=10)
    for slot in range(100):
        training.work(slot)
    training.aggregated(*range(100))
    for slot in range(99):
        training.tests(slot, "0" * 64)
        training.leave(slot, "x" * 10_000)
    sizes = {name: len(json.dumps(value)) for name, value in training.state.to_json().items()}
    assert sizes["tests"] < 20_000 and sizes["left"] < 40_000
