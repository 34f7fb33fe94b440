"""Is this report one that may count? Answered before it does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gridkit.errors import ErrorCode
from gridkit.wire.tensors import TensorSource, TensorSpec

_CHUNK = 1 << 17
UNUSUAL = 10.0
"""a norm above so many times the median of the cycle's accepted ones is worth a warning"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the checks say. `code` is None for a report that may count; else `message` names tensor and reason.

    Attributes:
        norm: L2 norm over all tensors of the diff (0 where it wasn't reached).
        warning: of a report that counts all the same.
    """

    code: ErrorCode | None
    message: str = ""
    tensor: str | None = None
    norm: float = 0.0
    warning: str | None = None

    @property
    def accepted(self) -> bool:
        return self.code is None


def check_report(
    source: TensorSource,
    expected: Sequence[TensorSpec],
    *,
    max_norm: float | None = None,
    usual_norm: float | None = None,
) -> Verdict:
    """Count, names (where the sender gave any), shapes, dtypes, finiteness, norm; in that order.

    Args:
        source: the report.
        expected: the model's floating tensors, in order.
        max_norm: an L2 norm above it refuses the report.
        usual_norm: the median norm of what the cycle has accepted; ten times as much gives a warning.

    Shapes must be equal: ``(1,)`` for ``(10,)`` would broadcast, and is refused. Memory stays at one chunk.
    """
    if len(source.specs) != len(expected):
        return Verdict(
            ErrorCode.COUNT_MISMATCH, f"the report has {len(source.specs)} tensors, the model has {len(expected)}"
        )
    for place, (got, want) in enumerate(zip(source.specs, expected, strict=True)):
        title = f"tensor '{want.name}'"
        if got.name and got.name != want.name:
            message = f"tensor {place} is called '{got.name[:100]}', expected '{want.name}'"
            return Verdict(ErrorCode.NAME_MISMATCH, message, want.name)
        if got.shape != want.shape:
            message = f"{title} has shape {list(got.shape)}, expected {list(want.shape)}"
            return Verdict(ErrorCode.SHAPE_MISMATCH, message, want.name)
        if got.dtype != want.dtype:
            return Verdict(ErrorCode.DTYPE_MISMATCH, f"{title} is {got.dtype}, expected {want.dtype}", want.name)
    squares = 0.0
    for place, spec in enumerate(expected):
        for start in range(0, spec.size, _CHUNK):
            values = source.read(place, start, min(start + _CHUNK, spec.size)).astype(np.float64)
            bad = int(np.count_nonzero(~np.isfinite(values)))
            if bad:
                message = f"tensor '{spec.name}' has {bad} values that are not finite"
                return Verdict(ErrorCode.NOT_FINITE, message, spec.name)
            with np.errstate(over="ignore"):
                squares += float(np.dot(values, values))
    norm = min(math.sqrt(squares), np.finfo(np.float64).max)
    if max_norm is not None and norm > max_norm:
        return Verdict(
            ErrorCode.NORM_TOO_LARGE, f"the diff's norm is {norm:.3g}, allowed are {max_norm:.3g}", None, norm
        )
    warning = None
    if usual_norm and norm > UNUSUAL * usual_norm:
        warning = f"the diff's norm is {norm:.3g}, {norm / usual_norm:.0f} times the usual of this cycle"
    return Verdict(None, norm=norm, warning=warning)
