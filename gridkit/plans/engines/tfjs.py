"""Plans as TensorFlow.js calls, for the browsers and phones that run syft.js. Needs no torch.

A training plan is translated in the order that syft.js knows (`gridkit.plans.syft_form`), any other with its inputs
and outputs as they are. The calls hold for every batch size. TensorFlow.js 1.7.4 is what syft.js 0.1.4 brings along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gridkit.errors import PlanError
from gridkit.plans.check import bound, guard_text, label, shapes_of
from gridkit.plans.engines import tfjs_activations, tfjs_elements, tfjs_layers  # noqa: F401  (they fill FORMS)
from gridkit.plans.engines.tfjs_calls import DTYPES, FORMS, Calls, Known, NoForm, Rows, Tensor, constant, merged, size
from gridkit.plans.plan import Arg, Node, Plan, Ref
from gridkit.plans.support import Missing
from gridkit.plans.syft_form import lacks, prologue, syft_step
from gridkit.plans.table.ops import table
from gridkit.plans.table.shapes import Meta
from gridkit.wire.syft_plan import Action, Value, pack_plan

_BATCHES = (1009, 2003)
"""Two sizes that no dimension of a model is likely to have: what changes between them depends on the batch."""
_TAKE_NUMBERS = {"add", "sub", "rsub", "mul", "div", "pow", "clamp", "clamp_min", "clamp_max", "addcmul"}
_TAKE_NUMBERS |= {"eq", "ne", "lt", "le", "gt", "ge"}
_TAKE_NUMBERS |= {"full", "full_like", "new_full", "scalar_tensor"}
_TAKE_SIZES = {"view", "_unsafe_view", "expand", "repeat", "full", "zeros", "ones", "new_full", "new_zeros", "new_ones"}
_TAKE_SIZES |= {"slice", "select", "slice_backward", "select_backward"}
"""operations whose form takes numbers that are known only in the run"""
_NUMBERS = {"py.add": "add", "py.mul": "mul", "py.truediv": "div", "py.neg": "neg"}


@dataclass(frozen=True, slots=True)
class Translation:
    """The calls of a plan; ids 0, 1, … are the constants."""

    name: str
    inputs: tuple[tuple[int, str], ...]
    actions: tuple[Action, ...]
    outputs: tuple[tuple[int, str], ...]
    constants: Mapping[str, np.ndarray]


def to_tfjs(plan: Plan) -> bytes:
    """See `Plan.to_tfjs`."""
    if "tfjs bytes" not in plan._memo:
        made, missing = translated(plan)
        if made is None:
            first, more = missing[0], f", and {len(missing) - 1} more" if len(missing) > 1 else ""
            if first.node is None:
                text = f"plan {plan.name!r} has no TensorFlow.js form: {first}"
            else:
                place = f"; {first.line}" if first.line else ""
                text = f"{label(plan, first.node)} has no TensorFlow.js form: {first.reason}{place}"
            raise PlanError(f"{text}{more}", "plan.supports('tfjs') lists all that is missing")
        plan._memo["tfjs bytes"] = pack_plan(made.name, made.inputs, made.actions, made.outputs, made.constants)
    data: bytes = plan._memo["tfjs bytes"]
    return data


def translated(plan: Plan) -> tuple[Translation | None, tuple[Missing, ...]]:
    """The plan's calls, or None and what is missing. Worked out once."""
    if "tfjs" not in plan._memo:
        plan._memo["tfjs"] = _translated(plan)
    result: tuple[Translation | None, tuple[Missing, ...]] = plan._memo["tfjs"]
    return result


def _translated(plan: Plan) -> tuple[Translation | None, tuple[Missing, ...]]:
    missing: list[Missing] = []
    step, before = plan, 0
    if plan.input("lr") is not None and plan.input("weight") is not None:
        missing += [Missing(None, "", reason) for reason in lacks(plan)]
        if not missing:
            step, before = syft_step(plan), prologue(plan)
    elif plan.guards:
        texts = ", ".join(guard_text(g) for g in plan.guards)
        missing.append(Missing(None, "", f"it holds only for batch sizes B with {texts}, which nobody checks there"))
    if plan.guards:  # then the sizes that are tried here may be none that it takes
        return None, tuple(missing)
    work = _Work(step)
    if not missing:
        missing += [Missing(None, "", reason) for reason in work.inputs_lack()]
    for index, node in enumerate(step.nodes):
        try:
            work.node(node)
        except _Follows:
            continue
        except NoForm as error:
            missing.append(Missing(index - before, node.op, error.message, node.place))
    if not missing:
        missing += [Missing(None, "", reason) for reason in work.outputs_lack()]
    return (None if missing else work.finished()), tuple(missing)


class _Follows(NoForm):
    """A node works on what has no form, which was said before."""


class _Work:
    """A plan while it is translated."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        # a budget is for who runs it; a plan without guards holds for all sizes, one with guards was refused
        one, other = (shapes_of(plan, batch, 1 << 62) for batch in _BATCHES)
        self.probes = {id: (value, other[id]) for id, value in one.items()}
        self.constants: dict[str, np.ndarray] = {}
        self.env: dict[int, Any] = {}  # a Tensor, a number, or the Value of a number that is known only in the run
        self.calls = Calls(len(plan.constants))
        self.missing: set[int] = set()
        for place, (id, array) in enumerate(sorted(plan.constants.items())):
            self.constants[f"constant {id}"] = _narrowed(array)
            self._tensor(id, Value(place))
        self.inputs = []
        for i in plan.inputs:
            value = self.calls.fresh()
            self.inputs.append((value.id, i.name))
            if i.role == "lr":  # it may come as a number, or as a tensor of one element
                self.env[i.id] = self.calls.call("reshape", value, ())
                continue
            self._tensor(i.id, value)
            if i.shape[:1] == ("B",) and self.calls.batched is None and i.id in self.env:
                self.calls.batched = self.env[i.id]

    def _tensor(self, id: int, value: Value) -> None:
        try:
            known = self._known(id)
        except NoForm:  # who uses it says so
            self.missing.add(id)
        else:
            self.env[id] = Tensor(value, known.shape, known.dtype)

    def _known(self, id: int) -> Known:
        one, other = self.probes[id]
        assert isinstance(one, Meta) and isinstance(other, Meta)
        return merged(one, other, _BATCHES)

    def node(self, node: Node) -> None:
        """Make the calls of a node.

        Raises:
            NoForm: there are none.
        """
        used = [id for id in node.out if id is not None]
        try:
            if node.op.startswith("py.") or node.op == "aten.sym_size.int":
                self.env[used[0]] = self._number(node)
                return
            make = FORMS.get(node.op)
            if make is None:
                raise NoForm("it has no form there")
            op = table()[node.op]
            unmade = {name for name, _ in op.forward.results} if op.forward else set()
            given = {k: self._arg(v, k in unmade) for k, v in bound(op, node).items()}
            self._check_numbers(node, given)
            args = {"op": node.op, **given}
            known = tuple(self._known(id) if id is not None else Known((), "float32") for id in node.out)
            made = make(self.calls, args, known)
        except NoForm:
            self.missing |= set(used)
            raise
        for id, value, what in zip(node.out, made if isinstance(made, tuple) else (made,), known, strict=True):
            if id is not None and value is not None:
                self.env[id] = Tensor(value, what.shape, what.dtype)

    def _arg(self, arg: Arg, may_lack: bool = False) -> Any:
        if isinstance(arg, Ref):
            if arg.id in self.missing:
                raise _Follows("it works on what has no form")
            if arg.id not in self.env and not may_lack:
                raise NoForm("it works on indices, which TensorFlow.js's operation doesn't give")
            return self.env.get(arg.id)
        return [self._arg(a) for a in arg] if isinstance(arg, tuple) else arg

    def _check_numbers(self, node: Node, args: Mapping[str, Any]) -> None:
        name = node.op.split(".")[1]
        for value in args.values():
            listed = isinstance(value, list) and any(isinstance(v, Value) for v in value)
            if (isinstance(value, Value) and name not in _TAKE_NUMBERS | _TAKE_SIZES) or (
                listed and name not in _TAKE_SIZES
            ):
                raise NoForm("an argument depends on the batch size or on the learning rate")

    def inputs_lack(self) -> list[str]:
        """Inputs and constants of dtypes that TensorFlow.js doesn't have."""
        return [
            f"input {i.name!r} is {i.dtype}, which TensorFlow.js doesn't have"
            for i in self.plan.inputs
            if i.id in self.missing
        ] + [
            f"a constant is {a.dtype.name}, which TensorFlow.js doesn't have"
            for id, a in self.plan.constants.items()
            if id in self.missing
        ]

    def outputs_lack(self) -> list[str]:
        """Outputs that no call gives."""
        return [f"output {o.name!r} has no form there" for o in self.plan.outputs if o.id not in self.env]

    def _number(self, node: Node) -> Value | int | float | Rows:
        """A number: known now, or worked out in the run."""
        (id,) = node.out
        assert id is not None
        one, other = self.probes[id]
        assert isinstance(one, int | float) and isinstance(other, int | float)
        if one == other and constant(one):
            return one
        if node.op == "aten.sym_size.int":
            assert isinstance(one, int) and isinstance(other, int)
            rows = size(one, other, _BATCHES)
            assert isinstance(rows, Rows)
            count = self.calls.count()
            return count if rows == Rows() else self.calls.call("mul", count, rows.times)
        if node.op not in _NUMBERS:
            raise NoForm("arithmetic on the batch size that TensorFlow.js would round")
        return self.calls.call(_NUMBERS[node.op], *(self._arg(a) for a in node.args))

    def finished(self) -> Translation:
        """The calls that the outputs need; each output is a tensor of its own."""
        taken = {id for id, _ in self.inputs} | set(range(len(self.constants)))
        outputs = []
        for o in self.plan.outputs:
            value = self.env[o.id].value
            if value.id in taken:
                copy = self.calls.fresh()
                self.calls.actions.append(Action("clone", (value,), copy.id))
                value = copy
            taken.add(value.id)
            outputs.append((value.id, o.name))
        actions = self.calls.needed(Value(id) for id, _ in outputs)
        return Translation(self.plan.name, tuple(self.inputs), tuple(actions), tuple(outputs), self.constants)


def _narrowed(array: np.ndarray) -> np.ndarray:
    """A constant as they hold it; of a dtype that they don't have, as zeros, for whatever uses it has no form."""
    name = DTYPES.get(array.dtype.name)
    return array.astype(name) if name is not None else np.zeros(array.shape, np.float32)
