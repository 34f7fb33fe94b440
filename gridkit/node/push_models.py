"""The models that push participants train: archives as they came, and with the numbers that rounds gave them."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import ExitStack
from typing import Any

import sqlalchemy as sa

from gridkit.errors import ConflictError, ErrorCode, NodeError
from gridkit.node import push_rows
from gridkit.node.audit import about
from gridkit.node.messages_push import HostArchive
from gridkit.node.participants import Participants
from gridkit.node.push_archives import Served, check_archive
from gridkit.node.quota import Quota
from gridkit.node.rights import Access, Principal, Role
from gridkit.node.rounds import Rounds
from gridkit.node.store import garbage
from gridkit.node.store import tables as db
from gridkit.node.store.blobs import Draft

UNPICKLED = (
    "its participants need TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 to load it with torch 2.6 or newer; "
    "a state dict, torch.save(model.state_dict(), …), loads as it is"
)


class PushModels:
    """The use-cases of their models."""

    def __init__(self, rounds: Rounds, access: Access, participants: Participants, quota: Quota) -> None:
        self._rounds = rounds
        self._access = access
        self._participants = participants
        self._quota = quota
        self._db = rounds.db
        self._blobs = rounds.blobs

    def draft(self) -> Draft:
        """Where a route puts the bytes of an archive as they come."""
        return self._blobs.draft()

    async def host(self, principal: Principal, wish: HostArchive, draft: Draft) -> dict[str, Any]:
        """Take an archive in. `draft` holds its bytes; the caller discards it. Its id, and how it went.

        Raises:
            WireError: it is no archive that can be averaged, or one that would run something.
            LimitError: `TOO_MANY`, see `Quota`.
        """
        about(wish.name)
        self._access.allow(principal, "host-archive")
        model_id = str(uuid.uuid4())

        def look() -> str:
            with draft.open() as file:
                return check_archive(file).kind

        kind = await asyncio.to_thread(look)
        values = {
            "id": model_id,
            "owner": principal.name,
            "name": wish.name,
            "description": wish.description,
            "digest": draft.digest,
            "size": draft.size,
            "input_shape": wish.input_shape,
            "created_at": self._rounds.clock(),
        }

        def insert(c: sa.Connection) -> None:
            self._quota.check(c, principal, draft.size)
            c.execute(db.push_model.insert().values(**values))

        try:
            with self._blobs.pinned(draft.digest):
                await asyncio.to_thread(self._blobs.keep, draft)
                await self._db.write(insert)
        except NodeError:
            await garbage.discard(self._db, self._blobs, [draft.digest])
            raise
        detail = "the model was accepted" + ("" if kind == "state_dict" else f"; {UNPICKLED}")
        return {"detail": detail, "model_id": model_id}

    async def listing(self, principal: Principal) -> list[dict[str, Any]]:
        """What `metadata` says of each model that one owns or helps to train, oldest first; of all for the owner."""
        self._access.allow(principal, "take-part")
        table, training, member = db.push_model, db.push_training, db.push_member
        wanted = sa.select(table.c.id).order_by(table.c.created_at, table.c.id)
        if principal.role is not Role.OWNER:
            mine = sa.select(training.c.model).join(member).where(member.c.account == principal.name)
            wanted = wanted.where(sa.or_(table.c.owner == principal.name, table.c.id.in_(mine)))
        return await self._db.read(lambda c: [self.shown(c, one) for one in c.execute(wanted).scalars()])

    async def metadata(self, principal: Principal, model_id: str) -> dict[str, Any]:
        """A model: `id, name, description, round` (how many it has seen), `owner` (a UUID), `input_shape, ….`"""

        def read(c: sa.Connection) -> dict[str, Any]:
            self._seen(c, principal, model_id)
            return self.shown(c, model_id)

        return await self._db.read(read)

    def shown(self, c: sa.Connection, model_id: str) -> dict[str, Any]:
        """What `metadata` says."""
        row = push_rows.archive(c, model_id)
        training = push_rows.training_of(c, model_id)
        owner = self._participants.of_account(c, row.owner)
        return {
            "id": row.id,
            "name": row.name,
            "description": row.description,
            "round": 0 if training is None else (_newest(c, training) or 1) - 1,
            "owner": None if owner is None else owner.id,
            "input_shape": row.input_shape,
            "has_preprocessing": False,
            "stats": None,
        }

    async def open(self, principal: Principal, model_id: str) -> Served:
        """The model as it is now: the archive, with the newest numbers in it. The caller closes it.

        Raises:
            NotFoundError: there is none of this id.
            AccessError: it is for who trains it, and for who owns it.
        """

        def read(c: sa.Connection) -> tuple[str, str | None]:
            row, training = self._seen(c, principal, model_id)
            number = None if training is None else _newest(c, training)
            if training is None or number is None or number == 1:
                return row.digest, None
            mine = sa.and_(db.checkpoint.c.process == training.process, db.checkpoint.c.number == number)
            return row.digest, c.execute(sa.select(db.checkpoint.c.digest).where(mine)).scalar_one()

        while True:
            archive, checkpoint = await self._db.read(read)
            try:
                return await asyncio.to_thread(self._served, archive, checkpoint)
            except FileNotFoundError:  # a round ended between the two, and that checkpoint wasn't kept
                if (await self._db.read(read))[1] == checkpoint:
                    raise

    def _served(self, archive: str, checkpoint: str | None) -> Served:
        with ExitStack() as files:
            names = [archive] if checkpoint is None else [archive, checkpoint]
            served = Served(*(files.enter_context(self._blobs.open(name)) for name in names))
            files.pop_all()  # from here on it closes them
            return served

    def _seen(self, c: sa.Connection, principal: Principal, model_id: str) -> tuple[Any, push_rows.Training | None]:
        row, training = push_rows.archive(c, model_id), push_rows.training_of(c, model_id)
        push_rows.allow(self._access, principal, "take-part", row.owner, training.accounts if training else ())
        return row, training

    async def delete(self, principal: Principal, model_id: str) -> None:
        """Delete a model that no training uses.

        Raises:
            ConflictError: one does.
        """
        about(model_id)

        def remove(c: sa.Connection) -> str:
            row = push_rows.archive(c, model_id)
            self._access.allow(principal, "host-archive", owner=row.owner)
            if (training := push_rows.training_of(c, model_id)) is not None:
                text = f"the model {model_id} is that of the training {training.id}"
                raise ConflictError(
                    text, "delete that first; once started, both stay", code=ErrorCode.ALREADY_EXISTS, status=409
                )
            c.execute(db.push_model.delete().where(db.push_model.c.id == model_id))
            return str(row.digest)

        await garbage.discard(self._db, self._blobs, [await self._db.write(remove)])


def _newest(c: sa.Connection, training: push_rows.Training) -> int | None:
    """The number of its newest checkpoint; None before it starts."""
    mine = db.checkpoint.c.process == training.process
    return c.execute(sa.select(sa.func.max(db.checkpoint.c.number)).where(mine)).scalar()
