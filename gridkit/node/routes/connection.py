"""One open WebSocket, as those see it who answer its messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from starlette.websockets import WebSocket

from gridkit.node.rights import Principal, Role
from gridkit.node.routes.http import Budget
from gridkit.node.service import Service
from gridkit.node.settings import Limits
from gridkit.node.uploads import Upload


class Connection:
    """Who it is, and how large its messages may be.

    Attributes:
        held: what is given back once the answer to a message has been sent.
        upload: what binary frames belong to, and this socket's turn to write it.
    """

    def __init__(self, socket: WebSocket, principal: Principal) -> None:
        self.socket = socket
        self.service: Service = socket.app.state.service
        self.limits: Limits = socket.app.state.limits
        self.principal = principal
        self.held = AsyncExitStack()
        self.upload: tuple[Upload, int] | None = None
        if principal.role is not Role.ANONYMOUS or socket.app.state.open:
            self.trust()

    def trust(self) -> None:
        """From now on messages may have the configured size."""
        self.socket.scope["extensions"]["gridkit.limit"](self.limits.message)

    def authenticated(self, principal: Principal) -> None:
        """From now on somebody else speaks here."""
        self.principal = principal
        self.trust()

    async def take(self, size: int) -> None:
        """Wait until so many bytes may be in memory for this answer."""
        budget: Budget = self.socket.app.state.budget
        await self.held.enter_async_context(budget.take(size))


Answer = dict[str, Any] | bytes
"""A JSON object, or a binary frame"""

Handler = Callable[[Connection, dict[str, Any]], Awaitable[Answer]]
Handlers = dict[str, tuple[str, Handler]]
"""type of a message: the right that it needs (see `RULES`), and what answers it"""
