"""Frames of the channel as bytes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridkit.errors import WireError
from gridkit.wire.rpc.frames import HEAD, MAX_BODIES, Frame, Kind, frame_size, pack_frame, read_frames


def read_frame(data: bytes | memoryview) -> Frame:
    """The only frame in there."""
    [frame] = read_frames(data)
    return frame


SEQS = st.integers(1, 2**64 - 1)


@given(SEQS, SEQS, st.binary(min_size=1, max_size=20), st.lists(st.binary(max_size=20), max_size=5))
def test_frames_come_as_they_went(seq: int, ack: int, text: bytes, bodies: list[bytes]) -> None:
    for kind in (Kind.MESSAGE, Kind.PASSING):
        numbered = seq if kind is Kind.MESSAGE else 0
        data = pack_frame(kind, numbered, ack, text, bodies)
        assert len(data) == frame_size(text, bodies)
        for given_as in (data, memoryview(data)):
            frame = read_frame(given_as)
            assert frame[:5] == (kind, numbered, ack, len(data), text)
            assert [bytes(body) for body in frame.bodies] == bodies
    assert read_frame(pack_frame(Kind.ACK, 0, ack)) == (Kind.ACK, 0, ack, HEAD.size, b"", ())


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=9), st.lists(st.binary(max_size=9), max_size=3)), max_size=5))
def test_several_come_in_their_order(said: list[tuple[bytes, list[bytes]]]) -> None:
    frames = [pack_frame(Kind.MESSAGE, seq, 0, *what) for seq, what in enumerate(said, 1)]
    found = list(read_frames(b"".join(frames)))
    assert [(frame.text, [bytes(body) for body in frame.bodies]) for frame in found] == said
    assert [frame.seq for frame in found] == list(range(1, len(said) + 1))


def test_those_ahead_of_garbage_are_read() -> None:
    frames = read_frames(pack_frame(Kind.MESSAGE, 1, 0, b"text") + b"garbage" * 10)
    assert next(frames).text == b"text"
    with pytest.raises(WireError):
        next(frames)


def test_the_layout_is_the_documented_one() -> None:
    data = pack_frame(Kind.MESSAGE, 5, 3, b"text", [b"\0\1", b""])
    assert data == b"gk\x01\0" + struct.pack("<IQQQQQ", 2, 5, 3, 4, 2, 0) + b"text" + b"\0\1"


def test_bodies_are_views() -> None:
    data = pack_frame(Kind.MESSAGE, 1, 0, b"text", [bytes(1000), memoryview(bytes(10))])
    assert all(body.obj is data for body in read_frame(data).bodies)


@given(st.binary(min_size=1, max_size=80))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(WireError):
        read_frame(data)


@pytest.mark.parametrize("end", range(1, HEAD.size + 8 + 4 + 4))
def test_a_frame_that_is_cut_short(end: int) -> None:
    data = pack_frame(Kind.MESSAGE, 5, 3, b"text", [b"body"])
    with pytest.raises(WireError):
        read_frame(data[:end])


def head(kind: int = 1, zero: int = 0, count: int = 0, seq: int = 1, text: int = 4, magic: bytes = b"gk") -> bytes:
    return HEAD.pack(magic, kind, zero, count, seq, 0, text)


@pytest.mark.parametrize(
    "data",
    [
        head(magic=b"kg") + b"text",
        head(kind=0) + b"text",
        head(kind=4) + b"text",
        head(zero=1) + b"text",
        head(seq=0) + b"text",
        head(text=0),
        head(text=5) + b"text",
        head(text=3) + b"text",
        head(text=2**64 - 1) + b"text",
        head(count=1, text=0) + bytes(8),
        head(kind=2, text=0),
        head(kind=2, seq=0) + b"text",
        head(kind=2, seq=0, count=1, text=0) + bytes(8),
        head(kind=3) + b"text",
        head(kind=3, seq=0, text=0),
        head(count=2**32 - 1) + b"text",
        head(count=MAX_BODIES + 1) + bytes(8 * (MAX_BODIES + 1)) + b"text",
        head(count=1) + struct.pack("<Q", 2**64 - 1) + b"text",
        head(count=2) + struct.pack("<QQ", 2**64 - 1, 1) + b"text",
    ],
)
def test_frames_that_are_none(data: bytes) -> None:
    with pytest.raises(WireError):
        read_frame(data)


def test_a_fingerprint_is_of_the_text_and_the_lengths() -> None:
    def of(text: bytes, *bodies: bytes, ack: int = 0) -> int:
        return read_frame(pack_frame(Kind.MESSAGE, 1, ack, text, bodies)).fingerprint()

    assert of(b"text", b"body") == of(b"text", b"ydob", ack=9)
    assert len({of(b"text"), of(b"test"), of(b"text", b""), of(b"text", b"body"), of(b"text", b"bo", b"dy")}) == 5
