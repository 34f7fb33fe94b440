"""Training plans: bit-equal to the eager module with torch.optim.SGD, whatever the model, loss and batch size."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gridkit.errors import PlanError, UsageError
from gridkit.plans.optim import SGD
from gridkit.plans.plan import Plan
from gridkit.plans.training import training_plan
from tests.plans.plans import MODELS, SHAPES, batch, mlp, start, traced

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def eager(model: nn.Module, loss: Loss, batches: list[Any], **options: Any) -> list[torch.Tensor]:
    """The state after plain torch training on those batches."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(model.parameters(), **options)
    for x, y in batches:
        optimizer.zero_grad()
        value = loss(model(x), y)
        (value.mean() if value.ndim else value).backward()
        optimizer.step()
    return list(model.state_dict().values())


def planned(plan: Plan, model: nn.Module, batches: list[Any], lr: float) -> list[torch.Tensor]:
    """The state after as many runs of the plan, with weights of one."""
    state = start(plan, model)
    for x, y in batches:
        _, *state = plan.run([*state, x, y, torch.ones(len(x)), lr])
    return state[: len(plan.state)]


def assert_equal_bits(mine: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    assert len(mine) == len(theirs)
    for a, b in zip(mine, theirs, strict=True):
        assert torch.equal(a, b), (a - b).abs().max()


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"weight_decay": 0.01},
        {"momentum": 0.9, "weight_decay": 1e-4, "nesterov": True},
    ],
)
@settings(max_examples=12)
@given(sizes=st.lists(st.integers(1, 65), min_size=1, max_size=3), lr=st.floats(1e-4, 1), seed=st.integers(0, 99))
def test_steps_have_the_bits_of_eager_training(
    kind: str, options: dict[str, Any], sizes: list[int], lr: float, seed: int
) -> None:
    torch.manual_seed(seed)
    model = MODELS[kind]()
    batches = [batch(n, SHAPES[kind], seed + i) for i, n in enumerate(sizes)]
    plan = traced(kind, **options)
    assert_equal_bits(planned(plan, model, batches, lr), eager(model, F.cross_entropy, batches, lr=lr, **options))


@pytest.mark.parametrize("size", range(1, 66))
def test_every_batch_size_up_to_65(size: int) -> None:
    for kind, make in MODELS.items():
        torch.manual_seed(size)
        model, data = make(), [batch(size, SHAPES[kind], size)]
        assert_equal_bits(planned(traced(kind), model, data, 0.1), eager(model, F.cross_entropy, data, lr=0.1))


def real(n: int) -> torch.Tensor:
    return torch.randn(n, 5)


def share(n: int) -> torch.Tensor:
    return torch.rand(n, 5)


def label(n: int) -> torch.Tensor:
    return torch.randint(0, 5, (n,))


LOSSES: dict[str, tuple[Loss, Callable[[int], torch.Tensor]]] = {
    "cross_entropy": (F.cross_entropy, label),
    "CrossEntropyLoss": (nn.CrossEntropyLoss(), label),
    "cross_entropy of shares": (F.cross_entropy, lambda n: share(n).softmax(1)),
    "nll_loss": (lambda o, y: F.nll_loss(F.log_softmax(o, 1), y), label),
    "mse_loss": (F.mse_loss, real),
    "MSELoss": (nn.MSELoss(), real),
    "l1_loss": (F.l1_loss, real),
    "smooth_l1_loss": (F.smooth_l1_loss, real),
    "huber_loss": (nn.HuberLoss(delta=0.5), real),
    "with logits": (F.binary_cross_entropy_with_logits, share),
    "with positive weights": (nn.BCEWithLogitsLoss(pos_weight=torch.rand(5)), share),
    "binary_cross_entropy": (lambda o, y: F.binary_cross_entropy(o.sigmoid(), y), share),
    "kl_div": (lambda o, y: F.kl_div(o.log_softmax(1), y, reduction="batchmean"), lambda n: share(n).softmax(1)),
    "sum": (nn.MSELoss(reduction="sum"), real),
    "own mean": (lambda o, y: ((o - y) ** 2).mean(), real),
    "one a sample": (lambda o, y: F.cross_entropy(o, y, reduction="none"), label),
    "one a value": (lambda o, y: (o - y).abs(), real),
    "two terms": (lambda o, y: F.mse_loss(o, y) + 0.1 * o.abs().mean(), real),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str) -> None:
    loss, target = LOSSES[name]
    torch.manual_seed(0)
    model = mlp()
    plan = training_plan(model, loss, SGD(0.05, 0.9), (torch.randn(8, 12), target(8)))
    for size in (1, 2, 7, 8, 33):
        batches = [(torch.randn(size, 12), target(size)) for _ in range(2)]
        assert_equal_bits(planned(plan, model, batches, 0.05), eager(model, loss, batches, lr=0.05, momentum=0.9))


CLOSE: dict[str, Loss] = {
    "class weights": nn.CrossEntropyLoss(weight=torch.tensor([0.5, 1.0, 2.0, 1.0, 0.1])),
    "an ignored class": nn.CrossEntropyLoss(ignore_index=2),
    "label smoothing": nn.CrossEntropyLoss(label_smoothing=0.1),
}


@pytest.mark.parametrize("name", CLOSE)
def test_losses_whose_mean_is_not_over_samples_are_equal_but_for_rounding(name: str) -> None:
    torch.manual_seed(0)
    model, loss = mlp(), CLOSE[name]
    plan = training_plan(model, loss, SGD(0.05), batch(8))
    for size in (5, 8, 33):
        data = [batch(size)]
        mine, theirs = planned(plan, model, data, 0.05), eager(model, loss, data, lr=0.05)
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


ACTIVATIONS = [
    nn.Tanh(),
    nn.Sigmoid(),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.SiLU(),
    nn.ELU(),
    nn.SELU(),
    nn.CELU(),
    nn.Mish(),
    nn.LeakyReLU(0.2),
    nn.LeakyReLU(0.2, inplace=True),
    nn.ReLU(inplace=True),
    nn.ReLU6(),
    nn.PReLU(),
    nn.Hardtanh(),
    nn.Hardswish(),
    nn.Hardsigmoid(),
    nn.Softplus(),
    nn.Softsign(),
    nn.LogSigmoid(),
    nn.Softmax(1),
    nn.LayerNorm(9),
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations(activation: nn.Module) -> None:
    torch.manual_seed(0)
    model = mlp(activation)
    plan = training_plan(model, F.cross_entropy, SGD(0.1), batch(8))
    for size in (1, 5, 16):
        data = [batch(size, seed=i) for i in range(2)]
        assert_equal_bits(planned(plan, model, data, 0.1), eager(model, F.cross_entropy, data, lr=0.1))


class Residual(nn.Module):
    """Skip connection, slices, cat, permute, contiguous, reshape, arithmetic with the batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Linear(144, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + F.relu(self.norm(self.conv(x)))
        x = torch.cat([x[:, :1], x[:, 1:]], 1).permute(0, 2, 3, 1).contiguous().view(x.size(0), -1)
        return self.out(x.reshape(x.shape[0], -1) * 0.5 + 1) * (2 / x.shape[0])


IMAGES: dict[str, nn.Module] = {
    "stride and padding": nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), nn.AvgPool2d(2)),
    "groups, dilation, same": nn.Sequential(nn.Conv2d(4, 4, 3, groups=2, dilation=2, padding="same"), nn.ReLU()),
    "adaptive to one": nn.Sequential(nn.Conv2d(4, 6, 3), nn.AdaptiveAvgPool2d(1)),
    "adaptive to three": nn.AdaptiveAvgPool2d(3),
    "overlapping pool": nn.Sequential(nn.Conv2d(4, 4, 1), nn.MaxPool2d(3, stride=1, padding=1)),
    "ceil": nn.Sequential(nn.Conv2d(4, 4, 1), nn.MaxPool2d(4, ceil_mode=True)),
    "transposed": nn.ConvTranspose2d(4, 2, 2, stride=2),
}


@pytest.mark.parametrize("name", IMAGES)
def test_parts_of_convolutional_networks(name: str) -> None:
    torch.manual_seed(0)
    body = copy.deepcopy(IMAGES[name])
    width = body(torch.zeros(2, 4, 6, 6)).flatten(1).shape[1]
    model = nn.Sequential(body, nn.Flatten(), nn.Linear(width, 5))
    plan = training_plan(model, F.cross_entropy, SGD(0.1), batch(8, (4, 6, 6)))
    assert plan.guards == ()
    for size in (1, 8, 17):
        data = [batch(size, (4, 6, 6))]
        assert_equal_bits(planned(plan, model, data, 0.1), eager(model, F.cross_entropy, data, lr=0.1))


def test_a_residual_network() -> None:
    torch.manual_seed(0)
    model = Residual()
    plan = training_plan(model, F.cross_entropy, SGD(0.1), batch(8, (4, 6, 6)))
    assert plan.guards == ()
    for size in (1, 8, 17):
        data = [batch(size, (4, 6, 6), i) for i in range(2)]
        assert_equal_bits(planned(plan, model, data, 0.1), eager(model, F.cross_entropy, data, lr=0.1))


class Odd(nn.Module):
    """A tied parameter, a frozen one, one that nothing uses, and both kinds of buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 12), nn.Linear(12, 12)
        self.b.weight = self.a.weight
        self.frozen = nn.Linear(12, 12).requires_grad_(False)
        self.unused, self.out = nn.Linear(3, 3), nn.Linear(12, 5)
        self.register_buffer("scale", torch.rand(12))
        self.register_buffer("count", torch.tensor(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.frozen(self.b(F.relu(self.a(x * self.scale)))))


def test_tied_frozen_and_unused_parameters_and_buffers() -> None:
    torch.manual_seed(0)
    model = Odd()
    plan = training_plan(model, F.cross_entropy, SGD(0.1, 0.9, 0.1), batch(8))
    assert [s.name for s in plan.state] == list(model.state_dict())
    assert "count" not in [s.name for s in plan.averaged] and "scale" in [s.name for s in plan.averaged]
    assert not any(s.name.endswith(("b.weight", "frozen.bias")) for s in plan.optimizer_state)
    data = [batch(7, seed=i) for i in range(3)]
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
    assert_equal_bits(planned(plan, model, data, 0.1), eager(model, F.cross_entropy, data, **options))


def test_double_precision() -> None:
    torch.manual_seed(0)
    model = mlp().double()
    x, y = batch(8)
    plan = training_plan(model, F.cross_entropy, SGD(0.1), (x.double(), y))
    _, *state = plan.run([*start(plan, model), x.double(), y, torch.ones(8, dtype=torch.float64), 0.1])
    assert_equal_bits(state, eager(model, F.cross_entropy, [(x.double(), y)], lr=0.1))


# ---- weights


@pytest.mark.parametrize("name", [n for n in LOSSES if n != "sum"] + list(CLOSE))
def test_a_weight_of_zero_takes_a_sample_away_and_two_doubles_it(name: str) -> None:
    loss, target = LOSSES[name] if name in LOSSES else (CLOSE[name], label)
    torch.manual_seed(0)
    model = mlp()
    x, y = torch.randn(6, 12), target(6)
    plan = training_plan(model, loss, SGD(0.05), (x, y))
    weights = torch.tensor([1.0, 0.0, 1.0, 2.0, 0.0, 1.0])
    kept = torch.tensor([0, 2, 3, 3, 5])
    loss_, *mine = plan.run([*start(plan, model), x, y, weights, 0.05])
    other, *theirs = plan.run([*start(plan, model), x[kept], y[kept], torch.ones(5), 0.05])
    for a, b in zip([loss_, *mine], [other, *theirs], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        lambda o, y: (o**2).sum(),
        lambda o, y: F.cross_entropy(o, y) + (o.T @ o).mean(),
        lambda o, y: F.cross_entropy(o, y) * len(o),
    ],
)
def test_a_loss_that_is_no_mean_over_samples_is_refused(loss: Loss) -> None:
    with pytest.raises(PlanError, match="isn't a mean over samples"):
        training_plan(mlp(), loss, SGD(0.1), batch(8))


# ---- the caller's things


def test_the_model_is_left_as_it_was() -> None:
    model = MODELS["cnn"]().eval()
    model[0].train()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    random = torch.get_rng_state()
    training_plan(model, F.cross_entropy, SGD(0.1), batch(8, SHAPES["cnn"]))
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight)) and model[2:][1].weight.grad is None
    assert all(type(p) is nn.Parameter and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_names_and_roles() -> None:
    plan = traced("mlp", momentum=0.9)
    names = ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert [(i.name, i.role) for i in plan.inputs] == [
        *((n, "param") for n in names),
        *((f"momentum.{n}", "optimizer") for n in names),
        ("x", "x"),
        ("y", "y"),
        ("weight", "weight"),
        ("lr", "lr"),
    ]
    assert [(o.name, o.role) for o in plan.outputs][:2] == [("loss", "loss"), ("0.weight", "param")]
    x = plan.input("x")
    assert x is not None and x.shape == ("B", 12)
    assert plan.lr == 0.1 and plan.name == "Sequential" and plan.constants == {}


def test_name_arrays_and_a_single_sample_as_example() -> None:
    x, y = np.zeros((1, 12), np.float32), np.zeros(1, np.int64)
    plan = training_plan(mlp(), F.cross_entropy, SGD(0.1), (x, y), name="mine")
    assert plan.name == "mine"
    data = [batch(9)]
    model = mlp()
    assert_equal_bits(planned(plan, model, data, 0.1), eager(model, F.cross_entropy, data, lr=0.1))


def test_the_same_code_gives_the_same_bytes() -> None:
    one, two = (training_plan(MODELS["cnn"](), F.cross_entropy, SGD(0.1), batch(n, SHAPES["cnn"])) for n in (8, 40))
    assert one.to_bytes() == two.to_bytes()
    assert len(one.to_bytes()) < 8_000


@pytest.mark.parametrize(
    ("example", "why"),
    [
        ((torch.zeros(2, 12), torch.zeros(3, dtype=torch.int64)), "same number of samples"),
        ((torch.zeros(0, 12), torch.zeros(0, dtype=torch.int64)), "same number of samples"),
        (torch.zeros(2), r"must be \(x, y\)|same number"),
        (None, r"must be \(x, y\)"),
        ((torch.zeros(2, 12),), r"must be \(x, y\)"),
        ((["a"], ["b"]), r"must be \(x, y\)"),
    ],
)
def test_a_wrong_example_is_refused(example: Any, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        training_plan(mlp(), F.cross_entropy, SGD(0.1), example)


def test_wrong_model_is_refused() -> None:
    with pytest.raises(UsageError, match="model is function"):
        training_plan(lambda x: x, F.cross_entropy, SGD(0.1), batch(8))  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="no parameter that requires a gradient"):
        training_plan(mlp().requires_grad_(False), F.cross_entropy, SGD(0.1), batch(8))
    with pytest.raises(PlanError, match="can't take the example: RuntimeError: mat1 and mat2"):
        training_plan(mlp(), F.cross_entropy, SGD(0.1), batch(8, (11,)))
    with pytest.raises(PlanError, match="the model gave tuple for 11 samples"):
        training_plan(_Pair(), F.cross_entropy, SGD(0.1), batch(8))
    with pytest.raises(PlanError, match=r"bfloat16, which a plan can't hold"):
        training_plan(mlp().bfloat16(), F.cross_entropy, SGD(0.1), batch(8))


class _Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.out(x), x
