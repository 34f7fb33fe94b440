"""uvicorn's protocols with what a node adds to them.

*A bound on what isn't body.* HTTP is read by httptools (llhttp), which takes bodies faster than h11 does, and header
lines, chunk extensions and trailers of any length. Here a connection that sends more than the limit of them at a
stretch is ended; what came whole within one read (256 KiB) is refused by `gridkit.node.guard`.

*Bodies past the loop.* See `gridkit.node.direct`; the scope's extension ``gridkit.body`` is the way to it.

*Joined writes.* What is written to a WebSocket in one step of the event loop leaves in one segment. A client that reads
the first message while it is still starting its listener (afnio's does) needs the 101 and that message together.

*A limit that rises.* A socket takes small messages until it has authenticated, and large ones from then on. The ASGI
scope's extension ``gridkit.limit`` is the call that raises it.

*Patience.* A client that runs a function of its own where it reads (afnio's does) answers no pings meanwhile. The
extension ``gridkit.patience`` takes a function that says whether to wait on. ``gridkit.cut`` ends a connection without
the WebSocket's goodbye.

*Messages without a detour.* ASGI has a queue and a task between a socket and who reads it: two turns of the event loop
for a question and its answer. ``gridkit.lone`` takes a function that gets a message right where it came, if it came
alone: others have their turn between two of them, and what comes in crowds goes the usual way. What it says meanwhile
leaves at once. ``gridkit.writable`` says whether the connection takes what is sent without waiting, and
``gridkit.write`` sends it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.http11 import Request

from gridkit.errors import ErrorCode
from gridkit.node.direct import DirectBody, take

_FLUSH_AT = 64 * 1024


class GridkitHttp(HttpToolsProtocol):
    """`http=` of the node's uvicorn configuration, which must have `h11_max_incomplete_event_size` (see there)."""

    def __init__(self, config: Config, *arguments: Any, **named: Any) -> None:
        super().__init__(config, *arguments, **named)
        self._limit = config.h11_max_incomplete_event_size or 64 * 1024
        self._stretch = 0  # bytes since the last piece of a body, the last end of headers or of a message

    def data_received(self, data: bytes) -> None:
        self._stretch += len(data)
        super().data_received(data)
        if self._stretch > self._limit and not self.transport.is_closing():
            self._refuse()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.cycle is None or self.cycle.scope is not self.scope:  # trailers are nobody's
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stretch = 0
        extensions = cast(dict[str, Any], self.scope.setdefault("extensions", {}))
        extensions["gridkit.body"] = self._direct
        super().on_headers_complete()

    def handle_websocket_upgrade(self) -> None:
        if self.scope["http_version"] != "1.1":  # the handshake is repeated to the WebSocket's protocol as 1.1
            self.send_400_response("WebSockets need HTTP/1.1")
            return
        super().handle_websocket_upgrade()

    def on_body(self, body: bytes) -> None:
        self._stretch = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stretch = 0
        super().on_message_complete()

    def _direct(self, size: int) -> DirectBody | None:
        """The scope's extension ``gridkit.body``: see `gridkit.node.direct`."""
        return take(self, self.cycle, size)

    def _refuse(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            text = json.dumps({"error": "the request's headers are too large", "code": str(ErrorCode.TOO_LARGE)})
            self.transport.write(_TOO_LARGE % (len(text), text.encode()))
        self.transport.close()


_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
    b"connection: close\r\n\r\n%s"
)


class _JoinedWrites:
    """A transport whose writes of one loop step go out together. It stops reading where that is still wanted in the
    next step: uvicorn stops after each message, and mostly goes on at once, which is two calls of the system each."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []
        self._size = 0
        self._pausing = self._paused = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not data:
            return
        if not self._pieces:
            self._loop.call_soon(self.flush)
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= _FLUSH_AT:
            self.flush()

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self.flush()
        self._transport.abort()

    def pause_reading(self) -> None:
        if not self._pausing:
            self._loop.call_soon(self._pause)  # ahead of what has come by then
        self._pausing = True

    def resume_reading(self) -> None:
        self._pausing = False
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def _pause(self) -> None:
        if self._pausing and not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def flush(self) -> None:
        if self._pieces:
            data, self._pieces, self._size = b"".join(self._pieces), [], 0
            if not self._transport.is_closing():
                self._transport.write(data)


class GridkitWebSocket(WebSocketsSansIOProtocol):
    """`ws=` of the node's uvicorn configuration."""

    _wait_on: Callable[[], bool] = staticmethod(lambda: False)
    _take: Callable[[str | bytes], object] | None = None
    _alone = _taking = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        joined = _JoinedWrites(cast(asyncio.Transport, transport), self.loop)
        super().connection_made(cast(asyncio.Transport, joined))

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.handshake_initiated and hasattr(self, "scope"):
            extensions = cast(dict[str, Any], self.scope["extensions"])
            extensions["gridkit.limit"] = self._raise_limit
            extensions["gridkit.patience"] = self._be_patient
            extensions["gridkit.cut"] = self.transport.abort
            extensions["gridkit.lone"] = self._take_lone
            extensions["gridkit.writable"] = self.writable.is_set
            extensions["gridkit.write"] = self._write

    def data_received(self, data: bytes) -> None:
        self._alone = self._take is not None and self.queue.empty()
        super().data_received(data)
        self._alone = False

    def send_receive_event_to_app(self) -> None:
        if not self._alone or self._take is None or self.close_sent:
            super().send_receive_event_to_app()
            return
        self._alone = False
        data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        message: str | bytes = data
        if self.curr_msg_data_type == "text":
            try:
                message = data.decode()
            except UnicodeDecodeError:
                super().send_receive_event_to_app()  # which ends the connection
                return
        self.frames = []
        self._taking = True
        self._take(message)
        self._taking = False

    def handle_parser_exception(self) -> None:
        super().handle_parser_exception()
        self.disconnected = True  # an answer that is on its way finds nobody; uvicorn calls it a mistake of the app

    def keepalive_timeout(self) -> None:
        if self._wait_on() and self.ping_timeout is not None:
            self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)
            return
        super().keepalive_timeout()
        self.disconnected = True

    def _raise_limit(self, size: int) -> None:
        self.conn.max_message_size = size

    def _take_lone(self, take: Callable[[str | bytes], object] | None) -> None:
        self._take = take

    def _write(self, data: str | bytes) -> bool:
        """Whether there is still somebody who may get it."""
        if self.disconnected or self.close_sent:
            return False
        try:
            if isinstance(data, str):
                self.conn.send_text(data.encode())
            else:
                self.conn.send_binary(data)
        except InvalidState:
            return False
        for piece in self.conn.data_to_send():
            self.transport.write(piece)
        if self._taking:
            cast(_JoinedWrites, self.transport).flush()
        return True

    def _be_patient(self, wait_on: Callable[[], bool]) -> None:
        self._wait_on = wait_on


def brief(record: logging.LogRecord) -> bool:
    """A filter of uvicorn's log: text that isn't UTF-8 is its sender's failure, which is told without a traceback."""
    if str(record.msg).startswith("Invalid UTF-8"):
        record.exc_info = None
    return True
