"""Blobs by content: a blob's name is the SHA-256 of its bytes, so an id never becomes a path.

A blob is written to a draft, synced, and renamed: a reader sees all of it or nothing. Local folders are the default;
any other fsspec URL (``s3://bucket/prefix``) works with what that file system guarantees.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import threading
from collections import Counter
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

DRAFT = ".draft-"
PIECE = 1 << 20
"""bytes that are read or written at a time"""


SYNC_EVERY = 64 << 20
"""bytes of a draft after which the disk is set to work, so that little is left for it at the end"""

_syncing = ThreadPoolExecutor(2, "gridkit-sync")


class Draft:
    """A blob in the making: `write` it, then `Blobs.keep` it or `discard` it. Counts and hashes as it goes."""

    def __init__(self, fs: Any, path: str) -> None:
        self._fs = fs
        self.path = path
        self._file: BinaryIO = fs.open(path, "wb")
        self._hash = hashlib.sha256()
        self._syncs: list[Future[None]] = []
        self.size = 0

    def write(self, *pieces: bytes | memoryview) -> None:
        for piece in pieces:
            self._file.write(piece)
            self._hash.update(piece)
            self.size += len(piece)
        if self.size >= (len(self._syncs) + 1) * SYNC_EVERY and isinstance(self._fs, LocalFileSystem):
            self._file.flush()
            self._syncs.append(_syncing.submit(_sync, self.path))

    def synced(self) -> None:
        """Wait until all that was written is on the disk; raises what went wrong on the way there."""
        for sync in self._syncs:
            sync.result()
        _sync(self.path)  # by its name: whoever read the draft has closed its file

    @property
    def digest(self) -> str:
        """SHA-256 of what was written so far, in hex."""
        return self._hash.hexdigest()

    def close(self) -> None:
        """The end of writing."""
        if not self._file.closed:
            self._file.close()

    def open(self) -> BinaryIO:
        """Read back what was written (closes it for writing)."""
        self.close()
        return cast(BinaryIO, self._fs.open(self.path, "rb"))

    def discard(self) -> None:
        self.close()
        if self._fs.exists(self.path):
            self._fs.rm_file(self.path)


async def pour(pieces: AsyncIterable[bytes], write: Callable[[list[bytes]], Coroutine[Any, Any, None]]) -> None:
    """Hand what comes to `write`, a MiB or so at a time, while more comes: a step to a thread for each piece of a body
    (64 KiB) would take longer than the writing. What came before an error of `pieces` is written too.
    """
    gathered: list[bytes] = []
    size = 0
    writing: asyncio.Task[None] | None = None
    try:
        async for piece in pieces:
            gathered.append(piece)
            size += len(piece)
            if size >= PIECE:
                if writing is not None:
                    await writing
                writing = asyncio.ensure_future(write(gathered))
                gathered, size = [], 0
    finally:
        if writing is not None:
            await writing
        if gathered:
            await write(gathered)


def _sync(path: str) -> None:
    """What was written to this file, or changed in this folder, is on the disk afterwards."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Blobs:
    """The blobs of one node.

    Args:
        url: a folder or an fsspec URL.

    Methods block; the service calls them in threads. `pins` keep a blob from `collect` while a report is on its way
    into the database.
    """

    def __init__(self, url: str) -> None:
        self._fs, self._root = fsspec.core.url_to_fs(url)
        self._local = isinstance(self._fs, LocalFileSystem)
        self._fs.makedirs(self._root, exist_ok=True)
        self._lock = threading.Lock()
        self._pins: Counter[str] = Counter()

    def _path(self, digest: str) -> str:
        return f"{self._root}/{digest[:2]}/{digest}"

    def draft(self) -> Draft:
        """A new draft; its name is random."""
        return Draft(self._fs, f"{self._root}/{DRAFT}{secrets.token_hex(8)}")

    @contextmanager
    def pinned(self, *digests: str) -> Iterator[None]:
        """Within the block `collect` leaves these blobs alone."""
        with self._lock:
            self._pins.update(digests)
        try:
            yield
        finally:
            with self._lock:
                self._pins -= Counter(digests)

    def keep(self, draft: Draft) -> str:
        """Make the draft a blob, durably, and return its digest. Call it with the digest pinned."""
        draft.close()
        path = self._path(draft.digest)
        parent = path.rpartition("/")[0]
        if self._fs.exists(path):
            draft.discard()
            return draft.digest
        if not self._local:
            self._fs.mv(draft.path, path)
            return draft.digest
        draft.synced()
        fresh = not os.path.isdir(parent)
        os.makedirs(parent, exist_ok=True)
        os.replace(draft.path, path)
        for folder in (parent, self._root) if fresh else (parent,):
            _sync(folder)
        return draft.digest

    def put(self, pieces: Iterable[bytes]) -> tuple[str, int]:
        """Write the pieces as one blob: its digest and size. For callers that hold no pin yet nothing may collect."""
        draft = self.draft()
        try:
            for piece in pieces:
                draft.write(piece)
            return self.keep(draft), draft.size
        finally:
            draft.discard()

    def open(self, digest: str) -> BinaryIO:
        """The blob, for reading. FileNotFoundError when there is none."""
        return cast(BinaryIO, self._fs.open(self._path(digest), "rb"))

    def size(self, digest: str) -> int:
        return int(self._fs.size(self._path(digest)))

    def read(self, digest: str) -> bytes:
        with self.open(digest) as file:
            return file.read()

    def collect(self, digests: Iterable[str]) -> None:
        """Delete these blobs, but not the pinned ones."""
        for digest in digests:
            with self._lock:
                if digest not in self._pins and self._fs.exists(self._path(digest)):
                    self._fs.rm_file(self._path(digest))

    def sweep(self, wanted: set[str]) -> None:
        """At start: delete drafts and blobs that nothing refers to."""
        for path in self._fs.find(self._root):
            name = Path(path).name
            if name.startswith(DRAFT) or name not in wanted:
                self._fs.rm_file(path)
