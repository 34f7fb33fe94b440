"""The default engine: a plan as one generated Python function.

Holds the package's only `exec`. It is no execution of foreign text: the text is written here, from a plan that has
passed `gridkit.plans.form`, and nothing of the plan enters it but integers, as the names of values (``v12``), functions
(``f3``) and literals (``c4``), and the op table's own names for keywords. What those names stand for is looked up in
a namespace that is filled from the op table and from checked literals, and that has none of Python's builtins but
`__import__`: torch's compiled code imports parts of torch when it first needs them, by the caller's.

For the plan of a linear model the function begins like this::

    def run(values):
        [v0, v1, v2, v3, v4, v5] = values
        v6 = f0(v0)
        v7 = f1(v1, v2, v6); del v6
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch

from gridkit.errors import PlanError
from gridkit.plans.check import label, last_uses
from gridkit.plans.engines.fuse import overwriting
from gridkit.plans.engines.kernels import IN_PLACE, Function, function_of, has_reference, literal
from gridkit.plans.plan import Arg, Node, Plan, Ref
from gridkit.plans.table.ops import table

_FIRST_NODE = 3
"""The line of the first node; after it each node has a line of its own, so that a traceback's line names the node."""


@dataclass(frozen=True, slots=True)
class Generated:
    """A plan made ready: called with a list of inputs, it gives the list of outputs."""

    plan: Plan
    source: str
    function: Function

    def __call__(self, values: Sequence[Any]) -> list[Any]:
        try:
            results: list[Any] = self.function(values)
            return results
        except (RuntimeError, IndexError, ValueError, TypeError, ArithmeticError) as error:
            node = self._line(error.__traceback__) - _FIRST_NODE
            if not 0 <= node < len(self.plan.nodes):
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise PlanError(f"{label(self.plan, node)} failed: {reason}") from error

    def _line(self, traceback: TracebackType | None) -> int:
        while traceback is not None:
            if traceback.tb_frame.f_code is self.function.__code__:
                return traceback.tb_lineno
            traceback = traceback.tb_next
        return 0


def generate(plan: Plan, donate: bool = False) -> Generated:
    """Write and compile the function; `donate` as in `gridkit.plans.engines.pytorch.program`."""
    writer = _Writer(plan)
    overwritten = overwriting(plan, donate)
    lines = ["def run(values):", f" [{', '.join(f'v{i.id}' for i in plan.inputs)}] = values"]
    for index, (node, dying) in enumerate(zip(plan.nodes, last_uses(plan), strict=True)):
        lines.append(f" {writer.node(node, index in overwritten)}{writer.dropped(node, dying)}")
    lines.append(f" return [{', '.join(f'v{o.id}' for o in plan.outputs)}]")
    source = "\n".join(lines)
    exec(compile(source, "<generated from a plan>", "exec"), writer.namespace)
    return Generated(plan, source, writer.namespace["run"])


class _Writer:
    """The text of each node, and the namespace in which it means something."""

    def __init__(self, plan: Plan) -> None:
        self.namespace: dict[str, Any] = {"__builtins__": {"__import__": __import__}}
        self.namespace |= {f"v{id}": torch.tensor(array) for id, array in plan.constants.items()}
        self._names: dict[Any, str] = {}

    def node(self, node: Node, in_place: bool) -> str:
        function = IN_PLACE[node.op] if in_place else function_of(node.op)
        keywords = {p.name: p.name for p in table()[node.op].params}
        args = [self.argument(a) for a in node.args]
        args += [f"{keywords[k]}={self.argument(a)}" for k, a in node.kwargs]
        return f"{_targets(node)} = {self._named('f', function)}({', '.join(args)}){_part(node)}"

    def dropped(self, node: Node, dying: tuple[int, ...]) -> str:
        names = [f"v{id}" for id in dying]
        if "_" in _targets(node).split(", "):
            names.append("_")
        return f"; del {', '.join(names)}" if names else ""

    def argument(self, arg: Arg) -> str:
        if isinstance(arg, Ref):
            return f"v{arg.id}"
        if isinstance(arg, tuple) and has_reference(arg):
            return f"[{', '.join(map(self.argument, arg))}]"
        return self._named("c", literal(arg))

    def _named(self, kind: str, value: Any) -> str:
        """The name of a function or a literal; equal ones of one type share it."""
        key = (kind, type(value).__name__, repr(value)) if kind == "c" else value
        if key not in self._names:
            name = self._names[key] = f"{kind}{len(self._names)}"
            self.namespace[name] = value
        return self._names[key]


def _targets(node: Node) -> str:
    """Names for the results; a single one out of several is picked by its place."""
    used = [id for id in node.out if id is not None]
    if len(used) == 1:
        return f"v{used[0]}"
    return ", ".join("_" if id is None else f"v{id}" for id in node.out)


def _part(node: Node) -> str:
    if len(node.out) == 1 or sum(id is not None for id in node.out) > 1:
        return ""
    return f"[{next(place for place, id in enumerate(node.out) if id is not None)}]"
