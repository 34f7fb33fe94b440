"""How somebody becomes a worker of a training: an id that is also its right to work, a place, and a label."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import sqlalchemy as sa

from gridkit.errors import AccessError, ErrorCode
from gridkit.node.messages import Authenticate
from gridkit.node.processes import Process
from gridkit.node.rights import Principal, wrong_token
from gridkit.node.store import tables as db


def enrol(c: sa.Connection, process: Process, principal: Principal, wish: Authenticate, at: float) -> str:
    """The id of a worker: of one that this node knows already, or of a new one.

    An invitation is spent in the same transaction: of two who come with it one gets in.

    Raises:
        AccessError: `UNAUTHENTICATED`, the invitation was taken before; `FORBIDDEN`, all places are, or this one is a
            push participant's.
    """
    if principal.once:
        _spend(c, principal)
    mine = db.worker.c.process == process.id
    if principal.slot is not None:
        known = c.execute(sa.select(db.worker.c.id).where(mine, db.worker.c.slot == principal.slot)).scalar()
        if known:
            if c.execute(sa.select(db.push_member).where(db.push_member.c.worker == known)).first():
                text = f"place {principal.slot} of {process.title} is a push participant's, who is called"
                raise AccessError(text, code=ErrorCode.FORBIDDEN, status=403)
            return str(known)
    elif wish.worker_id is not None:
        known = c.execute(sa.select(db.worker.c.id).where(mine, db.worker.c.id == wish.worker_id)).scalar()
        if known:
            return str(known)
    slot = _free_slot(c, process) if principal.slot is None else principal.slot
    roster = process.state.rules.clients
    if roster is not None and slot >= roster:
        raise AccessError(f"all {roster} places of {process.title} are taken", code=ErrorCode.FORBIDDEN, status=403)
    names = _guests() if principal.once else _variants(f"worker {slot}")
    if wished := principal.label or wish.worker:
        names = _variants(wished)
    label = next(names)
    if c.execute(sa.select(db.worker.c.id).where(mine, db.worker.c.label == label)).first():
        labels = set(c.execute(sa.select(db.worker.c.label).where(mine)).scalars())
        label = next(name for name in names if name not in labels)
    worker_id = secrets.token_hex(16)
    values = {"id": worker_id, "process": process.id, "slot": slot, "label": label, "created_at": at}
    c.execute(db.worker.insert().values(**values))
    return worker_id


def _free_slot(c: sa.Connection, process: Process) -> int:
    """The first place that nobody has."""
    mine, slot = db.worker.c.process == process.id, db.worker.c.slot
    count, last = c.execute(sa.select(sa.func.count(), sa.func.max(slot)).where(mine)).one()
    if not count or count == last + 1:  # without gaps, which tokens that name their place leave
        return int(count)
    taken = set(c.execute(sa.select(slot).where(mine)).scalars())
    return next(n for n in range(count) if n not in taken)


def _spend(c: sa.Connection, principal: Principal) -> None:
    """It is revoked from then on, which outlives a restart of the node."""
    if c.execute(sa.select(db.revoked.c.id).where(db.revoked.c.id == principal.token)).first():
        raise wrong_token()
    c.execute(db.revoked.insert().values(id=principal.token, expires_at=principal.expires_at))


def _guests() -> Iterator[str]:
    number = 1
    while True:
        yield f"guest {number}"
        number += 1


def _variants(label: str) -> Iterator[str]:
    yield label
    number = 2
    while True:
        yield f"{label[:190]} ({number})"
        number += 1
