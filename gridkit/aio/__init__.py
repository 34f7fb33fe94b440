"""The async API, whole. `gridkit.session` is its sync face, made of it.

>>> async with await gk.aio.launch() as grid:                                       # doctest: +SKIP
...     run = await grid.train(model, plan, name="digits", clients=shards, rounds=10)
...     await run
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, ParamSpec

from gridkit.aio.accounts import Accounts
from gridkit.aio.datasets import Datasets
from gridkit.aio.grid import Grid as Grid
from gridkit.aio.invitations import Invitations
from gridkit.aio.job import Job as Job
from gridkit.aio.job_model import SyftModel as SyftModel
from gridkit.aio.models import Models
from gridkit.aio.nodes import Nodes
from gridkit.aio.participant import PushParticipant as PushParticipant
from gridkit.aio.participant import serve_participant as serve_participant
from gridkit.aio.participants import Participants
from gridkit.aio.syft import Syft as Syft
from gridkit.aio.tensors import Tensors
from gridkit.aio.trainings import RunT
from gridkit.aio.websocket_grid import WebsocketGridClient as WebsocketGridClient
from gridkit.client.credentials import Login, login_of, stored_token
from gridkit.client.link import Link
from gridkit.client.rpc import RpcClient as RpcClient
from gridkit.errors import AccessError, ErrorCode
from gridkit.node.launch import NodeProcess
from gridkit.run import AsyncRun
from gridkit.workers.pool import Pool
from gridkit.workers.simulate import simulate_async

Run = AsyncRun
User = str | Mapping[str, Any] | Login
P = ParamSpec("P")
PATIENCE = 30.0
"""seconds for which a session waits for a node that doesn't answer, such as one that is being started again"""


class SessionCore(Invitations[RunT], Models, Nodes, Accounts, Datasets, Participants, Tensors):
    """What a person holds in a notebook: one node, what it hosts, and the worker processes of this session.

    Made by `launch` or `connect`; an async context manager. A part a file: `gridkit.aio.trainings`, ….
    """


class Session(SessionCore[AsyncRun]):
    """The async session; `train` and `run` give an `AsyncRun`."""

    _run_class = AsyncRun


async def open_launched(
    kind: type[Any],
    data: str | os.PathLike[str] | None,
    host: str,
    workers: int,
    allow_targets: Sequence[str],
    certfile: str | os.PathLike[str] | None,
    keyfile: str | os.PathLike[str] | None,
) -> Any:
    """A session of this kind on a node and workers of its own."""
    pool = await asyncio.to_thread(Pool, workers)
    try:
        node = await asyncio.to_thread(
            lambda: NodeProcess(data, host=host, allow_targets=allow_targets, certfile=certfile, keyfile=keyfile)
        )
    except BaseException:
        await asyncio.to_thread(pool.close)
        raise
    link = Link(node.url, node.token, patience=PATIENCE, certificate=node.certificate)
    return kind(link, node=node, pool=pool)


async def launch(
    *,
    data: str | os.PathLike[str] | None = None,
    host: str = "127.0.0.1",
    workers: int = 2,
    allow_targets: Sequence[str] = (),
    certfile: str | os.PathLike[str] | None = None,
    keyfile: str | os.PathLike[str] | None = None,
) -> Session:
    """Start a node of this session's own, in its own process, and worker processes ahead of the first training.

    Args:
        data: folder to keep; None takes a temporary one, deleted at close.
        host: interface to listen on; "0.0.0.0" is all of them, so that other machines reach the node.
        workers: processes to start ahead; each needs about 300 MB once torch is loaded.
        allow_targets: what the node may call by itself, as for `connect_nodes` and `push_participant`: "HOST",
            "HOST:PORT" or a network; nothing by default. ``["127.0.0.1"]`` are participants on the node's own machine.
        certfile, keyfile: TLS certificate and key (PEM), for the names by which others reach the node.

    Returns:
        A session; closing it ends node and workers. They end with this process in any case.
    """
    session: Session = await open_launched(Session, data, host, workers, allow_targets, certfile, keyfile)
    return session


async def open_connected(kind: type[Any], url: str, token: str | None, user: User | None) -> Any:
    """A session of this kind on a node that runs already."""
    login = None if user is None else login_of(user)
    token = token or (None if login else os.environ.get("GRIDKIT_TOKEN") or stored_token(url))
    session = kind(Link(url, token))
    try:
        if login is not None:
            await session._log_in(login)
        elif token is None:
            raise AccessError(
                f"there is no token for {url}",
                "pass token=…, or user=…, or set GRIDKIT_TOKEN",
                code=ErrorCode.UNAUTHENTICATED,
                status=401,
            )
        await session.processes()
    except BaseException:
        await session.close()
        raise
    session._link.patience = PATIENCE
    return session


async def connect(url: str, *, token: str | None = None, user: User | None = None) -> Session:
    """Open a session on a node that runs already.

    Args:
        url: such as ``http://host:5000``.
        token: of an account, or the owner's; by default `GRIDKIT_TOKEN`, or the credentials file.
        user: log in in place of that: ``{"username": …, "password": …}``, or a name of a credentials file.

    Raises:
        NodeUnreachable: nobody answers there.
        AccessError: no token, or a wrong one; or the node knows no such name and password.
    """
    session: Session = await open_connected(Session, url, token, user)
    return session


def _coroutine(function: Callable[P, AsyncRun]) -> Callable[P, Coroutine[Any, Any, AsyncRun]]:
    @functools.wraps(function)
    async def simulate(*args: P.args, **kwargs: P.kwargs) -> AsyncRun:
        return function(*args, **kwargs)

    return simulate


simulate = _coroutine(simulate_async)
"""Train without a node; the arguments of `gridkit.simulate`. Returns at once, with an `AsyncRun`."""
