"""A state dict as the archive that ``torch.save`` makes of it, written without torch.

So a model that a node keeps as plain tensors can be handed to whoever reads models with ``torch.load``, which takes it
with ``weights_only=True`` too. Source: torch 2.13, ``torch/serialization.py`` and ``torch/_utils.py``.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Iterator

import numpy as np

from gridkit.errors import WireError
from gridkit.wire.tensors import Array, TensorSource, TensorSpec
from gridkit.wire.torch_views import DTYPES

PIECE = 1 << 20
"""elements that are read at a time"""
ALIGNMENT = 64
"""bytes; torch maps archives into memory, and writes its own so"""

_STORAGES = {dtype: name.rpartition(".")[2] for name, dtype in DTYPES.items()}
_FLAGS = 0x0808  # sizes and CRC follow the data; names are UTF-8
_ORDERED = b"ccollections\nOrderedDict\n)R"


def pack_archive(values: TensorSource) -> Iterator[bytes]:
    """The archive in pieces. Each tensor has a storage of its own, in C order.

    Raises:
        WireError: a dtype that archives don't have, or 4 GiB or more.

    >>> archive = TorchArchive(io.BytesIO(b"".join(pack_archive(Arrays({"b": np.ones(2, "f4")})))))  # doctest: +SKIP
    """
    specs = values.specs
    for spec in specs:
        if spec.dtype not in _STORAGES:
            raise WireError(f"tensor '{spec.name}' has dtype {spec.dtype}, which torch archives don't have")
    total = sum(spec.size * np.dtype(spec.dtype).itemsize for spec in specs)
    if total + 4096 * (len(specs) + 1) >= 1 << 32:
        raise WireError(f"the tensors have {total:,} bytes; archives of less than 4 GiB are written")
    contents: list[tuple[str, Iterable[bytes]]] = [("data.pkl", [_pickle(specs)]), ("byteorder", [b"little"])]
    contents += [(f"data/{place}", _elements(values, place)) for place in range(len(specs))]
    contents.append(("version", [b"3\n"]))
    at, directory = 0, bytearray()
    for name, pieces in contents:
        path = f"archive/{name}".encode()
        padding = -(at + 30 + len(path) + 4) % ALIGNMENT
        extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
        head = struct.pack("<4s5H3L2H", b"PK\x03\x04", 0, _FLAGS, 0, 0, 0, 0, 0, 0, len(path), len(extra))
        yield head + path + extra
        crc = size = 0
        for piece in pieces:
            crc, size = zlib.crc32(piece, crc), size + len(piece)
            yield piece
        yield struct.pack("<4s3L", b"PK\x07\x08", crc, size, size)
        fields = (0, 0, _FLAGS, 0, 0, 0, crc, size, size, len(path), 0, 0, 0, 0, 0, at)
        directory += struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *fields) + path
        at += len(head) + len(path) + len(extra) + size + 16
    count = len(contents)
    yield bytes(directory) + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(directory), at, 0)


def _elements(values: TensorSource, place: int) -> Iterator[bytes]:
    spec = values.specs[place]
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    for start in range(0, spec.size, PIECE):
        part: Array = values.read(place, start, min(start + PIECE, spec.size))
        yield part.astype(dtype, copy=False).tobytes()


def _pickle(specs: Iterable[TensorSpec]) -> bytes:
    tensors = b"".join(_text(spec.name) + _tensor(spec, str(key)) + b"s" for key, spec in enumerate(specs))
    return b"\x80\x02" + _ORDERED + tensors + b"."


def _tensor(spec: TensorSpec, key: str) -> bytes:
    """``_rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())``."""
    strides = [math.prod(spec.shape[dim + 1 :]) for dim in range(len(spec.shape))]
    storage = b"(" + _text("storage") + f"ctorch\n{_STORAGES[spec.dtype]}\n".encode() + _text(key) + _text("cpu")
    storage += _number(spec.size) + b"tQ"
    arguments = storage + _number(0) + _numbers(spec.shape) + _numbers(strides) + b"\x89" + _ORDERED
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<L", len(data)) + data


def _number(number: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", number) if number >> 31 else b"J" + struct.pack("<l", number)


def _numbers(numbers: Iterable[int]) -> bytes:
    return b"(" + b"".join(_number(number) for number in numbers) + b"t"
