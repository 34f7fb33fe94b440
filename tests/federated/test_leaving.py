"""Members of a fixed roster that leave, and what it does to the rounds."""

from __future__ import annotations

from gridkit.errors import ErrorCode
from gridkit.federated import cycle
from gridkit.federated.cycle import Aggregate, Finish, Left, Open, Phase, Refuse, Reject, Status
from tests.federated.machine import Training, came


def kinds(decisions: tuple[cycle.Decision, ...]) -> list[type]:
    return [type(decision) for decision in decisions]


def test_who_leaves_fails_the_round_that_is_open_and_later_ones_go_on_without_it() -> None:
    training = Training(clients=3, tolerate=1, num_cycles=2)
    assert training.leave(2, "answered 500 to UPDATE_ROUND_START 0") == (Left("id-2"),)
    assert training.status(2) is Status.FAILED
    assert training.state.assignments["id-2"].cause == "WORKER_LEFT: answered 500 to UPDATE_ROUND_START 0"
    training.work(0)
    assert Aggregate in kinds(training.work(1))
    training.aggregated()
    assert cycle.cohort(training.state) == (0, 1)
    training.work(0)
    assert Aggregate in kinds(training.work(1))


def test_it_counts_once() -> None:
    training = Training(clients=3, tolerate=2)
    training.leave(1)
    before = training.state
    assert training.leave(1, "another reason") == ()
    assert training.state == before


def test_the_round_closes_when_the_one_that_was_waited_for_leaves() -> None:
    training = Training(clients=2, tolerate=1)
    training.work(0)
    assert kinds(training.leave(1)) == [Left, Aggregate]


def test_the_round_fails_when_its_quorum_is_out_of_reach() -> None:
    training = Training(clients=4, tolerate=1)
    training.leave(3)
    assert training.state.phase is Phase.OPEN
    left, finish = training.leave(1, "not reached in 4 attempts")
    assert left == Left("id-1") and isinstance(finish, Finish) and finish.outcome == "failed"
    assert finish.reason == (
        "round 1: 2 of 4 workers failed, 3 reports are needed: "
        "client 1: WORKER_LEFT: not reached in 4 attempts; client 3: WORKER_LEFT: answered 500"
    )


def test_a_report_that_counted_stays() -> None:
    training = Training(clients=2, num_cycles=2, tolerate=1)
    training.work(0)
    training.leave(0)
    assert training.status(0) is Status.ACCEPTED
    training.work(1)
    assert [part.slot for part in training.aggregations[-1].parts] == [0, 1]
    training.aggregated()
    assert cycle.cohort(training.state) == (1,)


def test_a_report_of_one_that_has_left_is_refused() -> None:
    training = Training(clients=2, tolerate=1)
    answer = training.ask(0)
    assert isinstance(answer, cycle.Accept)
    training.leave(0)
    (refuse,) = training.step(came(1.0, 0, answer.request_key))
    assert isinstance(refuse, Refuse) and refuse.code is ErrorCode.WORKER_LEFT and "answered 500" in refuse.message


def test_who_left_and_asks_need_not_come_again() -> None:
    training = Training(clients=2, tolerate=1)
    training.leave(0)
    answer = training.ask(0)
    assert isinstance(answer, Reject) and answer.code is ErrorCode.WORKER_LEFT and answer.retry_after is None


def test_a_cycle_that_opens_with_too_few_fails_at_once() -> None:
    training = Training(clients=4, tolerate=1, num_cycles=3)
    for slot in range(4):
        training.work(slot)
    training.leave(0, "answered 500 to MODEL_TEST_ROUND 1")
    training.aggregated(0, 1, 2, 3)
    assert set(training.state.tests) == {"id-1", "id-2", "id-3"}
    training.leave(2, "not reached")
    training.tests(1)
    training.tests(3)
    assert kinds(training.last) == [cycle.Count, Open, Finish]
    assert training.finishes[0].reason == (
        "round 2: 2 of 4 clients have left (client 0: answered 500 to MODEL_TEST_ROUND 1; client 2: not reached), "
        "3 reports are needed"
    )


def test_those_who_left_before_are_named_when_a_later_round_fails() -> None:
    training = Training(clients=3, tolerate=1, num_cycles=2)
    training.leave(0, "gone")
    training.work(1), training.work(2)
    training.aggregated()
    training.leave(2, "gone too")
    assert training.finishes[0].reason == (
        "round 2: 1 of 2 workers failed, 2 reports are needed: client 2: WORKER_LEFT: gone too; "
        "1 of 3 clients had left before (client 0: gone)"
    )


def test_nobody_is_waited_for_in_a_test_that_has_left() -> None:
    training = Training(clients=3, tolerate=2, num_cycles=2)
    for slot in range(3):
        training.work(slot)
    training.aggregated(0, 1, 2)
    training.tests(0)
    training.leave(0)
    assert set(training.state.tests) == {"id-0", "id-1", "id-2"}, "what it said stays"
    training.leave(1)
    assert kinds(training.leave(2)) == [Left, Open, Finish]
    assert training.state.outcome == "failed"


def test_others_stand_in_where_a_round_needs_only_a_fraction() -> None:
    training = Training(clients=10, fraction=0.5, num_cycles=0)
    gone: set[int] = set()
    for slot in (3, 7, 1, 9, 0):
        assert len(cycle.cohort(training.state)) == 5 and not gone & set(cycle.cohort(training.state))
        for member in cycle.cohort(training.state):
            training.work(member)
        training.leave(slot)
        gone.add(slot)
        training.aggregated()
    assert cycle.cohort(training.state) == (2, 4, 5, 6, 8)
    training.leave(4)
    assert training.state.outcome == "failed"


def test_after_the_end_nobody_leaves() -> None:
    training = Training(clients=1, num_cycles=1)
    training.work(0)
    training.aggregated()
    assert training.leave(0) == ()
    assert training.state.left == {}


def test_who_did_not_answer_in_time_and_leaves_then_has_failed_once() -> None:
    training = Training(clients=2, tolerate=1, cycle_length=10, num_cycles=1)
    training.work(0)
    training.step(cycle.Tick(10.0))
    before = training.state.assignments
    assert training.leave(1) == (Left("id-1"),)
    assert training.state.assignments == before
    training.aggregated()
    assert training.history.rounds[0]["refused"] == 0 and len(training.history.reports) == 2


def test_who_leaves_outside_of_the_round_fails_nothing() -> None:
    training = Training(clients=4, fraction=0.5, num_cycles=2)
    (other, another) = set(range(4)) - set(cycle.cohort(training.state))
    members = cycle.cohort(training.state)
    training.leave(other)
    assert training.state.assignments == {} and cycle.cohort(training.state) == members
    assert training.history.reports == []
    for member in members:
        training.work(member)
    training.aggregated()
    assert other not in cycle.cohort(training.state)
    training.leave(another)
    training.leave(members[0])
    assert training.state.outcome == "failed"


def test_it_has_left_in_the_round_whose_test_its_departure_ends() -> None:
    training = Training(clients=2, tolerate=1, num_cycles=2)
    training.work(0), training.work(1)
    training.aggregated(1)
    assert kinds(training.leave(1)) == [Left, Open]
    left, opened = training.rows[-2:]
    assert (left["kind"], left["cycle"]) == ("left", 1) and (opened["kind"], opened["cohort"]) == ("opened", [0])
