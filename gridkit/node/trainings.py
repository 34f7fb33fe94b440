"""Trainings on a node: host (see `hosting`), request work, hand out models and plans, take reports, retrieve, stop.

Each use-case takes checked values and a `Principal`, and raises typed errors; the routes only translate.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, BinaryIO, NoReturn

import sqlalchemy as sa

from gridkit.errors import AccessError, ConflictError, ErrorCode, NodeError, NotFoundError
from gridkit.federated import cycle
from gridkit.federated.checks import Verdict
from gridkit.node import intake, messages, offers
from gridkit.node.audit import about
from gridkit.node.enrolment import enrol
from gridkit.node.failpoint import failpoint
from gridkit.node.forms import Forms
from gridkit.node.hosting import Hosting
from gridkit.node.participants import Participants
from gridkit.node.processes import AVERAGING_PLAN, Process, all_processes, averaging_plan_of, plans_of, read_rows
from gridkit.node.rights import Access, Principal, Role
from gridkit.node.rounds import Rounds
from gridkit.node.store import garbage
from gridkit.node.store import tables as db
from gridkit.node.store.blobs import Draft
from gridkit.node.worker_auth import Door, door_of


class Trainings(Hosting):
    """The trainings of one node."""

    def __init__(
        self, rounds: Rounds, access: Access, door: Door, participants: Participants, follow: Callable[[str], None]
    ) -> None:
        super().__init__(rounds, access, door, participants, follow)
        self._forms = Forms(rounds.blobs)

    # -- tokens of workers

    async def issue_token(self, principal: Principal, wish: messages.IssueToken) -> str:
        """A worker token for a hosted process, perhaps bound to a slot and a label, perhaps good for one worker."""
        about(f"{wish.name} {wish.version or ''}".rstrip())
        self.access.allow(principal, "issue-token")
        process = await self.rounds.named(wish.name, wish.version)
        self.access.allow(principal, "issue-token", owner=process.owner)
        return self.access.issue(process.id, wish.slot, wish.worker, once=wish.once, seconds=wish.expires)

    # -- workers

    async def authenticate(self, principal: Principal, wish: messages.Authenticate) -> dict[str, Any]:
        """Give a worker its identity: a random id, which is also its right to ask for work in this process."""
        principal, process = await self.door.admit(principal, wish)
        at = self.rounds.clock()
        worker_id = await self._db.write(lambda c: enrol(c, process, principal, wish, at))
        if principal.once:
            self.access.spent(principal)
        measured = process.state.rules.requires_speed_test
        return {"status": "success", "worker_id": worker_id, "requires_speed_test": measured}

    async def may_measure(self, principal: Principal, worker_id: str) -> None:
        """Whether a worker has a reason to measure its connection.

        Raises:
            AccessError: `BAD_KEY`, no worker has this id; `FORBIDDEN`, its training asks for no speed.
        """
        process_id, _, _ = await self._worker(principal, worker_id)
        if not (await self.rounds.process(process_id)).state.rules.requires_speed_test:
            raise AccessError("this training asks for no speed", code=ErrorCode.FORBIDDEN, status=403)

    async def request_cycle(self, principal: Principal, wish: messages.CycleRequest) -> dict[str, Any]:
        """Ask for work: `accepted` with keys and ids, or `rejected` with a reason and when to come back."""
        process_id, slot, label = await self._worker(principal, wish.worker_id)
        process = await self.rounds.process(process_id)
        if process.name != wish.model or wish.version not in (None, process.version):
            raise AccessError(
                f"this worker authenticated for {process.title}, not for '{wish.model}'",
                "authenticate for each model",
                code=ErrorCode.FORBIDDEN,
                status=403,
            )
        return await offers.offer(self.rounds, process, wish, slot, label)

    async def open_model(self, principal: Principal, worker_id: str, request_key: str, model_id: str) -> BinaryIO:
        """The model that an accepted worker starts from, as a State message."""
        process = await self._assigned(principal, worker_id, request_key)
        if model_id != process.id:
            raise AccessError("the request key is for another model", code=ErrorCode.BAD_KEY, status=401)
        return await self.rounds.open_checkpoint(process, process.state.sequence)

    async def open_plan(
        self, principal: Principal, worker_id: str | None, request_key: str | None, plan_id: int, form: str
    ) -> BinaryIO:
        """A plan in the asked form, for an accepted worker or for who hosts the training."""
        wanted = sa.select(db.plan, db.process.c.owner).join(db.process).where(db.plan.c.id == plan_id)
        rows = await self._db.read(lambda c: c.execute(wanted).all())
        if worker_id is None and request_key is None and self.access.may(principal, "observe"):
            allowed = None
            if rows:
                self.access.allow(principal, "observe", owner=rows[0].owner)
        else:
            if worker_id is None or request_key is None:
                raise NodeError("worker_id and request_key are missing", code=ErrorCode.BAD_REQUEST, status=400)
            allowed = (await self._assigned(principal, worker_id, request_key)).id
        for_workers = rows and rows[0].name != AVERAGING_PLAN
        if not rows or allowed not in (None, rows[0].process) or not (allowed is None or for_workers):
            raise NotFoundError("there is no such plan in this training", code=ErrorCode.NOT_FOUND, status=404)
        if form == "tfjs":
            process = await self.rounds.process(rows[0].process)
            return io.BytesIO(await self._forms.tfjs(rows[0].name, rows[0].digest, process.model))
        if form != "gridkit":
            raise NodeError(
                f"plan '{rows[0].name}' has no form '{form[:50]}'",
                "ask with receive_operations_as=gridkit, or =tfjs",
                code=ErrorCode.BAD_PLAN,
                status=400,
            )
        return await asyncio.to_thread(self._blobs.open, rows[0].digest)

    async def find_protocol(self, principal: Principal, worker_id: str, request_key: str) -> NoReturn:
        """Trainings have no protocols here (hosting refuses them), which an accepted worker is told.

        Raises:
            NotFoundError: always, unless the key isn't good.
        """
        process = await self._assigned(principal, worker_id, request_key)
        raise NotFoundError(f"{process.title} has no protocols", code=ErrorCode.NOT_FOUND, status=404)

    async def expect_report(self, principal: Principal, wish: messages.Report) -> tuple[Process, int]:
        """Before a body is taken: the process that this report is for, and how many bytes it may have.

        Raises:
            NodeError: what a report with these ids would be refused with.
        """
        process = await self._assigned(principal, wish.worker_id, wish.request_key, late=True)
        return process, sum(spec.size * 10 + 16 * len(spec.shape) + 1024 for spec in process.model) + 64 * 1024

    def draft(self) -> Draft:
        """Where a route puts the bytes of a report as they come."""
        return self._blobs.draft()

    async def report(self, process: Process, wish: messages.Report, draft: Draft) -> dict[str, Any]:
        """Take a report: check it, store it durably, let the cycle decide, then answer.

        `process` is from `expect_report`; `decide` looks at key and cycle again, in the transaction. `draft` holds the
        bytes of the diff (nothing for a worker that reports an error); the caller discards it.

        Raises:
            NodeError: with the verdict's code when the report is refused; the cycle goes on with the rest.
        """
        failpoint("report-received")
        error = wish.error.model_dump() if wish.error else None
        if error is None:
            verdict = await asyncio.to_thread(intake.check_diff, draft, process)
        else:
            verdict = Verdict(ErrorCode.WORKER_ERROR, f"{error['type']}: {error['message']}")
        digest = draft.digest if error is None else hashlib.sha256(repr(error).encode()).hexdigest()
        size = draft.size
        with self._blobs.pinned(digest):
            if verdict.accepted:
                await asyncio.to_thread(self._blobs.keep, draft)
            failpoint("report-stored")

            def remember(c: sa.Connection, before: Process, decisions: Iterable[cycle.Decision]) -> None:
                if any(isinstance(d, cycle.Count) for d in decisions):
                    c.execute(
                        db.report.insert().values(
                            request_key=wish.request_key,
                            process=before.id,
                            sequence=before.state.sequence,
                            digest=digest,
                        )
                    )
                failpoint("report-decided")

            _, decisions = await self.rounds.apply(
                process.id,
                lambda at: cycle.ReportCame(
                    at,
                    wish.worker_id,
                    wish.request_key,
                    digest,
                    verdict,
                    wish.samples,
                    wish.metrics,
                    size,
                    error,
                ),
                remember,
            )
        failpoint("report-committed")
        if verdict.accepted and not any(isinstance(d, cycle.Count) for d in decisions):
            await garbage.discard(self._db, self._blobs, [digest])
        refusal = next((d for d in decisions if isinstance(d, cycle.Refuse)), None)
        if refusal is not None and refusal.code is not ErrorCode.WORKER_ERROR:
            raise _refused(refusal)
        return {"status": "success"}

    # -- reading

    async def open_checkpoint(
        self, principal: Principal, name: str, version: str | None, checkpoint: str
    ) -> tuple[BinaryIO, int]:
        """A model of a process: checkpoint `latest` or a number (1 is the start). The file and its number."""
        self.access.allow(principal, "retrieve-model")
        process = await self.rounds.named(name, version)
        door_of(principal, process)
        self.access.allow(principal, "retrieve-model", owner=process.owner, process=process.id)
        if checkpoint == "latest":
            newest = sa.select(sa.func.max(db.checkpoint.c.number)).where(db.checkpoint.c.process == process.id)
            number = int(await self._db.read(lambda c: c.execute(newest).scalar_one()))
        elif checkpoint.isdecimal() and len(checkpoint) < 10:
            number = int(checkpoint)
        else:
            raise NodeError("checkpoint is 'latest' or a number", code=ErrorCode.BAD_REQUEST, status=400)
        return await self.rounds.open_checkpoint(process, number), number

    async def processes(self, principal: Principal) -> list[dict[str, Any]]:
        """The hosted processes, all of them for the role owner, else one's own: name, configuration, plans, and where
        each stands."""
        self.access.allow(principal, "observe")

        def read(c: sa.Connection) -> list[dict[str, Any]]:
            return [
                {
                    "id": p.id,
                    "name": p.name,
                    "version": p.version,
                    "client_config": p.client_config,
                    "server_config": p.server_config,
                    "plans": {row.name: row.id for row in plans_of(c, p.id)},
                    "averaging_plan": None if (own := averaging_plan_of(c, p.id)) is None else own.id,
                    "phase": str(p.state.phase),
                    "cycle": p.state.sequence,
                    "outcome": p.state.outcome,
                    "reason": p.state.reason,
                }
                for p in all_processes(c, _whose(principal))
            ]

        return await self._db.read(read)

    async def rows(self, principal: Principal, after: int, run: str | None) -> AsyncIterator[list[dict[str, Any]]]:
        """Published rows after `seq` number `after`, in batches, as they come; an empty batch every 15 s of silence.
        Rows of one's own trainings; the role owner has them all."""
        self.access.allow(principal, "observe")
        owner = _whose(principal)
        while not self.rounds.closing and self.access.may(principal, "observe"):  # it may end meanwhile
            news = self.rounds.news
            batch = await self._db.read(lambda c, after=after: read_rows(c, after, run, owner))  # type: ignore[misc]
            if batch:
                after = batch[-1]["seq"]
                yield batch
            else:
                await self.rounds.changed(news, 15)
                if self.rounds.news is news:
                    yield []

    async def stop(self, principal: Principal, wish: messages.Stop) -> dict[str, Any]:
        """Stop a training after this round, or at once."""
        about(f"{wish.name} {wish.version or ''}".rstrip())
        self.access.allow(principal, "stop")
        process = await self.rounds.named(wish.name, wish.version)
        self.access.allow(principal, "stop", owner=process.owner)
        process, _ = await self.rounds.apply(process.id, lambda at: cycle.StopAsked(at, wish.now))
        return {"status": "success", "phase": str(process.state.phase), "outcome": process.state.outcome}

    # -- inside

    async def _worker(self, principal: Principal, worker_id: str) -> tuple[str, int, str]:
        wanted = sa.select(db.worker).where(db.worker.c.id == worker_id)
        row = await self._db.read(lambda c: c.execute(wanted).first())
        if row is None:
            raise AccessError(
                "no worker with this id has authenticated", "authenticate first", code=ErrorCode.BAD_KEY, status=401
            )
        self.access.allow(principal, "work", process=row.process)
        return row.process, row.slot, row.label

    async def _assigned(self, principal: Principal, worker_id: str, request_key: str, *, late: bool = False) -> Process:
        """The process for which this worker holds this key. With `late`, its key of a closed cycle passes as well:
        `decide` then tells a repetition from a late report."""
        process_id, _, _ = await self._worker(principal, worker_id)
        process = await self.rounds.process(process_id)
        try:
            cycle.check_key(process.state, worker_id, request_key)
        except ConflictError:
            if not late:
                raise
        return process


def _whose(principal: Principal) -> str | None:
    """Whose trainings this principal sees; None: everybody's."""
    return None if principal.role is Role.OWNER else principal.name


_SHAPES = "send one tensor for each of the model as it was downloaded, in its order: model minus trained model"
_STATE = "send a State message, as job.model.create_serialized_diff makes one"
_ADVICE = {
    ErrorCode.BAD_KEY: "ask for the cycle again",
    ErrorCode.CYCLE_CLOSED: "ask for the next cycle; server_config.cycle_length and max_diffs say how soon one ends",
    ErrorCode.ALREADY_REPORTED: "wait for the next cycle",
    ErrorCode.COUNT_MISMATCH: _SHAPES,
    ErrorCode.NAME_MISMATCH: _SHAPES,
    ErrorCode.SHAPE_MISMATCH: _SHAPES,
    ErrorCode.DTYPE_MISMATCH: _SHAPES,
    ErrorCode.MALFORMED: _STATE,
    ErrorCode.UNSAFE_FORMAT: _STATE,
    ErrorCode.NOT_FINITE: "lower the learning rate, and look for missing values in the data",
    ErrorCode.NORM_TOO_LARGE: "lower the learning rate or the number of updates; server_config.max_norm is the bound",
}


def _refused(refusal: cycle.Refuse) -> NodeError:
    kinds: dict[ErrorCode, tuple[type[NodeError], int]] = {
        ErrorCode.BAD_KEY: (AccessError, 401),
        ErrorCode.CYCLE_CLOSED: (ConflictError, 409),
        ErrorCode.ALREADY_REPORTED: (ConflictError, 409),
        ErrorCode.WORKER_LEFT: (ConflictError, 409),
    }
    kind, status = kinds.get(refusal.code, (NodeError, 400))
    return kind(refusal.message, _ADVICE.get(refusal.code), code=refusal.code, status=status)
