"""torch's archives (``torch.save``, ``torch.jit.save``), read and written without torch and without unpickling.

An archive is a zip file: ``data.pkl`` says what object it is; ``data/0``, ``data/1``, … are the storages of its
tensors, uncompressed. The pickle is read as symbols: so the tensors' names and the places of their elements are known,
and nothing of it is ever run. Averaging reads the elements where they lie; its result is one of the archives with other
bytes in its floating storages, and with everything else, code too, as it was. So a training keeps the kind of archive
that was hosted.

Reading a module's archive here makes it no safer for those who unpickle it: its classes are the sender's choice.

Source: torch 2.13, ``caffe2/serialize/inline_container.cc`` and ``torch/serialization.py``.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Literal

import numpy as np

from gridkit.errors import ErrorCode, WireError
from gridkit.wire.foreign import HEAD, refuse_unsafe
from gridkit.wire.symbols import MAX_BYTES, read_symbols
from gridkit.wire.tensors import Array, TensorSource
from gridkit.wire.torch_views import CALLS, View, named_views
from gridkit.wire.zips import Entry, read_entries

PIECE = 1 << 20
"""bytes that are handed on at a time"""
MAX_SHARED = 32
"""how many times as many elements as the storages have the tensors may have together (tied ones count each)"""

_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
_HINT = "send what torch.save(model.state_dict(), file) writes"
_MANGLED = re.compile(r"\.___torch_mangle_\d+")


def is_torch_archive(head: bytes) -> bool:
    """Whether bytes may be an archive, by how they begin: as a zip file does."""
    return head.startswith(b"PK\x03\x04")


class TorchArchive:
    """A `TensorSource` over an archive in a seekable file. Reads its structure; elements only when asked.

    Attributes:
        kind: "state_dict", "module" or "torchscript".
        specs: names, dtypes and shapes, in the order of ``state_dict()``.
        views: the same tensors, with storage, offset and strides.
        classes: names of the classes that unpickling makes instances of; none for a state dict.
        size: bytes of the file.

    Raises:
        WireError: `UNSAFE_FORMAT` for pickles that aren't archives (torch's format before 1.6 among them), and for
            archives that would call a function; `MALFORMED` for whatever else isn't an archive that can be averaged.
    """

    def __init__(self, file: BinaryIO) -> None:
        file.seek(0)
        head = file.read(HEAD)
        if not is_torch_archive(head):
            if head.startswith(_LEGACY):
                text = "the file is in torch's format before 1.6, a bare pickle"
                raise WireError(text, _HINT, code=ErrorCode.UNSAFE_FORMAT)
            refuse_unsafe(head, _HINT)
            raise WireError("the bytes are no torch archive", _HINT)
        self._file = file
        entries = read_entries(file)
        self.size = file.seek(0, 2)
        roots = {name.partition("/")[0] for name in entries}
        if len(roots) != 1:
            raise WireError("the archive's entries aren't in one folder", _HINT)
        self._entries = {name.partition("/")[2]: entry for name, entry in entries.items()}
        self._order = self._byteorder()
        root, self.classes = read_symbols(self._short("data.pkl", MAX_BYTES), CALLS)
        self.kind, self.views = named_views(root, self.classes, "constants.pkl" in self._entries)
        self.specs = tuple(view.spec for view in self.views)
        self._check_storages()

    def read(self, place: int, start: int, stop: int) -> Array:
        """Elements ``start:stop`` of that tensor, flat, in C order. See `TensorSource`."""
        view = self.views[place]
        native = np.dtype(view.spec.dtype)
        if start >= stop:
            return np.empty(0, native)
        if view.in_order:
            return self._elements(view, view.offset + start, view.offset + stop).astype(native, copy=False)
        laid = view.laid(self._elements(view, view.offset, view.offset + view.extent))
        return laid.flat[start:stop].astype(native, copy=False)

    def entry(self, view: View) -> Entry:
        """Where the storage of a tensor lies in the file."""
        return self._entries[f"data/{view.storage}"]

    def storage(self, views: Iterable[tuple[int, View]], values: TensorSource) -> Iterator[bytes]:
        """The bytes of one storage, with other values where its tensors lie.

        Args:
            views: all tensors of the storage, each with its place among `specs`.
            values: the tensors' values.
        """
        distinct = {(v.offset, v.spec.shape, v.stride): (place, v) for place, v in views}.values()
        first = next(iter(distinct))[1]
        dtype = self._dtype(first)
        step = PIECE // dtype.itemsize if all(view.in_order for _, view in distinct) else first.numel
        for low in range(0, first.numel, step):
            piece = self._elements(first, low, min(low + step, first.numel)).copy()
            for place, view in distinct:
                if view.in_order:
                    begin, end = max(low, view.offset), min(low + len(piece), view.offset + view.spec.size)
                    if begin < end:
                        piece[begin - low : end - low] = values.read(place, begin - view.offset, end - view.offset)
                else:
                    laid = view.laid(piece[view.offset :])
                    laid[...] = values.read(place, 0, view.spec.size).reshape(view.spec.shape)
            yield piece.tobytes()

    def pieces(self, start: int, stop: int) -> Iterator[bytes]:
        """The file's bytes from `start` to `stop`, in pieces."""
        for at in range(start, stop, PIECE):
            self._file.seek(at)
            yield self._file.read(min(PIECE, stop - at))

    def _elements(self, view: View, start: int, stop: int) -> Array:
        """Of the tensor's storage, in the archive's byte order."""
        dtype = self._dtype(view)
        self._file.seek(self.entry(view).start + start * dtype.itemsize)
        data = self._file.read((stop - start) * dtype.itemsize)
        if len(data) < (stop - start) * dtype.itemsize:
            raise WireError("the archive is cut short")
        return np.frombuffer(data, dtype)

    def _dtype(self, view: View) -> np.dtype[Any]:
        return np.dtype(view.spec.dtype).newbyteorder(self._order)

    def _byteorder(self) -> Literal["<", ">"]:
        if "byteorder" not in self._entries:  # before torch 2.1
            return "<"
        text = self._short("byteorder", 20)
        if text not in (b"little", b"big"):
            raise WireError("the archive doesn't say whether its bytes are little- or big-endian")
        return "<" if text == b"little" else ">"

    def _short(self, name: str, limit: int) -> bytes:
        entry = self._entries.get(name)
        if entry is None or not entry.stored:
            raise WireError(f"the archive has no entry {name}, or a compressed one", _HINT)
        if entry.size > limit:
            raise WireError(f"the archive's entry {name} has {entry.size:,} bytes; at most {limit:,} are read")
        self._file.seek(entry.start)
        return self._file.read(entry.size)

    def _check_storages(self) -> None:
        storages: dict[str, int] = {}
        for view in self.views:
            entry = self._entries.get(f"data/{view.storage}")
            if entry is None or not entry.stored:
                raise WireError(f"the archive has no storage {view.storage}, or a compressed one")
            if entry.size != view.numel * np.dtype(view.spec.dtype).itemsize:
                raise WireError(f"storage {view.storage} has {entry.size:,} bytes, not {view.numel:,} elements")
            storages[view.storage] = entry.size
        total = sum(spec.size * np.dtype(spec.dtype).itemsize for spec in self.specs)
        if total > MAX_SHARED * sum(storages.values()):
            raise WireError("the archive's tensors share their storages too many times over")


def rewrite(archive: TorchArchive, values: TensorSource) -> Iterator[bytes]:
    """The archive with other values in its floating tensors, in pieces, of the same size as before.

    Only the entries of floating storages change, and the CRC-32 of each. Elements of such a storage that no tensor has
    stay; integers stay. Memory is bounded by a piece, or by one storage whose tensors don't lie in order.

    Args:
        archive: the one whose kind, code and integers are kept.
        values: tensors of the same names, dtypes and shapes; read twice.

    Raises:
        WireError: they are others.

    >>> data = b"".join(rewrite(archive, Arrays({"weight": np.ones((2, 2), np.float32)})))   # doctest: +SKIP
    """
    if archive.specs != values.specs:
        raise WireError("the values aren't those of the archive's tensors")
    storages: dict[str, list[tuple[int, View]]] = {}
    for place, view in enumerate(archive.views):
        if view.spec.averaged and view.spec.size:
            storages.setdefault(view.storage, []).append((place, view))
    changes: list[tuple[int, int, Iterable[bytes]]] = []
    for views in storages.values():
        entry, crc = archive.entry(views[0][1]), 0
        for piece in archive.storage(views, values):
            crc = zlib.crc32(piece, crc)
        changes.append((entry.start, entry.size, archive.storage(views, values)))
        changes += [(at, 4, [crc.to_bytes(4, "little")]) for at in entry.crcs]
    return _patched(archive, sorted(changes, key=lambda change: change[0]))


def _patched(archive: TorchArchive, changes: Iterable[tuple[int, int, Iterable[bytes]]]) -> Iterator[bytes]:
    at = 0
    for start, size, pieces in changes:
        yield from archive.pieces(at, start)
        yield from pieces
        at = start + size
    yield from archive.pieces(at, archive.size)


def layout_difference(archive: TorchArchive, other: TorchArchive) -> str | None:
    """What keeps the tensors of the other from being averaged with those of an archive, in words; None if nothing does.

    Kind, classes, tensors (names, dtypes, shapes, in order) and which of them share their memory must be the same. What
    differs between two machines that save the same model doesn't count: storage keys, strides, file names, mangled
    names of TorchScript's classes, code and its debug information (the result keeps those of `archive`).
    """
    if archive.kind != other.kind:
        return f"it is a {other.kind}, expected a {archive.kind}"
    one, two = _class_names(archive), _class_names(other)
    if one != two:
        return f"it has other classes: {', '.join(sorted(one ^ two))[:200]}"
    if len(archive.specs) != len(other.specs):
        return f"it has {len(other.specs)} tensors, expected {len(archive.specs)}"
    for want, got in zip(archive.specs, other.specs, strict=True):
        if want != got:
            texts = [f"'{spec.name}', {spec.dtype} {list(spec.shape)}" for spec in (got, want)]
            return f"it has tensor {texts[0]}, expected {texts[1]}"
    if _shared(archive.views) != _shared(other.views):
        return "other tensors of it share their memory"
    return None


def _class_names(archive: TorchArchive) -> set[str]:
    return {_MANGLED.sub("", name) for name in archive.classes}


def _shared(views: Iterable[View]) -> list[list[tuple[str, int, tuple[int, ...]]]]:
    """The tensors of each storage that several have, with their places in it."""
    found: dict[str, list[tuple[str, int, tuple[int, ...]]]] = {}
    for view in views:
        found.setdefault(view.storage, []).append((view.spec.name, view.offset, view.stride))
    return [group for group in found.values() if len(group) > 1]
