"""Large models on their way in: begun, filled piece by piece over any number of connections, taken when complete.

An upload is a draft on disk and an entry in memory: a node that starts again knows none of them, and sweeps their
drafts (`Blobs.sweep`).
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from gridkit.errors import ConflictError, ErrorCode, LimitError, NodeError, NotFoundError
from gridkit.node.direct import DirectBody
from gridkit.node.rights import Principal, Role
from gridkit.node.settings import Limits
from gridkit.node.store.blobs import Blobs, Draft, pour

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(slots=True, eq=False)
class Upload:
    """Bytes that are expected.

    Attributes:
        size: how many there will be.
        sha256: their digest in hex, if it was told beforehand.
        draft: those that came; `offset` is their number.
        turn: grows with each connection that goes on with it; only the last one may write.
    """

    id: str
    who: tuple[Role, str]
    size: int
    sha256: str | None
    draft: Draft
    turn: int = 0
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    expiry: asyncio.TimerHandle | None = None

    @property
    def offset(self) -> int:
        return self.draft.size


class Uploads:
    """The uploads of one node, bounded in number, bytes and idle time (see `Limits`).

    Each is its principal's own: to anybody else it doesn't exist.
    """

    def __init__(self, blobs: Blobs, limits: Limits) -> None:
        self._blobs = blobs
        self._limits = limits
        self._uploads: dict[str, Upload] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def begin(self, principal: Principal, size: int, sha256: str | None = None) -> Upload:
        """Expect so many bytes.

        Raises:
            LimitError: `TOO_LARGE`; `TOO_MANY` when this principal's other uploads fill what there is for them.
        """
        if not 0 < size <= self._limits.upload:
            raise LimitError(
                f"an upload may have 1 to {self._limits.upload} bytes, not {size}", code=ErrorCode.TOO_LARGE, status=413
            )
        if sha256 is not None and not _SHA256.fullmatch(sha256):
            raise NodeError("sha256 must be 64 digits in lower case hex", code=ErrorCode.BAD_REQUEST, status=400)
        who = (principal.role, principal.name)
        mine = [upload for upload in self._uploads.values() if upload.who == who]
        if len(mine) >= self._limits.uploads or sum(u.size for u in mine) + size > self._limits.uploads_bytes:
            raise LimitError(
                f"{len(mine)} uploads of yours are under way on this node",
                "finish or delete one of them; idle ones end by themselves",
                code=ErrorCode.TOO_MANY,
                status=429,
            )
        upload = Upload(secrets.token_urlsafe(16), who, size, sha256, self._blobs.draft())
        self._uploads[upload.id] = upload
        self._touch(upload)
        return upload

    def find(self, principal: Principal, upload_id: str) -> Upload:
        """One of the principal's own uploads.

        Raises:
            NotFoundError: none of this principal's has this id: it never was, it ended, or the node started again.
        """
        upload = self._uploads.get(upload_id)
        if upload is None or upload.who != (principal.role, principal.name):
            raise NotFoundError("there is no such upload", "begin it anew", code=ErrorCode.NOT_FOUND, status=404)
        return upload

    async def resume(self, principal: Principal, upload_id: str, offset: int | None = None) -> tuple[Upload, int]:
        """Go on with an upload: the turn is for `append`, and ends those of earlier connections.

        Args:
            offset: where the caller goes on; None asks for where that is.

        Raises:
            ConflictError: `WRONG_OFFSET`.
        """
        async with self._held(principal, upload_id) as upload:
            if offset not in (None, upload.offset):
                raise ConflictError(
                    f"the upload has {upload.offset} bytes, not {offset}",
                    "go on from there",
                    code=ErrorCode.WRONG_OFFSET,
                    status=409,
                )
            upload.turn += 1
            return upload, upload.turn

    async def append(self, upload: Upload, turn: int, pieces: list[bytes]) -> None:
        """Add these bytes, all or none of them.

        Raises:
            ConflictError: another connection goes on with this upload, or it ended.
            LimitError: more than was told; none of them is kept.
            OSError: the disk failed; the upload is gone.
        """
        async with self._turn(upload, turn, sum(map(len, pieces))):
            await asyncio.to_thread(upload.draft.write, *pieces)

    async def receive(self, upload: Upload, turn: int, pieces: AsyncIterable[bytes]) -> None:
        """Add the bytes of a body. What came before a cut stays."""
        await pour(pieces, lambda gathered: self.append(upload, turn, gathered))

    async def receive_directly(self, upload: Upload, turn: int, body: DirectBody) -> None:
        """The same, past the event loop."""
        while body.left:
            async with self._turn(upload, turn, body.left):
                await body.read(upload.draft.write)

    def turn(self, upload_id: str) -> asyncio.Lock:
        """For whoever makes something of an upload: a request that comes again meanwhile finds what was made."""
        return self._turns.setdefault(upload_id, asyncio.Lock())

    async def take(self, principal: Principal, upload_id: str) -> Draft:
        """The bytes of a finished upload, which ends with this; the caller discards the draft.

        Raises:
            ConflictError: bytes are missing; the upload goes on.
            NodeError: `DIGEST_MISMATCH`: they aren't what was told beforehand; nothing is kept of them.
        """
        async with self._held(principal, upload_id) as upload:
            if upload.offset < upload.size:
                raise ConflictError(
                    f"the upload has {upload.offset} of {upload.size} bytes",
                    "send the rest first",
                    code=ErrorCode.WRONG_OFFSET,
                    status=409,
                )
            self._forget(upload)
            if upload.sha256 not in (None, upload.draft.digest):
                await asyncio.to_thread(upload.draft.discard)
                raise NodeError(
                    "the bytes that came don't have the SHA-256 that was told",
                    "send them again",
                    code=ErrorCode.DIGEST_MISMATCH,
                    status=400,
                )
            return upload.draft

    async def delete(self, principal: Principal, upload_id: str) -> None:
        """End an upload; what came is deleted."""
        async with self._held(principal, upload_id) as upload:
            await self._end(upload)

    @asynccontextmanager
    async def _turn(self, upload: Upload, turn: int, size: int) -> AsyncIterator[None]:
        """To write so many bytes more, in a turn from `resume`; see `append` for what is raised."""
        async with upload.writing:
            if turn != upload.turn:
                raise ConflictError(
                    "another connection goes on with this upload", code=ErrorCode.WRONG_OFFSET, status=409
                )
            if upload.offset + size > upload.size:
                raise LimitError(
                    f"more than the {upload.size} bytes of this upload", code=ErrorCode.TOO_LARGE, status=413
                )
            self._touch(upload)
            try:
                yield
            except OSError:  # a part of them may be in the file
                await self._end(upload)
                raise

    @asynccontextmanager
    async def _held(self, principal: Principal, upload_id: str) -> AsyncIterator[Upload]:
        """An upload that nobody else writes or ends meanwhile."""
        async with self.find(principal, upload_id).writing:
            yield self.find(principal, upload_id)  # who was before us may have ended it

    def _touch(self, upload: Upload) -> None:
        if upload.expiry is not None:
            upload.expiry.cancel()
        loop = asyncio.get_running_loop()
        upload.expiry = loop.call_later(self._limits.upload_idle, self._expire, upload)

    def _expire(self, upload: Upload) -> None:
        self._forget(upload)
        asyncio.get_running_loop().run_in_executor(None, upload.draft.discard)

    async def _end(self, upload: Upload) -> None:
        self._forget(upload)
        await asyncio.to_thread(upload.draft.discard)

    def _forget(self, upload: Upload) -> None:
        """Nobody finds it any more, and nobody's turn is right."""
        self._uploads.pop(upload.id, None)
        upload.turn += 1
        if upload.expiry is not None:
            upload.expiry.cancel()
