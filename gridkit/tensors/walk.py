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
        self._listeners: list[Callable[[], None]] = []
        self._unsubscribe = self._mirror.subscribe(self._changed)
        self._changed()

    def _changed(self) -> None:
        for begun in self._client.passes.values():
            if begun.kind == "backward" and (begun.touches is None or begun.touches & self._leaves.keys()):
                self._passes[begun.id] = begun
        while len(self._passes) > KEPT_PASSES:
            del self._passes[next(iter(self._passes))]
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
        """The graph, and how far the last pass has come."""
        return graph_of(self._root, self._nodes, self._leaves, self._names, cut=self._cut)

    @property
    def state(self) -> str:
        """The newest pass, and how far it is."""
        newest = next(reversed(self._passes.values()), None)
        if newest is None:
            return "" if any(node.fired for node in self._nodes) else "no pass has gone through it yet"
        return f"{newest}: {newest.error.message}" if newest.error is not None else str(newest)

    @property
    def over(self) -> bool:
        """No further pass will go through it: it was freed, or the tensor or the session is gone."""
        if self._mirror.lost is not None:
            return True
        if any(not begun.over for begun in tuple(self._passes.values())):
            return False
        return self._holder() is None or any(node.freed for node in self._nodes)
