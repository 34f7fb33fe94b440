"""A proxy between a client and a node that knows WebSocket messages, and cuts the connection between two of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

CONTROL = 0x8
"""the opcodes from here on are pings, pongs and closes, which carry nothing of ours"""


@dataclass
class Boundaries:
    """Each message that passes, either way, has a number. HTTP requests pass without one.

    Args:
        cuts: the numbers of the messages at which the connection is cut.
        arrives: these messages come there all the same.
        delay: seconds that each message is on its way, whatever is under way already.

    Attributes:
        moved: messages so far.
        connections: WebSockets so far.
    """

    port: int
    cuts: set[int] = field(default_factory=set)
    arrives: bool = False
    delay: float = 0.0
    moved: int = 0
    connections: int = 0
    _handling: set[asyncio.Task[None]] = field(default_factory=set)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for handling in self._handling:
                handling.cancel()
            await asyncio.gather(*self._handling, return_exceptions=True)

    def begin(self, cuts: set[int], arrives: bool = False) -> None:
        """Count from here on."""
        self.moved, self.cuts, self.arrives = 0, cuts, arrives

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._join(reader, writer))
        self._handling.add(task)
        task.add_done_callback(self._handling.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        node_reader, node_writer = await asyncio.open_connection("127.0.0.1", self.port)
        both = ((reader, node_writer), (node_reader, writer))
        ways = [asyncio.ensure_future(self._pass(*way)) for way in both]
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.wait(ways)
        writer.transport.abort()
        node_writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction, until its end or a cut."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            if b"sec-websocket-" not in head.lower():
                while data := await reader.read(1 << 16):
                    writer.write(data)
                return
            self.connections += b"sec-websocket-key" in head.lower()
            late = _Late(writer, self.delay)
            while await self._message(reader, late):
                pass

    async def _message(self, reader: asyncio.StreamReader, writer: _Late) -> bool:
        """Pass one; whether another one may come."""
        data = await reader.readexactly(2)
        opcode, length, masked = data[0] & 0xF, data[1] & 0x7F, data[1] >> 7
        if length >= 126:
            more = await reader.readexactly(2 if length == 126 else 8)
            data, length = data + more, int.from_bytes(more)
        data += await reader.readexactly(4 * masked + length)
        if opcode < CONTROL:
            self.moved += 1
            if self.moved in self.cuts:
                if self.arrives:
                    await writer.write(data)
                    await asyncio.sleep(0.005)  # the other end has read it: a reset takes away what it hasn't
                return False
        await writer.write(data)
        return True


class _Late:
    """What is written comes after the delay, in order."""

    def __init__(self, writer: asyncio.StreamWriter, delay: float) -> None:
        self._writer, self._delay = writer, delay

    async def write(self, data: bytes) -> None:
        if self._delay:
            asyncio.get_running_loop().call_later(self._delay, self._writer.write, data)
        else:
            self._writer.write(data)
            await self._writer.drain()
