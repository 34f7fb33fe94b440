"""What is checked of a model that comes from elsewhere, before anybody keeps or runs it. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator

from gridkit.errors import PlanError
from gridkit.plans.check import DEFAULT_BUDGET, dry_run, holds
from gridkit.plans.form import decode
from gridkit.plans.plan import Guard, Input, Plan
from gridkit.wire.model import ModelFile
from gridkit.wire.tensors import TensorSpec

_SMALL = range(1, 65)
_TRIED = 200
"""batch sizes that are tried to find one that a plan takes"""


def check_model(file: ModelFile, budget: int = DEFAULT_BUDGET) -> Plan:
    """The plan of a model, after everything about both that can be known without running it.

    The plan decodes, is one of a model, its dry run succeeds for the smallest batch that its guards let through, and
    its parameters and buffers are just the file's tensors, in order, dtype and shape.

    Args:
        file: the model.
        budget: bytes that the values of that run may take together.

    Raises:
        PlanError: the first rule that is broken; nothing was executed.
    """
    plan = decode(file.plan)
    for i in plan.inputs:
        if i.role not in ("param", "buffer", "arg"):
            raise PlanError(
                f"plan {plan.name!r} is no model's: it has an input of role {i.role}", "trace it with model.eval()"
            )
    if not arguments(plan):
        raise PlanError(f"plan {plan.name!r} takes no tensor to work on")
    if not plan.outputs or any(o.role != "result" for o in plan.outputs):
        raise PlanError(f"plan {plan.name!r} is no model's: its outputs aren't all results")
    for spec, found in zip(plan.state, file.tensors.specs, strict=False):
        if spec != found:
            raise PlanError(f"the plan takes {_text(spec)}, but the model's tensors have {_text(found)} in its place")
    if len(plan.state) != len(file.tensors.specs):
        raise PlanError(f"the plan takes {len(plan.state)} tensors of state, the model has {len(file.tensors.specs)}")
    dry_run(plan, smallest_batch(plan), budget)
    return plan


def arguments(plan: Plan) -> tuple[Input, ...]:
    """What a model takes, in order."""
    return tuple(i for i in plan.inputs if i.role == "arg")


def smallest_batch(plan: Plan) -> int:
    """The smallest batch size that the plan's guards let through, of small ones and of the numbers in the guards; 1 if
    there is none of these."""
    named = {number + more for guard in plan.guards for number in _numbers(guard) for more in (0, 1)}
    sizes = [*_SMALL, *sorted(number for number in named if _SMALL.stop <= number < 1 << 32)]
    return next((size for size in sizes[:_TRIED] if all(holds(guard, size) for guard in plan.guards)), 1)


def _numbers(guard: Guard) -> Iterator[int]:
    if isinstance(guard, int):
        yield guard
    elif isinstance(guard, tuple):
        for part in guard[1:]:
            yield from _numbers(part)


def _text(spec: TensorSpec) -> str:
    return f"'{spec.name}' {spec.dtype}{list(spec.shape)}"
