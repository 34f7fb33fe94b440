"""A training step of every supported layer has the bits of eager training: loss, parameters, buffers.

Where eager training draws masks, it is given those that the plan was given. The loss is the mean of the samples' own
losses on both sides: `F.cross_entropy` with its own mean adds them up in another order.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gridkit.plans.optim import SGD
from gridkit.plans.plan import Plan
from gridkit.plans.training import training_plan
from tests.plans.layers import ATTENTION, BATCH_NORM, DROPOUT, EMBEDDING, Layer
from tests.plans.layers_more import ARRANGING, RECURRENT
from tests.plans.plans import start

LAYERS = {**DROPOUT, **BATCH_NORM, **EMBEDDING, **ATTENTION, **RECURRENT, **ARRANGING}


# what torch says when oneDNN is switched off and on again
pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Masks(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, what torch draws from a Bernoulli distribution comes from these uniform numbers, in order."""

    def __init__(self, uniform: Sequence[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.left = list(uniform)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func) == "aten.bernoulli_.float":
            noise, p = args if len(args) == 2 else (*args, 0.5)  # torch leaves a default out
            return noise.copy_(self.left.pop(0).view(noise.shape) < p)
        return func(*args, **(kwargs or {}))


@cache
def traced(name: str) -> Plan:
    torch.manual_seed(0)
    layer = LAYERS[name]
    plan = training_plan(layer.make(), F.cross_entropy, SGD(0.1, 0.9), (layer.inputs(8), torch.arange(8) % 5))
    assert plan.guards == ((("gt", "B", 1),) if layer.smallest == 2 else ())
    return plan


def both(plan: Plan, model: nn.Module, batches: list[Any]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Losses and last state after those batches: the plan's, and eager training's."""
    state, mine = start(plan, model), []
    model = copy.deepcopy(model).train()
    optimizer, theirs = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), []
    for x, y in batches:
        shapes = [i.shape for i in plan.inputs if i.role == "uniform"]
        uniform = [torch.rand([len(x) if s == "B" else int(s) for s in shape]) for shape in shapes]
        loss, *state = plan.run([*state, x, y, torch.ones(len(x)), 0.1, *uniform])
        mine.append(loss)
        optimizer.zero_grad()
        # of itself torch takes a kernel of oneDNN for LSTM, which no plan can hold
        plain = torch.backends.mkldnn.flags(enabled=False) if _has_lstm(model) else nullcontext()
        with Masks(uniform) as masks, plain:
            value = F.cross_entropy(model(x), y, reduction="none").mean()
            value.backward()
        assert not masks.left
        optimizer.step()
        theirs.append(value.detach())
    return [*mine, *state[: len(plan.state)]], [*theirs, *model.state_dict().values()]


def _has_lstm(model: nn.Module) -> bool:
    return any(isinstance(m, nn.LSTM) for m in model.modules())


def check(name: str, sizes: Sequence[int], seed: int) -> None:
    torch.manual_seed(seed)
    layer: Layer = LAYERS[name]
    model = layer.make()
    batches = [(layer.inputs(n), torch.randint(0, 5, (n,))) for n in sizes if n >= layer.smallest]
    equal = torch.equal if min(sizes) >= layer.exact else torch.allclose
    for one, other in zip(*both(traced(name), model, batches), strict=True):
        assert one.dtype == other.dtype and equal(one, other), (one - other).abs().max()


@pytest.mark.parametrize("name", LAYERS)
@settings(max_examples=3, phases=[Phase.explicit, Phase.generate])
@given(sizes=st.lists(st.integers(1, 65), min_size=1, max_size=2), seed=st.integers(0, 99))
def test_steps_have_the_bits_of_eager_training(name: str, sizes: list[int], seed: int) -> None:
    check(name, sizes, seed)


@pytest.mark.parametrize("name", LAYERS)
def test_what_a_step_costs_can_be_told(name: str) -> None:
    explained = traced(name).explain(batch=8)
    assert explained.flops > 0 and explained.peak_memory > 0


@pytest.mark.soak
@pytest.mark.parametrize("name", LAYERS)
def test_every_batch_size_up_to_65(name: str) -> None:
    for size in range(1, 66):
        check(name, [size, size], size)
