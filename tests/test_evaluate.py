"""What `evaluate` says beside its metrics, and metrics that the node was told: Runs fed by hand, and a simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import gridkit as gk
from gridkit.errors import UsageError
from tests.runs import Source, made
from tests.support import wait_for
from tests.training import mlp, plan_of, shards


def test_stop_ends_the_training_after_the_round_that_is_under_way() -> None:
    """Once, however often it is said: a second time would be at once."""
    source = Source()
    run = made(source, evaluate=lambda model: {"score": 1.0, "stop": True})
    for round in (1, 2):
        source.open(round)
        source.aggregated(round)
        wait_for(lambda round=round: round in run._evaluated)
    wait_for(lambda: source.stops)
    source.finish("stopped")
    run.wait(10)
    assert source.stops == [False] and run.status == "stopped"
    assert run.metrics["score"].tolist() == [1.0, 1.0] and "stop" not in run.metrics


@pytest.mark.parametrize("asked", [np.float32(0.5) > 0.4, np.array(True), torch.tensor(0.5) > 0.4])
def test_what_a_comparison_gives_stops_too(asked: Any) -> None:
    source = Source()
    run = made(source, evaluate=lambda model: {"stop": asked})
    source.open(1)
    source.aggregated(1)
    wait_for(lambda: source.stops)
    source.finish("stopped")
    run.wait(10)
    assert "stop" not in run.metrics


@pytest.mark.parametrize("said", [{"stop": False}, {"stop": np.bool_(False)}, {"stop": 1.0}, {}, None])
def test_only_true_stops(said: Any) -> None:
    source = Source()
    run = made(source, evaluate=lambda model: said)
    source.open(1)
    source.aggregated(1)
    source.finish()
    run.wait(10)
    assert source.stops == []
    assert ("stop" in run.metrics) is (said == {"stop": 1.0})  # a number is a metric


def test_metrics_that_the_node_was_told_come_with_the_rows() -> None:
    source = Source()
    run = made(source)
    source.open(1)
    about = {"accepted": 2, "refused": 0, "samples": 4, "loss": 0.5, "seconds": 1.0, "bytes": 9}
    source.row("aggregated", cycle=1, checkpoint=2, **about, metrics={"accuracy": 0.75, "loss": 2.0, "odd": None})
    metrics = run.metrics
    assert (metrics["accuracy"][1], metrics["evaluate_loss"][1], metrics["loss"][1]) == (0.75, 2.0, 0.5)
    assert math.isnan(metrics["odd"][1])


def test_a_simulation_stops_early_too() -> None:
    data, net = shards(2), mlp()
    plan = plan_of(net, data)
    rounds = iter(range(1, 1000))
    run = gk.simulate(
        net, plan, clients=data, rounds=1000, evaluate=lambda model: {"n": (n := next(rounds)), "stop": n == 2}
    ).wait(60)
    assert run.status == "stopped" and 2 <= len(run.metrics) < 1000
    with pytest.raises(UsageError, match="a simulation has no node: pass the function itself"):
        gk.simulate(net, plan, clients=data, evaluate=3)
