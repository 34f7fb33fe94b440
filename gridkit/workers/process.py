"""A worker process of the session's own pool: ``python -m gridkit.workers.process``.

The session writes jobs to its standard input (the shards, and the tokens, so that neither stands on a command line or
on a disk) and reads one JSON line an event from its standard output. It imports torch at once, so that a first round
needn't wait for it, and ends when its input closes, which happens when the session's process dies in any way.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import struct
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import safetensors.numpy

from gridkit.client.link import Link
from gridkit.errors import GridkitError
from gridkit.workers.worker import Client, Worker


@dataclass(frozen=True, slots=True)
class Job:
    """Clients of one training that one process shall work for."""

    number: int
    url: str
    name: str
    version: str
    clients: Sequence[Client]
    certificate: str | None = None
    """a file with the node's own"""


def write_job(file: BinaryIO, job: Job) -> None:
    """Send a job through a pipe: a JSON header and the shards as safetensors, each behind its length."""
    header = json.dumps(
        {
            "number": job.number,
            "url": job.url,
            "name": job.name,
            "version": job.version,
            "certificate": job.certificate,
            "clients": [{"token": c.token, "label": c.label, "worker_id": c.worker_id} for c in job.clients],
        }
    ).encode()
    arrays: dict[str, np.ndarray] = {}
    for place, client in enumerate(job.clients):
        arrays[f"{place}.x"] = np.ascontiguousarray(client.x)
        arrays[f"{place}.y"] = np.ascontiguousarray(client.y)
    for part in (header, safetensors.numpy.save(arrays)):
        file.write(struct.pack("<Q", len(part)))
        file.write(part)
    file.flush()


def read_job(file: BinaryIO) -> Job | None:
    """The next job, or None when the pipe is closed."""
    parts = []
    for _ in range(2):
        length = file.read(8)
        if len(length) < 8:
            return None
        size = struct.unpack("<Q", length)[0]
        part = file.read(size)
        if len(part) < size:
            return None
        parts.append(part)
    header = json.loads(parts[0])
    arrays = safetensors.numpy.load(parts[1])
    clients = [
        Client(arrays[f"{place}.x"], arrays[f"{place}.y"], client["token"], client["label"], client["worker_id"])
        for place, client in enumerate(header["clients"])
    ]
    return Job(header["number"], header["url"], header["name"], header["version"], clients, header["certificate"])


def _say(**event: Any) -> None:
    print(json.dumps(event), flush=True)


async def _work(job: Job) -> None:
    link = Link(job.url, patience=None, certificate=job.certificate)
    try:
        reported = functools.partial(_say, event="reported", job=job.number)
        await Worker(link, job.name, job.version, job.clients, on_report=reported).run()
    except GridkitError as error:
        _say(event="failed", job=job.number, message=error.message, type=type(error).__name__)
    else:
        _say(event="done", job=job.number)
    finally:
        await link.close()


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()

    def start(job: Job) -> None:
        task = loop.create_task(_work(job))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def listen() -> None:
        while (job := read_job(sys.stdin.buffer)) is not None:
            loop.call_soon_threadsafe(start, job)
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=listen, daemon=True).start()
    _say(event="ready")
    await ended.wait()


def main() -> None:
    import torch

    torch.set_num_threads(1)
    asyncio.run(_serve())
    sys.stdout.flush()
    os._exit(0)  # a training thread may be in the middle of a step; nothing of it is wanted any more


if __name__ == "__main__":
    main()
