"""Averaging plans: what one takes and gives, and what can be known of it before a round. Needs no torch.

An averaging plan turns the reports of a round into what is taken off the model: ``new = old - result``. P is the number
of the model's averaged values, all of them flat, one tensor after the other in the order of its state; K is the number
of reports.

========= ============================================= =======================================================
form      inputs, all float32                           called
========= ============================================= =======================================================
at once   updates [K, P], n [K]: the reports' weights   once a round
iterative average [P], update [P], count [1]            for each report but the first, in slot order; the first
                                                        is the average to begin with, and count says how many
                                                        reports are in the average so far
========= ============================================= =======================================================

Either gives one tensor, float32 [P]. The iterative form is PyGrid's: memory doesn't grow with the number of reports.
"""

from __future__ import annotations

from gridkit.errors import ErrorCode, GridkitError, PlanError
from gridkit.plans.check import DEFAULT_BUDGET, dry_run, guard_text, holds
from gridkit.plans.model_form import arguments, smallest_batch
from gridkit.plans.plan import Plan, Size
from gridkit.plans.table.shapes import Meta

AT_ONCE = ("updates", "n")
ITERATIVE = ("average", "update", "count")
_HINTS = {
    ErrorCode.OUT_OF_MEMORY: "an iterative plan takes one report at a time; --limit run_memory=… gives a node more",
    ErrorCode.TIMED_OUT: "start the node with a larger --limit run_seconds=…",
    ErrorCode.NOT_FINITE: "max_norm refuses reports that are too large",
}
_TRIED = 1000
"""numbers of reports with which a plan is held against its guards"""


def failure(error: GridkitError) -> str:
    """Why a training ends whose reports can't be averaged."""
    hint = _HINTS.get(error.code) if error.code else None
    return f"the averaging plan failed: {error.message}" + (f" ({hint})" if hint else "")


def shapes(size: int, iterative: bool) -> tuple[tuple[Size, ...], ...]:
    """The shapes of an averaging plan's inputs for a model with that many averaged values; "B" is K."""
    return ((size,), (size,), (1,)) if iterative else (("B", size), ("B",))


def is_iterative(plan: Plan) -> bool:
    """Whether a plan takes one report after the other."""
    return len(plan.inputs) == len(ITERATIVE)


def check_averaging(plan: Plan, size: int) -> None:
    """Raise PlanError unless the plan averages reports of that many values.

    Args:
        plan: a decoded plan.
        size: P, the number of the model's averaged values.
    """
    title = f"the averaging plan {plan.name!r}"
    if any(i.role == "uniform" for i in plan.inputs):
        raise PlanError(f"{title} draws random numbers: the same reports must give the same model")
    given = tuple(i.shape for i in plan.inputs)
    is_function = len(arguments(plan)) == len(given) and [o.role for o in plan.outputs] == ["result"]
    wanted = shapes(size, is_iterative(plan))
    if not is_function or given != wanted or any(i.dtype != "float32" for i in plan.inputs):
        takes = ", ".join(f"{i.name} {i.dtype}[{', '.join(map(str, i.shape))}]" for i in plan.inputs)
        raise PlanError(
            f"{title} takes {takes} and gives {len(plan.outputs)} tensors; for this model of {size:,} averaged values "
            f"it must take float32 [B, {size}] and [B], or [{size}], [{size}] and [1], and give one tensor",
            "make it with gk.averaging_plan(rule, model) of this model",
        )
    check_round(plan, smallest_batch(plan))


def check_rounds(plan: Plan, fewest: int, most: int | None, budget: int = DEFAULT_BUDGET) -> None:
    """Raise PlanError unless a checked plan can average every round that a training may have.

    Args:
        plan: what `check_averaging` let through.
        fewest, most: number of reports that a round may have; `most` None is without limit.
        budget: bytes that the values of one run may take together.
    """
    if is_iterative(plan):
        return check_round(plan, 1, budget)
    for reports in range(fewest, fewest + _TRIED if most is None else min(most + 1, fewest + _TRIED)):
        for guard in plan.guards:
            if not holds(guard, reports):
                raise PlanError(
                    f"the averaging plan {plan.name!r} needs a number of reports B with {guard_text(guard)}, "
                    f"but a round of this training may have {reports}",
                    "set min_diffs and max_diffs (or tolerate, in a fixed roster) so that it doesn't",
                )
    check_round(plan, fewest if most is None else most, budget)


def check_round(plan: Plan, reports: int, budget: int = DEFAULT_BUDGET) -> None:
    """Raise PlanError unless a plan gives float32 [P] for that many reports, within `budget` bytes."""
    values = dry_run(plan, reports, budget)
    result, (size,) = values[plan.outputs[0].id], plan.inputs[0].shape[-1:]
    if result != Meta((int(size),), "float32"):
        got = f"{result.dtype}{list(result.shape)}" if isinstance(result, Meta) else "a number"
        raise PlanError(
            f"the averaging plan {plan.name!r} gives {got} for {reports} reports, expected float32[{size}]",
            None if is_iterative(plan) else "reduce over the reports alone, as updates.mean(0) does",
            code=ErrorCode.SHAPE_MISMATCH,
        )
