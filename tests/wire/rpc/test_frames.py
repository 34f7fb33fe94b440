"""Frames of the channel as bytes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridkit.errors import WireError
from gridkit.wire.rpc.frames import HEAD, MAX_PARTS, Kind, frame_size, pack_frame, read_frame

SEQS = st.integers(1, 2**64 - 1)
PARTS = st.lists(st.binary(max_size=20), min_size=1, max_size=5)


@given(SEQS, SEQS, PARTS)
def test_frames_come_as_they_went(seq: int, ack: int, parts: list[bytes]) -> None:
    for kind in Kind:
        numbered, given_parts = kind is Kind.MESSAGE, parts if kind is not Kind.ACK else []
        data = pack_frame(kind, seq if numbered else 0, ack, given_parts)
        assert len(data) == frame_size(given_parts)
        frame = read_frame(data)
        assert (frame.kind, frame.seq, frame.ack) == (kind, seq if numbered else 0, ack)
        assert [bytes(part) for part in frame.parts] == given_parts


def test_the_layout_is_the_documented_one() -> None:
    data = pack_frame(Kind.MESSAGE, 5, 3, [b"text", b"\0\1"])
    assert data == b"gk\x01\0" + struct.pack("<IQQQQ", 2, 5, 3, 4, 2) + b"text\0\1"


def test_parts_are_views() -> None:
    data = pack_frame(Kind.MESSAGE, 1, 0, [b"text", bytearray(1000)])
    assert all(part.obj is data for part in read_frame(data).parts)


@given(st.binary(max_size=80))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(WireError):
        read_frame(data)


GOOD = pack_frame(Kind.MESSAGE, 5, 3, [b"text", b"body"])


@pytest.mark.parametrize("end", range(len(GOOD)))
def test_a_frame_that_is_cut_short(end: int) -> None:
    with pytest.raises(WireError):
        read_frame(GOOD[:end])


def head(kind: int = 1, zero: int = 0, count: int = 1, seq: int = 1, ack: int = 0, magic: bytes = b"gk") -> bytes:
    return HEAD.pack(magic, kind, zero, count, seq, ack)


@pytest.mark.parametrize(
    "data",
    [
        GOOD + b"\0",
        head(magic=b"kg") + bytes(8),
        head(kind=0) + bytes(8),
        head(kind=4) + bytes(8),
        head(zero=1) + bytes(8),
        head(seq=0) + bytes(8),
        head(count=0),
        head(kind=2, seq=1, count=0),
        head(kind=2, seq=0) + bytes(8),
        head(kind=3, seq=1) + bytes(8),
        head(kind=3, seq=0, count=0),
        head(count=2**32 - 1) + bytes(8),
        head(count=MAX_PARTS + 1) + bytes(8 * (MAX_PARTS + 1)),
        head() + struct.pack("<Q", 2**64 - 1),
        head(count=2) + struct.pack("<QQ", 2**64 - 1, 1),
    ],
)
def test_frames_that_are_none(data: bytes) -> None:
    with pytest.raises(WireError):
        read_frame(data)


def test_a_fingerprint_is_of_the_text_and_the_lengths() -> None:
    def of(*parts: bytes, ack: int = 0) -> int:
        return read_frame(pack_frame(Kind.MESSAGE, 1, ack, parts)).fingerprint()

    assert of(b"text", b"body") == of(b"text", b"ydob", ack=9)
    assert len({of(b"text"), of(b"test"), of(b"text", b""), of(b"text", b"body"), of(b"text", b"bo", b"dy")}) == 5
