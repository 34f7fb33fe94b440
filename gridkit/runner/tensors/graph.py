"""torch's autograd graph, told as it grows: nodes with numbers, and the edges between them.

A node's number is kept in its own `metadata`, which lives as long as the node does in torch; so the graph is held by
those that need it (tensors and other nodes) and by nothing here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch.autograd.graph import Node as TorchNode

from gridkit.runner.tensors.arguments import tensors_in
from gridkit.runner.tensors.ledger import Ledger

_TAG = "gridkit"
_LEAF = "AccumulateGrad"


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the graph.

    Attributes:
        id: its number in the session, from 1.
        name: torch's, such as MulBackward0, without a namespace.
        sequence: torch's running number of the operation; None for leaves.
        saved: names and shapes of the tensors that it keeps for the backward pass.
        variable: for AccumulateGrad: the tensor whose gradient it adds to, if that has an id.
    """

    id: int
    name: str
    sequence: int | None
    saved: tuple[tuple[str, tuple[int, ...]], ...] = ()
    variable: str | None = None


@dataclass(frozen=True, slots=True)
class Edge:
    """From a node to where its gradient goes: backward.

    Attributes:
        source, target: numbers of nodes; no target where an argument needs no gradient.
        place: which of the source's gradients goes this way, from 0; mostly the argument's place.
        output_nr: as which of the target's results the argument came out.
    """

    source: int
    target: int | None
    place: int
    output_nr: int


class _Tag:
    """A node's number. It dies with the node, wherever that happens, and says so."""

    __slots__ = ("_ledger", "id")

    def __init__(self, id: int, ledger: Ledger) -> None:
        self.id = id
        self._ledger = ledger

    def __del__(self) -> None:
        self._ledger.dead.append(self.id)


class Graph:
    """Numbers nodes, and tells of those that are new.

    Args:
        ledger: told which tensors a node keeps.
        name_of: the id of a tensor, if it has one.
    """

    def __init__(self, ledger: Ledger, name_of: Callable[[torch.Tensor], str | None]) -> None:
        self._ledger = ledger
        self._name_of = name_of
        self._numbers = itertools.count(1)
        self._saved_names: dict[str, list[str]] = {}
        self._new_nodes: list[Node] = []
        self._new_edges: list[Edge] = []

    def number(self, node: TorchNode) -> int:
        """The number of a node that `grow` has seen."""
        return _tags(node)[_TAG].id

    def grow(self, roots: Iterable[TorchNode | None]) -> None:
        """Number what is new at these nodes and behind them."""
        new = [node for root in roots if root is not None for node in self._tag(root)]
        self._new_nodes += map(self._described, new)
        self._new_edges += (edge for node in new for edge in self._edges(node))

    def news(self) -> tuple[tuple[Node, ...], tuple[Edge, ...]]:
        """What was numbered since the last time: nodes, each after those that it leads to, and their edges."""
        nodes, edges = tuple(self._new_nodes), tuple(self._new_edges)
        self._new_nodes.clear()
        self._new_edges.clear()
        return nodes, edges

    def _tag(self, root: TorchNode) -> Iterator[TorchNode]:
        stack = [root]
        while stack:
            node = stack[-1]
            if _TAG in _tags(node):
                stack.pop()
                continue
            below = [next for next, _ in node.next_functions if next is not None and _TAG not in _tags(next)]
            if below:
                stack += reversed(below)
                continue
            _tags(node)[_TAG] = _Tag(next(self._numbers), self._ledger)
            yield stack.pop()

    def _edges(self, node: TorchNode) -> Iterator[Edge]:
        for place, (target, output_nr) in enumerate(node.next_functions):
            yield Edge(self.number(node), None if target is None else self.number(target), place, output_nr)

    def _described(self, node: TorchNode) -> Node:
        number, name = self.number(node), node.name().rpartition("::")[2]
        if name == _LEAF:
            variable = leaf_of(node)
            self._ledger.keep(number, [variable])
            return Node(number, name, None, (), self._name_of(variable))
        saved = []
        for field in self._fields(node, name):
            try:
                value = getattr(node, field)
            except RuntimeError:  # given back since, or changed in place
                continue
            saved += [(field.removeprefix("_saved_"), tensor) for tensor in tensors_in(value)]
        self._ledger.keep(number, [tensor for _, tensor in saved])
        return Node(number, name, node._sequence_nr(), tuple((field, tuple(t.shape)) for field, t in saved))

    def _fields(self, node: TorchNode, name: str) -> list[str]:
        """The attributes of a kind of node that hold tensors."""
        fields = self._saved_names.get(name)
        if fields is None:
            fields = self._saved_names[name] = [
                field.removeprefix("_raw") for field in dir(node) if field.startswith("_raw_saved_")
            ]
        return fields

    def freed(self, nodes: Iterable[TorchNode]) -> list[int]:
        """Note that these gave back what they kept; the numbers of those that had kept something."""
        numbers = [self.number(node) for node in nodes if not is_leaf(node)]
        found = [number for number in numbers if self._ledger.holds(number)]
        for number in found:
            self._ledger.keep(number, ())
        return found


def _tags(node: TorchNode) -> dict[str, _Tag]:
    return node.metadata  # type: ignore[return-value]


def walk(roots: Iterable[TorchNode]) -> Iterator[TorchNode]:
    """Every node behind the roots, and these, once each."""
    seen: set[Hashable] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            yield node
            stack += [next for next, _ in node.next_functions if next is not None]


def grad_fn_of(tensor: torch.Tensor) -> TorchNode | None:
    """A tensor's node. A view that was made without gradients, and whose base was changed with them, has none: torch
    raises when it is asked.
    """
    try:
        return tensor.grad_fn
    except RuntimeError:
        return None


def node_of(tensor: torch.Tensor) -> TorchNode | None:
    """Where a tensor's gradient comes in; torch makes it for a leaf when it is first needed."""
    node = grad_fn_of(tensor)
    if node is not None or not tensor.requires_grad:
        return node
    with torch.enable_grad():
        view = grad_fn_of(tensor.view_as(tensor))
    return None if view is None else view.next_functions[0][0]  # None: a leaf's view, made without gradients


def is_leaf(node: TorchNode) -> bool:
    """Whether it adds a gradient to a leaf."""
    return node.name().endswith(_LEAF)


def leaf_of(node: TorchNode) -> torch.Tensor:
    """The leaf of such a node."""
    leaf: torch.Tensor = node.variable  # type: ignore[attr-defined]
    return leaf
