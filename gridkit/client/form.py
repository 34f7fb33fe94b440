"""A multipart form as a stream (RFC 7578): the node's file parts may be larger than memory."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping

from gridkit.errors import UsageError
from gridkit.wire.safetensors import Packed

File = tuple[str, Packed | bytes, str]
"""A file's name, its bytes, its content type."""


class Form:
    """The parts in their order; each can be sent again.

    Args:
        parts: by name; texts, or files.

    Attributes:
        headers: content type and length.
    """

    def __init__(self, parts: Mapping[str, str | File]) -> None:
        boundary = secrets.token_hex(16)
        self._contents: list[Packed] = []
        for name, part in parts.items():
            filename, content, kind = (None, part.encode(), None) if isinstance(part, str) else part
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"'
            head += "" if filename is None else f'; filename="{_quoted(filename)}"'
            head += "" if kind is None else f"\r\nContent-Type: {_line(kind)}"
            self._add(head.encode() + b"\r\n\r\n")
            self._contents.append(content if isinstance(content, Packed) else Packed([memoryview(content)]))
            self._add(b"\r\n")
        self._add(f"--{boundary}--\r\n".encode())
        size = sum(content.size for content in self._contents)
        self.headers = {"content-type": f"multipart/form-data; boundary={boundary}", "content-length": str(size)}

    def _add(self, text: bytes) -> None:
        self._contents.append(Packed([memoryview(text)]))

    async def pieces(self) -> AsyncIterator[bytes]:
        """The bytes, at most a MiB at a time."""
        for content in self._contents:
            for piece in content.pieces():
                yield bytes(piece)


def _quoted(name: str) -> str:
    """As browsers write names: line breaks and quotes are spelled out."""
    return name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")


def _line(text: str) -> str:
    if not text.isprintable():
        raise UsageError(f"{text!r} is no content type")
    return text
