"""A push participant that listens, and trains when a node calls. `gridkit.participant` is its sync face."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Self

from gridkit.cells import ShortDir
from gridkit.client.link import Link
from gridkit.client.push import PushClient, basic
from gridkit.client.push_listener import Communication, Listener
from gridkit.errors import UsageError
from gridkit.workers.participant import Happened, Participant, Test, Train

PATIENCE = 120.0
"""seconds for which a participant waits for a node that doesn't answer, such as one that is being started again"""
UNSIGNED = (
    "This participant believes everybody: whoever reaches {host}:{port} can make it train on its data. "
    "Pass secret=…, which grid.push_participant told, unless the node can't sign (then keep the port from strangers)."
)


class PushParticipant(ShortDir):
    """A participant that listens. Made by `serve_participant`; an async context manager.

    Attributes:
        url: where it listens, on this machine; what the node is given is how it reaches that.
        node: the node's address.
    """

    def __init__(self, node: str, listener: Listener, participant: Participant, link: Link) -> None:
        self.node = node
        host = str(listener.server_address[0])
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{listener.port}/"
        self._held = (listener, participant, link)

    def __repr__(self) -> str:
        last = self.history[-1:]
        return f"PushParticipant({self.url!r}, {last[0].what if last else 'nothing heard yet'})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def history(self) -> list[Happened]:
        """What happened, oldest first: rows of `time`, `training` and `what`; the last thousand."""
        return list(self._held[1].history)

    async def close(self) -> None:
        """Stop listening. What is being trained is told to stop, and isn't sent. Idempotent."""
        await self._closing()()

    def _closing(self) -> Callable[[], Coroutine[Any, Any, None]]:
        """What closes all that this participant holds, without holding it."""
        return partial(_close, *self._held)


async def _close(listener: Listener, participant: Participant, link: Link) -> None:
    participant.close()
    await asyncio.to_thread(listener.close)
    await link.close()


async def open_participant(
    *,
    train: Train,
    test: Test,
    node: str,
    host: str,
    port: int,
    secret: str | None,
    user: str | None,
    password: str | None,
    token: str | None,
    authorization: str | None,
    communication: type[Communication],
) -> PushParticipant:
    """`serve_participant`, without its warning."""
    for name, function in (("train", train), ("test", test)):
        if not callable(function):
            raise UsageError(f"{name} is a {type(function).__name__}", f"pass a function: {name}(state, task)")
    if (user is None) != (password is None) or sum(way is not None for way in (user, token, authorization)) > 1:
        raise UsageError("these aren't one way to log in", "pass user and password, or token, or authorization")
    if user is not None and password is not None:
        authorization = basic(user, password)
    link = Link(node, token, patience=PATIENCE)
    submit = partial(_submit, asyncio.get_running_loop())
    participant = Participant(train, test, PushClient(link, authorization), submit)
    ours = all(
        getattr(communication, name).__func__ is getattr(Communication, name).__func__
        for name in ("start_training", "start_testing")
    )
    known = {"receiver": participant, "knows_again": ours or communication.knows_again}
    bound = type(communication.__name__, (communication,), known)
    try:
        listener = await asyncio.to_thread(Listener, bound, host, port, secret)
    except BaseException:
        participant.close()
        await link.close()
        raise
    return PushParticipant(link.url, listener, participant, link)


def _submit(loop: asyncio.AbstractEventLoop, call: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run_coroutine_threadsafe(call, loop)


async def serve_participant(
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
    """Listen for a node's notifications, and train or test when one says so. Returns at once.

    Args:
        train: ``train(state, task) -> (state, samples, metrics)``: the model's state dict (tensors of this call's own)
            and a `PushTask` in; out the trained state dict, how many samples it has seen, which is its weight in the
            mean, and metrics by name. Called on a thread, one call at a time; a long one looks at `task.stopped`.
        test: ``test(state, task) -> metrics``, such as ``{"accuracy": 0.9}``; likewise.
        node: where the node has its push surface, such as ``http://host:5000/push``.
        host, port: where to listen; "0.0.0.0" is all interfaces, port 0 takes a free one.
        secret: shared with the node, which signs with it (`gridkit.wire.notifications`); without one whoever reaches
            the port can start trainings, which is warned of.
        user, password: the participant's account at the node (HTTP Basic).
        token: a bearer token, in place of that.
        authorization: any other `Authorization` header, such as ``Token …``, in place of those.
        communication: a subclass of `Communication` that does more with notifications.

    Raises:
        UsageError: an argument is wrong, or the address can't be listened on.

    Example:
        >>> def train(state, task):                                                  # doctest: +SKIP
        ...     model.load_state_dict(state)
        ...     loss = fit(model, x, y)
        ...     return model.state_dict(), len(x), {"loss": loss}
        >>> participant = await gk.aio.serve_participant(                            # doctest: +SKIP
        ...     train=train, test=test, node="http://127.0.0.1:5000/push", secret=secret, user="hospital", password=p)
    """
    if secret is None:
        warnings.warn(UNSIGNED.format(host=host, port=port), stacklevel=2)
    return await open_participant(
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
