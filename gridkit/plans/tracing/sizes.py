"""The batch size while code is traced: a symbol. What is computed from it becomes nodes, what is asked of it guards."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._guards import ShapeGuard
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from gridkit.errors import PlanError
from gridkit.plans.check import holds
from gridkit.plans.plan import Arg, Guard, Ref, Size
from gridkit.plans.tracing import source

# sympy's and torch's classes for arithmetic on sizes, by name, with our operation
_ARITHMETIC = {
    "Add": "add",
    "Mul": "mul",
    "FloorDiv": "floordiv",
    "CleanDiv": "floordiv",
    "Mod": "mod",
    "PythonMod": "mod",
    "IntTrueDiv": "truediv",
    "FloatTrueDiv": "truediv",
}
_CONDITIONS = {
    "Equality": "eq",
    "Unequality": "ne",
    "StrictLessThan": "lt",
    "LessThan": "le",
    "StrictGreaterThan": "gt",
    "GreaterThan": "ge",
    "And": "and",
    "Or": "or",
    "Not": "not",
}


_SIZES = (*range(2, 65), 127, 1024, 4099)


class FixedBatch(PlanError):
    """The code holds for one batch size alone."""


class Sizes:
    """Numbers of one trace.

    Args:
        env: what torch knows of the symbols.
        traced: the size that the batch has in this trace.
        emit: writes down a node of that operation and those arguments.
        where: the user's line that is running, for messages.
    """

    def __init__(self, env: ShapeEnv, traced: int, emit: Callable[..., Ref], where: Callable[[], str]) -> None:
        self._env, self._traced, self._emit, self._where = env, traced, emit, where
        self.rows: Any = None
        """The batch size, as torch's number, or a plain one; None while no input has a batch."""
        self._asked_of: int | None = None
        self._known: dict[Any, Arg] = {}
        self._demands: list[Guard] = []

    def input(self, value: Any, place: int) -> None:
        """A number that is an input."""
        self._known[value.node.expr] = Ref(place)

    def batch_of(self, value: torch.Tensor, place: int) -> None:
        """A tensor whose first dimension is the batch."""
        if self.rows is None:
            self.rows, self._asked_of = value.size(0), place

    @property
    def _batch(self) -> Any:
        return self._env.replace(self.rows.node.expr) if isinstance(self.rows, torch.SymInt) else self.rows

    # ---- arithmetic

    def number(self, expr: Any) -> Arg:
        """A number that depends on the batch size or on a number that is an input, as nodes."""
        expr = self._env.replace(expr)
        if expr.is_Integer:
            return int(expr)
        if expr.is_number:
            return float(expr)
        if expr not in self._known:
            self._known[expr] = self._computed(expr)
        return self._known[expr]

    def _computed(self, expr: Any) -> Ref:
        if expr == self._batch:
            return self._emit("aten.sym_size.int", Ref(self._asked_of or 0), 0)
        kind = type(expr).__name__
        if kind == "ToFloat":
            return self._emit("py.mul", self.number(expr.args[0]), 1.0)
        if kind not in _ARITHMETIC:
            raise PlanError(f"arithmetic on the batch size that a plan can't hold: {expr}{self._where()}")
        if kind == "Mul" and expr.args[0] == -1 and len(expr.args) == 2:
            return self._emit("py.neg", self.number(expr.args[1]))
        result, *rest = (self.number(a) for a in expr.args)
        for other in rest:
            result = self._emit(f"py.{_ARITHMETIC[kind]}", result, other)
        assert isinstance(result, Ref)
        return result

    def by_rows(self, sizes: Sequence[Any]) -> tuple[Size, ...] | None:
        """A shape with the batch first that holds as many values as `sizes`; None if there is none.

        It is `sizes` itself where only its first dimension is the batch.
        """
        known = [self._env.replace(s.node.expr) if isinstance(s, torch.SymInt) else s for s in sizes]
        fixed = [isinstance(s, int) or s.is_Integer for s in known]
        if all(fixed):
            return tuple(int(s) for s in known)
        if known[0] == self._batch and all(fixed[1:]):
            return ("B", *(int(s) for s in known[1:]))
        each = math.prod(known) / self._batch
        return ("B", int(each)) if each.is_Integer else None

    # ---- guards

    def demand(self, guard: Guard) -> None:
        """A condition on the batch size that a kernel raises on."""
        if self.rows is not None:
            self._demands.append(guard)

    def check_batch(self) -> None:
        """Raise if the code made a fixed number of the batch size."""
        if isinstance(self.rows, torch.SymInt) and self._batch.is_number:
            raise FixedBatch(
                f"the code holds only for batches of {self._traced}: it uses the batch size as a fixed number"
                f"{self._pinned_at()}",
                "use tensor operations in place of a loop, or of a number, that depends on x.shape[0]",
            )

    def _pinned_at(self) -> str:
        """The line of the user that made a number of the batch size, if it was one."""
        for guard in self._env.guards:
            place = _asked_at(guard)
            if place and type(guard.expr).__name__ == "Equality" and guard.expr.args[1].is_number:
                return source.shown(place)
        return ""

    def guards(self) -> tuple[tuple[Guard, ...], tuple[Guard, ...]]:
        """Conditions on the batch size: those of a user's line or of a kernel, those that torch asked by itself.

        Torch asks everywhere whether a size is one, which broadcasts, or none, and does the same thing otherwise: what
        only these break is left out of its own.
        """
        user: list[Guard] = list(self._demands)
        torch_own: list[Guard] = []
        for guard in self._env.guards:
            expr = self._env.replace(guard.expr)
            if expr.is_Boolean and expr in (True, False):
                continue
            (user if _asked_at(guard) else torch_own).append(self._condition(expr))
        general = (g for g in dict.fromkeys(torch_own) if not all(holds(g, size) for size in _SIZES))
        return tuple(dict.fromkeys(user)), tuple(general)

    def _condition(self, expr: Any) -> Guard:
        if expr == self._batch:
            return "B"
        if expr.is_Integer:
            return int(expr)
        kind = type(expr).__name__
        op = _CONDITIONS.get(kind) or _ARITHMETIC.get(kind)
        if op is None or op == "truediv":
            raise PlanError(f"the code asks of the batch size what a plan can't hold: {expr}")
        result, *rest = (self._condition(a) for a in expr.args)
        if op == "not":
            return ("not", result)
        for other in rest:
            result = (op, result, other)
        return result


def _asked_at(guard: ShapeGuard) -> source.Place | None:
    """The line of the user that caused a guard, None if torch asked by itself."""
    frame = guard.sloc.framework_loc
    if frame is None or isinstance(frame, str) or source.is_library(frame.filename):
        return None
    return frame.filename, frame.lineno or 0
