"""`gridkit.RpcClient`, the sync face of the one in `gridkit.client.rpc`, for plain cells and scripts."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import inspect
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from gridkit import cells, threads
from gridkit.bridge import BRIDGE, sync
from gridkit.client import rpc as aio_rpc
from gridkit.client.link import Link
from gridkit.client.rpc_audit import CalledBack
from gridkit.client.rpc_callables import Exposed
from gridkit.client.rpc_calls import Progress
from gridkit.client.rpc_handlers import Handlers
from gridkit.client.rpc_mirror import Mirror
from gridkit.exposed import Calls

__all__ = ["CalledBack", "Exposed", "Mirror", "Progress", "RpcClient"]

R = TypeVar("R")


class _Core(aio_rpc.RpcClient):
    """The client on the I/O thread; a subclass of the face may handle what the node says."""

    face: Callable[[], RpcClient | None]

    def _handlers(self) -> Any:
        face = self.face()
        return self if face is None else face


def _passed_on(
    handler: Callable[[Any, dict[str, Any]], Coroutine[Any, Any, R]],
) -> Callable[[RpcClient, dict[str, Any]], Coroutine[Any, Any, R]]:
    @functools.wraps(handler)
    async def handle(self: RpcClient, params: dict[str, Any]) -> R:
        return await handler(self._core, params)

    return handle


class RpcClient(cells.ShortDir):
    """A client of a node's JSON-RPC endpoint, both ways. A context manager.

    Arguments, attributes and methods are those of `gridkit.client.rpc.RpcClient`. Functions that the node calls run on
    threads of their own, while the cell waits or not, and may use the client as a cell does. A subclass may override
    the ``rpc_*`` coroutines; these run on gridkit's own network thread, so they must be quick, and make no plain calls.
    In a notebook: running the cell again closes the client that it made before.

    Raises:
        UsageError: `base_url` isn't a node's address.

    Example:
        >>> client = gk.RpcClient("http://127.0.0.1:5000")                          # doctest: +SKIP
        >>> client.connect(api_key=token)                                           # doctest: +SKIP
        >>> client.call("echo", {"n": 1})                                           # doctest: +SKIP
        {'n': 1}
    """

    def __init__(
        self,
        base_url: str,
        port: int | None = None,
        default_timeout: float = 30.0,
        *,
        patience: float = 600.0,
    ) -> None:
        cells.renew()
        self._hold(_Core(base_url, port, default_timeout, patience=patience, start=threads.start, say=_say))
        cells.remember(self)

    def _hold(self, core: _Core) -> None:
        self._core = core
        core.face = weakref.ref(self)
        weakref.finalize(self, BRIDGE.leave, core.close).atexit = False

    def __repr__(self) -> str:
        return repr(self._core)

    def __enter__(self) -> RpcClient:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The node's address."""
        return self._core.url

    @property
    def default_timeout(self) -> float:
        """Of calls, in seconds."""
        return self._core.default_timeout

    @property
    def connected(self) -> bool:
        """There is a link now. Without one calls wait for the next, which is on its way."""
        return self._core.connected

    @property
    def called(self) -> Calls:
        """The node's last calls of functions of this notebook, in order: what came, and what left the notebook."""
        return Calls(self._core.called, "this notebook's functions")

    @property
    def mirror(self) -> Mirror:
        """Of the session's variables and graph."""
        return self._core.mirror

    def call(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        timeout: float | None = None,
        *,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> Any:
        """See `gridkit.client.rpc.RpcClient.call`. `on_progress` runs where the call waits; what it raises, the call
        raises with the next heartbeat."""
        tell = None if on_progress is None else _Teller(on_progress)
        return BRIDGE.sync(self._core.call(method, params, timeout, on_progress=tell))

    def expose(self, fn: Callable[..., Any]) -> Exposed:
        """See `gridkit.client.rpc.RpcClient.expose`. A coroutine function is run to its end on a thread too."""
        return self._core.expose(run_to_its_end(fn) if inspect.iscoroutinefunction(fn) else fn)

    connect = sync(aio_rpc.RpcClient.connect)
    close = sync(aio_rpc.RpcClient.close)

    rpc_heartbeat = _passed_on(Handlers.rpc_heartbeat)
    rpc_cancel = _passed_on(Handlers.rpc_cancel)
    rpc_create_variable = _passed_on(Handlers.rpc_create_variable)
    rpc_update_variable = _passed_on(Handlers.rpc_update_variable)
    rpc_append_grad = _passed_on(Handlers.rpc_append_grad)
    rpc_create_node = _passed_on(Handlers.rpc_create_node)
    rpc_create_edge = _passed_on(Handlers.rpc_create_edge)
    rpc_free_nodes = _passed_on(Handlers.rpc_free_nodes)
    rpc_node_fired = _passed_on(Handlers.rpc_node_fired)
    rpc_update_model = _passed_on(Handlers.rpc_update_model)
    rpc_run_callable = _passed_on(Handlers.rpc_run_callable)
    rpc_clear_backward = _passed_on(Handlers.rpc_clear_backward)
    rpc_clear_step = _passed_on(Handlers.rpc_clear_step)
    rpc_log = _passed_on(Handlers.rpc_log)


def of_link(link: Link) -> RpcClient:
    """A session's own client: it goes where the session's link goes."""
    client = RpcClient.__new__(RpcClient)
    client._hold(_Core(link=link, start=threads.start, say=_say))
    return client


def _say(line: str) -> None:
    BRIDGE.post(print, line)


class _Teller:
    """Has a function called on the main thread, in the context of the cell that calls."""

    def __init__(self, fn: Callable[[Progress], object]) -> None:
        self._fn = fn
        self._context = contextvars.copy_context()
        self._told: concurrent.futures.Future[Any] | None = None

    def __call__(self, progress: Progress) -> None:
        if self._told is not None and self._told.done():
            self._told.result()
        self._told = BRIDGE.post(self._fn, progress, context=self._context)


def run_to_its_end(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A coroutine function as a plain one, which has a loop of its own."""

    @functools.wraps(fn)
    def run(*args: Any, **kwargs: Any) -> Any:
        return asyncio.run(fn(*args, **kwargs))

    return run
