"""What a tracer wrote down, and how it is tidied before it becomes a plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gridkit.plans.check import references
from gridkit.plans.plan import Arg, Guard, Node, Ref, Size
from gridkit.plans.table.ops import table

_LAST = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Trace:
    """What one run of the code gave.

    Attributes:
        size: the size that the batch had.
        inputs: ids of the inputs, in order.
        drawn: id and shape of each input of uniform numbers that the code asked for.
        nodes: the operations that the outputs depend on.
        constants: captured tensors.
        outputs: ids of the outputs, in order.
        guards: conditions on the batch size that a line of the user caused.
        torch_guards: conditions that torch asked for by itself.
    """

    size: int
    inputs: tuple[int, ...]
    drawn: tuple[tuple[int, tuple[Size, ...]], ...]
    nodes: tuple[Node, ...]
    constants: dict[int, np.ndarray]
    outputs: tuple[int, ...]
    guards: tuple[Guard, ...]
    torch_guards: tuple[Guard, ...]


def simplified(raw: Trace) -> Trace:
    """Drop what no output needs, slices that take all, and pairs of transpositions; number ids without gaps.

    No result changes. Two runs of the same code give the same nodes, whatever torch did in between.
    """
    transposed: dict[int, int] = {}  # the result of a transposition: what it is the transposition of
    same_as: dict[int, int] = {}
    kept: list[Node] = []
    for node in raw.nodes:
        node = _renamed(node, same_as)
        source, first = (node.args[0] if node.args else None), node.out[0]
        if isinstance(source, Ref) and first is not None:
            if _takes_all(node):
                same_as[first] = source.id
                continue
            if node.op == "aten.t.default":
                if source.id in transposed:
                    same_as[first] = transposed[source.id]
                    continue
                transposed[first] = source.id
        kept.append(node)
    outputs = tuple(same_as.get(o, o) for o in raw.outputs)
    needed, live = set(outputs), []
    for node in reversed(kept):
        if needed.intersection(node.out):
            needed.update(references(node))
            live.append(replace(node, out=tuple(o if o in needed else None for o in node.out)))
    live.reverse()
    constants = sorted(needed.intersection(raw.constants))
    drawn = [(place, shape) for place, shape in raw.drawn if place in needed]
    order = [
        *raw.inputs,
        *(place for place, _ in drawn),
        *constants,
        *(o for n in live for o in n.out if o is not None),
    ]
    new = {old: i for i, old in enumerate(order)}
    nodes = (replace(_renamed(n, new), out=tuple(None if o is None else new[o] for o in n.out)) for n in live)
    return replace(
        raw,
        inputs=tuple(new[i] for i in raw.inputs),
        drawn=tuple((new[place], shape) for place, shape in drawn),
        nodes=tuple(nodes),
        constants={new[c]: raw.constants[c] for c in constants},
        outputs=tuple(new[o] for o in outputs),
    )


def placed(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes; one of a backward pass, where no code of the user runs, at the line of its forward one.

    That is the last of those before it with which it shares most values.
    """
    users: dict[int, list[int]] = {}
    result = []
    for index, node in enumerate(nodes):
        if not node.place and "_backward" in node.op:
            shared = Counter(user for id in references(node) for user in users.get(id, ()))
            if shared:
                best = max(shared, key=lambda user: (shared[user], user))
                node = replace(node, place=nodes[best].place)
        elif node.place:
            for id in {*references(node), *(i for i in node.out if i is not None)}:
                users.setdefault(id, []).append(index)
        result.append(node)
    return tuple(result)


def at_size(traced: Trace, size: int) -> Trace:
    """The trace as it would be if the batch size had been a plain number.

    Uniform numbers then come in the shape in which they are used.
    """
    known: dict[int, Arg] = {}
    drawn = {Ref(place) for place, _ in traced.drawn}
    nodes = []
    for node in traced.nodes:
        node = _replaced(node, known)
        if node.op == "aten.sym_size.int":
            known[_only(node)] = size
        elif node.op.startswith("py.") and not references(node):
            known[_only(node)] = _number(node)
        elif node.op == "aten.view.default" and node.args[0] in drawn:
            known[_only(node)] = node.args[0]
        else:
            nodes.append(node)
    return simplified(replace(traced, nodes=tuple(nodes)))


def _only(node: Node) -> int:
    (place,) = node.out
    assert place is not None
    return place


def _number(node: Node) -> Arg:
    row = table()[node.op]
    result = row.rule({p.name: a for p, a in zip(row.params, node.args, strict=True)})
    assert isinstance(result, int | float)
    return result


def _takes_all(node: Node) -> bool:
    """A slice from the first to the last: torch asks for it or leaves it out as it sees fit."""
    if node.op == "aten.slice.Tensor":
        bounds = node.args[2:]
    elif node.op == "aten.slice_backward.default":
        bounds = node.args[3:]
    else:
        return False
    defaults: tuple[Arg, ...] = (None, None, 1)
    start, end, step = bounds + defaults[len(bounds) :]
    return start in (None, 0) and end in (None, _LAST) and step == 1


def _renamed(node: Node, names: Mapping[int, int]) -> Node:
    return _replaced(node, {old: Ref(new) for old, new in names.items()})


def _replaced(node: Node, values: Mapping[int, Arg]) -> Node:
    def rename(arg: Arg) -> Arg:
        if isinstance(arg, Ref):
            return values.get(arg.id, arg)
        return tuple(map(rename, arg)) if isinstance(arg, tuple) else arg

    return replace(node, args=tuple(map(rename, node.args)), kwargs=tuple((k, rename(v)) for k, v in node.kwargs))
