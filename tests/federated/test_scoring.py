"""What a notebook's function says of a new model: its metrics, a wish to stop, or that it failed."""

from __future__ import annotations

from typing import Any

import pytest

from gridkit.errors import ErrorCode, EvaluationFailed, UsageError
from gridkit.federated import cycle
from gridkit.federated.rules import CycleRules
from gridkit.results import failure
from tests.federated.machine import Training


def closed(**config: Any) -> Training:
    """One whose first cycle is to be averaged."""
    training = Training(clients=1, evaluate="accuracy", **config)
    training.work(0)
    assert training.state.phase is cycle.Phase.AGGREGATING
    return training


def test_its_metrics_are_in_the_rounds_row() -> None:
    training = closed(num_cycles=2)
    training.step(cycle.Aggregated(9.0, 1, metrics={"accuracy": 0.5, "odd": None}))
    (row,) = [row for row in training.rows if row["kind"] == "aggregated"]
    assert row["metrics"] == {"accuracy": 0.5, "odd": None} and training.state.phase is cycle.Phase.OPEN


@pytest.mark.parametrize(("rounds", "outcome"), [(1, "completed"), (2, "stopped")])
def test_a_wish_to_stop_makes_the_round_the_last(rounds: int, outcome: str) -> None:
    training = closed(num_cycles=rounds)
    assert training.step(cycle.Aggregated(9.0, 1, stop=True)) == (cycle.Finish(outcome),)


def test_testers_still_test_the_last_model() -> None:
    training = closed(num_cycles=2)
    tester = cycle.Tester("id-0", "client 0", 0)
    training.step(cycle.Aggregated(9.0, 1, testers=(tester,), stop=True))
    assert training.state.phase is cycle.Phase.TESTING
    training.step(cycle.TestCame(10.0, "id-0", "d", {}))
    assert training.state.outcome == "stopped"


def test_a_function_that_fails_ends_the_training_after_the_model_is_kept() -> None:
    training = closed()
    training.step(cycle.Aggregated(9.0, 1, failure="evaluate=accuracy raised KeyError: 'w'"))
    assert [row["kind"] for row in training.rows[-2:]] == ["aggregated", "finished"]
    assert training.history.code == ErrorCode.EVALUATION_FAILED
    error = failure(training.history, "'t' 1.0")
    assert isinstance(error, EvaluationFailed)
    assert error.message == "the training 't' 1.0 failed: round 1: evaluate=accuracy raised KeyError: 'w'"


def test_the_rules_have_its_name() -> None:
    rules = CycleRules.from_config({"evaluate": "accuracy"})
    assert rules.function("evaluate") == "accuracy" and CycleRules(**rules.to_json()) == rules
    assert CycleRules.from_config({"evaluate": None}).function("evaluate") is None
    for wrong in (3, "x" * 61, "a\nb"):
        with pytest.raises(UsageError, match=r"server_config\.evaluate is"):
            CycleRules.from_config({"evaluate": wrong})
