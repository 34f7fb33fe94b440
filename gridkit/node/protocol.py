"""uvicorn's WebSocket protocol with two things added.

*Joined writes.* What is written in one step of the event loop leaves in one segment. A client that reads the first
message while it is still starting its listener (afnio's does) needs the 101 and that message together.

*A limit that rises.* A socket takes small messages until it has authenticated, and large ones from then on. The ASGI
scope's extension ``gridkit.limit`` is the call that raises it.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

_FLUSH_AT = 64 * 1024


class _JoinedWrites:
    """A transport whose writes of one loop step go out together."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not data:
            return
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= _FLUSH_AT:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._pieces:
            data, self._pieces, self._size = b"".join(self._pieces), [], 0
            if not self._transport.is_closing():
                self._transport.write(data)


class GridkitWebSocket(WebSocketsSansIOProtocol):
    """`ws=` of the node's uvicorn configuration."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        joined = _JoinedWrites(cast(asyncio.Transport, transport), self.loop)
        super().connection_made(cast(asyncio.Transport, joined))

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.handshake_initiated and hasattr(self, "scope"):
            extensions = cast(dict[str, Any], self.scope["extensions"])
            extensions["gridkit.limit"] = self._raise_limit

    def _raise_limit(self, size: int) -> None:
        self.conn.max_message_size = size
