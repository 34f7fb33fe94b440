"""The page `/join` and its files (see `gridkit.node.join`): all of them ours or fetched, none of anybody else's."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from gridkit.errors import ErrorCode, NodeError, NotFoundError
from gridkit.node.join import COMMAND, LIBRARIES, LICENSES, STATIC, is_built, libraries
from gridkit.node.routes.http import route

HEADERS = {
    # TensorFlow.js and syft.js run without eval, inline scripts and inline styles, and so does the page.
    "content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "cache-control": "no-cache",
}
TYPES = {
    **dict.fromkeys(("before.js", "join.js", "guest.js", "pad.js", "data.js"), "text/javascript"),
    "join.css": "text/css",
    **dict.fromkeys(LIBRARIES, "text/javascript"),
    LICENSES: "text/plain",
}


async def page(request: Request) -> Response:
    """The page; without its libraries how to get them, for people or for programs."""
    if is_built():
        return await _file("index.html", 200, "text/html")
    if "text/html" in request.headers.get("accept", ""):
        return await _file("missing.html", 503, "text/html")
    raise NodeError(
        "this node has no page for guests yet", f"run {COMMAND} where the node is", code=ErrorCode.NOT_BUILT, status=503
    )


async def file(request: Request) -> Response:
    """One of the page's files."""
    name = request.path_params["file"]
    if name not in TYPES:
        raise NotFoundError("the page has no such file", code=ErrorCode.NOT_FOUND, status=404)
    return await _file(name, 200, TYPES[name])


async def _file(name: str, status: int, kind: str) -> Response:
    folder = libraries() if name in (*LIBRARIES, LICENSES) else STATIC
    try:
        data = await asyncio.to_thread((folder / name).read_bytes)
    except FileNotFoundError:
        raise NodeError(f"{name} isn't there", f"run {COMMAND}", code=ErrorCode.NOT_BUILT, status=503) from None
    return Response(data, status, {**HEADERS, "content-type": f"{kind}; charset=utf-8"})


ROUTES = [
    route("/join", page, "open-page"),
    route("/join/{file}", file, "open-page"),
]
