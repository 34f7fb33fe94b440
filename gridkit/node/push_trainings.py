"""Trainings that push participants are called to: made, given their participants, started, looked at.

A training has a process once it is started (see `hosting`); from then on its rounds are those of every other training.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from gridkit.errors import ErrorCode, NodeError
from gridkit.federated import cycle
from gridkit.node import push_rows
from gridkit.node.audit import about
from gridkit.node.failpoint import failpoint
from gridkit.node.hosting import Hosting, NewProcess
from gridkit.node.messages_push import CreateTraining
from gridkit.node.processes import load
from gridkit.node.push_archives import check_archive, write_state
from gridkit.node.push_models import PushModels
from gridkit.node.quota import Quota
from gridkit.node.rights import Access, Principal, Role
from gridkit.node.store import garbage
from gridkit.node.store import tables as db
from gridkit.node.store.blobs import Draft
from gridkit.wire.tensors import TensorSpec

INITIAL = "I"
ONGOING = "O"
COMPLETED = "C"
FAILED = "E"


class PushTrainings:
    """The use-cases of their trainings."""

    def __init__(self, hosting: Hosting, models: PushModels, access: Access, quota: Quota) -> None:
        self._hosting = hosting
        self._rounds = hosting.rounds
        self._participants = hosting.participants
        self._models = models
        self._access = access
        self._quota = quota
        self._db = hosting.rounds.db
        self._blobs = hosting.rounds.blobs

    # -- before the start

    async def create(self, principal: Principal, wish: CreateTraining) -> str:
        """A training of a model; a model that has one already is copied for it. Its id.

        Raises:
            NotFoundError: there is no such model, or no such participant.
            AccessError: the model is somebody else's.
        """
        about(wish.model_id)
        training_id = str(uuid.uuid4())
        config = wish.model_dump(exclude={"model_id", "clients"})

        def insert(c: sa.Connection) -> None:
            at = self._rounds.clock()
            row = push_rows.archive(c, wish.model_id)
            self._access.allow(principal, "host-push", owner=row.owner)
            accounts = self._accounts(c, wish.clients)
            if push_rows.training_of(c, wish.model_id) is not None:
                self._quota.check(c, principal, row.size)
                row = row._asdict() | {"id": str(uuid.uuid4()), "owner": principal.name, "created_at": at}
                c.execute(db.push_model.insert().values(**row))
                model_id = row["id"]
            else:
                model_id = wish.model_id
            push_rows.insert_training(c, training_id, principal.name, model_id, config, at)
            push_rows.insert_members(c, training_id, dict(enumerate(accounts)))

        await self._db.write(insert)
        return training_id

    async def add_clients(self, principal: Principal, training_id: str, ids: list[str]) -> None:
        """More participants; who is one already stays one."""
        await self._change(principal, training_id, ids, lambda known, asked: list(dict.fromkeys([*known, *asked])))

    async def remove_clients(self, principal: Principal, training_id: str, ids: list[str]) -> None:
        """Fewer participants; who is none stays none."""
        await self._change(principal, training_id, ids, lambda known, asked: [a for a in known if a not in asked])

    async def _change(
        self,
        principal: Principal,
        training_id: str,
        ids: list[str],
        change: Callable[[list[str], list[str]], list[str]],
    ) -> None:
        about(training_id)

        def write(c: sa.Connection) -> None:
            found = self._initial(c, principal, training_id)
            accounts = change(found.accounts, self._accounts(c, ids))
            c.execute(db.push_member.delete().where(db.push_member.c.training == training_id))
            push_rows.insert_members(c, training_id, dict(enumerate(accounts)))

        await self._db.write(write)

    async def delete(self, principal: Principal, training_id: str) -> None:
        """Delete a training that wasn't started; its model stays."""
        about(training_id)

        def remove(c: sa.Connection) -> None:
            self._initial(c, principal, training_id)
            c.execute(db.push_member.delete().where(db.push_member.c.training == training_id))
            c.execute(db.push_training.delete().where(db.push_training.c.id == training_id))

        await self._db.write(remove)

    def _initial(self, c: sa.Connection, principal: Principal, training_id: str) -> push_rows.Training:
        found = push_rows.training(c, training_id)
        self._access.allow(principal, "host-push", owner=found.owner)
        if _started(c, found):
            raise _begun(training_id)
        return found

    def _accounts(self, c: sa.Connection, ids: list[str]) -> list[str]:
        """The accounts of these participants, each once."""
        known = self._participants.of_ids(c, ids)
        for one in ids:
            if one not in known:
                raise NodeError(
                    f"there is no push participant {one}",
                    "POST /push/api/users/ registers one, and answers with its id",
                    code=ErrorCode.NOT_FOUND,
                    status=400,
                )
        return list(dict.fromkeys(known[one].account for one in ids))

    # -- the start

    async def start(self, principal: Principal, training_id: str) -> None:
        """Start the rounds; the participants are called from then on. Its owner may, and each participant.

        Raises:
            NodeError: `BAD_REQUEST`, it was started before, nobody is in, or fewer than its quorum.
        """
        about(training_id)

        def read(c: sa.Connection) -> Any:
            found = push_rows.training(c, training_id)
            push_rows.allow(self._access, principal, "start-push", found.owner, found.accounts)
            _check_startable(c, found)
            return push_rows.archive(c, found.model)

        archive = await self._db.read(read)
        draft = self._blobs.draft()
        try:
            specs = await asyncio.to_thread(self._first, archive.digest, draft)
            with self._blobs.pinned(draft.digest):
                await asyncio.to_thread(self._blobs.keep, draft)
                await self._db.write(lambda c: self._begin(c, training_id, archive.name, specs, draft.digest))
        except NodeError:
            await garbage.discard(self._db, self._blobs, [draft.digest])
            raise
        finally:
            await asyncio.to_thread(draft.discard)
        failpoint("hosted")
        self._rounds.announce()
        self._hosting.follow(training_id)

    def _first(self, digest: str, draft: Draft) -> tuple[TensorSpec, ...]:
        with self._blobs.open(digest) as file:
            return write_state(check_archive(file), draft)

    def _begin(self, c: sa.Connection, training_id: str, name: str, specs: tuple[TensorSpec, ...], digest: str) -> None:
        found = push_rows.training(c, training_id)
        _check_startable(c, found)  # again: it may have changed since
        count, options = len(found.members), found.config["options"]
        quorum = options["quorum"] or math.ceil(count / 2)
        server_config = {
            "clients": count,
            "tolerate": count - quorum,
            "num_cycles": found.config["target_num_updates"],
            "cycle_length": options["round_timeout"],
            "weighting": "samples",
        }
        rules = cycle.CycleRules.from_config(server_config)
        client_config = {"name": name, "version": training_id}
        at = self._rounds.clock()
        new = NewProcess(found.process, name, training_id, found.owner, client_config, server_config, rules, specs)
        new.insert(c, at, digest, {})
        push_rows.enlist(c, found, at)

    # -- reading

    async def listing(self, principal: Principal) -> list[dict[str, Any]]:
        """What `details` says of each training that one owns or takes part in, oldest first; all for the owner."""
        self._access.allow(principal, "observe-push")
        table, member = db.push_training, db.push_member
        wanted = sa.select(table.c.id).order_by(table.c.created_at, table.c.id)
        if principal.role is not Role.OWNER:
            mine = sa.select(member.c.training).where(member.c.account == principal.name)
            wanted = wanted.where(sa.or_(table.c.owner == principal.name, table.c.id.in_(mine)))
        return await self._db.read(
            lambda c: [self._shown(c, push_rows.training(c, one)) for one in c.execute(wanted).scalars()]
        )

    async def details(self, principal: Principal, training_id: str) -> dict[str, Any]:
        """A training: `id, state` ("I" initial, "O" ongoing, "C" completed, "E" failed), `target_num_updates,
        last_update, uncertainty_method, aggregation_method, options, locked` (its updates are being averaged), `model,
        actor, participants` (UUIDs; who left isn't one), `local_models_arrived, local_models_expected`, and ours:
        `reason`, why it failed."""
        return await self._db.read(lambda c: self._shown(c, self._watched(c, principal, training_id)))

    async def models(self, principal: Principal, training_id: str) -> list[dict[str, Any]]:
        """Its model, as `PushModels.metadata` has it; updates of participants are no models that anybody may see."""

        def read(c: sa.Connection) -> list[dict[str, Any]]:
            return [self._models.shown(c, self._watched(c, principal, training_id).model)]

        return await self._db.read(read)

    def _watched(self, c: sa.Connection, principal: Principal, training_id: str) -> push_rows.Training:
        found = push_rows.training(c, training_id)
        push_rows.allow(self._access, principal, "observe-push", found.owner, found.accounts)
        return found

    def _shown(self, c: sa.Connection, found: push_rows.Training) -> dict[str, Any]:
        state = load(c, found.process).state if _started(c, found) else None
        left: Collection[int] = () if state is None else state.left
        known = self._participants.of_accounts(c, {*found.accounts, found.owner})
        there = [known[one.account].id for one in found.members if one.slot not in left and one.account in known]
        arrived = 0 if state is None else len(state.with_status(cycle.Status.ACCEPTED))
        expected = len(there) if state is None else len(cycle.cohort(state))
        config = found.config
        changed = found.created_at if state is None else state.opened_at
        return {
            "id": found.id,
            "state": _letter(state),
            "target_num_updates": config["target_num_updates"],
            "last_update": datetime.fromtimestamp(changed, UTC).isoformat(),
            "uncertainty_method": config["uncertainty_method"],
            "aggregation_method": config["aggregation_method"],
            "options": config["options"],
            "locked": state is not None and state.phase is cycle.Phase.AGGREGATING,
            "model": found.model,
            "actor": known[found.owner].id if found.owner in known else None,
            "participants": there,
            "local_models_arrived": arrived,
            "local_models_expected": expected,
            "reason": None if state is None else state.reason,
        }


def _letter(state: cycle.CycleState | None) -> str:
    if state is None:
        return INITIAL
    if state.phase is not cycle.Phase.FINISHED:
        return ONGOING
    return FAILED if state.outcome == "failed" else COMPLETED


def _started(c: sa.Connection, found: push_rows.Training) -> bool:
    return c.execute(sa.select(db.process.c.id).where(db.process.c.id == found.process)).first() is not None


def _check_startable(c: sa.Connection, found: push_rows.Training) -> None:
    count, quorum = len(found.members), found.config["options"]["quorum"] or 0
    if _started(c, found):
        raise _begun(found.id)
    if not count:
        raise _bad("the training has no participants", "PUT some to …/clients/")
    if quorum > count:
        raise _bad(f"the training's quorum is {quorum}, and it has {count} participants", "add some")


def _begun(training_id: str) -> NodeError:
    return _bad(f"the training {training_id} was started already", "make another one: this one stays as it is")


def _bad(message: str, hint: str) -> NodeError:
    return NodeError(message, hint, code=ErrorCode.BAD_REQUEST, status=400)
