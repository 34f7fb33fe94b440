"""The few parts of the protobuf wire format that State messages need, read by seeking and written by hand.

python-protobuf takes a second for 25 MB of floats; here the floats are never touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from gridkit.errors import WireError
from gridkit.wire.tensors import Array

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
SPARE_FIELDS = 2_000
"""fields that a message may have beyond those of its tensors; a hostile one could hold a field in every two bytes"""


def varint(value: int) -> bytes:
    """A non-negative integer below 2^64."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag(field: int, kind: int) -> bytes:
    return varint(field << 3 | kind)


def integer(field: int, value: int) -> bytes:
    """A varint field; negative values as protobuf has them, in ten bytes."""
    return tag(field, VARINT) + varint(value & (1 << 64) - 1)


def delimited(field: int, data: bytes) -> bytes:
    """A message, text or packed field."""
    return tag(field, LENGTH) + varint(len(data)) + data


def opening(field: int, size: int) -> bytes:
    """The start of a field whose `size` bytes follow."""
    return tag(field, LENGTH) + varint(size)


def pack_varints(values: Array) -> bytes:
    """Integers as packed varints (negative ones in ten bytes)."""
    words = values.astype(np.int64).view(np.uint64)
    rest = words.copy()
    columns = np.zeros((len(words), 10), np.uint8)
    used = np.ones(len(words), np.int64)
    for column in range(10):
        columns[:, column] = (rest & np.uint64(0x7F)).astype(np.uint8)
        rest >>= np.uint64(7)
        more = rest > 0
        columns[:, column] |= (more.astype(np.uint8)) << 7
        used += more
    return bytes(columns[np.arange(10)[None, :] < used[:, None]].tobytes())


def unpack_varints(data: bytes) -> Array:
    """Packed varints as int64.

    Raises:
        WireError: cut off, or longer than ten bytes.
    """
    octets = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(octets < 0x80)
    if len(octets) and (not len(ends) or ends[-1] != len(octets) - 1):
        raise WireError("a packed integer is cut off")
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    lengths = ends - starts + 1
    if len(lengths) and lengths.max() > 10:
        raise WireError("a packed integer is longer than ten bytes")
    if not len(ends):
        return np.zeros(0, np.int64)
    shifts = (np.arange(len(octets)) - np.repeat(starts, lengths)).astype(np.uint64) * np.uint64(7)
    parts = (octets & 0x7F).astype(np.uint64) << shifts
    return np.add.reduceat(parts, starts).view(np.int64)


class Scanner:
    """Reads fields of messages in a seekable file, without recursion and without holding contents."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, 2)
        self._left = SPARE_FIELDS

    def allow(self, fields: int) -> None:
        """So many fields more may be scanned."""
        self._left += fields

    def fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Fields of the message in these bytes: (number, kind, value, where). For `LENGTH` the value is the size and
        `where` its first byte; for `VARINT` the value is the integer.

        Raises:
            WireError: overlong, cut off, a group, or too many fields.
        """
        at = start
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise WireError("the message has too many fields")
            key, at = self._varint(at, end)
            number, kind = key >> 3, key & 7
            if number == 0:
                raise WireError("the message has a field number 0")
            if kind == VARINT:
                value, at = self._varint(at, end)
                yield number, kind, value, at
                continue
            if kind == LENGTH:
                value, at = self._varint(at, end)
            elif kind in (FIXED64, FIXED32):
                value = 8 if kind == FIXED64 else 4
            else:
                raise WireError(f"the message has a field of wire type {kind}")
            if value > end - at:
                raise WireError("the message is cut off")
            yield number, kind, value, at
            at += value

    def short(self, where: int, size: int, limit: int = 4096) -> bytes:
        """The contents of a short field."""
        if size > limit:
            raise WireError(f"a text or shape is longer than {limit} bytes")
        self._file.seek(where)
        return self._file.read(size)

    def read(self, where: int, size: int) -> bytes:
        """Contents of any size, for a caller that knows what it asks for."""
        self._file.seek(where)
        return self._file.read(size)

    def text(self, where: int, size: int) -> str:
        try:
            return self.short(where, size).decode()
        except UnicodeDecodeError:
            raise WireError("a text is not UTF-8") from None

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        self._file.seek(at)
        data = self._file.read(min(10, end - at))
        value = 0
        for place, octet in enumerate(data):
            value |= (octet & 0x7F) << 7 * place
            if octet < 0x80:
                return value & (1 << 64) - 1, at + place + 1
        raise WireError("the message is cut off" if len(data) < 10 else "a number is longer than ten bytes")
