"""What a session closes, when."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from gridkit.aio.base import _close
from gridkit.client.link import Link


class Held:
    """Workers, or a node."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


def test_workers_and_node_are_closed_also_when_python_starts_no_thread_any_more() -> None:
    """It was a traceback at the end of a program, now and then."""

    async def main() -> None:
        executor = ThreadPoolExecutor()
        asyncio.get_running_loop().set_default_executor(executor)
        executor.shutdown()
        await _close(Link("http://127.0.0.1:9", "key"), workers, node)  # type: ignore[arg-type]

    workers, node = Held(), Held()
    asyncio.run(main())
    assert (workers.closed, node.closed) == (1, 1)
