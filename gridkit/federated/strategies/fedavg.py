"""Federated averaging.

Source: McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-efficient learning of deep networks from
decentralized data", AISTATS 2017, algorithm 1: ``new = old - Σ nᵢ dᵢ / Σ nᵢ`` with diffs ``dᵢ = old - trainedᵢ``.
"""

from __future__ import annotations

import numpy as np

from gridkit.wire.tensors import Array


class FedAvg:
    """Weighted mean in float64, cast once at the end.

    >>> rule = FedAvg()
    >>> total = rule.accumulate(rule.init(1), np.float32([1.0]), 3.0)
    >>> rule.finish(total, 3.0, np.float32([0.5]))
    array([-0.5], dtype=float32)
    """

    def init(self, size: int) -> Array:
        return np.zeros(size, np.float64)

    def accumulate(self, total: Array, diff: Array, weight: float) -> Array:
        total += diff.astype(np.float64) * weight
        return total

    def finish(self, total: Array, weights: float, old: Array) -> Array:
        return (old.astype(np.float64) - total / weights).astype(old.dtype)
