"""Frames between a node and its runner: a header as JSON and a body, each behind its length.

Layout: the header's length (u32, little-endian), the body's (u64), the header, the body.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from gridkit.errors import WireError

HEAD = struct.Struct("<IQ")
MAX_HEADER = 1 << 20

Header = dict[str, Any]


def pack_frame(header: Mapping[str, Any], parts: Sequence[bytes] = ()) -> bytes:
    """A frame with the parts, one behind the other, as its body.

    >>> read_frame(io.BytesIO(pack_frame({"sizes": [2]}, [b"ab"])), 100)      # doctest: +SKIP
    ({"sizes": [2]}, b"ab")
    """
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"".join([HEAD.pack(len(text), sum(map(len, parts))), text, *parts])


def lengths(head: bytes, limit: int) -> tuple[int, int]:
    """The lengths of header and body, from the frame's first `HEAD.size` bytes.

    Raises:
        WireError: one of them is longer than is allowed.
    """
    header, body = HEAD.unpack(head)
    if header > MAX_HEADER or body > limit:
        raise WireError(f"a frame says it has {header:,} and {body:,} bytes; {MAX_HEADER:,} and {limit:,} are read")
    return header, body


def header_of(text: bytes) -> Header:
    """The header.

    Raises:
        WireError: it is no JSON object.
    """
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError(f"a frame's header can't be read: {error}") from None
    if not isinstance(header, dict):
        raise WireError("a frame's header is no object")
    return header


def read_frame(file: BinaryIO, limit: int) -> tuple[Header, bytes] | None:
    """The next frame, or None when the other side is gone.

    Raises:
        WireError: it breaks a rule.
    """
    head = file.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    header, body = lengths(head, limit)
    text, rest = file.read(header), file.read(body)
    return (header_of(text), rest) if (len(text), len(rest)) == (header, body) else None


def cut(body: bytes, sizes: Sequence[int]) -> list[bytes]:
    """The body's parts.

    Raises:
        WireError: the sizes don't add up to the body.
    """
    if any(type(size) is not int or size < 0 for size in sizes) or sum(sizes) != len(body):
        raise WireError("the parts of a frame don't add up")
    parts, at = [], 0
    for size in sizes:
        parts.append(body[at : at + size])
        at += size
    return parts
