"""Models as a node sends them to push participants, in whatever format: tensors by name, and the way back.

Formats are told by how a file begins. What comes is read as tensors; torch's archives, which are pickles inside, are
read symbolically, and whatever else may hold code is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import BinaryIO, Protocol

from gridkit.errors import ErrorCode, WireError
from gridkit.wire.foreign import HEAD, refuse_unsafe
from gridkit.wire.safetensors import TensorFile, pack_file
from gridkit.wire.state import StateReader, pack_state
from gridkit.wire.tensors import Array, Arrays, TensorSource, TensorSpec
from gridkit.wire.torch_archive import TorchArchive, is_torch_archive, rewrite


class ModelFile(Protocol):
    """A model that came.

    Its file stays open as long as it is used.

    Attributes:
        arrays: its tensors by name, in their order; not to be written to.
    """

    arrays: Mapping[str, Array]

    def pack(self, arrays: Mapping[str, Array]) -> bytes:
        """A file of the same format, names, dtypes and shapes, with these numbers. In a torch archive whole numbers
        stay as they came: they aren't averaged.

        Raises:
            WireError: the names, dtypes or shapes are others.
        """
        ...


class _Tensors:
    """A format that has nothing but tensors."""

    def __init__(self, source: TensorSource, pack: Callable[[Mapping[str, Array]], bytes]) -> None:
        if not source.specs:
            raise WireError("the model has no tensors")
        self._pack = pack
        self.arrays: Mapping[str, Array] = {
            spec.name or str(place): source.read(place, 0, spec.size).reshape(spec.shape)
            for place, spec in enumerate(source.specs)
        }

    def pack(self, arrays: Mapping[str, Array]) -> bytes:
        check_fit(self.arrays, arrays)
        return self._pack({name: arrays[name] for name in self.arrays})


def read_safetensors(file: BinaryIO) -> ModelFile:
    """A safetensors file."""
    return _Tensors(TensorFile(file), lambda arrays: pack_file(arrays).tobytes())


def read_state_message(file: BinaryIO) -> ModelFile:
    """A State message, as PySyft and syft.js exchange them."""
    return _Tensors(StateReader(file), pack_state)


def read_torch_archive(file: BinaryIO) -> ModelFile:
    """What ``torch.save`` or ``torch.jit.save`` wrote: a state dict, a module, or TorchScript."""
    archive = TorchArchive(file)
    return _Tensors(archive, lambda arrays: b"".join(rewrite(archive, Arrays(arrays))))


def read_model(file: BinaryIO) -> ModelFile:
    """The model in a seekable file, of any known format.

    Raises:
        WireError: `UNSAFE_FORMAT` for pickles and what hides them, `MALFORMED` for whatever else isn't a model.

    >>> model = read_model(file)                                                    # doctest: +SKIP
    >>> update = model.pack({name: array + 1 for name, array in model.arrays.items()})   # doctest: +SKIP
    """
    file.seek(0)
    head = file.read(HEAD)
    if is_torch_archive(head):
        return read_torch_archive(file)
    refuse_unsafe(head, "have the node send a state dict")
    return read_safetensors(file) if head[8:9] == b"{" else read_state_message(file)


def check_fit(wanted: Mapping[str, Array], given: Mapping[str, Array]) -> None:
    """Pass if both have the same names, dtypes and shapes.

    Raises:
        WireError: naming the first tensor that doesn't fit.
    """
    if odd := sorted(wanted.keys() ^ given.keys(), key=str):
        state = "is missing" if odd[0] in wanted else "isn't the model's"
        raise WireError(f"tensor '{odd[0]}' {state}", "send all of the model's", code=ErrorCode.NAME_MISMATCH)
    for name, array in wanted.items():
        want, have = (TensorSpec(name, str(a.dtype), tuple(a.shape)) for a in (array, given[name]))
        if want.shape != have.shape:
            message = f"tensor '{name}' has shape {list(have.shape)}, the model's has {list(want.shape)}"
            raise WireError(message, code=ErrorCode.SHAPE_MISMATCH)
        if want.dtype != have.dtype:
            message = f"tensor '{name}' has dtype {have.dtype}, the model's has {want.dtype}"
            raise WireError(message, code=ErrorCode.DTYPE_MISMATCH)
