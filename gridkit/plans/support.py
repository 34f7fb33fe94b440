"""Which engine can take a plan, and what stands in the way: `Plan.supports`. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from gridkit.errors import UsageError
from gridkit.plans.plan import Plan


@dataclass(frozen=True, slots=True)
class Missing:
    """Why a plan has no form for an engine.

    Attributes:
        node: the number of the node, None if it isn't one node's fault.
        op: its operation, "" if it isn't one node's fault.
        reason: what is missing, in words.
        line: where it comes from, the user's line (``net.py:12: return x.cumsum(1)``) or the module (``in module 'fc'
            (Linear)``), in a plan that was traced in this process; "" in one that was read from bytes.
    """

    node: int | None
    op: str
    reason: str
    line: str = ""

    def __str__(self) -> str:
        where = self.reason if self.node is None else f"node {self.node} ({self.op}): {self.reason}"
        return f"{where}; {self.line}" if self.line else where


@dataclass(frozen=True, slots=True, repr=False)
class Support:
    """Whether a plan has a form; true if it has. `missing` says what it lacks, in order.

    Example:
        >>> plan.supports("tfjs")                                               # doctest: +SKIP
        <Plan 'net' has no form 'tfjs':
          the optimiser keeps 'momentum.fc.weight' and 1 other between steps: use gk.SGD without momentum
          node 3 (aten.cumsum.default): it has no form there; net.py:12: return self.fc(x.cumsum(1))>
    """

    plan: str
    form: str
    missing: tuple[Missing, ...]

    def __bool__(self) -> bool:
        return not self.missing

    def __repr__(self) -> str:
        if not self.missing:
            return f"<Plan {self.plan!r} has the form {self.form!r}>"
        return "\n  ".join([f"<Plan {self.plan!r} has no form {self.form!r}:", *map(str, self.missing)]) + ">"


def supports(plan: Plan, form: str) -> Support:
    """See `Plan.supports`."""
    if form != "tfjs":
        raise UsageError(f"there is no form {form!r} of a plan", "forms that can be asked for: 'tfjs'")
    from gridkit.plans.engines.tfjs import translated

    return Support(plan.name, form, translated(plan)[1])
