"""The session's own worker processes: started ahead, given their shards, started again when they die."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import IO, Any, BinaryIO, cast

from gridkit.client.link import Link
from gridkit.workers.process import Job, write_job
from gridkit.workers.worker import Client

DEATHS = 8
"""after so many deaths in a row, without a report between them, the clients of a process are given up"""

OnLost = Callable[[Sequence[Client], str], None]


class _Process:
    """One child, its jobs, and the thread that listens to it."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.jobs: dict[int, tuple[Job, OnLost]] = {}
        self.deaths = 0
        self.ready = threading.Event()
        self.log = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  lives as long as this object
        self.lock = threading.Lock()
        self._spawn()

    def _spawn(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        environment.pop("GRIDKIT_TOKEN", None)
        self.child = subprocess.Popen(
            [sys.executable, "-m", "gridkit.workers.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=environment,
            start_new_session=True,  # the notebook's interrupt is not the workers'
        )
        threading.Thread(target=self._listen, args=(self.child,), daemon=True).start()

    def give(self, job: Job, on_lost: OnLost) -> None:
        with self.lock:
            self.jobs[job.number] = (job, on_lost)
            self._send(job)

    def _send(self, job: Job) -> None:
        with contextlib.suppress(BrokenPipeError):  # it just died: the listener starts another and sends again
            write_job(cast(IO[bytes], self.child.stdin), job)  # type: ignore[arg-type]

    def _listen(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdout is not None
        for line in child.stdout:
            self._heard(json.loads(line))
        code = child.wait()
        if not self.pool.closed:
            self._died(code)

    def _heard(self, event: dict[str, Any]) -> None:
        if event["event"] == "ready":
            self.ready.set()
            return
        self.deaths = 0
        if event["event"] == "reported":
            return
        job, on_lost = self.jobs.pop(event["job"])
        if event["event"] == "failed":
            on_lost(job.clients, f"{event['type']}: {event['message']}")

    def _died(self, code: int) -> None:
        self.ready.clear()
        with self.lock:
            self.deaths += 1 if self.jobs else 0
            lost = list(self.jobs.values()) if self.deaths >= DEATHS else []
            if lost:
                self.jobs.clear()
                self.deaths = 0
            self._spawn()
            for job, _ in self.jobs.values():
                self._send(job)
        how = f"signal {-code}" if code < 0 else f"code {code}"
        for job, on_lost in lost:
            reason = (
                f"its worker process ended {DEATHS} times, the last time with {how}; its last words: {self.words()}"
            )
            on_lost(job.clients, reason)

    def words(self) -> str:
        """The end of what the process wrote to its standard error."""
        size = self.log.seek(0, 2)
        self.log.seek(max(0, size - 2000))
        text = self.log.read().decode(errors="replace").strip()
        self.log.seek(0, 2)
        return text or "(nothing)"

    def hang_up(self) -> None:
        """Ask it to end: its input is closed."""
        if self.child.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.child.stdin.close()

    def close(self) -> None:
        try:
            self.child.wait(5)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self.log.close()


class Pool:
    """A few worker processes.

    Args:
        size: how many are started at once; `run` starts more when a job asks for more.

    Its methods may be called from any thread; `run` writes the shards into pipes and may take a moment.
    """

    def __init__(self, size: int = 0) -> None:
        self.closed = False
        self._lock = threading.Lock()
        self._number = 0
        self._processes: list[_Process] = []
        self.grow(size)

    def __repr__(self) -> str:
        return f"Pool({len(self._processes)} worker processes)"

    @property
    def pids(self) -> list[int]:
        """Process ids, in order."""
        return [process.child.pid for process in self._processes]

    def grow(self, size: int) -> None:
        """Have at least so many processes."""
        with self._lock:
            while len(self._processes) < size:
                self._processes.append(_Process(self))

    def wait_ready(self, timeout: float) -> bool:
        """Until every process has its imports behind it."""
        return all(process.ready.wait(timeout) for process in self._processes)

    def run(self, link: Link, name: str, version: str, clients: Sequence[Client], size: int, on_lost: OnLost) -> None:
        """Spread the clients over `size` processes and start them.

        Args:
            on_lost: called (from a thread) with clients whose process can't be kept alive or was refused, and why.
        """
        self.grow(size)
        for place in range(size):
            mine = clients[place::size]
            if mine:
                with self._lock:
                    self._number += 1
                    number = self._number
                self._processes[place].give(Job(number, link.url, name, version, mine, link.certificate), on_lost)

    def close(self) -> None:
        """End all processes."""
        self.closed = True
        for process in self._processes:
            process.hang_up()
        for process in self._processes:
            process.close()
        self._processes.clear()
