"""Averaging plans: what a rule becomes, and what its plan gives."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gridkit as gk
from gridkit.errors import PlanError, UsageError
from gridkit.federated.aggregate import aggregate
from gridkit.plans.averaging import run_averaging
from gridkit.wire.tensors import Array, Arrays
from tests.plans.rules import mean, median, running, trimmed
from tests.training import mlp, plan_of, shards

MODEL = nn.Linear(3, 2)
Reports = list[tuple[float, Array]]


def reports(count: int, size: int = 8, seed: int = 0) -> Reports:
    draw = np.random.default_rng(seed)
    return [(float(draw.integers(1, 50)), draw.standard_normal(size).astype(np.float32)) for _ in range(count)]


def stacked(given: Reports) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(np.stack([v for _, v in given])), torch.tensor([w for w, _ in given])


@pytest.mark.parametrize("rule", [mean, median, trimmed])
@pytest.mark.parametrize("count", [3, 4, 7, 11, 20])
def test_it_does_what_the_rule_does_for_any_number_of_reports(rule: Callable[..., Any], count: int) -> None:
    plan, given = gk.averaging_plan(rule, MODEL), reports(count)
    assert plan.name == rule.__name__ and "updates float32[B, 8], n float32[B]" in repr(plan)
    wanted = rule(*stacked(given)).numpy()
    assert run_averaging(plan, given).tobytes() == wanted.tobytes()
    assert run_averaging(gk.Plan.from_bytes(plan.to_bytes()), given).tobytes() == wanted.tobytes()


def test_the_mean_is_that_of_fedavg_within_float32() -> None:
    given = reports(9, 1000)
    old = {"w": np.zeros(1000, np.float32)}
    (new,) = aggregate("fedavg", Arrays(old), [(w, Arrays({"w": v})) for w, v in given])
    plan = gk.averaging_plan(mean, nn.Linear(999, 1))
    np.testing.assert_allclose(run_averaging(plan, given), -new, rtol=0, atol=1e-6)


def test_an_iterative_rule_is_its_loop() -> None:
    plan, given = gk.averaging_plan(running, MODEL, iterative=True), reports(6)
    average = torch.from_numpy(given[0][1])
    for count, (_, update) in enumerate(given[1:], 1):
        average = running(average, torch.from_numpy(update), torch.tensor([float(count)]))
    assert run_averaging(plan, given).tobytes() == average.numpy().tobytes()
    np.testing.assert_allclose(average, np.mean([v for _, v in given], 0), atol=1e-6)
    assert run_averaging(plan, given[:1]).tobytes() == given[0][1].tobytes()  # nothing to do for a single one


def test_pygrids_numbers() -> None:
    given = [(1.0, np.full(8, value, np.float32)) for value in (1, 3)]
    for plan in (gk.averaging_plan(mean, MODEL), gk.averaging_plan(running, MODEL, iterative=True)):
        assert run_averaging(plan, given).tolist() == [2.0] * 8


def test_m3_robust_rules_keep_what_most_reports_say() -> None:
    """f < n / 3 reports of any size, also infinite ones, change nothing but which of the others count."""
    honest = [(1.0, 1 + values / 10) for _, values in reports(7)]
    for hostile in (1e30, -1e30, np.inf):
        given = [*honest, *[(1.0, np.full(8, hostile, np.float32))] * 3]
        for rule in (median, trimmed):
            result = run_averaging(gk.averaging_plan(rule, MODEL), given)
            assert ((result > 0.5) & (result < 1.5)).all(), (rule, hostile)
        assert not (np.abs(run_averaging(gk.averaging_plan(mean, MODEL), given)) < 1e6).any()


def test_what_is_averaged_is_what_the_training_plan_says() -> None:
    data = shards(2)
    model = nn.Sequential(nn.Linear(12, 4), nn.BatchNorm1d(4))  # with a counter that isn't averaged
    plan = plan_of(model, data)
    for of in (model, plan):
        (updates, _) = gk.averaging_plan(mean, of).inputs
        assert updates.shape == ("B", 12 * 4 + 4 * 5)


def test_a_condition_on_the_number_of_reports_becomes_one_of_the_plan() -> None:
    plan = gk.averaging_plan(trimmed, MODEL)
    assert plan.guards == (("ge", "B", 3),)
    with pytest.raises(PlanError, match="batch sizes B with B >= 3; this batch has 2"):
        run_averaging(plan, reports(2))


def shuffled(updates: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    return nn.functional.dropout(updates).mean(0)


REFUSED: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    (lambda updates: updates, {}, UsageError, r"can't be called as rule\(updates, n\)"),
    (mean, {"iterative": True}, UsageError, r"can't be called as rule\(average, update, count\)"),
    (lambda updates, n: updates[0].sum(), {}, PlanError, r"gives float32\[\] for 1 reports, expected float32\[8\]"),
    (lambda updates, n: updates, {}, PlanError, r"gives float32\[1, 8\] for 1 reports"),
    (lambda updates, n: updates.mean(0).double(), {}, PlanError, r"gives float64\[8\]"),
    (lambda updates, n: (updates.mean(0), n), {}, PlanError, "gives 2 tensors"),
    (lambda updates, n: 1.0, {}, PlanError, "the function gave float"),
    (shuffled, {}, PlanError, "draws random numbers"),
    (gk.averaging_plan(mean, MODEL), {}, UsageError, "'mean' is a plan already"),
    (lambda updates, n: updates[: len(updates) // 2].mean(0), {}, PlanError, "take the number.*updates.shape"),
    (lambda updates, n: updates[int(n.argmax())], {}, PlanError, "reads a tensor's value"),
]


@pytest.mark.parametrize(("rule", "more", "kind", "says"), REFUSED)
def test_a_rule_that_is_none_is_refused_with_the_reason(
    rule: Any, more: dict[str, Any], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind) as caught:
        gk.averaging_plan(rule, MODEL, **more)
    assert re.search(says, str(caught.value), re.DOTALL), str(caught.value)


def test_a_model_must_have_something_to_average() -> None:
    for model in (nn.ReLU(), object()):
        with pytest.raises(UsageError):
            gk.averaging_plan(mean, model)  # type: ignore[arg-type]


def test_the_model_stays_as_it_is() -> None:
    model = mlp()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gk.averaging_plan(median, model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
