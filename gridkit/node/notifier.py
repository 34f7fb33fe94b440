"""Tells push participants what happens in their trainings: one task a participant, so that nobody waits for another.

What has to be told is read from the training's state and from `push_member.told` (see `gridkit.node.due`), so a node
that starts again goes on where it was. A participant gets its assignment before it is told of the round: its upload may
come before its answer. Nothing here is awaited by who uploads.

Any 2xx is a yes, whatever its body. Any other answer to a round, or to the start, is a no: the participant leaves the
training. Who can't be reached, or whose gateway can't reach it, is tried again after a pause, and leaves after so many
failures in a row. The end is told once: acknowledged, refused, or given up.

A participant may hear a notification twice: where the node was killed between an answer and its record, where an answer
was lost, and, if it said that it knows one that comes again, where it took a round and nothing came of it for a while.
So one that was killed and started again trains all the same, and one that can't train is known before the time is up.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from gridkit.errors import GridkitError
from gridkit.federated import cycle
from gridkit.node.due import FINISH, FINISHED, NOTHING, Notification, pause
from gridkit.node.failpoint import failpoint
from gridkit.node.following import Followed, Listener, Member
from gridkit.node.outbound import Outbound
from gridkit.node.participants import Participant, Participants
from gridkit.node.processes import Process, append_rows
from gridkit.node.rounds import Rounds
from gridkit.node.settings import Limits
from gridkit.node.store import tables as db
from gridkit.wire.notifications import AGAIN, KNOWN, NotificationType, signed

T = TypeVar("T")

GATEWAYS = (502, 503, 504)
"""statuses with which a proxy says that it didn't reach the participant"""
BREATH = 0.002
"""seconds between two attempts of a node: about what one costs its processor"""
UPDATE = NotificationType.UPDATE_ROUND_START


class Notifier:
    """One node's. It learns of new states from `rounds`, and asks nobody who is not concerned.

    Args:
        limits: its `push_seconds`, `push_attempts` and `push_again`.

    Example::

        notifier = Notifier(rounds, participants, outbound, settings.limits)
        await notifier.start()  # goes on with what isn't over
        notifier.follow(training_id)  # one that has just been started
    """

    def __init__(self, rounds: Rounds, participants: Participants, outbound: Outbound, limits: Limits) -> None:
        self._rounds = rounds
        self._participants = participants
        self._outbound = outbound
        self._limits = limits
        self._next = 0.0  # when the next attempt may begin
        self._trainings: dict[str, Followed] = {}  # by the id of the process
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by the id of the training

    # -- life

    async def start(self) -> None:
        """Follow every training that was started and of which somebody has still to be told something."""
        self._rounds.observers.append(self._moved)
        for training_id in await self._rounds.db.read(_unfinished):
            self.follow(training_id)

    def follow(self, training_id: str) -> None:
        """Tell the participants of this training, which has its process, what happens in it. Returns at once."""
        if training_id not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._follow(training_id))
            self._tasks[training_id] = task
            task.add_done_callback(lambda _: self._tasks.pop(training_id))

    def removed(self, account: str) -> None:
        """This account was removed: it leaves the trainings that it is in."""
        for training in self._trainings.values():
            for listener in (training.owner, *training.members):
                if listener.account == account:
                    listener.removed = True
                    listener.wake.set()

    async def close(self) -> None:
        """Tell nobody anything more."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _moved(self, process: Process) -> None:
        training = self._trainings.get(process.id)
        if training is not None and process.revision > training.process.revision:
            training.moved(process)

    # -- one training

    async def _follow(self, training_id: str) -> None:
        try:
            training = await self._loaded(training_id)
            self._trainings[training.process.id] = training  # nothing is awaited between the reading and this
            try:
                await self._tell_all(training)
            finally:
                del self._trainings[training.process.id]
        except Exception as error:  # noqa: BLE001  the training's deadlines go on without its notifications
            self._complain(f"training {training_id}: nobody can be told anything more", error)

    async def _tell_all(self, training: Followed) -> None:
        members = {one: asyncio.ensure_future(self._guarded(self._tell(training, one))) for one in training.members}
        own = [task for member, task in members.items() if member.account == training.owner.account]
        await asyncio.gather(self._guarded(self._tell_owner(training, own)), *members.values())
        if training.owner.told < FINISHED:  # it heard of the end as a member
            await self._record(training, training.owner, FINISHED)

    async def _loaded(self, training_id: str) -> Followed:
        def read(c: sa.Connection) -> tuple[Any, list[Any], dict[str, Participant]]:
            training = c.execute(sa.select(db.push_training).where(db.push_training.c.id == training_id)).one()
            table = db.push_member
            wanted = sa.select(table, db.worker.c.label).join(db.worker, db.worker.c.id == table.c.worker)
            rows = c.execute(wanted.where(table.c.training == training_id).order_by(table.c.slot)).all()
            return training, list(rows), self._participants.of_accounts(c, [row.account for row in rows])

        row, rows, there = await self._kept(lambda: self._rounds.db.read(read))
        members = []
        for one in rows:
            removed = one.account not in there
            members.append(Member(one.account, one.label, one.told, removed, slot=one.slot, worker=one.worker))
        owner = Listener(row.owner, row.owner, FINISHED if row.told else NOTHING, removed=False)
        process = await self._kept(lambda: self._rounds.process(row.id.replace("-", "")))
        return Followed(row.id, row.model, process, owner, members)

    async def _tell(self, training: Followed, listener: Listener) -> None:
        """All that one listener has to be told, from now to the end."""
        while not training.is_over(listener):
            if isinstance(listener, Member) and listener.removed and not training.is_finished:
                await self._leave(training, listener, "its account was removed")
                continue
            found, left = training.due(listener), None
            if found is None and isinstance(listener, Member) and (pending := training.owed(listener)) is not None:
                left = listener.again_at - time.monotonic()
                found = pending if left <= 0 else None
            if found != listener.now:
                listener.now, listener.attempts = found, 0
            if found is None:
                await listener.woken(left)
            elif isinstance(listener, Member) and found.kind is UPDATE and training.has_no_work(listener):
                await self._assign(training, listener)
            else:
                await self._attempt(training, listener, found)

    async def _tell_owner(self, training: Followed, own: Iterable[Awaitable[None]]) -> None:
        """The end, unless the owner heard of it in the tasks of its own memberships."""
        await asyncio.gather(*own)
        await self._tell(training, training.owner)

    async def _assign(self, training: Followed, member: Member) -> None:
        """Get the work that the member is then told of."""
        _, decisions = await self._kept(
            lambda: self._rounds.apply(
                training.process.id,
                lambda at: cycle.WorkerAsked(at, member.worker, member.label, member.slot, secrets.token_hex(32)),
            )
        )
        failpoint("push-assigned")
        for decision in decisions:
            if isinstance(decision, cycle.Reject):  # the cycle has just changed
                await member.woken(decision.retry_after or pause(1))

    async def _attempt(self, training: Followed, listener: Listener, notification: Notification) -> None:
        to = await self._kept(
            lambda: self._rounds.db.read(lambda c: self._participants.of_account(c, listener.account))
        )
        if to is None:
            listener.removed = True
            if notification is FINISH:
                await self._record(training, listener, FINISHED)
            return
        listener.attempts += 1
        await self._turn()
        row = await self._send(training, listener, notification, to)
        failpoint("push-sent")
        answer: int | None = row["answer"]
        if answer is not None and 200 <= answer < 300:
            listener.missed = 0
            again = listener.told == notification.step
            if isinstance(listener, Member):
                listener.waits(2 * listener.patience if again else self._limits.push_again)
            if not again:  # that it was told again changes nothing
                await self._record(training, listener, notification.step, row)
                failpoint("push-told")
            return
        heard = answer is not None and answer not in GATEWAYS
        listener.missed += not heard
        failures = listener.attempts if notification is FINISH else listener.missed
        wanted = notification in (training.due(listener), training.owed(listener))
        final = heard or (wanted and failures >= self._limits.push_attempts)
        if not final:
            await self._record(training, listener, listener.told, row)
            await listener.woken(pause(listener.attempts) * random.uniform(0.75, 1.25))
        elif isinstance(listener, Member) and notification is not FINISH:
            tried = f"not reached in {failures} attempts: {row['message']}"
            await self._leave(training, listener, f"answered {answer} to {notification}" if heard else tried, row)
        else:
            await self._record(training, listener, FINISHED, row)

    async def _turn(self) -> None:
        """A round is told to all at once: the loop has a breath between any two of them."""
        now = time.monotonic()
        self._next = max(now, self._next + BREATH)
        await asyncio.sleep(self._next - now)

    async def _send(
        self, training: Followed, listener: Listener, notification: Notification, to: Participant
    ) -> dict[str, Any]:
        """One attempt; the row that tells of it."""
        content = notification.body(training.id, training.model)
        headers = {"content-type": "application/json", **({} if to.secret is None else signed(to.secret, content))}
        sequence, started = training.process.state.sequence, time.monotonic()
        answer, message = None, ""
        try:
            # the body isn't read: what the status says is all
            reply = await self._outbound.request(
                "POST", to.endpoint, headers=headers, content=content, seconds=self._limits.push_seconds, limit=0
            )
            answer = reply.status
            if not 200 <= answer < 300:
                message = f"answered {answer}"
            elif isinstance(listener, Member):
                listener.knows_again = reply.headers.get(AGAIN) == KNOWN
        except GridkitError as error:
            message = error.message
        return {
            "kind": "notified",
            "at": self._rounds.clock(),
            "cycle": sequence,
            "slot": listener.slot if isinstance(listener, Member) else None,
            "worker": listener.label,
            "notification": str(notification.kind),
            "round": notification.round,
            "attempt": listener.attempts,
            "answer": answer,
            "seconds": time.monotonic() - started,
            "message": message,
            "gone": False,
        }

    # -- what the disk has

    async def _record(
        self, training: Followed, listener: Listener, told: int, row: dict[str, Any] | None = None
    ) -> None:
        def write(c: sa.Connection) -> None:
            c.execute(_told(training, listener, told))
            append_rows(c, training.process.id, [] if row is None else [row])

        await self._kept(lambda: self._rounds.db.write(write))
        listener.told = told
        self._rounds.announce()

    async def _leave(self, training: Followed, member: Member, reason: str, row: dict[str, Any] | None = None) -> None:
        """The member takes no further part; if the training is over meanwhile, it is told so as the others are."""

        def remember(c: sa.Connection, _before: Process, decisions: Iterable[cycle.Decision]) -> None:
            gone = any(isinstance(decision, cycle.Left) for decision in decisions)
            if gone:
                c.execute(_told(training, member, FINISHED))
            append_rows(c, training.process.id, [] if row is None else [{**row, "gone": gone}])

        await self._kept(
            lambda: self._rounds.apply(
                training.process.id,
                lambda at: cycle.WorkerLeft(at, member.worker, member.slot, member.label, reason),
                remember,
            )
        )

    async def _kept(self, work: Callable[[], Awaitable[T]]) -> T:
        """What the disk can't do now is tried again, so that nobody is told a thing twice because of it."""
        while True:
            try:
                return await work()
            except (OSError, OperationalError) as error:
                self._complain("what participants are told can't be recorded yet", error)
                await asyncio.sleep(1)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001  the others are told all the same
            self._complain("a participant can't be told anything more", error)

    def _complain(self, message: str, error: BaseException) -> None:
        asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})


def _told(training: Followed, listener: Listener, told: int) -> sa.Update:
    if not isinstance(listener, Member):
        return db.push_training.update().where(db.push_training.c.id == training.id).values(told=told == FINISHED)
    table = db.push_member
    return table.update().where(table.c.training == training.id, table.c.slot == listener.slot).values(told=told)


def _unfinished(c: sa.Connection) -> list[str]:
    """The trainings that were started, of which somebody has still to be told something."""
    training, member = db.push_training, db.push_member
    between = sa.and_(member.c.training == training.c.id, member.c.told > NOTHING, member.c.told < FINISHED)
    started = sa.func.replace(training.c.id, "-", "") == db.process.c.id
    wanted = sa.select(training.c.id).join(db.process, started).order_by(training.c.created_at)
    return list(c.execute(wanted.where(sa.or_(~training.c.told, sa.exists().where(between)))).scalars())
