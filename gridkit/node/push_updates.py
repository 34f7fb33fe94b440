"""What push participants send: updates in a round, metrics in a test. The rules are those of all reports.

An update is a whole model. What counts is how it differs from the one that the round started from; so from here on it
is a report like any other, under the request key that its sender was given when it was called to the round.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from typing import Any, BinaryIO

import sqlalchemy as sa

from gridkit.errors import ConflictError, ErrorCode, NodeError, NotFoundError
from gridkit.federated import cycle
from gridkit.node import push_rows
from gridkit.node.messages import Report
from gridkit.node.messages_push import Metrics, Update
from gridkit.node.participants import Participants
from gridkit.node.processes import Process
from gridkit.node.push_archives import write_update
from gridkit.node.rights import Access, Principal
from gridkit.node.store import tables as db
from gridkit.node.store.blobs import Draft
from gridkit.node.trainings import Trainings

SLACK = 16 << 20
"""bytes by which an update may be longer than twice the archive that was hosted: other machines write other padding,
and their own code"""


@dataclass(frozen=True, slots=True)
class Part:
    """Somebody's part in a training that was started.

    Attributes:
        archive: the digest of what was hosted.
        limit: bytes that an update may have.
    """

    process: str
    worker: str
    account: str
    archive: str
    limit: int


class PushUpdates:
    """The use-cases of a participant at work."""

    def __init__(self, trainings: Trainings, access: Access, participants: Participants) -> None:
        self._trainings = trainings
        self._rounds = trainings.rounds
        self._access = access
        self._participants = participants
        self._db = trainings.rounds.db
        self._blobs = trainings.rounds.blobs

    def draft(self) -> Draft:
        """Where a route puts the bytes of an update as they come."""
        return self._blobs.draft()

    async def part(self, principal: Principal, model_id: str) -> Part:
        """What the sender has to do with the training of this model; asked before a body is taken.

        Raises:
            NotFoundError: there is no such model, or it has no training.
            AccessError: `FORBIDDEN`, the sender takes no part, or has left.
            NodeError: `CYCLE_CLOSED`, it hasn't started.
        """
        self._access.allow(principal, "take-part")

        def read(c: sa.Connection) -> tuple[Any, push_rows.Training]:
            row, training = push_rows.archive(c, model_id), push_rows.training_of(c, model_id)
            if training is None:
                raise NotFoundError(f"the model {model_id} has no training", code=ErrorCode.NOT_FOUND, status=404)
            return row, training

        row, training = await self._db.read(read)
        member = next((one for one in training.members if one.account == principal.name), None)
        if member is None:
            raise push_rows.outsider(principal)
        if member.worker is None:
            raise NodeError("the training hasn't started", "wait to be called", code=ErrorCode.CYCLE_CLOSED, status=400)
        process = await self._rounds.process(training.process)
        if (gone := process.state.left.get(member.slot)) is not None:
            raise push_rows.outsider(principal, f"has left this training: {gone.reason}")
        return Part(training.process, member.worker, member.account, row.digest, 2 * row.size + SLACK)

    async def update(self, part: Part, wish: Update, draft: Draft) -> dict[str, Any]:
        """Take an update, durably. `draft` holds the file; the caller discards it. The same one again is taken again,
        and counts once.

        Raises:
            NodeError: `CYCLE_CLOSED`, not of this round; the archive's own codes; what reports are refused with.
            ConflictError: `ALREADY_REPORTED`, another update of this round came before.
        """
        process = await self._rounds.process(part.process)
        sequence, key = _place(process, part, wish.round)
        if not draft.size:
            raise NodeError("the form has no file 'model_file'", code=ErrorCode.BAD_REQUEST, status=400)
        found = wish.pairs()
        finite = {name: value for name, value in found.items() if isinstance(value, float)}
        report = Report(worker_id=part.worker, request_key=key, samples=wish.sample_size, metrics=finite)
        diff = self._blobs.draft()
        try:
            with await self._rounds.open_checkpoint(process, sequence) as checkpoint:
                await asyncio.to_thread(self._compare, part, draft, checkpoint, diff)
            await self._trainings.report(process, report, diff)
        except ConflictError as error:
            if error.code is ErrorCode.ALREADY_REPORTED:
                raise
            raise NodeError(error.message, "wait to be called", code=error.code, status=400) from None
        finally:
            await asyncio.to_thread(diff.discard)
        odd = [name for name in found if name not in finite]
        more = f"; no finite numbers, so left out: {', '.join(odd)}" if odd else ""
        return {"detail": f"the update of round {wish.round} was accepted{more}"}

    def _compare(self, part: Part, draft: Draft, checkpoint: BinaryIO, diff: Draft) -> None:
        with self._blobs.open(part.archive) as archive, draft.open() as upload:
            write_update(archive, upload, checkpoint, diff)

    async def test(self, part: Part, wish: Metrics) -> dict[str, Any]:
        """Take the metrics of the test that is under way, durably. The same ones again are taken again, and count once.

        Raises:
            NodeError: `CYCLE_CLOSED`, no test is, or the sender isn't asked for one.
            ConflictError: `ALREADY_REPORTED`, others came before.
        """
        metrics = wish.pairs()
        digest = hashlib.sha256(json.dumps(sorted(metrics.items())).encode()).hexdigest()
        _, decisions = await self._rounds.apply(
            part.process, lambda at: cycle.TestCame(at, part.worker, digest, metrics)
        )
        for decision in decisions:
            if isinstance(decision, cycle.Refuse) and decision.code is ErrorCode.ALREADY_REPORTED:
                raise ConflictError(decision.message, "the first ones count", code=decision.code, status=409)
            if isinstance(decision, cycle.Refuse):
                raise NodeError(decision.message, "wait to be called", code=decision.code, status=400)
        return {"detail": "the metrics were accepted"}

    async def metrics(self, principal: Principal, model_id: str) -> list[dict[str, Any]]:
        """What the tests of a model gave: a row a metric, with `id, identifier, key, value_float` or `value_binary`
        (text that is no finite number), `step` (rounds that the model had seen), `model, reporter` (a UUID)."""

        def read(c: sa.Connection) -> list[dict[str, Any]]:
            row, training = push_rows.archive(c, model_id), push_rows.training_of(c, model_id)
            accounts = training.accounts if training else ()
            push_rows.allow(self._access, principal, "observe-push", row.owner, accounts)
            if training is None:
                return []
            known = self._participants.of_accounts(c, training.accounts)
            reporters = {one.slot: known[one.account].id for one in training.members if one.account in known}
            mine = sa.and_(db.event.c.run == training.process, db.event.c.kind == "tested")
            rows = c.execute(sa.select(db.event.c.body).where(mine).order_by(db.event.c.seq)).scalars()
            return [
                {
                    "identifier": None,
                    "key": key,
                    "value_float": value if isinstance(value, float) else None,
                    "value_binary": None if isinstance(value, float) else value,
                    "step": body["cycle"],
                    "model": model_id,
                    "reporter": reporters.get(body["slot"]),
                }
                for body in rows
                for key, value in body["metrics"].items()
            ]

        return [{"id": number, **row} for number, row in enumerate(await self._db.read(read), 1)]


def _place(process: Process, part: Part, round: int) -> tuple[int, str]:
    """The cycle that an update of this round is for, and the sender's request key there; also of the cycle before,
    from which a repetition may come.

    Raises:
        NodeError: `CYCLE_CLOSED`.
    """
    state, sequence = process.state, round + 1
    known = {state.sequence: state.assignments, state.sequence - 1: state.previous}.get(sequence, {}).get(part.worker)
    if known is None:
        which = f"it is round {state.sequence - 1}" if sequence != state.sequence else "you weren't called to it"
        raise NodeError(
            f"no update of round {round} is expected: {which}",
            "send round as UPDATE_ROUND_START had it",
            code=ErrorCode.CYCLE_CLOSED,
            status=400,
        )
    return sequence, known.request_key
