"""Tensors as bytes: what is written is read, by us and by the format's own library; what lies is refused."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gridkit.errors import WireError
from gridkit.wire.safetensors import DTYPES, PIECE, TensorFile, pack_file, pack_tensors, read_tensors, stream_file
from gridkit.wire.tensors import TensorSpec

arrays = st.sampled_from(sorted(DTYPES.values())).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)


def file_of(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def opened(data: bytes) -> TensorFile:
    return TensorFile(io.BytesIO(data))


@settings(max_examples=60)
@given(st.lists(arrays, max_size=5))
def test_what_is_packed_is_read_bit_for_bit(values: list[np.ndarray]) -> None:
    data = pack_tensors(values).tobytes()
    found = read_tensors(data)
    assert [(a.dtype, a.shape, a.tobytes()) for a in found] == [(a.dtype, a.shape, a.tobytes()) for a in values]
    other = safetensors.numpy.load(data)
    assert all(other[str(i)].tobytes() == a.tobytes() for i, a in enumerate(values))
    file = opened(data)
    assert all(file.read(i, 0, a.size).tobytes() == a.tobytes() for i, a in enumerate(values))


def test_the_librarys_own_files_are_read() -> None:
    values = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7), "mask": np.array([True, False])}
    data = safetensors.numpy.save(values, metadata={"format": "np"})
    found = opened(data).views(data)
    assert {name: a.tolist() for name, a in found.items()} == {name: a.tolist() for name, a in values.items()}
    assert opened(data).metadata == {"format": "np"}


def test_data_is_aligned_and_mapped_without_a_copy() -> None:
    values = {"flag": np.ones(3, bool), "w": np.ones((4, 4)), "n": np.array(3)}
    whole = bytearray(b"xxxxx" + pack_file(values, before=b"xxxxx").tobytes()[5:])
    views = TensorFile(io.BytesIO(whole), 5).views(whole)
    assert list(views) == list(values)
    views["w"][0, 0] = 5.0
    assert TensorFile(io.BytesIO(whole), 5).views(whole)["w"][0, 0] == 5.0
    assert all(a.flags.aligned for a in views.values())


def test_pieces_start_anywhere() -> None:
    packed = pack_file({"a": np.arange(PIECE, dtype=np.float32), "b": np.ones(3, np.int8)})
    whole = packed.tobytes()
    assert len(whole) == packed.size
    for start in (0, 1, 70, PIECE, packed.size - 3, packed.size - 1, packed.size):
        pieces = list(packed.pieces(start))
        assert b"".join(pieces) == whole[start:]
        assert all(0 < len(piece) <= PIECE for piece in pieces)


def test_packing_holds_no_copy() -> None:
    values = {"a": np.zeros(8 << 20, np.uint8)}
    tracemalloc.start()
    for _ in pack_file(values).pieces():
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_foreign_byte_order_and_strides_are_put_right() -> None:
    turned = np.arange(6, dtype=">f4").reshape(2, 3).T
    (found,) = read_tensors(pack_tensors([turned]).tobytes())
    assert found.tolist() == turned.tolist()


def test_a_dtype_that_cannot_be_sent_names_the_tensor() -> None:
    with pytest.raises(WireError, match="'z' has dtype complex64"):
        pack_file({"z": np.ones(1, np.complex64)})


LIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "cut short"),
    "half a length": (b"\x02\0\0\0", "cut short"),
    "huge header": (struct.pack("<Q", 1 << 62) + b"{}", "at most"),
    "header over the limit": (struct.pack("<Q", (8 << 20) + 1) + b"{}", "at most"),
    "header longer than the file": (struct.pack("<Q", 100) + b"{}", "cut short"),
    "not JSON": (file_of(b"{'a'}"), "isn't JSON"),
    "a list": (file_of(b"[]"), "isn't an object"),
    "BOM": (file_of(b"\xef\xbb\xbf{}"), "isn't an object"),
    "not UTF-8": (file_of(b'{"\xff": 1}'), "isn't JSON"),
    "deep": (file_of(b'{"a":' + b"[" * 100_000), "isn't JSON"),
    "long number": (file_of(b'{"a":' + b"1" * 100_000 + b"}"), "isn't JSON"),
    "NaN": (file_of(b'{"a": NaN}'), "isn't JSON"),
    "same key twice": (file_of(b'{"a": 1, "a": 2}'), "same key twice"),
    "lone surrogate": (file_of(b'{"\\ud800": {}}'), "printable"),
    "line break in a name": (file_of({"a\nb": entry()}, b"1234"), "printable"),
    "long name": (file_of({"a" * 201: entry()}, b"1234"), "printable"),
    "no name": (file_of({"": entry()}, b"1234"), "printable"),
    "no entry": (file_of({"a": 3}), "isn't described"),
    "more in an entry": (file_of({"a": {**entry(), "x": 1}}, b"1234"), "isn't described"),
    "unknown dtype": (file_of({"a": entry("C64")}, b"1234"), "dtype 'C64'"),
    "dtype is a list": (file_of({"a": entry(["F32"])}, b"1234"), "dtype"),  # type: ignore[arg-type]
    "negative size": (file_of({"a": entry(shape=[-1, -1])}, b"1234"), "shape"),
    "fractional size": (file_of({"a": entry(shape=[1.0])}, b"1234"), "shape"),
    "size is a bool": (file_of({"a": entry(shape=[True])}, b"1234"), "shape"),
    "2^63 elements": (file_of({"a": entry(shape=[1 << 63])}, b"1234"), "shape"),
    "2^124 elements": (file_of({"a": entry(shape=[1 << 62, 1 << 62])}, b"1234"), "but 4 bytes"),
    "nine dimensions": (file_of({"a": entry(shape=[1] * 9)}, b"1234"), "shape"),
    "negative offset": (file_of({"a": entry(offsets=[-4, 0])}, b"1234"), "offsets"),
    "three offsets": (file_of({"a": entry(offsets=[0, 4, 8])}, b"1234"), "offsets"),
    "reversed offsets": (file_of({"a": entry(offsets=[4, 0])}, b"1234"), "-4 bytes"),
    "beyond the end": (file_of({"a": entry(shape=[2], offsets=[0, 8])}, b"1234"), "but 4 are there"),
    "more than is told": (file_of({"a": entry()}, b"12345"), "but 5 are there"),
    "a hole": (file_of({"a": entry(), "b": entry(offsets=[8, 12])}, b"123456789012"), "begins at byte 8"),
    "overlap": (file_of({"a": entry(), "b": entry(offsets=[0, 4])}, b"1234"), "begins at byte 0"),
    "metadata of numbers": (file_of({"__metadata__": {"a": 1}}), "metadata"),
    "metadata is a list": (file_of({"__metadata__": []}), "metadata"),
    "10,001 tensors": (file_of({str(i): entry(shape=[0], offsets=[0, 0]) for i in range(10_001)}), "at most 10,000"),
}


@pytest.mark.parametrize("case", LIES)
def test_s4_a_header_that_lies_is_refused_and_nothing_allocated_by_it(case: str) -> None:
    data, message = LIES[case]
    tracemalloc.start()
    with pytest.raises(WireError, match=message):
        opened(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * len(data) + (1 << 20)


@settings(max_examples=300)
@given(st.data())
def test_s4_any_change_of_a_byte_is_read_or_refused(data: st.DataObject) -> None:
    whole = bytearray(pack_tensors([np.arange(3, dtype=np.int16), np.ones((2, 2))]).tobytes())
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] = data.draw(st.integers(0, 255))
    try:
        found = read_tensors(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    except WireError:
        return
    assert sum(a.nbytes for a in found) <= len(whole)


@pytest.mark.parametrize("keys", [["1"], ["0", "2"], ["1", "0"], ["00"], ["a"]])
def test_tensors_without_names_are_numbered_in_order(keys: list[str]) -> None:
    data = pack_file({key: np.ones(1, np.float32) for key in keys}).tobytes()
    with pytest.raises(WireError, match="in order"):
        read_tensors(data)


def test_tensors_of_whole_lines_lie_on_whole_lines() -> None:
    values = {
        "odd": np.ones(3, np.float32),
        "w": np.ones((4, 16), np.float32),
        "n": np.array(3),
        "v": np.ones(64, bool),
    }
    file = opened(pack_file(values).tobytes())
    places = dict(zip((spec.name for spec in file.specs), file._begins, strict=True))
    assert [spec.name for spec in file.specs] == list(values)
    assert places["w"] % 64 == 0 and places["v"] % 64 == 0


@given(st.lists(hnp.arrays(st.sampled_from(["f4", "i8", "?"]), hnp.array_shapes(min_dims=0, min_side=0)), max_size=4))
def test_a_stream_is_the_file_of_what_was_streamed(values: list[np.ndarray]) -> None:
    specs = [TensorSpec(str(place), value.dtype.name, value.shape) for place, value in enumerate(values)]
    chunks = (value.reshape(-1)[i : i + 3] for value in values for i in range(0, value.size, 3))
    data = b"".join(stream_file(specs, chunks))
    assert opened(data).specs == tuple(specs)
    for got, value in zip(read_tensors(data), values, strict=True):
        assert (got.dtype, got.shape, got.tobytes()) == (value.dtype, value.shape, value.tobytes())
    theirs = safetensors.numpy.load(data)
    assert {name: v.tobytes() for name, v in theirs.items()} == {str(n): v.tobytes() for n, v in enumerate(values)}


@pytest.mark.parametrize("chunks", [[np.zeros(3, "f4")], [np.zeros(5, "f4")], [np.zeros(4, "f8")], []])
def test_a_stream_that_ends_elsewhere_is_an_error(chunks: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="don't end where tensor 'w' does"):
        list(stream_file([TensorSpec("w", "float32", (4,))], chunks))
