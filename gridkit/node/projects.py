"""Projects, runs and metrics that clients of JSON-RPC keep on a node: the bookkeeping beside their sessions.

A project is in a namespace, any name, and is its account's own: to others, the node's owner too, it doesn't exist, so
two accounts can have projects of one name in one namespace. Paths have its slug (see `slugs`), as clients make it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from gridkit.errors import ConflictError, ErrorCode, LimitError, NotFoundError
from gridkit.node.audit import about
from gridkit.node.messages_projects import ChangeRun, CreateProject, CreateRun, LogMetric
from gridkit.node.rights import Access, Principal
from gridkit.node.settings import Limits
from gridkit.node.slugs import slug_of
from gridkit.node.store import tables as db
from gridkit.node.store.database import Database

MAX_PROJECTS = 1000
"""of one account"""
PAGE = 1000
"""runs, or metrics, in one answer"""
_IDS = uuid.UUID("9c0f1f0e-6d0f-5b8e-9a51-3a6c1f3f6f0b")
"""what the ids of accounts and namespaces, which are known by their names here, are made of"""


class Projects:
    """The use-cases. Each is for the principal's own things."""

    def __init__(self, database: Database, access: Access, limits: Limits, clock: Callable[[], float]) -> None:
        self._db = database
        self._access = access
        self._limits = limits
        self._clock = clock

    def account(self, principal: Principal) -> dict[str, Any]:
        """Who asks, as a client's login shows it. Accounts have no address for mail."""
        self._access.allow(principal, "verify-key")
        return {"message": "the key is valid", "email": "", "username": principal.name}

    async def project(self, principal: Principal, namespace: str, slug: str) -> dict[str, Any]:
        """A project.

        Raises:
            NotFoundError: they have none of this name.
        """
        self._access.allow(principal, "keep-runs")
        return _shown(await self._db.read(lambda c: _project(c, principal, namespace, slug)))

    async def create(self, principal: Principal, namespace: str, wish: CreateProject) -> dict[str, Any]:
        """A project, or the one that they have under this name already: clients look for it before they ask.

        Raises:
            LimitError: `TOO_MANY`, the account has as much as it may.
        """
        self._access.allow(principal, "make-project")
        slug, now = slug_of(wish.display_name), self._clock()
        about(f"{namespace}/{slug}")

        def insert(c: sa.Connection) -> Any:
            try:
                return _project(c, principal, namespace, slug)
            except NotFoundError:
                size = len(wish.display_name.encode())
                self._room(c, principal, size)
                mine = sa.select(sa.func.count()).select_from(db.project).where(db.project.c.owner == principal.name)
                if c.execute(mine).scalar_one() >= MAX_PROJECTS:
                    raise _full(principal, f"{MAX_PROJECTS:,} projects") from None
                names = {"owner": principal.name, "namespace": namespace, "slug": slug, "title": wish.display_name}
                values = {"id": str(uuid.uuid4()), "created_at": now, "rows": 1, "size": size}
                c.execute(db.project.insert().values(**names, **values))
                return _project(c, principal, namespace, slug)

        return _shown(await self._db.write(insert))

    async def delete(self, principal: Principal, namespace: str, slug: str) -> None:
        """Delete a project, with its runs and what they logged.

        Raises:
            NotFoundError: they have none of this name.
        """
        self._access.allow(principal, "make-project")

        def delete(c: sa.Connection) -> None:
            found = _project(c, principal, namespace, slug)
            runs = sa.select(db.project_run.c.id).where(db.project_run.c.project == found.id)
            c.execute(db.project_metric.delete().where(db.project_metric.c.run.in_(runs)))
            c.execute(db.project_run.delete().where(db.project_run.c.project == found.id))
            c.execute(db.project.delete().where(db.project.c.id == found.id))

        await self._db.write(delete)

    async def runs(self, principal: Principal, namespace: str, slug: str, after: int = 0) -> list[dict[str, Any]]:
        """The runs of a project whose `number`, from 1, is larger than `after`: the first `PAGE` of them.

        Raises:
            NotFoundError: they have no project of this name.
        """
        self._access.allow(principal, "keep-runs")

        def read(c: sa.Connection) -> list[dict[str, Any]]:
            found = _project(c, principal, namespace, slug)
            runs = sa.select(db.project_run).where(db.project_run.c.project == found.id)
            runs = runs.where(db.project_run.c.number > after).order_by(db.project_run.c.number).limit(PAGE)
            return [_run_shown(found, run) for run in c.execute(runs)]

        return await self._db.read(read)

    async def begin(self, principal: Principal, namespace: str, slug: str, wish: CreateRun) -> dict[str, Any]:
        """A new run. Another one's name gets a number behind it; without a name it is ``run_<number>``.

        Raises:
            NotFoundError: they have no project of this name.
            LimitError: `TOO_MANY`, the account has as much as it may.
        """
        self._access.allow(principal, "keep-runs")
        now = self._clock()

        def insert(c: sa.Connection) -> dict[str, Any]:
            found = _project(c, principal, namespace, slug)
            largest = sa.select(sa.func.max(db.project_run.c.number)).where(db.project_run.c.project == found.id)
            number = (c.execute(largest).scalar() or 0) + 1
            run = {"id": str(uuid.uuid4()), "project": found.id, "number": number, "status": wish.status}
            run |= {"name": _free_name(c, found.id, wish.name or f"run_{number}"), "created_at": now}
            run |= {"description": wish.description or "", "updated_at": now}
            self._add(c, principal, found, len((run["name"] + run["description"]).encode()), last_run=now)
            c.execute(db.project_run.insert().values(**run))
            return _run_shown(found, _run(c, found, run["id"]))

        return await self._db.write(insert)

    async def change(
        self, principal: Principal, namespace: str, slug: str, run_id: str, wish: ChangeRun
    ) -> dict[str, Any]:
        """Another status of a run.

        Raises:
            NotFoundError: they have no such run.
        """
        self._access.allow(principal, "keep-runs")
        now = self._clock()

        def update(c: sa.Connection) -> dict[str, Any]:
            found = _project(c, principal, namespace, slug)
            run = _run(c, found, run_id)
            mine = db.project_run.c.id == run.id
            c.execute(db.project_run.update().where(mine).values(status=wish.status, updated_at=now))
            return _run_shown(found, _run(c, found, run.id))

        return await self._db.write(update)

    async def log(
        self, principal: Principal, namespace: str, slug: str, run_id: str, wish: LogMetric
    ) -> dict[str, Any]:
        """A value of a metric of a run. Without a step it is one more than the metric's largest, the first is 0.

        Raises:
            NotFoundError: they have no such run.
            ConflictError: `RUN_OVER`, the run is over.
            LimitError: `TOO_MANY`, the account has as much as it may.
        """
        self._access.allow(principal, "keep-runs")
        size, now, table = len(wish.name.encode()) + len(json.dumps(wish.value)), self._clock(), db.project_metric

        def insert(c: sa.Connection) -> dict[str, Any]:
            found = _project(c, principal, namespace, slug)
            run = _run(c, found, run_id)
            if run.status != "RUNNING":
                raise ConflictError(
                    f"the run '{run.name}' is {run.status}, so it takes no more metrics",
                    "begin another run",
                    code=ErrorCode.RUN_OVER,
                    status=409,
                )
            self._add(c, principal, found, size)
            last = c.execute(sa.select(sa.func.max(table.c.number)).where(table.c.run == run.id)).scalar()
            step = wish.step
            if step is None:
                named = sa.select(sa.func.max(table.c.step)).where(table.c.run == run.id, table.c.name == wish.name)
                largest = c.execute(named).scalar()
                step = 0 if largest is None else largest + 1
            number = (last or 0) + 1
            row = {"number": number, "name": wish.name, "step": step, "value": wish.value, "created_at": now}
            c.execute(table.insert().values(run=run.id, **row))
            return _metric_shown(row)

        return await self._db.write(insert)

    async def metrics(
        self, principal: Principal, namespace: str, slug: str, run_id: str, after: int = 0
    ) -> list[dict[str, Any]]:
        """What a run has logged, in order, whose `number`, from 1, is larger than `after`: the first `PAGE` of it.

        Raises:
            NotFoundError: they have no such run.
        """
        self._access.allow(principal, "keep-runs")
        table = db.project_metric

        def read(c: sa.Connection) -> list[dict[str, Any]]:
            run = _run(c, _project(c, principal, namespace, slug), run_id)
            rows = sa.select(table).where(table.c.run == run.id, table.c.number > after)
            return [_metric_shown(dict(row)) for row in c.execute(rows.order_by(table.c.number).limit(PAGE)).mappings()]

        return await self._db.read(read)

    def _add(self, c: sa.Connection, principal: Principal, project: Any, size: int, **changed: Any) -> None:
        """One row more of a project, with so many bytes of texts and values."""
        self._room(c, principal, size)
        counted = {"rows": db.project.c.rows + 1, "size": db.project.c.size + size}
        c.execute(db.project.update().where(db.project.c.id == project.id).values(**counted, **changed))

    def _room(self, c: sa.Connection, principal: Principal, size: int) -> None:
        together = (sa.func.coalesce(sa.func.sum(column), 0) for column in (db.project.c.rows, db.project.c.size))
        mine = sa.select(*together).where(db.project.c.owner == principal.name)
        rows, taken = c.execute(mine).one()
        if rows >= self._limits.project_rows or taken + size > self._limits.project_bytes:
            raise _full(principal, f"{rows:,} projects, runs and metrics of {taken:,} bytes")


def _project(c: sa.Connection, principal: Principal, namespace: str, slug: str) -> Any:
    table = db.project
    mine = sa.select(table).where(table.c.owner == principal.name, table.c.namespace == namespace, table.c.slug == slug)
    row = c.execute(mine).first()
    if row is None:
        raise _missing(f"project '{namespace[:100]}/{slug[:100]}'", "make it with a POST to …/projects/")
    return row


def _run(c: sa.Connection, project: Any, run_id: str) -> Any:
    mine = sa.select(db.project_run).where(db.project_run.c.project == project.id, db.project_run.c.id == run_id)
    row = c.execute(mine).first()
    if row is None:
        raise _missing(f"run {run_id[:50]} in '{project.namespace}/{project.slug}'", "begin it with a POST to …/runs/")
    return row


def _free_name(c: sa.Connection, project_id: str, name: str) -> str:
    """The name, or the name with the first number, from 1, that no other run has."""
    table = db.project_run
    alike = sa.or_(table.c.name == name, table.c.name.startswith(f"{name}_", autoescape=True))
    taken = set(c.execute(sa.select(table.c.name).where(table.c.project == project_id, alike)).scalars())
    if name not in taken:
        return name
    return next(numbered for n in range(1, len(taken) + 1) if (numbered := f"{name}_{n}") not in taken)


def _shown(row: Any) -> dict[str, Any]:
    return {
        "uuid": row.id,
        "display_name": row.title,
        "slug": row.slug,
        "date_created": _time(row.created_at),
        "last_run_date": None if row.last_run is None else _time(row.last_run),
        "visibility": "RESTRICTED",
        "role": "OWNER",
        "org_uuid": str(uuid.uuid5(_IDS, f"namespace {row.namespace}")),
        "org_display_name": row.namespace,
        "org_slug": row.namespace,
    }


def _run_shown(project: Any, row: Any) -> dict[str, Any]:
    return {
        "uuid": row.id,
        "number": row.number,
        "name": row.name,
        "description": row.description,
        "status": row.status,
        "date_created": _time(row.created_at),
        "date_updated": _time(row.updated_at),
        "project": {"uuid": project.id, "display_name": project.title, "slug": project.slug},
        "user": {
            "uuid": str(uuid.uuid5(_IDS, f"account {project.owner}")),
            "username": project.owner,
            "slug": project.owner,
        },
    }


def _metric_shown(row: dict[str, Any]) -> dict[str, Any]:
    told = {name: row[name] for name in ("number", "name", "step", "value")}
    return {**told, "date_created": _time(row["created_at"])}


def _time(seconds: float) -> str:
    """ISO 8601 with the Z that clients look for."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _full(principal: Principal, what: str) -> LimitError:
    return LimitError(
        f"'{principal.name}' has {what} here, which is all that an account may have",
        "delete a project; the node's owner can start it with --limit project_rows=… or --limit project_bytes=…",
        code=ErrorCode.TOO_MANY,
        status=429,
    )


def _missing(what: str, hint: str) -> NotFoundError:
    return NotFoundError(f"you have no {what} on this node", hint, code=ErrorCode.NOT_FOUND, status=404)
