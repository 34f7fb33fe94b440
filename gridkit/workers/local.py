"""Train one client: a plan over that client's own data, as simulate, worker processes and jobs all do it.

The result depends on the arguments alone. Batches are drawn from Philox(seed, round, slot, epoch), training runs at
one torch thread, and every tensor that enters the plan lies in memory that torch allocated, so that kernels see the
same alignment whatever the caller's arrays are.
"""

from __future__ import annotations

import functools
import itertools
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gridkit.errors import PlanError, UsageError
from gridkit.plans.check import Value, bound, check_training, dry_run
from gridkit.plans.engines.kernels import torch_dtype
from gridkit.plans.engines.pytorch import program
from gridkit.plans.plan import Input, Plan, Ref
from gridkit.plans.table.ops import table
from gridkit.plans.table.shapes import Meta

_training = threading.RLock()


@dataclass(frozen=True, slots=True)
class LocalResult:
    """What one client's training of one round gave.

    Attributes:
        diff: old minus new for each of `plan.averaged`, in that order.
        samples: size of the client's shard.
        metrics: ``{"loss": mean loss over the samples of all updates}``.
        updates: number of optimiser steps.
    """

    diff: dict[str, np.ndarray]
    samples: int
    metrics: dict[str, float]
    updates: int


def train_client(
    plan: Plan,
    state: Mapping[str, np.ndarray],
    x: Any,
    y: Any,
    *,
    lr: float | None = None,
    batch_size: int,
    epochs: int = 1,
    max_updates: int | None = None,
    seed: int,
    round: int,
    slot: int,
    shuffle: bool = True,
) -> LocalResult:
    """Train one client for one round.

    Args:
        plan: a training plan.
        state: the round's model: an array for each of `plan.state`.
        x: inputs, [N, ...], array or tensor.
        y: targets, [N, ...], array or tensor.
        lr: learning rate; None takes the plan's.
        batch_size: samples a step; the last batch of an epoch is run short.
        epochs: passes over the shard.
        max_updates: stop after so many steps; None runs all epochs.
        seed, round, slot: what the order of the batches depends on, with the epoch.
        shuffle: False takes the samples in their order.

    Raises:
        UsageError: the data or an argument doesn't fit; the message says what.
        PlanError: the plan can't run with this batch size or state.
    """
    training = LocalTraining(
        plan,
        state,
        x,
        y,
        lr=lr,
        batch_size=batch_size,
        epochs=epochs,
        max_updates=max_updates,
        seed=seed,
        round=round,
        slot=slot,
        shuffle=shuffle,
    )
    training.advance()
    return training.result()


class LocalTraining:
    """`train_client` in pieces: a few steps at a time, to be left and taken up again. Arguments and errors are its.

    Attributes:
        steps: number of optimiser steps in all; `done`: how many of them were taken.
        samples: size of the client's shard.
    """

    def __init__(
        self,
        plan: Plan,
        state: Mapping[str, np.ndarray],
        x: Any,
        y: Any,
        *,
        lr: float | None = None,
        batch_size: int,
        epochs: int = 1,
        max_updates: int | None = None,
        seed: int,
        round: int,
        slot: int,
        shuffle: bool = True,
    ) -> None:
        self._rate = float(plan.lr if lr is None else lr)
        self._keys = (seed, round, slot)
        _check_arguments(batch_size, epochs, max_updates, self._rate, self._keys)
        check_training(plan)
        self._xs, self._ys = _data(plan, x, y)
        self.samples = count = len(self._xs)
        values = dry_run(plan, min(batch_size, count))
        if count % batch_size:
            dry_run(plan, count % batch_size)
        _check_labels(plan, values, self._xs, self._ys)
        whole = epochs * math.ceil(count / batch_size)
        self.steps = whole if max_updates is None else min(whole, max_updates)
        self.done = 0
        self._plan, self._old = plan, state
        self._current = _start(plan, state)
        self._batches = functools.partial(_order, count, batch_size, epochs, self._keys if shuffle else None)
        self._order = self._batches()
        self._losses: list[torch.Tensor] = []
        self._sizes: list[int] = []
        # `current` is this loop's own: a step may write over that of the step before
        self._step = program(plan, donate=True)
        self._ones = torch.ones(min(batch_size, count), dtype=torch_dtype(_wanted(plan, "weight").dtype))
        self._arrange = _arrangement(plan)

    def advance(self, steps: int | None = None) -> None:
        """Take so many steps, or all that are left."""
        stop = self.steps if steps is None else min(self.steps, self.done + steps)
        ones, arrange, current = self._ones, self._arrange, self._current
        with one_thread(), torch.inference_mode():
            while self.done < stop:
                batch = next(self._order)
                size = len(batch)
                weight = ones if size == len(ones) else torch.ones(size, dtype=ones.dtype)
                given = [*current, self._xs.index_select(0, batch), self._ys.index_select(0, batch), weight, self._rate]
                given += _uniform(self._plan, size, (*self._keys, self.done))
                loss, *current = self._step(given if arrange is None else [given[i] for i in arrange])
                self._current = current
                self._losses.append(loss)
                self._sizes.append(size)
                self.done += 1

    @property
    def loss(self) -> float:
        """The mean loss of the last step's batch, before that step; NaN before the first."""
        return float(self._losses[-1]) if self._losses else math.nan

    def state(self) -> dict[str, np.ndarray]:
        """The model as it is now: a copy of each of `plan.state`."""
        pairs = zip(self._plan.state, self._current, strict=False)
        return {spec.name: tensor.numpy().copy() for spec, tensor in pairs}

    def result(self) -> LocalResult:
        """What the steps taken so far gave."""
        metrics = {}
        if self._losses:
            losses = torch.stack(self._losses).double().numpy()
            metrics["loss"] = float(np.dot(losses, self._sizes) / sum(self._sizes))
        return LocalResult(_difference(self._plan, self._old, self._current), self.samples, metrics, self.done)

    def snapshot(self) -> dict[str, np.ndarray]:
        """All that the steps taken so far have left, by name: what `resume` takes."""
        kept = [f"state/{s.name}" for s in self._plan.state] + [
            f"optimizer/{s.name}" for s in self._plan.optimizer_state
        ]
        arrays = {name: tensor.numpy().copy() for name, tensor in zip(kept, self._current, strict=True)}
        losses = torch.stack(self._losses).numpy() if self._losses else np.zeros(0, np.float32)
        return {**arrays, "losses": losses}

    def resume(self, snapshot: Mapping[str, np.ndarray]) -> None:
        """Stand where the training stood that gave this snapshot; its arguments were the same.

        Raises:
            PlanError: the snapshot is of another plan.
        """
        fresh = self.snapshot()
        shapes = {name: (array.dtype, array.shape) for name, array in snapshot.items() if name != "losses"}
        done = len(snapshot.get("losses", ()))
        if {n: (a.dtype, a.shape) for n, a in fresh.items() if n != "losses"} != shapes or not done <= self.steps:
            raise PlanError(f"the snapshot is of another training than one of plan {self._plan.name!r}")
        self._current = [torch.tensor(snapshot[name]) for name in fresh if name != "losses"]
        self._order = itertools.islice(self._batches(), done, None)
        self._sizes = [len(batch) for batch in itertools.islice(self._batches(), done)]
        self._losses = list(torch.tensor(snapshot["losses"])) if done else []
        self.done = done


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch at one thread: the bits of a sum depend on their number. The caller's number is restored.

    The number is in part the process's, so a process trains one client at a time: whoever restored it would else
    change it under another's feet.
    """
    with _training:
        before = torch.get_num_threads()
        if before != 1:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if before != 1:
                torch.set_num_threads(before)


def _check_arguments(
    batch_size: int, epochs: int, max_updates: int | None, lr: float, keys: tuple[int, int, int]
) -> None:
    for name, value, low in (("batch_size", batch_size, 1), ("epochs", epochs, 1), ("max_updates", max_updates, 1)):
        if value is not None and value < low:
            raise UsageError(f"{name}={value}: expected at least {low}")
    if not math.isfinite(lr) or lr < 0:
        raise UsageError(f"lr={lr}: expected a number of at least 0")
    if min(keys) < 0:
        raise UsageError(f"seed, round and slot are {keys}: expected numbers of at least 0")


def _wanted(plan: Plan, role: Any) -> Input:
    found = plan.input(role)
    assert found is not None
    return found


def _arrangement(plan: Plan) -> list[int] | None:
    """Where each input stands among state, optimiser, x, y, weight, lr, uniform; None if in just that order."""
    roles = {"param": 0, "buffer": 0, "optimizer": 1, "x": 2, "y": 3, "weight": 4, "lr": 5, "uniform": 6}
    order = sorted(range(len(plan.inputs)), key=lambda i: roles[plan.inputs[i].role])
    if order == list(range(len(order))):
        return None
    return [order.index(i) for i in range(len(order))]


def _data(plan: Plan, x: Any, y: Any) -> tuple[torch.Tensor, torch.Tensor]:
    xs, ys = _tensor(_wanted(plan, "x"), x), _tensor(_wanted(plan, "y"), y)
    if len(xs) != len(ys):
        raise UsageError(f"the data has {len(xs)} inputs but {len(ys)} targets")
    if not len(xs):
        raise UsageError("the data has no samples", "leave this client out, or give it at least one sample")
    return xs, ys


def _tensor(spec: Input, data: Any) -> torch.Tensor:
    """The data as the plan takes it: right dtype, contiguous, in memory of torch."""
    if isinstance(data, torch.Tensor):
        data = data.detach().cpu().numpy()
    array = np.asarray(data)
    if array.dtype != spec.dtype:
        if not np.can_cast(array.dtype, spec.dtype, "same_kind"):
            raise UsageError(
                f"{spec.name} is {array.dtype}, and the plan takes {spec.dtype}", f"convert {spec.name} first"
            )
        array = array.astype(spec.dtype)
    if array.ndim != len(spec.shape) or array.shape[1:] != spec.shape[1:]:
        wanted = ", ".join(map(str, spec.shape))
        raise UsageError(
            f"{spec.name} is {list(array.shape)}, and the plan takes [{wanted}]", "B is the number of samples"
        )
    return torch.tensor(array)


_NAMING = {  # operation: its table, its indices, the table's axis that they count along, and what messages call them
    "aten.nll_loss_forward.default": ("self", "target", 1, "label", "classes"),
    "aten.nll_loss2d_forward.default": ("self", "target", 1, "label", "classes"),
    "aten.embedding.default": ("weight", "indices", 0, "token", "tokens"),
}


def _check_labels(plan: Plan, values: Mapping[int, Value], xs: torch.Tensor, ys: torch.Tensor) -> None:
    """Labels must name a class and tokens an entry: torch's own message says neither which client nor which label."""
    data = {Ref(_wanted(plan, "x").id): xs, Ref(_wanted(plan, "y").id): ys}
    for node in plan.nodes:
        if node.op not in _NAMING:
            continue
        table_name, indices, axis, what, kinds = _NAMING[node.op]
        args = bound(table()[node.op], node)
        given = data.get(args[indices])
        if given is None:
            continue
        meta = values[args[table_name].id]
        assert isinstance(meta, Meta)
        count = meta.shape[axis]
        wrong = (given < 0) | (given >= count)
        if args.get("ignore_index", -100) != -100:
            wrong &= given != args["ignore_index"]
        if bool(wrong.any()):
            raise UsageError(
                f"{what} {int(given[wrong].flatten()[0])} in {'y' if given is ys else 'x'}: "
                f"the model knows the {kinds} 0 to {count - 1}",
                f"count {kinds} from 0; to leave samples out, drop them or give the loss an ignore_index",
            )


def _start(plan: Plan, state: Mapping[str, np.ndarray]) -> list[torch.Tensor]:
    """State and optimiser state for the first step, each in memory of torch."""
    tensors = []
    for spec in plan.state:
        array = state.get(spec.name)
        if array is None:
            raise PlanError(f"the model has no tensor {spec.name!r}, which plan {plan.name!r} takes")
        if array.shape != spec.shape or array.dtype.name != spec.dtype:
            raise PlanError(
                f"tensor {spec.name!r} of the model is {array.dtype.name}{list(array.shape)}, and plan {plan.name!r} "
                f"takes {spec.dtype}{list(spec.shape)}"
            )
        tensors.append(torch.tensor(array))
    zeros = [torch.zeros(s.shape, dtype=torch_dtype(s.dtype)) for s in plan.optimizer_state]
    return tensors + zeros


def _order(count: int, size: int, epochs: int, keys: tuple[int, int, int] | None) -> Iterator[torch.Tensor]:
    """The samples of each batch, epoch by epoch."""
    for epoch in range(epochs):
        if keys is None:
            samples = np.arange(count)
        else:
            samples = np.random.Generator(np.random.Philox(np.random.SeedSequence((*keys, epoch)))).permutation(count)
        yield from (torch.from_numpy(samples[i : i + size]) for i in range(0, count, size))


def _uniform(plan: Plan, size: int, keys: tuple[int, int, int, int]) -> list[torch.Tensor]:
    """The random inputs of one step, drawn from Philox(seed, round, slot, step), uniform in [0, 1)."""
    specs = [i for i in plan.inputs if i.role == "uniform"]
    if not specs:
        return []
    # the spawn key sets these streams apart from those that shuffle
    draw = np.random.Generator(np.random.Philox(np.random.SeedSequence(keys, spawn_key=(1,))))
    values = [torch.empty([size if s == "B" else s for s in i.shape]) for i in specs]
    for value in values:
        draw.random(out=value.numpy(), dtype=np.float32)
    return values


def _difference(plan: Plan, old: Mapping[str, np.ndarray], current: list[torch.Tensor]) -> dict[str, np.ndarray]:
    new = {spec.name: tensor.numpy() for spec, tensor in zip(plan.state, current, strict=False)}
    with np.errstate(all="ignore"):  # a training that diverged is judged where its diff is read
        return {s.name: np.asarray(np.subtract(old[s.name], new[s.name], order="C")) for s in plan.averaged}
