"""Accounts on a node: users and their tokens.

An account is a name with a role. Objects belong to names: who is added again under a name that was removed has the
objects that still bear it, so only the owner adds and removes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from gridkit.errors import AccessError, ConflictError, ErrorCode, LimitError, NodeError, NotFoundError
from gridkit.node import messages
from gridkit.node.audit import about
from gridkit.node.identities import Identities, new_token
from gridkit.node.passwords import Passwords
from gridkit.node.rates import Rates
from gridkit.node.rights import OWNER, Access, Principal, Role
from gridkit.node.store import tables as db
from gridkit.node.store.database import Database

LOGIN_SECONDS = 12 * 3600.0
MAX_LOGINS = 100
"""of one account; the oldest ends when there is one more"""
MAX_KEYS = 1000
TOKEN_SECONDS = 366 * 86400.0
"""no token lives longer"""
_WORKER_TOKEN = re.compile(r"([0-9a-f]{32})-[0-9a-f]{16}")
"""the id of one, which begins with its training's"""


class Accounts:
    """The use-cases of accounts."""

    def __init__(
        self, database: Database, access: Access, identities: Identities, passwords: Passwords, rates: Rates
    ) -> None:
        self._db = database
        self._access = access
        self._identities = identities
        self._passwords = passwords
        self._rates = rates
        self.on_removal: list[Callable[[str], None]] = []
        """called with the name of an account that was removed"""

    async def start(self) -> None:
        await self._identities.start()

    def close(self) -> None:
        self._passwords.close()

    # -- users

    async def users(self, principal: Principal) -> list[dict[str, Any]]:
        """Every account for the owner, their own for others: `name, role, password` (whether there is one),
        `created_at`."""
        self._access.allow(principal, "list-users")
        wanted = sa.select(db.account).order_by(db.account.c.created_at, db.account.c.name)
        if principal.role is not Role.OWNER:
            wanted = wanted.where(db.account.c.name == principal.name)
        rows = await self._db.read(lambda c: c.execute(wanted).all())
        return [
            {"name": r.name, "role": r.role, "password": r.password is not None, "created_at": r.created_at}
            for r in rows
        ]

    async def add(self, principal: Principal, wish: messages.AddUser, request: str | None = None) -> None:
        """A new account; the same `request` (a key of the client's) again is done already.

        Raises:
            ConflictError: the name is taken.
            AccessError: `FORBIDDEN`, with a password, by a token that has scopes.
        """
        about(wish.name)
        self._access.allow(principal, "add-user")
        if wish.password is not None:
            _may_set_passwords(principal)
        kept = None if wish.password is None else await self._passwords.hash(wish.password)

        def insert(c: sa.Connection) -> None:
            found = c.execute(sa.select(db.account.c.request).where(db.account.c.name == wish.name)).first()
            if found is not None and request is not None and found.request == request:
                return
            if found is not None:
                raise ConflictError(
                    f"there is an account '{wish.name}' already",
                    "choose another name",
                    code=ErrorCode.ALREADY_EXISTS,
                    status=409,
                )
            values = {"name": wish.name, "role": wish.role, "password": kept, "created_at": time.time()}
            c.execute(db.account.insert().values(**values, request=request))

        await self._db.write(insert)

    async def remove(self, principal: Principal, name: str) -> None:
        """Remove an account, its tokens, and where it is called; what it hosts stays.

        Raises:
            NotFoundError: there is none.
        """
        about(name)
        self._access.allow(principal, "remove-user")

        def delete(c: sa.Connection) -> list[str]:
            ended = end_credentials(c, name)
            c.execute(db.participant.delete().where(db.participant.c.account == name))
            c.execute(db.account.delete().where(db.account.c.name == name))
            return ended

        self._identities.revoke(await self._db.write(delete))
        for observe in self.on_removal:
            observe(name)

    async def set_password(self, principal: Principal, name: str, wish: messages.SetPassword) -> None:
        """Another password; every login of the account ends, but for the one that asks. Its other tokens stay.

        Raises:
            NotFoundError: there is no such account.
            AccessError: `FORBIDDEN`, another's account, or a token that has scopes.
        """
        about(name)
        self._access.allow(principal, "set-password", owner=name)
        _may_set_passwords(principal)
        kept = await self._passwords.hash(wish.password)

        def update(c: sa.Connection) -> list[str]:
            ended = _password_of(c, name)
            c.execute(db.account.update().where(db.account.c.name == name).values(password=kept))
            logins = sa.and_(db.token.c.account == name, db.token.c.kind == "login", db.token.c.id != principal.token)
            return ended + _delete_tokens(c, logins)

        self._identities.revoke(await self._db.write(update))

    async def hashed(self, principal: Principal, name: str, password: str) -> str:
        """What to keep of a password that `principal` gives an account.

        Raises:
            AccessError: `FORBIDDEN`, a token that has scopes.
            LimitError: `TOO_MANY` credentials of this name, or as many wait as may.
        """
        _may_set_passwords(principal)
        self._rates.token(name)
        return await self._passwords.hash(password)

    def ended(self, ids: list[str]) -> None:
        """These credentials ended, as the database knows."""
        self._identities.revoke(ids)

    # -- tokens

    async def login(self, wish: messages.Login, address: str) -> dict[str, Any]:
        """A token of `LOGIN_SECONDS` for a name and its password; `address` is where they come from.

        Raises:
            AccessError: `UNAUTHENTICATED`, one text whatever is wrong.
            LimitError: `TOO_MANY` tries.
        """
        about(wish.username)
        who = await self._access.login(wish.username, wish.password, address)
        made = await self._insert(who.name, "login", "login", None, time.time() + LOGIN_SECONDS)
        return {**made, "role": str(who.role)}

    async def create_token(
        self, principal: Principal, wish: messages.CreateToken, request: str | None = None
    ) -> dict[str, Any]:
        """A token of one's own account, or of anybody's for the owner; it is told once and kept as a digest.

        A token that has scopes gives out no others, and a token that was created so none that outlives it. The same
        `request` (a key of the client's) again replaces what it made: nobody has read that.

        Raises:
            AccessError: `FORBIDDEN`, for another's account, or with more rights than who asks has.
            NotFoundError: there is no such account.
        """
        name = principal.name if wish.user is None else wish.user
        about(name)
        self._access.allow(principal, "create-token", owner=name)
        scopes = None if wish.scopes is None else frozenset(wish.scopes)
        if principal.scopes is not None and (scopes is None or not scopes <= principal.scopes):
            raise AccessError(
                f"a token for {', '.join(sorted(principal.scopes))} can't give out others",
                "name scopes that it has",
                code=ErrorCode.FORBIDDEN,
                status=403,
            )
        expires_at = time.time() + wish.expires
        return await self._insert(name, "key", wish.label, scopes, expires_at, by=principal.token, request=request)

    async def tokens(self, principal: Principal) -> list[dict[str, Any]]:
        """All tokens that haven't expired for the owner, their own for others; never the secrets."""
        self._access.allow(principal, "list-tokens")
        wanted = sa.select(db.token).where(db.token.c.expires_at > time.time()).order_by(db.token.c.created_at)
        if principal.role is not Role.OWNER:
            wanted = wanted.where(db.token.c.account == principal.name)
        members = ("id", "kind", "label", "scopes", "created_at", "expires_at")
        rows = await self._db.read(lambda c: c.execute(wanted).all())
        return [{"user": row.account, **{name: getattr(row, name) for name in members}} for row in rows]

    async def revoke(self, principal: Principal, token_id: str) -> None:
        """End a token, by its id: an account's, or a worker's (``<process>-<number>``).

        Raises:
            NotFoundError: there is no such token.
        """
        about(token_id)
        self._access.allow(principal, "revoke-token")

        def delete(c: sa.Connection) -> None:
            owner = c.execute(sa.select(db.token.c.account).where(db.token.c.id == token_id)).scalar()
            if owner is not None:
                self._access.allow(principal, "revoke-token", owner=owner)
                c.execute(db.token.delete().where(db.token.c.id == token_id))
                return
            match = _WORKER_TOKEN.fullmatch(token_id)
            process = db.process.c.id == (match[1] if match else "")
            owner = c.execute(sa.select(db.process.c.owner).where(process)).scalar()
            if owner is None:
                # not repeated: it may be a token, put where its id belongs
                hint = "name it by its id, as the list of tokens has it"
                raise NotFoundError("there is no token of this id", hint, code=ErrorCode.NOT_FOUND, status=404)
            self._access.allow(principal, "revoke-token", owner=owner)
            if not c.execute(sa.select(db.revoked.c.id).where(db.revoked.c.id == token_id)).first():
                self._rates.token(owner)
                expires_at = time.time() + TOKEN_SECONDS
                c.execute(db.revoked.insert().values(id=token_id, expires_at=expires_at))

        await self._db.write(delete)
        self._identities.revoke([token_id])

    async def _insert(
        self,
        name: str,
        kind: str,
        label: str,
        scopes: frozenset[str] | None,
        expires_at: float,
        by: str = "",
        request: str | None = None,
    ) -> dict[str, Any]:
        self._rates.token(name)
        token_id, token, digest = new_token()
        wanted = None if scopes is None else sorted(scopes)

        def insert(c: sa.Connection) -> tuple[float, list[str]]:
            if name != OWNER.name and not c.execute(sa.select(db.account).where(db.account.c.name == name)).first():
                raise _no_account(name)
            parent = c.execute(sa.select(db.token.c.kind, db.token.c.expires_at).where(db.token.c.id == by)).first()
            until = expires_at if parent is None or parent.kind == "login" else min(expires_at, parent.expires_at)
            return until, put_token(
                c, name, token_id, digest, kind=kind, label=label, scopes=scopes, expires_at=until, request=request
            )

        until, ended = await self._db.write(insert)
        if ended:
            self._identities.revoke(ended)
        return {"id": token_id, "token": token, "user": name, "scopes": wanted, "label": label, "expires_at": until}


def put_token(
    c: sa.Connection,
    account: str,
    token_id: str,
    digest: str,
    *,
    label: str,
    scopes: frozenset[str] | None,
    expires_at: float,
    kind: str = "key",
    request: str | None = None,
) -> list[str]:
    """Keep a token of an account (see `identities.new_token`); the ids of those that end for it.

    Raises:
        LimitError: `TOO_MANY`, the account has `MAX_KEYS`.
    """
    now = time.time()
    mine = sa.and_(db.token.c.account == account, db.token.c.kind == kind)
    c.execute(db.token.delete().where(mine, db.token.c.expires_at < now))
    ended = [] if request is None else _delete_tokens(c, sa.and_(mine, db.token.c.request == request))
    ids = list(c.execute(sa.select(db.token.c.id).where(mine).order_by(db.token.c.created_at)).scalars())
    if kind == "login" and len(ids) >= MAX_LOGINS:
        ended += _delete_tokens(c, db.token.c.id.in_(ids[: len(ids) - MAX_LOGINS + 1]))
    elif len(ids) >= MAX_KEYS:
        raise LimitError(f"'{account}' has {MAX_KEYS} tokens", "revoke some", code=ErrorCode.TOO_MANY, status=429)
    wanted = None if scopes is None else sorted(scopes)
    values = {"account": account, "kind": kind, "label": label, "scopes": wanted, "request": request}
    c.execute(db.token.insert().values(id=token_id, digest=digest, expires_at=expires_at, created_at=now, **values))
    return ended


def end_credentials(c: sa.Connection, name: str) -> list[str]:
    """Delete the tokens of an account; their ids, and that of its password, which the caller replaces or deletes.

    Raises:
        NotFoundError: there is no such account.
    """
    return _delete_tokens(c, db.token.c.account == name) + _password_of(c, name)


def _delete_tokens(c: sa.Connection, which: sa.ColumnElement[bool]) -> list[str]:
    """Their ids."""
    ids = list(c.execute(sa.select(db.token.c.id).where(which)).scalars())
    c.execute(db.token.delete().where(which))
    return ids


def _password_of(c: sa.Connection, name: str) -> list[str]:
    """The id of the account's password as a credential, if it has one."""
    row = c.execute(sa.select(db.account.c.password).where(db.account.c.name == name)).first()
    if row is None:
        raise _no_account(name)
    return [] if row.password is None else [Identities.of_kept(row.password)]


def _may_set_passwords(principal: Principal) -> None:
    if principal.scopes is not None:
        raise AccessError(
            "a token with scopes can't set passwords: who logs in with one has all rights",
            "log in, or use a token without scopes",
            code=ErrorCode.FORBIDDEN,
            status=403,
        )


def _no_account(name: str) -> NodeError:
    return NotFoundError(f"there is no account '{name[:100]}'", code=ErrorCode.NOT_FOUND, status=404)
