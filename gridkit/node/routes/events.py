"""`GET /events?after=seq[&run=id]`: the published rows as server-sent events; `GET /status/`, and a page for who
looks with a browser."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from gridkit import __version__
from gridkit.errors import ErrorCode, NodeError
from gridkit.node.routes.http import principal_of, route, service_of, spelled


async def events(request: Request) -> Response:
    service, principal = service_of(request), principal_of(request)
    after = request.query_params.get("after") or request.headers.get("last-event-id") or "0"
    if not (after.isdecimal() and len(after) < 16):
        raise NodeError("'after' is not a number", code=ErrorCode.BAD_REQUEST, status=400)
    batches = service.trainings.rows(principal, int(after), request.query_params.get("run"))

    async def stream() -> AsyncIterator[str]:
        async for batch in batches:
            if not batch:
                yield ": still here\n\n"
            else:
                yield "".join(f"id: {row['seq']}\ndata: {json.dumps(row)}\n\n" for row in batch)

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"cache-control": "no-store"})


async def status(_request: Request) -> Response:
    return JSONResponse({"success": True, "status": "ok", "gridkit": __version__})


async def page(_request: Request) -> Response:
    return PlainTextResponse(
        f"This is a gridkit node, version {__version__}. In a notebook: gridkit.connect(address)\n"
    )


ROUTES = [
    route("/events", events, "observe"),
    route("/", page, "status"),
    *spelled("/status", status, "status"),
]
