"""The test of a new model by those who have data to test it on."""

from __future__ import annotations

import pytest

from gridkit.errors import ErrorCode
from gridkit.federated import cycle
from gridkit.federated.cycle import Answer, Count, Duplicate, Finish, Miss, Open, Phase, Refuse, Reject
from tests.federated.machine import Training


def in_test(*testers: int, clients: int = 2, **config: int) -> Training:
    """A training whose first model is being tested."""
    training = Training(clients=clients, num_cycles=2, **config)
    for slot in range(clients):
        training.work(slot)
    training.aggregated(*(testers or range(clients)))
    assert training.state.phase is Phase.TESTING
    return training


def test_the_next_cycle_opens_when_all_have_tested() -> None:
    training = in_test()
    assert training.last == (cycle.Test(1, None, ("id-0", "id-1")),)
    assert training.state.sequence == 1
    assert training.tests(1) == Count("id-1")
    assert training.state.phase is Phase.TESTING
    assert {w: t.status for w, t in training.state.tests.items()} == {"id-0": Answer.PENDING, "id-1": Answer.DONE}
    assert training.tests(0) == Count("id-0")
    assert training.last == (Count("id-0"), Open(2, None))
    assert training.state.phase is Phase.OPEN


def test_without_testers_the_next_cycle_opens_at_once() -> None:
    training = Training(clients=2, num_cycles=2)
    training.work(0), training.work(1)
    assert training.aggregated() == (Open(2, None),)


def test_the_first_answer_counts_and_the_same_again_is_a_success() -> None:
    training = in_test()
    training.tests(0, "a")
    assert training.tests(0, "a") == Duplicate("id-0")
    answer = training.tests(0, "b")
    assert isinstance(answer, Refuse) and answer.code is ErrorCode.ALREADY_REPORTED and "client 0" in answer.message
    training.tests(1, "c")
    assert training.state.sequence == 2
    assert training.tests(0, "a") == Duplicate("id-0")
    answer = training.tests(0, "b")
    assert isinstance(answer, Refuse) and answer.code is ErrorCode.CYCLE_CLOSED


def test_the_same_values_count_again_for_the_next_model() -> None:
    training = in_test()
    training.tests(0, "a"), training.tests(1, "a")
    training.work(0), training.work(1)
    training.aggregated(0, 1)
    assert training.tests(0, "a") == Count("id-0")
    assert training.tests(1, "a") == Count("id-1")
    assert training.finishes == [Finish("completed")]
    assert training.tests(1, "a") == Duplicate("id-1")


def test_who_was_not_asked_to_test_is_refused() -> None:
    training = in_test(0)
    for worker in (1, 7):
        answer = training.tests(worker)
        assert isinstance(answer, Refuse) and answer.code is ErrorCode.CYCLE_CLOSED


def test_at_the_deadline_it_goes_on_without_those_who_are_missing() -> None:
    training = in_test(cycle_length=10)
    assert training.state.due == 10.0
    training.tests(0)
    training.step(cycle.Tick(9.9))
    assert training.state.phase is Phase.TESTING
    assert training.step(cycle.Tick(10.0)) == (Miss(1, ("id-1",)), Open(2, 20.0))
    assert training.state.tests["id-1"].status is Answer.MISSING
    answer = training.tests(1)
    assert isinstance(answer, Refuse) and answer.code is ErrorCode.CYCLE_CLOSED


def test_who_asks_for_work_meanwhile_is_told_to_wait() -> None:
    training = in_test()
    answer = training.ask(0)
    assert isinstance(answer, Reject) and answer.code is ErrorCode.CYCLE_CHANGING and answer.retry_after
    assert "tested" in answer.reason


@pytest.mark.parametrize("asked", [1, 2])
def test_a_stop_waits_for_the_tests_and_a_second_one_does_not(asked: int) -> None:
    training = in_test()
    for _ in range(asked):
        training.step(cycle.StopAsked(training.now))
    assert (training.state.phase is Phase.TESTING) == (asked == 1)
    if asked == 1:
        training.tests(0), training.tests(1)
    assert training.finishes == [Finish("stopped")]
    assert Answer.PENDING not in [tested.status for tested in training.state.tests.values()]


def test_the_last_model_is_tested_too() -> None:
    training = Training(clients=1, num_cycles=1)
    training.work(0)
    training.aggregated(0)
    training.step(cycle.StopAsked(training.now))
    assert training.state.phase is Phase.TESTING
    training.tests(0)
    assert training.finishes == [Finish("completed")]
