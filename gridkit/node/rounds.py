"""The shell around the cycle engine: where a decision meets the disk.

The rules are in `federated.cycle.decide`. `Rounds.apply` is one event: load, decide, store state, rows and references
in one transaction (compare-and-set on the process's revision), then do what was decided. A crash at any point leaves
either the state before or the state after; `start` takes up from there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import ExitStack, suppress
from typing import Any, BinaryIO

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from gridkit.errors import ErrorCode, NodeError, NotFoundError
from gridkit.federated import cycle, history
from gridkit.federated.aggregate import aggregate, subtract
from gridkit.node import averaging
from gridkit.node.failpoint import failpoint
from gridkit.node.notebook_call import FunctionFailed, Gone, Score
from gridkit.node.notebook_rule import Notebook
from gridkit.node.notebooks import Notebooks
from gridkit.node.processes import (
    Process,
    Recent,
    all_processes,
    append_rows,
    averaging_plan_of,
    load,
    save,
    testers_of,
)
from gridkit.node.runner import Runner
from gridkit.node.store import garbage
from gridkit.node.store import tables as db
from gridkit.node.store.blobs import Blobs, Draft
from gridkit.node.store.database import Database
from gridkit.wire.state import StateReader, pack_stream
from gridkit.wire.tensors import Array, TensorSource

Remember = Callable[[sa.Connection, Process, Iterable[cycle.Decision]], None]
"""What a caller adds to the transaction of an event: (connection, process before, decisions)."""


class Clock:
    """UTC in epoch seconds that never jumps: read once from the wall, then from the monotonic clock."""

    def __init__(self) -> None:
        self._start = time.time() - time.monotonic()

    def __call__(self) -> float:
        return self._start + time.monotonic()


class Rounds:
    """All cycles of one node. `clock` gives the time of events; `news` wakes whoever waits for a change.

    What was loaded or decided last stays in memory, so that a cycle of thousands of workers isn't read for each of
    their messages. One process writes a data folder, so nothing changes elsewhere.
    """

    def __init__(self, database: Database, blobs: Blobs, runner: Runner) -> None:
        self.db = database
        self.blobs = blobs
        self.runner = runner
        self.clock = Clock()
        self.closing = False
        self.news = asyncio.Event()
        self.notebooks = Notebooks()
        self.observers: list[Callable[[Process], None]] = []
        """called with each new state of a process"""
        self._timer_due = asyncio.Event()
        self._committed = Recent()  # what the event loop sees
        self._written = Recent()  # what the writer's thread goes on from, in the group that it commits
        self._tasks: set[asyncio.Task[None]] = set()

    # -- life

    async def start(self) -> None:
        """Sweep what a crash left, take up aggregations that were under way, start the timer."""
        wanted = await self.db.read(garbage.referenced)
        await asyncio.to_thread(self.blobs.sweep, wanted)
        for process in await self.db.read(all_processes):
            process = await self.process(process.id)
            order = cycle.pending_aggregation(process.state)
            self._spawn(self._retire(process) if order is None else self._aggregate(process, order))
        self._spawn(self._keep_deadlines())

    def wind_down(self) -> None:
        """Let everybody go who waits for news."""
        self.closing = True
        self.announce()

    async def close(self) -> None:
        self.wind_down()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def announce(self) -> None:
        """Wake whoever waits: something changed."""
        news, self.news = self.news, asyncio.Event()
        news.set()
        self._timer_due.set()

    async def changed(self, news: asyncio.Event, seconds: float) -> None:
        """Until `news` (taken before looking) is set, or so many seconds have passed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await news.wait()

    # -- reading

    async def named(self, name: str, version: str | None) -> Process:
        """The process of this name; without a version the newest.

        Raises:
            NotFoundError: there is none.
        """
        wanted = sa.select(db.process.c.id).where(db.process.c.name == name)
        if version is not None:
            wanted = wanted.where(db.process.c.version == version)
        newest = wanted.order_by(db.process.c.created_at.desc()).limit(1)
        process_id = await self.db.read(lambda c: c.execute(newest).scalar())
        if process_id is None:
            asked = f"'{name}'" + (f" {version}" if version is not None else "")
            raise NotFoundError(
                f"no training {asked} is hosted on this node",
                "check name and version; the owner sees them in grid.runs",
                code=ErrorCode.NOT_FOUND,
                status=404,
            )
        return await self.process(process_id)

    async def process(self, process_id: str) -> Process:
        """The process as it was committed last."""
        known = self._committed.get(process_id)
        return known or self._committed.put_newer(await self.db.read(lambda c: load(c, process_id)))

    async def open_checkpoint(self, process: Process, number: int) -> BinaryIO:
        """A kept model, as a State message.

        Raises:
            NotFoundError: that checkpoint isn't there, or no longer.
        """
        wanted = sa.select(db.checkpoint.c.digest).where(
            db.checkpoint.c.process == process.id, db.checkpoint.c.number == number
        )
        digest = await self.db.read(lambda c: c.execute(wanted).scalar())
        if digest is not None:
            with suppress(FileNotFoundError):  # collected between the look-up and here
                return await asyncio.to_thread(self.blobs.open, digest)
        raise NotFoundError(
            f"checkpoint {number} of {process.title} isn't kept",
            "ask for 'latest', or host with a larger keep_last",
            code=ErrorCode.NOT_FOUND,
            status=404,
        )

    # -- events

    async def apply(
        self, process_id: str, make: Callable[[float], cycle.Event], remember: Remember | None = None
    ) -> tuple[Process, tuple[cycle.Decision, ...]]:
        """One event: what it decided, and the process after it. The answer is on the disk when this returns."""
        event = make(self.clock())

        def transact(c: sa.Connection) -> tuple[Process, tuple[cycle.Decision, ...], bool]:
            wanted = sa.select(db.process.c.revision).where(db.process.c.id == process_id)
            known = self._written.get(process_id)
            if known is None or known.revision != c.execute(wanted).scalar_one():  # or what wrote that was undone
                known = load(c, process_id)
            before = known
            state, decisions = cycle.decide(before.state, event)
            if remember is not None:
                remember(c, before, decisions)
            rows = history.publish(before.state, event, state, decisions)
            append_rows(c, process_id, rows)
            if state == before.state:
                return before, decisions, bool(rows)
            return self._written.put(save(c, before, state)), decisions, True

        process, decisions, changed = await self.db.write(transact)
        self._committed.put_newer(process)
        if changed:
            for observe in self.observers:
                observe(process)
            self.announce()
        for decision in decisions:
            if isinstance(decision, cycle.Aggregate):
                self._spawn(self._aggregate(process, decision))
            elif isinstance(decision, cycle.Open | cycle.Finish):
                self._spawn(self._retire_after(process))
        return process, decisions

    async def _aggregate(self, process: Process, order: cycle.Aggregate) -> None:
        """Average the reports of a closed cycle into the next checkpoint; again, if the disk or the runner is full
        meanwhile, or the notebook gone whose function does it."""
        pause = 1.0
        function = process.state.rules.function("strategy")
        notebook = None if function is None else Notebook(self, process, order, "strategy")
        while await self.is_due(process, order):
            try:
                if notebook is not None:
                    await notebook.offer()  # before any file is opened
                await self._aggregate_once(process, order, notebook)
                break
            except Gone:
                continue
            except (OSError, OperationalError, NodeError) as error:
                if isinstance(error, NodeError) and error.code is not ErrorCode.BUSY:
                    raise
                self._complain(f"{process.title}: cycle {order.sequence} can't be averaged yet", error)
                await asyncio.sleep(pause)
                pause = min(60.0, pause * 2)

    async def is_due(self, process: Process, order: cycle.Aggregate) -> bool:
        """Whether this is still to be averaged: nobody has stopped the training, or averaged it before."""
        state = (await self.process(process.id)).state
        return state.phase is cycle.Phase.AGGREGATING and state.sequence == order.sequence

    async def tell(self, process: Process, row: history.Row) -> None:
        """Publish what isn't an event of the engine."""
        row = {**row, "at": self.clock()}
        await self.db.write(lambda c: append_rows(c, process.id, [row]))
        self.announce()

    async def _aggregate_once(self, process: Process, order: cycle.Aggregate, notebook: Notebook | None) -> None:
        started = time.perf_counter()
        failpoint("aggregate-started")
        old = await self.open_checkpoint(process, order.sequence)
        draft = self.blobs.draft()
        try:
            try:
                await self._average(process, order, old, draft, notebook)
            except averaging.AveragingFailed as error:
                reason = str(error)
                await self.apply(process.id, lambda at: cycle.AggregationFailed(at, order.sequence, reason))
                return
            failpoint("aggregate-stored")
            score, failure = await self._scored(process, order, draft)

            def remember(c: sa.Connection, before: Process, _decisions: Iterable[cycle.Decision]) -> None:
                if before.state.sequence == order.sequence and before.state.phase is cycle.Phase.AGGREGATING:
                    number = order.sequence + 1
                    c.execute(db.checkpoint.insert().values(process=process.id, number=number, digest=draft.digest))
                failpoint("aggregate-decided")

            with self.blobs.pinned(draft.digest):
                await asyncio.to_thread(self.blobs.keep, draft)
                testers = await self.db.read(lambda c: testers_of(c, process.id))
                took = time.perf_counter() - started
                told = (took, testers, score.metrics, score.stop, failure)
                await self.apply(process.id, lambda at: cycle.Aggregated(at, order.sequence, *told), remember)
            failpoint("aggregate-committed")
        finally:
            old.close()
            await asyncio.to_thread(draft.discard)

    async def _average(
        self, process: Process, order: cycle.Aggregate, old: BinaryIO, draft: Draft, notebook: Notebook | None
    ) -> None:
        """Write the next model into the draft: by the training's strategy, its averaging plan, or a notebook's
        function."""
        own = await self.db.read(lambda c: averaging_plan_of(c, process.id))

        def write(chunks: Iterable[Array]) -> None:
            for piece in pack_stream(process.model, chunks):
                draft.write(piece)

        with ExitStack() as files:
            reports = await asyncio.to_thread(self._opened, order, files)
            model = await asyncio.to_thread(StateReader, old)
            size = sum(spec.size for spec in process.model if spec.averaged)
            if notebook is not None:
                result = await notebook.average(reports, size)
                with notebook.final():
                    await asyncio.to_thread(write, subtract(model, result))
                return
            if own is None:
                await asyncio.to_thread(write, aggregate(process.state.rules.strategy, model, reports))
                return
            plan = await asyncio.to_thread(self.blobs.read, own.digest)
            with averaging.final():
                result = await averaging.average(self.runner, plan, reports, size)
                await asyncio.to_thread(write, subtract(model, result))

    async def _scored(self, process: Process, order: cycle.Aggregate, draft: Draft) -> tuple[Score, str]:
        """What a notebook's function says of the next model, if one shall; and why it can't."""
        if process.state.rules.function("evaluate") is None:
            return Score(), ""
        with draft.open() as file:
            try:
                return await Notebook(self, process, order, "evaluate").score(StateReader(file)), ""
            except FunctionFailed as error:
                return Score(), str(error)

    def _opened(self, order: cycle.Aggregate, files: ExitStack) -> list[tuple[float, TensorSource]]:
        return [(p.weight, StateReader(files.enter_context(self.blobs.open(p.digest)))) for p in order.parts]

    async def _retire_after(self, process: Process) -> None:
        await self._retire(process)
        failpoint("collected")

    async def _retire(self, process: Process) -> None:
        """Retention: reports of closed cycles go, and models that are neither recent, nor a k-th, nor the first."""
        rules = process.state.rules
        closed = process.state.sequence - (process.state.phase is not cycle.Phase.FINISHED)
        newest = process.state.sequence + (process.state.outcome == "completed")

        def forget(c: sa.Connection) -> list[str]:
            reports = sa.and_(db.report.c.process == process.id, db.report.c.sequence <= closed)
            models = sa.and_(
                db.checkpoint.c.process == process.id,
                db.checkpoint.c.number > 1,
                db.checkpoint.c.number <= newest - rules.keep_last,
                db.checkpoint.c.number % rules.keep_every != 0 if rules.keep_every else sa.true(),
            )
            digests: list[str] = []
            for table, which in ((db.report, reports), (db.checkpoint, models)):
                digests += c.execute(sa.select(table.c.digest).where(which)).scalars()
                c.execute(table.delete().where(which))
            return digests

        await garbage.discard(self.db, self.blobs, await self.db.write(forget))

    async def _keep_deadlines(self) -> None:
        """The timer: acts when a cycle or a draw is due, whether or not anybody comes by."""
        nearest = (
            sa.select(db.process.c.id, db.process.c.deadline)
            .where(db.process.c.deadline.is_not(None))
            .order_by(db.process.c.deadline)
        )
        while True:
            self._timer_due.clear()
            rows = await self.db.read(lambda c: c.execute(nearest).all())
            now = self.clock()
            due = [row.id for row in rows if row.deadline <= now]
            try:
                for process_id in due:
                    await self.apply(process_id, cycle.Tick)
            except (OSError, OperationalError) as error:
                self._complain("a deadline can't be kept yet", error)
                await asyncio.sleep(1)
            if not due:
                with suppress(TimeoutError):  # `wait_for` would swallow `close`, which sets this and cancels at once
                    async with asyncio.timeout(rows[0].deadline - now if rows else None):
                        await self._timer_due.wait()

    # -- tasks

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._complain("a background task failed", error)

    def _complain(self, message: str, error: BaseException) -> None:
        asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})
