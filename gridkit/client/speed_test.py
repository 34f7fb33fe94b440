"""How fast the way to a node is, as data holders measure it before they ask for work.

Source: the speed test of syft.js: pings, then a download and an upload at the same time, over HTTP. Unlike the
original's it has an end in every part.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from gridkit.client.link import Link

PATH = "/model-centric/speed-test"
PINGS = 5
SECONDS = 5.0
"""for which a download or an upload is measured, at most"""
UPLOAD = 64 << 20
"""bytes that are sent, at most"""
_PIECE = 256 << 10
_MBIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Speeds:
    """`ping` in milliseconds, `download` and `upload` in 2^20 bits a second; 0 is unknown."""

    ping: float = 0.0
    download: float = 0.0
    upload: float = 0.0


UNKNOWN = Speeds()


async def measure(link: Link, worker_id: str) -> Speeds:
    """Measure the way to the node.

    Raises:
        NodeError: it answers otherwise than a speed test does.
        NodeUnreachable: nobody answered.
    """
    pings = [await _ping(link, worker_id) for _ in range(PINGS)]
    download, upload = await asyncio.gather(_download(link, worker_id), _upload(link, worker_id))
    return Speeds(sum(pings) / len(pings) * 1000, download, upload)


def _query(worker_id: str, **more: str) -> dict[str, str]:
    return {**more, "worker_id": worker_id, "random": repr(random.random())}


async def _ping(link: Link, worker_id: str) -> float:
    start = time.perf_counter()
    await link.request("GET", PATH, params=_query(worker_id, is_ping="1"))
    return time.perf_counter() - start


async def _download(link: Link, worker_id: str) -> float:
    async with link.stream("GET", PATH, params=_query(worker_id)) as response:
        start, count = time.perf_counter(), 0
        async for piece in response.aiter_raw(_PIECE):
            count += len(piece)
            if time.perf_counter() - start > SECONDS:
                break
        return _speed(count, time.perf_counter() - start)


async def _upload(link: Link, worker_id: str) -> float:
    sent, piece, start = 0, os.urandom(_PIECE), time.perf_counter()

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < UPLOAD and time.perf_counter() - start < SECONDS:
            yield piece
            sent += len(piece)

    await link.request("POST", PATH, params=_query(worker_id), content=pieces())
    return _speed(sent, time.perf_counter() - start)


def _speed(count: int, seconds: float) -> float:
    return count * 8 / _MBIT / max(seconds, 1e-9)
