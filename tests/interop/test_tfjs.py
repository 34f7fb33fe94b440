"""Training steps by the unmodified syft.js 0.1.4 on TensorFlow.js 1.7.4, against the same plan with torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gridkit.plans.function import plan as plan_of
from gridkit.plans.function import spec
from gridkit.plans.optim import SGD
from gridkit.plans.plan import Plan
from gridkit.plans.syft_form import syft_step
from gridkit.plans.training import training_plan
from tests.interop.tfjs import Refused, Tfjs, running

pytestmark = pytest.mark.interop

CLASSES = 5


@pytest.fixture(scope="module")
def tfjs() -> Iterator[Tfjs]:
    with running() as process:
        yield process


def lenet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, CLASSES),
    )


def cnn(*layers: nn.Module, features: int) -> Callable[[], nn.Sequential]:
    return lambda: nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, CLASSES))


def mlp(activation: nn.Module) -> Callable[[], nn.Sequential]:
    return lambda: nn.Sequential(nn.Linear(12, 9), activation, nn.Linear(9, CLASSES))


class Residual(nn.Module):
    """A skip connection, slices, a concatenation, arithmetic with the batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.scale = nn.Linear(12, 12), nn.Linear(18, CLASSES), nn.Parameter(torch.tensor(0.7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x + torch.tanh(self.one(x)) * self.scale
        h = torch.cat([h, h[:, 3:9].flip(1)], 1) - x.mean(0).sum() / x.shape[0]
        out: torch.Tensor = self.two(h)
        return out


def averaged(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.nll_loss(F.log_softmax(out, 1), y, weight=torch.tensor([0.5, 1, 2, 1, 0.1]))


IMAGE, LINE = (1, 12, 12), (2, 20)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, Any]]] = {
    "mlp": (mlp(nn.ReLU()), (12,), {}),
    "weight decay": (mlp(nn.ReLU()), (12,), {"optimizer": SGD(0.1, weight_decay=0.01)}),
    "class weights": (mlp(nn.Sigmoid()), (12,), {"loss": averaged}),
    "label smoothing": (mlp(nn.Sigmoid()), (12,), {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)}),
    "gelu": (mlp(nn.GELU()), (12,), {}),
    "gelu by tanh": (mlp(nn.GELU("tanh")), (12,), {}),
    "silu": (mlp(nn.SiLU()), (12,), {}),
    "elu": (mlp(nn.ELU(0.7)), (12,), {}),
    "leaky relu": (mlp(nn.LeakyReLU(0.2)), (12,), {}),
    "softplus": (mlp(nn.Softplus(2.0)), (12,), {}),
    "hardtanh": (mlp(nn.Hardtanh(-0.3, 0.4)), (12,), {}),
    "softmax inside": (mlp(nn.Softmax(1)), (12,), {}),
    "residual": (Residual, (12,), {}),
    "lenet": (lenet, (1, 28, 28), {}),
    "cnn": (
        cnn(nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(3, 4, 3), nn.ReLU(), features=64),
        IMAGE,
        {},
    ),
    "strides": (
        cnn(nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, stride=(2, 3)), features=16),
        IMAGE,
        {},
    ),
    "uneven padding": (cnn(nn.Conv2d(1, 3, (3, 5), padding=(0, 2)), nn.ReLU(), features=360), IMAGE, {}),
    "no bias": (
        cnn(nn.Conv2d(1, 2, 3, bias=False), nn.ReLU(), nn.Conv2d(2, 2, 3, bias=False), features=128),
        IMAGE,
        {},
    ),
    "pooled with a rest": (cnn(nn.Conv2d(1, 3, 2), nn.MaxPool2d(3), nn.ReLU(), features=27), IMAGE, {}),
    "mean of each filter": (
        cnn(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), features=6),
        IMAGE,
        {},
    ),
    "sequences": (cnn(nn.Conv1d(2, 3, 3, stride=2, padding=1), nn.ReLU(), features=30), LINE, {}),
}


def made(kind: str) -> tuple[Plan, list[torch.Tensor], tuple[int, ...]]:
    torch.manual_seed(7)
    make, shape, options = MODELS[kind]
    model = make()
    example = (torch.randn(4, *shape), torch.randint(0, CLASSES, (4,)))
    plan = training_plan(
        model, options.get("loss", F.cross_entropy), options.get("optimizer", SGD(0.1)), example, name="net"
    )
    return plan, [v.detach().clone() for v in model.state_dict().values()], shape


def batch(size: int, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(size)
    x = torch.randn(size, int(np.prod(shape)), generator=draw)
    return x, F.one_hot(torch.randint(0, CLASSES, (size,), generator=draw), CLASSES).float()


@pytest.mark.parametrize("kind", MODELS)
def test_steps_are_those_of_torch_at_every_batch_size(kind: str, tfjs: Tfjs) -> None:
    plan, state, shape = made(kind)
    step = syft_step(plan)
    theirs: list[Any] = list(state)
    for size in (8, 5, 1):
        x, y = batch(size, shape)
        want = step.run([x, y, torch.tensor(float(size)), 0.2, *state])
        got = tfjs.run(plan.to_tfjs(), [x, y, size, 0.2, *theirs])
        for output, mine, his in zip(step.outputs, want, got, strict=True):
            np.testing.assert_allclose(his, mine.numpy(), rtol=1e-5, atol=1e-6, err_msg=f"{output.name} at {size}")
            assert his.shape == tuple(mine.shape)
        assert tfjs.kept == len(got) + len(plan.constants)  # which the client keeps with the plan
        state, theirs = want[2:], got[2:]


def test_batch_size_and_rate_may_come_as_tensors(tfjs: Tfjs) -> None:
    """The client takes no number zero."""
    plan, state, shape = made("residual")
    x, y = batch(6, shape)
    numbers = tfjs.run(plan.to_tfjs(), [x, y, 6, 0.2, *state])
    for rank in (0, 1):
        rate, size = (np.full((1,) * rank, value, np.float32) for value in (0.2, 6))
        for one, other in zip(tfjs.run(plan.to_tfjs(), [x, y, size, rate, *state]), numbers, strict=True):
            assert np.array_equal(one, other)
    frozen = tfjs.run(plan.to_tfjs(), [x, y, 6, np.zeros(1, np.float32), *state])
    assert all(np.array_equal(a, b) for a, b in zip(frozen[2:], state, strict=True))


def test_of_equal_largest_values_the_first_takes_the_gradient(tfjs: Tfjs) -> None:
    """As in torch: an image's background is one value, so such windows are common."""
    torch.manual_seed(7)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(108, CLASSES))
    plan = training_plan(model, F.cross_entropy, SGD(0.1), (torch.randn(4, *IMAGE), torch.randint(0, CLASSES, (4,))))
    state = [v.detach() for v in model.state_dict().values()]
    x, y = batch(6, IMAGE)
    x = x.clamp(0, 1).round()
    want = syft_step(plan).run([x, y, torch.tensor(6.0), 0.2, *state])
    got = tfjs.run(plan.to_tfjs(), [x, y, 6, 0.2, *state])
    for mine, his in zip(want, got, strict=True):
        np.testing.assert_allclose(his, mine.numpy(), rtol=1e-5, atol=1e-6)


def test_impossible_classes_do_not_make_the_loss_no_number(tfjs: Tfjs) -> None:
    plan, state, _ = made("mlp")
    state[3][:] = torch.tensor([0.0, -torch.inf, 0, 0, 0])
    x, _ = batch(4, (12,))
    y = F.one_hot(torch.tensor([0, 2, 3, 4]), CLASSES).float()
    want = syft_step(plan).run([x, y, torch.tensor(4.0), 0.1, *state])
    got = tfjs.run(plan.to_tfjs(), [x, y, 4, 0.1, *state])
    assert np.isfinite(got[0]) and got[0] == pytest.approx(float(want[0]), abs=1e-6)


def test_a_function_keeps_its_own_inputs_and_outputs(tfjs: Tfjs) -> None:
    @plan_of(args=(spec("B", 3), spec("B", dtype="int64"), spec(3)))
    def function(x: torch.Tensor, y: torch.Tensor, unused: torch.Tensor) -> Any:
        return x, x, unused, x.argmax(1) == y, x.shape[0] * x.new_ones(x.shape[0], 2), x.t() @ x, y

    x, y = torch.randn(7, 3), torch.randint(0, 3, (7,))
    want = function(x, y, torch.ones(3))
    got = tfjs.run(function.to_tfjs(), [x, y, np.ones(3, np.float32)])
    assert tfjs.kept == len(got)
    for mine, his in zip(want, got, strict=True):
        np.testing.assert_allclose(his, mine.numpy(), atol=1e-6)


def test_the_client_says_what_it_cannot_run(tfjs: Tfjs) -> None:
    plan, state, shape = made("mlp")
    x, y = batch(4, shape)
    with pytest.raises(Refused, match=r"(?i)argument|input"):
        tfjs.run(plan.to_tfjs(), [x, y, 4, 0.1])
    with pytest.raises(Refused):
        tfjs.run(plan.to_tfjs(), [x[:, :5], y, 4, 0.1, *state])
