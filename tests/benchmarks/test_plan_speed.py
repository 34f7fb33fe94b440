"""Plans against the eager module with torch.optim: the same work, side by side in one process, at one thread.

Ratios are medians over pairs that are neighbours in time, of the processor's time, so that a busy machine slows both.
"""

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

from gridkit.plans.engines.pytorch import program
from gridkit.plans.optim import SGD
from gridkit.plans.plan import Plan
from gridkit.plans.training import training_plan
from gridkit.workers.local import one_thread, train_client

pytestmark = pytest.mark.benchmark

STEP_AT_LEAST = 1.0
CLIENT_AT_LEAST = 1.4
REPEATS = 31
LR, MOMENTUM = 0.01, 0.9


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


class Encoder(nn.Module):
    """One Transformer encoder layer over 8 tokens of 32 values. No dropout: the two draw their masks differently."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(32, 4, dim_feedforward=64, dropout=0.0, batch_first=True)
        self.out = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.layer(x).mean(1))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp 64-64-10": (lambda: mlp(64, 64, 10), (64,)),
    "mlp 784-128-10": (lambda: mlp(784, 128, 10), (784,)),
    "cnn": (cnn, (1, 8, 8)),
    "transformer encoder layer": (Encoder, (8, 32)),
}
CASES = [(name, size) for name in MODELS for size in (8, 64)]


class Task:
    """A model, its plan and two batches."""

    def __init__(self, name: str, size: int) -> None:
        make, shape = MODELS[name]
        torch.manual_seed(0)
        self.name, self.size, self.model = name, size, make()
        self.batches = [(torch.randn(size, *shape), torch.randint(0, 10, (size,))) for _ in range(2)]
        self.plan: Plan = training_plan(self.model, F.cross_entropy, SGD(LR, momentum=MOMENTUM), self.batches[0])
        self.ones = torch.ones(size)
        self.old = [v.detach().clone() for v in self.model.state_dict().values()]

    def fresh(self) -> list[torch.Tensor]:
        return [v.clone() for v in self.old] + [torch.zeros(s.shape) for s in self.plan.optimizer_state]

    def eager_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()

    def eager_client(self) -> list[torch.Tensor]:
        model = copy.deepcopy(self.model)
        optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
        for batch in self.batches:
            self.eager_step(model, optimizer, batch)
        return [a - b.detach() for a, b in zip(self.old, model.state_dict().values(), strict=True)]

    def planned_client(self) -> list[torch.Tensor]:
        step = program(self.plan, donate=True)
        with torch.inference_mode():
            current = self.fresh()
            for batch in self.batches:
                _, *current = step([*current, *batch, self.ones, LR])
            return [a - b for a, b in zip(self.old, current, strict=False)]


def seconds(function: Callable[[], Any], count: int) -> float:
    begin = time.process_time()
    for _ in range(count):
        function()
    return (time.process_time() - begin) / count


def compared(ours: Callable[[], Any], theirs: Callable[[], Any], count: int) -> tuple[float, str]:
    """How many times as fast ours is, and the times for a person to read."""
    with one_thread():
        seconds(theirs, count), seconds(ours, count)
        pairs = [(seconds(theirs, count), seconds(ours, count)) for _ in range(REPEATS)]
    ratio = statistics.median(a / b for a, b in pairs)
    a, b = (min(pair[i] for pair in pairs) * 1e6 for i in (0, 1))
    return ratio, f"eager {a:.0f} us, plan {b:.0f} us at best; median ratio {ratio:.2f}"


@pytest.mark.parametrize(("name", "size"), CASES)
def test_a_generated_step_keeps_up_with_eager_training(name: str, size: int, record_property: Any) -> None:
    task = Task(name, size)
    step, state = program(task.plan), task.fresh()
    model = copy.deepcopy(task.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)

    def eager() -> None:
        task.eager_step(model, optimizer, task.batches[0])

    def planned() -> None:
        nonlocal state
        with torch.inference_mode():
            _, *state = step([*state, *task.batches[0], task.ones, LR])

    ratio, times = compared(planned, eager, 8)
    line = f"{name}, batch {size}: a step: {times}"
    record_property("speed", line)
    print(line)
    assert ratio >= STEP_AT_LEAST, line


@pytest.mark.parametrize(("name", "size"), CASES)
def test_a_client_of_two_fused_steps_is_faster(name: str, size: int, record_property: Any) -> None:
    """A client: the model copied, the optimiser's state new, two steps, the difference."""
    task = Task(name, size)
    with one_thread():
        for mine, theirs in zip(task.planned_client(), task.eager_client(), strict=True):
            assert torch.equal(mine, theirs)
    ratio, times = compared(task.planned_client, task.eager_client, 4)
    line = f"{name}, batch {size}: a client of two steps: {times}"
    record_property("speed", line)
    print(line)
    assert ratio >= CLIENT_AT_LEAST, line


@pytest.mark.parametrize(("name", "size"), CASES)
def test_a_worker_with_all_its_checks_is_no_slower(name: str, size: int, record_property: Any) -> None:
    """`train_client` checks data, labels and state, shuffles, and copies the data, which the eager client doesn't."""
    task = Task(name, size)
    state = {k: v.numpy() for k, v in task.model.state_dict().items()}
    x, y = (torch.cat(parts).numpy() for parts in zip(*task.batches, strict=True))

    def worker() -> None:
        train_client(task.plan, state, x, y, lr=LR, batch_size=size, seed=0, round=0, slot=0)

    ratio, times = compared(worker, task.eager_client, 4)
    line = f"{name}, batch {size}: train_client against a client of two steps: {times}"
    record_property("speed", line)
    print(line)
    assert ratio >= STEP_AT_LEAST, line
