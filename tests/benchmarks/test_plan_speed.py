"""The interpreter against the eager module with torch.optim.SGD: the same step, side by side in one process."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gridkit.plans.engine_torch import program
from gridkit.plans.optim import SGD
from gridkit.plans.training import training_plan
from gridkit.workers.local import one_thread

pytestmark = pytest.mark.benchmark

AT_LEAST = 0.9
STEPS, REPEATS = 10, 41


def mlp(*sizes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(sizes[0], sizes[1]), nn.ReLU(), nn.Linear(sizes[1], sizes[2]))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp 64-64-10": (lambda: mlp(64, 64, 10), (64,)),
    "mlp 784-128-10": (lambda: mlp(784, 128, 10), (784,)),
    "cnn": (cnn, (1, 8, 8)),
}


def seconds(function: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    for _ in range(STEPS):
        function()
    return time.perf_counter() - begin


@pytest.mark.parametrize("size", [8, 64])
@pytest.mark.parametrize("name", MODELS)
def test_interpreter_keeps_up_with_eager_training(name: str, size: int, record_property: Any) -> None:
    make, shape = MODELS[name]
    torch.manual_seed(0)
    model, x, y, ones = make(), torch.randn(size, *shape), torch.randint(0, 10, (size,)), torch.ones(size)
    plan = training_plan(model, F.cross_entropy, SGD(0.01, momentum=0.9), (x, y))
    run, held = program(plan), copy.deepcopy(model)
    optimizer = torch.optim.SGD(held.parameters(), lr=0.01, momentum=0.9)
    state = [v.clone() for v in model.state_dict().values()]
    state += [torch.zeros(s.shape) for s in plan.optimizer_state]

    def eager() -> None:
        optimizer.zero_grad()
        F.cross_entropy(held(x), y).backward()
        optimizer.step()

    def planned() -> None:
        nonlocal state
        with torch.inference_mode():
            _, *state = run([*state, x, y, ones, 0.01])

    with one_thread():
        seconds(eager), seconds(planned)
        pairs = [(seconds(eager), seconds(planned)) for _ in range(REPEATS)]
    theirs, ours = (min(p[i] for p in pairs) / STEPS * 1e6 for i in (0, 1))
    ratio = statistics.median(a / b for a, b in pairs)  # of neighbours in time: a busy machine slows both
    line = f"{name}, batch {size}: best eager {theirs:.0f} us, best plan {ours:.0f} us a step; median ratio {ratio:.2f}"
    record_property("speed", line)
    print(line)
    assert ratio >= AT_LEAST, line
