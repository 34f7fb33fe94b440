"""The autograd graph behind a remote tensor, as the mirror knows it, and a picture of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gridkit.client.rpc_mirror import MirroredNode, MirroredVariable
from gridkit.widgets import words
from gridkit.widgets.html import Html
from gridkit.wire.rpc.v1 import Tensor

MAX_NODES = 2000
"""of a graph that is taken; what is behind them is left out"""
MAX_VALUES = 3
"""of a gradient that are shown, if it has no more"""
MAX_DESCRIBED = 20
"""nodes that a picture's description names"""


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A node as it was when the graph was asked for.

    Attributes:
        name: torch's, such as "MulBackward0"; "AccumulateGrad" of a leaf.
        variable: the leaf's id.
        freed: no other pass goes through it.
        fired: the last pass that went through it.
        next: where its gradients go: numbers of nodes, or None where an argument needs none.
        passed_on: the gradients that it gave `next`, without values.
        leaf: dtype and shape; gradient: what the last pass added to its gradient.
    """

    id: int
    name: str
    variable: str | None
    freed: bool
    fired: str | None
    next: tuple[int | None, ...]
    passed_on: tuple[Tensor | None, ...] = ()
    leaf: Tensor | None = None
    gradient: Tensor | None = None


@dataclass(frozen=True)
class Graph:
    """The nodes behind a tensor, from the last function to the leaves. In a notebook it is a picture.

    Attributes:
        root: the id of the tensor.
        nodes: by number.
        first: the number of the tensor's own node.
        cut: there are more than are shown.
        names: what the notebook calls the tensor, and leaves, by id.
        last_pass: the last that went through it; None as long as none has.
        walked: numbers of the nodes that it went through, in that order.
    """

    root: str
    nodes: Mapping[int, GraphNode]
    first: int | None
    cut: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    last_pass: str | None = None
    walked: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"<{self.caption()}>"

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return self.picture()

    @property
    def edges(self) -> list[tuple[int, int]]:
        """(from, to), in the direction of the gradients, in the order of the arguments."""
        return [(n.id, to) for n in self.nodes.values() for to in n.next if to is not None and to in self.nodes]

    @property
    def steps(self) -> int:
        """How many nodes the last pass has gone through."""
        return len(self.walked)

    def layers(self) -> list[list[int]]:
        """Nodes by the longest way from the first: each is below all that lead to it."""
        depth = dict.fromkeys(self.nodes, 0)
        waiting = dict.fromkeys(self.nodes, 0)
        for _, to in self.edges:
            waiting[to] += 1
        free = [id for id, count in waiting.items() if count == 0]
        while free:
            id = free.pop()
            for target in self.nodes[id].next:
                if target is not None and target in self.nodes:
                    depth[target] = max(depth[target], depth[id] + 1)
                    waiting[target] -= 1
                    if waiting[target] == 0:
                        free.append(target)
        rows: list[list[int]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
        for id, row in depth.items():
            rows[row].append(id)
        return rows

    # ---- how it is shown; `steps`: only so many of the nodes that the last pass went through are shown as such

    def caption(self, steps: int | None = None) -> str:
        """What it is, in a line."""
        count = words.many(len(self.nodes), "node") + (" and more" if self.cut else "")
        shown = len(self.walked[:steps])
        went = f", pass {self.last_pass} went through {shown}" if self.last_pass is not None else ""
        return f"graph of {self._named(self.root)}: {count}{went}"

    def text(self, steps: int | None = None) -> str:
        """A line a node: when the last pass went through it, the function, and those that its gradients go to."""
        places = self._places(steps)
        lines = []
        for node in self.nodes.values():
            place = "" if self.last_pass is None else f"{places.get(node.id, '-'):>4}  "
            targets = ", ".join(
                "-" if to is None or to not in self.nodes else self._short(self.nodes[to]) for to in node.next
            )
            gradient = f": grad {_shown(node.gradient)}" if node.gradient is not None and node.id in places else ""
            lines.append(f"{place}{self._short(node)}{' -> ' + targets if targets else ''}{gradient}")
        return "\n".join(lines)

    def picture(self, steps: int | None = None) -> Html:
        """Boxes and arrows; see `gridkit.widgets.graph`."""
        from gridkit.widgets.graph import Box, drawing

        places = self._places(steps)
        walking = steps is not None and steps < self.steps
        boxes = {
            node.id: Box(
                title=self._title(node),
                hint=self._hint(node, places.get(node.id)),
                note=_note(node, node.id in places),
                room=len(_note(node, True)),
                leaf=node.variable is not None,
                freed=node.freed and (node.id in places or not walking),
                number=places.get(node.id),
                newest=walking and places.get(node.id) == len(places),
            )
            for node in self.nodes.values()
        }
        order = self.walked[:steps] if places else tuple(self.nodes)
        described = ", ".join(self._title(self.nodes[id]) for id in order[:MAX_DESCRIBED])
        described = f"{self.caption(steps)}{': ' + described if described else ''}"
        return drawing(boxes, self.layers(), self.edges, self.caption(steps), described)

    def _places(self, steps: int | None) -> dict[int, int]:
        return {id: place for place, id in enumerate(self.walked[:steps], 1)}

    def _named(self, id: str) -> str:
        return self.names.get(id, id)

    def _title(self, node: GraphNode) -> str:
        return node.name.removesuffix("0").removesuffix("Backward") if not node.variable else self._named(node.variable)

    def _short(self, node: GraphNode) -> str:
        return f"{node.name}{f'({self._named(node.variable)})' if node.variable else ''} {node.id}"

    def _hint(self, node: GraphNode, place: int | None) -> str:
        facts = [self._short(node)]
        if place is not None:
            passed = [_shown(gradient) for gradient in node.passed_on if gradient is not None]
            went = f"pass {self.last_pass} went through it as number {place}"
            facts.append(f"{went}, and passed on {', '.join(passed)}" if passed else went)
        if node.gradient is not None and place is not None:
            facts.append(f"its gradient: {_shown(node.gradient)}")
        if node.freed:
            facts.append("freed: no other pass goes through it")
        return "; ".join(facts)


def nodes_behind(variable: MirroredVariable) -> tuple[list[MirroredNode], bool]:
    """Those that the mirror knows by now, and whether there are more. To be called on the client's loop."""
    found = [] if variable.grad_fn is None else [variable.grad_fn]
    seen = {node.id for node in found}
    for node in found:  # which grows
        for edge in node.next_functions:
            if edge is not None and edge[0].id not in seen:
                if len(found) == MAX_NODES:
                    return found, True
                seen.add(edge[0].id)
                found.append(edge[0])
    return found, False


def graph_of(
    root: str,
    nodes: Sequence[MirroredNode],
    variables: Mapping[str, MirroredVariable],
    names: Mapping[str, str],
    *,
    cut: bool,
) -> Graph:
    """What is known of these nodes, and of the leaves among `variables`, now. On any thread."""
    last, walked = _walk(nodes, variables)
    found = {}
    for node in nodes:
        targets = tuple(None if edge is None else edge[0].id for edge in tuple(node.next_functions))
        leaf = None if node.variable_id is None else variables.get(node.variable_id)
        found[node.id] = GraphNode(
            node.id,
            node.name,
            node.variable_id,
            node.freed,
            node.fired,
            targets,
            tuple(node.passed_on),
            None if leaf is None else leaf.data,
            None if last is None else _gradient(variables, node, last),
        )
    first = nodes[0].id if nodes else None
    return Graph(root, found, first, cut, names, last, tuple(walked))


def _walk(nodes: Sequence[MirroredNode], variables: Mapping[str, MirroredVariable]) -> tuple[str | None, list[int]]:
    """The pass that went through one of these functions last, and where it has gone through, in order."""
    fired = [node for node in nodes if node.fired is not None and node.variable_id is None]  # leaves have other graphs
    newest = max(fired, key=lambda node: node.order, default=None)
    if newest is None or newest.fired is None:
        return None, []
    last = newest.fired
    order = {node.id: node.order for node in nodes if node.fired == last}
    walked = sorted(order, key=lambda id: order[id])
    # Not every node's message comes through. But no leaf gets its gradient before all on the way to it have theirs.
    below = _closure(walked, {node.id: [e[0].id for e in node.next_functions if e is not None] for node in nodes})
    above: dict[int, list[int]] = {}
    for node in nodes:
        for edge in node.next_functions:
            if edge is not None:
                above.setdefault(edge[0].id, []).append(node.id)
    reached = [node.id for node in nodes if _gradient(variables, node, last) is not None]
    between = _closure(reached, above) & below
    return last, walked + [node.id for node in nodes if node.id in between and node.id not in order]


def _closure(start: Iterable[int], leads: Mapping[int, Sequence[int]]) -> set[int]:
    found = set(start)
    waiting = list(found)
    while waiting:
        for id in leads.get(waiting.pop(), ()):
            if id not in found:
                found.add(id)
                waiting.append(id)
    return found


def _gradient(variables: Mapping[str, MirroredVariable], node: MirroredNode, pass_id: str) -> Tensor | None:
    """What this pass added to the gradient of the leaf that this node stands for."""
    variable = None if node.variable_id is None else variables.get(node.variable_id)
    told = () if variable is None else tuple(variable.gradients)
    return next((gradient.tensor for gradient in reversed(told) if gradient.pass_id == pass_id), None)


def _note(node: GraphNode, passed: bool) -> str:
    if node.gradient is not None and passed:
        return f"grad {_shown(node.gradient)}"
    return "" if node.leaf is None else f"{node.leaf.dtype}{list(node.leaf.shape)}"


def _shown(tensor: Tensor) -> str:
    """Its few values, as far as they were told; else dtype and shape."""
    if tensor.values is None or not 0 < tensor.values.size <= MAX_VALUES:
        return f"{tensor.dtype}{list(tensor.shape)}"
    return _numbers(tensor.values.tolist())


def _numbers(value: Any) -> str:
    return f"[{', '.join(map(_numbers, value))}]" if isinstance(value, list) else f"{value:.3g}"
