from __future__ import annotations

import math
from typing import Any

import pytest

from gridkit.errors import ErrorCode
from gridkit.federated import cycle
from gridkit.federated.checks import Verdict
from gridkit.federated.history import History
from gridkit.results import failure
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


# ---- test rounds, departures, notifications


def test_the_rows_of_a_test_round() -> None:
    training = Training(clients=3, tolerate=2, num_cycles=1, cycle_length=10)
    training.work(0, samples=30)
    training.work(1, verdict=BAD)
    training.work(2)
    training.aggregated(0, 1, 2)
    assert row(training, "testing") == {
        "seq": 9, "run": "r", "kind": "testing", "at": 0.0, "cycle": 1, "deadline": 10.0, "slots": [0, 1, 2],
    }  # fmt: skip
    assert set(standing(training).values()) == {"testing"}
    training.step(cycle.TestCame(2.5, "id-0", "t", {"accuracy": 0.75, "note": "fine"}))
    assert row(training, "tested") == {
        "seq": 10, "run": "r", "kind": "tested", "at": 2.5, "cycle": 1, "slot": 0, "worker": "client 0",
        "metrics": {"accuracy": 0.75, "note": "fine"}, "samples": 30, "seconds": 2.5,
    }  # fmt: skip
    training.tests(1)
    assert row(training, "tested")["samples"] is None, "its report didn't count"
    count = len(training.rows)
    training.tests(1), training.tests(1, "other"), training.tests(7)
    assert len(training.rows) == count, "what doesn't count makes no rows"
    assert standing(training) == {"client 0": "tested", "client 1": "tested", "client 2": "testing"}
    assert training.history.workers[0]["samples"] == 30 and training.history.workers[0]["seconds"] == 2.5
    assert training.history.workers[2]["since"] == 0.0
    training.step(cycle.Tick(10.0))
    assert row(training, "untested") == {
        "seq": 12, "run": "r", "kind": "untested", "at": 10.0, "cycle": 1, "slot": 2, "worker": "client 2",
    }  # fmt: skip
    assert kinds(training)[-2:] == ["untested", "finished"]
    assert standing(training)["client 2"] == "no answer"
    assert training.history.tests == [
        {"round": 1, "worker": "client 0", "slot": 0, "samples": 30, "metrics": {"accuracy": 0.75, "note": "fine"},
         "seconds": 2.5},
        {"round": 1, "worker": "client 1", "slot": 1, "samples": None, "metrics": {"accuracy": 0.5}, "seconds": 2.5},
    ]  # fmt: skip


def test_the_last_test_belongs_to_its_own_round() -> None:
    training = Training(clients=1, num_cycles=2)
    training.work(0)
    training.aggregated(0)
    training.tests(0)
    assert training.state.sequence == 2
    assert kinds(training)[-2:] == ["tested", "opened"] and training.history.tests[0]["round"] == 1
    assert standing(training) == {"client 0": "waiting"}


def test_a_stop_ends_a_test() -> None:
    training = Training(clients=2, num_cycles=2)
    training.work(0), training.work(1)
    training.aggregated(0, 1)
    training.tests(0)
    training.step(cycle.StopAsked(1.0, now=True))
    assert kinds(training)[-2:] == ["stopping", "finished"]
    assert standing(training) == {"client 0": "tested", "client 1": "stopped"}


def test_who_leaves_the_round_that_is_open_is_a_failure_of_it() -> None:
    training = Training(clients=3, num_cycles=2, tolerate=1)
    training.ask(2)
    training.leave(2, "answered 500 to UPDATE_ROUND_START 0")
    assert row(training, "left") == {
        "seq": 3, "run": "r", "kind": "left", "at": 0.0, "cycle": 1, "slot": 2, "worker": "client 2",
        "reason": "answered 500 to UPDATE_ROUND_START 0",
    }  # fmt: skip
    (failed,) = training.history.failures(1)
    assert (failed["worker"], failed["verdict"]) == ("client 2", ErrorCode.WORKER_LEFT)
    assert failed["message"] == "answered 500 to UPDATE_ROUND_START 0"
    training.work(0), training.work(1)
    training.aggregated()
    assert training.history.rounds[0]["refused"] == 1
    assert standing(training) == {"client 0": "waiting", "client 1": "waiting", "client 2": "left"}
    assert training.history.workers[2]["message"] == "answered 500 to UPDATE_ROUND_START 0"
    assert row(training, "opened")["cohort"] == [0, 1] and training.history.cohort_size == 2


def test_who_leaves_after_its_report_fails_nothing() -> None:
    training = Training(clients=2, num_cycles=2, tolerate=1)
    training.work(0), training.work(1)
    training.aggregated(0, 1)
    training.leave(1)
    assert training.history.failures(1) == []
    assert standing(training) == {"client 0": "testing", "client 1": "left"}
    assert training.history.workers[1]["verdict"] == ErrorCode.WORKER_LEFT
    training.tests(0)
    assert standing(training) == {"client 0": "waiting", "client 1": "left"}


def test_a_failed_run_names_who_left() -> None:
    training = Training(clients=2)
    training.leave(1, "not reached in 4 attempts: connection refused")
    error = failure(training.history, "'m' 1.0")
    assert "client 1: WORKER_LEFT: not reached in 4 attempts: connection refused" in str(error)


def notified(training: Training, **row: Any) -> None:
    about = {
        "kind": "notified", "at": 5.0, "cycle": 1, "slot": 1, "worker": "north", "notification": "UPDATE_ROUND_START",
        "round": 0, "attempt": 1, "answer": 202, "seconds": 0.14, "message": "", "gone": False,
    }  # fmt: skip
    training.rows.append({"seq": len(training.rows) + 1, "run": "r", **about, **row})
    assert training.history.apply(training.rows[-1])


def test_who_was_told_what() -> None:
    training = Training(clients=2, num_cycles=2, cycle_length=10, tolerate=1)
    assert [worker["told"] for worker in training.history.workers.values()] == ["", ""]
    notified(training, notification="TRAINING_START", round=None, answer=200)
    assert training.history.workers[1]["told"] == "TRAINING_START: 200 at attempt 1, 0.1 s"
    assert training.history.workers[1]["worker"] == "north" and training.history.workers[1]["state"] == "waiting"
    notified(training, answer=None, seconds=2.0, message="connection refused")
    assert training.history.workers[1]["told"] == "UPDATE_ROUND_START 0: connection refused at attempt 1, 2.0 s"
    notified(training, attempt=2)
    told = "UPDATE_ROUND_START 0: 202 at attempt 2, 0.1 s"
    training.work(0)
    assert training.history.workers[1]["told"] == told
    training.step(cycle.Tick(10.0))
    assert training.history.workers[1]["told"] == told and training.history.reports[-1]["worker"] == "north"
    training.aggregated()
    assert training.history.workers[1]["told"] == told and standing(training)["north"] == "waiting"
    assert training.history.notifications[1:] == [
        {"time": 5.0, "round": 1, "worker": "north", "slot": 1, "notification": "UPDATE_ROUND_START", "attempt": 1,
         "answer": None, "seconds": 2.0, "message": "connection refused"},
        {"time": 5.0, "round": 1, "worker": "north", "slot": 1, "notification": "UPDATE_ROUND_START", "attempt": 2,
         "answer": 202, "seconds": 0.14, "message": ""},
    ]  # fmt: skip


def test_the_owner_is_told_of_the_end_and_is_no_worker() -> None:
    training = Training(clients=2)
    notified(training, slot=None, worker="alice", notification="TRAINING_FINISHED", round=None)
    assert len(training.history.workers) == 2 and training.history.notifications[0]["worker"] == "alice"


def test_who_is_told_before_its_first_round_is_not_in_this_one() -> None:
    training = Training(clients=4, fraction=0.25, num_cycles=3)
    (slot,) = cycle.cohort(training.state)
    other = (slot + 1) % 4
    notified(training, slot=other, notification="TRAINING_START", round=None, answer=200)
    assert standing(training) == {f"client {slot}": "waiting", "north": "not in this round"}
