"""Bytes for a worker to measure its connection with, as syft.js and PySyft do before they ask for work.

A ping is a small answer, a download some random bytes, an upload is read and dropped. Only for who has enrolled in a
training that asks for a speed (`minimum_upload_speed`, `minimum_download_speed`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gridkit.errors import ErrorCode, NodeError
from gridkit.node.rates import Buckets, too_many
from gridkit.node.routes.http import declared_size, limits_of, needed, principal_of, route, service_of, too_large
from gridkit.node.settings import MIB

PING_SECONDS = 0.02
"""A ping is held for so long: on a fast network its time is then mostly this, and syft.js, which goes on until five
pings are alike, is done after a few instead of thousands."""
UPLOAD = 65 * MIB
"""what syft.js sends, and a little more"""
TOGETHER = 32
"""so many downloads and uploads at a time"""
UPLOAD_SECONDS = 120.0

_BLOCK = os.urandom(MIB)  # random, so that nothing on the way makes it smaller; one for everybody
_NOT_KEPT = {"cache-control": "no-store"}


class Measures:
    """How much is measured: so many transfers at a time, and by each worker a few at once and one each ten seconds."""

    def __init__(self) -> None:
        self._each = Buckets(rate=0.1, burst=12)
        self._under_way = 0

    def begin(self, worker_id: str) -> None:
        """A download or an upload; `end` must follow.

        Raises:
            LimitError: `TOO_MANY`.
        """
        if self._under_way >= TOGETHER:
            raise too_many("too many workers are measuring", 1.0)
        if seconds := self._each.take(worker_id):
            raise too_many("this worker measures too often", seconds)
        self._under_way += 1

    def end(self) -> None:
        self._under_way -= 1


async def download(request: Request) -> Response:
    """A ping, or bytes to be measured. syft.js writes a second ``?`` into the query; it is a part of `random`."""
    worker_id = await _worker(request)
    if "is_ping" in request.query_params:
        await asyncio.sleep(PING_SECONDS)
        return JSONResponse({}, headers=_NOT_KEPT)
    size, measures = limits_of(request).speed_test, _measures(request)
    headers = {"content-length": str(size), **_NOT_KEPT}
    measures.begin(worker_id)
    return _Measured(_blocks(size), measures, headers)


class _Measured(StreamingResponse):
    """Ends its measure however it ends."""

    def __init__(self, blocks: AsyncIterator[bytes | memoryview], measures: Measures, headers: dict[str, str]) -> None:
        super().__init__(blocks, 200, headers, "application/octet-stream")
        self._measures = measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._measures.end()


async def _blocks(size: int) -> AsyncIterator[bytes | memoryview]:
    for _ in range(size // MIB):
        yield _BLOCK
    yield memoryview(_BLOCK)[: size % MIB]


async def upload(request: Request) -> Response:
    """Read and drop. A worker that has measured enough goes away in the middle, which is no failure."""
    worker_id = await _worker(request)
    declared_size(request, UPLOAD)
    measures = _measures(request)
    measures.begin(worker_id)
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            size = 0
            async for piece in request.stream():
                size += len(piece)
                if size > UPLOAD:
                    raise too_large(UPLOAD)
    except TimeoutError:
        text = f"the upload took longer than {UPLOAD_SECONDS:g} s"
        raise NodeError(text, code=ErrorCode.TIMED_OUT, status=408) from None
    finally:
        measures.end()
    return JSONResponse({}, headers=_NOT_KEPT)


async def _worker(request: Request) -> str:
    worker_id = needed(request, "worker_id")
    await service_of(request).trainings.may_measure(principal_of(request), worker_id)
    return worker_id


def _measures(request: Request) -> Measures:
    measures = request.app.state.measures
    assert isinstance(measures, Measures)
    return measures


PATH = "/model-centric/speed-test"
ROUTES = [route(PATH, download, "work"), route(PATH, upload, "work", ["POST"])]
