"""Frames of the channel as bytes: a WebSocket binary message in `gridkit.v1` is some of them, one behind the other.

Layout, little-endian: ``gk``, the kind (u8), a zero, the number of bodies (u32), seq (u64), ack (u64), the length of
the text (u64), the length of each body (u64), the text, the bodies. The text says what the bodies are.
"""

from __future__ import annotations

import enum
import itertools
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gridkit.errors import WireError

HEAD = struct.Struct("<2sBBIQQQ")
MAX_BODIES = 1000
MAX_TEXT = 8 << 20
"""bytes; to read so much JSON takes a good part of a second. What is large travels in bodies, which are not read"""
_MAGIC = b"gk"
_LENGTH = 8

Part = bytes | memoryview


class Kind(enum.IntEnum):
    """What a frame is for."""

    MESSAGE = 1
    """numbered: is sent again until it is known to have arrived"""
    ACK = 2
    """only says what was taken; every frame says it too"""
    PASSING = 3
    """unnumbered: heartbeats and previews, which the next ones replace"""


class Frame(NamedTuple):
    """A frame that was read.

    Attributes:
        kind: one of `Kind`.
        seq: its number, from 1; 0 without one.
        ack: the last number that its sender has done with, of those that came to it.
        size: its bytes.
        bodies: views of the memory that it was read from.
    """

    kind: int
    seq: int
    ack: int
    size: int
    text: bytes
    bodies: tuple[memoryview, ...]

    def fingerprint(self) -> int:
        """The same for the same message; of bodies the lengths only, so that it costs nothing."""
        found = zlib.crc32(self.text)
        for body in self.bodies:
            found = zlib.crc32(len(body).to_bytes(_LENGTH), found)
        return found


def frame_size(text: Part, bodies: Sequence[Part] = ()) -> int:
    """Bytes of a frame with these."""
    return HEAD.size + len(text) + _LENGTH * len(bodies) + sum(map(len, bodies))


def pack_frame(kind: Kind, seq: int, ack: int, text: Part = b"", bodies: Sequence[Part] = ()) -> bytes:
    """A frame.

    >>> len(pack_frame(Kind.MESSAGE, 1, 0, b"{}")) == frame_size(b"{}")
    True
    """
    head = HEAD.pack(_MAGIC, kind, 0, len(bodies), seq, ack, len(text))
    if not bodies:
        return head + text
    return b"".join((head, struct.pack(f"<{len(bodies)}Q", *map(len, bodies)), text, *bodies))


def read_frames(data: bytes | memoryview) -> Iterator[Frame]:
    """The frames that these bytes are, each when it is asked for.

    Raises:
        WireError: they are none, from here on.

    >>> [frame.seq for frame in read_frames(pack_frame(Kind.MESSAGE, 1, 0, b"{}") + pack_frame(Kind.ACK, 0, 1))]
    [1, 0]
    """
    at, whole = 0, len(data)
    while at < whole:
        if whole - at < HEAD.size:
            raise WireError(f"a frame has {whole - at} bytes; its head alone has {HEAD.size}")
        magic, kind, zero, count, seq, ack, length = HEAD.unpack_from(data, at)
        if magic != _MAGIC or zero or not Kind.MESSAGE <= kind <= Kind.PASSING:
            raise WireError("a frame doesn't begin as a frame does")
        if (seq > 0) != (kind == Kind.MESSAGE) or (length > 0) != (kind != Kind.ACK) or (count and not length):
            raise WireError(f"a frame of kind {kind} has the number {seq}, {count} bodies and {length:,} bytes of text")
        begin = at + HEAD.size + _LENGTH * count
        if count > MAX_BODIES or length > MAX_TEXT or begin + length > whole:
            raise WireError(f"a frame says that it has {count:,} bodies and {length:,} bytes of text: too many")
        text, end = bytes(data[begin : begin + length]), begin + length
        bodies: tuple[memoryview, ...] = ()
        if count:
            lengths = struct.unpack_from(f"<{count}Q", data, at + HEAD.size)
            ends = list(itertools.accumulate(lengths, initial=end))
            end = ends[-1]
            if end > whole:
                raise WireError(f"a frame's bodies end at byte {end:,} of {whole:,}")
            view = memoryview(data)
            bodies = tuple(view[a:b] for a, b in itertools.pairwise(ends))
        yield Frame(kind, seq, ack, end - at, text, bodies)
        at = end
