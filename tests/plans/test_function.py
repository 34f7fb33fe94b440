"""gk.plan: any function of tensors as a plan that is called like the function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gridkit as gk
from gridkit.errors import PlanError, UsageError
from gridkit.plans.check import check_training
from gridkit.plans.plan import Plan
from tests.plans.plans import mlp, traced


@gk.plan(args=(gk.spec("B", 3), gk.spec("B")))
def weighted(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return (x * w[:, None]).sum(0) / w.sum()


@gk.plan(args=(gk.spec("B", 4), gk.spec("B", dtype="int64")))
def loss_and_hits(scores: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return F.cross_entropy(scores, labels), (scores.argmax(1) == labels).sum()


@settings(max_examples=30)
@given(size=st.integers(1, 65), seed=st.integers(0, 99))
def test_gives_what_the_function_gives(size: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, w = torch.randn(size, 3), torch.rand(size)
    assert torch.equal(weighted(x, w), (x * w[:, None]).sum(0) / w.sum())  # type: ignore[arg-type]
    scores, labels = torch.randn(size, 4), torch.randint(0, 4, (size,))
    loss, hits = loss_and_hits(scores, labels)
    assert torch.equal(loss, F.cross_entropy(scores, labels))
    assert torch.equal(hits, (scores.argmax(1) == labels).sum())


def test_is_a_plan_with_names_roles_and_a_form() -> None:
    assert isinstance(weighted, Plan) and weighted.name == "weighted"
    assert [(i.name, i.role, i.dtype, i.shape) for i in weighted.inputs] == [
        ("x", "arg", "float32", ("B", 3)),
        ("w", "arg", "float32", ("B",)),
    ]
    assert [(o.name, o.role) for o in loss_and_hits.outputs] == [("result.0", "result"), ("result.1", "result")]
    assert repr(weighted).endswith("operations, x float32[B, 3], w float32[B]>")
    again = Plan.from_bytes(weighted.to_bytes())
    x, w = np.ones((4, 3), np.float32), np.ones(4, np.float32)
    assert torch.equal(again(x, w), torch.ones(3))  # type: ignore[arg-type]


def test_a_module_is_an_argument_and_its_weights_are_inputs() -> None:
    torch.manual_seed(0)
    model, other = mlp(), mlp()

    @gk.plan(args=(gk.spec("B", 12), model), name="probabilities")
    def plan(x: torch.Tensor, net: Any) -> torch.Tensor:
        return torch.softmax(net(x), 1)

    assert [i.name for i in plan.inputs][1:] == [f"net.{name}" for name in model.state_dict()]
    x = torch.randn(7, 12)
    for given_, net in ((model, model), (other, other), (other.state_dict(), other)):
        assert torch.equal(plan(x, given_), torch.softmax(net(x), 1))  # type: ignore[arg-type]
    assert all(type(p) is nn.Parameter for p in model.parameters())


def test_mappings_lists_and_examples() -> None:
    @gk.plan(args=({"a": gk.spec("B"), "b": np.ones(2, np.float32)}, [gk.spec(dtype="float64"), torch.zeros(2, 2)]))
    def plan(named: dict[str, torch.Tensor], listed: list[torch.Tensor]) -> torch.Tensor:
        return named["a"].sum() * named["b"] * listed[0] + listed[1]

    assert [i.name for i in plan.inputs] == ["named.a", "named.b", "listed.0", "listed.1"]
    out = plan({"a": torch.ones(3), "b": torch.ones(2)}, [torch.tensor(2.0, dtype=torch.float64), torch.zeros(2, 2)])
    assert torch.equal(out, torch.full((2, 2), 6.0))  # type: ignore[arg-type]


def test_gradients_inside_of_a_function() -> None:
    model = nn.Linear(3, 1)

    @gk.plan(args=(gk.spec("B", 3), model))
    def plan(x: torch.Tensor, net: Any) -> Any:
        return torch.autograd.grad(net(x).pow(2).mean(), [net.weight, net.bias])

    x = torch.randn(5, 3)
    for mine, theirs in zip(
        plan(x, model), torch.autograd.grad(model(x).pow(2).mean(), list(model.parameters())), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_random_numbers_are_drawn_unless_the_module_is_evaluated() -> None:
    model = nn.Sequential(nn.Linear(3, 64), nn.Dropout(0.5))

    def make() -> Plan:
        return gk.plan(args=(gk.spec("B", 3), model))(lambda x, net: net(x))

    drawn, still = make(), (model.eval(), make())[1]
    assert [i.role for i in drawn.inputs].count("uniform") == 1
    assert not any(i.role == "uniform" for i in still.inputs)
    x = torch.ones(5, 3)
    torch.manual_seed(0)
    one, two = drawn(x, model), drawn(x, model)
    torch.manual_seed(0)
    assert torch.equal(drawn(x, model), one) and not torch.equal(one, two)  # type: ignore[arg-type]
    assert torch.equal(still(x, model), model(x))  # type: ignore[arg-type]


def test_the_batch_size_may_be_asked_for() -> None:
    @gk.plan(args=(gk.spec("B", 3),))
    def plan(x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > 2:
            return x.sum() / x.shape[0]
        return x.sum()

    assert plan(torch.ones(4, 3)) == 3
    with pytest.raises(PlanError, match="B > 2; this batch has 2"):
        plan(torch.ones(2, 3))


BIG = torch.ones(2000)
OUTSIDE = nn.Linear(3, 3)

REFUSED: list[tuple[tuple[Any, ...], Callable[..., Any], type[Exception], str]] = [
    ((gk.spec("B"),), lambda x: x + BIG.sum(), PlanError, "captured tensor .2000, float32"),
    ((gk.spec("B", 3),), lambda x: OUTSIDE(x), PlanError, "a parameter .* doesn't belong"),
    ((gk.spec("B"),), lambda x: float(x.sum()), PlanError, "reads a tensor's value"),
    ((gk.spec("B"),), lambda x: "text", PlanError, "the function gave str, expected a tensor"),
    ((gk.spec("B"),), lambda x: (), PlanError, "the function gave tuple, expected a tensor"),
    ((gk.spec("B", 3), nn.BatchNorm1d(3)), lambda x, net: net(x), PlanError, r"in place.*\n.*eval"),
    ((gk.spec("B"),), lambda: torch.ones(1), UsageError, "args has 1 entries, which the function doesn't take"),
    ((gk.spec("B"), "text"), lambda x, y: x, UsageError, "an argument is no tensor"),
    ((), lambda: torch.ones(1), UsageError, "at least one tensor"),
    (({},), lambda x: torch.ones(1), UsageError, "at least one tensor"),
]


@pytest.mark.parametrize(("args", "function", "error", "why"), REFUSED)
def test_what_is_no_plan_is_refused(
    args: tuple[Any, ...], function: Callable[..., Any], error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        gk.plan(args=args)(function)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((3, "B"), "float32"), ((-1,), "float32"), ((True,), "int64"), ((), "f4")]
)
def test_a_wrong_spec_is_refused(shape: Any, dtype: str) -> None:
    with pytest.raises(UsageError, match="spec"):
        gk.spec(*shape, dtype=dtype)


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(UsageError, match=r"takes 2 tensors \(x, w\), got 1"):
        weighted(torch.ones(4, 3))
    with pytest.raises(PlanError, match=r"input 'x' of plan 'weighted' is \[4, 2\], expected \[B, 3\]"):
        weighted(torch.ones(4, 2), torch.ones(4))
    with pytest.raises(UsageError, match="is no plan of a function"):
        traced("mlp")(torch.ones(4, 12))
    with pytest.raises(UsageError, match="made of a function, not of int"):
        gk.plan(args=())(3)  # type: ignore[arg-type]


def test_it_is_no_training_plan() -> None:
    check_training(traced("mlp"))
    with pytest.raises(PlanError, match="'weighted' is no training plan: it has no input of role x"):
        check_training(weighted)
