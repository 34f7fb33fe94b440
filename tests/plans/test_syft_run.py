"""`Plan.execute`: numbers, arrays and tensors in the order of the syft family; what is wrong is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import gridkit as gk
from gridkit.errors import GridkitError, PlanError, UsageError
from gridkit.plans.syft_form import syft_step
from tests.training import CLASSES, cnn, mlp, plan_of, shards

DATA = shards(1)
X, Y = DATA[0]
ONE_HOT = np.eye(CLASSES, dtype=np.float32)[Y]
MODEL = mlp()
PLAN = plan_of(MODEL, DATA)
PARAMS = [value.numpy() for value in MODEL.state_dict().values()]


def torch_step(model: torch.nn.Module, x: Any, y: Any, lr: float) -> tuple[float, float, list[torch.Tensor]]:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    logits = model(torch.tensor(x))
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(y))
    loss.backward()
    optimizer.step()
    right = (logits.argmax(1) == torch.tensor(y)).float().mean()
    return float(loss.detach()), float(right), [p.detach() for p in model.state_dict().values()]


@pytest.mark.parametrize("size", [1, 8, 21])
def test_it_is_one_step_of_torch(size: int) -> None:
    loss, accuracy, *params = PLAN.execute(None, X[:size], ONE_HOT[:size], size, 0.1, *PARAMS)
    want_loss, want_accuracy, want = torch_step(mlp(), X[:size], Y[:size], 0.1)
    assert float(loss) == pytest.approx(want_loss, abs=1e-6) and float(accuracy) == pytest.approx(want_accuracy)
    for got, wanted in zip(params, want, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)


def test_a_convolution_takes_its_images_flat() -> None:
    data = shards(1, image=True)
    x, y = data[0]
    model = cnn()
    one_hot = np.eye(CLASSES, dtype=np.float32)[y]
    plan = plan_of(model, data)
    _, _, *params = plan.execute(None, x.reshape(len(x), -1), one_hot, len(x), 0.1, *model.state_dict().values())
    for got, wanted in zip(params, torch_step(cnn(), x, y, 0.1)[2], strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)


def test_numbers_may_be_tensors_and_tensors_may_be_arrays() -> None:
    want = PLAN.execute(None, X, ONE_HOT, len(X), 0.1, *PARAMS)
    for batch, lr in (
        (torch.tensor(21), torch.tensor([0.1], dtype=torch.float64)),
        (np.float64(21), np.array(0.1)),
        (21.0, torch.tensor(0.1, dtype=torch.float64)),
    ):
        given = [torch.tensor(p, requires_grad=True) for p in PARAMS]
        got = PLAN.execute("any worker", torch.tensor(X), ONE_HOT.astype(np.int64), batch, lr, *given)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    again = syft_step(PLAN).execute(None, X.tolist(), ONE_HOT, 21, 0.1, *PARAMS)
    assert all(torch.equal(a, b) for a, b in zip(again, want, strict=True))
    none = PLAN.execute(None, X, ONE_HOT, len(X), 0, *PARAMS)
    assert all(np.array_equal(a, b) for a, b in zip(none[2:], PARAMS, strict=True))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ((), "takes 8 arguments, got 0"),
        ((X, ONE_HOT, 21, 0.1, *PARAMS, 1), "takes 8 arguments, got 9"),
        ((X, Y, 21, 0.1, *PARAMS), r"y is \[21\], and .* one-hot: .*\nTry: torch.nn.functional.one_hot"),
        ((X[:, :5], ONE_HOT, 21, 0.1, *PARAMS), "X"),
        ((X, ONE_HOT, 21, [0.1, 0.2], *PARAMS), "lr"),
        ((X, ONE_HOT, 21, "fast", *PARAMS), "lr"),
        ((X.astype(complex), ONE_HOT, 21, 0.1, *PARAMS), "X is torch.complex"),
        ((X, ONE_HOT, 21, 0.1, *PARAMS[::-1]), "0.weight"),
    ],
    ids=["none", "one more", "classes", "narrow", "two numbers", "text", "complex", "order"],
)
def test_what_is_wrong_is_named(data: Any, text: str) -> None:
    with pytest.raises(GridkitError, match=text):
        PLAN.execute(None, *data)


def test_a_plan_without_that_form_says_why() -> None:
    with pytest.raises(PlanError, match="keeps"):
        plan_of(MODEL, DATA, momentum=0.9).execute(None, X, ONE_HOT, 21, 0.1, *PARAMS)


def test_the_plan_of_a_function_takes_its_arguments() -> None:
    @gk.plan(args=[gk.spec("B", 3), gk.spec(3)])
    def both(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * w, x.sum()

    x, w = torch.ones(2, 3), torch.arange(3.0)
    got = both.execute(None, x, w)
    assert isinstance(got, list) and torch.equal(got[0], x * w) and float(got[1]) == 6.0
    with pytest.raises(UsageError):
        both.execute(None, x)
