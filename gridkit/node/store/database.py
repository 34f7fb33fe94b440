"""The node's database: one thread that writes it, and one that reads.

SQLite in WAL mode with ``synchronous=FULL``: what a call of `write` returned for is on the disk. Calls that wait at the
same time share one commit; each has its own savepoint, so one that fails takes nothing of the others with it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import sqlalchemy as sa

from gridkit.node.store.schema import bring_up

T = TypeVar("T")
Job = Callable[[sa.Connection], T]


def _sqlite_pragmas(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy's own BEGIN below; the driver must not add one
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_immediate(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _engine(url: str, *, writes: bool) -> sa.Engine:
    pool = sa.pool.StaticPool if url.startswith("sqlite") else None
    engine = sa.create_engine(url, poolclass=pool, hide_parameters=True)  # errors are logged, and rows hold secrets
    if url.startswith("sqlite"):
        sa.event.listen(engine, "connect", _sqlite_pragmas)
        if writes:
            sa.event.listen(engine, "begin", _begin_immediate)
    return engine


class Database:
    """One writer thread and one reader thread over a SQLAlchemy URL.

    >>> db = Database("sqlite:///grid.db")                                          # doctest: +SKIP
    >>> rows = await db.read(lambda c: c.execute(sa.select(process)).all())         # doctest: +SKIP
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._queue: queue.SimpleQueue[tuple[Job[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="gridkit-writer", daemon=True)
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="gridkit-reader")
        self._reader: sa.Engine | None = None

    def start(self) -> None:
        """Make or upgrade the tables and start the writer. Raises what the database raises.

        Raises:
            UsageError: a newer gridkit wrote this database.
        """
        engine = _engine(self._url, writes=True)
        try:
            bring_up(engine)
        finally:
            engine.dispose()
        self._thread.start()

    def close(self) -> None:
        """Finish what waits, then close."""
        self._queue.put(None)
        self._thread.join()
        self._readers.submit(self._close_reader).result()
        self._readers.shutdown()

    async def write(self, job: Job[T]) -> T:
        """Run `job` in a transaction of the writer; return when it is on the disk. Not cancelled halfway."""
        future: Future[T] = Future()
        self._queue.put((job, future))
        return await asyncio.shield(asyncio.wrap_future(future))

    async def read(self, job: Job[T]) -> T:
        """Run `job` on a connection that only reads."""
        return await asyncio.wrap_future(self._readers.submit(self._read, job))

    def _read(self, job: Job[T]) -> T:
        if self._reader is None:
            self._reader = _engine(self._url, writes=False)
        with self._reader.connect() as connection:
            return job(connection)

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.dispose()

    def _run(self) -> None:
        engine = _engine(self._url, writes=True)
        while (first := self._queue.get()) is not None:
            group = [first]
            ending = False
            while not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    ending = True
                    break
                group.append(following)
            self._commit(engine, group)
            if ending:
                break
        engine.dispose()

    @staticmethod
    def _commit(engine: sa.Engine, group: list[tuple[Job[Any], Future[Any]]]) -> None:
        done: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            with engine.begin() as connection:
                for job, future in group:
                    try:
                        with connection.begin_nested():
                            done.append((future, job(connection), None))
                    except Exception as error:  # noqa: BLE001  it belongs to the caller of this one job
                        done.append((future, None, error))
        except Exception as error:  # noqa: BLE001  the commit itself: nobody's work is on the disk
            done = [(future, None, error) for _, future in group]
        for future, result, failure in done:
            if failure is None:
                future.set_result(result)
            else:
                future.set_exception(failure)
