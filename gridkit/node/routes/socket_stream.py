"""Large models over the WebSocket, a MiB at a time (ours; the original has no such messages).

Upload: ``{"type": "upload-model", "size"[, "sha256"]}``, or ``{"type": "upload-model", "upload_id"}`` to go on with
one, is answered ``{"upload_id", "offset", "size"}``; then each binary frame is answered ``{"offset", "size"}``, the
last one with `sha256`. Download: ``{"type": "model-chunk", "model_id"}`` is answered with what there is to fetch,
``{"model_id", "version", "size", "sha256"}``; with `offset` and `length` by one binary frame.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from pydantic import Field

from gridkit.errors import ErrorCode, LimitError, NodeError
from gridkit.node import messages
from gridkit.node.messages_grid import ModelName
from gridkit.node.routes.connection import Answer, Connection, Handlers
from gridkit.node.routes.uploads import BeginUpload, state_of
from gridkit.node.store.blobs import PIECE


class ResumeUpload(messages.Message):
    upload_id: messages.Text


class ModelChunk(ModelName):
    offset: Annotated[int, Field(ge=0, le=1 << 62)] | None = None
    length: Annotated[int, Field(ge=1, le=PIECE)] = PIECE


async def upload_model(connection: Connection, message: dict[str, Any]) -> Answer:
    uploads, principal = connection.service.uploads, connection.principal
    if "upload_id" in message:
        wish = messages.parse(ResumeUpload, message)
        connection.upload = await uploads.resume(principal, wish.upload_id)
    else:
        begun = messages.parse(BeginUpload, message)
        upload = await uploads.begin(principal, begun.size, begun.sha256)
        connection.upload = await uploads.resume(principal, upload.id)
    return state_of(connection.upload[0])


async def frame(connection: Connection, data: bytes) -> Answer:
    """A binary frame of a socket that has begun an upload; the answer to the last one ends it, here."""
    assert connection.upload is not None
    upload, turn = connection.upload
    connection.service.access.allow(connection.principal, "upload")
    connection.service.uploads.find(connection.principal, upload.id)
    if len(data) > PIECE:
        raise LimitError(f"a frame may have {PIECE} bytes, not {len(data)}", code=ErrorCode.TOO_LARGE, status=413)
    await connection.service.uploads.append(upload, turn, [data])
    if upload.offset == upload.size:
        connection.upload = None
    return state_of(upload)


async def model_chunk(connection: Connection, message: dict[str, Any]) -> Answer:
    wish = messages.parse(ModelChunk, message)
    file, row = await connection.service.models.open(
        connection.principal, wish.model_id, wish.version, counted=wish.offset is None
    )
    with file:
        if wish.offset is None:
            about = {"version": row["version"], "size": row["size"], "sha256": row["digest"]}
            return {"success": True, "model_id": row["id"], **about}
        if wish.offset >= row["size"]:
            text = f"the model has {row['size']} bytes; there are none from {wish.offset} on"
            raise NodeError(text, code=ErrorCode.BAD_RANGE, status=416)
        file.seek(wish.offset)
        return await asyncio.to_thread(file.read, wish.length)


HANDLERS: Handlers = {
    "upload-model": ("upload", upload_model),
    "model-chunk": ("download-model", model_chunk),
}
