"""What can't be a plan is refused in one line that names the operation and the user's line."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gridkit.errors import PlanError
from gridkit.plans.model import model_plan
from gridkit.plans.optim import SGD
from gridkit.plans.plan import Plan
from gridkit.plans.training import training_plan
from tests.plans.plans import SHAPES, batch, cnn, mlp

BIG = torch.randn(40, 40)
SMALL = torch.randn(5)
FOREIGN = nn.Parameter(torch.randn(5))


class Model(nn.Module):
    """A linear layer inside of a function under test."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.linear, self.function = nn.Linear(12, 5), function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self, x)


def traced(function: Callable[..., Any], size: int = 8) -> Plan:
    return training_plan(Model(function), F.cross_entropy, SGD(0.1), batch(size))


def branch(self: Model, x: torch.Tensor) -> torch.Tensor:
    if x.sum() > 0:  # here
        return self.linear(x)
    return -self.linear(x)


def item(self: Model, x: torch.Tensor) -> torch.Tensor:
    return self.linear(x) * x.sum().item()  # here


def number(self: Model, x: torch.Tensor) -> torch.Tensor:
    return self.linear(x) * float(x.abs().mean())  # here


def loop(self: Model, x: torch.Tensor) -> torch.Tensor:
    out = self.linear(x)
    for i in range(x.shape[0]):  # here
        out = out + i
    return out


def rows(self: Model, x: torch.Tensor) -> torch.Tensor:
    return torch.stack([self.linear(x[i]) for i in range(x.shape[0])])  # here


def root(self: Model, x: torch.Tensor) -> torch.Tensor:
    return self.linear(x) * math.sqrt(x.shape[0])  # here


def captured(self: Model, x: torch.Tensor) -> torch.Tensor:
    return self.linear(x) + BIG[:1, :5]  # here


def captured_and_detached(self: Model, x: torch.Tensor) -> torch.Tensor:
    return self.linear(x) + BIG.detach().sum()  # here


def foreign(self: Model, x: torch.Tensor) -> torch.Tensor:
    return self.linear(x) + FOREIGN  # here


def unsupported(self: Model, x: torch.Tensor) -> torch.Tensor:
    return self.linear(x.cumprod(1))  # here


def random(self: Model, x: torch.Tensor) -> torch.Tensor:
    return self.linear(x + torch.randn_like(x))  # here


def boolean_index(self: Model, x: torch.Tensor) -> torch.Tensor:
    return self.linear(x) + x[x > -99].sum()  # here


def into_a_view(self: Model, x: torch.Tensor) -> torch.Tensor:
    out = self.linear(x)
    view = out[:, :2]
    out.add_(1)  # here
    return out + view.sum()


def into_the_input(self: Model, x: torch.Tensor) -> torch.Tensor:
    x.mul_(1)  # here
    return self.linear(x)


def into_a_part(self: Model, x: torch.Tensor) -> torch.Tensor:
    out = self.linear(x)
    out[:, 0] = 0  # here
    return out


def raises_late(self: Model, x: torch.Tensor) -> torch.Tensor:
    if not isinstance(x.shape[0], int):
        raise KeyError("no such layer")  # here
    return self.linear(x)


def to_numpy(self: Model, x: torch.Tensor) -> torch.Tensor:
    return self.linear(torch.from_numpy(x.numpy() * 2))  # here


REFUSED = [
    (branch, "the code reads a tensor's value"),
    (item, "the code reads a tensor's value"),
    (number, "the code reads a tensor's value"),
    (loop, "the code holds only for batches of 8"),
    (rows, "the code holds only for batches of 8"),
    (root, "the code holds only for batches of 8"),
    (captured, "a captured tensor (40x40, float32) would travel inside the plan"),
    (captured_and_detached, "a captured tensor (40x40, float32) would travel inside the plan"),
    (foreign, "a parameter (5) is used that doesn't belong to the model"),
    (unsupported, "a plan can't hold the operation aten.cumprod.default"),
    (random, "a plan can't hold the operation aten.randn_like.default"),
    (boolean_index, "a plan can't hold the operation aten.index.Tensor"),
    (into_a_view, "operation aten.add_.Tensor changes a tensor in place that another view shares"),
    (into_the_input, "operation aten.mul_.Tensor changes an input, a parameter or a buffer in place"),
    (into_a_part, "a plan can't hold the operation aten.fill_.Tensor"),
    (raises_late, "the code raised KeyError while it was traced: 'no such layer'"),
    (to_numpy, "the code raised RuntimeError while it was traced: .numpy()"),
]


@pytest.mark.parametrize(("function", "why"), REFUSED, ids=[f.__name__ for f, _ in REFUSED])
def test_refused_with_reason_and_line(function: Callable[..., Any], why: str) -> None:
    with pytest.raises(PlanError) as caught:
        traced(function)
    message = caught.value.message
    assert message.startswith(why) and "\n" not in message
    assert re.search(r" \(test_trace.py:\d+: .*# here\)$", message), message


def test_module_and_advice_stand_in_the_message() -> None:
    table = nn.Sequential(nn.Embedding(9, 12, max_norm=1.0), nn.Flatten(), nn.Linear(12, 5))
    example = torch.zeros(8, 1, dtype=torch.int64), batch(8)[1]
    with pytest.raises(PlanError, match=r"embedding_renorm_.*, in module '0' \(Embedding\)") as caught:
        training_plan(table, F.cross_entropy, SGD(0.1), example)
    assert "without max_norm" in str(caught.value)


def test_memory_that_nothing_was_written_to_has_no_value() -> None:
    with pytest.raises(PlanError, match="reads new memory that nothing was written to"):
        traced(lambda self, x: self.linear(x) + torch.empty(5))


def test_a_batch_of_one_is_refused_where_eager_training_refuses_it() -> None:
    plan = training_plan(mlp(nn.BatchNorm1d(9)), F.cross_entropy, SGD(0.1), batch(8))
    state = [torch.zeros(s.shape, dtype=getattr(torch, s.dtype)) for s in plan.state]
    with pytest.raises(PlanError, match="batch sizes B with B > 1; this batch has 1"):
        plan.run([*state, *batch(1), torch.ones(1), 0.1])


def test_random_numbers_are_inputs_of_the_plan_with_the_batch_first() -> None:
    def function(self: Model, x: torch.Tensor) -> torch.Tensor:
        hidden = F.dropout(x.view(-1, 3, 4).transpose(0, 1), 0.5)
        return F.dropout(self.linear(F.dropout(hidden, 0.0).transpose(0, 1).reshape(-1, 12)))

    drawn = [(i.name, i.dtype, i.shape) for i in traced(function).inputs if i.role == "uniform"]
    assert drawn == [("uniform.0", "float32", ("B", 12)), ("uniform.1", "float32", ("B", 5))]
    model = Model(lambda self, x: F.dropout(self.linear(x), 0.5, self.training))
    assert any(i.role == "uniform" for i in training_plan(model, F.cross_entropy, SGD(0.1), batch(8)).inputs)
    model = Model(lambda self, x: F.dropout(self.linear(x), 0.5, training=False))
    assert not any(i.role == "uniform" for i in training_plan(model, F.cross_entropy, SGD(0.1), batch(8)).inputs)


def test_a_loss_that_gives_no_tensor_is_refused() -> None:
    with pytest.raises(PlanError, match="the loss gave float, expected a tensor"):
        training_plan(mlp(), lambda o, y: F.cross_entropy(o, y).item(), SGD(0.1), batch(8))  # type: ignore[arg-type, return-value]
    with pytest.raises(PlanError, match="a captured tensor"):
        training_plan(mlp(), lambda o, y: F.cross_entropy(o, y) + 0 * BIG.sum(), SGD(0.1), batch(8))
    with pytest.raises(PlanError, match="depends on the model's parameters"):
        training_plan(mlp(), lambda o, y: F.cross_entropy(o.detach(), y), SGD(0.1), batch(8))


# ---- guards


def above(self: Model, x: torch.Tensor) -> torch.Tensor:
    if x.shape[0] > 4:
        return self.linear(x)
    return self.linear(x) * 2


def even(self: Model, x: torch.Tensor) -> torch.Tensor:
    if x.shape[0] % 2 == 0:
        return self.linear(x)
    return self.linear(x) * 2


def test_what_the_user_asks_of_the_batch_size_is_kept() -> None:
    assert traced(above).guards == (("gt", "B", 4),)
    assert traced(above, 3).guards == (("le", "B", 4),)
    assert traced(even).guards == (("eq", ("mod", "B", 2), 0),)
    plan = Plan.from_bytes(traced(above).to_bytes())
    state = [torch.zeros(s.shape) for s in plan.state]
    plan.run([*state, *batch(5), torch.ones(5), 0.1])
    with pytest.raises(PlanError, match=r"traced for batch sizes B with B > 4; this batch has 4"):
        plan.run([*state, *batch(4), torch.ones(4), 0.1])


def alone(self: Model, x: torch.Tensor) -> torch.Tensor:
    if x.shape[0] == 1:
        return self.linear(x) * 2
    return self.linear(x)


def test_what_the_user_does_for_a_single_sample_is_not_forgotten() -> None:
    plan = traced(alone)
    state = [torch.zeros(s.shape) for s in plan.state]
    plan.run([*state, *batch(2), torch.ones(2), 0.1])
    with pytest.raises(PlanError, match=r"traced for batch sizes B with B != 1; this batch has 1"):
        plan.run([*state, *batch(1), torch.ones(1), 0.1])


def test_squeeze_keeps_the_batch_and_says_where_eager_would_not() -> None:
    model = nn.Sequential(nn.Linear(12, 1), nn.Flatten(0, -1))
    squeezed = Model(lambda self, x: self.linear(x).unsqueeze(1)[..., :1].squeeze())
    x, y = batch(8)[0], torch.randn(8)
    assert training_plan(model, F.mse_loss, SGD(0.1), (x, y)).guards == ()
    plan = training_plan(squeezed, F.mse_loss, SGD(0.1), (x, y))
    assert plan.guards == (("gt", "B", 1),)
    state = [v.clone() for v in squeezed.state_dict().values()]
    loss, *_ = plan.run([*state, x[:3], y[:3], torch.ones(3), 0.1])
    torch.testing.assert_close(loss, F.mse_loss(squeezed(x[:3]), y[:3]).detach())


@pytest.mark.parametrize("size", [2, 8, 16, 40])
def test_what_torch_asks_by_itself_is_dropped(size: int) -> None:
    plan = training_plan(cnn(), F.cross_entropy, SGD(0.1), batch(size, SHAPES["cnn"]))
    assert plan.guards == ()


def test_a_batch_as_large_as_a_layer_is_no_fixed_number() -> None:
    example = torch.randn(5, 12), torch.randn(5, 5)
    plan = training_plan(mlp(), lambda o, y: (o - y).pow(2).mean(1).mean() + SMALL.mean(), SGD(0.1), example)
    assert plan.guards == ()


# ---- constants


def test_small_captured_tensors_travel_inside() -> None:
    plan = traced(lambda self, x: self.linear(x) + SMALL * torch.tensor(2.0))
    found = sorted(plan.constants.values(), key=lambda c: c.size)
    assert [c.shape for c in found] == [(), (5,)] and torch.equal(torch.tensor(found[1]), SMALL)


def test_a_captured_tensor_is_taken_once() -> None:
    plan = traced(lambda self, x: self.linear(x) + SMALL + SMALL.detach())
    assert len(plan.constants) == 1


def test_in_place_on_a_value_of_its_own_is_fine() -> None:
    def function(self: Model, x: torch.Tensor) -> torch.Tensor:
        out = self.linear(x)
        return out.mul_(2).add_(1)

    model = Model(function)
    plan = training_plan(model, F.cross_entropy, SGD(0.1), batch(8))
    assert not any(n.op.split(".")[1].endswith("_") for n in plan.nodes)
    x, y = batch(6)
    state = [v.clone() for v in model.state_dict().values()]
    loss, *_ = plan.run([*state, x, y, torch.ones(6), 0.1])
    torch.testing.assert_close(loss, F.cross_entropy(model(x), y).detach())


def test_what_the_model_stores_stays_out_of_the_callers_model() -> None:
    def function(self: Model, x: torch.Tensor) -> torch.Tensor:
        self.last = x  # type: ignore[assignment]
        return self.linear(x)

    model = Model(function)
    training_plan(model, F.cross_entropy, SGD(0.1), batch(8))
    assert not hasattr(model, "last")


def test_what_torch_logs_of_a_failure_is_not_shown_beside_the_error(caplog: pytest.LogCaptureFixture) -> None:
    """It logs a traceback of its own when shapes don't fit, the commonest mistake of all."""
    with pytest.raises(PlanError, match="in module '0' \\(Linear\\)"):
        model_plan(torch.nn.Sequential(torch.nn.Linear(4, 2)), torch.zeros(5, 3))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    logging.getLogger("torch._subclasses.fake_tensor").error("another")
    assert caplog.messages[-1] == "another"
