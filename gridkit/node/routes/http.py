"""What the HTTP routes share: bodies under a limit, answers in both families' shape, files as streams."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, BinaryIO

from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gridkit.errors import ErrorCode, GridkitError, LimitError, NodeError
from gridkit.node.audit import about
from gridkit.node.guard import error_body
from gridkit.node.rights import ANONYMOUS, RULES, Principal
from gridkit.node.service import Service
from gridkit.node.settings import Limits
from gridkit.node.store.blobs import PIECE, Draft, pour

SMALL = 64 * 1024
"""bytes of a body, or of an answer, that nobody waits for"""


class Budget:
    """So many bytes of bodies in memory at a time; who comes later waits. Small ones don't count, so that large ones
    that come slowly hold up nobody who sends little."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._used = 0
        self._freed = asyncio.Condition()

    @asynccontextmanager
    async def take(self, size: int) -> AsyncIterator[None]:
        if size <= SMALL:
            yield
            return
        size = min(size, self._total)
        async with self._freed:
            await self._freed.wait_for(lambda: self._used + size <= self._total)
            self._used += size
        try:
            yield
        finally:
            async with self._freed:
                self._used -= size
                self._freed.notify_all()


def service_of(request: Request) -> Service:
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


def limits_of(request: Request) -> Limits:
    limits = request.app.state.limits
    assert isinstance(limits, Limits)
    return limits


def principal_of(request: Request) -> Principal:
    """Who asks; `route` has found out."""
    principal = request.state.principal
    assert isinstance(principal, Principal)
    return principal


def route(
    path: str, endpoint: Callable[[Request], Awaitable[Response]], operation: str, methods: Sequence[str] = ("GET",)
) -> Route:
    """A route for who has the right to `operation` (see `RULES`); the rest is refused before the body is read."""
    assert operation in RULES

    async def guarded(request: Request) -> Response:
        watch, request.state.operation = service_of(request).watch, operation
        about("")  # a request that was sent behind another runs in its context
        request.state.principal = await watch.identify(request.scope)
        watch.admit(request.state.principal, request.scope)
        watch.access.allow(request.state.principal, operation)
        response = await endpoint(request)
        watch.done(request.state.principal, request.scope, operation, request.scope["path"])
        return response

    return Route(path, guarded, methods=list(methods), name=operation)


def spelled(
    path: str, endpoint: Callable[[Request], Awaitable[Response]], operation: str, methods: Sequence[str] = ("GET",)
) -> list[Route]:
    """The routes of an operation of the grid's own API, a spelling each, as versions of the original and its documents
    have them: at the root or under ``/data-centric``, with ``-`` or ``_``, with a slash at the end or without. A path
    that ends with an id has one end only: a slash there would be the id's.
    """
    first, _, rest = path.removeprefix("/").partition("/")
    return [
        route(f"{prefix}/{name}{end}", endpoint, operation, methods)
        for prefix in ("", "/data-centric", "/data_centric")
        for name in dict.fromkeys((first, first.replace("-", "_")))
        for end in (("/" + rest,) if rest else ("", "/"))
    ]


async def body(request: Request, limit: int) -> bytes:
    """The body, or `LimitError` before more than `limit` bytes are held."""
    pieces: list[bytes] = []
    left = limit
    async for piece in request.stream():
        left -= len(piece)
        if left < 0:
            raise too_large(limit)
        pieces.append(piece)
    return b"".join(pieces)


async def body_to(request: Request, draft: Draft, limit: int) -> None:
    """Stream the body into a draft on disk."""

    async def bounded() -> AsyncIterator[bytes]:
        left = limit - draft.size
        async for piece in request.stream():
            left -= len(piece)
            if left < 0:
                raise too_large(limit)
            yield piece

    await pour(bounded(), lambda pieces: asyncio.to_thread(draft.write, *pieces))


def declared_size(request: Request, limit: int) -> int:
    """Content-Length when it is given and sane, else the limit."""
    length = request.headers.get("content-length", "")
    size = int(length) if length.isdecimal() else limit
    if size > limit:
        raise too_large(limit)
    return size


def idempotency_key(request: Request) -> str | None:
    """What the client calls this request (draft-ietf-httpapi-idempotency-key-header): when its answer is lost it comes
    again under the same key, and is done once."""
    key = request.headers.get("idempotency-key")
    if key is not None and not 16 <= len(key) <= 100:
        raise NodeError("an Idempotency-Key has 16 to 100 characters", code=ErrorCode.BAD_REQUEST, status=400)
    return key


def too_large(limit: int) -> LimitError:
    return LimitError(f"the body is larger than {limit} bytes", code=ErrorCode.TOO_LARGE, status=413)


ENVELOPED = {f"model-centric/{name}" for name in ("authenticate", "cycle-request", "report", "host-training")}
"""Messages that are requests too: their answers have the envelope of messages, also when something is wrong. Only then
is there an `error`, which syft.js looks for first."""


def enveloped(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    """The members at the top for one family of clients, the envelope for the other."""
    return {"type": kind, "data": data, **data}


def answer(kind: str, data: dict[str, Any]) -> JSONResponse:
    return JSONResponse(enveloped(kind, data))


def file_answer(file: BinaryIO, headers: dict[str, str] | None = None) -> Response:
    """A file as octets, a MiB at a time."""
    size = file.seek(0, 2)
    return _octets(file, 0, size, 200, headers or {})


def ranged_file_answer(request: Request, file: BinaryIO, etag: str, headers: dict[str, str] | None = None) -> Response:
    """A file, or the one range of it that the request asks for (RFC 9110, section 14), so that a download can go on
    after a cut. A range outside the file, and several ranges, are answered with 416.

    Args:
        etag: what the bytes are known by, without quotes. A range under an `If-Range` with another one gets all.
    """
    size = file.seek(0, 2)
    tag = f'"{etag}"'
    headers = {**(headers or {}), "etag": tag, "accept-ranges": "bytes"}
    wished = request.headers.get("range", "")
    if not wished.startswith("bytes=") or request.headers.get("if-range", tag) != tag:
        return _octets(file, 0, size, 200, headers)
    span = _range(wished.removeprefix("bytes="), size)
    if span is None:
        file.close()
        text = f"the file has {size} bytes; ask for one range of them"
        error = LimitError(text, code=ErrorCode.BAD_RANGE, status=416)
        return JSONResponse(error_body(error), 416, {"content-range": f"bytes */{size}"})
    start, end = span
    return _octets(file, start, end, 206, {**headers, "content-range": f"bytes {start}-{end - 1}/{size}"})


_RANGE = re.compile(r"([0-9]{0,18})-([0-9]{0,18})")


def _range(text: str, size: int) -> tuple[int, int] | None:
    """``first-last``, ``first-`` or ``-length`` as start and end; None for anything else and for what isn't there."""
    match = _RANGE.fullmatch(text.strip())
    if match is None or match[0] == "-":
        return None
    if not match[1]:
        start, end = max(0, size - int(match[2])), size
    else:
        start, end = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
    return (start, end) if start < end else None


def _octets(file: BinaryIO, start: int, end: int, status: int, headers: dict[str, str]) -> Response:
    return StreamingResponse(
        _pieces(file, start, end),
        status,
        media_type="application/octet-stream",
        headers={"content-length": str(end - start), **headers},
    )


async def _pieces(file: BinaryIO, start: int, end: int) -> AsyncIterator[bytes]:
    """The bytes of a file; the next piece is read while one is on its way. Closes the file."""
    file.seek(start)
    following = asyncio.ensure_future(asyncio.to_thread(file.read, min(PIECE, end - start)))
    try:
        while start < end:
            piece = await following
            if not piece:
                raise OSError("a file of the node became shorter")
            start += len(piece)
            following = asyncio.ensure_future(asyncio.to_thread(file.read, min(PIECE, end - start)))
            yield piece
    finally:
        await asyncio.wait([following])
        file.close()


def needed(request: Request, name: str) -> str:
    """A member of the query that must be there."""
    value = request.query_params.get(name)
    if not value or len(value) > Limits().text:
        raise NodeError(f"the query has no usable '{name}'", code=ErrorCode.BAD_REQUEST, status=400)
    return value


def id_in_path(request: Request, name: str) -> str:
    """An id in the path, any text; the guard has refused control characters."""
    id = str(request.path_params[name])
    if len(id) > Limits().text:
        raise NodeError(f"an id has at most {Limits().text} characters", code=ErrorCode.BAD_REQUEST, status=400)
    return id


async def on_gridkit_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GridkitError)
    principal, operation = getattr(request.state, "principal", ANONYMOUS), getattr(request.state, "operation", "")
    watch = service_of(request).watch
    error = watch.refused(principal, request.scope, operation, request.scope["path"], error)
    status = error.status if isinstance(error, NodeError) else 400
    headers = {"connection": "close"} if status == 413 else {}
    if isinstance(error, LimitError) and error.retry_after:
        headers["retry-after"] = str(math.ceil(error.retry_after))
    body: dict[str, Any] = error_body(error)
    kind = request.scope["path"].strip("/")
    if kind in ENVELOPED:
        body = enveloped(kind, {"status": "error", **body})
    return _error_answer(request, body, status, headers)


def _error_answer(request: Request, body: dict[str, Any], status: int, headers: dict[str, str]) -> Response:
    """Clients of the push protocol look for the text in `detail`."""
    if request.scope["path"].startswith("/push/"):
        body = {**body, "detail": body["message"]}
        if status == 401:
            headers = {**headers, "www-authenticate": "Token"}  # for Basic a browser would ask, and remember it
    return JSONResponse(body, status, headers)


async def on_disconnect(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)  # nobody is there to read it


async def on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own: no such path, no such method, a form that can't be read."""
    assert isinstance(error, HTTPException)
    code = ErrorCode.NOT_FOUND if error.status_code == 404 else ErrorCode.BAD_REQUEST
    body: dict[str, Any] = error_body(NodeError(str(error.detail), code=code))
    return _error_answer(request, body, error.status_code, dict(error.headers or {}))


async def on_store_error(request: Request, error: Exception) -> Response:
    return await on_gridkit_error(request, store_error(error))


def store_error(error: Exception) -> NodeError:
    """What a peer is told when the disk or the database failed; whatever is no common accident goes to the log."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if full or (isinstance(error, OperationalError) and "full" in str(error.orig)):
        return LimitError("the node has no room left on its disk", code=ErrorCode.NO_ROOM, status=507)
    if isinstance(error, OperationalError) and "locked" in str(error.orig):
        return NodeError("the node's database is locked", "try again", code=ErrorCode.BUSY, status=503)
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        logging.getLogger("gridkit.node").warning("the node has no file or socket left to open (ulimit -n)")
        return NodeError("the node has too many connections open", "try again", code=ErrorCode.BUSY, status=503)
    logging.getLogger("gridkit.node").error("the node failed", exc_info=error)
    return NodeError("the node failed; its log says why", code=ErrorCode.INTERNAL)


HANDLERS: dict[Any, Any] = {
    GridkitError: on_gridkit_error,
    HTTPException: on_http_error,
    ClientDisconnect: on_disconnect,
    OSError: on_store_error,
    OperationalError: on_store_error,
    Exception: on_store_error,
}
