"""`gridkit.serve_participant`, the sync face of that in `gridkit.aio`, for plain cells and scripts."""

from __future__ import annotations

import warnings

from gridkit import cells
from gridkit.aio import participant as aio_participant
from gridkit.bridge import BRIDGE, sync
from gridkit.client.push_listener import ClientServerHandler, Communication
from gridkit.workers.participant import Happened, PushTask, Test, Train

__all__ = ["ClientServerHandler", "Communication", "PushParticipant", "PushTask", "serve_participant"]

_open: set[PushParticipant] = set()
"""A service goes on where a cell hasn't kept what it made."""


class PushParticipant(cells.ShortDir):
    """A participant that listens. Made by `serve_participant`; a context manager.

    Attributes and methods are those of `gridkit.aio.PushParticipant`. In a notebook: running the cell again closes the
    participant that it made before.
    """

    def __init__(self, core: aio_participant.PushParticipant) -> None:
        self._core = core
        _open.add(self)
        cells.remember(self)

    def __repr__(self) -> str:
        return repr(self._core)

    def __enter__(self) -> PushParticipant:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where it listens, on this machine."""
        return self._core.url

    @property
    def node(self) -> str:
        """The node's address."""
        return self._core.node

    @property
    def history(self) -> list[Happened]:
        """What happened, oldest first: rows of `time`, `training` and `what`; the last thousand."""
        return self._core.history

    def close(self) -> None:
        """Stop listening. What is being trained is told to stop, and isn't sent. Idempotent."""
        _open.discard(self)
        self._close()

    _close = sync(aio_participant.PushParticipant.close)


def serve_participant(
    *,
    train: Train,
    test: Test,
    node: str,
    host: str = "127.0.0.1",
    port: int = 8101,
    secret: str | None = None,
    user: str | None = None,
    password: str | None = None,
    token: str | None = None,
    authorization: str | None = None,
    communication: type[Communication] = Communication,
) -> PushParticipant:
    """Listen for a node's notifications, and train or test when one says so. Returns at once; the cell is free.

    Arguments and errors are those of `gridkit.aio.serve_participant`. What `train` and `test` print stands under the
    cell.

    Example:
        >>> def train(state, task):                                                  # doctest: +SKIP
        ...     model.load_state_dict(state)
        ...     loss = fit(model, x, y)
        ...     return model.state_dict(), len(x), {"loss": loss}
        >>> participant = gk.serve_participant(                                      # doctest: +SKIP
        ...     train=train, test=test, node="http://127.0.0.1:5000/push", secret=secret, user="hospital", password=p)
    """
    cells.renew()
    if secret is None:
        warnings.warn(aio_participant.UNSIGNED.format(host=host, port=port), stacklevel=2)
    opened = aio_participant.open_participant(
        train=train,
        test=test,
        node=node,
        host=host,
        port=port,
        secret=secret,
        user=user,
        password=password,
        token=token,
        authorization=authorization,
        communication=communication,
    )
    return PushParticipant(BRIDGE.sync(opened))
