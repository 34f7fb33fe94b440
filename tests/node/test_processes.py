"""Trainings in the database: what is stored is what was decided, and an event of a large cycle writes as little as one
of a small cycle."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from hypothesis import settings

from gridkit.federated import cycle
from gridkit.federated.cycle import CycleRules, CycleState
from gridkit.node.processes import Process, Recent, bare, load, save
from gridkit.node.rounds import Rounds
from gridkit.node.store import tables as db
from gridkit.node.store.database import Database
from tests.federated.machine import Training, asked, came
from tests.federated.test_cycle_machine import Histories


def insert(c: sa.Connection, state: CycleState) -> None:
    """A process "p" that begins with this state."""
    empty: dict[str, Any] = {"client_config": {}, "server_config": {}, "model": []}
    values = {"id": "p", "name": "n", "version": "v", "created_at": 0.0, "revision": 0, **empty}
    c.execute(db.process.insert().values(**values, state=bare(state)))


class Stored(Training):
    """A training that is stored at each step, and read back."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.c = sa.create_engine("sqlite://").connect()
        db.metadata.create_all(self.c)
        insert(self.c, self.state)
        self.process = load(self.c, "p")

    def step(self, event: cycle.Event) -> tuple[cycle.Decision, ...]:
        decisions = super().step(event)
        if self.state != self.process.state:
            self.process = save(self.c, self.process, self.state)
        assert load(self.c, "p") == self.process
        return decisions


class StoredHistories(Histories):
    make = Stored

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "training"):
            assert isinstance(self.training, Stored)
            self.training.c.close()


class TestStoredHistories(StoredHistories.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(max_examples=30, stateful_step_count=25)


def test_an_event_writes_as_much_in_a_cycle_of_ten_as_in_one_of_thousands() -> None:
    costs = {}
    for size in (10, 2000):
        training = Stored(num_cycles=1, min_diffs=size, max_diffs=size)
        with closing(training.c):
            workers = [cycle.Assignment(f"id-{n}", f"client {n}", n, f"key-{n}", 0.0) for n in range(size)]
            state = cycle.CycleState.from_json(
                {**training.state.to_json(), "assignments": {a.worker: a.to_json() for a in workers}}
            )
            before = save(training.c, training.process, state)
            text: list[int] = []
            sa.event.listen(
                training.c,
                "before_cursor_execute",
                lambda *call: text.append(len(repr(call[3]))),  # noqa: B023  called in this pass
            )
            after, _ = cycle.decide(before.state, came(1.0, 3, "key-3"))
            save(training.c, before, after)
            costs[size] = (len(text), sum(text))
            assert load(training.c, "p").state == after
    (few, small), (many, large) = costs.values()
    assert many == few and large <= small + 100


def test_only_the_newest_cycle_and_the_one_before_are_kept() -> None:
    training = Stored(num_cycles=5, min_diffs=1, max_diffs=1)
    with closing(training.c):
        for _ in range(4):
            training.work(0)
            training.aggregated()
        assert set(training.c.execute(sa.select(db.assignment.c.sequence)).scalars()) == {4}
        training.work(1)
        assert set(training.c.execute(sa.select(db.assignment.c.sequence)).scalars()) == {4, 5}


# ---- what is remembered


class Flaky(Database):
    """Every second transaction fails when its work is done."""

    writes = 0

    async def write(self, job: Callable[[sa.Connection], Any]) -> Any:
        self.writes += 1
        return await super().write(job if self.writes % 2 else lambda c: self._fail(job(c)))

    def _fail(self, _: object) -> None:
        raise OSError("the disk is full")


def test_what_was_undone_is_not_gone_on_from(tmp_path: Path) -> None:
    """Also where the undone and the good are of one group."""
    base = Flaky(f"sqlite:///{tmp_path / 'grid.db'}")
    rounds = Rounds(base, None, None)  # type: ignore[arg-type]  no blob is touched

    async def main() -> None:
        state, _ = CycleState.start(CycleRules(), 0.0)
        await base.write(lambda c: insert(c, state))
        asking = [rounds.apply("p", lambda at, n=n: asked(1.0, n)) for n in range(9)]  # type: ignore[misc]
        told = await asyncio.gather(*asking, return_exceptions=True)
        assert [isinstance(one, OSError) for one in told] == [n % 2 == 0 for n in range(9)]
        process = await rounds.process("p")
        assert set(process.state.assignments) == {f"id-{n}" for n in (1, 3, 5, 7)} and process.revision == 4
        assert await base.read(lambda c: load(c, "p")) == process

    base.start()
    asyncio.run(main())
    base.close()


def test_so_many_are_remembered_and_no_more() -> None:
    state, _ = CycleState.start(CycleRules(), 0.0)
    recent = Recent(2)
    made = [Process(str(n), "n", "v", "owner", {}, {}, (), state, 1, None) for n in range(3)]
    for process in (*made[:2], made[0], made[2]):
        recent.put(process)
    assert recent.get("0") is made[0] and recent.get("1") is None and recent.get("2") is made[2]
    older = Process("0", "n", "v", "owner", {}, {}, (), state, 0, None)
    assert recent.put_newer(older) is made[0] and recent.put(older) is older and recent.put_newer(made[0]) is made[0]
