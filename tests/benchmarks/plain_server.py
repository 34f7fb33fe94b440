"""A plain server for comparison: Starlette on uvicorn as both come, streaming bodies into a file and out of it."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

FILE = Path(sys.argv[1])


async def save(request: Request) -> Response:
    size = 0
    with FILE.open("wb") as file:
        async for piece in request.stream():
            size += len(piece)
            file.write(piece)
    return PlainTextResponse(str(size))


async def load(_request: Request) -> Response:
    def pieces() -> Iterator[bytes]:
        with FILE.open("rb") as file:
            while piece := file.read(1 << 20):
                yield piece

    return StreamingResponse(pieces(), headers={"content-length": str(FILE.stat().st_size)})


app = Starlette(routes=[Route("/", save, methods=["POST"]), Route("/", load)])

if __name__ == "__main__":
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        print(listening.getsockname()[1], flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listening])
