"""JSON-RPC both ways with a node: calls, functions that the node calls back, and a mirror of its tensors.

Three roles, so that nothing waits for itself. The *reader* (`RpcSession`) takes frames and never blocks; the *applier*
takes one message after the other, in order, and only then resolves the call that it answers; functions of the notebook
run on *workers* (`Callables`), where they may take their time, and make calls of their own.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from numbers import Real
from typing import Any, Self

from gridkit.client.credentials import stored_token
from gridkit.client.link import Link
from gridkit.client.rpc_applier import Applier, post
from gridkit.client.rpc_audit import CalledBack
from gridkit.client.rpc_callables import RUNNING, Callables, Exposed, StartThread, cancelled, start_daemon
from gridkit.client.rpc_calls import Call, Progress, Vigil
from gridkit.client.rpc_handlers import Handlers
from gridkit.client.rpc_mirror import Mirror
from gridkit.client.rpc_session import RpcSession, fresh
from gridkit.client.rpc_torch import is_plain, of_torch, remote_in
from gridkit.client.websocket_grid import parse_address
from gridkit.errors import ErrorCode, GridkitError, NodeUnreachable, NotFoundError, UsageError
from gridkit.wire.rpc.channel import Window
from gridkit.wire.rpc.failures import error_of
from gridkit.wire.rpc.messages import (
    Failure,
    Id,
    Notification,
    Reply,
    Request,
    pack,
)
from gridkit.wire.rpc.values import Body, decode, encode


class RpcClient(Handlers):
    """A client of a node's JSON-RPC endpoint, for coroutines. An async context manager.

    What it says and is told survives broken links: it reconnects by itself, and both ends go on where they were. When
    the node was restarted, or gave the session up, all calls under way end with that reason, and the next call
    begins another session.

    Args:
        base_url: ``http://host``, ``https``, ``ws`` or ``wss``, perhaps with port and path.
        port: in place of the one in `base_url`.
        default_timeout: of calls, see `call`.
        patience: seconds without any link after which a session is given up.
        window: what this end takes before it has done with it.
        link: to the node, in place of `base_url`.
        start: how threads for functions are started.
        say: what prints lines that the node has for the person at the notebook.

    Attributes:
        default_timeout: seconds.
        mirror: of the session's variables and graph.

    Raises:
        UsageError: `base_url` isn't a node's address.

    Example:
        >>> async with RpcClient("http://127.0.0.1:5000") as client:                # doctest: +SKIP
        ...     with client.expose(accuracy) as metric:
        ...         await client.call("loopback", {"calls": [{"method": "run_callable", "params": …}]})
    """

    def __init__(
        self,
        base_url: str | None = None,
        port: int | None = None,
        default_timeout: float = 30.0,
        *,
        patience: float = 600.0,
        window: Window | None = None,
        link: Link | None = None,
        start: StartThread = start_daemon,
        say: Callable[[str], object] = print,
    ) -> None:
        if (base_url is None) == (link is None):
            raise UsageError("an RpcClient needs the address of a node", 'pass one such as "http://127.0.0.1:5000"')
        self._link = Link(_url_of(base_url, port)) if link is None else link
        self._own_link = link is None
        self.default_timeout = default_timeout
        self.mirror = Mirror()
        self._patience, self._window = patience, window or Window()
        self._print = say
        self._callables = Callables(start, self._stop_calls, self._facts)
        self._ids = itertools.count(1)
        self._closed = False
        self._reset()

    def _reset(self) -> None:
        """Without a session: at first, and in a forked child, which has none of the parent's tasks."""
        self._process = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening = asyncio.Lock()
        self._session: RpcSession | None = None
        self._lost: GridkitError | None = None
        self._calls: dict[Id, Call] = {}
        self._vigil = Vigil(self._calls)
        self._applier: Applier | None = None

    def __repr__(self) -> str:
        state = "closed" if self._closed else "connected" if self.connected else "not connected"
        return f"RpcClient({self.url!r}, {state})"

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def url(self) -> str:
        """The node's address."""
        return self._link.url

    @property
    def connected(self) -> bool:
        """There is a link now. Without one calls wait for the next, which is on its way."""
        return self._session is not None and self._session.ended is None and self._session.linked

    @property
    def called(self) -> tuple[CalledBack, ...]:
        """The node's last calls of functions of this notebook, in order: what came, and what left the notebook."""
        return tuple(self._callables.called)

    # ---- the session

    async def connect(self, api_key: str | None = None, retries: int = 3, delay: float = 1.0) -> dict[str, str]:
        """Open a session with the node, unless there is one. `call` does it too.

        Args:
            api_key: a token of the node; it is kept for later links, and never shown. By default the one from before,
                `GRIDKIT_TOKEN`, or the credentials file. Another one than before begins another session.
            retries: how often to try.
            delay: seconds between two tries.

        Returns:
            ``{"session_id": id}``.

        Raises:
            AccessError: the key isn't good; there is no second try.
            NodeUnreachable: nobody answered.
        """
        self._check_here()
        if api_key is not None and self._link.credentials != {"authorization": f"Bearer {api_key}"}:
            await self._leave("another key is used")
            self._link.use(api_key)
        self._closed = False
        return {"session_id": (await self._linked(retries, delay)).id}

    async def close(self) -> None:
        """End the session, here and on the node. Calls under way end with an error; so do later ones, until `connect`.
        Idempotent."""
        self._closed = True
        if self._process == os.getpid():
            await self._leave("the client is closed")
            if self._own_link:
                await self._link.close()
        self._callables.close()

    async def _linked(self, retries: int = 1, delay: float = 0.0) -> RpcSession:
        """The session, begun if there is none."""
        self._check_here()
        session = self._session
        if session is not None and session.ended is None:
            return session
        self._check_not_in_a_handler()
        async with self._opening:
            if self._closed:
                raise _closed(self.url)
            if self._session is None or self._session.ended is not None:
                if self._applier is not None:
                    await self._applier.wait()
                if not self._link.credentials and (key := os.environ.get("GRIDKIT_TOKEN") or stored_token(self.url)):
                    self._link.use(key)
                applier = Applier(self, self._callables)
                session = RpcSession(self._link, self._window, self._patience, applier.take, applier.end)
                await session.start(retries, delay)
                if self._closed:  # meanwhile
                    await session.close(_closed(self.url))
                    raise _closed(self.url)
                if self.mirror.lost is not None:
                    self.mirror = Mirror()
                self._session, self._applier = session, applier
                applier.start(session)
            return self._session

    def _check_here(self) -> None:
        """The session belongs to one process and one event loop."""
        here = asyncio.get_running_loop()
        if self._process != os.getpid() or (self._loop is not None and self._loop.is_closed()):
            lost = NotFoundError("it was of another process or loop", code=ErrorCode.SESSION_LOST, status=404)
            self.mirror.lose(lost)
            self._callables.restart()
            self._reset()
            self._lost = lost
        if self._loop is not None and self._loop is not here:
            raise UsageError("this RpcClient is used on another event loop already", "make one for each loop")
        self._loop = here

    def _check_not_in_a_handler(self) -> None:
        if self._applier is not None and self._applier.is_running:
            raise UsageError(
                "a handler can't wait for a call of its own: messages are handled one after the other",
                "make the call in a task: asyncio.create_task(…)",
            )

    async def _leave(self, reason: str) -> None:
        session, self._session = self._session, None
        applier, self._applier = self._applier, None
        if session is None or applier is None:
            return
        error = NodeUnreachable(f"the call to {self.url} was cut off: {reason}")
        self._fail_all(error)
        applier.close()
        await session.close(error)

    def _stop_calls(self) -> None:
        """Python ends: whoever waits for the node on a thread waits no longer."""
        if self._loop is not None and not self._loop.is_closed():
            error = NodeUnreachable(f"the call to {self.url} was cut off: Python ends")
            with suppress(RuntimeError):  # it has just been closed
                self._loop.call_soon_threadsafe(self._fail_all, error)

    # ---- calls

    async def call(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        timeout: float | None = None,
        *,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> Any:
        """Have the node do something, and return what it answers.

        A call that is cancelled is cancelled on the node too. One that waits for a link, or for room, counts from now.

        Args:
            method: its name.
            params: by name: numbers, texts, arrays of NumPy, tensors of torch, remote tensors of this session (by
                reference), and lists, tuples and dicts of them. A function in there is exposed for the time of the
                call; see `expose`.
            timeout: seconds without any sign of life after which it ends: as long as heartbeats come, it goes on.
            on_progress: called with each heartbeat.

        Raises:
            CallTimeout: there was no sign of life for so long; the node is told to stop.
            NotFoundError: `SESSION_LOST`: the node was restarted, or gave the session up.
            GridkitError: what the node answered, as the error that it raised there.
            NodeUnreachable: there is no session, and none could be begun.
        """
        session = await self._linked()
        if not is_plain(params):
            await self._tensors_sent(params)
        return await self._ask(session, method, params, timeout, on_progress)

    async def submit(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        timeout: float | None = None,
        *,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> Call:
        """As `call`, but go on once there was room to send it; the `Call` is awaited later, or not at all. What is
        submitted comes to the node in order."""
        session = await self._linked()
        if not is_plain(params):
            await self._tensors_sent(params)
        call = self._ask(session, method, params, timeout, on_progress)
        await call.sent()
        return call

    async def _tensors_sent(self, params: object) -> None:
        """Whatever makes the remote tensors in there is on its way to the node: it may be spoken of."""
        for tensor in remote_in(params):
            await tensor.sent_over(self)

    def _ask(
        self,
        session: RpcSession,
        method: str,
        params: dict[str, Any] | None,
        timeout: float | None,
        on_progress: Callable[[Progress], object] | None,
    ) -> Call:
        self._check_not_in_a_handler()
        run = RUNNING.get()
        if run is not None and run.cancelled:
            raise cancelled()
        if params is not None and not isinstance(params, dict):
            raise UsageError(f"the params of '{method}' are a {type(params).__name__}", "pass a dict, by name")
        id = next(self._ids)
        bodies: list[Body] = []
        functions: list[Exposed] = []  # that are passed, and exposed as long as the call lasts: the node may keep them
        given = params or {}
        if not is_plain(params):
            given = self._callables.replaced(of_torch(given), functions)
        if timeout is None:
            timeout = self.default_timeout
        elif not isinstance(timeout, Real):
            raise UsageError(f"the timeout of '{method}' is {timeout!r}", "pass seconds, or None")
        ticket = session.say(pack(Request(method, encode(given, bodies), id)), bodies)
        call = self._calls[id] = Call(id, method, timeout, ticket, run, on_progress)
        call.when_over(partial(self._call_over, session, call, functions))
        self._vigil.watch(call)
        return call

    def _call_over(self, session: RpcSession, call: Call, functions: list[Exposed]) -> None:
        del self._calls[call.id]
        for exposed in functions:
            exposed.close()
        if not call.answered and not call.ticket.withdraw():
            post(session, Notification("cancel", {"id": call.id}))

    def expose(self, fn: Callable[..., Any]) -> Exposed:
        """Let the node call a function of this notebook, until the handle is closed or collected.

        Its result must be JSON or NumPy arrays; what it raises comes to the node with type, text and traceback. It runs
        on a thread of its own (a coroutine function on the client's loop), may take its time, make calls, and cause
        further functions to be called. It prints where this was called. `called` lists what left the notebook.

        Example:
            >>> with client.expose(lambda scores: float(scores.mean())) as metric:  # doctest: +SKIP
            ...     await client.call("evaluate", {"metric": metric})
        """
        return self._callables.expose(fn)

    def check_exposed(self, function: Exposed) -> None:
        """Raise UsageError unless the node can call this: it is open, and of this client; NodeUnreachable when that is
        closed."""
        if self._closed:
            raise _closed(self.url)
        self._callables.check(function)

    # ---- what the node says

    def _heard(self, id: Id) -> None:
        """See `rpc_applier.Owner`; so the next four."""
        if (call := self._calls.get(id)) is not None:
            call.heard()

    def _waiting(self) -> int:
        return len(self._calls)

    def _answered(self, message: Reply | Failure, bodies: Sequence[Body]) -> None:
        call = None if message.id is None else self._calls.get(message.id)
        if call is not None:
            call.answered = True
            try:
                if isinstance(message, Failure):
                    raise self._error_of(message)
                call.resolve(decode(message.result, bodies))
            except GridkitError as error:
                call.fail(error)
        self.mirror.settle()

    async def _handle(self, method: str, params: dict[str, Any]) -> Any:
        return await getattr(self._handlers(), f"rpc_{method}")(params)

    def _fail_all(self, error: GridkitError) -> None:
        self._lost = error
        for call in list(self._calls.values()):
            call.answered = True  # there is nobody who could be told to stop
            call.fail(fresh(error))
        self._callables.abandon()
        self.mirror.lose(error)

    def _error_of(self, failure: Failure) -> GridkitError:
        error = error_of(failure)
        if self._lost is not None and error.code is ErrorCode.NOT_FOUND:
            error.add_note(f"the session before this one is lost, with all that was in it: {self._lost.message}")
        return error

    def _handlers(self) -> Any:
        """What has the ``rpc_*`` methods."""
        return self

    def _facts(self, variable_id: str) -> str | None:
        """See `rpc_audit.Facts`."""
        known = self.mirror.variables.get(variable_id)
        return None if known is None else f"{known.data.dtype}{list(known.data.shape)}"

    def _say(self, line: str) -> None:
        self._print(line)


def _url_of(base_url: str | None, port: int | None) -> str:
    assert base_url is not None
    secure, host, known = parse_address(base_url)
    port = known if port is None else port
    path = base_url.partition("://")[2].partition("/")[2].rstrip("/")
    name = f"[{host}]" if host is not None and ":" in host else host
    place = name if port is None else f"{name}:{port}"
    return f"{'https' if secure else 'http'}://{place}{'/' + path if path else ''}"


def _closed(url: str) -> NodeUnreachable:
    return NodeUnreachable(f"the RpcClient of {url} is closed", "connect() opens it again")
