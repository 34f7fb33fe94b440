"""Which nodes may write their result into the memory of their first argument.

An optimiser's step is a chain of element-wise operations from the old parameter to the new one. Run as written, each
link takes fresh memory; where nobody needs the old value any more, the same kernel can write over it, and the numbers
stay what they were. With `donate` that goes for the inputs too that the outputs replace: parameters, buffers and the
optimiser's state of the step before, which a training loop gives away.

Only tensors are overwritten whose shape is known whatever the batch size is, and is the result's. Of an operation
without a form in place nothing is assumed but what the op table says: that a result shares memory with an argument
only if the row says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from gridkit.plans.check import bound, references
from gridkit.plans.engines.kernels import IN_PLACE
from gridkit.plans.plan import Arg, Dtype, Input, Node, Plan, Ref
from gridkit.plans.table.ops import Op, table
from gridkit.plans.table.shapes import Meta, ShapeError, kind_of

_ELEMENTWISE = IN_PLACE.keys() | {
    "aten._to_copy.default",
    "aten.full_like.default",
    "aten.pow.Tensor_Tensor",
    "aten.rsub.Scalar",
}
"""Operations whose result has the shape of their tensors broadcast together, whatever their numbers are."""

_ALIASES = ("aten._unsafe_view.default",)
"""Views that ATen's schema doesn't mark."""

_STATE = ("param", "buffer", "optimizer")


def overwriting(plan: Plan, donate: bool = False) -> frozenset[int]:
    """Indices of the nodes that may write over their first argument.

    Args:
        plan: a checked plan.
        donate: whether inputs that the outputs replace may be overwritten too.
    """
    rows, metas, last = table(), _fixed_metas(plan), _last_reads(plan)
    memory = {id: id for id in (*(i.id for i in plan.inputs), *plan.constants)}
    views_read: dict[int, int] = {}  # by memory: the last node that reads a view of it
    views: set[int] = set()
    writable = _donated(plan) if donate else set()
    chosen = set()
    for index, node in enumerate(plan.nodes):
        first = node.args[0].id if node.args and isinstance(node.args[0], Ref) else None
        if _is_view(rows[node.op]):
            assert first is not None
            for id in _results(node):
                memory[id] = memory[first]
                views.add(id)
                views_read[memory[id]] = max(views_read.get(memory[id], -1), last[id])
            continue
        memory |= {id: id for id in _results(node)}
        result = node.out[0]
        if node.op not in IN_PLACE or first is None or result is None:
            continue
        own = memory[first]
        alone = first not in views and last[first] <= index and views_read.get(own, -1) < index
        if alone and own in writable and first in metas and metas[first] == metas.get(result):
            memory[result] = own
            chosen.add(index)
        else:
            writable.add(result)
    return frozenset(chosen)


def _is_view(op: Op) -> bool:
    return op.is_view or op.name in _ALIASES


def _results(node: Node) -> list[int]:
    return [id for id in node.out if id is not None]


def _last_reads(plan: Plan) -> dict[int, int]:
    """For each id the last node that reads it: -1 if none does, one past the end if it is an output."""
    last = dict.fromkeys((*(i.id for i in plan.inputs), *plan.constants), -1)
    for index, node in enumerate(plan.nodes):
        last |= dict.fromkeys(references(node), index)
        last |= dict.fromkeys(_results(node), -1)
    return last | {o.id: len(plan.nodes) for o in plan.outputs}


def _donated(plan: Plan) -> set[int]:
    """Inputs that a loop can give away.

    What comes back in an input's place must have memory of its own, or the next step would overwrite two values at
    once. So an output that is another input, a constant, a view, or shares memory with another output, isn't good.
    """
    rows = table()
    memory: dict[int, int] = {}
    fresh: set[int] = set()
    for node in plan.nodes:
        if _is_view(rows[node.op]):
            assert isinstance(node.args[0], Ref)
            source = node.args[0].id
            memory |= dict.fromkeys(_results(node), memory.get(source, source))
        else:
            fresh.update(_results(node))
    ends = Counter(memory.get(o.id, o.id) for o in plan.outputs)
    return {i.id for i, new in _replaced(plan) if ends[new] == 1 and (new in fresh or new == i.id)}


def _replaced(plan: Plan) -> list[tuple[Input, int]]:
    """Inputs of the state, each with the id of the output that takes its place in the next step."""
    inputs: dict[tuple[str, str], Input] = {(i.role, i.name): i for i in plan.inputs if i.role in _STATE}
    return [(inputs[o.role, o.name], o.id) for o in plan.outputs if (o.role, o.name) in inputs]


def _fixed_metas(plan: Plan) -> dict[int, Meta]:
    """Shape and dtype of floating tensors, where they can be known for all batch sizes.

    Known are inputs and constants, outputs of the state (each dry run holds them to the shape of the input that they
    replace), and what the operations of the list make of known ones.
    """
    rows = table()
    metas: dict[int, Meta] = {}
    for i in plan.inputs:
        shape = tuple(s for s in i.shape if s != "B")
        if i.role != "lr" and len(shape) == len(i.shape):
            metas[i.id] = Meta(shape, i.dtype)
    metas |= {id: Meta(array.shape, array.dtype.name) for id, array in plan.constants.items()}
    metas |= {new: metas[i.id] for i, new in _replaced(plan) if i.id in metas}
    numbers = {i.id for i in plan.inputs if i.role == "lr"}
    for node in plan.nodes:
        op = rows[node.op]
        if op.results[0] != "Tensor":
            numbers.update(_results(node))
            continue
        known = all(ref in metas or ref in numbers for ref in references(node))
        if known and node.op in _ELEMENTWISE and node.out[0] not in metas:
            try:
                meta = op.rule({name: _seen(arg, metas) for name, arg in bound(op, node).items()})
            except ShapeError:
                continue  # the dry run says so, with the node's name
            assert isinstance(meta, Meta)
            metas[_results(node)[0]] = meta
    return {id: meta for id, meta in metas.items() if kind_of(meta.dtype) == 2}


def _seen(arg: Arg, metas: Mapping[int, Meta]) -> Any:
    """An argument as a rule takes it. Of a number that the run computes, it only matters that it is one."""
    if isinstance(arg, Ref):
        return metas.get(arg.id, 1.0)
    return arg.name if isinstance(arg, Dtype) else arg
