"""Many workers in one process, each with a WebSocket of its own: `python swarm.py URL NAME VERSION COUNT < token`.

They send what syft.js sends, at the same moments: authenticate and cycle-request, then (when all have work) a report
each. Worker number n reports n / COUNT in every value. On its standard output: a line of JSON when all have their
answers; the sockets stay open until standard input ends.
"""

from __future__ import annotations

import asyncio
import base64
import json
import resource
import sys
import time
from collections import Counter
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect

from gridkit.wire.state import pack_state

TOGETHER = 100
"""sockets that are being opened at a time; a node lets so many strangers stay"""
SHAPES = {"w": (3, 2), "b": (2,)}


class Worker:
    """One worker: its socket, and what it was told."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.ids: dict[str, str] = {}

    async def ask(self, kind: str, **data: Any) -> dict[str, Any]:
        await self._socket.send(json.dumps({"type": f"model-centric/{kind}", "data": data}))
        answer = json.loads(await self._socket.recv())
        assert answer["type"] == f"model-centric/{kind}", answer
        return dict(answer["data"])

    async def begin(self, name: str, version: str, token: str) -> str:
        known = await self.ask("authenticate", model_name=name, model_version=version, auth_token=token)
        if "worker_id" not in known:
            return str(known)
        wish = {"worker_id": known["worker_id"], "model": name, "version": version}
        offer = await self.ask("cycle-request", **wish, ping=0, download=0, upload=0)
        if offer["status"] != "accepted":
            return str(offer)
        self.ids = {"worker_id": known["worker_id"], "request_key": offer["request_key"]}
        return "accepted"

    async def report(self, value: float) -> str:
        diff = pack_state({name: np.full(shape, value, np.float32) for name, shape in SHAPES.items()})
        answer = await self.ask("report", **self.ids, diff=base64.b64encode(diff).decode())
        return str(answer.get("error") or answer["status"])


async def main(url: str, name: str, version: str, count: int, token: str) -> None:
    door = asyncio.Semaphore(TOGETHER)

    async def arrive() -> tuple[Worker, str]:
        async with door:
            worker = Worker(await connect(url.replace("http", "ws", 1), compression=None, ping_interval=None))
            return worker, await worker.begin(name, version, token)

    started = time.perf_counter()
    arrived = await asyncio.gather(*(arrive() for _ in range(count)))
    assigned = time.perf_counter()
    reports = await asyncio.gather(*(worker.report(place / count) for place, (worker, _) in enumerate(arrived)))
    done = time.perf_counter()
    told = {
        "offers": Counter(offer for _, offer in arrived),
        "workers": len({worker.ids.get("worker_id") for worker, _ in arrived}),
        "reports": Counter(reports),
        "arrival_seconds": assigned - started,
        "report_seconds": done - assigned,
    }
    print(json.dumps(told), flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(main(*sys.argv[1:4], int(sys.argv[4]), sys.stdin.readline().strip()))  # type: ignore[call-arg]
