"""One open WebSocket, as those see it who answer its messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from gridkit.errors import ErrorCode, GridkitError, LimitError
from gridkit.node.rights import Principal, Role
from gridkit.node.routes.http import Budget
from gridkit.node.service import Service
from gridkit.node.settings import Limits
from gridkit.node.uploads import Upload


class Connection:
    """Who it is, and how large its messages may be.

    Attributes:
        trusted: whether it has authenticated, or needn't.
        held: what is given back once the answer to a message has been sent.
        upload: what binary frames belong to, and this socket's turn to write it.
        workers: whose newest socket this is.
        replaced: whether it was anybody's, and isn't any more; then nothing is answered here.
    """

    def __init__(self, socket: WebSocket, principal: Principal) -> None:
        self.socket = socket
        self.service: Service = socket.app.state.service
        self.limits: Limits = socket.app.state.limits
        self.principal = principal
        self.held = AsyncExitStack()
        self.upload: tuple[Upload, int] | None = None
        self.workers: set[str] = set()
        self.replaced = False
        self.trusted = False
        self.on_trust: Callable[[], object] = lambda: None
        if principal.role is not Role.ANONYMOUS or socket.app.state.open:
            self.trust()

    def trust(self) -> None:
        """From now on messages may have the configured size, and the socket may stay."""
        self.trusted = True
        self.on_trust()
        self.socket.scope["extensions"]["gridkit.limit"](self.limits.message)

    def authenticated(self, principal: Principal) -> None:
        """From now on somebody else speaks here."""
        self.principal = principal
        self.trust()

    def refused(self, operation: str, subject: str, error: GridkitError) -> GridkitError:
        """A message was refused: into the audit log; what to answer."""
        return self.service.watch.refused(self.principal, self.socket.scope, operation, subject, error)

    async def take(self, size: int) -> None:
        """Wait until so many bytes may be in memory for this answer."""
        budget: Budget = self.socket.app.state.budget
        await self.held.enter_async_context(budget.take(size))


class Seats:
    """Which socket each worker speaks through: the newest on which it did. One that all its workers have left is closed
    with 4001: who comes back while its old connection still seems alive is the one who is there."""

    def __init__(self) -> None:
        self._of: dict[str, Connection] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def take(self, worker_id: str, connection: Connection) -> None:
        """This worker speaks here."""
        old = self._of.get(worker_id)
        if old is connection:
            return
        self._of[worker_id] = connection
        connection.workers.add(worker_id)
        if old is not None:
            old.workers.discard(worker_id)
            if not old.workers:
                old.replaced = True
                closing = asyncio.create_task(_close(old.socket))  # which takes its time if nobody is there
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)

    def leave(self, connection: Connection) -> None:
        """This socket is closed."""
        for worker_id in connection.workers:
            del self._of[worker_id]


async def _close(socket: WebSocket) -> None:
    with suppress(WebSocketDisconnect):
        await socket.close(4001, "this worker has come by another socket")


class Strangers:
    """Sockets that haven't authenticated: so many at a time, each for so long (seconds)."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._here: set[Connection] = set()

    @asynccontextmanager
    async def stay(self, connection: Connection) -> AsyncIterator[None]:
        """While a socket is open.

        Raises:
            LimitError: there are too many; before the body.
            TimeoutError: it hasn't authenticated; ends the body.
        """
        if connection.trusted:
            yield
            return
        if len(self._here) >= self._limits.strangers:
            raise LimitError("too many sockets haven't authenticated", code=ErrorCode.TOO_MANY, status=429)
        self._here.add(connection)
        try:
            async with asyncio.timeout(self._limits.stranger_seconds) as deadline:

                def stays() -> None:
                    self._here.discard(connection)
                    deadline.reschedule(None)

                connection.on_trust = stays
                yield
        finally:
            self._here.discard(connection)


Answer = dict[str, Any] | bytes
"""A JSON object, or a binary frame"""

Handler = Callable[[Connection, dict[str, Any]], Awaitable[Answer]]
Handlers = dict[str, tuple[str, Handler]]
"""type of a message: the right that it needs (see `RULES`), and what answers it"""
