"""Push trainings as the database has them, and who of those that ask may see them."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from gridkit.errors import AccessError, ErrorCode, NotFoundError
from gridkit.node.rights import Access, Principal, Role
from gridkit.node.store import tables as db


@dataclass(frozen=True, slots=True)
class Member:
    """A participant of a training. `worker` is None until it is started."""

    account: str
    slot: int
    worker: str | None


@dataclass(frozen=True, slots=True)
class Training:
    """A training that participants are called to; `model` is the id of its archive."""

    id: str
    owner: str
    model: str
    config: Mapping[str, Any]
    created_at: float
    members: tuple[Member, ...]

    @property
    def process(self) -> str:
        """The id of its process, which is there once it is started."""
        return uuid.UUID(self.id).hex

    @property
    def accounts(self) -> list[str]:
        return [member.account for member in self.members]


def training(c: sa.Connection, training_id: str) -> Training:
    """The training of this id.

    Raises:
        NotFoundError: there is none.
    """
    found = _training(c, db.push_training.c.id == training_id)
    if found is None:
        raise _missing("training", training_id)
    return found


def archive(c: sa.Connection, model_id: str) -> Any:
    """The row of a model.

    Raises:
        NotFoundError: there is none.
    """
    row = c.execute(sa.select(db.push_model).where(db.push_model.c.id == model_id)).first()
    if row is None:
        raise _missing("model", model_id)
    return row


def training_of(c: sa.Connection, model_id: str) -> Training | None:
    """The training of a model, if it has one."""
    return _training(c, db.push_training.c.model == model_id)


def _training(c: sa.Connection, which: sa.ColumnElement[bool]) -> Training | None:
    row = c.execute(sa.select(db.push_training).where(which)).first()
    if row is None:
        return None
    mine = sa.select(db.push_member).where(db.push_member.c.training == row.id).order_by(db.push_member.c.slot)
    members = tuple(Member(one.account, one.slot, one.worker) for one in c.execute(mine))
    return Training(row.id, row.owner, row.model, row.config, row.created_at, members)


def canonical(id: str, what: str) -> str:
    """A UUID of a path as rows have it.

    Raises:
        NotFoundError: it is none, so nothing is called so.
    """
    try:
        return str(uuid.UUID(id))
    except ValueError:
        raise _missing(what, id) from None


def _missing(what: str, id: str) -> NotFoundError:
    return NotFoundError(f"there is no {what} {id[:50]} for push participants", code=ErrorCode.NOT_FOUND, status=404)


def insert_training(
    c: sa.Connection, training_id: str, owner: str, model_id: str, config: Mapping[str, Any], at: float
) -> None:
    """A training of a model that has none, without members yet."""
    values = {"id": training_id, "owner": owner, "model": model_id, "config": dict(config), "created_at": at}
    c.execute(db.push_training.insert().values(**values, told=False))


def insert_members(c: sa.Connection, training_id: str, members: Mapping[int, str]) -> None:
    """Accounts by their slot."""
    rows = [
        {"training": training_id, "account": account, "slot": slot, "worker": None, "told": -1}
        for slot, account in sorted(members.items())
    ]
    if rows:
        c.execute(db.push_member.insert(), rows)


def enlist(c: sa.Connection, found: Training, at: float) -> None:
    """Make the members of a training that starts workers of its process. Their ids never leave the node."""
    for member in found.members:
        worker = secrets.token_hex(16)
        values = {"id": worker, "process": found.process, "slot": member.slot, "label": member.account}
        c.execute(db.worker.insert().values(**values, created_at=at))
        mine = sa.and_(db.push_member.c.training == found.id, db.push_member.c.account == member.account)
        c.execute(db.push_member.update().where(mine).values(worker=worker))


def allow(access: Access, principal: Principal, operation: str, owner: str, accounts: Collection[str] = ()) -> None:
    """Pass for the owner of a training or a model, for the training's participants, and for the node's owner.

    Raises:
        AccessError: for others.
    """
    inside = principal.name in accounts
    access.allow(principal, operation, owner=principal.name if inside else owner)
    if not inside and principal.role is not Role.OWNER and principal.name != owner:
        raise outsider(principal)


def outsider(principal: Principal, how: str = "takes no part in this training") -> AccessError:
    """What somebody is told who takes no part, or no longer."""
    whom = f"'{principal.name}'" if principal.name else f"a {principal.role}'s token"
    return AccessError(
        f"{whom} {how}",
        "who owns the training adds participants, before it starts",
        code=ErrorCode.FORBIDDEN,
        status=403,
    )
