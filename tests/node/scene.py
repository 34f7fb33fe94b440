"""A node's parts in this process, for tests of its notifier: over real sockets, with a database on disk."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from gridkit.errors import ErrorCode
from gridkit.federated import cycle, history
from gridkit.federated.checks import Verdict
from gridkit.node.app import build
from gridkit.node.due import NOTHING
from gridkit.node.notifier import Notifier
from gridkit.node.outbound import Outbound, Resolve
from gridkit.node.processes import append_rows, bare, load, read_rows
from gridkit.node.settings import Limits, NodeSettings
from gridkit.node.store import tables as db
from tests.endpoints import Arrival, Endpoint

LIMITS = Limits(push_attempts=3)
IMPATIENT = Limits(push_attempts=3, push_seconds=1.0)


class Scene:
    """A node's parts without its server; ``waits` polls, as tests have no news."""

    def __init__(self, data: Path, limits: Limits, resolve: Resolve | None) -> None:
        data.mkdir()
        settings = NodeSettings(data=data, open=True, allow_targets=("silent.test:9",), limits=limits)
        self.outbound = Outbound(settings, resolve=resolve)
        self.data = data
        self.limits = limits
        _, self.service = build(settings, self.outbound)
        self.rounds = self.service.trainings.rounds
        self.notifier = self.service.notifier
        self.complaints: list[dict[str, Any]] = []

    async def __aenter__(self) -> Scene:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.complaints.append(context))
        self.rounds.db.start()
        await self.notifier.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.notifier.close()
        await self.rounds.close()
        self.service.accounts.close()
        self.service.watch.close()
        await self.service.models.close()
        self.rounds.db.close()
        self.outbound.close()

    async def restart(self) -> None:
        """Another notifier over what is on the disk."""
        await self.notifier.close()
        self.rounds.observers.clear()
        self.notifier = Notifier(self.rounds, self.service.participants, self.outbound, self.limits)
        await self.notifier.start()

    async def register(self, name: str, endpoint: str, *, signed: bool = True) -> None:
        """Straight into the tables: without a password, which takes its time."""
        number = secrets.token_hex(16) if signed else None
        row = {"id": str(uuid.uuid4()), "endpoint": endpoint, "secret": number, "profile": {}, "created_at": 0.0}

        def insert(c: sa.Connection) -> None:
            c.execute(db.account.insert().values(name=name, role="worker", password=None, created_at=0.0))
            c.execute(db.participant.insert().values(account=name, **row))

        await self.rounds.db.write(insert)

    async def secret(self, name: str) -> str:
        found = await self.rounds.db.read(lambda c: self.service.participants.of_account(c, name))
        assert found is not None and found.secret is not None
        return found.secret

    async def training(self, members: Mapping[str, str], *, owner: str = "owner", **rules: Any) -> str:
        """A training of these accounts at these endpoints, started; its id."""
        there = await self.rounds.db.read(lambda c: self.service.participants.of_accounts(c, [*members, owner]))
        for name, endpoint in members.items():
            if name not in there:
                await self.register(name, endpoint)
        training, model = str(uuid.uuid4()), str(uuid.uuid4())
        state, decisions = cycle.CycleState.start(
            cycle.CycleRules(clients=len(members), **{"num_cycles": 1, **rules}), self.rounds.clock()
        )

        def insert(c: sa.Connection) -> None:
            process = uuid.UUID(training).hex
            empty: dict[str, Any] = {"client_config": {}, "server_config": {}, "model": [], "version": "1"}
            values = {"id": process, "name": training, "owner": owner, "created_at": 0.0, "revision": 0, **empty}
            c.execute(db.process.insert().values(**values, state=bare(state), deadline=state.due))
            append_rows(c, process, history.publish(None, None, state, decisions))
            archive = {
                "name": "m",
                "description": "",
                "digest": "0" * 64,
                "size": 0,
                "input_shape": None,
                "created_at": 0.0,
            }
            c.execute(db.push_model.insert().values(id=model, owner=owner, **archive))
            started = {"config": {}, "created_at": 0.0, "told": False}
            c.execute(db.push_training.insert().values(id=training, owner=owner, model=model, **started))
            for slot, name in enumerate(members):
                worker = f"w{slot} of {training}"
                who = {"process": process, "slot": slot, "label": name, "created_at": 0.0}
                c.execute(db.worker.insert().values(id=worker, **who))
                member = {"account": name, "slot": slot, "worker": worker, "told": NOTHING}
                c.execute(db.push_member.insert().values(training=training, **member))

        await self.rounds.db.write(insert)
        self.notifier.follow(training)
        return training

    async def state(self, training: str) -> cycle.CycleState:
        """As it is on the disk."""
        return (await self.rounds.db.read(lambda c: load(c, uuid.UUID(training).hex))).state

    async def apply(self, training: str, make: Callable[[float], cycle.Event]) -> tuple[cycle.Decision, ...]:
        return (await self.rounds.apply(uuid.UUID(training).hex, make))[1]

    async def reports(self, training: str, slot: int) -> None:
        """This member's report is refused, which is a decision too, and needs no model."""
        worker = f"w{slot} of {training}"
        key = (await self.state(training)).assignments[worker].request_key
        verdict = Verdict(ErrorCode.NOT_FINITE, "NaN")
        await self.apply(training, lambda at: cycle.ReportCame(at, worker, key, "digest", verdict))

    async def told(self, training: str) -> dict[str, int]:
        wanted = sa.select(db.push_member.c.account, db.push_member.c.told).where(db.push_member.c.training == training)
        return {row.account: row.told for row in await self.rounds.db.read(lambda c: c.execute(wanted).all())}

    async def owner_told(self, training: str) -> bool:
        wanted = sa.select(db.push_training.c.told).where(db.push_training.c.id == training)
        return bool(await self.rounds.db.read(lambda c: c.execute(wanted).scalar_one()))

    async def rows(self, training: str, kind: str = "notified", worker: str | None = None) -> list[dict[str, Any]]:
        found = await self.rounds.db.read(lambda c: read_rows(c, 0, uuid.UUID(training).hex, limit=10_000))
        return [row for row in found if kind in ("", row["kind"]) and worker in (None, row.get("worker"))]

    async def said(self, training: str, worker: str | None = None) -> list[tuple[str, int | None, int | None, int]]:
        """The rows of what was told: what, its round, the answer, at which attempt."""
        rows = await self.rows(training, worker=worker)
        return [(row["notification"], row["round"], row["answer"], row["attempt"]) for row in rows]

    async def waits(self, condition: Callable[[], Coroutine[Any, Any, Any]], seconds: float = 20.0) -> Any:
        async with asyncio.timeout(seconds):
            while not (value := await condition()):
                await asyncio.sleep(0.01)
        return value

    async def is_told(self, training: str, told: dict[str, int]) -> None:
        """Until each was told up to these steps."""

        async def is_so() -> bool:
            return await self.told(training) == told

        await self.waits(is_so)

    async def is_over(self, training: str) -> bool:
        """Whether everybody was told everything."""
        return await self.owner_told(training) and training not in self.notifier._tasks

    async def hears(self, endpoint: Endpoint, what: str, times: int = 1) -> Arrival:
        await asyncio.to_thread(endpoint.waits_for, what, times)
        return [arrival for arrival in endpoint.heard if str(arrival) == what][times - 1]


Story = Callable[[Scene], Coroutine[Any, Any, None]]
Play = Callable[..., Scene]
