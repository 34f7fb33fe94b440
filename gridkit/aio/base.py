"""What every session has: its node, its worker processes, its connections, and how they are closed."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Self

from gridkit.cells import ShortDir
from gridkit.client.link import Link
from gridkit.node.launch import NodeProcess
from gridkit.workers.pool import Pool


class Base(ShortDir):
    """A node, and the worker processes of this session."""

    def __init__(self, link: Link, *, node: NodeProcess | None = None, pool: Pool | None = None) -> None:
        self._link = link
        self._embedded = node
        self._pool = pool or Pool()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"Session({self.url!r}, {', '.join(str(fact) for fact in self.facts().values())})"

    def facts(self) -> dict[str, object]:
        """What is known of session and node without asking anybody."""
        workers = len(self._pool.pids)
        return {
            "state": "closed" if self._closed else "open",
            "node": "embedded" if self._embedded else "runs by itself",
            "workers": f"{workers} worker process{'' if workers == 1 else 'es'}",
        }

    def _repr_html_(self) -> str:
        from gridkit.widgets.html import card

        return card(f"Session {self.url}", self.facts())

    @property
    def url(self) -> str:
        """The node's address."""
        return self._link.url

    @property
    def pids(self) -> dict[str, Any]:
        """Process ids: ``{"node": pid or None, "workers": [pid, …]}``."""
        return {"node": self._embedded.pid if self._embedded else None, "workers": self._pool.pids}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End this session's workers, its node if it was launched here, and its connections. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await _close(self._link, self._pool, self._embedded)

    def _closing(self) -> Callable[[], Coroutine[Any, Any, None]]:
        """What closes all that this session holds, without holding the session."""
        return functools.partial(_close, self._link, self._pool, self._embedded)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _close(link: Link, pool: Pool, embedded: NodeProcess | None) -> None:
    await _on_a_thread(pool.close)
    await link.close()
    if embedded is not None:
        await _on_a_thread(embedded.close)


async def _on_a_thread(work: Callable[[], None]) -> None:
    try:
        done = asyncio.get_running_loop().run_in_executor(None, work)
    except RuntimeError:  # Python is ending, and starts none any more
        work()
    else:
        await done
