"""How reports become the next model: one small file a strategy, found by name."""

from __future__ import annotations

from typing import Protocol

from gridkit.errors import ErrorCode, UsageError
from gridkit.federated.strategies.fedavg import FedAvg
from gridkit.wire.tensors import Array


class Strategy(Protocol):
    """Three pure functions over flat chunks; they are called chunk by chunk, reports in slot order."""

    def init(self, size: int) -> Array:
        """The empty accumulator of a chunk of `size` elements."""
        ...

    def accumulate(self, total: Array, diff: Array, weight: float) -> Array:
        """`total` with one report's diff added; may change `total`."""
        ...

    def finish(self, total: Array, weights: float, old: Array) -> Array:
        """The new chunk, in the dtype of `old`; `weights` is the sum of all reports' weights."""
        ...


_STRATEGIES: dict[str, Strategy] = {"fedavg": FedAvg()}
NAMES = tuple(_STRATEGIES)


def get(name: str) -> Strategy:
    """The strategy of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in _STRATEGIES:
        raise UsageError(
            f"there is no strategy {name!r}", f"use one of: {', '.join(_STRATEGIES)}", code=ErrorCode.BAD_CONFIG
        )
    return _STRATEGIES[name]


__all__ = ["NAMES", "Strategy", "get"]
