"""Models over HTTP, as the original's clients ask for them, and as ours do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from starlette.concurrency import iterate_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from gridkit.errors import ErrorCode, LimitError, NodeError, NotFoundError, WireError
from gridkit.node import messages
from gridkit.node.messages_grid import HostModel, ModelName, Page, RunInference, bytes_of, text_of
from gridkit.node.models import Models
from gridkit.node.rights import Principal
from gridkit.node.routes.form import content_type, members, multipart
from gridkit.node.routes.http import (
    body,
    declared_size,
    limits_of,
    principal_of,
    ranged_file_answer,
    service_of,
    spelled,
)
from gridkit.node.service import Service
from gridkit.node.store.blobs import PIECE, Draft
from gridkit.wire.safetensors import read_tensors

MULTIPART_FROM = 100 << 20
"""bytes of a model from which on `get_model` answers as a multipart form, as the original does"""
DELETED = {"success": True, "message": "Model deleted with success!"}
OCTETS = "application/octet-stream"


def models_of(request: Request) -> Models:
    return service_of(request).models


def named(request: Request) -> ModelName:
    """The model in the path, and the version in the query."""
    asked = {"model_id": request.path_params["model_id"]}
    if "version" in request.query_params:
        asked["version"] = request.query_params["version"]
    return messages.parse(ModelName, asked)


# ---- looking


async def list_models(request: Request) -> Response:
    return JSONResponse({"success": True, "models": await models_of(request).ids(principal_of(request))})


async def details(request: Request) -> Response:
    wish = named(request)
    row = await models_of(request).details(principal_of(request), wish.model_id, wish.version)
    return JSONResponse({"success": True, **_detailed(row)})


async def detailed_list(request: Request) -> Response:
    """All, or with a query (offset, limit, sort, descending, filter) a page; `total` is without offset and limit."""
    page = messages.parse(Page, dict(request.query_params)) if request.query_params else None
    rows, total = await models_of(request).page(principal_of(request), page)
    return JSONResponse({"success": True, "models": [_detailed(row) for row in rows], "total": total})


def _detailed(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "model_size": f"{row['size'] / 1000}KB"}


async def search_encrypted(request: Request) -> Response:
    """Which nodes share an encrypted model. The errors have the original's texts."""
    try:
        wish = messages.parse(ModelName, await members(request))
    except (WireError, NodeError) as error:
        if isinstance(error, LimitError):
            raise
        raise NodeError("Invalid payload format", error.message, code=ErrorCode.BAD_REQUEST, status=400) from None
    try:
        return JSONResponse(await models_of(request).parties(principal_of(request), wish.model_id))
    except NotFoundError as error:
        raise NotFoundError("Model ID not found!", error.hint, code=error.code, status=404) from None


# ---- serving and deleting


async def serve_model(request: Request) -> Response:
    """A multipart form whose part `model` is the bytes, or text that stands for them; or such text, or the id of an
    upload, in a urlencoded form or in JSON."""
    models, principal = models_of(request), principal_of(request)
    if content_type(request) != "multipart/form-data":
        wish = messages.parse(HostModel, await members(request))
        return JSONResponse(saved(await take_model(service_of(request), principal, wish)))
    draft = models.draft()
    try:
        wish = messages.parse(HostModel, await multipart(request, draft, "model"))
        if draft.size == 0:
            raise _no_model()
        return JSONResponse(saved(await models.host(principal, wish, draft)))
    finally:
        await asyncio.to_thread(draft.discard)


async def take_model(service: Service, principal: Principal, wish: HostModel) -> dict[str, Any]:
    """Host a model whose bytes came as text, or before as an upload: over HTTP or over a socket. The same upload again
    under the same id is the same request, and has the same answer."""
    if wish.upload_id is not None:
        async with service.uploads.turn(wish.upload_id):
            if done := await service.models.hosted(principal, wish):
                return done
            await service.models.check_id(principal, wish)  # the upload is still there if this is refused
            return await _host(service, principal, wish, await service.uploads.take(principal, wish.upload_id))
    if not wish.model:
        raise _no_model()
    await service.models.check_id(principal, wish)
    return await _host(service, principal, wish, service.models.draft(), bytes_of(wish.model, "model"))


async def _host(
    service: Service, principal: Principal, wish: HostModel, draft: Draft, text: bytes = b""
) -> dict[str, Any]:
    try:
        if text:
            await asyncio.to_thread(draft.write, text)
        return await service.models.host(principal, wish, draft)
    finally:
        await asyncio.to_thread(draft.discard)


def saved(row: dict[str, Any]) -> dict[str, Any]:
    """The answer to who served a model."""
    return {"success": True, "message": f"Model saved with id: {row['id']}", **_detailed(row)}


def _no_model() -> NodeError:
    return NodeError("the form has no 'model', or an empty one", code=ErrorCode.BAD_REQUEST, status=400)


async def delete_model(request: Request) -> Response:
    wish = named(request) if "model_id" in request.path_params else messages.parse(ModelName, await members(request))
    await models_of(request).delete(principal_of(request), wish.model_id)
    return JSONResponse(DELETED)


# ---- downloading


async def copy_allowed(request: Request) -> Response:
    """Whether a model may be downloaded. A courtesy: `get_model` asks again."""
    try:
        await models_of(request).check_copy(principal_of(request), named(request).model_id)
    except NodeError as error:
        if error.code not in (ErrorCode.NOT_ALLOWED, ErrorCode.NOT_FOUND):
            raise
        return JSONResponse({"success": False, "error": error.message})
    return JSONResponse({"success": True})


async def get_model(request: Request) -> Response:
    """The bytes: as they are for who accepts octets, else as text in JSON, and that of large ones in a form."""
    wish = named(request)
    first = request.method == "GET" and request.headers.get("range", "bytes=0-").startswith("bytes=0-")
    file, row = await models_of(request).open(principal_of(request), wish.model_id, wish.version, counted=first)
    headers = {"x-gridkit-version": str(row["version"])}
    if OCTETS in request.headers.get("accept", ""):
        return ranged_file_answer(request, file, row["digest"], headers)
    if row["size"] < MULTIPART_FROM:
        pieces, kind = _json_text(file), "application/json"
    else:
        boundary = row["digest"][:32]
        pieces, kind = _form_text(file, boundary), f"multipart/form-data; boundary={boundary}"
    return StreamingResponse(iterate_in_threadpool(pieces), media_type=kind, headers=headers)


def _json_text(file: BinaryIO) -> Iterator[bytes]:
    """``{"serialized_model": text}``, a piece at a time, in ASCII: the original's clients read it as ISO-8859-1."""
    with file:
        yield b'{"serialized_model": "'
        while piece := file.read(PIECE):
            yield json.dumps(text_of(piece))[1:-1].encode()
        yield b'"}'


def _form_text(file: BinaryIO, boundary: str) -> Iterator[bytes]:
    with file:
        yield f'--{boundary}\r\nContent-Disposition: form-data; name="serialized_model"\r\n\r\n'.encode()
        while piece := file.read(PIECE):
            yield text_of(piece).encode()
        yield f"\r\n--{boundary}--\r\n".encode()


# ---- inference


async def run_inference(request: Request) -> Response:
    """Tensors in, tensors out: safetensors with the keys "0", "1", … both ways."""
    wish, limit = named(request), limits_of(request).run_inputs
    async with request.app.state.budget.take(declared_size(request, limit)):
        inputs = await body(request, limit)
    results = await models_of(request).infer(principal_of(request), wish.model_id, inputs, wish.version)
    return Response(results, media_type=OCTETS)


async def infer_text(request: Request) -> Response:
    """The form of 2019: `data` as text, and the first result as nested lists."""
    asked = {**await members(request), "model_id": request.path_params["model_id"]}
    wish = messages.parse(RunInference, asked)
    results = await models_of(request).infer(
        principal_of(request), wish.model_id, bytes_of(wish.data, "data"), wish.version
    )
    return Response(json.dumps(prediction(results)), media_type="application/json")


def prediction(results: bytes) -> dict[str, Any]:
    """The first result as nested lists; ours: with its dtype and shape, which lists don't show. Numbers that aren't
    finite are written as Python's `json` does."""
    first = read_tensors(results)[0]
    return {"success": True, "prediction": first.tolist(), "dtype": first.dtype.name, "shape": list(first.shape)}


# ---- paths


_ID = "{model_id:path}"

ROUTES = [
    # the busiest one first: routes are tried in order
    *spelled(f"/run-inference/{_ID}", run_inference, "run-inference", ["POST"]),
    *spelled("/models", list_models, "list-models"),
    *spelled("/detailed-models-list", detailed_list, "list-models"),
    *spelled("/serve-model", serve_model, "host-model", ["POST"]),
    *spelled("/delete-model", delete_model, "delete-model", ["POST"]),
    *spelled("/search-encrypted-models", search_encrypted, "list-models", ["POST"]),
    *spelled(f"/is-model-copy-allowed/{_ID}", copy_allowed, "download-model"),
    *spelled(f"/get-model/{_ID}", get_model, "download-model"),
    *spelled(f"/models/{_ID}", details, "list-models"),
    *spelled(f"/models/{_ID}", delete_model, "delete-model", ["DELETE"]),
    *spelled(f"/models/{_ID}", infer_text, "run-inference", ["POST"]),
    *spelled(f"/model/{_ID}", infer_text, "run-inference", ["POST"]),
]
