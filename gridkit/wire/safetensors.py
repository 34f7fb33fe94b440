"""Tensors as bytes: the safetensors format, with a strict reader and a writer that hold no copy of the data.

Layout: the header's length (u64, little-endian), the header (JSON), the data. The header names each tensor's dtype,
shape and place in the data: ``{"fc.bias": {"dtype": "F32", "shape": [10], "data_offsets": [0, 40]}, …}``. Here its
order is the tensors' order. In the data, those that fill whole lines of 64 bytes come first, then the others by size
of element: so large ones can be mapped as they are (torch's kernels give other bits where memory isn't aligned so).

Source: the format's description in the safetensors project (0.5).
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from gridkit.errors import WireError
from gridkit.wire.tensors import Array, TensorSpec

MAX_HEADER = 8 << 20
MAX_TENSORS = 10_000
MAX_NAME = 200
MAX_RANK = 8
PIECE = 1 << 20
"""bytes that are handed on at a time"""
ALIGNMENT = 64
"""bytes; torch's own allocator gives memory that is aligned so"""

DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
}
_CODES = {name: code for code, name in DTYPES.items()}


# ---- writing


class Packed:
    """Bytes that can be sent more than once, from any offset: a head, then the memory of arrays.

    Attributes:
        size: number of bytes.
    """

    def __init__(self, parts: Sequence[memoryview]) -> None:
        self._parts = [part for part in parts if len(part)]
        self.size = sum(len(part) for part in self._parts)

    def pieces(self, start: int = 0, piece: int = PIECE) -> Iterator[memoryview]:
        """The bytes from `start` on, at most `piece` at a time."""
        for part in self._parts:
            for at in range(start, len(part), piece):
                yield part[at : at + piece]
            start = max(0, start - len(part))

    def tobytes(self) -> bytes:
        return b"".join(self._parts)


def pack_file(arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None, before: bytes = b"") -> Packed:
    """Arrays as a safetensors file, in their order.

    Args:
        arrays: by name; their memory is sent as it is when somebody asks for it.
        metadata: texts of the header's own.
        before: bytes in front of the file, to which the data is aligned.

    Raises:
        WireError: a dtype that isn't in `DTYPES`.

    >>> TensorFile(io.BytesIO(pack_file({"b": np.ones(2, np.float32)}).tobytes())).specs
    (TensorSpec(name='b', dtype='float32', shape=(2,)),)
    """
    flat = {}
    for name, array in arrays.items():
        if array.dtype.name not in _CODES:
            raise WireError(f"tensor '{name}' has dtype {array.dtype.name}, which can't be sent")
        flat[name] = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1)
    order = sorted(flat, key=lambda name: (flat[name].nbytes % ALIGNMENT > 0, -flat[name].itemsize))
    begins, at = {}, 0
    for name in order:
        begins[name], at = at, at + flat[name].nbytes
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for name, array in arrays.items():
        offsets = [begins[name], begins[name] + flat[name].nbytes]
        header[name] = {"dtype": _CODES[array.dtype.name], "shape": list(array.shape), "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(before) + 8 + len(text)) % ALIGNMENT)
    head = before + struct.pack("<Q", len(text)) + text
    return Packed([memoryview(head), *(flat[name].view(np.uint8).data for name in order)])


def stream_file(specs: Sequence[TensorSpec], chunks: Iterable[Array]) -> Iterator[bytes | memoryview]:
    """A safetensors file in pieces, for tensors that aren't in memory as a whole: their data in the order of `specs`.

    Args:
        specs: names, dtypes (little-endian) and shapes.
        chunks: the elements of all of them, one tensor after the other, in pieces of any size.

    Raises:
        ValueError: the chunks have other dtypes, or end elsewhere than the tensors.

    >>> data = b"".join(stream_file([TensorSpec("b", "float32", (3,))], [np.ones(1, "f4"), np.zeros(2, "f4")]))
    >>> TensorFile(io.BytesIO(data)).views(data)["b"]
    array([1., 0., 0.], dtype=float32)
    """
    header, at = {}, 0
    for spec in specs:
        end = at + spec.size * np.dtype(spec.dtype).itemsize
        header[spec.name] = {"dtype": _CODES[spec.dtype], "shape": list(spec.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    yield struct.pack("<Q", len(text)) + text
    source = iter(chunks)
    for spec in specs:
        left = spec.size
        while left:
            part = next(source, None)
            if part is None or part.dtype != _little(spec) or len(part) > left:
                raise ValueError(f"the chunks don't end where tensor '{spec.name}' does, or aren't {spec.dtype}")
            left -= len(part)
            yield np.ascontiguousarray(part).view(np.uint8).data


def pack_tensors(arrays: Sequence[Array]) -> Packed:
    """Arrays without names, such as arguments and results: a file with the keys "0", "1", … in order.

    Raises:
        WireError: a dtype that isn't in `DTYPES`.
    """
    return pack_file({str(place): array for place, array in enumerate(arrays)})


# ---- reading


def read_tensors(data: bytes) -> list[Array]:
    """What `pack_tensors` packed: arrays of their own memory.

    Raises:
        WireError: see `TensorFile`; or the keys aren't "0", "1", … in order.

    >>> read_tensors(pack_tensors([np.arange(3)]).tobytes())
    [array([0, 1, 2])]
    """
    file = TensorFile(io.BytesIO(data))
    file.check_numbered()
    return [view.copy() for view in file.views(data).values()]


class TensorFile:
    """A `TensorSource` over safetensors in a seekable file. Reads the header; data only when asked.

    Nothing is allocated by a declared size: all sizes are held against the bytes that are there.

    Args:
        file: the whole file; what stands in it from `start` on is the safetensors part.
        start: where that begins.

    Attributes:
        specs: names, dtypes and shapes, in the header's order.
        metadata: texts of the header's own.

    Raises:
        WireError: the first rule that the bytes break.
    """

    def __init__(self, file: BinaryIO, start: int = 0) -> None:
        self._file = file
        header, data, size = _header(file, start)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
            raise WireError("the header's metadata aren't texts")
        self.metadata: Mapping[str, str] = metadata
        if len(header) > MAX_TENSORS:
            raise WireError(f"{len(header):,} tensors; at most {MAX_TENSORS:,} are read")
        entries = [_entry(name, value) for name, value in header.items()]
        end = 0
        for spec, (begin, stop) in sorted(entries, key=lambda entry: entry[1]):
            if begin != end:
                raise WireError(f"tensor {_show(spec.name)} begins at byte {begin}, not at {end}, where the last ends")
            end = stop
        if end != size:
            raise WireError(f"the tensors have {end:,} bytes, but {size:,} are there")
        self.specs = tuple(spec for spec, _ in entries)
        self._begins = tuple(data + begin for _, (begin, _) in entries)

    def read(self, place: int, start: int, stop: int) -> Array:
        """Elements ``start:stop`` of that tensor, flat. See `TensorSource`."""
        dtype = _little(self.specs[place])
        self._file.seek(self._begins[place] + start * dtype.itemsize)
        data = self._file.read((stop - start) * dtype.itemsize)
        return np.frombuffer(data, dtype)

    def views(self, whole: Any) -> dict[str, Array]:
        """The tensors by name, without a copy where they are aligned.

        Args:
            whole: the file's bytes, or a memory map of it; the arrays can be written to if it can.
        """
        views = {}
        for spec, begin in zip(self.specs, self._begins, strict=True):
            flat = np.frombuffer(whole, _little(spec), spec.size, begin) if spec.size else np.empty(0, _little(spec))
            views[spec.name] = np.require(flat.reshape(spec.shape), requirements="A")
        return views

    def check_numbered(self) -> None:
        """Raise WireError unless the keys are "0", "1", … in order."""
        if [spec.name for spec in self.specs] != [str(place) for place in range(len(self.specs))]:
            raise WireError('the tensors aren\'t called "0", "1", … in order')


def _header(file: BinaryIO, start: int) -> tuple[dict[str, Any], int, int]:
    """The header, where the data begins, and how many bytes it has."""
    left = file.seek(0, io.SEEK_END) - start - 8
    if left < 2:
        raise WireError("the tensors are cut short")
    file.seek(start)
    (length,) = struct.unpack("<Q", file.read(8))
    if length > MAX_HEADER:
        raise WireError(f"the tensors' header says it has {length:,} bytes; at most {MAX_HEADER:,} are read")
    if length > left:
        raise WireError("the tensors are cut short")
    text = file.read(length)
    if not text.startswith(b"{"):
        raise WireError("the tensors' header isn't an object")
    try:
        header = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise WireError(f"the tensors' header isn't JSON that can be read: {_show(str(error))}") from None
    return header, start + 8 + length, left - length


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} isn't JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def _entry(name: str, value: Any) -> tuple[TensorSpec, tuple[int, int]]:
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise WireError(f"a tensor is called {_show(name)}, expected 1 to {MAX_NAME} printable characters")
    where = f"tensor {_show(name)}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise WireError(f"{where} isn't described by dtype, shape and data_offsets")
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise WireError(f"{where} has dtype {_show(code)}; known are {', '.join(DTYPES)}")
    if not _numbers(shape) or len(shape) > MAX_RANK:
        raise WireError(f"{where} has shape {_show(shape)}, expected at most {MAX_RANK} sizes")
    if not _numbers(offsets) or len(offsets) != 2:
        raise WireError(f"{where} has offsets {_show(offsets)}, expected two")
    spec, (begin, end) = TensorSpec(name, DTYPES[code], tuple(shape)), offsets
    if end - begin != spec.size * np.dtype(spec.dtype).itemsize:
        raise WireError(f"{where} has shape {_show(shape)} of {spec.dtype}, but {end - begin:,} bytes")
    return spec, (begin, end)


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 1 << 63 for v in value
    )


def _little(spec: TensorSpec) -> np.dtype[Any]:
    return np.dtype(spec.dtype).newbyteorder("<")


def _show(value: object) -> str:
    """Foreign text for a message: short, one line, escaped."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
