from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridkit.errors import WireError
from gridkit.wire import protobuf
from gridkit.wire.protobuf import Scanner, pack_varints, unpack_varints, varint

WORDS = st.integers(-(2**63), 2**63 - 1)


@pytest.mark.parametrize(
    ("value", "octets"),
    [(0, "00"), (1, "01"), (127, "7f"), (128, "8001"), (300, "ac02"), (2**64 - 1, "ffffffffffffffffff01")],
)
def test_varint(value: int, octets: str) -> None:
    assert varint(value).hex() == octets


@given(st.lists(WORDS, max_size=50))
def test_packed_integers_come_back(values: list[int]) -> None:
    packed = pack_varints(np.array(values, np.int64))
    assert packed == b"".join(varint(value & 2**64 - 1) for value in values)
    assert unpack_varints(packed).tolist() == values


@given(st.binary(max_size=60))
def test_any_octets_are_integers_or_a_typed_error(data: bytes) -> None:
    try:
        values = unpack_varints(data)
    except WireError:
        return
    assert len(values) == sum(octet < 0x80 for octet in data)


@pytest.mark.parametrize("data", [b"\x80", b"\x01\xff", b"\x80" * 10 + b"\x01"])
def test_packed_integers_that_are_cut_off_or_overlong(data: bytes) -> None:
    with pytest.raises(WireError):
        unpack_varints(data)


def scan(data: bytes) -> list[tuple[int, int, int, int]]:
    return list(Scanner(io.BytesIO(data)).fields(0, len(data)))


def test_fields() -> None:
    data = protobuf.integer(1, 300) + protobuf.delimited(16, b"abc") + b"\x1d" + bytes(4) + b"\x21" + bytes(8)
    assert scan(data) == [(1, 0, 300, 3), (16, 2, 3, 6), (3, 5, 4, 10), (4, 1, 8, 15)]


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"\x0a\x05abc", "cut off"),  # declares more than there is
        (b"\x0a\xff\xff\xff\xff\x0fabc", "cut off"),
        (b"\x80", "cut off"),
        (b"\x08", "cut off"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "longer than ten"),
        (b"\x0b\x0c", "wire type"),  # a group
        (b"\x02\x00", "field number 0"),
        (b"\x0d\x01\x02", "cut off"),
    ],
)
def test_broken_fields(data: bytes, word: str) -> None:
    with pytest.raises(WireError, match=word):
        scan(data)


def test_fields_are_scanned_within_a_budget() -> None:
    scanner = Scanner(io.BytesIO(b"\x08\x01" * (protobuf.SPARE_FIELDS + 10)))
    with pytest.raises(WireError, match="too many fields"):
        list(scanner.fields(0, scanner.size))
    scanner = Scanner(io.BytesIO(b"\x08\x01" * (protobuf.SPARE_FIELDS + 10)))
    scanner.allow(10)
    assert len(list(scanner.fields(0, scanner.size))) == protobuf.SPARE_FIELDS + 10
