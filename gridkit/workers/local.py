"""Train one client: a plan over that client's own data, as simulate, worker processes and jobs all do it.

The result depends on the arguments alone. Batches are drawn from Philox(seed, round, slot, epoch), training runs at
one torch thread, and every tensor that enters the plan lies in memory that torch allocated, so that kernels see the
same alignment whatever the caller's arrays are.
"""

from __future__ import annotations

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
    rate = float(plan.lr if lr is None else lr)
    _check_arguments(batch_size, epochs, max_updates, rate, (seed, round, slot))
    check_training(plan)
    xs, ys = _data(plan, x, y)
    count = len(xs)
    values = dry_run(plan, min(batch_size, count))
    if count % batch_size:
        dry_run(plan, count % batch_size)
    _check_labels(plan, values, xs, ys)
    current = _start(plan, state)
    order = _order(count, batch_size, epochs, (seed, round, slot) if shuffle else None)

    losses: list[torch.Tensor] = []
    sizes: list[int] = []
    step = program(plan, donate=True)  # `current` is this loop's own: a step may write over that of the step before
    ones = torch.ones(min(batch_size, count), dtype=torch_dtype(_wanted(plan, "weight").dtype))
    arrange = _arrangement(plan)
    with one_thread(), torch.inference_mode():
        for batch in order:
            if max_updates is not None and len(sizes) == max_updates:
                break
            size = len(batch)
            weight = ones if size == len(ones) else torch.ones(size, dtype=ones.dtype)
            given = [*current, xs.index_select(0, batch), ys.index_select(0, batch), weight, rate]
            given += _uniform(plan, size, (seed, round, slot, len(sizes)))
            loss, *current = step(given if arrange is None else [given[i] for i in arrange])
            losses.append(loss)
            sizes.append(size)
    diff = _difference(plan, state, current)
    mean = float(np.dot(torch.stack(losses).double().numpy(), sizes) / sum(sizes))
    return LocalResult(diff, count, {"loss": mean}, len(sizes))


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
