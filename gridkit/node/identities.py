"""Whose credential this is: accounts by token or password, and which credentials were revoked.

Tokens are ``gk_<id>_<secret>``. The secret has 256 bits and is kept as SHA-256, which is enough for what can't be
guessed. What was looked up stays in memory until an account or a token changes; one process writes a data folder, so
nothing changes elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import sqlalchemy as sa

from gridkit.node.passwords import Passwords
from gridkit.node.rates import Rates
from gridkit.node.rights import ACCOUNT_TOKEN, OWNER, Principal, Role
from gridkit.node.store import tables as db
from gridkit.node.store.database import Database


@dataclass(frozen=True, slots=True)
class _Known:
    digest: str
    principal: Principal


def new_token() -> tuple[str, str, str]:
    """A token's id, the token itself, and the digest to keep."""
    token_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    return token_id, f"{ACCOUNT_TOKEN}{token_id}_{secret}", _digest(secret)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class Identities:
    """The accounts of one node, as credentials find them (`rights.Identities`)."""

    def __init__(self, database: Database, passwords: Passwords, rates: Rates) -> None:
        self._db = database
        self._passwords = passwords
        self._rates = rates
        self._known: dict[str, _Known] = {}
        self._revoked: set[str] = set()
        self._changes = 0

    async def start(self) -> None:
        """Read which worker tokens were revoked; forget what expired meanwhile."""

        def read(c: sa.Connection) -> list[str]:
            for table in (db.revoked, db.token):
                c.execute(table.delete().where(table.c.expires_at < time.time()))
            return list(c.execute(sa.select(db.revoked.c.id)).scalars())

        self._revoked = set(await self._db.write(read))

    def revoke(self, ids: Iterable[str]) -> None:
        """From now on these credentials are refused, also where they are in use. Who calls has it in the database."""
        self._changes += 1
        self._known.clear()
        self._revoked.update(ids)

    def is_revoked(self, token_id: str) -> bool:
        return token_id in self._revoked

    @staticmethod
    def of_kept(kept: str) -> str:
        """The id of a password as a credential; `kept` is what is kept of it."""
        return f"password-{_digest(kept)[:32]}"

    async def of_token(self, token: str) -> Principal | None:
        """Whose token this is; None: nobody's, or expired, or revoked."""
        token_id, _, secret = token.removeprefix(ACCOUNT_TOKEN).partition("_")
        known = self._known.get(token_id)
        if known is None:
            changes = self._changes
            known = await self._db.read(lambda c: _find(c, token_id))
            if known is None:
                return None
            if changes == self._changes:  # else it may have been revoked while it was read
                self._known[token_id] = known
        if known.principal.expires_at <= time.time() or not hmac.compare_digest(known.digest, _digest(secret)):
            return None
        return known.principal

    async def of_password(self, name: str, password: str, address: str) -> Principal | None:
        """Whose name and password these are; nobody's takes as long to find out.

        Raises:
            LimitError: `TOO_MANY` wrong ones, or so many wait to be checked.
        """
        wanted = sa.select(db.account.c.role, db.account.c.password).where(db.account.c.name == name)
        row = await self._db.read(lambda c: c.execute(wanted).first())
        kept = None if row is None else row.password
        right = self._passwords.remembers(kept, password)
        if not right:
            self._rates.may_guess(name, address)
            right = await self._passwords.verify(kept, password)
            if not right:
                self._rates.guessed(name, address)
        if not right or row is None or kept is None:
            return None
        return Principal(Role(row.role), name, token=self.of_kept(kept))


def _find(c: sa.Connection, token_id: str) -> _Known | None:
    wanted = (
        sa.select(db.token, db.account.c.role)
        .join(db.account, db.account.c.name == db.token.c.account, isouter=True)
        .where(db.token.c.id == token_id)
    )
    row = c.execute(wanted).first()
    if row is None or (row.role is None and row.account != OWNER.name):
        return None
    scopes = None if row.scopes is None else frozenset(row.scopes)
    who = OWNER if row.account == OWNER.name else Principal(Role(row.role), row.account)
    return _Known(row.digest, replace(who, scopes=scopes, token=token_id, expires_at=row.expires_at))
