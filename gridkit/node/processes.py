"""Hosted trainings as the database has them: a row a process, a row each of its assignments, published rows.

Assignments have rows of their own so that an event costs the same whether ten workers take part in a cycle or ten
thousand: it writes the small rest of the state, and the assignments that it changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from gridkit.errors import ErrorCode, NodeError
from gridkit.federated.cycle import CycleState
from gridkit.federated.events import Tester
from gridkit.node.store import tables as db
from gridkit.wire.tensors import TensorSpec

AVERAGING_PLAN = "averaging_plan"
"""name of the plan that is the node's own; no plan for workers is called so"""
SECRETS = ("secret", "pub_key", "endpoint")
"""members of `server_config.authentication` that are never shown: an endpoint's URL may hold a key"""


@dataclass(frozen=True, slots=True)
class Process:
    """A hosted training.

    Attributes:
        server_config: without what is secret in it.
        authentication: whose tokens its workers may come with (see `worker_auth.Authentication`); never shown.
    """

    id: str
    name: str
    version: str
    owner: str
    client_config: dict[str, Any]
    server_config: dict[str, Any]
    model: tuple[TensorSpec, ...]
    state: CycleState
    revision: int
    authentication: dict[str, Any] | None = field(repr=False)

    @classmethod
    def of(cls, row: Any, assignments: Iterable[Any] = ()) -> Process:
        """From its row of the table `process`, and those of the table `assignment`."""
        specs = tuple(TensorSpec(name, dtype, tuple(shape)) for name, dtype, shape in row.model)
        rounds: dict[str, dict[str, Any]] = {"assignments": {}, "previous": {}}
        for one in assignments:
            current = one.sequence == row.state["sequence"]
            rounds["assignments" if current else "previous"][one.worker] = one.body
        state = CycleState.from_json(row.state | rounds)
        server, door = dict(row.server_config), row.server_config.get("authentication") or None
        if door is not None:
            server["authentication"] = {member: value for member, value in door.items() if member not in SECRETS}
        configs = (row.client_config, server)
        return cls(row.id, row.name, row.version, row.owner, *configs, specs, state, row.revision, door)

    @property
    def title(self) -> str:
        return f"'{self.name}' {self.version}"


def load(c: sa.Connection, process_id: str) -> Process:
    """The process of this id."""
    row = c.execute(sa.select(db.process).where(db.process.c.id == process_id)).one()
    return Process.of(row, c.execute(sa.select(db.assignment).where(db.assignment.c.process == process_id)))


def all_processes(c: sa.Connection, owner: str | None = None) -> list[Process]:
    """Every process, or every one of this owner, oldest first; without the assignments of its cycles."""
    wanted = sa.select(db.process).order_by(db.process.c.created_at)
    if owner is not None:
        wanted = wanted.where(db.process.c.owner == owner)
    return [Process.of(row) for row in c.execute(wanted)]


def bare(state: CycleState) -> dict[str, Any]:
    """What the table `process` has of a state: all but the assignments."""
    return replace(state, assignments={}, previous={}).to_json()


def save(c: sa.Connection, before: Process, state: CycleState) -> Process:
    """Store a new state: its bare rest, and the assignments that changed.

    Raises:
        NodeError: `BUSY`, somebody else has changed the process since `before` was loaded.
    """
    after = replace(before, state=state, revision=before.revision + 1)
    done = c.execute(
        db.process.update()
        .where(db.process.c.id == before.id, db.process.c.revision == before.revision)
        .values(state=bare(state), revision=after.revision, deadline=state.due)
    )
    if done.rowcount != 1:
        raise NodeError(f"{before.title} was changed by another node", code=ErrorCode.BUSY, status=503)
    table = db.assignment
    here = sa.and_(table.c.process == before.id, table.c.sequence == state.sequence)
    known = before.state.assignments if before.state.sequence == state.sequence else {}
    changed = [a for worker, a in state.assignments.items() if known.get(worker) is not a]
    rows = [
        {"process": before.id, "sequence": state.sequence, "worker": a.worker, "body": a.to_json()} for a in changed
    ]
    if again := [{"again": a.worker} for a in changed if a.worker in known]:
        c.execute(table.delete().where(here, table.c.worker == sa.bindparam("again")), again)
    if rows:
        c.execute(table.insert(), rows)
    if state.sequence != before.state.sequence:
        c.execute(table.delete().where(table.c.process == before.id, table.c.sequence < state.sequence - 1))
    return after


def plans_of(c: sa.Connection, process_id: str) -> list[Any]:
    """Its rows of the table `plan` that are for workers."""
    mine = sa.select(db.plan).where(db.plan.c.process == process_id, db.plan.c.name != AVERAGING_PLAN)
    return list(c.execute(mine.order_by(db.plan.c.id)))


def averaging_plan_of(c: sa.Connection, process_id: str) -> Any | None:
    """Its row of the table `plan` that is the node's own, if it has one."""
    mine = sa.select(db.plan).where(db.plan.c.process == process_id, db.plan.c.name == AVERAGING_PLAN)
    return c.execute(mine).first()


def testers_of(c: sa.Connection, process_id: str) -> tuple[Tester, ...]:
    """Its push participants: each tests every model on its own data."""
    wanted = sa.select(db.worker.c.id, db.worker.c.label, db.worker.c.slot).order_by(db.worker.c.slot)
    wanted = wanted.join(db.push_member, db.push_member.c.worker == db.worker.c.id)
    rows = c.execute(wanted.where(db.worker.c.process == process_id))
    return tuple(Tester(row.id, row.label, row.slot) for row in rows)


def append_rows(c: sa.Connection, run: str, rows: Iterable[dict[str, Any]]) -> None:
    """Add published rows to the one event table."""
    for row in rows:
        body = {key: value for key, value in row.items() if key != "kind"}
        c.execute(db.event.insert().values(run=run, kind=row["kind"], body=body))


def read_rows(
    c: sa.Connection, after: int, run: str | None, owner: str | None = None, limit: int = 64
) -> list[dict[str, Any]]:
    """Published rows with a larger `seq`, of one run or of all, of one owner's or of everybody's."""
    wanted = sa.select(db.event).where(db.event.c.seq > after).order_by(db.event.c.seq).limit(limit)
    if run is not None:
        wanted = wanted.where(db.event.c.run == run)
    if owner is not None:
        wanted = wanted.where(db.event.c.run.in_(sa.select(db.process.c.id).where(db.process.c.owner == owner)))
    return [{"seq": row.seq, "run": row.run, "kind": row.kind, **row.body} for row in c.execute(wanted)]


class Recent:
    """The processes that were looked at last. For one thread."""

    def __init__(self, size: int = 32) -> None:
        self._size = size
        self._processes: dict[str, Process] = {}

    def get(self, process_id: str) -> Process | None:
        return self._processes.get(process_id)

    def put(self, process: Process) -> Process:
        """Remember it in place of what was known of it."""
        self._processes.pop(process.id, None)
        self._processes[process.id] = process
        if len(self._processes) > self._size:
            del self._processes[next(iter(self._processes))]
        return process

    def put_newer(self, process: Process) -> Process:
        """Remember it unless a newer revision is known; the newest."""
        known = self._processes.get(process.id)
        return self.put(process if known is None or process.revision >= known.revision else known)
