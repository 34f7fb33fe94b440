"""Averaging by a plain function, in a simulation. A node calls the same one: tests/node/test_notebook_rule.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import gridkit as gk
from gridkit.errors import PlanError, RunError, UsageError
from gridkit.federated.rules import CycleRules
from gridkit.workers.notebook_rule import NotebookRule
from gridkit.workers.settings import configurations
from tests.plans.rules import median as median_of_updates
from tests.training import mlp, plan_of, shards

DATA, NET = shards(4), mlp()
PLAN = plan_of(NET, DATA)


def median(diffs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return diffs.median(dim=0).values


def weighted(diffs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (diffs * weights[:, None]).sum(0) / weights.sum()


def run(strategy: Any, **options: Any) -> gk.Run:
    return gk.simulate(NET, PLAN, clients=DATA, rounds=2, strategy=strategy, **options).wait()


def test_a_function_is_what_its_plan_is() -> None:
    """Bit for bit: diffs and weights are the reports' and in the order of an averaging plan's inputs."""
    assert gk.verify(run(median), run(gk.averaging_plan(median_of_updates, NET)))
    assert gk.verify(run(weighted, max_samples=21), run(gk.averaging_plan(weighted, NET), max_samples=21))
    assert not gk.verify(run(median), run(weighted))


def test_it_may_be_a_coroutine_function_and_give_an_array() -> None:
    async def alike(diffs: torch.Tensor, weights: torch.Tensor) -> Any:
        return np.median(diffs.numpy(), axis=0)

    assert gk.verify(run(alike, fraction=0.75), run(median, fraction=0.75))  # of three reports they are the same


def test_what_it_is_given() -> None:
    given: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(diffs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        given.append((diffs, weights))
        return torch.zeros(diffs.shape[1])

    still = run(keep)
    assert [(d.dtype, tuple(d.shape), w.tolist()) for d, w in given] == [
        (torch.float32, (4, 276), [21, 22, 23, 21])
    ] * 2
    assert torch.equal(given[0][0], given[1][0]) is False  # other batches
    assert all(torch.equal(torch.from_numpy(a), NET.state_dict()[name]) for name, a in still.state.items())


@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        (lambda d, w: d.double().mean(0), "gave float64[276], expected float32[276]"),
        (lambda d, w: d.mean(1), "gave float32[4], expected float32[276]"),
        (lambda d, w: None, "gave a NoneType, expected float32[276]"),
        (lambda d, w: d.mean(0) / 0, "gave values that are not finite"),
        (lambda d, w: 1 // 0, "raised ZeroDivisionError: integer division or modulo by zero"),
        (lambda d, w: exit("enough"), "raised SystemExit: enough"),
        (lambda d: d, "raised TypeError: "),
        (lambda d, w: torch.full_like(d[0], -3e38), "failed: it makes values of '0.weight' that are not finite"),
    ],
)
def test_what_fails_the_training_names_the_function(strategy: Any, says: str) -> None:
    strategy.__name__ = "mine"
    net = mlp()
    with torch.no_grad():
        next(net.parameters())[0, 0] = 1e38  # nothing comes that way
    dark = [(x * (np.arange(12) > 0).astype(np.float32), y) for x, y in DATA]
    training = gk.simulate(net, PLAN, clients=dark, rounds=2, strategy=strategy)
    with pytest.raises(RunError) as caught:
        training.wait()
    assert caught.value.message.startswith(f"the training 'simulation' 1.0 failed: round 1: the strategy mine {says}")


def test_what_can_be_no_strategy() -> None:
    for wrong in (3, None, nn_class()):
        with pytest.raises(UsageError, match="strategy is "):
            run(wrong)
    with pytest.raises(UsageError, match="name a function, in up to 60"):
        CycleRules.from_config({"strategy": "notebook function "})
    with pytest.raises(UsageError, match="use one of"):
        CycleRules.from_config({"strategy": "notebook"})


def nn_class() -> type:
    return torch.nn.Linear


def test_the_configuration_names_it_and_has_nothing_of_its_code() -> None:
    common: dict[str, Any] = {"clients": 2, "rounds": 1, "batch_size": 8, "local_epochs": 1, "lr": None, "seed": 0}
    _, server = configurations(**common, strategy=median)
    assert server["strategy"] == "notebook function median"
    rules = CycleRules.from_config(server)
    assert rules.function("strategy") == "median" and CycleRules(**rules.to_json()) == rules
    assert CycleRules().function("strategy") is None and CycleRules().function("evaluate") is None
    _, odd = configurations(**common, strategy=type("Odd\n", (), {"__call__": lambda self, d, w: d})())
    assert odd["strategy"] == "notebook function Odd?"


def test_a_rule_by_itself() -> None:
    rule = NotebookRule(weighted)
    reports = [(1.0, [np.ones(2, np.float32), np.zeros(1, np.float32)]), (3.0, [np.zeros(3, np.float32)])]
    assert rule.run(reports, 3).tolist() == [0.25, 0.25, 0.0]
    with pytest.raises(PlanError, match=r"gave float32\[3\], expected float32\[4\]"):
        NotebookRule(lambda d, w: d[0, :3]).run([(1.0, [np.ones(4, np.float32)])], 4)
