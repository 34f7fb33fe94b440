"""Datasets: publish, list, fetch, compute on, delete; and the original's `/dataset-tags` and `/search`.

An id is opaque text, percent-encoded in the path; it is the last part of the path, so it may have slashes.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gridkit.node import messages
from gridkit.node.messages_datasets import PublishDataset, Search
from gridkit.node.messages_grid import Page
from gridkit.node.rights import Principal
from gridkit.node.routes.form import members
from gridkit.node.routes.http import (
    body,
    declared_size,
    id_in_path,
    limits_of,
    principal_of,
    ranged_file_answer,
    route,
    service_of,
    spelled,
)
from gridkit.node.service import Service
from gridkit.node.store.blobs import Draft


async def publish(request: Request) -> Response:
    """JSON with the ids of finished uploads, which end with this. The same request again has the same answer."""
    service, principal = service_of(request), principal_of(request)
    wish = messages.parse(PublishDataset, {**await members(request), "id": _id(request)})
    async with service.uploads.turn(wish.upload_id):
        row = await service.datasets.published(principal, wish) or await _publish(service, principal, wish)
    return JSONResponse(row, 201)


async def _publish(service: Service, principal: Principal, wish: PublishDataset) -> dict[str, Any]:
    drafts: list[Draft] = []
    try:
        drafts.append(await service.uploads.take(principal, wish.upload_id))
        if wish.mock_upload_id is not None:
            drafts.append(await service.uploads.take(principal, wish.mock_upload_id))
        return await service.datasets.publish(principal, wish, drafts[0], drafts[1] if drafts[1:] else None)
    finally:
        for draft in drafts:
            await asyncio.to_thread(draft.discard)


async def page(request: Request) -> Response:
    wish = messages.parse(Page, dict(request.query_params))
    rows, total = await service_of(request).datasets.page(principal_of(request), wish)
    return JSONResponse({"datasets": rows, "total": total})


async def details(request: Request) -> Response:
    return JSONResponse(await service_of(request).datasets.details(principal_of(request), _id(request)))


async def delete(request: Request) -> Response:
    await service_of(request).datasets.delete(principal_of(request), _id(request))
    return JSONResponse({"success": True})


async def data(request: Request) -> Response:
    return await _octets(request, mock=False)


async def mock(request: Request) -> Response:
    return await _octets(request, mock=True)


async def _octets(request: Request, *, mock: bool) -> Response:
    file, digest = await service_of(request).datasets.open(principal_of(request), _id(request), mock=mock)
    return ranged_file_answer(request, file, digest)


async def run_plan(request: Request) -> Response:
    """A plan's bytes in, its results out, as safetensors."""
    limit = limits_of(request).plan
    async with request.app.state.budget.take(declared_size(request, limit)):
        plan = await body(request, limit)
    results = await service_of(request).datasets.run(principal_of(request), _id(request), plan)
    return Response(results, media_type="application/octet-stream")


async def tags(request: Request) -> Response:
    """The original's: a bare list."""
    return JSONResponse(await service_of(request).datasets.tags(principal_of(request)))


async def search(request: Request) -> Response:
    """The original's answer is `content`: whether anything matches; ours says what. The media type isn't looked at."""
    raw = await body(request, limits_of(request).message_before_auth)
    told = messages.parse_json(raw)
    if "query" not in told:
        return JSONResponse({}, 400)  # as documented
    wish = messages.parse(Search, told)
    rows = await service_of(request).datasets.search(principal_of(request), wish.query)
    return JSONResponse({"content": bool(rows), "datasets": rows})


def _id(request: Request) -> str:
    return id_in_path(request, "dataset_id")


ROUTES = [
    *spelled("/dataset-tags", tags, "list-datasets"),
    *spelled("/search", search, "list-datasets", ["POST"]),
    *(route(path, page, "list-datasets") for path in ("/datasets", "/datasets/")),
    route("/datasets/{dataset_id:path}", details, "list-datasets"),
    route("/datasets/{dataset_id:path}", publish, "publish-dataset", ["PUT"]),
    route("/datasets/{dataset_id:path}", delete, "delete-dataset", ["DELETE"]),
    route("/dataset-data/{dataset_id:path}", data, "fetch-dataset"),
    route("/dataset-mock/{dataset_id:path}", mock, "fetch-dataset"),
    route("/run-plan/{dataset_id:path}", run_plan, "run-plan", ["POST"]),
]
