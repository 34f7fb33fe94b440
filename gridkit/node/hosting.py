"""How a training process comes to a node: with its model, its plans, and who takes part."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import sqlalchemy as sa

from gridkit.errors import ConflictError, ErrorCode, NodeError, NotFoundError, PlanError
from gridkit.federated import cycle, history
from gridkit.node import intake, messages, push_rows
from gridkit.node.audit import about
from gridkit.node.failpoint import failpoint
from gridkit.node.messages_push import ROUND_SECONDS
from gridkit.node.notebook_rule import check_size
from gridkit.node.participants import Participants
from gridkit.node.processes import AVERAGING_PLAN, append_rows, bare, plans_of
from gridkit.node.push_archives import write_archive
from gridkit.node.rights import Access, Principal
from gridkit.node.rounds import Rounds
from gridkit.node.store import garbage
from gridkit.node.store import tables as db
from gridkit.node.worker_auth import Door
from gridkit.wire.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class NewProcess:
    """A process that isn't there yet.

    Attributes:
        model: its tensors.
        request: the client's key for it.
    """

    id: str
    name: str
    version: str
    owner: str
    client_config: Mapping[str, Any]
    server_config: Mapping[str, Any]
    rules: cycle.CycleRules
    model: tuple[TensorSpec, ...]
    request: str | None = None

    def insert(self, c: sa.Connection, at: float, digest: str, plans: Mapping[str, str]) -> tuple[str, dict[str, int]]:
        """Put it in, with its plans (name to digest), its first checkpoint (the digest of its model) and its first
        rows; its id, and its plans'. If the same request put it in before: those of then.

        Raises:
            ConflictError: another has its name and version.
        """
        state, decisions = cycle.CycleState.start(self.rules, at)
        taken = sa.select(db.process).where(db.process.c.name == self.name, db.process.c.version == self.version)
        if found := c.execute(taken).first():
            if self.request is not None and (found.request, found.owner) == (self.request, self.owner):
                return found.id, {plan.name: plan.id for plan in plans_of(c, found.id)}
            raise ConflictError(
                f"a training '{self.name}' {self.version} is hosted already",
                "host it under another version",
                code=ErrorCode.ALREADY_EXISTS,
                status=409,
            )
        values = {
            "id": self.id,
            "name": self.name,
            "version": self.version,
            "owner": self.owner,
            "created_at": at,
            "client_config": dict(self.client_config),
            "server_config": dict(self.server_config),
            "model": [[spec.name, spec.dtype, list(spec.shape)] for spec in self.model],
            "state": bare(state),
            "revision": 0,
            "deadline": state.due,
            "request": self.request,
        }
        c.execute(db.process.insert().values(**values))
        c.execute(db.checkpoint.insert().values(process=self.id, number=1, digest=digest))
        append_rows(c, self.id, history.publish(None, None, state, decisions))
        ids: dict[str, int] = {}
        for plan, plan_digest in plans.items():
            done = c.execute(db.plan.insert().values(process=self.id, name=plan, digest=plan_digest))
            ids[plan] = done.inserted_primary_key[0]  # type: ignore[index]  # one row was inserted
        return self.id, ids


@dataclass(frozen=True, slots=True)
class _Called:
    """The push participants of a training that is hosted with a model and plans, and the archive they fetch."""

    accounts: Mapping[int, str]
    digest: str
    size: int
    names: Participants = field(repr=False)

    def insert(self, c: sa.Connection, process: NewProcess, at: float) -> None:
        check_known(c, self.names, list(self.accounts.values()))
        training_id, model_id = str(uuid.UUID(process.id)), str(uuid.uuid4())
        model = {
            "id": model_id,
            "owner": process.owner,
            "name": process.name,
            "description": "",
            "digest": self.digest,
            "size": self.size,
            "input_shape": None,
            "created_at": at,
        }
        c.execute(db.push_model.insert().values(**model))
        config = {"target_num_updates": process.rules.num_cycles, "options": {}, "metric_names": []}
        config |= {"aggregation_method": "FedAvg", "uncertainty_method": "NONE"}
        push_rows.insert_training(c, training_id, process.owner, model_id, config, at)
        push_rows.insert_members(c, training_id, self.accounts)
        push_rows.enlist(c, push_rows.training(c, training_id), at)


class Hosting:
    """What a node needs to take in a training.

    Args:
        participants: the directory of those who are called.
        follow: called with the id of a training whose participants are to be told of it from now on.
    """

    def __init__(
        self, rounds: Rounds, access: Access, door: Door, participants: Participants, follow: Callable[[str], None]
    ) -> None:
        self.access = access
        self.door = door
        self.rounds = rounds
        self.participants = participants
        self.follow = follow
        self._db = rounds.db
        self._blobs = rounds.blobs

    async def host(
        self,
        principal: Principal,
        model: BinaryIO,
        plans: Mapping[str, bytes],
        client_config: dict[str, Any],
        server_config: dict[str, Any],
        *,
        averaging_plan: bytes | None = None,
        participants: Mapping[int, str] | None = None,
        request: str | None = None,
    ) -> dict[str, Any]:
        """Host a training process: its model, its plans, and the rules of its cycles.

        Args:
            model: a State message; its tensors are what reports must match.
            plans: name to bytes, gridkit's own form. None are needed where every client is a push participant.
            client_config: for the workers; `name` and `version` are together unique.
            server_config: see `federated.cycle.CycleRules`. A training with push participants has a `cycle_length`:
                an hour, unless it names another.
            averaging_plan: bytes of a plan (`plans.averaging_form`) that averages the reports, in the runner.
            participants: the push participants of a fixed roster, by slot.
            request: the client's key for this; the same one again is done already, and has the same answer.

        Returns:
            `process` (id), `plans` (name to id), `worker_token`, and with a fixed roster `worker_tokens`, one a slot,
            None for a participant's.
        """
        self.access.allow(principal, "host-training")
        participants = participants or {}
        if participants:
            self.access.allow(principal, "host-push")
            server_config = {**server_config, "cycle_length": server_config.get("cycle_length") or ROUND_SECONDS}
        named = messages.parse(messages.ProcessName, client_config)
        if named.version is None:
            raise _bad_config("client_config has no version")
        about(f"{named.name} {named.version}")
        await self.door.check(server_config.get("authentication"))
        rules = cycle.CycleRules.from_config({k: v for k, v in server_config.items() if k != "authentication"})
        _check_places(rules, participants)
        if not plans and len(participants) != rules.clients:
            raise NodeError("a training process needs a plan", code=ErrorCode.BAD_PLAN, status=400)
        for name, data in plans.items():
            try:
                await asyncio.to_thread(intake.check_plan, data)
            except PlanError as error:
                raise NodeError(f"plan '{name}': {error.message}", error.hint, code=error.code, status=400) from None
        intake.check_averaging_config(server_config, rules, plans, hosted=averaging_plan is not None)
        drafts = [self._blobs.draft()]
        kept: list[str] = []
        try:
            specs = await asyncio.to_thread(intake.copy_model, model, drafts[0])
            if rules.function("strategy") is not None:
                check_size(sum(spec.size for spec in specs if spec.averaged), rules, self.rounds.runner.limits)
            if averaging_plan is not None:
                await asyncio.to_thread(
                    intake.check_averaging_plan, averaging_plan, specs, rules, self.rounds.runner.limits
                )
                plans = {**plans, AVERAGING_PLAN: averaging_plan}
            if participants:
                drafts.append(self._blobs.draft())
                await asyncio.to_thread(write_archive, model, drafts[1])
            digests = {name: hashlib.sha256(data).hexdigest() for name, data in plans.items()}
            owner, configs = principal.name, (client_config, server_config)
            new = NewProcess(uuid.uuid4().hex, named.name, named.version, owner, *configs, rules, specs, request)
            with self._blobs.pinned(*(draft.digest for draft in drafts), *digests.values()):
                for draft in drafts:
                    kept.append(await asyncio.to_thread(self._blobs.keep, draft))
                for data in plans.values():
                    kept.append((await asyncio.to_thread(self._blobs.put, [data]))[0])
                called = None
                if participants:
                    called = _Called(participants, drafts[1].digest, drafts[1].size, self.participants)
                process_id, plan_ids = await self._insert(new, kept[0], digests, called)
        except NodeError:
            await garbage.discard(self._db, self._blobs, kept)
            raise
        finally:
            for draft in drafts:
                await asyncio.to_thread(draft.discard)
        failpoint("hosted")
        self.rounds.announce()
        if participants:
            self.follow(str(uuid.UUID(process_id)))
        answer: dict[str, Any] = {
            "status": "success",
            "process": process_id,
            "plans": {name: number for name, number in plan_ids.items() if name != AVERAGING_PLAN},
            "worker_token": self.access.issue(process_id),
        }
        if rules.clients:
            answer["worker_tokens"] = [
                None if slot in participants else self.access.issue(process_id, slot, f"client {slot}")
                for slot in range(rules.clients)
            ]
        return answer

    async def _insert(
        self, new: NewProcess, digest: str, plans: Mapping[str, str], called: _Called | None
    ) -> tuple[str, dict[str, int]]:
        def insert(c: sa.Connection) -> tuple[str, dict[str, int]]:
            at = self.rounds.clock()
            made = new.insert(c, at, digest, plans)
            if called is not None and made[0] == new.id:
                called.insert(c, new, at)
            return made

        return await self._db.write(insert)


def check_known(c: sa.Connection, participants: Participants, accounts: Collection[str]) -> None:
    """Pass if the node can call all of these accounts.

    Raises:
        NotFoundError: naming the first that it can't.
    """
    known = participants.of_accounts(c, accounts)
    for account in accounts:
        if account not in known:
            raise NotFoundError(
                f"there is no push participant '{account[:100]}'",
                "grid.participants has them; grid.push_participant(name, endpoint) registers one",
                code=ErrorCode.NOT_FOUND,
                status=404,
            )


def _check_places(rules: cycle.CycleRules, participants: Mapping[int, str]) -> None:
    if not participants:
        return
    if rules.clients is None:
        raise _bad_config("push participants take part in trainings with a fixed roster (server_config.clients)")
    for slot in participants:
        if not 0 <= slot < rules.clients:
            raise _bad_config(f"a push participant has place {slot}; there are {rules.clients}, from 0 on")
    if len(set(participants.values())) != len(participants):
        raise _bad_config("a push participant stands twice among the clients")


def _bad_config(message: str) -> NodeError:
    return NodeError(message, code=ErrorCode.BAD_CONFIG, status=400)
