"""A WebSocket whose messages are taken right where they come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import Event, State

Data = str | bytes


class RpcSocket(ClientConnection):
    """A WebSocket without a queue between it and its reader: on a quick network a message that waits there for a task
    to have its turn does so for as long as it travelled. Nothing is held back, as a session takes all at once.

    Use `first`, then `read`; never `recv`, nor iteration. `write` is for who has nothing to wait for.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._early: deque[Data] = deque()  # what comes before `read`
        self._take: Callable[[Data], object] = self._keep
        self._pieces: list[bytes] = []  # of a message that isn't whole
        self._is_text = False
        self._came, self._over = asyncio.Event(), asyncio.Event()
        self._error: Exception | None = None

    async def first(self) -> Data:
        """The first message.

        Raises:
            ConnectionClosed: there is none.
        """
        await self._came.wait()
        return self._early.popleft() if self._early else await self.recv()  # which says why

    async def read(self, take: Callable[[Data], object]) -> None:
        """Hand over what comes, until the connection ends.

        Raises:
            Whatever `take` does; what comes after that is dropped.
        """
        while self._early:
            take(self._early.popleft())
        self._take = take
        await self._over.wait()
        if self._error is not None:
            raise self._error

    @property
    def free(self) -> bool:
        """It is open, and nothing waits to be written."""
        return self.protocol.state is State.OPEN and not self.transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """Send this at once; only while it is `free`."""
        self.protocol.send_binary(data)
        for piece in self.protocol.data_to_send():
            self.transport.write(piece)

    def _keep(self, data: Data) -> None:
        self._early.append(data)
        self._came.set()

    def process_event(self, event: Event) -> None:
        if not isinstance(event, Frame) or event.opcode not in _DATA:
            super().process_event(event)
            return
        if event.opcode is not Opcode.CONT:
            self._is_text = event.opcode is Opcode.TEXT
        if not event.fin or self._pieces:
            self._pieces.append(bytes(event.data))
        if event.fin:
            whole = b"".join(self._pieces) or bytes(event.data)
            self._pieces.clear()
            try:
                self._take(whole.decode(errors="surrogateescape") if self._is_text else whole)
            except Exception as error:  # noqa: BLE001  `read` raises it
                self._error, self._take = error, _drop
                self._over.set()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._came.set()
        self._over.set()


def _drop(data: Data) -> None:
    """Nobody listens any more."""


_DATA = frozenset({Opcode.TEXT, Opcode.BINARY, Opcode.CONT})
