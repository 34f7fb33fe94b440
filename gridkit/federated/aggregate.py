"""Reports into the next model, a chunk at a time: node and simulator call the same function, so bits are equal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gridkit.errors import ErrorCode, PlanError
from gridkit.federated import strategies
from gridkit.wire.tensors import Array, TensorSource


def aggregate(
    strategy: str, old: TensorSource, reports: Sequence[tuple[float, TensorSource]], chunk: int = 1 << 18
) -> Iterator[Array]:
    """The new model in flat chunks, tensor by tensor, in the order of `old`.

    Args:
        strategy: its name, see `federated.strategies`.
        old: the model that the reports start from. Its floating tensors are averaged, the others stay.
        reports: (weight, diff) in slot order; a diff holds the floating tensors of `old`, in order.
        chunk: elements at a time; peak memory is a few chunks of float64, the result doesn't depend on it.
    """
    rule = strategies.get(strategy)
    weights = sum(weight for weight, _ in reports)
    counterpart = 0
    for place, spec in enumerate(old.specs):
        for start in range(0, spec.size, chunk):
            stop = min(start + chunk, spec.size)
            before = old.read(place, start, stop)
            if not spec.averaged:
                yield before
                continue
            total = rule.init(stop - start)
            for weight, diff in reports:
                total = rule.accumulate(total, diff.read(counterpart, start, stop), weight)
            yield rule.finish(total, weights, before)
        counterpart += spec.averaged


def flat(diff: TensorSource, chunk: int = 1 << 18) -> Iterator[Array]:
    """A report as an averaging plan sees it: float32, flat, one tensor after the other; in chunks."""
    for place, spec in enumerate(diff.specs):
        for start in range(0, spec.size, chunk):
            with np.errstate(over="ignore"):  # what is too large for float32 is infinite
                part = diff.read(place, start, min(start + chunk, spec.size)).astype(np.float32)
            yield part  # not in the block, which belongs to a thread


def subtract(old: TensorSource, result: Array, chunk: int = 1 << 18) -> Iterator[Array]:
    """The new model, ``old - result``, in flat chunks as `aggregate` gives them.

    Args:
        old: the model; its floating tensors change, the others stay.
        result: what an averaging plan gave, float32 [P].

    Raises:
        PlanError: `NOT_FINITE`: a value of the new model isn't finite, and the old one was.
    """
    at = 0
    for place, spec in enumerate(old.specs):
        for start in range(0, spec.size, chunk):
            before = old.read(place, start, min(start + chunk, spec.size))
            if not spec.averaged:
                yield before
                continue
            with np.errstate(over="ignore"):
                new = (before.astype(np.float64) - result[at : at + len(before)]).astype(before.dtype)
            if (np.isfinite(before) & ~np.isfinite(new)).any():
                raise PlanError(f"it makes values of '{spec.name}' that are not finite", code=ErrorCode.NOT_FINITE)
            at += len(before)
            yield new
