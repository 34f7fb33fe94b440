"""A backward pass on its way through the graph behind a remote tensor: what a live picture of it follows."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence

from gridkit.client.rpc_mirror import MirroredNode
from gridkit.client.tensors import Pass, TensorClient
from gridkit.tensors.graph import Graph, graph_of

KEPT_PASSES = 64
"""of which it is known how they ended"""


class Walk:
    """Made on the client's loop; asked on any thread.

    Args:
        holder: as long as it is alive, there may be another pass.
        root: the tensor's id.
        nodes: of the graph; cut: there are more.
        names: what the notebook calls its tensors, by id.
    """

    def __init__(
        self,
        client: TensorClient,
        holder: object,
        root: str,
        nodes: Sequence[MirroredNode],
        cut: bool,
        names: Mapping[str, str],
    ) -> None:
        self._client = client
        self._mirror = client.rpc.mirror
        self._holder = weakref.ref(holder)
        self._root, self._nodes, self._cut, self._names = root, nodes, cut, names
        known = self._mirror.variables
        self._leaves = {node.variable_id: known[node.variable_id] for node in nodes if node.variable_id in known}
        self._passes: dict[str, Pass] = {}
        self._known = -1  # how many nodes of all graphs were freed, when it was looked last
        self._freed = False
        self._by: Pass | None = None  # the pass that did it
        self._last: Graph | None = None
        self._listeners: list[Callable[[], None]] = []
        self._unsubscribe = self._mirror.subscribe(self._changed)
        self._changed()

    def _changed(self) -> None:
        for begun in tuple(self._client.passes.values()):  # to which other threads add
            new = begun.id not in self._passes
            if new and begun.kind == "backward" and (begun.touches is None or begun.touches & self._leaves.keys()):
                self.snapshot()
                self._passes[begun.id] = begun
        while len(self._passes) > KEPT_PASSES:
            del self._passes[next(iter(self._passes))]
        if not self._freed and self._mirror.freed != self._known:
            self._known = self._mirror.freed
            if any(node.freed for node in self._nodes):
                self._freed = True
                self._by = next((begun for begun in self._passes.values() if not begun.over), None)  # one by one
                self.snapshot()
        for listener in tuple(self._listeners):
            listener()

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Have `listener` called on the client's loop when there is something new; what is returned ends all that."""
        self._listeners.append(listener)
        return self.close

    def close(self) -> None:
        """Follow no pass any more. Idempotent."""
        self._unsubscribe()
        self._listeners.clear()

    def snapshot(self) -> Graph:
        """The graph, and how far the last pass has come; of one that was freed, the pass that did it."""
        graph = graph_of(self._root, self._nodes, self._leaves, self._names, cut=self._cut)
        if self._by is not None and self._last is not None and graph.last_pass != self._by.id:
            return self._last  # another pass has begun, and will fail
        self._last = graph
        return graph

    @property
    def state(self) -> str:
        """The last pass that went through it, and how far that is; of a graph that was freed, the one that did it."""
        last = self.snapshot().last_pass
        walking = self._by if self._freed or last is None else self._passes.get(last)
        if walking is None:
            return "no pass has gone through it yet" if last is None else f"pass {last}"
        return f"{walking}: {walking.error.message}" if walking.error is not None else str(walking)

    @property
    def over(self) -> bool:
        """No further pass will go through it: it was freed, or the tensor or the session is gone."""
        if self._mirror.lost is not None:
            return True
        if self._freed:
            return self._by is None or self._by.over
        return self._holder() is None and all(begun.over for begun in tuple(self._passes.values()))
