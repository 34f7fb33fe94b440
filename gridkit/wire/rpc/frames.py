"""One frame of the channel as bytes: what a WebSocket binary message is in `gridkit.v1`.

Layout, little-endian: ``gk``, the kind (u8), a zero, the number of parts (u32), seq (u64), ack (u64), the length of
each part (u64), the parts. A message's first part is its text, the others are the bodies that the text speaks of.
"""

from __future__ import annotations

import enum
import itertools
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from gridkit.errors import WireError

HEAD = struct.Struct("<2sBBIQQ")
MAX_PARTS = 1001
"""the text, and the bodies"""
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


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that was read.

    Attributes:
        seq: its number, from 1; 0 without one.
        ack: the last number that its sender has done with, of those that came to it.
        parts: views of the frame's own memory.
    """

    kind: Kind
    seq: int
    ack: int
    parts: tuple[memoryview, ...]

    def fingerprint(self) -> int:
        """The same for the same message; of bodies the lengths only, so that it costs nothing."""
        return zlib.crc32(self.parts[0], zlib.crc32(repr([len(part) for part in self.parts]).encode()))


def frame_size(parts: Sequence[Part]) -> int:
    """Bytes of a frame with these parts."""
    return HEAD.size + _LENGTH * len(parts) + sum(map(len, parts))


def pack_frame(kind: Kind, seq: int, ack: int, parts: Sequence[Part] = ()) -> bytes:
    """A frame.

    >>> read_frame(pack_frame(Kind.MESSAGE, 1, 0, [b"{}"])).seq
    1
    """
    head = HEAD.pack(_MAGIC, kind, 0, len(parts), seq, ack)
    return b"".join([head, struct.pack(f"<{len(parts)}Q", *map(len, parts)), *parts])


def read_frame(data: bytes | memoryview) -> Frame:
    """The frame that these bytes are.

    Raises:
        WireError: they are none.
    """
    if len(data) < HEAD.size:
        raise WireError(f"a frame has {len(data)} bytes; its head alone has {HEAD.size}")
    magic, kind, zero, count, seq, ack = HEAD.unpack_from(data)
    if magic != _MAGIC or zero or kind not in _KINDS:
        raise WireError("a frame doesn't begin as a frame does")
    if (seq > 0) != (kind == Kind.MESSAGE) or (count > 0) != (kind != Kind.ACK) or count > MAX_PARTS:
        raise WireError(f"a frame of kind {kind} has the number {seq} and {count} parts")
    begin = HEAD.size + _LENGTH * count
    if len(data) < begin:
        raise WireError("a frame is cut short")
    lengths = struct.unpack_from(f"<{count}Q", data, HEAD.size)
    ends = list(itertools.accumulate(lengths, initial=begin))
    if ends[-1] != len(data):
        raise WireError(f"a frame's parts end at byte {ends[-1]}, it has {len(data)}")
    view = memoryview(data)
    return Frame(Kind(kind), seq, ack, tuple(view[a:b] for a, b in itertools.pairwise(ends)))


_KINDS = frozenset(Kind)
