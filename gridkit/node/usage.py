"""How often models are used: counted in memory, written every few seconds and before somebody looks, never with a
request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from gridkit.node.store.database import Database
from gridkit.node.store.tables import model_version

SECONDS = 2.0
"""between two writes"""


@dataclass(slots=True)
class _Count:
    uses: int = 0
    downloads: int = 0
    last: float = 0.0


class Usage:
    """The counts of models, by the `key` of their version.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._db = database
        self._clock = clock
        self._counts: dict[int, _Count] = {}
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._write_now_and_then())

    async def close(self) -> None:
        """Write what is left."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self.write()

    def used(self, key: int) -> None:
        self._touched(key).uses += 1

    def downloaded(self, key: int) -> None:
        self._touched(key).downloads += 1

    def _touched(self, key: int) -> _Count:
        count = self._counts.setdefault(key, _Count())
        count.last = self._clock()
        return count

    async def _write_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(SECONDS)
            await self.write()

    async def write(self) -> None:
        """Add what was counted to the rows; a full disk only delays it. Counts of models that are gone go too."""
        columns = model_version.c
        async with self._writing:
            counts, self._counts = self._counts, {}
            if not counts:
                return

            def add(c: sa.Connection) -> None:
                for key, count in counts.items():
                    c.execute(
                        model_version.update()
                        .where(columns.key == key)
                        .values(
                            uses=columns.uses + count.uses,
                            downloads=columns.downloads + count.downloads,
                            last_used=count.last,
                        )
                    )

            try:
                await self._db.write(add)
            except (OSError, OperationalError) as error:
                logging.getLogger("gridkit.node").warning("counts of uses wait: %s", error)
                for key, count in counts.items():
                    newer = self._counts.setdefault(key, _Count(last=count.last))
                    newer.uses += count.uses
                    newer.downloads += count.downloads
