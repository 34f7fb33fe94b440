"""Optimisers as descriptions: what they keep for each parameter, and one step as a pure function.

A plan can't hold an object with state, so an optimiser here is its formula. Learning rates are inputs of a plan; the
number given here is only its default.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gridkit.errors import UsageError

if TYPE_CHECKING:
    import torch


class Optimizer(Protocol):
    """What `training_plan` needs of an optimiser."""

    @property
    def lr(self) -> float: ...

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the tensors kept for each parameter, each of the parameter's shape, zero at first."""
        ...

    def step(
        self, param: torch.Tensor, grad: torch.Tensor, slots: Sequence[torch.Tensor], lr: float
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The parameter's and the slots' next values. Nothing is changed in place."""
        ...


@dataclass(frozen=True, slots=True)
class SGD:
    """Stochastic gradient descent; the numbers are bit-equal to those of `torch.optim.SGD`.

    Args:
        lr: default learning rate; a run may use another.
        momentum: 0 keeps no state.
        weight_decay: L2 penalty, added to the gradient.
        nesterov: Nesterov's momentum; needs ``momentum > 0``.

    Raises:
        UsageError: a number out of range.

    Example:
        >>> SGD(lr=0.1, momentum=0.9)
        SGD(lr=0.1, momentum=0.9, weight_decay=0.0, nesterov=False)
    """

    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        for name in ("lr", "momentum", "weight_decay"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise UsageError(f"SGD({name}={value!r}): expected a number of at least 0")
        if self.nesterov and not self.momentum:
            raise UsageError("SGD(nesterov=True) needs momentum above 0", "give momentum=0.9")

    @property
    def slots(self) -> tuple[str, ...]:
        return ("momentum",) if self.momentum else ()

    def step(
        self, param: torch.Tensor, grad: torch.Tensor, slots: Sequence[torch.Tensor], lr: float
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        if self.weight_decay:
            grad = grad.add(param, alpha=self.weight_decay)
        kept: tuple[torch.Tensor, ...] = ()
        if self.momentum:
            velocity = slots[0].mul(self.momentum).add(grad)
            grad = grad.add(velocity, alpha=self.momentum) if self.nesterov else velocity
            kept = (velocity,)
        return param.add(grad, alpha=-lr), kept
