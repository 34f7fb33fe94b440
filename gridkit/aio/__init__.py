"""The async API, whole. `gridkit.session` is its sync face, made of it.

>>> async with await gk.aio.launch() as grid:                                       # doctest: +SKIP
...     run = await grid.train(model, plan, name="digits", clients=shards, rounds=10)
...     await run
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, ParamSpec

from gridkit.aio.nodes import Nodes
from gridkit.aio.trainings import RunT, Trainings
from gridkit.client.link import Link
from gridkit.errors import AccessError, ErrorCode, UsageError
from gridkit.node.launch import NodeProcess
from gridkit.run import AsyncRun
from gridkit.workers.pool import Pool
from gridkit.workers.simulate import simulate_async

Run = AsyncRun
P = ParamSpec("P")
PATIENCE = 30.0
"""seconds for which a session waits for a node that doesn't answer, such as one that is being started again"""


class SessionCore(Trainings[RunT], Nodes):
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
) -> Any:
    """A session of this kind on a node and workers of its own."""
    pool = await asyncio.to_thread(Pool, workers)
    try:
        node = await asyncio.to_thread(lambda: NodeProcess(data, host=host, allow_targets=allow_targets))
    except BaseException:
        await asyncio.to_thread(pool.close)
        raise
    return kind(Link(node.url, node.token, patience=PATIENCE), node=node, pool=pool)


async def launch(
    *,
    data: str | os.PathLike[str] | None = None,
    host: str = "127.0.0.1",
    workers: int = 2,
    allow_targets: Sequence[str] = (),
) -> Session:
    """Start a node of this session's own, in its own process, and worker processes ahead of the first training.

    Args:
        data: folder to keep; None takes a temporary one, deleted at close.
        host: interface to listen on.
        workers: processes to start ahead; each needs about 300 MB once torch is loaded.
        allow_targets: what the node may call by itself, as for `connect_nodes`: "HOST", "HOST:PORT" or a network.

    Returns:
        A session; closing it ends node and workers. They end with this process in any case.
    """
    session: Session = await open_launched(Session, data, host, workers, allow_targets)
    return session


async def open_connected(kind: type[Any], url: str, token: str | None) -> Any:
    """A session of this kind on a node that runs already."""
    token = token or os.environ.get("GRIDKIT_TOKEN") or stored_token(url)
    session = kind(Link(url, token))
    try:
        if token is None:
            raise AccessError(
                f"there is no token for {url}",
                "pass token=…, or set GRIDKIT_TOKEN",
                code=ErrorCode.UNAUTHENTICATED,
                status=401,
            )
        await session.processes()
    except BaseException:
        await session.close()
        raise
    session._link.patience = PATIENCE
    return session


async def connect(url: str, *, token: str | None = None) -> Session:
    """Open a session on a node that runs already.

    Args:
        url: such as ``http://host:5000``.
        token: the owner's; by default `GRIDKIT_TOKEN`, or the credentials file.

    Raises:
        NodeUnreachable: nobody answers there.
        AccessError: no token, or a wrong one.
    """
    session: Session = await open_connected(Session, url, token)
    return session


def stored_token(url: str) -> str | None:
    """The token for a node in the credentials file (``{"url": "token", …}``, mode 0600), if there is one.

    Raises:
        UsageError: others can read that file.
    """
    base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    file = base / "gridkit" / "credentials.json"
    if not file.exists():
        return None
    if file.stat().st_mode & 0o077:
        raise UsageError(f"{file} can be read by others", f"chmod 600 {file}")
    token = json.loads(file.read_text()).get(url.rstrip("/"))
    return None if token is None else str(token)


def _coroutine(function: Callable[P, AsyncRun]) -> Callable[P, Coroutine[Any, Any, AsyncRun]]:
    @functools.wraps(function)
    async def simulate(*args: P.args, **kwargs: P.kwargs) -> AsyncRun:
        return function(*args, **kwargs)

    return simulate


simulate = _coroutine(simulate_async)
"""Train without a node; the arguments of `gridkit.simulate`. Returns at once, with an `AsyncRun`."""
