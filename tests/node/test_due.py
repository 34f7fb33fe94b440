"""What a push participant has to be told next: every phase, every told step, who left, who isn't in the cohort."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest

from gridkit.errors import ErrorCode
from gridkit.federated import cycle
from gridkit.federated.checks import Verdict
from gridkit.federated.cycle import CycleState
from gridkit.node.due import (
    FINISH,
    FINISHED,
    NOTHING,
    START,
    Notification,
    due,
    owed,
    owner_due,
    pause,
    round_to_test,
    round_to_train,
)

ACCEPTED = Verdict(None, norm=1.0)


@dataclass
class Member:
    slot: int
    worker: str = ""
    told: int = NOTHING

    def __post_init__(self) -> None:
        self.worker = self.worker or f"w{self.slot}"


def started(clients: int = 2, **rules: object) -> CycleState:
    state, _ = cycle.CycleState.start(cycle.CycleRules(clients=clients, **{"num_cycles": 2, **rules}), at=0.0)  # type: ignore[arg-type]
    return state


def assigned(state: CycleState, *slots: int) -> CycleState:
    for slot in slots:
        state, decisions = cycle.decide(
            state, cycle.WorkerAsked(1.0, f"w{slot}", f"hospital {slot}", slot, f"key {slot}")
        )
        assert any(isinstance(decision, cycle.Accept) for decision in decisions)
    return state


def reported(state: CycleState, *slots: int, verdict: Verdict = ACCEPTED) -> CycleState:
    for slot in slots:
        state, _ = cycle.decide(state, cycle.ReportCame(2.0, f"w{slot}", f"key {slot}", f"digest {slot}", verdict, 1))
    return state


def aggregated(state: CycleState, *testers: int) -> CycleState:
    who = tuple(cycle.Tester(f"w{slot}", f"hospital {slot}", slot) for slot in testers)
    return cycle.decide(state, cycle.Aggregated(3.0, state.sequence, 0.0, who))[0]


def left(state: CycleState, slot: int) -> CycleState:
    return cycle.decide(state, cycle.WorkerLeft(2.0, f"w{slot}", slot, f"hospital {slot}", "answered 500"))[0]


def told(state: CycleState, slot: int = 0) -> dict[int, str]:
    """What is due after each of the steps of two cycles was told."""
    steps = (NOTHING, 0, 1, 2, 3, 4, FINISHED)
    return {step: str(found) for step in steps if (found := due(state, Member(slot, told=step))) is not None}


def test_an_undisturbed_training_of_two_cycles_from_step_to_step() -> None:
    state = started()
    assert told(state) == {-1: "TRAINING_START", 0: "UPDATE_ROUND_START 0"}
    state = assigned(state, 0, 1)
    assert told(state) == {-1: "TRAINING_START", 0: "UPDATE_ROUND_START 0"}
    state = reported(state, 0)
    assert told(state) == {-1: "TRAINING_START"}  # it has reported, whether its answer came or not
    assert told(state, 1) == {-1: "TRAINING_START", 0: "UPDATE_ROUND_START 0"}
    state = reported(state, 1)
    assert state.phase is cycle.Phase.AGGREGATING
    assert told(state) == {-1: "TRAINING_START"}
    state = aggregated(state, 0, 1)
    assert told(state) == {-1: "TRAINING_START", 0: "MODEL_TEST_ROUND 1", 1: "MODEL_TEST_ROUND 1"}
    state, _ = cycle.decide(state, cycle.TestCame(4.0, "w0", "digest"))
    assert told(state) == {-1: "TRAINING_START"}
    assert told(state, 1) == {-1: "TRAINING_START", 0: "MODEL_TEST_ROUND 1", 1: "MODEL_TEST_ROUND 1"}
    state, _ = cycle.decide(state, cycle.TestCame(4.0, "w1", "digest"))
    second = "UPDATE_ROUND_START 1"
    assert told(state) == {-1: "TRAINING_START", 0: second, 1: second, 2: second}
    state = aggregated(reported(assigned(state, 0, 1), 0, 1), 0, 1)
    last = "MODEL_TEST_ROUND 2"
    assert told(state) == {-1: "TRAINING_START", **dict.fromkeys((0, 1, 2, 3), last)}
    state, _ = cycle.decide(state, cycle.TestCame(5.0, "w0", "digest"))
    state, _ = cycle.decide(state, cycle.TestCame(5.0, "w1", "digest"))
    assert state.outcome == "completed"
    assert told(state) == dict.fromkeys((0, 1, 2, 3, 4), "TRAINING_FINISHED")


def test_the_steps_of_a_training_grow_and_the_test_is_numbered_after_the_round() -> None:
    steps = [START, round_to_train(1), round_to_test(1), round_to_train(2), round_to_test(2), round_to_train(3), FINISH]
    assert [step.step for step in steps] == [0, 1, 2, 3, 4, 5, 2**31 - 1]
    assert [step.round for step in steps] == [None, 0, 1, 1, 2, 2, None]


@pytest.mark.parametrize("verdict", [ACCEPTED, Verdict(ErrorCode.NOT_FINITE, "NaN")])
def test_whose_report_is_decided_isnt_told_to_train(verdict: Verdict) -> None:
    state = reported(assigned(started(tolerate=1), 0), 0, verdict=verdict)
    assert 0 not in told(state)


def test_whose_time_is_up_isnt_told_to_train() -> None:
    state = assigned(started(3, cycle_length=10.0, tolerate=2), 0, 1, 2)
    state, _ = cycle.decide(reported(state, 1), cycle.Tick(99.0))
    assert state.phase is cycle.Phase.AGGREGATING
    assert due(state, Member(0, told=0)) is None
    state = aggregated(state, 0, 1, 2)
    assert due(state, Member(0, told=0)) == round_to_test(1)  # it may still test


def test_who_took_a_round_owes_it_until_it_is_answered_or_over() -> None:
    state = assigned(started(cycle_length=10.0, tolerate=1), 0, 1)
    assert owed(state, Member(0)) is None
    assert owed(state, Member(0, told=0)) is None  # it is due first
    assert owed(state, Member(0, told=1)) == round_to_train(1)
    assert owed(left(state, 0), Member(0, told=1)) is None
    assert owed(reported(state, 0), Member(0, told=1)) is None
    assert owed(cycle.decide(state, cycle.StopAsked(3.0, now=True))[0], Member(0, told=1)) is None
    over, _ = cycle.decide(reported(state, 1), cycle.Tick(99.0))
    assert owed(over, Member(0, told=1)) is None
    over = aggregated(over, 0, 1)
    assert owed(over, Member(0, told=1)) is None
    assert owed(over, Member(0, told=2)) == round_to_test(1)
    assert owed(cycle.decide(over, cycle.TestCame(4.0, "w0", "digest"))[0], Member(0, told=2)) is None


def test_who_isnt_in_the_cohort_waits() -> None:
    state = started(4, fraction=0.5, seed=3)
    chosen = cycle.cohort(state)
    assert len(chosen) == 2
    for slot in range(4):
        assert due(state, Member(slot)) == START
        assert due(state, Member(slot, told=0)) == (round_to_train(1) if slot in chosen else None)


@pytest.mark.parametrize("step", [NOTHING, 0, 1, 2])
def test_who_left_isnt_told_anything(step: int) -> None:
    state = assigned(started(3, tolerate=1), 0, 1, 2)
    state = left(state, 0)
    assert due(state, Member(0, told=step)) is None
    state = reported(state, 1, 2)
    assert due(state, Member(0, told=step)) is None
    state = aggregated(state, 0, 1, 2)
    assert state.phase is cycle.Phase.TESTING
    assert due(state, Member(0, told=step)) is None
    state, _ = cycle.decide(state, cycle.StopAsked(4.0, now=True))
    assert state.outcome == "stopped"
    assert due(state, Member(0, told=step)) is None


def test_who_doesnt_test_is_told_nothing_while_others_do() -> None:
    state = aggregated(reported(assigned(started(), 0, 1), 0, 1), 1)
    assert due(state, Member(0, told=1)) is None
    assert due(state, Member(1, told=1)) == round_to_test(1)


@pytest.mark.parametrize("now", [False, True])
def test_whatever_ends_a_training_is_told_to_all_who_took_its_start(now: bool) -> None:
    state, _ = cycle.decide(started(), cycle.StopAsked(1.0, now))  # nobody has work yet: over at once
    assert state.outcome == "stopped"
    assert told(state) == dict.fromkeys((0, 1, 2, 3, 4), "TRAINING_FINISHED")
    failed = left(assigned(started(), 0, 1), 1)
    assert failed.outcome == "failed"
    assert told(failed) == dict.fromkeys((0, 1, 2, 3, 4), "TRAINING_FINISHED")
    assert told(failed, 1) == {}


def test_a_report_of_a_state_that_was_stored_and_read_is_as_due() -> None:
    state = left(assigned(started(3, tolerate=1), 0, 1), 2)
    again = CycleState.from_json(json.loads(json.dumps(state.to_json())))
    for slot in range(3):
        assert told(state, slot) == told(again, slot)


def test_the_owner_hears_of_the_end_once() -> None:
    state = started()
    over, _ = cycle.decide(state, cycle.StopAsked(1.0))
    assert owner_due(state, NOTHING, []) is None
    assert owner_due(over, NOTHING, []) == FINISH
    assert owner_due(over, FINISHED, []) is None
    assert owner_due(over, NOTHING, [Member(0, told=1)]) is None  # as a member
    assert owner_due(over, NOTHING, [Member(0, told=FINISHED)]) is None
    assert owner_due(over, NOTHING, [Member(0)]) == FINISH  # it never took the start
    gone = replace(over, left={0: cycle.Departure(1, "hospital 0", "answered 500")})
    assert owner_due(gone, NOTHING, [Member(0, told=FINISHED)]) == FINISH


def body(notification: Notification) -> dict[str, object]:
    training, model = "5a2f7c1e-0000-4000-8000-000000000001", "5a2f7c1e-0000-4000-8000-000000000002"
    message = json.loads(notification.body(training, model))
    assert message.pop("training_uuid") == training
    assert message["body"].pop("global_model_uuid") == model
    return message


def test_bodies_are_the_protocols() -> None:
    assert body(START) == {"notification_type": "TRAINING_START", "body": {}}
    assert body(round_to_train(1)) == {"notification_type": "UPDATE_ROUND_START", "body": {"round": 0}}
    assert body(round_to_test(1)) == {"notification_type": "MODEL_TEST_ROUND", "body": {"round": 1}}
    assert body(FINISH) == {"notification_type": "TRAINING_FINISHED", "body": {}}


def test_pauses_double_up_to_a_bound() -> None:
    assert [pause(attempt) for attempt in (1, 2, 3, 4, 7, 8, 10**9)] == [0.5, 1.0, 2.0, 4.0, 30.0, 30.0, 30.0]
