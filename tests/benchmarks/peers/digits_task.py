"""The one task that every peer of the benchmark does; knows numpy, scikit-learn and torch, and no toolkit.

scikit-learn's digits, 80/20 split, ten IID clients; an MLP 64-64-10 with the same first weights; plain SGD 0.1,
batches of 8, one local epoch a round, every client in every round.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

CLIENTS, BATCH, LR, ROUNDS = 10, 8, 0.1, 20

Shard = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def shards() -> tuple[list[Shard], Shard]:
    """Ten clients' (x [n, 64] float32 in 0..1, y [n] int64) and the test set, 360 of the 1797 images."""
    digits = load_digits()
    x, y = (digits.data / 16).astype(np.float32), digits.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(y))
    test, train = order[:360], order[360:]
    return [(x[part], y[part]) for part in np.array_split(train, CLIENTS)], (x[test], y[test])


def make_model() -> nn.Module:
    """The MLP; the same first weights in every process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def accuracy(model: nn.Module, test: Shard) -> float:
    """The share of the test images that the model names rightly."""
    x, y = torch.from_numpy(test[0]), torch.from_numpy(test[1])
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())


def figures(name: str, cold: float, first: float, rounds: list[float], score: float) -> dict[str, Any]:
    """What each peer prints as one JSON line.

    Args:
        cold: seconds from the script's first line to the end of the first round.
        first: seconds of the first round alone.
        rounds: seconds of the rounds after it.
        score: test accuracy of the last model.
    """
    return {
        "peer": name,
        "cold_s": round(cold, 4),
        "first_round_s": round(first, 5),
        "warm_round_s": round(float(np.median(rounds)), 5),
        "accuracy": round(score, 4),
    }
