"""The rules of the engine, one by one. tests/federated/test_cycle_machine.py holds them against random histories."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridkit.errors import AccessError, ConflictError, ErrorCode, RunError
from gridkit.federated import cycle
from gridkit.federated.checks import Verdict
from gridkit.federated.cycle import (
    Accept,
    Count,
    CycleState,
    Duplicate,
    Expire,
    Finish,
    Open,
    Phase,
    Refuse,
    Reject,
    Status,
)
from gridkit.federated.rules import CycleRules
from gridkit.results import failure
from tests.federated.machine import BAD, FAILED, Training, came


def kinds(decisions: tuple[Any, ...]) -> list[type]:
    return [type(decision) for decision in decisions]


# ---- asking


def test_a_worker_that_asks_again_gets_its_key_back() -> None:
    training = Training(min_diffs=2, max_diffs=2)
    first = training.ask(0, at=1.0)
    again = training.ask(0, at=5.0)
    assert isinstance(first, Accept) and first == again
    other = training.ask(1)
    assert isinstance(other, Accept) and other.request_key != first.request_key


@pytest.mark.parametrize("verdict", [Verdict(None), BAD, FAILED])
def test_after_its_report_a_worker_waits_for_the_next_cycle(verdict: Verdict) -> None:
    training = Training(min_diffs=2, max_diffs=2)
    training.work(0, verdict=verdict)
    answer = training.ask(0)
    assert isinstance(answer, Reject) and answer.code is ErrorCode.CYCLE_CHANGING and answer.retry_after
    assert "reported in round 1" in answer.reason


def test_while_averaging_nobody_gets_work() -> None:
    training = Training(min_diffs=1)
    training.work(0)
    answer = training.ask(1)
    assert isinstance(answer, Reject) and answer.code is ErrorCode.CYCLE_CHANGING and answer.retry_after
    training.aggregated()
    assert isinstance(training.ask(1), Accept)


def test_after_the_end_nobody_needs_to_come_again() -> None:
    training = Training(num_cycles=1)
    training.work(0)
    training.aggregated()
    answer = training.ask(0)
    assert isinstance(answer, Reject) and answer.code is ErrorCode.TRAINING_OVER and answer.retry_after is None


def test_the_cohort_decides_who_takes_part() -> None:
    training = Training(clients=10, fraction=0.3, seed=1)
    members = cycle.cohort(training.state)
    assert len(members) == 3
    for slot in range(10):
        answer = training.ask(slot)
        if slot in members:
            assert isinstance(answer, Accept) and answer.slot == slot
        else:
            assert isinstance(answer, Reject) and answer.code is ErrorCode.NOT_IN_COHORT and answer.retry_after


def test_only_so_many_workers_at_a_time() -> None:
    training = Training(min_diffs=3, max_diffs=3, max_workers=2)
    training.ask(0), training.ask(1)
    answer = training.ask(2)
    assert isinstance(answer, Reject) and answer.code is ErrorCode.CYCLE_FULL and answer.retry_after
    training.work(0)
    assert isinstance(training.ask(2), Accept)


# ---- reporting


def test_the_first_report_counts_and_the_same_bytes_again_are_a_success_that_counts_once() -> None:  # faults.md R1
    training = Training(min_diffs=2, max_diffs=2)
    key = training.ask(0).request_key  # type: ignore[union-attr]
    assert kinds(training.step(came(1.0, 0, key, "same"))) == [Count]
    assert training.step(came(2.0, 0, key, "same")) == (Duplicate("id-0"),)
    (answer,) = training.step(came(3.0, 0, key, "other"))
    assert isinstance(answer, Refuse) and answer.code is ErrorCode.ALREADY_REPORTED and answer.verdict is None
    assert training.state.assignments["id-0"].digest == "same"
    assert training.history.reports[0]["verdict"] == "accepted" and len(training.history.reports) == 1


@pytest.mark.parametrize("config", [{}, {"num_cycles": 1}], ids=["next cycle", "training over"])
def test_the_same_bytes_are_a_success_also_when_the_cycle_has_closed(config: dict[str, Any]) -> None:
    """The answer to the last report may be lost on its way."""
    training = Training(**config)
    key = training.ask(0).request_key  # type: ignore[union-attr]
    training.step(came(1.0, 0, key, "same"))
    assert training.step(came(2.0, 0, key, "same")) == (Duplicate("id-0"),)
    training.aggregated()
    assert training.step(came(3.0, 0, key, "same")) == (Duplicate("id-0"),)
    (late,) = training.step(came(4.0, 0, key, "other"))
    assert isinstance(late, Refuse) and late.code is ErrorCode.CYCLE_CLOSED


def test_a_first_verdict_is_final_also_a_bad_one() -> None:
    training = Training(min_diffs=1, max_diffs=2)
    key = training.ask(0).request_key  # type: ignore[union-attr]
    (answer,) = training.step(came(1.0, 0, key, "bad", BAD))
    assert isinstance(answer, Refuse) and answer.code is ErrorCode.NOT_FINITE and answer.verdict == BAD
    (again,) = training.step(came(2.0, 0, key, "good"))
    assert isinstance(again, Refuse) and again.code is ErrorCode.ALREADY_REPORTED
    (same,) = training.step(came(3.0, 0, key, "bad", BAD))
    assert isinstance(same, Refuse) and same.code is ErrorCode.NOT_FINITE and same.verdict is None
    assert training.status(0) is Status.REFUSED


def test_a_report_after_the_end_of_its_cycle_changes_nothing() -> None:  # faults.md R2
    training = Training(min_diffs=1, max_diffs=1)
    late = training.ask(1).request_key  # type: ignore[union-attr]
    training.work(0)
    for _ in range(2):
        before = training.state
        (answer,) = training.step(came(1.0, 1, late))
        assert isinstance(answer, Refuse) and answer.code is ErrorCode.CYCLE_CLOSED
        assert training.state == before
        if training.state.phase is Phase.AGGREGATING:
            training.aggregated()


@pytest.mark.parametrize("key", ["key-of-nobody", "", "\ud800", "ключ"])
def test_a_wrong_key_is_refused(key: str) -> None:  # faults.md R3
    training = Training(min_diffs=2, max_diffs=2)
    training.ask(0)
    before = training.state
    for worker in (0, 1):
        (answer,) = training.step(came(1.0, worker, key))
        assert isinstance(answer, Refuse) and answer.code is ErrorCode.BAD_KEY
        with pytest.raises(AccessError) as raised:
            cycle.check_key(training.state, f"id-{worker}", key)
        assert raised.value.code is ErrorCode.BAD_KEY
    assert training.state == before


def test_check_key_opens_for_its_worker_in_its_cycle_only() -> None:
    training = Training(num_cycles=2)
    key = training.ask(0).request_key  # type: ignore[union-attr]
    assert cycle.check_key(training.state, "id-0", key).slot == 0
    training.ask(1)
    with pytest.raises(AccessError):
        cycle.check_key(training.state, "id-1", key)
    training.step(came(1.0, 0, key))
    training.aggregated()
    with pytest.raises(ConflictError) as raised:
        cycle.check_key(training.state, "id-0", key)
    assert raised.value.code is ErrorCode.CYCLE_CLOSED
    training.work(0)
    training.aggregated()
    last = training.state.assignments["id-0"].request_key
    with pytest.raises(ConflictError):  # its owner, and the training is over
        cycle.check_key(training.state, "id-0", last)


def test_keys_stay_out_of_reprs() -> None:
    training = Training()
    key = training.ask(0).request_key  # type: ignore[union-attr]
    event = came(1.0, 0, key)
    _, decisions = cycle.decide(training.state, event)
    for thing in (training.state, event, *decisions, cycle.WorkerAsked(0.0, "w", "w", 0, key), training.ask(0)):
        assert key not in repr(thing)


# ---- closing


def test_exactly_max_diffs_count_however_many_come_at_once() -> None:  # faults.md R5
    training = Training(min_diffs=50, max_diffs=50, num_cycles=1)
    keys = [training.ask(worker).request_key for worker in range(100)]  # type: ignore[union-attr]
    answers = [training.step(came(1.0, worker, key)) for worker, key in enumerate(keys)]
    assert sum(isinstance(a[0], Count) for a in answers) == 50
    assert [a[0].code for a in answers[50:]] == [ErrorCode.CYCLE_CLOSED] * 50  # type: ignore[union-attr]
    assert len(training.aggregations) == 1 and len(training.aggregations[0].parts) == 50
    assert training.aggregated() == (Finish("completed"),)


def test_without_limits_the_first_enough_close_a_cycle() -> None:
    training = Training(min_diffs=2)
    training.work(0)
    assert training.state.phase is Phase.OPEN
    training.work(1)
    assert training.state.phase is Phase.AGGREGATING


def test_with_a_deadline_a_cycle_waits_for_it() -> None:
    training = Training(min_diffs=1, cycle_length=10)
    training.work(0)
    training.step(cycle.Tick(9.9))
    assert training.state.phase is Phase.OPEN and training.state.deadline == 10.0
    training.step(cycle.Tick(10.0))
    assert training.state.phase is Phase.AGGREGATING


def test_the_deadline_gives_slots_back_and_the_cycle_stays_open() -> None:  # faults.md R4
    training = Training(min_diffs=2, max_diffs=2, cycle_length=10, max_workers=2)
    training.work(0)
    gone = training.ask(1)
    (expire,) = training.step(cycle.Tick(10.0))
    assert expire == Expire(1, ("id-1",))
    assert (training.state.phase, training.state.deadline) == (Phase.OPEN, 20.0)
    (late,) = training.step(came(11.0, 1, gone.request_key))  # type: ignore[union-attr]
    assert isinstance(late, Refuse) and late.code is ErrorCode.CYCLE_CLOSED
    back = training.ask(1, at=12.0)
    assert isinstance(back, Accept) and back.request_key != gone.request_key  # type: ignore[union-attr]
    training.step(came(13.0, 1, back.request_key))
    assert training.state.phase is Phase.AGGREGATING
    assert [part.slot for part in training.aggregations[0].parts] == [0, 1]


def test_a_roster_closes_when_all_have_a_verdict() -> None:
    training = Training(clients=3, tolerate=1, num_cycles=1)
    training.work(0)
    training.work(1, verdict=FAILED)
    assert training.state.phase is Phase.OPEN
    training.work(2)
    assert training.state.phase is Phase.AGGREGATING
    assert [part.slot for part in training.aggregations[0].parts] == [0, 2]


def test_a_roster_fails_as_soon_as_its_quorum_is_out_of_reach() -> None:
    training = Training(clients=4, tolerate=1)
    training.work(3, verdict=BAD)
    assert training.state.phase is Phase.OPEN
    decisions = training.work(1, verdict=FAILED)
    assert kinds(decisions) == [Refuse, Finish]
    assert training.state.outcome == "failed"
    reason = training.state.reason or ""
    assert "client 1: WORKER_ERROR: ValueError: no" in reason and "client 3: NOT_FINITE: tensor 'w'" in reason
    assert len(training.history.failures(1)) == 2


def test_at_the_deadline_a_roster_goes_on_without_those_who_tarry() -> None:
    training = Training(clients=3, tolerate=2, cycle_length=10)
    training.work(0)
    training.ask(1)
    decisions = training.step(cycle.Tick(10.0))  # client 2 never asked
    assert kinds(decisions) == [Expire, cycle.Aggregate]
    expired = [row for row in training.history.reports if row["verdict"] == "NOT_ANSWERED"]
    assert [(row["worker"], row["slot"]) for row in expired] == [("client 1", 1), ("client 2", 2)]


def test_at_the_deadline_a_roster_without_quorum_fails() -> None:
    training = Training(clients=3, tolerate=1, cycle_length=10)
    training.work(0)
    training.step(cycle.Tick(10.0))
    assert training.state.outcome == "failed"
    assert "NOT_ANSWERED" in (training.state.reason or "")


def test_reports_without_a_single_sample_cant_be_averaged() -> None:
    training = Training(clients=2, weighting="samples")
    training.work(0, samples=0)
    training.work(1, samples=0)
    assert training.state.outcome == "failed" and not training.aggregations
    assert Training(clients=1, weighting="equal").work(0, samples=0)[1:] != ()


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        ({"weighting": "samples"}, [7.0, 1.0, 50.0]),
        ({"weighting": "samples", "max_samples": 20}, [7.0, 1.0, 20.0]),
        ({"weighting": "equal"}, [1.0, 1.0, 1.0]),
    ],
)
def test_weights(config: dict[str, Any], weights: list[float]) -> None:
    training = Training(clients=3, **config)
    for worker, samples in ((2, 50), (0, 7), (1, None)):
        training.work(worker, samples=samples)
    assert [part.weight for part in training.aggregations[0].parts] == weights


def test_averaging_is_the_same_whatever_the_order_of_arrival() -> None:
    orders = []
    for order in itertools.permutations(range(4)):
        training = Training(clients=4, weighting="samples")
        keys = {worker: training.ask(worker).request_key for worker in reversed(order)}  # type: ignore[union-attr]
        for worker in order:
            training.step(came(1.0, worker, keys[worker], f"digest {worker}", samples=worker + 1))
        orders.append(training.aggregations[0])
    assert all(order == orders[0] for order in orders)
    assert [(part.slot, part.digest) for part in orders[0].parts] == [(n, f"digest {n}") for n in range(4)]


def test_a_closed_cycle_opens_the_next_once() -> None:  # faults.md R6
    training = Training(cycle_length=10)
    training.work(0)
    training.step(cycle.Tick(10.0))
    assert training.step(cycle.Aggregated(12.0, 1, 0.1)) == (Open(2, 22.0),)
    assert training.step(cycle.Aggregated(12.5, 1, 0.1)) == ()
    assert training.state.sequence == 2 and training.state.opened_at == 12.0


def test_what_a_crash_left_is_averaged_again() -> None:
    training = Training(clients=2)
    training.work(1), training.work(0)
    restored = cycle.CycleState.from_json(training.state.to_json())
    assert cycle.pending_aggregation(restored) == training.aggregations[0]
    assert cycle.pending_aggregation(replace(restored, phase=Phase.OPEN)) is None


def test_the_usual_norm_is_the_median_of_what_was_accepted() -> None:
    training = Training(min_diffs=5, max_diffs=5)
    assert cycle.usual_norm(training.state) is None
    for worker, norm in enumerate([1.0, 9.0, 2.0]):
        training.work(worker, verdict=Verdict(None, norm=norm))
    training.work(3, verdict=Verdict(ErrorCode.NORM_TOO_LARGE, "too large", None, 1e9))
    assert cycle.usual_norm(training.state) == 2.0


# ---- stopping


def test_stop_ends_after_this_round_which_still_takes_its_workers() -> None:
    training = Training(clients=2, num_cycles=5)
    training.work(0)
    assert training.step(cycle.StopAsked(1.0)) == ()
    assert training.history.stopping and training.state.phase is Phase.OPEN
    training.work(1)
    assert training.aggregated() == (Finish("stopped"),)
    assert len(training.history.rounds) == 1


def test_stop_while_averaging_keeps_that_round() -> None:
    training = Training(clients=1)
    training.work(0)
    assert training.step(cycle.StopAsked(1.0)) == ()
    assert training.aggregated() == (Finish("stopped"),)


def test_a_round_that_cannot_be_averaged_ends_the_training() -> None:
    training = Training(clients=3, tolerate=1)
    for worker, verdict in ((0, Verdict(None)), (1, BAD), (2, Verdict(None))):
        training.work(worker, verdict=verdict)
    assert training.step(cycle.AggregationFailed(1.0, 2, "another's")) == ()
    decisions = training.step(cycle.AggregationFailed(1.0, 1, "the averaging plan failed: why"))
    assert decisions == (Finish("failed", "round 1: the averaging plan failed: why"),)
    assert training.rows[-1]["code"] == training.history.code == "AVERAGING_FAILED"
    error = failure(training.history, "'t' 1.0", debuggable=range(9))
    assert type(error) is RunError  # the worker that was refused has nothing to do with it
    assert str(error) == "the training 't' 1.0 failed: round 1: the averaging plan failed: why"


def test_stop_with_nothing_under_way_ends_at_once() -> None:
    training = Training(clients=2)
    assert training.step(cycle.StopAsked(1.0)) == (Finish("stopped"),)


@pytest.mark.parametrize("asks", [[True], [False, False]])
def test_stop_now_or_twice_ends_at_once(asks: list[bool]) -> None:
    training = Training(clients=2)
    training.work(0)
    decisions = [training.step(cycle.StopAsked(1.0, now)) for now in asks][-1]
    assert decisions == (Finish("stopped"),)
    assert training.history.outcome == "stopped"
    assert training.step(cycle.Aggregated(2.0, 1)) == ()


def test_the_last_round_is_completed_even_when_a_stop_was_asked_for() -> None:
    training = Training(clients=1, num_cycles=1)
    training.work(0)
    training.step(cycle.StopAsked(1.0))
    (finish,) = training.aggregated()
    assert isinstance(finish, Finish) and finish.outcome == "completed"


# ---- cohorts


@given(
    clients=st.integers(1, 200),
    fraction=st.floats(0.01, 1.0),
    seed=st.integers(0, 2**63 - 1),
    sequence=st.integers(1, 1000),
)
def test_cohorts(clients: int, fraction: float, seed: int, sequence: int) -> None:
    rules = CycleRules(clients=clients, fraction=fraction, seed=seed)
    members = cycle.cohort(CycleState(rules, sequence=sequence))
    assert members == cycle.cohort(CycleState(rules, sequence=sequence))
    assert list(members) == sorted(set(members)) and set(members) <= set(range(clients))
    assert len(members) == max(1, round(fraction * clients))


def test_cohorts_change_with_round_and_seed_and_draw_everyone_alike() -> None:
    rules = CycleRules(clients=10, fraction=0.2, seed=3)
    drawn = [cycle.cohort(CycleState(rules, sequence=sequence)) for sequence in range(1, 1001)]
    assert len(set(drawn)) == 45  # every pair comes up in 1000 rounds
    counts = [sum(slot in members for members in drawn) for slot in range(10)]
    assert min(counts) > 150 and max(counts) < 250
    other = replace(rules, seed=4)
    assert drawn != [cycle.cohort(CycleState(other, sequence=sequence)) for sequence in range(1, 1001)]
