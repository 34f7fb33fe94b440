"""The sync face of `gridkit.aio.Grid`: several nodes as one, for plain cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gridkit.aio import grid as aio_grid
from gridkit.bridge import BRIDGE, sync
from gridkit.cells import ShortDir
from gridkit.errors import UsageError
from gridkit.session import Session

__all__ = ["Grid"]


class Grid(ShortDir):
    """A session over several nodes. See `gridkit.aio.Grid`.

    Args:
        sessions: one a node.

    Raises:
        UsageError: no list of sessions, an empty one, or two sessions with one node.

    Attributes:
        nodes: the sessions by the addresses of their nodes.

    Example:
        >>> grid = gk.Grid([a, b, c])                                               # doctest: +SKIP
        >>> grid.search("#xray").to_frame()                                         # doctest: +SKIP
    """

    def __init__(self, sessions: Sequence[Session]) -> None:
        if isinstance(sessions, Session):
            raise UsageError("a grid is made of a list of sessions", "pass one for each node: gk.Grid([a, b, c])")
        self._core = aio_grid.Grid([session._core for session in sessions])
        self.nodes = {session.url: session for session in sessions}

    def __repr__(self) -> str:
        return repr(self._core)

    @property
    def models(self) -> aio_grid.Answers[Any]:
        """The models of each node, by address."""
        return BRIDGE.sync(self._core.models())

    @property
    def datasets(self) -> aio_grid.Answers[Any]:
        """The datasets of each node that this user may see, by address."""
        return BRIDGE.sync(self._core.datasets())

    @property
    def dataset_tags(self) -> aio_grid.Answers[list[str]]:
        """The tags of each node's datasets, by address."""
        return BRIDGE.sync(self._core.dataset_tags())

    delete_model = sync(aio_grid.Grid.delete_model)
    download_model = sync(aio_grid.Grid.download_model)
    run_remote_inference = sync(aio_grid.Grid.run_remote_inference)
    search = sync(aio_grid.Grid.search)
    serve_model = sync(aio_grid.Grid.serve_model)
