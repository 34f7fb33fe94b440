"""One WebSocket of a session: a reader, which is whoever called `Link.read`, and a writer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect

END_SECONDS = 2.0
"""for which a link that is ended waits for its client to take that"""
TOGETHER = 32
"""answers that aren't kept until all that came together is taken: the client may work on them meanwhile"""
BREATH = 64
"""messages after which others have their turn"""

Data = str | bytes


class Outgoing(Protocol):
    """What a link writes."""

    def next(self) -> Data | None:
        """The next frame; None: nothing waits."""

    def sent(self) -> None:
        """That frame is with the operating system, or about to be."""


class Link:
    """One WebSocket, accepted.

    Args:
        number: larger than those of the session's older links.
    """

    def __init__(self, socket: WebSocket, number: int) -> None:
        self.socket, self.number = socket, number
        self._outgoing: Outgoing
        self._drained: Callable[[], None]
        self._wake = asyncio.Event()
        self._taking = False
        self._poked = 0  # so often, while something is taken
        self._writing = False
        self._gone = False  # nothing can be written any more
        self._writer: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._last: Callable[[], object] | None = None

    @property
    def is_ended(self) -> bool:
        """This end has closed it, or is about to."""
        return self._ending is not None

    def poke(self) -> None:
        """There may be something to write."""
        if self._taking:
            self._poked += 1
            if self._poked % TOGETHER == 0:
                self._write_now()
        else:
            self._wake.set()

    async def read(self, take: Callable[[Data], bool], calm: Callable[[], Awaitable[None]]) -> int:
        """Hand over all that comes, until the link ends.

        Args:
            take: gets each message; whether the next one may come at once.
            calm: else awaited before that one is read.

        Returns:
            The WebSocket's close code.
        """
        lone = self.socket.scope["extensions"]["gridkit.lone"]
        at_once = True

        def take_now(data: Data) -> None:
            nonlocal at_once
            self._taking = True
            at_once = take(data)
            self._taking = False
            if self._poked:
                self._poked = 0
                if self._write_now():
                    self._drained()
            if not at_once:
                lone(None)

        count = 0
        try:
            while True:
                if not at_once:
                    await calm()
                    at_once = True
                lone(take_now)
                message = await self.socket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                if not at_once:  # a lone one was the last that may come
                    await calm()
                text = message.get("text")
                take_now(message["bytes"] if text is None else text)
                count += 1
                if count % BREATH == 0:
                    await asyncio.sleep(0)
        finally:
            lone(None)
            if self._writer is not None:
                self._writer.cancel()
            if self._ending is not None:
                await self._ending
        return int(message.get("code") or 1005)

    def _write_now(self) -> bool:
        """What was just taken is answered: here, where that takes no waiting, else by the writer. Whether nothing waits
        any more."""
        extensions = self.socket.scope["extensions"]
        writable, write = extensions["gridkit.writable"], extensions["gridkit.write"]
        if self._writing or self._gone or self._ending is not None:
            return False
        while writable() and not self._gone:
            if (frame := self._outgoing.next()) is None:
                return True
            if write(frame):
                self._outgoing.sent()
            else:
                self._gone = True  # why is what comes next
        self._wake.set()
        return False

    def write(self, outgoing: Outgoing, drained: Callable[[], None]) -> None:
        """Start to write what waits.

        Args:
            drained: called when nothing waits any more.
        """
        self._outgoing, self._drained = outgoing, drained
        self._writer = asyncio.create_task(self._write())

    async def _write(self) -> None:
        try:
            while True:
                self._wake.clear()
                self._writing = True
                while (frame := self._outgoing.next()) is not None:
                    await self._send(frame)
                self._writing = False
                if self._last is not None:
                    self._last()
                    return
                if self._gone:
                    return
                self._drained()
                await self._wake.wait()
        except WebSocketDisconnect:
            self._gone = True  # the reader is told why

    async def _send(self, frame: Data) -> None:
        if isinstance(frame, str):
            await self.socket.send({"type": "websocket.send", "text": frame})
        else:
            await self.socket.send({"type": "websocket.send", "bytes": frame})
        self._outgoing.sent()

    def finish(self, code: int | None) -> None:
        """End it once all that waits is written.

        Args:
            code: the WebSocket's; None: the connection is cut without one.
        """
        self._last = self.cut if code is None else lambda: self.end(code, "as asked")
        self._wake.set()

    def end(self, code: int, reason: str) -> None:
        """Close it, whatever waits."""
        if self._writer is not None:
            self._writer.cancel()  # not a step later: what it took now would be lost to the next link
        if self._ending is None:
            self._ending = asyncio.create_task(self._end(code, reason))

    async def _end(self, code: int, reason: str) -> None:
        try:
            if self._gone:
                return
            async with asyncio.timeout(END_SECONDS):  # nobody may be there
                await self.socket.close(code, reason)
        except (TimeoutError, WebSocketDisconnect):
            self.cut()

    def cut(self) -> None:
        """End the connection without a word."""
        self.socket.scope["extensions"]["gridkit.cut"]()
