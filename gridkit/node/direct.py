"""The body of a large request, read by a thread straight from its socket.

An event loop takes a body in pieces of 256 KiB, copies each three times and wakes the request for it; a thread that
reads into one buffer, and writes and hashes from there, needs little more than half of the processor's time. For plain
TCP only: a TLS body, or one whose size isn't told, comes through the loop.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

from starlette.requests import ClientDisconnect

PIECE = 1 << 20
SLICE = 16 << 20
"""bytes after which the thread looks up, and others may have their turn"""
PAUSE = 0.25
"""seconds without a byte after which it looks up as well"""
IDLE = 60.0
"""seconds without a byte after which the sender is taken for gone"""
AT_A_TIME = 8
"""bodies; each may hold a thread"""

_places = AT_A_TIME


class DirectBody:
    """What is left of a body.

    Args:
        first: those of its bytes that the loop has taken already.
        plain: the socket that the others come from; closed by `close`.
        left: how many bytes there are in all.
    """

    def __init__(self, first: bytes, plain: socket.socket, left: int) -> None:
        global _places
        _places -= 1
        self._first = first
        self._plain: socket.socket | None = plain
        self._plain.settimeout(PAUSE)
        self._buffer = memoryview(bytearray(PIECE))
        self._heard = time.monotonic()
        self.left = left

    async def read(self, write: Callable[[memoryview], None]) -> None:
        """Pass the next bytes to `write`, on a thread: at most `SLICE`, or those that came until a pause.

        Raises:
            ClientDisconnect: nobody sends any more.
        """
        reading = asyncio.ensure_future(asyncio.to_thread(self._read, write))
        try:
            await asyncio.shield(reading)
        except asyncio.CancelledError:
            await asyncio.gather(reading, return_exceptions=True)  # nothing is written after this
            raise

    def _read(self, write: Callable[[memoryview], None]) -> None:
        assert self._plain is not None
        if self._first:
            first, self._first = self._first, b""
            self.left -= len(first)
            write(memoryview(first))
        end = max(0, self.left - SLICE)
        while self.left > end:
            filled = self._fill(min(PIECE, self.left))
            if filled:
                self.left -= filled
                write(self._buffer[:filled])
            if filled < PIECE:
                return

    def _fill(self, wanted: int) -> int:
        """So many bytes into the buffer, or those that came until a pause."""
        assert self._plain is not None
        filled = 0
        try:
            while filled < wanted:
                count = self._plain.recv_into(self._buffer[filled:wanted])
                if not count:
                    raise ClientDisconnect
                filled += count
                self._heard = time.monotonic()
        except TimeoutError:
            if time.monotonic() - self._heard > IDLE:
                raise ClientDisconnect from None
        except (OSError, ClientDisconnect):
            if not filled:
                raise ClientDisconnect from None
            # what came before the cut is kept; the next call meets the cut again
        return filled

    def close(self) -> None:
        global _places
        if self._plain is not None:
            _places += 1
            self._plain.close()
            self._plain = None


def take(protocol: Any, cycle: Any, size: int) -> DirectBody | None:
    """Take over the rest of a request's body from uvicorn; None where the loop must read it. Its connection ends with
    the answer: the parser hasn't seen the whole body.

    Args:
        protocol, cycle: uvicorn's, of the request.
        size: of the body, as the request's headers tell.
    """
    transport = protocol.transport
    left = size - len(cycle.body)
    busy = protocol.cycle is not cycle or not cycle.more_body or cycle.waiting_for_100_continue
    if busy or left <= PIECE or not _places or transport.is_closing() or transport.get_extra_info("sslcontext"):
        return None
    protocol.flow.pause_reading()
    first, cycle.body = bytes(cycle.body), bytearray()
    cycle.keep_alive = False
    return DirectBody(first, transport.get_extra_info("socket").dup(), size)
