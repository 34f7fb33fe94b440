"""Uploads in pieces: begin, ask how far it is, go on after a cut, end. Small things go in one request instead."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gridkit.errors import ErrorCode, NodeError
from gridkit.node import messages
from gridkit.node.direct import DirectBody
from gridkit.node.routes.http import body, id_in_path, limits_of, principal_of, route, service_of
from gridkit.node.uploads import Upload


class BeginUpload(messages.Message):
    size: Annotated[int, Field(ge=1, le=1 << 62)]
    sha256: Annotated[str, Field(max_length=64)] | None = None


async def begin(request: Request) -> Response:
    raw = await body(request, limits_of(request).message_before_auth)
    wish = messages.parse(BeginUpload, messages.parse_json(raw))
    upload = await service_of(request).uploads.begin(principal_of(request), wish.size, wish.sha256)
    return JSONResponse({"upload_id": upload.id, "offset": 0}, 201)


async def state(request: Request) -> Response:
    upload = service_of(request).uploads.find(principal_of(request), id_in_path(request, "upload_id"))
    return JSONResponse(state_of(upload))


async def append(request: Request) -> Response:
    offset = request.query_params.get("offset", "")
    if not (offset.isascii() and offset.isdecimal() and len(offset) < 20):
        raise NodeError("the query has no usable 'offset'", code=ErrorCode.BAD_REQUEST, status=400)
    uploads, upload_id = service_of(request).uploads, id_in_path(request, "upload_id")
    principal = principal_of(request)
    upload, turn = await uploads.resume(principal, upload_id, int(offset))
    direct = _direct(request)
    if direct is None:
        await uploads.receive(upload, turn, request.stream())
    else:
        try:
            await uploads.receive_directly(upload, turn, direct)
        finally:
            direct.close()
    return JSONResponse(state_of(upload))


def _direct(request: Request) -> DirectBody | None:
    """The body past the event loop, where that can be had."""
    take = request.scope.get("extensions", {}).get("gridkit.body")
    length = request.headers.get("content-length", "")
    return take(int(length)) if take is not None and length.isdecimal() else None


async def delete(request: Request) -> Response:
    await service_of(request).uploads.delete(principal_of(request), id_in_path(request, "upload_id"))
    return JSONResponse({"success": True})


def state_of(upload: Upload) -> dict[str, Any]:
    """With the digest once all bytes are there, so that the sender can compare it with its own."""
    complete = upload.offset == upload.size
    digest = {"sha256": upload.draft.digest} if complete else {}
    return {"upload_id": upload.id, "offset": upload.offset, "size": upload.size, **digest}


ROUTES = [
    route("/uploads", begin, "upload", ["POST"]),
    route("/uploads/{upload_id}", state, "upload"),
    route("/uploads/{upload_id}", append, "upload", ["PATCH"]),
    route("/uploads/{upload_id}", delete, "upload", ["DELETE"]),
]
