"""Optimisers: their arguments, and that their steps have the bits of torch.optim."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gridkit as gk
from gridkit.errors import UsageError
from gridkit.plans.optim import SGD, Adam, AdamW
from gridkit.plans.training import training_plan
from tests.plans.plans import start


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
@pytest.mark.parametrize(
    "options", [{"lr": -1}, {"lr": math.nan}, {"lr": math.inf}, {"lr": "0.1"}, {"lr": True}, {"weight_decay": -0.1}]
)
def test_numbers_out_of_range_are_refused(kind: Any, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"^{kind.__name__}\(.*expected a number of at least 0"):
        kind(**{"lr": 0.1, **options})


def test_options_of_one_kind() -> None:
    with pytest.raises(UsageError, match=r"momentum=-0\.1"):
        SGD(1, momentum=-0.1)
    with pytest.raises(UsageError, match=r"^AdamW\(eps=-1\)"):
        AdamW(eps=-1)


@pytest.mark.parametrize("betas", [0.9, (0.9,), (0.9, 1.0), (-0.1, 0.9), ("a", 0.9), (0.9, math.nan), None])
def test_betas_are_two_numbers_below_one(betas: Any) -> None:
    with pytest.raises(UsageError, match=r"betas=.* expected two numbers of at least 0 and below 1"):
        Adam(betas=betas)


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(UsageError, match="nesterov"):
        SGD(0.1, nesterov=True)


def test_what_is_kept_for_each_parameter() -> None:
    assert SGD(0.1).slots == () and SGD(0.1, momentum=0.9).slots == ("momentum",)
    assert Adam().slots == AdamW().slots == ("exp_avg", "exp_avg_sq")
    assert Adam().counts and AdamW().counts and not SGD(0.1).counts


def test_public_names_and_defaults_are_those_of_torch() -> None:
    assert gk.Adam is Adam and gk.AdamW is AdamW
    for mine, theirs in ((Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)):
        defaults = theirs([nn.Parameter(torch.zeros(1))]).defaults
        given = mine()
        assert {k: defaults[k] for k in ("lr", "betas", "eps", "weight_decay")} == {
            k: getattr(given, k) for k in ("lr", "betas", "eps", "weight_decay")
        }


class Scaled(nn.Module):
    """Parameters of two ranks, one that is a single number, and one that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer, self.unused = nn.Linear(12, 9), nn.Linear(9, 5), nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.tensor(1.3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(torch.tanh(self.inner(x)) * self.scale)


TORCH: dict[Any, Any] = {Adam: torch.optim.Adam, AdamW: torch.optim.AdamW, SGD: torch.optim.SGD}


@pytest.mark.parametrize("kind", [Adam, AdamW])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=6)
@given(
    lr=st.floats(1e-4, 0.5),
    betas=st.sampled_from([(0.9, 0.999), (0.5, 0.9), (0.0, 0.99), (0.95, 0.0)]),
    eps=st.sampled_from([1e-8, 1e-3]),
    weight_decay=st.sampled_from([0.0, 0.01, 0.3]),
    seed=st.integers(0, 99),
)
def test_adam_has_the_bits_of_torch_over_many_steps(kind: Any, dtype: torch.dtype, lr: float, **options: Any) -> None:
    seed = options.pop("seed")
    torch.manual_seed(seed)
    model = Scaled().to(dtype)
    x, y, ones = torch.randn(7, 12, dtype=dtype), torch.randint(0, 5, (7,)), torch.ones(7, dtype=dtype)
    plan = training_plan(model, F.cross_entropy, kind(lr, **options), (x, y))
    assert [s.shape for s in plan.optimizer_state if s.name == "step"] == [()]
    state, held = start(plan, model), copy.deepcopy(model)
    optimizer = TORCH[kind](held.parameters(), lr=lr, **options)
    for step in range(40):
        batch = x * (1 + step / 10)
        optimizer.zero_grad()
        F.cross_entropy(held(batch), y).backward()
        optimizer.step()
        _, *state = plan.run([*state, batch, y, ones, lr])
    names = [s.name for s in (*plan.state, *plan.optimizer_state)]
    mine = dict(zip(names, state, strict=True))
    for name, theirs in held.state_dict().items():
        assert torch.equal(mine[name], theirs), name
    for name, parameter in held.named_parameters():
        for slot in optimizer.state[parameter].keys() - {"step"}:
            assert torch.equal(mine[f"{slot}.{name}"], optimizer.state[parameter][slot])
    assert mine["step"].item() == 40


def test_bias_correction_is_that_of_python_at_any_step() -> None:
    """Python computes it with the C library's pow; a vectorised pow may end in another last bit."""
    wrong = []
    for beta in (0.9, 0.999, 0.95, 0.123):
        for count in (*range(1, 200), 12_345, 99_999):
            step = torch.tensor(float(count), dtype=torch.float64)
            power = torch.pow(torch.full_like(step, beta), step).item()
            rest = torch.tensor(1 - power, dtype=torch.float64)
            root = torch.pow(rest, torch.full_like(rest, 0.5)).item()
            if (power, root) != (beta ** float(count), (1 - power) ** 0.5):
                wrong.append((beta, count))
    assert wrong == []
