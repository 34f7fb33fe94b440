"""Accounts on a node: users, their tokens, and the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gridkit.client import credentials
from gridkit.client.credentials import Login
from gridkit.client.link import Link
from gridkit.client.paths import path_of


@dataclass(frozen=True, slots=True)
class Token:
    """A token of an account on a node, as it was given out: the node tells it this once.

    Attributes:
        id: names it in `grid.tokens` and to `grid.revoke_token`; no secret.
        user: the account.
        scopes: what it is good for; None is all that the account may.
        expires: when it ends (UTC).
        label: what it is for.
        secret: the token itself, which is in no repr.
        url: the node's address.
    """

    id: str
    user: str
    scopes: tuple[str, ...] | None
    expires: datetime
    label: str
    url: str
    secret: str = field(repr=False)

    def save(self) -> Path:
        """Put it into the credentials file (mode 0600), where `gk.connect(url)` finds it.

        Returns:
            The file.

        Raises:
            UsageError: there is a file that others can read.
        """
        return credentials.store_token(self.url, self.secret)


class AccountClient:
    """The accounts' routes of a node over a `Link`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def login(self, login: Login) -> Token:
        """A token for a name and its password, good for hours.

        Raises:
            AccessError: the node knows no such name and password.
            LimitError: too many tries.
        """
        wish = {"username": login.username, "password": login.password}
        link = Link(
            self._link.url, patience=self._link.patience, certificate=self._link.certificate
        )  # a token that has ended would be refused first
        try:
            return self._token(await link.json("POST", "/users/login", json=wish))
        finally:
            await link.close()

    async def users(self) -> list[dict[str, Any]]:
        return list((await self._link.json("GET", "/users"))["users"])

    async def add_user(self, name: str, role: str, password: str | None) -> None:
        wish = {"name": name, "role": role, **({} if password is None else {"password": password})}
        await self._link.json("POST", "/users", json=wish)

    async def remove_user(self, name: str) -> None:
        await self._link.json("DELETE", path_of("users", name))

    async def set_password(self, name: str, password: str) -> None:
        await self._link.json("PUT", f"{path_of('users', name)}/password", json={"password": password})

    async def tokens(self) -> list[dict[str, Any]]:
        return list((await self._link.json("GET", "/tokens"))["tokens"])

    async def issue_token(
        self, user: str | None, scopes: Sequence[str] | None, expires: float | None, label: str
    ) -> Token:
        wish = {"user": user, "scopes": None if scopes is None else list(scopes), "expires": expires, "label": label}
        sent = {key: value for key, value in wish.items() if value is not None}
        return self._token(await self._link.json("POST", "/tokens", json=sent))

    async def revoke_token(self, token_id: str) -> None:
        await self._link.json("DELETE", path_of("tokens", token_id))

    async def audit(self, limit: int) -> list[dict[str, Any]]:
        return list((await self._link.json("GET", "/audit", params={"limit": limit}))["rows"])

    def _token(self, told: dict[str, Any]) -> Token:
        scopes = told["scopes"]
        return Token(
            id=told["id"],
            user=told["user"],
            scopes=None if scopes is None else tuple(scopes),
            expires=datetime.fromtimestamp(told["expires_at"], UTC),
            label=told["label"],
            url=self._link.url,
            secret=told["token"],
        )
