"""Per-sample weights for ordinary losses.

A user's loss is a mean over samples; a plan's is the weighted mean, mean(w * l) / mean(w), so that padding, ragged
batches and sample weights need no other plan. With weights of one it is the plain mean, and the gradients keep their
bits: mean(w) is exactly 1, and mean(w * l) runs the same kernels as the plain loss.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from gridkit.errors import PlanError

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class _WeightedMeans(TorchFunctionMode):
    """While active, means over the batch and losses of `torch.nn.functional` are weighted."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = weight

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.mean, torch.Tensor.mean):
            return self._mean(func, args, kwargs)
        signature = _reducing(func)
        if signature is None:
            return func(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        reduction = given["reduction"]
        if given.pop("size_average", None) is not None or given.pop("reduce", None) is not None:
            raise PlanError(f"{func.__name__}: size_average and reduce are out of use", "use reduction=")
        if reduction == "none":
            return func(**given)
        if func in (F.binary_cross_entropy, F.binary_cross_entropy_with_logits) and reduction == "mean":
            return self._inside(func, given)
        losses = func(**{**given, "reduction": "none"})
        if reduction == "sum":
            return (losses * self._like(losses)).sum()
        if reduction == "batchmean":
            return (losses * self._like(losses)).sum() / self.weight.sum()
        if func in (F.cross_entropy, F.nll_loss) and _counts_unevenly(given):
            return (losses * self._like(losses)).mean() / (self._shares(given) * self._like(losses)).mean()
        return self.average(losses)

    def _like(self, losses: torch.Tensor) -> torch.Tensor:
        """The weights, shaped to broadcast over per-sample losses of any rank."""
        return self.weight if losses.ndim == 1 else self.weight.view(-1, *[1] * (losses.ndim - 1))

    def average(self, losses: torch.Tensor) -> torch.Tensor:
        """Weighted mean of losses whose first dimension is the batch."""
        return (losses * self._like(losses)).mean() / self.weight.mean()

    def _inside(self, func: Any, given: dict[str, Any]) -> torch.Tensor:
        """These two divide after they multiply by the gradient, so their own `weight` is what keeps the bits."""
        weight = self._like(given["input"])
        if given["weight"] is not None:
            weight = weight * given["weight"]
        result: torch.Tensor = func(**{**given, "weight": weight}) / self.weight.mean()
        return result

    def _shares(self, given: dict[str, Any]) -> torch.Tensor:
        """What each label counts for in torch's mean: its class weight, zero if it is ignored."""
        shares: torch.Tensor = F.nll_loss(
            -torch.ones_like(given["input"]),
            given["target"],
            weight=given["weight"],
            ignore_index=given["ignore_index"],
            reduction="none",
        )
        return shares

    def _mean(self, func: Any, args: Any, kwargs: dict[str, Any]) -> torch.Tensor:
        values = args[0] if args else kwargs["input"]
        whole = len(args) < 2 and kwargs.get("dim") is None and kwargs.get("dtype") is None
        # as text: comparing a fixed size with the batch's symbol would make a guard
        over_batch = values.ndim > 0 and str(values.shape[0]) == str(self.weight.shape[0])
        if whole and over_batch:
            return self.average(values)
        result: torch.Tensor = func(*args, **kwargs)
        return result


@cache
def _reducing(func: Any) -> inspect.Signature | None:
    """The signature of a loss in torch.nn.functional, None of anything else."""
    if getattr(F, getattr(func, "__name__", ""), None) is not func:
        return None
    try:
        signature = inspect.signature(cast(Callable[..., Any], func))
    except (TypeError, ValueError):  # written in C
        return None
    return signature if "reduction" in signature.parameters else None


def _counts_unevenly(given: dict[str, Any]) -> bool:
    labels = not given["target"].dtype.is_floating_point
    return labels and (given["weight"] is not None or given["ignore_index"] != -100)


def weighted(loss: Loss, output: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`loss(output, y)` with its mean over samples weighted.

    Args:
        loss: gives one number (a mean over the samples), or one loss a sample.
        output: what the model gave, [B, ...].
        y: targets, [B, ...].
        weight: weights, [B].
    """
    means = _WeightedMeans(weight)
    with means:
        value = loss(output, y)
    if not isinstance(value, torch.Tensor):
        raise PlanError(f"the loss gave {type(value).__name__}, expected a tensor")
    return means.average(value) if value.ndim else value


def check_loss(loss: Loss, output: torch.Tensor, y: torch.Tensor) -> None:
    """Make sure that `weighted` means what it says: ones change nothing, and zeros take samples away.

    Raises:
        PlanError: the loss isn't a mean over samples that could be weighted.
    """
    ones = torch.ones(len(y), dtype=output.dtype)
    half = len(y) // 2
    first_half = (torch.arange(len(y)) < half).to(ones.dtype)
    given = weighted(loss, output, y, ones), weighted(loss, output, y, first_half)
    plain = loss(output, y).mean(), loss(output[:half], y[:half]).mean()
    if not all(torch.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True) for a, b in zip(given, plain, strict=True)):
        raise PlanError(
            "the loss isn't a mean over samples that can be weighted",
            "return one loss a sample (reduction='none'), or use a loss of torch.nn.functional",
        )
