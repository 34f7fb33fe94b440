"""Frames between a node and its runner."""

from __future__ import annotations

import io

import pytest

from gridkit.errors import WireError
from gridkit.wire.frames import HEAD, cut, header_of, lengths, pack_frame, read_frame


def test_frames_come_as_they_went() -> None:
    data = pack_frame({"sizes": [2, 0, 3]}, [b"ab", b"", b"cde"]) + pack_frame({"ready": True})
    file = io.BytesIO(data)
    header, body = read_frame(file, 5) or ({}, b"")
    assert cut(body, header["sizes"]) == [b"ab", b"", b"cde"]
    assert read_frame(file, 0) == ({"ready": True}, b"")
    assert read_frame(file, 0) is None


def test_a_frame_that_is_cut_short_is_the_end() -> None:
    data = pack_frame({"sizes": [4]}, [b"four"])
    assert [read_frame(io.BytesIO(data[:end]), 4) for end in range(len(data))] == [None] * len(data)


def test_nothing_is_read_by_a_length_that_is_not_allowed() -> None:
    with pytest.raises(WireError):
        lengths(HEAD.pack(1 << 21, 0), 10)
    with pytest.raises(WireError):
        read_frame(io.BytesIO(HEAD.pack(2, 11) + b"{}"), 10)


@pytest.mark.parametrize("text", [b"[]", b"{", b"\xff", b"[" * 100_000])
def test_headers_that_are_no_object(text: bytes) -> None:
    with pytest.raises(WireError):
        header_of(text)


@pytest.mark.parametrize("sizes", [[3], [5], [-1, 5], [2, 1], [True, 3], [2.0, 2], ["4"]])
def test_parts_must_add_up(sizes: list[int]) -> None:
    with pytest.raises(WireError):
        cut(b"four", sizes)
