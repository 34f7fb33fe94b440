"""What a notebook knows of the tensors that live on the node: a mirror of them and of the autograd graph behind them.

The node tells (`create_variable`, `create_node`, …), in the order in which things happen, and ahead of the answer to
the call that caused them. All in here is changed by the client's own loop only, by these messages and by nothing else.

Reads that depend on a pass wait for it: each backward pass and each step of an optimizer has an id from the moment it
is asked for, and a read waits for the newest that touches what is read. There are no flags to be cleared too early.
"""

from __future__ import annotations

import asyncio
import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gridkit.errors import ErrorCode, GridkitError, NotFoundError, RunError
from gridkit.wire.rpc.v1 import Saved, Tensor

KEPT_GRADIENTS = 16
"""of a variable, newest last, of which each pass adds one"""

MAX_EARLY = 1000
"""passes through nodes that haven't been told of yet"""

PassKind = Literal["backward", "step"]


@dataclass(eq=False)
class MirroredNode:
    """A node of the graph.

    Attributes:
        id: the node's number.
        name: torch's, such as "MulBackward0".
        next_functions: where its gradients go: (node, output_nr); None: nowhere.
        sequence: torch's number of the operation.
        saved: tensors that it keeps for the backward pass.
        variable_id: of AccumulateGrad: whose gradient it adds to.
        label, line: what the notebook called, and where.
        freed: it gave back what it kept: no other pass goes through it.
        fired: the last pass that went through it; order: when, among all nodes' last times; passed_on: the gradients
            that it gave, in the order of `next_functions`, without values.
    """

    id: int
    name: str
    sequence: int | None = None
    saved: Sequence[Saved] = ()
    variable_id: str | None = None
    label: str | None = None
    line: str | None = None
    next_functions: list[tuple[MirroredNode, int] | None] = field(default_factory=list)
    freed: bool = False
    fired: str | None = None
    order: int = 0
    passed_on: Sequence[Tensor | None] = ()

    def __repr__(self) -> str:
        return f"<{self.name} {self.id}{', freed' if self.freed else ''}>"


@dataclass(frozen=True, slots=True)
class Gradient:
    """What a pass added to a variable's gradient."""

    tensor: Tensor
    pass_id: str | None
    id: str | None


@dataclass(eq=False)
class MirroredVariable:
    """A tensor, as the node last told of it.

    Attributes:
        data: dtype and shape; its values where a policy lets them out.
        grad_fn: the node of the graph that made it.
        output_nr: which of that node's results it is.
        version: how often it was changed in place.
        private: its values stay on the node.
        gradients: the last that passes added.
    """

    id: str
    data: Tensor
    requires_grad: bool
    is_leaf: bool
    parameter: bool
    retains_grad: bool
    output_nr: int
    grad_fn: MirroredNode | None
    has_grad: bool
    version: int
    private: bool = False
    gradients: deque[Gradient] = field(default_factory=lambda: deque(maxlen=KEPT_GRADIENTS))

    def __repr__(self) -> str:
        return f"<variable {self.id}, {self.data.dtype}{self.data.shape}>"


@dataclass(eq=False)
class Pass:
    """A backward pass or a step, from the moment it is asked for.

    Attributes:
        order: of asking.
        touches: ids of the variables that it changes; None: not known yet, so any.
        error: why it failed; None while it runs, and when it went well.
    """

    id: str
    kind: PassKind
    order: int
    touches: frozenset[str] | None
    pending: bool = True
    error: GridkitError | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def may_touch(self, variable_id: str) -> bool:
        return self.touches is None or variable_id in self.touches


class Mirror:
    """The variables, nodes, passes and models of one session.

    Attributes:
        variables: by id, until `forget`.
        nodes: by number, as long as a variable or another node leads to them.
        models: what the node counts of each module that it has.
        freed: how many nodes have given back what they kept.
        lost: why the session ended; None while it lasts.
    """

    def __init__(self) -> None:
        self.variables: dict[str, MirroredVariable] = {}
        self.nodes: weakref.WeakValueDictionary[int, MirroredNode] = weakref.WeakValueDictionary()
        self.models: dict[str, dict[str, Any]] = {}
        self.freed = 0
        self.lost: GridkitError | None = None
        self._new: list[MirroredNode] = []  # nodes to which nothing leads yet
        self._orders, self._firings = itertools.count(1), itertools.count(1)
        self._newest = 0  # the number of a node
        self._early: dict[int, tuple[str, int, Sequence[Tensor | None]]] = {}
        self._listeners: set[Callable[[], None]] = set()
        self._passes: dict[str, Pass] = {}  # that are pending
        self._failed: dict[tuple[PassKind, str], Pass] = {}  # by variable: the newest pass, if it failed

    def __repr__(self) -> str:
        state = f", lost: {self.lost.message}" if self.lost else ""
        return f"<Mirror of {len(self.variables)} variables and {len(self.nodes)} nodes{state}>"

    # ---- as the node tells

    def create_variable(self, variable_id: str, grad_fn: int | None, **facts: Any) -> None:
        """There is a variable, or another one of this id.

        Raises:
            NotFoundError: its node of the graph isn't known.
        """
        node = None if grad_fn is None else self.node(grad_fn)
        self.variables[variable_id] = MirroredVariable(variable_id, grad_fn=node, **facts)

    def update_variable(self, variable_id: str, field: str, value: Any, version: int) -> None:
        """A field of a variable is something else now.

        Raises:
            NotFoundError: the variable, or its node of the graph, isn't known.
        """
        variable = self.variable(variable_id)
        if field == "grad_fn" and value is not None:
            value = self.node(value)
        if field == "has_grad" and not value:
            variable.gradients.clear()
        setattr(variable, field, value)  # of the schema's list of fields
        variable.version = version

    def append_grad(self, variable_id: str, gradient: Tensor, pass_id: str | None, gradient_id: str | None) -> None:
        """A pass added to a variable's gradient.

        Raises:
            NotFoundError: the variable isn't known.
        """
        variable = self.variable(variable_id)
        variable.gradients.append(Gradient(gradient, pass_id, gradient_id))
        variable.has_grad = True
        self.changed()

    def create_node(self, node_id: int, name: str, **facts: Any) -> None:
        """There is a node of the graph."""
        node = self.nodes[node_id] = MirroredNode(node_id, name, **facts)
        self._newest = max(self._newest, node_id)
        if node_id in self._early:
            node.fired, node.order, node.passed_on = self._early.pop(node_id)
        self._new.append(node)

    def create_edge(self, from_node_id: int, to_node_id: int | None, output_nr: int, input_nr: int) -> None:
        """A node's gradient `input_nr` goes there.

        Raises:
            NotFoundError: one of the nodes isn't known.
        """
        edges = self.node(from_node_id).next_functions
        edge = None if to_node_id is None else (self.node(to_node_id), output_nr)
        edges.extend([None] * (input_nr + 1 - len(edges)))
        edges[input_nr] = edge

    def free_nodes(self, node_ids: Iterable[int]) -> None:
        """These nodes gave back what they kept. Those that aren't known are gone here already."""
        for node_id in node_ids:
            if (node := self.nodes.get(node_id)) is not None:
                node.freed = True
                self.freed += 1
        self.changed()

    def node_fired(self, pass_id: str, node_id: int, gradients: Sequence[Tensor | None] = ()) -> None:
        """A pass went through a node, if that is still known. These messages may overtake the one that tells of it."""
        node = self.nodes.get(node_id)
        if node is not None:
            node.fired, node.order, node.passed_on = pass_id, next(self._firings), gradients
            self.changed()
        elif node_id > self._newest:
            self._early[node_id] = pass_id, next(self._firings), gradients
            if len(self._early) > MAX_EARLY:
                del self._early[next(iter(self._early))]

    def update_model(self, model_id: str, field: str, value: Any) -> None:
        """The node counted something of a module that it has."""
        self.models.setdefault(model_id, {})[field] = value

    def settle(self) -> None:
        """The answer to a call has come, and so all that explains it: what nothing leads to by now may go."""
        self._new.clear()

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Have `listener` called, on the loop that changes this, when a pass begins, ends, or has got further, and when
        the session is lost. It must be quick, and not raise.

        Returns:
            What ends that; on any thread.
        """
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    def changed(self) -> None:
        """Tell those that listen."""
        for listener in tuple(self._listeners):
            listener()

    # ---- passes

    def begin(self, pass_id: str, kind: PassKind, touches: Iterable[str] | None = None) -> Pass:
        """A pass is asked for.

        Args:
            touches: the variables that it changes, if they are known.
        """
        known = None if touches is None else frozenset(touches)
        begun = self._passes[pass_id] = Pass(pass_id, kind, next(self._orders), known)
        self.changed()
        return begun

    def end(self, pass_id: str, touched: Iterable[str] | None, error: GridkitError | None) -> None:
        """A pass is over: all that it changed has been told. Of one that isn't pending this is no news.

        Args:
            touched: the variables that it changed; None: what it was to touch.
            error: why it failed: so did it for what it was to touch, and for nobody else, if that is known.
        """
        ended = self._passes.pop(pass_id, None)
        if ended is None:
            return
        if touched is not None:
            ended.touches = frozenset(touched) | (ended.touches if error and ended.touches else frozenset())
        ended.pending, ended.error = False, error
        for variable_id in self.variables if ended.touches is None else ended.touches:
            last = self._failed.get((ended.kind, variable_id))
            if last is None or last.order < ended.order:
                if error is None:
                    self._failed.pop((ended.kind, variable_id), None)
                elif variable_id in self.variables:
                    self._failed[ended.kind, variable_id] = ended
        ended.over.set()
        self.changed()

    def pending(self, variable_id: str, kind: PassKind) -> Pass | None:
        """The newest pass that may change this variable and isn't over. Never waits."""
        found = [p for p in self._passes.values() if p.kind == kind and p.may_touch(variable_id)]
        return max(found, key=lambda p: p.order, default=None)

    async def ready(self, variable_id: str, kind: PassKind) -> MirroredVariable:
        """The variable, after all passes of this kind that have been asked for by now and may change it.

        Raises:
            RunError: the newest of them failed, or was cancelled.
            NotFoundError: there is no such variable; or the session was lost.
        """
        newest = self.pending(variable_id, kind)
        while newest is not None and (older := self._oldest(variable_id, kind, newest.order)) is not None:
            await older.over.wait()
        if self.lost is not None:
            raise _lost(variable_id, self.lost)
        failed = self._failed.get((kind, variable_id))
        if failed is not None and failed.error is not None:
            raise RunError(f"{variable_id}: {failed.error.message}", failed.error.hint, code=failed.error.code)
        return self.variable(variable_id)

    def _oldest(self, variable_id: str, kind: PassKind, until: int) -> Pass | None:
        passes = self._passes.values()
        return next((p for p in passes if p.kind == kind and p.order <= until and p.may_touch(variable_id)), None)

    # ---- ids

    def variable(self, variable_id: str) -> MirroredVariable:
        """
        Raises:
            NotFoundError: there is no such variable; or the session was lost.
        """
        if self.lost is not None:
            raise _lost(variable_id, self.lost)
        if variable_id not in self.variables:
            raise NotFoundError(f"no variable '{variable_id}' is known", code=ErrorCode.NOT_FOUND, status=404)
        return self.variables[variable_id]

    def node(self, node_id: int) -> MirroredNode:
        """
        Raises:
            NotFoundError: there is no such node.
        """
        node = self.nodes.get(node_id)
        if node is None:
            raise NotFoundError(f"no node {node_id} of the graph is known", code=ErrorCode.NOT_FOUND, status=404)
        return node

    def forget(self, variable_ids: Iterable[str]) -> None:
        """Nobody in the notebook refers to these variables any more."""
        for variable_id in variable_ids:
            self.variables.pop(variable_id, None)
            for kind in ("backward", "step"):
                self._failed.pop((kind, variable_id), None)

    def lose(self, error: GridkitError) -> None:
        """The session has ended: nothing in here is on the node any more, and what waits for it ends."""
        self.lost = error
        for pass_id in tuple(self._passes):
            self.end(pass_id, None, error)
        self.variables.clear()
        self._new.clear()
        self._early.clear()
        self._failed.clear()
        self.changed()


def _lost(variable_id: str, error: GridkitError) -> NotFoundError:
    return NotFoundError(
        f"variable '{variable_id}' was of a session that is lost: {error.message}",
        "make it again",
        code=ErrorCode.SESSION_LOST,
        status=404,
    )
