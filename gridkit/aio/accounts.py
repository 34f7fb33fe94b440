"""Accounts: who the session acts as, who else may, with which tokens, and what was done."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from gridkit import cells
from gridkit.aio.base import Base
from gridkit.client import credentials
from gridkit.client.accounts import AccountClient, Token
from gridkit.client.credentials import Login
from gridkit.client.link import Link
from gridkit.listings import Tokens, Users, with_times
from gridkit.node.launch import NodeProcess
from gridkit.workers.pool import Pool

if TYPE_CHECKING:
    import pandas as pd

    from gridkit.widgets.login import LoginForm

_AUDIT = "time who role token address operation object verdict why suppressed lost"


class Accounts(Base):
    """What a session does with its node's accounts."""

    def __init__(self, link: Link, *, node: NodeProcess | None = None, pool: Pool | None = None) -> None:
        super().__init__(link, node=node, pool=pool)
        self._accounts = AccountClient(link)
        self._user: str | None = None  # who logged in

    def facts(self) -> dict[str, object]:
        """What is known of session and node without asking anybody."""
        return {**super().facts(), **({} if self._user is None else {"user": f"acts as {self._user}"})}

    async def authenticate(self, user: str | Mapping[str, Any] | Login | None = None) -> LoginForm | None:
        """Log in; from then on the session acts as that user.

        The password isn't kept: the node gives a token for some hours, which stays in memory.

        Args:
            user: ``{"username": …, "password": …}``, or a name of a credentials file
                (``~/.config/gridkit/credentials.json``, ``~/.openmined/auth.user``). None asks: with a form in a
                notebook, which waits for nothing, else on the terminal.

        Returns:
            The form, if there is one.

        Raises:
            UsageError: no such name in a credentials file, or others can read it.
            AccessError: the node knows no such name and password.
            LimitError: too many tries.

        Example:
            >>> await grid.authenticate({"username": "ada", "password": …})          # doctest: +SKIP
        """
        if user is None and cells.why_no_widgets() is None:
            from gridkit.widgets.login import LoginForm

            loop = asyncio.get_running_loop()

            def log_in(username: str, password: str) -> Future[str]:
                return asyncio.run_coroutine_threadsafe(self._log_in(Login(username, password)), loop)

            return LoginForm(self.url, log_in)
        if user is None:
            user = await asyncio.to_thread(credentials.ask, self.url)
        await self._log_in(credentials.login_of(user))
        return None

    async def users(self) -> Users:
        """The accounts on the node, those of others only for its owner."""
        return Users(await self._accounts.users(), self.url)

    async def add_user(self, name: str, role: str = "data scientist", password: str | None = None) -> None:
        """Make an account (the node's owner may).

        Args:
            name: letters, digits and ``. _ @ + -``, single spaces inside.
            role: "data scientist", who has models, data and trainings of their own; "worker", who has tokens for
                trainings; or "owner", who may do everything.
            password: at least 8 characters; None: the account has tokens only.

        Raises:
            ConflictError: the name is taken.
            NodeError: a name, role or password that isn't one.
        """
        await self._accounts.add_user(name, role, password)

    async def remove_user(self, name: str) -> None:
        """Remove an account and its tokens (the node's owner may). What it hosts stays.

        Raises:
            NotFoundError: there is none.
        """
        await self._accounts.remove_user(name)

    async def set_password(self, name: str, password: str) -> None:
        """Set a password: one's own, the node's owner anybody's. The account's other logins end.

        Raises:
            NotFoundError: there is no such account.
            AccessError: it is somebody else's.
        """
        await self._accounts.set_password(name, password)

    async def tokens(self) -> Tokens:
        """The tokens of this account, for the node's owner those of all. The secrets are in none."""
        return Tokens(await self._accounts.tokens(), self.url)

    async def issue_token(
        self,
        *,
        scopes: Sequence[str] | None = None,
        expires: timedelta | float | None = None,
        label: str = "",
        user: str | None = None,
    ) -> Token:
        """A token of one's own, such as a script's API key.

        Args:
            scopes: what it is good for, of "browse", "run", "host", "train" and "manage"; None is all that one may.
            expires: when it ends, from now (seconds, or a timedelta; at most a year); None is 90 days.
            label: what it is for.
            user: of this account in place of one's own (the node's owner may).

        Returns:
            The token; its repr doesn't show the secret. `save` puts it where `gk.connect(url)` finds it.

        Raises:
            AccessError: more rights than this session has.

        Example:
            >>> token = await grid.issue_token(scopes=["browse", "run"], label="nightly")   # doctest: +SKIP
        """
        seconds = expires.total_seconds() if isinstance(expires, timedelta) else expires
        return await self._accounts.issue_token(user, scopes, seconds, label)

    async def revoke_token(self, token: str | Token) -> None:
        """End a token, by its id.

        Raises:
            NotFoundError: there is none.
        """
        await self._accounts.revoke_token(token.id if isinstance(token, Token) else token)

    async def audit(self, limit: int = 1000) -> pd.DataFrame:
        """Who did, or was refused, what, the newest last (for the node's owner).

        Args:
            limit: so many rows at most.

        Returns:
            A row each: time (UTC), who, role, token (its id), address, operation, object, verdict ("done", or the
            error's code) and why; `suppressed` counts rows like it, and `lost` any, that aren't there.
        """
        import pandas as pd

        rows = [{"suppressed": 0, "lost": 0, **row} for row in await self._accounts.audit(limit)]
        return with_times(pd.DataFrame(rows, columns=_AUDIT.split()))

    async def _log_in(self, login: Login) -> str:
        """The name of the account that the session acts as now."""
        token = await self._accounts.login(login)
        self._link.use(token.secret)
        self._user = token.user
        return token.user
