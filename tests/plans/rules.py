"""Averaging rules that tests share."""

from __future__ import annotations

import torch


def mean(updates: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    """Federated averaging."""
    return (updates * (n / n.sum())[:, None]).sum(0)


def median(updates: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    return updates.median(0).values


def trimmed(updates: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    """A third of the values goes at each end; needs three reports."""
    reports = updates.shape[0]
    if reports < 3:
        raise ValueError("a trimmed mean of fewer than three")
    cut = reports // 3
    return updates.sort(dim=0).values[cut : reports - cut].mean(0)


def running(average: torch.Tensor, update: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """The mean, one report after the other."""
    return (average * count + update) / (count + 1)
