"""Training plans in the order of the syft family: the same numbers, and clear words where there is no such form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gridkit.errors import PlanError
from gridkit.plans.optim import SGD, Adam
from gridkit.plans.plan import Plan
from gridkit.plans.syft_form import lacks, prologue, syft_step
from gridkit.plans.training import training_plan
from tests.plans.plans import MODELS, SHAPES, batch, mlp, start, traced


def one_hot(y: torch.Tensor) -> torch.Tensor:
    return F.one_hot(y, 5).float()


@pytest.mark.parametrize("size", [1, 8, 5])
@pytest.mark.parametrize("kind", MODELS)
def test_the_step_has_the_bits_of_the_training_plan(kind: str, size: int) -> None:
    plan, model = traced(kind), MODELS[kind]()
    step = syft_step(plan)
    x, y = batch(size, SHAPES[kind], seed=size)
    state = start(plan, model)
    loss, *want = plan.run([*state, x, y, torch.ones(size), 0.3])
    got_loss, accuracy, *got = step.run([x.flatten(1), one_hot(y), torch.tensor(float(size)), 0.3, *state])
    assert torch.equal(got_loss, loss)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True)) and len(got) == len(plan.state)
    with torch.no_grad():
        assert torch.equal(accuracy, (model(x).argmax(1) == y).float().mean())


@pytest.mark.parametrize("kind", MODELS)
def test_inputs_and_outputs_have_the_order_that_the_family_knows(kind: str) -> None:
    plan = traced(kind)
    step = syft_step(plan)
    features = {"mlp": 12, "cnn": 64}[kind]
    names = [s.name for s in plan.state]
    assert [i.name for i in step.inputs] == ["X", "y", "batch_size", "lr", *names]
    assert [i.shape for i in step.inputs[:4]] == [("B", features), ("B", 5), (), ()]
    assert [i.dtype for i in step.inputs[:3]] == ["float32"] * 3
    assert [o.name for o in step.outputs] == ["loss", "accuracy", *names]
    assert step.state == plan.state
    assert step.nodes[prologue(plan) : prologue(plan) + len(plan.nodes)] == plan.nodes
    assert syft_step(plan) is step


def test_the_step_can_be_sent() -> None:
    step = syft_step(traced("cnn"))
    assert Plan.from_bytes(step.to_bytes()).to_bytes() == step.to_bytes()


def plan_of(model: nn.Module, optimizer: Any = None, loss: Any = F.cross_entropy, y: Any = None, x: Any = None) -> Plan:
    given_x, given_y = batch(8)
    example = (given_x if x is None else x, given_y if y is None else y)
    return training_plan(model, loss, optimizer or SGD(0.1), example)


LACKING = {
    "momentum": (lambda: plan_of(mlp(), SGD(0.1, momentum=0.9)), "'momentum.0.weight' and 3 others between steps"),
    "Adam": (lambda: plan_of(mlp(), Adam()), "'exp_avg.0.weight' and 8 others between steps"),
    "Dropout": (lambda: plan_of(nn.Sequential(mlp(), nn.Dropout(0.5))), "it takes random numbers"),
    "BatchNorm": (
        lambda: plan_of(nn.Sequential(mlp(), nn.BatchNorm1d(5))),
        "'1.num_batches_tracked' is int64, and these workers hold float32 alone: use BatchNorm with track_running",
    ),
    "float64": (lambda: plan_of(mlp().to(torch.float64), x=batch(8)[0].double()), "x is float64"),
    "targets": (
        lambda: plan_of(mlp(), loss=F.mse_loss, y=torch.zeros(8, 5)),
        "y is float32[B, 5], not a class for each sample (int64[B])",
    ),
    "loss": (
        lambda: plan_of(mlp(), loss=lambda out, y: (out.sum(1) - y) ** 2),
        "its loss isn't one of classes: use F.cross_entropy",
    ),
    "words": (
        lambda: plan_of(nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 5)), x=torch.ones(8, 2).long()),
        "x is int64",
    ),
}


@pytest.mark.parametrize("what", LACKING)
def test_what_keeps_a_plan_from_it_is_said(what: str) -> None:
    make, want = LACKING[what]
    plan = make()
    reasons = lacks(plan)
    assert any(want in reason for reason in reasons), reasons
    with pytest.raises(PlanError) as error:
        syft_step(plan)
    assert all(reason in str(error.value) for reason in reasons)


def test_a_plan_for_some_batch_sizes_only_has_no_such_form() -> None:
    class Guarded(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return out * (2 if x.shape[0] > 3 else 1)

    (reason,) = lacks(plan_of(Guarded(mlp())))
    assert "batch sizes B with B > 3" in reason


def test_a_plan_of_a_function_has_no_such_form() -> None:
    (reason,) = lacks(syft_step(traced("mlp")))
    assert "is no training plan" in reason


def test_nothing_is_lacking_without_need() -> None:
    assert lacks(traced("mlp")) == lacks(traced("cnn", weight_decay=0.01)) == ()
