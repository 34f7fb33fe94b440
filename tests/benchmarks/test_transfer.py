"""Serving and downloading large models, beside a plain uvicorn and Starlette that stream as many bytes in the same run.

The plain side does the least that the job needs: bytes from memory into the server's file and back into a file of the
client's, with httpx, streaming; no digest, no model to check, and nothing that survives a power cut. What
`http.client` reaches with the same server is shown as well: both digests of a transfer cost more than that one does.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from torch import nn

from gridkit.aio import connect
from gridkit.plans.model import pack
from tests.benchmarks.turns import Turns
from tests.support import TOKEN, NodeUnderTest

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads /proc, which only Linux has"),
]

MB, MIB = 1_000_000, 1 << 20
ROUNDS = {1: (9, 36), 5: (3, 12)}
"""by the number of layers, of 100 MB each: what takes a fifth of a second is disturbed more easily"""


class Plain:
    """The plain server in a process of its own, and two plain clients of it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "downloaded"
        script = Path(__file__).with_name("plain_server.py")
        self.process = subprocess.Popen([sys.executable, str(script), str(folder / "plain")], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self._port = int(self.process.stdout.readline())
        self._url = f"http://127.0.0.1:{self._port}/"

    async def serve(self, data: memoryview) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(data), MIB):
                yield bytes(data[at : at + MIB])

        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            answer = await client.post(self._url, content=pieces(), headers={"content-length": str(len(data))})
        assert int(answer.text) == len(data)

    async def download(self) -> None:
        with self._file.open("wb") as file:
            async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
                async with client.stream("GET", self._url) as answer:
                    async for piece in answer.aiter_raw(MIB):
                        file.write(piece)

    async def serve_low(self, data: memoryview) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        pieces = (data[at : at + MIB] for at in range(0, len(data), MIB))
        connection.request("POST", "/", pieces, {"content-length": str(len(data))})
        assert int(connection.getresponse().read()) == len(data)
        connection.close()

    async def download_low(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        connection.request("GET", "/")
        answer = connection.getresponse()
        piece = bytearray(MIB)
        with self._file.open("wb") as file:
            while count := answer.readinto(piece):
                file.write(memoryview(piece)[:count])
        connection.close()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)


def memory(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


class Peak:
    """How far a process rises above what it holds now."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        self._base = memory(pid, "VmRSS")

    def above(self) -> int:
        return memory(self._pid, "VmHWM") - self._base


async def seconds(work: Awaitable[object], size: int) -> float:
    """How long it takes for so many bytes, with free memory at hand: a virtual machine's host takes free memory back
    within seconds, and who needs it next would pay for fetching it again, as long as for the transfer."""
    subprocess.run([sys.executable, "-S", "-c", f"len(b'x' * {3 * size})"], check=True)
    start = time.perf_counter()
    await work
    return time.perf_counter() - start


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path / "data")
    yield node
    node.terminate()


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Plain]:
    plain = Plain(tmp_path)
    yield plain
    plain.close()


@pytest.mark.parametrize("layers", [1, 5], ids=["100MB", "500MB"])
def test_transfers_keep_up_with_a_plain_server(node: NodeUnderTest, plain: Plain, tmp_path: Path, layers: int) -> None:
    """What users call, `serve_model` and `download_model`: with tracing, checks, digests, fsync, a module to use."""
    model = nn.Sequential(*(nn.Linear(5000, 5000) for _ in range(layers)))
    example = torch.zeros(1, 5000)
    data = memoryview(pack(model, example).tobytes())
    turns = Turns(*ROUNDS[layers])
    peaks = {"node": 0, "client": 0}

    async def rising(work: Awaitable[object]) -> None:
        rises = {"node": Peak(node.process.pid), "client": Peak(os.getpid())}
        await work
        for who, rise in rises.items():
            peaks[who] = max(peaks[who], rise.above())

    def keeps_up(way: str) -> bool:
        return turns.ratio(f"httpx {way}", way) >= 0.8

    async def a_round(grid: Any, number: int) -> None:
        name = f"model {number}"
        with torch.no_grad():
            model[0].bias[0] = number  # another model: one that is known isn't stored again
        work: dict[str, Callable[[], Awaitable[object]]] = {
            "up": lambda: rising(grid.serve_model(model, name, example=example, allow_download=True)),
            "httpx up": lambda: plain.serve(data),
            "down": lambda: rising(grid.download_model(name)),
            "httpx down": plain.download,
        }
        for pair in (("up", "httpx up"), ("down", "httpx down")):
            for side in turns.order(number, *pair):
                turns.took(side, await seconds(work[side](), len(data)))
        await grid.delete_model(name)

    async def measure() -> None:
        async with await connect(node.url, token=TOKEN) as grid:
            for number in turns.rounds(lambda: keeps_up("up") and keeps_up("down")):
                await a_round(grid, number)
        turns.took("low up", await seconds(plain.serve_low(data), len(data)))
        turns.took("low down", await seconds(plain.download_low(), len(data)))

    asyncio.run(measure())
    sides = ("up", "down", "httpx up", "httpx down", "low up", "low down")
    print(f"\n{len(data) // MB} MB, MB/s: {', '.join(f'{s} {len(data) / MB / turns.best(s):.0f}' for s in sides)}")
    print(f"ratios: up {turns.ratio('httpx up', 'up'):.2f}, down {turns.ratio('httpx down', 'down'):.2f}")
    print(f"above base: node {peaks['node'] / MB:.0f} MB, client {peaks['client'] / MB:.0f} MB")
    assert max(peaks.values()) < len(data) / 4
    assert keeps_up("up") and keeps_up("down")
