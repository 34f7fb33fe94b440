"""State messages: models and diffs as PySyft's clients and syft.js exchange them.

Source: syft-proto 0.4.9, ``syft_proto.execution.v1.State``; only the typed, safe form is read (serializer 4,
`contents_data`). Names travel as the placeholders' descriptions, which other clients ignore.

::

    State        1 Placeholder*  2 StateTensor*
    Placeholder  3 Id  4 tags*  5 description  6 expected_shape
    StateTensor  1 TorchTensor | 2 Parameter{2 TorchTensor}
    TorchTensor  1 Id  2 TensorData  3 contents_bin  4 chain  5 grad_chain  8 serializer
    TensorData   1 Size{1 dims*}  2 dtype  3 is_quantized  16… packed contents, one field a dtype
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from gridkit.errors import ErrorCode, WireError
from gridkit.wire.foreign import HEAD, refuse_unsafe
from gridkit.wire.protobuf import (
    LENGTH,
    VARINT,
    Scanner,
    delimited,
    integer,
    opening,
    pack_varints,
    unpack_varints,
    varint,
)
from gridkit.wire.tensors import Array, TensorSpec

_FIELDS = {
    "uint8": 16,
    "int8": 17,
    "int16": 18,
    "int32": 19,
    "int64": 20,
    "float16": 21,
    "float32": 22,
    "float64": 23,
    "bool": 24,
}
_RAW: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f4"), "float32": np.dtype("<f4"), "float64": np.dtype("<f8")}
"""dtypes whose elements lie in the message as they are; float16 travels as 32-bit floats"""
_SERIALIZER_ALL = 4
MAX_RANK = 16
FIELDS_PER_TENSOR = 32
"""about twice as many as known senders write"""


# ---- writing


def pack_state(arrays: Mapping[str, Array]) -> bytes:
    """Arrays as one State message, in their order.

    >>> read_state(pack_state({"b": np.ones(2, np.float32)}))
    {'b': array([1., 1.], dtype=float32)}

    Raises:
        WireError: a dtype that State messages don't have.
    """
    specs = [TensorSpec(name, str(array.dtype), tuple(array.shape)) for name, array in arrays.items()]
    return b"".join(pack_stream(specs, (np.ascontiguousarray(a).reshape(-1) for a in arrays.values())))


def pack_stream(specs: Sequence[TensorSpec], chunks: Iterable[Array]) -> Iterator[bytes]:
    """A State message in pieces, from flat chunks that come tensor by tensor (none for an empty tensor).

    Never holds more than a chunk of a floating tensor.
    """
    for place, spec in enumerate(specs):
        yield delimited(1, _placeholder(place, spec))
    source = iter(chunks)
    for place, spec in enumerate(specs):
        if spec.dtype not in _FIELDS:
            raise WireError(f"tensor '{spec.name}' has dtype {spec.dtype}, which State messages don't have")
        parts = _taken(source, spec)
        if spec.dtype in _RAW:
            raw = _RAW[spec.dtype]
            yield _opened(place, spec, spec.size * raw.itemsize)
            for part in parts:
                yield part.astype(raw, copy=False).tobytes()
        else:
            packed = b"".join(pack_varints(part) for part in parts)
            yield _opened(place, spec, len(packed)) + packed
        yield integer(8, _SERIALIZER_ALL)


def _taken(source: Iterator[Array], spec: TensorSpec) -> Iterator[Array]:
    left = spec.size
    while left > 0:
        part = next(source, None)
        left -= 0 if part is None else len(part)
        if part is None or left < 0:
            raise ValueError(f"the chunks don't end where tensor '{spec.name}' does")
        if len(part):
            yield part


def _placeholder(place: int, spec: TensorSpec) -> bytes:
    tags = delimited(4, f"#{place}".encode()) + delimited(4, f"#state-{place}".encode())
    shape = delimited(6, _dims(spec.shape))
    return delimited(3, integer(1, place)) + tags + delimited(5, spec.name.encode()) + shape


def _dims(shape: tuple[int, ...]) -> bytes:
    return delimited(1, b"".join(varint(size) for size in shape)) if shape else b""


def _opened(place: int, spec: TensorSpec, size: int) -> bytes:
    """Everything of a StateTensor that stands before its contents; the serializer follows them."""
    contents = opening(_FIELDS[spec.dtype], size) if size else b""
    data = delimited(1, _dims(spec.shape)) + delimited(2, spec.dtype.encode()) + contents
    tensor = delimited(1, integer(1, place)) + opening(2, len(data) + size) + data
    whole = len(tensor) + size + len(integer(8, _SERIALIZER_ALL))
    inner = opening(1, whole)
    return opening(2, len(inner) + whole) + inner + tensor


# ---- reading


def read_state(data: bytes) -> dict[str, Array]:
    """The tensors of a State message by name (by their place, where the sender gave no names).

    Raises:
        WireError: see `StateReader`.
    """
    reader = StateReader(io.BytesIO(data))
    return {
        spec.name or str(place): reader.read(place, 0, spec.size).reshape(spec.shape).copy()
        for place, spec in enumerate(reader.specs)
    }


@dataclass(frozen=True, slots=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]
    where: int
    size: int


class StateReader:
    """A `TensorSource` over a State message in a seekable file. Reads the structure; contents only when asked.

    Nothing is allocated by a declared size: sizes are held against the bytes that are there.

    Raises:
        WireError: `UNSAFE_FORMAT` for pickles, archives and opaque contents, `MALFORMED` for whatever else isn't a
            State message.
    """

    def __init__(self, file: BinaryIO, *, max_tensors: int = 10_000) -> None:
        file.seek(0)
        refuse_unsafe(file.read(HEAD), "send a State message with typed contents")
        self._scanner = Scanner(file)
        self._decoded: dict[int, Array] = {}
        names: list[str] = []
        self._entries: list[_Entry] = []
        for number, kind, size, where in self._scanner.fields(0, self._scanner.size):
            if number in (1, 2) and kind != LENGTH:
                raise WireError("the message is not a State: a tensor is a number")
            self._scanner.allow(FIELDS_PER_TENSOR if number in (1, 2) else 0)
            if number == 1:
                names.append(self._name(where, where + size))
            elif number == 2:
                self._entries.append(self._state_tensor(where, where + size, len(self._entries)))
            if max(len(names), len(self._entries)) > max_tensors:
                raise WireError(f"the message has more than {max_tensors} tensors")
        if not self._entries and self._scanner.size:
            raise WireError("the message is not a State, or one without tensors")
        names += [""] * (len(self._entries) - len(names))
        self.specs = tuple(
            TensorSpec(name, entry.dtype, entry.shape) for name, entry in zip(names, self._entries, strict=False)
        )

    def read(self, place: int, start: int, stop: int) -> Array:
        """Elements ``start:stop`` of that tensor, flat. See `TensorSource`."""
        entry, dtype = self._entries[place], np.dtype(self.specs[place].dtype)
        if entry.dtype in _RAW:
            raw = _RAW[entry.dtype]
            data = self._scanner.read(entry.where + start * raw.itemsize, (stop - start) * raw.itemsize)
            return np.frombuffer(data, raw).astype(dtype, copy=False)
        if place not in self._decoded:
            values = unpack_varints(self._scanner.read(entry.where, entry.size))
            self._decoded[place] = _narrowed(values, self.specs[place])
        return self._decoded[place][start:stop]

    def _name(self, start: int, end: int) -> str:
        for number, kind, size, where in self._scanner.fields(start, end):
            if number == 5 and kind == LENGTH:
                return self._scanner.text(where, size)
        return ""

    def _state_tensor(self, start: int, end: int, place: int) -> _Entry:
        for number, kind, size, where in self._scanner.fields(start, end):
            if number == 1 and kind == LENGTH:
                return self._tensor(where, where + size, place)
            if number == 2 and kind == LENGTH:
                for inner, inner_kind, inner_size, inner_where in self._scanner.fields(where, where + size):
                    if inner == 2 and inner_kind == LENGTH:
                        return self._tensor(inner_where, inner_where + inner_size, place)
        raise WireError(f"tensor {place} is empty")

    def _tensor(self, start: int, end: int, place: int) -> _Entry:
        entry: _Entry | None = None
        for number, kind, size, where in self._scanner.fields(start, end):
            if number == 3 or (number == 8 and size != _SERIALIZER_ALL):
                raise WireError(
                    f"tensor {place} is sent as opaque bytes, which may hold code",
                    "send typed contents (serializer 4)",
                    code=ErrorCode.UNSAFE_FORMAT,
                )
            if number in (4, 5) and size:
                raise WireError(f"tensor {place} is a chain of tensors")
            if number == 2 and kind == LENGTH:
                entry = self._data(where, where + size, place)
        if entry is None:
            raise WireError(f"tensor {place} has no contents")
        return entry

    def _data(self, start: int, end: int, place: int) -> _Entry:
        shape: tuple[int, ...] = ()
        dtype = ""
        contents: dict[int, tuple[int, int]] = {}
        for number, kind, size, where in self._scanner.fields(start, end):
            if number == 1 and kind == LENGTH:
                shape = self._shape(where, where + size, place)
            elif number == 2 and kind == LENGTH:
                dtype = self._scanner.text(where, size)
            elif number == 3 and kind == VARINT and size:
                raise WireError(f"tensor {place} is quantised")
            elif number >= 16:
                if kind != LENGTH or number in contents:
                    raise WireError(f"the contents of tensor {place} are not one packed field")
                contents[number] = (where, size)
        if dtype not in _FIELDS:
            raise WireError(f"tensor {place} has the unknown dtype {dtype[:30]!r}")
        where, size = contents.pop(_FIELDS[dtype], (start, 0))
        if contents:
            raise WireError(f"tensor {place} has contents of another dtype than {dtype}")
        count = TensorSpec("", dtype, shape).size
        fits = size == count * _RAW[dtype].itemsize if dtype in _RAW else count <= size <= 10 * count
        if not fits:
            raise WireError(f"tensor {place} has shape {list(shape)} but {size} bytes of {dtype}")
        return _Entry(dtype, shape, where, size)

    def _shape(self, start: int, end: int, place: int) -> tuple[int, ...]:
        sizes: list[int] = []
        for number, kind, value, where in self._scanner.fields(start, end):
            if number == 1:
                sizes += [value] if kind == VARINT else unpack_varints(self._scanner.short(where, value, 160)).tolist()
        if len(sizes) > MAX_RANK or any(not 0 <= size < 2**31 for size in sizes):
            raise WireError(f"tensor {place} has an impossible shape")
        return tuple(sizes)


def _narrowed(values: Array, spec: TensorSpec) -> Array:
    dtype = np.dtype(spec.dtype)
    if len(values) != spec.size:
        raise WireError(f"tensor '{spec.name}' has {len(values)} elements, not {spec.size}")
    narrow = values.astype(dtype)
    if not np.array_equal(narrow.astype(np.int64), values):
        raise WireError(f"tensor '{spec.name}' has elements that are no {spec.dtype}")
    return narrow
