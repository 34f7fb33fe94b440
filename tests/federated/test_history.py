from __future__ import annotations

import math
from typing import Any

import pytest

from gridkit.errors import ErrorCode
from gridkit.federated import cycle
from gridkit.federated.checks import Verdict
from gridkit.federated.history import History
from tests.federated.machine import BAD, ERROR, FAILED, Training, came


def kinds(training: Training) -> list[str]:
    return [row["kind"] for row in training.rows]


def row(training: Training, kind: str) -> dict[str, Any]:
    return next(row for row in reversed(training.rows) if row["kind"] == kind)


def test_the_rows_of_a_whole_training() -> None:
    training = Training(clients=2, num_cycles=1, weighting="samples")
    for worker, samples, loss in ((1, 30, 1.0), (0, 10, 0.2)):
        key = training.ask(worker, at=float(worker)).request_key  # type: ignore[union-attr]
        training.step(came(4.0, worker, key, samples=samples, loss=loss))
    training.step(cycle.Aggregated(6.0, 1, 0.5))
    assert kinds(training) == ["opened", "assigned", "reported", "assigned", "reported", "aggregated", "finished"]
    assert row(training, "opened") == {
        "seq": 1, "run": "r", "kind": "opened", "at": 0.0, "cycle": 1, "deadline": None, "cohort": [0, 1],
    }  # fmt: skip
    assert row(training, "reported") == {
        "seq": 5, "run": "r", "kind": "reported", "at": 4.0, "cycle": 1, "slot": 0, "worker": "client 0",
        "verdict": "accepted", "message": "", "tensor": None, "samples": 10, "metrics": {"loss": 0.2},
        "error": None, "bytes": 100, "seconds": 4.0, "norm": 1.0, "warning": None,
    }  # fmt: skip
    aggregated = row(training, "aggregated")
    assert aggregated.pop("loss") == pytest.approx((30 * 1.0 + 10 * 0.2) / 40)
    assert aggregated == {
        "seq": 6, "run": "r", "kind": "aggregated", "at": 6.0, "cycle": 1, "checkpoint": 2, "accepted": 2,
        "refused": 0, "samples": 40, "seconds": 6.0, "bytes": 200,
    }  # fmt: skip
    assert training.history.rounds == [
        {
            "round": 1,
            "accepted": 2,
            "refused": 0,
            "samples": 40,
            "seconds": 6.0,
            "bytes": 200,
            "loss": pytest.approx(0.8),
        }
    ]
    assert [r["worker"] for r in training.history.reports] == ["client 1", "client 0"]
    assert training.history.outcome == "completed"


def test_asking_again_and_duplicates_make_no_rows() -> None:
    training = Training(min_diffs=2, max_diffs=2)
    key = training.ask(0).request_key  # type: ignore[union-attr]
    training.ask(0)
    training.step(came(1.0, 0, key))
    before = len(training.rows)
    training.step(came(2.0, 0, key))
    training.step(came(3.0, 0, key, "other"))
    training.step(came(3.0, 0, "key-wrong"))
    training.ask(0)
    assert len(training.rows) == before


def test_refused_and_failed_reports_are_rows_too() -> None:
    training = Training(clients=3, tolerate=2)
    training.work(0, verdict=BAD)
    training.work(1, verdict=FAILED)
    refused, failed = (r for r in training.rows if r["kind"] == "reported")
    assert (refused["verdict"], refused["tensor"], refused["error"]) == ("NOT_FINITE", "w", None)
    assert (failed["verdict"], failed["error"]) == ("WORKER_ERROR", ERROR)
    assert [r["worker"] for r in training.history.failures(1)] == ["client 0", "client 1"]
    assert training.history.failures(2) == []


def test_a_warning_is_published() -> None:
    training = Training(min_diffs=2, max_diffs=2)
    training.work(0, verdict=Verdict(None, norm=99.0, warning="large"))
    assert training.history.reports[0]["warning"] == "large"


def test_those_who_did_not_answer_are_rows() -> None:
    training = Training(min_diffs=2, cycle_length=10)
    training.ask(0)
    training.step(cycle.Tick(10.0))
    assert row(training, "expired")["worker"] == "client 0"
    (report,) = training.history.reports
    assert report["verdict"] == ErrorCode.NOT_ANSWERED and math.isnan(report["loss"])


def test_stopping_is_published() -> None:
    training = Training(clients=2)
    training.ask(0)
    training.step(cycle.StopAsked(1.0))
    assert row(training, "stopping")["now"] is False and training.history.stopping
    training.step(cycle.StopAsked(2.0))
    assert row(training, "stopping")["now"] is True
    assert kinds(training)[-1] == "finished" and row(training, "finished")["outcome"] == "stopped"
    count = len(training.rows)
    training.step(cycle.StopAsked(3.0))
    assert len(training.rows) == count


def at_work(training: Training) -> dict[int, str]:
    workers = training.history.workers.items()
    return {slot: worker["worker"] for slot, worker in workers if worker["state"] == "training"}


def test_who_is_at_work() -> None:
    training = Training(clients=3, cycle_length=10, tolerate=2)
    training.ask(2), training.ask(0)
    assert at_work(training) == {2: "client 2", 0: "client 0"}
    training.work(0)
    assert at_work(training) == {2: "client 2"}
    training.step(cycle.Tick(10.0))
    assert at_work(training) == {}


def test_a_history_put_together_again_is_the_same_and_old_rows_are_ignored() -> None:
    training = Training(clients=2, num_cycles=2)
    for _ in range(2):
        training.work(0), training.work(1), training.aggregated()
    again = History()
    for row in training.rows[:5] + training.rows[2:] + training.rows:
        again.apply(row)
    assert vars(again) == vars(training.history)


def test_a_loss_that_nobody_sent_is_none() -> None:
    training = Training(clients=1)
    key = training.ask(0).request_key  # type: ignore[union-attr]
    training.step(cycle.ReportCame(1.0, "id-0", key, "d", Verdict(None), 5))
    training.aggregated()
    assert training.history.rounds[0]["loss"] is None and math.isnan(training.history.reports[0]["loss"])


def standing(training: Training) -> dict[str, str]:
    return {worker["worker"]: str(worker["state"]) for worker in training.history.workers.values()}


def test_where_each_worker_stands_in_the_newest_round() -> None:
    training = Training(clients=4, num_cycles=2, cycle_length=10, tolerate=3)
    assert standing(training) == {f"client {slot}": "waiting" for slot in range(4)}
    training.work(0, samples=30)
    training.work(1, verdict=BAD)
    training.work(2, verdict=FAILED)
    training.ask(3, at=4.0)
    assert standing(training) == {
        "client 0": "reported", "client 1": "refused", "client 2": "failed", "client 3": "training",
    }  # fmt: skip
    workers = training.history.workers
    assert (workers[0]["samples"], workers[0]["verdict"]) == (30, "accepted")
    assert workers[1]["message"] == BAD.message and workers[2]["message"] == "ValueError: no"
    assert workers[3]["since"] == 4.0 and math.isnan(workers[3]["seconds"])
    training.step(cycle.Tick(10.0))
    assert standing(training)["client 3"] == "no answer"
    training.aggregated()
    assert set(standing(training).values()) == {"waiting"}
    training.ask(3), training.step(cycle.StopAsked(20.0, now=True))
    assert set(standing(training).values()) == {"stopped"}


def test_those_outside_of_the_cohort_are_named_once_they_are_known() -> None:
    training = Training(clients=4, num_cycles=20, fraction=0.5)
    known: set[str] = set()
    for _ in range(6):
        cohort = {f"client {slot}" for slot in cycle.cohort(training.state)}
        known |= cohort
        assert {name for name, state in standing(training).items() if state == "waiting"} == cohort
        assert {name for name, state in standing(training).items() if state == "not in this round"} == known - cohort
        for slot in cycle.cohort(training.state):
            training.work(slot)
        training.aggregated()
    assert len(known) == 4


def test_visitors_of_an_earlier_round_are_not_in_this_one_until_they_ask_again() -> None:
    training = Training(min_diffs=1, max_diffs=2, num_cycles=2)
    assert training.history.workers == {}
    training.work(0), training.work(1)
    training.aggregated()
    assert standing(training) == {"client 0": "not in this round", "client 1": "not in this round"}
    training.ask(1)
    assert standing(training) == {"client 0": "not in this round", "client 1": "training"}
