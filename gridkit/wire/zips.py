"""Where the entries of a zip file lie: a strict reader that decompresses nothing.

What other readers would see differently (two entries of a name, entries that overlap, a comment behind the end, headers
that contradict the directory) is refused, so that whoever reads the file later reads the same.

Source: PKWARE's APPNOTE 6.3 (sections 4.3 and 4.5.3); torch writes its archives through miniz, in the 64-bit form.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import BinaryIO

from gridkit.errors import WireError

MAX_ENTRIES = 30_000
MAX_DIRECTORY = 8 << 20
MAX_NAME = 500
"""bytes"""
MAX_INFLATED = 16 << 20
"""bytes that a compressed entry may say it has; a quarter of what all of them may"""

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_UNKNOWN_FLAGS = 0xFFFF ^ 0x080E  # known: the sizes follow the data, the name is UTF-8, how hard it was compressed
_FOLLOWS = 0x0008
_FULL = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. `start` and `size`: where its bytes lie, as they are in the file.

    Attributes:
        stored: they aren't compressed.
        crcs: where the file says their CRC-32, at each place as four bytes, little-endian.
    """

    name: str
    start: int
    size: int
    stored: bool
    crcs: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Row:
    """An entry as the directory describes it."""

    name: bytes
    flags: int
    method: int
    crc: int
    size: int
    header: int
    crc_at: int


def read_entries(file: BinaryIO) -> dict[str, Entry]:
    """The entries by name, in the directory's order.

    Raises:
        WireError: the first rule that the file breaks.
    """
    begin, data, count = _directory(file)
    rows = _rows(data, begin)
    if len(rows) != count:
        raise WireError(f"the archive's directory has {len(rows):,} entries, but says {count:,}")
    entries: dict[bytes, Entry] = {}
    end = begin
    for row in sorted(rows, key=lambda row: row.header, reverse=True):
        entries[row.name] = _entry(file, row, end)
        end = row.header
    if end:
        raise WireError("the archive doesn't begin with its first entry")
    if len({name.lower() for name in entries}) != len(rows):  # torch finds entries in either case
        raise WireError("two entries of the archive have the same name")
    found = [entries[row.name] for row in rows]
    return {entry.name: entry for entry in found}


def _directory(file: BinaryIO) -> tuple[int, bytes, int]:
    """Where the directory begins, its bytes, and how many entries it says it has."""
    end = file.seek(0, io.SEEK_END) - _END.size
    tail = _at(file, end, _END.size)
    mark, disk, other, here, count, size, begin, comment = _END.unpack(tail)
    if mark != b"PK\x05\x06" or comment or disk or other or here != count:
        raise WireError("the bytes don't end as a zip archive does; they may be cut short")
    if end >= _LOCATOR.size:
        mark, _, at, _ = _LOCATOR.unpack(_at(file, end - _LOCATOR.size, _LOCATOR.size))
        if mark == b"PK\x06\x07":
            end -= _LOCATOR.size + _END64.size
            wide = _END64.unpack(_at(file, end, _END64.size))
            if wide[0] != b"PK\x06\x06" or at != end:
                raise WireError("the archive's directory isn't where its end says")
            for short, full, long in ((count, 0xFFFF, wide[7]), (size, _FULL, wide[8]), (begin, _FULL, wide[9])):
                if short not in (full, long):
                    raise WireError("the archive describes its directory in two ways")
            count, size, begin = wide[7:]
    if begin + size != end:
        raise WireError("the archive's directory isn't where its end says")
    if size > MAX_DIRECTORY or count > MAX_ENTRIES:
        raise WireError(
            f"the archive has {count:,} entries; at most {MAX_ENTRIES:,} in {MAX_DIRECTORY:,} bytes are read"
        )
    return begin, _at(file, begin, size), count


def _rows(data: bytes, begin: int) -> list[_Row]:
    rows, at, inflated = [], 0, 0
    while at < len(data):
        if len(data) - at < _CENTRAL.size:
            raise WireError("the archive's directory is cut short")
        fields = _CENTRAL.unpack_from(data, at)
        mark, _, _, flags, method, _, _, crc, size, full, name_size, extra_size, comment, disk, _, _, header = fields
        name = data[at + _CENTRAL.size : at + _CENTRAL.size + name_size]
        extra = data[at + _CENTRAL.size + name_size :][:extra_size] if extra_size else b""
        where = f"entry {_show(name)} of the archive"
        if mark != b"PK\x01\x02" or comment or disk or len(name) + len(extra) != name_size + extra_size:
            raise WireError(f"{where} is described in a way that can't be read")
        full, size, header = _widened(extra, full, size, header)
        if flags & _UNKNOWN_FLAGS or method not in (0, 8) or (method == 0 and size != full):
            raise WireError(f"{where} is encrypted, or packed in a way that isn't known")
        inflated += full if method else 0
        if (method and full > MAX_INFLATED) or inflated > 4 * MAX_INFLATED:
            raise WireError(f"{where} is compressed and says it has {full:,} bytes; at most {MAX_INFLATED:,} are taken")
        rows.append(_Row(name, flags, method, crc, size, header, begin + at + 16))
        at += _CENTRAL.size + name_size + extra_size
    return rows


def _widened(extra: bytes, *fields: int) -> list[int]:
    """Sizes and offset, where they are too large for their fields and stand in the 64-bit field."""
    wide = b""
    while len(extra) >= 4:
        number, size = struct.unpack_from("<2H", extra)
        wide = extra[4 : 4 + size] if number == 1 else wide
        extra = extra[4 + size :]
    found = []
    for value in fields:
        if value == _FULL:
            if len(wide) < 8:
                raise WireError("a size in the archive's directory is missing")
            (value,) = struct.unpack_from("<Q", wide)
            wide = wide[8:]
        found.append(value)
    return found


def _entry(file: BinaryIO, row: _Row, end: int) -> Entry:
    """The entry, held against its own header; everything of it lies before `end`."""
    where = f"entry {_show(row.name)} of the archive"
    overlaps = WireError(f"{where} overlaps the next, or the directory")
    if row.header + _LOCAL.size > end:
        raise overlaps
    mark, _, flags, method, _, _, crc, _, _, name_size, extra_size = _LOCAL.unpack(_at(file, row.header, _LOCAL.size))
    start = row.header + _LOCAL.size + name_size + extra_size
    follows = 16 if row.flags & _FOLLOWS else 0
    if start + row.size + follows > end:
        raise overlaps
    name = _at(file, row.header + _LOCAL.size, name_size)
    crc_at = row.header + 14
    if follows:
        crc_at = start + row.size + 4
        after, crc = struct.unpack("<4sL", _at(file, crc_at - 4, 8))
        mark = mark if after == b"PK\x07\x08" else b""
    if (mark, name, flags, method, crc) != (b"PK\x03\x04", row.name, row.flags, row.method, row.crc):
        raise WireError(f"{where} contradicts the archive's directory")
    return Entry(_named(name), start, row.size, not method, (row.crc_at, crc_at))


def _named(name: bytes) -> str:
    try:
        text = name.decode()
    except UnicodeDecodeError:
        text = ""
    plain = text.isprintable() and "\\" not in text and not {"", ".", ".."} & set(text.split("/"))
    if not plain or len(name) > MAX_NAME:
        raise WireError(f"an entry of the archive is called {_show(name)}, which is no name for one")
    return text


def _at(file: BinaryIO, place: int, size: int) -> bytes:
    if place < 0:
        raise WireError("the archive is cut short")
    file.seek(place)
    data = file.read(size)
    if len(data) < size:
        raise WireError("the archive is cut short")
    return data


def _show(name: bytes) -> str:
    text = repr(name[:61])[1:]
    return text if len(name) < 61 else text + "…"
