"""A proxy between a client and a node that does what bad networks do: cut, stall, and change bytes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Proxy:
    """Connections are cut, in turn, after the numbers of bytes in `cuts`; those after them live.

    Args:
        up: cuts count bytes to the node, else bytes from it.
        flip: the place of a byte, in each connection's counted direction, that arrives changed.
        stall: what is counted stops here instead.
    """

    port: int
    up: bool
    cuts: list[int] = field(default_factory=list)
    flip: int | None = None
    stall: int | None = None
    passed: int = 0
    connections: int = 0
    stalled: asyncio.Event = field(default_factory=asyncio.Event)
    _handling: set[asyncio.Task[None]] = field(default_factory=set)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            self.drop()
            await asyncio.gather(*self._handling, return_exceptions=True)  # cancelled perhaps in the midst of ending

    def drop(self) -> None:
        """End all connections."""
        for handling in self._handling:
            handling.cancel()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._join(reader, writer))
        self._handling.add(task)
        task.add_done_callback(self._handling.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            node_reader, node_writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            writer.transport.abort()
            return
        self.connections += 1
        ways = [
            asyncio.ensure_future(self._pass(reader, node_writer, self.up)),
            asyncio.ensure_future(self._pass(node_reader, writer, not self.up)),
        ]
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        writer.transport.abort()
        node_writer.transport.abort()
        for way in ways:
            way.cancel()
        await asyncio.wait(ways)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counted: bool) -> None:
        seen = 0
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                if counted:
                    if self.flip is not None and seen <= self.flip < seen + len(data):
                        place = self.flip - seen
                        data = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
                    seen += len(data)
                    self.passed += len(data)
                    if self.stall is not None and seen >= self.stall:
                        self.stalled.set()
                        await asyncio.Event().wait()
                writer.write(data)
                await writer.drain()
                if counted and self.cuts and seen >= self.cuts[0]:
                    self.cuts.pop(0)
                    return
