"""The autograd graph behind a remote tensor, as the mirror knows it, and a picture of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gridkit.client.rpc_mirror import MirroredNode, MirroredVariable

MAX_NODES = 2000
"""of a graph that is taken; what is behind them is left out"""


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A node as it was when the graph was asked for.

    Attributes:
        name: torch's, such as "MulBackward0"; "AccumulateGrad" of a leaf.
        variable: the leaf's id.
        freed: no other pass goes through it.
        fired: the last pass that went through it.
        next: where its gradients go: numbers of nodes, or None where an argument needs none.
    """

    id: int
    name: str
    variable: str | None
    freed: bool
    fired: str | None
    next: tuple[int | None, ...]


@dataclass(frozen=True)
class Graph:
    """The nodes behind a tensor, from the last function to the leaves. In a notebook it is a picture.

    Attributes:
        root: the id of the tensor.
        nodes: by number.
        first: the number of the tensor's own node.
        cut: there are more than are shown.
    """

    root: str
    nodes: Mapping[int, GraphNode]
    first: int | None
    cut: bool = False

    def __repr__(self) -> str:
        more = " and more" if self.cut else ""
        return f"<graph of {self.root}: {len(self.nodes)} nodes{more}>"

    def __str__(self) -> str:
        """A line a node: the function, and those that its gradients go to."""
        lines = []
        for node in self.nodes.values():
            label = node.name if node.variable is None else f"{node.name}({node.variable})"
            targets = ", ".join(
                "-" if to is None or to not in self.nodes else _short(self.nodes[to]) for to in node.next
            )
            lines.append(f"{label} {node.id}{' -> ' + targets if targets else ''}")
        return "\n".join(lines)

    @property
    def edges(self) -> list[tuple[int, int]]:
        """(from, to), in the direction of the gradients, in the order of the arguments."""
        return [(n.id, to) for n in self.nodes.values() for to in n.next if to is not None and to in self.nodes]

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

    def _repr_html_(self) -> str:
        from gridkit.widgets.graph import Box, drawing

        boxes = {
            node.id: Box(
                title=node.name.removesuffix("0").removesuffix("Backward") if node.variable is None else node.variable,
                hint=f"{node.name}, node {node.id}" + (f", pass {node.fired} went through" if node.fired else ""),
                leaf=node.variable is not None,
                faded=node.freed,
                marked=node.fired is not None,
            )
            for node in self.nodes.values()
        }
        caption = repr(self)[1:-1]
        return drawing(boxes, self.layers(), self.edges, caption)


def graph_behind(variable: MirroredVariable) -> Graph:
    """What the mirror knows by now. To be called on the client's loop, which changes the mirror."""
    nodes: dict[int, GraphNode] = {}
    first = variable.grad_fn
    waiting: list[MirroredNode] = [] if first is None else [first]
    seen = {node.id for node in waiting}
    place = 0
    while place < len(waiting) and len(nodes) < MAX_NODES:
        node = waiting[place]
        place += 1
        targets = tuple(None if edge is None else edge[0].id for edge in node.next_functions)
        nodes[node.id] = GraphNode(node.id, node.name, node.variable_id, node.freed, node.fired, targets)
        for edge in node.next_functions:
            if edge is not None and edge[0].id not in seen:
                seen.add(edge[0].id)
                waiting.append(edge[0])
    return Graph(variable.id, nodes, None if first is None else first.id, cut=place < len(waiting))


def _short(node: GraphNode) -> str:
    return f"{node.name} {node.id}" if node.variable is None else f"{node.name}({node.variable}) {node.id}"
