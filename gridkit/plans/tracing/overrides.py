"""What the tracer writes down in place of operations that a plan can't hold as torch runs them.

Each has the bits of what it replaces. Results in lists become slices. Batch norm, which changes its running statistics
in place, becomes the form of the same kernel that returns them. Chance becomes an input: where dropout draws a mask,
the plan compares numbers that it is given, uniform in [0, 1), with the probability.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from gridkit.errors import PlanError

if TYPE_CHECKING:
    from gridkit.plans.tracing.trace import Recorder

_aten = torch.ops.aten


def _split(recorder: Recorder, x: torch.Tensor, size: int, dim: int = 0) -> list[torch.Tensor]:
    with recorder:
        return [_aten.slice.Tensor(x, dim, at, at + size) for at in range(0, x.shape[dim], size)]


def _split_with_sizes(recorder: Recorder, x: torch.Tensor, sizes: Sequence[int], dim: int = 0) -> list[torch.Tensor]:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    with recorder:
        return [_aten.slice.Tensor(x, dim, end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _unbind(recorder: Recorder, x: torch.Tensor, dim: int = 0) -> list[torch.Tensor]:
    with recorder:
        return [_aten.select.int(x, dim, at) for at in range(x.shape[dim])]


def _squeeze(recorder: Recorder, x: torch.Tensor) -> torch.Tensor:
    """Without the batch's dimension: at a batch size of one eager code would lose that too."""
    ones = [place for place, size in enumerate(x.shape) if isinstance(size, int) and size == 1]
    if not all(isinstance(size, int) for size in x.shape):
        recorder.sizes.demand(("gt", "B", 1))
    with recorder:
        result: torch.Tensor = _aten.squeeze.dims(x, ones)
    return result


def _batch_norm(
    recorder: Recorder,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor | None,
    variance: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[torch.Tensor, ...]:
    if training and x.shape[0] * x.shape[1] == x.numel():  # one value a sample and channel
        recorder.sizes.demand(("gt", "B", 1))
    with recorder:
        if mean is None or variance is None:
            out = _aten._native_batch_norm_legit.no_stats(x, weight, bias, training, momentum, eps)
        elif not training:
            out = _aten._native_batch_norm_legit_no_training(x, weight, bias, mean, variance, momentum, eps)
        else:
            out = _aten._native_batch_norm_legit_functional(x, weight, bias, mean, variance, True, momentum, eps)
            recorder.replace(mean, out[3], "batch norm")
            recorder.replace(variance, out[4], "batch norm")
    return tuple(out[:3])


def _baddbmm(
    recorder: Recorder, x: torch.Tensor, one: torch.Tensor, two: torch.Tensor, **factors: float
) -> torch.Tensor:
    with recorder:  # torch's rule for its shape can't widen a mask of fixed size to the batch
        full = _aten.expand.default(x, (*one.shape[:2], two.shape[2]))
    result: torch.Tensor = recorder.record(_aten.baddbmm.default, (full, one, two), factors)
    return result


def _bernoulli(recorder: Recorder, noise: torch.Tensor, p: float = 0.5, *, generator: Any = None) -> torch.Tensor:
    if generator is not None:
        raise PlanError(f"a generator of random numbers can't be part of a plan{recorder.where()}")
    draws = recorder.uniform(noise.shape)
    with recorder:
        if draws.shape != noise.shape:
            draws = _aten.view.default(draws, noise.shape)
        kept = _aten._to_copy.default(_aten.lt.Scalar(draws, p), dtype=noise.dtype)
    recorder.replace(noise, kept, "bernoulli_")
    return noise


OVERRIDES: dict[str, Callable[..., Any]] = {
    "aten.split.Tensor": _split,
    "aten.split_with_sizes.default": _split_with_sizes,
    "aten.unbind.int": _unbind,
    "aten.squeeze.default": _squeeze,
    "aten.native_batch_norm.default": _batch_norm,
    "aten.baddbmm.default": _baddbmm,
    "aten.bernoulli_.float": _bernoulli,
}

UNWRITTEN = (
    "aten.empty.memory_format",
    "aten.empty_like.default",
    "aten.new_empty.default",
    "aten.new_empty_strided.default",
    "aten.empty_strided.default",
)
"""New memory. It has no value that a plan could hold until something is written to it."""
