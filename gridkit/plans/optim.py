"""Optimisers as descriptions: what they keep between steps, and one step as a pure function.

A plan can't hold an object with state, so an optimiser here is its formula, in the very kernels that `torch.optim`
calls on a CPU, so that the numbers are bit-equal. Learning rates are inputs of a plan; the number given here is only
its default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from gridkit.errors import UsageError

if TYPE_CHECKING:
    import torch

    Rule = Callable[[torch.Tensor, torch.Tensor, Sequence[torch.Tensor]], tuple[torch.Tensor, tuple[torch.Tensor, ...]]]
    """From a parameter, its gradient and its slots to the next parameter and slots; nothing is changed in place."""


class Optimizer(Protocol):
    """What `training_plan` needs of an optimiser."""

    @property
    def lr(self) -> float: ...

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the tensors kept for each parameter, each of the parameter's shape and dtype, zero at first."""
        ...

    @property
    def counts(self) -> bool:
        """Whether the formula depends on the number of the step.

        That number is kept once for all parameters, as a float64 scalar named "step", zero before the first step.
        """
        ...

    def rule(self, lr: float, step: torch.Tensor | None) -> Rule:
        """The update rule of one step; `step` is its number (1, 2, …) if the optimiser counts, else None."""
        ...


def _check_numbers(optimizer: Any, **values: object) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise UsageError(f"{type(optimizer).__name__}({name}={value!r}): expected a number of at least 0")


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

    counts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_numbers(self, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        if self.nesterov and not self.momentum:
            raise UsageError("SGD(nesterov=True) needs momentum above 0", "give momentum=0.9")

    @property
    def slots(self) -> tuple[str, ...]:
        return ("momentum",) if self.momentum else ()

    def rule(self, lr: float, step: torch.Tensor | None) -> Rule:
        def update(
            param: torch.Tensor, grad: torch.Tensor, slots: Sequence[torch.Tensor]
        ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
            if self.weight_decay:
                grad = grad.add(param, alpha=self.weight_decay)
            kept: tuple[torch.Tensor, ...] = ()
            if self.momentum:
                velocity = slots[0].mul(self.momentum).add(grad)
                grad = grad.add(velocity, alpha=self.momentum) if self.nesterov else velocity
                kept = (velocity,)
            return param.add(grad, alpha=-lr), kept

        return update


@dataclass(frozen=True, slots=True)
class Adam:
    """Adam; the numbers are bit-equal to those of `torch.optim.Adam` on a CPU.

    Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015, algorithm 1. In federated training the
    moments belong to the client and start anew each round.

    Args:
        lr: default learning rate; a run may use another.
        betas: decay of the first and of the second moment, each at least 0 and below 1.
        eps: added to the denominator.
        weight_decay: L2 penalty, added to the gradient.

    Raises:
        UsageError: a number out of range.

    Example:
        >>> Adam(lr=0.01)
        Adam(lr=0.01, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0)
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    slots: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")
    counts: ClassVar[bool] = True
    decoupled: ClassVar[bool] = False
    """Whether weights decay by themselves (AdamW), not through the gradient."""

    def __post_init__(self) -> None:
        _check_numbers(self, lr=self.lr, eps=self.eps, weight_decay=self.weight_decay)
        fits = isinstance(self.betas, tuple) and len(self.betas) == 2
        if not fits or not all(isinstance(b, int | float) and 0 <= b < 1 for b in self.betas):
            raise UsageError(
                f"{type(self).__name__}(betas={self.betas!r}): expected two numbers of at least 0 and below 1",
                "the usual ones are betas=(0.9, 0.999)",
            )

    def rule(self, lr: float, step: torch.Tensor | None) -> Rule:
        import torch

        assert step is not None
        beta1, beta2 = self.betas
        # In float64 and by the C library's pow, as Python computes them in torch.optim. A number raised to a tensor,
        # or a tensor to a number, would take other ways.
        correction1, correction2 = (1 - torch.pow(torch.full_like(step, b), step) for b in self.betas)
        factor = torch.full_like(step, -lr) / correction1
        root = torch.pow(correction2, torch.full_like(step, 0.5))

        @cache
        def scale(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
            return factor.to(dtype), root.to(dtype)

        def update(
            param: torch.Tensor, grad: torch.Tensor, slots: Sequence[torch.Tensor]
        ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
            if self.weight_decay and self.decoupled:
                param = param.mul(1 - lr * self.weight_decay)
            elif self.weight_decay:
                grad = grad.add(param, alpha=self.weight_decay)
            first = slots[0].lerp(grad, 1 - beta1)
            second = slots[1].mul(beta2).addcmul(grad, grad, value=1 - beta2)
            own_factor, own_root = scale(param.dtype)
            # addcdiv takes but a number for its factor; it multiplies, divides and adds in this order
            change = first.mul(own_factor).div(second.sqrt().div(own_root).add(self.eps))
            return param.add(change), (first, second)

        return update


@dataclass(frozen=True, slots=True)
class AdamW(Adam):
    """Adam with decoupled weight decay; the numbers are bit-equal to those of `torch.optim.AdamW` on a CPU.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2.

    Args:
        lr: default learning rate; a run may use another.
        betas: decay of the first and of the second moment, each at least 0 and below 1.
        eps: added to the denominator.
        weight_decay: each step multiplies the weights by ``1 - lr * weight_decay``.

    Raises:
        UsageError: a number out of range.

    Example:
        >>> AdamW(lr=0.01)
        AdamW(lr=0.01, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01)
    """

    weight_decay: float = 0.01

    decoupled: ClassVar[bool] = True
