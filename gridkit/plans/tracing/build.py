"""From traced code to a checked plan: what training plans and plans of functions share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from gridkit.plans.check import dry_run, holds
from gridkit.plans.plan import Input, Output, Plan
from gridkit.plans.tracing.simplify import Trace, at_size
from gridkit.plans.tracing.sizes import FixedBatch
from gridkit.plans.tracing.trace import Spec, trace

Given = tuple[str, Any, Spec | float]
"""An input: its name, its role, and what it is."""


def build(
    name: str,
    function: Callable[..., Sequence[torch.Tensor]],
    inputs: Sequence[Given],
    outputs: Sequence[tuple[str, Any]] | Callable[[int], Sequence[tuple[str, Any]]],
    batch: int,
    modules: torch.nn.Module | None = None,
    lr: float = 0.0,
) -> Plan:
    """Trace `function`, and give the plan that does what it does.

    Args:
        name: what the plan is called.
        function: takes one value an input and returns tensors.
        inputs: name, role and what it is, of each.
        outputs: name and role of each; or a function of their number that gives them.
        batch: the size that "B" has while the code runs; at least 2.
        modules: the module that runs inside, so that messages can name the part at fault.
        lr: the plan's learning rate.

    Raises:
        PlanError: the code can't be a plan; the message names the operation and the user's line.
    """

    def once(size: int, symbolic: bool = True) -> Trace:
        return trace(function, [spec for _, _, spec in inputs], size, modules, symbolic)

    first = _first(once, batch)
    guards = first.guards
    if first.torch_guards and not _same_at(_other_size(first), first, once):
        guards = (*guards, *first.torch_guards)
    given = [_input(place, *what) for place, what in zip(first.inputs, inputs, strict=True)]
    drawn = [Input(p, f"uniform.{i}", "uniform", "float32", shape) for i, (p, shape) in enumerate(first.drawn)]
    named = outputs(len(first.outputs)) if callable(outputs) else outputs
    results = (Output(place, n, role) for place, (n, role) in zip(first.outputs, named, strict=True))
    plan = Plan(name, (*given, *drawn), tuple(results), first.nodes, first.constants, guards, lr)
    read = Plan.from_bytes(plan.to_bytes())  # what was traced passes the same checks as what is received
    plan = replace(read, nodes=tuple(replace(n, place=o.place) for n, o in zip(read.nodes, plan.nodes, strict=True)))
    dry_run(plan, batch)
    return plan


def _input(place: int, name: str, role: Any, spec: Spec | float) -> Input:
    if isinstance(spec, float):
        return Input(place, name, role, "float64", ())
    return Input(place, name, role, str(spec.dtype).removeprefix("torch."), tuple(spec.shape))


def _first(once: Callable[..., Trace], batch: int) -> Trace:
    """The trace at that batch size. Where torch mixes the batch up with another dimension of the same size, the trace
    at another size, provided that the code does the same at both."""
    try:
        return once(batch)
    except FixedBatch as error:
        try:
            other = once(2 * batch + 9)
        except FixedBatch:
            raise error from None
        if not all(holds(g, batch) for g in other.guards) or not _same_at(batch, other, once):
            raise error from None
        return other


def _same_at(size: int, traced: Trace, once: Callable[..., Trace]) -> bool:
    """Whether the code does at that batch size just what the trace says."""
    return at_size(traced, size).nodes == once(size, symbolic=False).nodes


def _other_size(traced: Trace) -> int:
    """A batch size at which torch's own conditions don't hold, if a small one is such."""
    sizes: list[int] = [
        s for s in (*range(3, 65), 129, 1025) if s != traced.size and all(holds(g, s) for g in traced.guards)
    ]
    return next((s for s in sizes if not all(holds(g, s) for g in traced.torch_guards)), sizes[-1])
