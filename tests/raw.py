"""Bytes on a connection to a node, as no client library would send them, and what comes back."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
from pathlib import Path

from tests.support import TOKEN, NodeUnderTest


def head(node: NodeUnderTest, line: str, *lines: str, token: str | None = TOKEN, host: str | None = None) -> bytes:
    """A request's first line and headers; the connection ends with its answer."""
    host = f"127.0.0.1:{node.port}" if host is None else host
    named = [f"Authorization: Bearer {token}"] if token else []
    return "\r\n".join([line, f"Host: {host}", *named, "Connection: close", *lines, "", ""]).encode("latin-1")


def exchange(node: NodeUnderTest, *pieces: bytes, end: bool = False, seconds: float = 10.0) -> bytes:
    """What the node answers to these bytes until it ends the connection. It may do that before it has all of them.

    Args:
        end: whether nothing more is said to come.
    """
    answer = bytearray()
    with socket.create_connection(("127.0.0.1", node.port), timeout=seconds) as connection:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
            if end:
                connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while data := connection.recv(65536):
                answer += data
    return bytes(answer)


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


def resident(node: NodeUnderTest) -> int:
    """Bytes of memory of the node's process."""
    lines = Path(f"/proc/{node.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


class RawSocket:
    """A WebSocket of which every bit can be chosen.

    Args:
        lines: further headers of the handshake.
        change: what stands in the handshake, and what shall stand there.
    """

    def __init__(
        self, node: NodeUnderTest, *lines: str, token: str | None = TOKEN, change: tuple[bytes, bytes] = (b"", b"")
    ) -> None:
        self._connection = socket.create_connection(("127.0.0.1", node.port), timeout=10)
        asked = ["Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + "A" * 22 + "=="]
        request = head(node, "GET / HTTP/1.1", *asked, *lines, token=token)
        self._connection.sendall(request.replace(b"Connection: close", b"Connection: Upgrade").replace(*change, 1))
        self._read = self._connection.makefile("rb")
        self.handshake = b"".join(iter(self._read.readline, b"\r\n"))

    def send(self, first: int, payload: bytes = b"", *, mask: bool = True, declared: int | None = None) -> None:
        """A frame. `first` is its first byte: 0x80 the last of its message, 0x70 reserved, 0x0f the kind.

        Args:
            declared: a length that isn't the payload's.
        """
        self.send_bytes(frame(first, payload, mask=mask, declared=declared))

    def send_bytes(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self._connection.sendall(data)

    def end(self) -> None:
        """Nothing more is said."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)

    def receive(self) -> tuple[int, bytes]:
        """The next frame's kind and payload; (8, b"") when the connection just ended."""
        try:
            first, length = self._exactly(2)
            if length > 125:
                length = int.from_bytes(self._exactly(2 if length == 126 else 8), "big")
            return first & 0x0F, self._exactly(length)
        except (ConnectionError, EOFError):
            return 8, b""

    def close_code(self) -> int:
        """The code with which the node ends this; 1006 if it says none. Answers before it are passed over."""
        while True:
            kind, payload = self.receive()
            if kind == 8:
                return int.from_bytes(payload[:2], "big") if payload else 1006

    def close(self) -> None:
        self._read.close()
        self._connection.close()

    def _exactly(self, size: int) -> bytes:
        data = self._read.read(size)
        if len(data) < size:
            raise EOFError
        return data


def frame(first: int, payload: bytes = b"", *, mask: bool = True, declared: int | None = None) -> bytes:
    """A WebSocket frame's bytes (RFC 6455, section 5.2)."""
    size, bit = len(payload) if declared is None else declared, 0x80 if mask else 0
    if size < 126:
        length = bytes([bit | size])
    elif size < 1 << 16:
        length = bytes([bit | 126]) + struct.pack("!H", size)
    else:
        length = bytes([bit | 127]) + struct.pack("!Q", size)
    key = os.urandom(4) if mask else b""
    masked = bytes(byte ^ key[place % 4] for place, byte in enumerate(payload)) if mask else payload
    return bytes([first]) + length + key + masked
