"""What can be known of a run before it happens: batch guards, every shape and dtype, and the memory that it takes.

The dry run follows the op table's own rules, so it needs no torch and no time worth mentioning; a plan that asks for
2^40 numbers is refused before anything is allocated.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gridkit.errors import ErrorCode, PlanError
from gridkit.plans.plan import Arg, Dtype, Guard, Node, Plan, Ref
from gridkit.plans.table.ops import Op, table
from gridkit.plans.table.shapes import Meta

DEFAULT_BUDGET = 4 << 30
"""Bytes that the values of one run may take together, inputs and constants included."""

Value = Meta | int | float

_GUARD_OPS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "and": lambda a, b: bool(a) and bool(b),
    "or": lambda a, b: bool(a) or bool(b),
    "not": operator.not_,
}
_SIGNS = {"add": "+", "mul": "*", "floordiv": "//", "mod": "%", "eq": "==", "ne": "!=", "lt": "<", "le": "<="}
_SIGNS |= {"gt": ">", "ge": ">="}


def guard_text(guard: Guard) -> str:
    """A guard as a person reads it: ``B >= 4``."""
    if not isinstance(guard, tuple):
        return str(guard)
    op, *rest = guard
    parts = [f"({guard_text(r)})" if isinstance(r, tuple) else str(r) for r in rest]
    return f"not {parts[0]}" if op == "not" else f" {_SIGNS.get(str(op), op)} ".join(parts)


def _evaluate(guard: Guard, batch: int) -> Any:
    if not isinstance(guard, tuple):
        return batch if guard == "B" else guard
    op, *rest = guard
    return _GUARD_OPS[str(op)](*(_evaluate(r, batch) for r in rest))


def holds(guard: Guard, batch: int) -> bool:
    """Whether a condition on the batch size is true."""
    try:
        return bool(_evaluate(guard, batch))
    except ZeroDivisionError:
        return False


def check_guards(plan: Plan, batch: int) -> None:
    """Raise PlanError unless the trace holds for that batch size."""
    for guard in plan.guards:
        if not holds(guard, batch):
            raise PlanError(
                f"plan {plan.name!r} was traced for batch sizes B with {guard_text(guard)}; this batch has {batch}",
                "choose another batch_size, or trace with an example of this size",
            )


def last_uses(plan: Plan) -> list[tuple[int, ...]]:
    """For each node, the ids whose values nobody needs after it (outputs and inputs are never among them)."""
    kept = {o.id for o in plan.outputs} | {i.id for i in plan.inputs} | set(plan.constants)
    dying: list[tuple[int, ...]] = []
    for node in reversed(plan.nodes):
        ids = {*references(node), *(i for i in node.out if i is not None)}
        dying.append(tuple(sorted(ids - kept)))
        kept |= ids
    return dying[::-1]


def references(node: Node) -> list[int]:
    """Ids that a node reads."""
    found: list[int] = []

    def collect(arg: Arg) -> None:
        if isinstance(arg, Ref):
            found.append(arg.id)
        elif isinstance(arg, tuple):
            for inner in arg:
                collect(inner)

    for arg in node.args:
        collect(arg)
    for _, arg in node.kwargs:
        collect(arg)
    return found


def label(plan: Plan, index: int) -> str:
    """How messages call a node."""
    return f"node {index} ({plan.nodes[index].op}) of plan {plan.name!r}"


def dry_run(plan: Plan, batch: int, budget: int = DEFAULT_BUDGET) -> Mapping[int, Value]:
    """Work out every value's shape and dtype for one batch size, and count the bytes alive at each node.

    Results are remembered, so a second call with the same batch size costs nothing.

    Args:
        plan: the plan.
        batch: number of samples.
        budget: bytes that all values alive at one time may take.

    Returns:
        For each id its `Meta`, or the number itself.

    Raises:
        PlanError: a guard doesn't hold, an operation can't take its arguments, or the budget is exceeded; the
            message names the node.
    """
    key = ("dry run", batch, budget)
    if key not in plan._memo:
        check_guards(plan, batch)
        values = shapes_of(plan, batch, budget)
        _check_outputs(plan, values)
        plan._memo[key] = values
    found: Mapping[int, Value] = plan._memo[key]
    return found


Visit = Callable[[Op, Mapping[str, Any], tuple[Value, ...], int], None]
"""Sees a node of a dry run: its operation, arguments by name, results, and the bytes alive while it runs."""


@dataclass(slots=True)
class _Memory:
    """Bytes that are alive. A view takes none, and keeps alive what it is a view of."""

    total: int = 0
    _owner: dict[int, int] = field(default_factory=dict)  # whose memory a living value lies in
    _held: dict[int, tuple[int, int]] = field(default_factory=dict)  # of each owner: bytes, living values in them

    def take(self, id: int, nbytes: int) -> None:
        self.total += nbytes
        self._owner[id], self._held[id] = id, (nbytes, 1)

    def share(self, id: int, other: int) -> None:
        owner = self._owner[id] = self._owner[other]
        nbytes, users = self._held[owner]
        self._held[owner] = nbytes, users + 1

    def drop(self, id: int) -> None:
        owner = self._owner.pop(id, None)
        if owner is None:  # a number
            return
        nbytes, users = self._held.pop(owner)
        if users > 1:
            self._held[owner] = nbytes, users - 1
        else:
            self.total -= nbytes


def check_training(plan: Plan) -> None:
    """Raise PlanError unless the plan is one of a training step: what hosts and workers take for one."""
    for role in ("x", "y", "weight", "lr"):
        if plan.input(role) is None:
            raise PlanError(f"plan {plan.name!r} is no training plan: it has no input of role {role}")
    if any(i.role == "arg" for i in plan.inputs):
        raise PlanError(f"plan {plan.name!r} is no training plan: it takes arguments of its own")
    state = sum(i.role in ("param", "buffer", "optimizer") for i in plan.inputs)
    if [o.role for o in plan.outputs][:1] != ["loss"] or len(plan.outputs) != 1 + state:
        raise PlanError(f"plan {plan.name!r} is no training plan: it doesn't give the loss and then the next state")


def shapes_of(plan: Plan, batch: int, budget: int = DEFAULT_BUDGET, visit: Visit | None = None) -> Mapping[int, Value]:
    """What `dry_run` works out, without guards, outputs and memory of earlier calls; `visit` sees each node."""
    values: dict[int, Value] = {}
    for i in plan.inputs:
        shape = tuple(batch if s == "B" else s for s in i.shape)
        # the rate is known in the run only, so nothing that is worked out here may depend on it: no size does
        values[i.id] = math.nan if i.role == "lr" else Meta(shape, i.dtype)
    values |= {key: Meta(array.shape, array.dtype.name) for key, array in plan.constants.items()}
    memory = _Memory()
    for key, known in values.items():
        if isinstance(known, Meta):
            memory.take(key, known.nbytes)
    if memory.total > budget:
        raise PlanError(
            f"the inputs of plan {plan.name!r} take {memory.total:,} bytes; {budget:,} are allowed",
            code=ErrorCode.OUT_OF_MEMORY,
        )
    rows = table()
    for index, (node, dying) in enumerate(zip(plan.nodes, last_uses(plan), strict=True)):
        op = rows[node.op]
        given = bound(op, node)
        try:
            args = _known(op, given, values)
            result = op.rule(args)
            _check_number(result)
        except (ValueError, IndexError, TypeError, ArithmeticError) as error:
            raise PlanError(f"{label(plan, index)} can't run: {error}") from None
        results = result if isinstance(result, tuple) else (result,)
        unused = 0
        for id, value in zip(node.out, results, strict=True):
            if isinstance(value, Meta):
                source = given["self"] if op.is_view else None
                taken = 0 if op.is_view else value.nbytes
                if memory.total + unused + taken > budget or value.nbytes > budget:
                    raise PlanError(
                        f"{label(plan, index)} needs {value.nbytes:,} bytes for {value.dtype}{list(value.shape)}, "
                        f"{memory.total + unused + taken:,} in all; {budget:,} are allowed",
                        code=ErrorCode.OUT_OF_MEMORY,
                    )
                if id is None:
                    unused += taken
                elif isinstance(source, Ref):
                    memory.share(id, source.id)
                else:
                    memory.take(id, taken)
            if id is not None:
                values[id] = value
        if visit is not None:
            visit(op, args, results, memory.total + unused)
        for id in dying:
            memory.drop(id)
    return values


def bound(op: Op, node: Node) -> dict[str, Any]:
    """A node's arguments by name, with the schema's defaults."""
    named: dict[str, Any] = {p.name: p.default for p in op.params}
    named |= {p.name: a for p, a in zip(op.positional, node.args, strict=False)}
    return named | dict(node.kwargs)


def check_forwards(plan: Plan) -> None:
    """Raise PlanError if a backward operation that trusts its indices doesn't follow its forward operation."""
    rows = table()
    trusting = {op.forward.op: op.forward for op in rows.values() if op.forward}
    before: set[object] = set()
    for index, node in enumerate(plan.nodes):
        op = rows[node.op]
        if node.op in trusting:
            args, rule = bound(op, node), trusting[node.op]
            before.add((node.op, *(args[name] for name in rule.same), *(node.out[i] for _, i in rule.results)))
        if op.forward is not None:
            args, rule = bound(op, node), op.forward
            given = (args[name] for name, _ in rule.results)
            ids = (a.id if isinstance(a, Ref) else None for a in given)
            if (rule.op, *(args[name] for name in rule.same), *ids) not in before:
                raise PlanError(f"{label(plan, index)} doesn't follow the {rule.op} that it belongs to")


def _known(op: Op, named: Mapping[str, Any], values: Mapping[int, Value]) -> dict[str, Any]:
    """The arguments with what is known of them in place of references."""
    known: dict[str, Any] = {"op": op.name}
    for p in op.params:
        known[p.name] = _value(named[p.name], values)
        numbers = known[p.name] if isinstance(known[p.name], list) else [known[p.name]]
        if p.type == "int" and any(isinstance(n, float) for n in numbers):
            raise ValueError(f"argument {p.name!r} isn't a whole number")
    return known


def _check_number(result: object) -> None:
    """Numbers stay in 64 bits: a chain of products mustn't grow without bounds."""
    if isinstance(result, int) and not -(1 << 63) <= result < 1 << 63:
        raise ValueError("the number takes more than 64 bits")


def _value(arg: Arg, values: Mapping[int, Value]) -> Any:
    if isinstance(arg, Ref):
        return values[arg.id]
    if isinstance(arg, Dtype):
        return arg.name
    if isinstance(arg, tuple):
        return [_value(a, values) for a in arg]
    return arg


def _check_outputs(plan: Plan, values: Mapping[int, Value]) -> None:
    """A next value must look like the one that it replaces, and the loss must be one number."""
    held = {(i.role, i.name): i for i in plan.inputs}
    for o in plan.outputs:
        value = values[o.id]
        assert isinstance(value, Meta)
        if o.role == "result":
            continue
        if o.role == "loss":
            if value.shape != () or not value.dtype.startswith("float"):
                raise PlanError(f"the loss of plan {plan.name!r} is {value.dtype}{list(value.shape)}, not one number")
            continue
        i = held[o.role, o.name]
        if (value.shape, value.dtype) != (i.shape, i.dtype):
            raise PlanError(
                f"output {o.name!r} of plan {plan.name!r} is {value.dtype}{list(value.shape)}, "
                f"but the input that it replaces is {i.dtype}{list(i.shape)}"
            )
