"""Push participants: accounts that a node calls, each at an endpoint of its own.

Whoever registers one makes the node call somewhere: an endpoint is held against the policy of `outbound` when it comes,
and again at each call. What notifications are signed with stands nowhere: it is made of the node's own secret and of a
number that is kept, so that who reads the database can sign nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from gridkit.errors import ConflictError, ErrorCode, LimitError, NotFoundError
from gridkit.node.accounts import TOKEN_SECONDS, Accounts, end_credentials, put_token
from gridkit.node.audit import about
from gridkit.node.failpoint import failpoint
from gridkit.node.identities import new_token
from gridkit.node.outbound import Outbound
from gridkit.node.rights import Access, Principal, Role
from gridkit.node.store import tables as db
from gridkit.node.store.database import Database
from gridkit.node.targets import Target

MAX_PARTICIPANTS = 10_000
"""of one node"""
SCOPES = frozenset({"browse", "train"})
"""what a participant's token is good for"""
_NAMES = (
    db.process.c.owner,
    db.model.c.owner,
    db.dataset.c.owner,
    db.push_model.c.owner,
    db.push_training.c.owner,
    db.push_member.c.account,
)
"""where names stand that have something; policies of datasets name others"""


@dataclass(frozen=True, slots=True)
class Participant:
    """One, as it is called.

    Attributes:
        account: its name.
        id: a UUID in its usual form, which the protocol knows it by.
        endpoint: where it is told; the path of a URL may be secret, so it is in no repr.
        secret: what its notifications are signed with; None: they aren't.
    """

    account: str
    id: str
    endpoint: str = field(repr=False)
    secret: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Wish:
    """A registration.

    Args:
        password: by default one is made.
        actor: it has trainings of its own (the role "data scientist"); else its role is "worker".
        signed: it can tell signed notifications from others.
        renew: if it is registered already it gets another endpoint, and other credentials in place of all it has.
        profile: what else it says of itself.
    """

    name: str
    endpoint: str = field(repr=False)
    password: str | None = field(default=None, repr=False)
    actor: bool = False
    signed: bool = True
    renew: bool = False
    profile: Mapping[str, Any] = field(default_factory=dict, repr=False)


class Participants:
    """The directory.

    Args:
        key: the node's own secret.
    """

    def __init__(self, database: Database, access: Access, accounts: Accounts, outbound: Outbound, key: str) -> None:
        self._db = database
        self._access = access
        self._accounts = accounts
        self._outbound = outbound
        self._key = key.encode()

    # -- for whoever calls them; in the caller's transaction

    def of_account(self, c: sa.Connection, name: str) -> Participant | None:
        """The participant of this account; None: the account is gone, or is none."""
        return self.of_accounts(c, [name]).get(name)

    def of_accounts(self, c: sa.Connection, names: Collection[str]) -> dict[str, Participant]:
        """Those of these accounts that there are, by name."""
        return {one.account: one for one in self._found(c, db.participant.c.account, names)}

    def of_ids(self, c: sa.Connection, ids: Collection[str]) -> dict[str, Participant]:
        """Those of these UUIDs that there are, by UUID."""
        return {one.id: one for one in self._found(c, db.participant.c.id, ids)}

    def _found(self, c: sa.Connection, column: sa.Column[str], values: Collection[str]) -> list[Participant]:
        rows = c.execute(sa.select(db.participant).where(column.in_(list(values)))).all()
        return [Participant(row.account, row.id, row.endpoint, self._secret(row.secret)) for row in rows]

    def _secret(self, number: str | None) -> str | None:
        if number is None:
            return None
        return hmac.new(self._key, f"push participant {number}".encode(), hashlib.sha256).hexdigest()

    # -- use-cases

    async def register(self, principal: Principal, wish: Wish, request: str | None = None) -> dict[str, Any]:
        """An account, its token and its endpoint; told once: `name, id, endpoint, token, password, secret`.

        The same `request` (a key of the client's) again gives other credentials in place of the lost ones.

        Raises:
            AccessError: `FORBIDDEN`, by a token that has scopes; `TARGET_REFUSED`, the node may not call there.
            NodeError: `BAD_REQUEST`, no usable endpoint; `TARGET_FAILED`, its name isn't found.
            ConflictError: the name is taken.
            LimitError: there are `MAX_PARTICIPANTS`.
        """
        about(wish.name)
        self._access.allow(principal, "add-participant")
        if wish.renew:  # what ends credentials isn't for everybody who may register
            self._access.allow(principal, "remove-user")
        endpoint = str((await self._outbound.check(wish.endpoint)).url)
        password = wish.password or secrets.token_urlsafe(24)
        kept = await self._accounts.hashed(principal, wish.name, password)
        number = secrets.token_hex(16) if wish.signed else None
        token_id, token, digest = new_token()

        def keep(c: sa.Connection) -> tuple[str, list[str]]:
            now = time.time()
            account = c.execute(sa.select(db.account).where(db.account.c.name == wish.name)).first()
            known = c.execute(sa.select(db.participant).where(db.participant.c.account == wish.name)).first()
            again = known is not None and request is not None and known.request == request
            role = "data scientist" if wish.actor else "worker"
            told = {"endpoint": endpoint, "secret": number, "request": request}
            ended: list[str] = []
            if account is None:
                if principal.role is Role.ANONYMOUS and _is_in_use(c, wish.name):
                    raise _taken(wish.name)  # else a stranger has what a removed account has left
                if c.execute(sa.select(sa.func.count()).select_from(db.participant)).scalar_one() >= MAX_PARTICIPANTS:
                    why = f"this node has {MAX_PARTICIPANTS} participants"
                    raise LimitError(why, "remove some", code=ErrorCode.TOO_MANY, status=429)
                values = {"name": wish.name, "role": role, "password": kept, "created_at": now}
                c.execute(db.account.insert().values(**values))
                failpoint("participant-account")
                id, values = str(uuid.uuid4()), {"profile": dict(wish.profile), "created_at": now}
                c.execute(db.participant.insert().values(account=wish.name, id=id, **told, **values))
            elif known is not None and (again or wish.renew):
                id, role = known.id, account.role
                ended = end_credentials(c, wish.name)
                c.execute(db.account.update().where(db.account.c.name == wish.name).values(password=kept))
                c.execute(db.participant.update().where(db.participant.c.account == wish.name).values(**told))
            else:
                raise _taken(wish.name, renew=known is not None)
            scopes = SCOPES if role == "worker" else None
            until = now + TOKEN_SECONDS
            ended += put_token(c, wish.name, token_id, digest, label="push", scopes=scopes, expires_at=until)
            return id, ended

        id, ended = await self._db.write(keep)
        self._accounts.ended(ended)
        made = {"name": wish.name, "id": id, "endpoint": endpoint, "token": token, "password": password}
        return {**made, "secret": self._secret(number)}

    async def listing(self, principal: Principal) -> list[dict[str, Any]]:
        """Every participant for owners and data scientists, themselves for others, oldest first: `name, id, endpoint,
        signed, created_at, client` (whether it takes part in trainings), and what else it says of itself.

        Data scientists are told of another only where it is called, ``https://host:port``.
        """
        self._access.allow(principal, "list-participants")
        wanted = sa.select(db.participant)
        if principal.role not in (Role.OWNER, Role.SCIENTIST):
            wanted = wanted.where(db.participant.c.account == principal.name)
        wanted = wanted.order_by(db.participant.c.created_at, db.participant.c.account)
        rows = await self._db.read(lambda c: c.execute(wanted).all())
        return [_shown(row, whole=principal.role is Role.OWNER or principal.name == row.account) for row in rows]

    async def remove(self, principal: Principal, name: str) -> None:
        """Remove a participant, its account and all its credentials; it leaves the trainings that it is in.

        Raises:
            NotFoundError: there is none.
        """
        about(name)
        self._access.allow(principal, "remove-user")
        if await self._db.read(lambda c: self.of_account(c, name)) is None:
            why = f"there is no participant '{name[:100]}'"
            raise NotFoundError(why, "grid.participants has them all", code=ErrorCode.NOT_FOUND, status=404)
        await self._accounts.remove(principal, name)


def _shown(row: Any, *, whole: bool) -> dict[str, Any]:
    target = Target.read(row.endpoint)
    told = {
        "name": row.account,
        "id": row.id,
        "endpoint": row.endpoint if whole else f"{target.url.scheme}://{target}",
        "signed": row.secret is not None,
        "created_at": row.created_at,
        "client": row.profile.get("client", True),
    }
    return {**(row.profile if whole else {}), **told}


def _is_in_use(c: sa.Connection, name: str) -> bool:
    policies = sa.cast(db.dataset.c.policy, sa.Text)
    wanted = [column == name for column in _NAMES] + [policies.contains(json.dumps(name), autoescape=True)]
    return any(c.execute(sa.select(sa.exists().where(each))).scalar_one() for each in wanted)


def _taken(name: str, *, renew: bool = False) -> ConflictError:
    hint = "choose another name"
    if renew:
        hint += ", or give it another endpoint and other credentials with renew=True"
    return ConflictError(f"there is an account '{name}' already", hint, code=ErrorCode.ALREADY_EXISTS, status=409)
