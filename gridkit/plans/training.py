"""From a model, a loss and an optimiser to a plan for one training step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.func import functional_call

from gridkit.errors import PlanError, UsageError
from gridkit.plans.optim import Optimizer
from gridkit.plans.plan import Plan
from gridkit.plans.state import Held, copied, held_state
from gridkit.plans.tracing.build import Given, build
from gridkit.plans.tracing.trace import Spec
from gridkit.plans.tracing.weighting import Loss, check_loss, weighted

_PROBE = 11
"""Samples on which the loss is tried: a number that no dimension of a model is likely to have."""


def training_plan(
    model: torch.nn.Module,
    loss: Loss,
    optimizer: Optimizer,
    example: tuple[Any, Any],
    *,
    name: str | None = None,
) -> Plan:
    """Trace one training step: forward, weighted loss, backward, optimiser.

    The plan takes the model's state, the optimiser's, a batch (x, y) of any size, a weight for each sample and a
    learning rate, and gives the loss and the next states. With weights of one, the next parameters are bit-equal to
    those of the eager module with the loss's mean and the optimiser of `torch.optim`. The model is traced in training
    mode, on a copy: its mode, parameters and gradients stay as they are.

    Args:
        model: any module whose operations are in the op table.
        loss: ``loss(output, y)``: a mean over the samples, or one loss a sample.
        optimizer: such as `gridkit.SGD` or `gridkit.AdamW`.
        example: ``(x, y)``, arrays or tensors of at least one sample; only shapes and dtypes enter the plan.
        name: what the plan is called; the model's class name if not given.

    Raises:
        PlanError: the code can't be a plan; the message names the operation and the line.
        UsageError: an argument is wrong.

    Example:
        >>> plan = training_plan(model, F.cross_entropy, SGD(lr=0.1), (x, y))     # doctest: +SKIP
    """
    if not isinstance(model, torch.nn.Module):
        raise UsageError(f"model is {type(model).__name__}, expected a torch.nn.Module")
    x, y = _example(example)
    inside = copied(model).train()
    state = held_state(inside)
    if not any(h.is_param and h.tensor.requires_grad for h in state.values()):
        raise PlanError("the model has no parameter that requires a gradient")
    _try_loss(inside, state, loss, x, y)

    step = _Step(inside, loss, optimizer, state, x, y)
    return build(
        name or type(model).__name__, step.run, step.inputs, step.outputs, max(2, len(x)), inside, float(optimizer.lr)
    )


def _example(example: Any) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        x, y = (torch.as_tensor(part) for part in example)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"example must be (x, y), two arrays or tensors: {error}") from None
    if not x.ndim or not y.ndim or len(x) != len(y) or not len(x):
        raise UsageError(f"example: x is {list(x.shape)} and y is {list(y.shape)}, expected the same number of samples")
    return x, y


def _try_loss(model: torch.nn.Module, state: Mapping[str, Held], loss: Loss, x: torch.Tensor, y: torch.Tensor) -> None:
    """Run model and loss once, eagerly, on a few samples, to see that the loss can be weighted."""
    index = torch.arange(_PROBE) % len(x)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            output = model(x[index])
        except Exception as error:
            raise PlanError(f"the model can't take the example: {type(error).__name__}: {error}") from error
        if not isinstance(output, torch.Tensor) or not output.ndim or len(output) != len(index):
            shape = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise PlanError(f"the model gave {shape} for {len(index)} samples, expected one tensor with a row for each")
        try:
            check_loss(loss, output, y[index])
        except PlanError:
            raise
        except Exception as error:
            raise PlanError(f"the loss can't take the example: {type(error).__name__}: {error}") from error


class _Step:
    """One training step as a pure function of the state."""

    def __init__(
        self,
        model: torch.nn.Module,
        loss: Loss,
        optimizer: Optimizer,
        state: Mapping[str, Held],
        x: torch.Tensor,
        y: torch.Tensor,
    ) -> None:
        self.model, self.loss, self.optimizer, self.state = model, loss, optimizer, state
        self.trained = [n for n, h in state.items() if h.is_param and h.tensor.requires_grad and h.source is None]
        self.slots = [f"{slot}.{n}" for n in self.trained for slot in optimizer.slots]
        held = [(n, "param" if h.is_param else "buffer", self._spec(n, h)) for n, h in state.items()]
        kept = [
            (f"{slot}.{n}", "optimizer", self._spec(n, state[n])._replace(differentiable=False))
            for n in self.trained
            for slot in optimizer.slots
        ]
        if optimizer.counts:
            self.slots.append("step")
            kept.append(("step", "optimizer", Spec((), torch.float64)))
        self.inputs: list[Given] = [
            *held,
            *kept,
            ("x", "x", Spec(("B", *x.shape[1:]), x.dtype)),
            ("y", "y", Spec(("B", *y.shape[1:]), y.dtype)),
            ("weight", "weight", Spec(("B",), state[self.trained[0]].tensor.dtype)),
            ("lr", "lr", float(optimizer.lr)),
        ]
        self.outputs = [("loss", "loss"), *((name, role) for name, role, _ in (*held, *kept))]

    def _spec(self, name: str, held: Held) -> Spec:
        return Spec(tuple(held.tensor.shape), held.tensor.dtype, name in self.trained, changes=not held.is_param)

    def run(self, *values: Any) -> list[torch.Tensor]:
        *values, x, y, weight, lr = values  # type: ignore[assignment]
        state = dict(zip(self.state, values, strict=False))
        slots = dict(zip(self.slots, values[len(state) :], strict=True))
        # afterwards `named` holds what the model has assigned to its buffers, as BatchNorm-like layers of one's own do
        named = {n: state[h.source or n] for n, h in self.state.items()}
        output = functional_call(self.model, named, (x,))
        state |= {n: named[h.source or n] for n, h in self.state.items() if not h.is_param}
        loss = weighted(self.loss, output, y, weight)
        if loss.ndim or not loss.requires_grad:
            raise PlanError("the loss isn't one number that depends on the model's parameters")
        grads = torch.autograd.grad(loss, [state[n] for n in self.trained], allow_unused=True)
        with torch.no_grad():
            if self.optimizer.counts:
                slots["step"] = slots["step"] + 1
            rule = self.optimizer.rule(lr, slots.get("step"))
            for name, grad in zip(self.trained, grads, strict=True):
                if grad is None:
                    continue
                own = [f"{slot}.{name}" for slot in self.optimizer.slots]
                state[name], new = rule(state[name], grad, [slots[o] for o in own])
                slots.update(zip(own, new, strict=True))
        return [loss, *(state[h.source or n] for n, h in self.state.items()), *slots.values()]
