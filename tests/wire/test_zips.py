"""The strict reader of zip directories: what other readers could see differently is refused."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import pytest

from gridkit.errors import WireError
from gridkit.wire import zips
from gridkit.wire.zips import read_entries

NAMES = ("a/data.pkl", "a/data/0", "a/code/x.py")


def zipped(names: tuple[str, ...] = NAMES, method: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytearray:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.comment = comment
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), name.encode() * 3, method)
    return bytearray(file.getvalue())


class Pipe(io.RawIOBase):
    """Can't be sought in: zipfile then writes sizes and CRC behind the data, as torch does."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self.data += bytes(data)  # type: ignore[call-overload]
        return len(bytes(data))  # type: ignore[call-overload]


def streamed() -> bytearray:
    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:
        for name in NAMES:
            archive.writestr(name, name.encode() * 3)
    return pipe.data


def widened(data: bytes, **other: int) -> bytes:
    """The same archive with the 64-bit form of the directory's end, as torch writes it."""
    end = len(data) - 22
    count, size, begin = struct.unpack_from("<H2L", data, end + 10)
    fields = {"count": count, "size": size, "begin": begin, "at": end} | other
    wide = struct.pack(
        "<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, fields["count"], fields["count"], fields["size"], fields["begin"]
    )
    return data[:end] + wide + struct.pack("<4sLQL", b"PK\x06\x07", 0, fields["at"], 1) + data[end:]


def read(data: bytes | bytearray) -> dict[str, zips.Entry]:
    return read_entries(io.BytesIO(data))


@pytest.mark.parametrize("data", [zipped(), streamed(), widened(zipped())], ids=["plain", "streamed", "64 bits"])
def test_entries_lie_where_they_are_said_to(data: bytearray) -> None:
    entries = read(data)
    assert tuple(entries) == NAMES
    for name, entry in entries.items():
        content = name.encode() * 3
        assert entry.stored and data[entry.start : entry.start + entry.size] == content
        crcs = {bytes(data[at : at + 4]) for at in entry.crcs}
        assert len(entry.crcs) == 2 and crcs == {zlib.crc32(content).to_bytes(4, "little")}


def test_compressed_entries_are_not_opened() -> None:
    assert not any(entry.stored for entry in read(zipped(method=zipfile.ZIP_DEFLATED)).values())


def central(data: bytes, name: str) -> int:
    return data.rindex(name.encode()) - 46


def with_bytes(data: bytearray, at: int, value: bytes) -> bytearray:
    changed = bytearray(data)
    changed[at : at + len(value)] = value
    return changed


def lying() -> dict[str, bytes | bytearray]:
    data, pipe = zipped(), streamed()
    first, second, third = (central(data, name) for name in NAMES)
    compressed = zipped(method=zipfile.ZIP_DEFLATED)
    bomb = central(compressed, NAMES[0])
    end = len(data) - 22
    return {
        "a comment": zipped(comment=b"PK"),
        "something before": b"#!" + data,
        "something behind": data + b"x",
        "something between": data[:end] + b"x" + data[end:],
        "encrypted": with_bytes(data, first + 8, b"\x01\x00"),
        "another method": with_bytes(data, first + 10, b"\x0c\x00"),
        "another size": with_bytes(data, first + 24, b"\x01\x00\x00\x00"),
        "64 bits missing": with_bytes(data, first + 20, b"\xff" * 8),
        "another disk": with_bytes(data, first + 34, b"\x01\x00"),
        "another entry's header": with_bytes(data, second + 42, b"\x00" * 4),
        "a header beyond": with_bytes(data, third + 42, b"\xf0\xff\xff\x00"),
        "overlapping": with_bytes(with_bytes(data, first + 20, b"\x60\0\0\0"), first + 24, b"\x60\0\0\0"),
        "another name in the header": with_bytes(data, 30, b"b"),
        "another CRC in the header": with_bytes(data, 14, b"\0\0\0\0"),
        "another method in the header": with_bytes(data, 8, b"\x08"),
        "another CRC behind the data": with_bytes(pipe, pipe.index(b"PK\x07\x08") + 4, b"\0\0\0\0"),
        "no mark behind the data": with_bytes(pipe, pipe.index(b"PK\x07\x08"), b"\0\0\0\0"),
        "fewer entries": with_bytes(data, end + 8, b"\x02\x00\x02\x00"),
        "more entries": with_bytes(data, end + 8, b"\x04\x00\x04\x00"),
        "a bomb": with_bytes(compressed, bomb + 24, b"\0\0\0\x70"),
        "another count in 64 bits": widened(data, count=2),
        "another place in 64 bits": widened(data, begin=3),
        "another end in 64 bits": widened(data, at=3),
        "2^63 entries": with_bytes(bytearray(widened(with_bytes(data, end + 8, b"\xff" * 4), count=1 << 63)), 0, b"PK"),
        "no UTF-8": data.replace(b"a/data/0", b"a/data/\xff"),
        "a way out": data.replace(b"a/data/0", b"a/../../"),
        "a backslash": data.replace(b"a/data/0", b"a\\data\\0"),
        "a NUL": data.replace(b"a/data/0", b"a/data\x000"),
        "absolute": data.replace(b"a/data/0", b"//data/0"),
        "a long name": zipped(("a/" + "x" * 600,)),
    }


def duplicated() -> bytearray:
    return zipped(("a/data/0", "a/data/1")).replace(b"a/data/1", b"a/data/0")


@pytest.mark.parametrize("case", lying())
def test_archives_that_can_be_seen_in_two_ways_are_refused(case: str) -> None:
    with pytest.raises(WireError):
        read(lying()[case])


def test_names_are_one_of_a_kind_in_either_case() -> None:
    for data in (duplicated(), zipped(("a/data/x", "a/DATA/X"))):
        with pytest.raises(WireError, match="the same name"):
            read(data)


def test_every_cut_is_refused() -> None:
    for data in (zipped(), widened(zipped()), streamed()):
        for end in range(len(data)):
            with pytest.raises(WireError):
                read(data[:end])


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(read(zipped(tuple(f"a/{n}" for n in range(2000))))) == 2000
    monkeypatch.setattr(zips, "MAX_ENTRIES", 2)
    with pytest.raises(WireError, match="at most 2 in"):
        read(zipped())


def test_compressed_entries_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zips, "MAX_INFLATED", 20)
    for names, fits in ((("a/b",) * 1, True), (tuple(f"a/{n}" for n in range(9)), False), (("a/" + "x" * 9,), False)):
        data = zipped(names, zipfile.ZIP_DEFLATED)
        if fits:
            assert read(data)
        else:
            with pytest.raises(WireError, match="compressed"):
                read(data)
