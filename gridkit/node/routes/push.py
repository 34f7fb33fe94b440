"""Models and what comes of them, as push participants and those who call them have them (`gridkit.node.push_models`).

Source: the fl-demonstrator's REST surface. Every path ends with a slash; one without is sent there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from gridkit.errors import ErrorCode, NodeError
from gridkit.node import messages
from gridkit.node.messages_push import HostArchive, Metrics, Update
from gridkit.node.push_archives import Served
from gridkit.node.push_rows import canonical
from gridkit.node.routes.form import MAX_FIELD, MAX_FIELDS, MAX_REPEATED, content_type, fields, multipart
from gridkit.node.routes.http import declared_size, principal_of, route, service_of

PREFIX = "/push/api"
FILE = "model_file"
PAIRS = ("metric_names", "metric_values")
FORM_SLACK = 1 << 20
"""bytes of a form beside its file"""


def model_in_path(request: Request) -> str:
    return canonical(str(request.path_params["id"]), "model")


async def models(request: Request) -> Response:
    return JSONResponse(await service_of(request).push_models.listing(principal_of(request)))


async def host(request: Request) -> Response:
    _needs_multipart(request)
    push, principal = service_of(request).push_models, principal_of(request)
    draft = push.draft()
    try:
        form = await multipart(request, draft, FILE, ("input_shape",))
        if "model_preprocessing_file" in form:
            raise NodeError("models with preprocessing aren't taken", code=ErrorCode.BAD_REQUEST, status=400)
        wish = messages.parse(HostArchive, form)
        if not draft.size:
            raise NodeError(f"the form has no file '{FILE}'", code=ErrorCode.BAD_REQUEST, status=400)
        return JSONResponse(await push.host(principal, wish, draft), 201)
    finally:
        await asyncio.to_thread(draft.discard)


async def fetch(request: Request) -> Response:
    model_id = model_in_path(request)
    served = await service_of(request).push_models.open(principal_of(request), model_id)
    headers = {"content-length": str(served.size), "content-disposition": f'attachment; filename="{model_id}.pt"'}
    return StreamingResponse(_blocks(served), media_type="application/octet-stream", headers=headers)


async def _blocks(served: Served) -> AsyncIterator[bytes]:
    """Its blocks; the next is made while one is on its way."""
    following = asyncio.ensure_future(asyncio.to_thread(served.read))
    try:
        while block := await following:
            following = asyncio.ensure_future(asyncio.to_thread(served.read))
            yield block
    finally:
        await asyncio.wait([following])
        served.close()


async def update(request: Request) -> Response:
    push = service_of(request).push_updates
    part = await push.part(principal_of(request), model_in_path(request))
    _needs_multipart(request)
    declared_size(request, part.limit + FORM_SLACK)
    draft = push.draft()
    try:
        wish = messages.parse(Update, await multipart(request, draft, FILE, PAIRS, part.limit))
        return JSONResponse(await push.update(part, wish, draft), 201)
    finally:
        await asyncio.to_thread(draft.discard)


async def delete(request: Request) -> Response:
    await service_of(request).push_models.delete(principal_of(request), model_in_path(request))
    return JSONResponse({"detail": "the model was deleted"})


async def metadata(request: Request) -> Response:
    return JSONResponse(await service_of(request).push_models.metadata(principal_of(request), model_in_path(request)))


async def metrics(request: Request) -> Response:
    return JSONResponse(await service_of(request).push_updates.metrics(principal_of(request), model_in_path(request)))


async def test(request: Request) -> Response:
    push = service_of(request).push_updates
    part = await push.part(principal_of(request), model_in_path(request))
    if content_type(request) == "multipart/form-data":
        form = await _small_form(request)
    else:
        form = await fields(request, PAIRS)
    if form and not form.keys() & set(PAIRS):
        raise NodeError("the form has no metric_names", code=ErrorCode.BAD_REQUEST, status=400)
    return JSONResponse(await push.test(part, messages.parse(Metrics, form)), 201)


async def _small_form(request: Request) -> dict[str, Any]:
    most = MAX_FIELDS + MAX_REPEATED * len(PAIRS)
    async with request.form(max_files=0, max_fields=most, max_part_size=MAX_FIELD) as form:
        return {name: form.getlist(name) for name in form}


def _needs_multipart(request: Request) -> None:
    if content_type(request) != "multipart/form-data":
        raise NodeError(
            f"a model comes as multipart/form-data, in the file '{FILE}'", code=ErrorCode.BAD_REQUEST, status=400
        )


ROUTES = [
    route(f"{PREFIX}/models/", models, "take-part"),
    route(f"{PREFIX}/models/", host, "host-archive", ["POST"]),
    route(f"{PREFIX}/models/{{id}}/", fetch, "take-part"),
    route(f"{PREFIX}/models/{{id}}/", update, "take-part", ["POST"]),
    route(f"{PREFIX}/models/{{id}}/", delete, "host-archive", ["DELETE"]),
    route(f"{PREFIX}/models/{{id}}/metadata/", metadata, "take-part"),
    route(f"{PREFIX}/models/{{id}}/metrics/", metrics, "observe-push"),
    route(f"{PREFIX}/models/{{id}}/metrics/", test, "take-part", ["POST"]),
]
