"""What a node does with torch archives. Blocking; called in threads. Nothing of an archive is ever run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from gridkit.errors import NodeError, WireError
from gridkit.node.store.blobs import PIECE, Draft
from gridkit.wire.state import StateReader, pack_stream
from gridkit.wire.tensors import Array, Difference, TensorSource, TensorSpec
from gridkit.wire.torch_archive import TorchArchive, layout_difference, rewrite
from gridkit.wire.torch_writer import pack_archive

CHUNK = 1 << 20
"""elements that are read at a time"""


def check_archive(file: BinaryIO) -> TorchArchive:
    """An archive that a training can start from.

    Raises:
        WireError: what is wrong with it.
    """
    archive = TorchArchive(file)
    if not any(spec.averaged and spec.size for spec in archive.specs):
        raise WireError("the model has no floating-point numbers to train", "save them as float32")
    return archive


def write_state(source: TensorSource, draft: Draft) -> tuple[TensorSpec, ...]:
    """All tensors as a State message, as checkpoints and reports are kept."""
    for piece in pack_stream(source.specs, _chunks(source)):
        draft.write(piece)
    return source.specs


def write_archive(model: BinaryIO, draft: Draft) -> None:
    """A State message as the archive that push participants fetch.

    Raises:
        NodeError: it has tensors that archives don't have.
    """
    try:
        for piece in pack_archive(StateReader(model)):
            draft.write(piece)
        with draft.open() as file:
            check_archive(file)
    except WireError as error:
        raise NodeError(
            f"push participants can't be sent this model: {error.message}",
            error.hint or "train a model of float32 tensors",
            code=error.code,
            status=400,
        ) from None


def write_update(archive: BinaryIO, upload: BinaryIO, checkpoint: BinaryIO, draft: Draft) -> None:
    """What a participant's model comes to: the checkpoint that it started from minus the model, over the floating
    tensors.

    Raises:
        WireError: the upload is no archive of the hosted one's layout.
    """
    base, got = TorchArchive(archive), TorchArchive(upload)
    if (why := layout_difference(base, got)) is not None:
        raise WireError(f"the uploaded model can't be averaged: {why}", "send the fetched model back, trained")
    write_state(Difference(StateReader(checkpoint), got), draft)


class Served:
    """An archive with the values of a checkpoint, in blocks of a MiB or so.

    Args:
        archive: its file.
        checkpoint: a State message in a file; None for the archive as it came.

    `close` closes both files.
    """

    def __init__(self, archive: BinaryIO, checkpoint: BinaryIO | None = None) -> None:
        self._files = (archive, checkpoint)
        self.size = archive.seek(0, 2)
        if checkpoint is None:
            archive.seek(0)
            self._pieces: Iterator[bytes] = iter(lambda: archive.read(PIECE), b"")
        else:
            self._pieces = rewrite(TorchArchive(archive), StateReader(checkpoint))

    def read(self) -> bytes:
        """The next block; b"" at the end."""
        gathered: list[bytes] = []
        size = 0
        while size < PIECE and (piece := next(self._pieces, None)) is not None:
            gathered.append(piece)
            size += len(piece)
        return b"".join(gathered)

    def close(self) -> None:
        for file in self._files:
            if file is not None:
                file.close()


def _chunks(source: TensorSource) -> Iterator[Array]:
    for place, spec in enumerate(source.specs):
        for start in range(0, spec.size, CHUNK):
            yield source.read(place, start, min(start + CHUNK, spec.size))
