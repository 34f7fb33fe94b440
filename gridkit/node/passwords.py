"""Passwords: argon2id (RFC 9106), few at a time, the same work for unknown names.

A verification takes 64 MiB and some 50 ms of a core, on purpose; so that this is no way to stop a node, two run at a
time, some wait, and the rest is told to come later. A password that was right a moment ago is known by a keyed digest
and costs nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from gridkit.errors import ErrorCode, LimitError

T = TypeVar("T")

AT_A_TIME = 2
WAITING = 256
"""that many come at once: the participants of a round, with a password each in every request"""
REMEMBERED_SECONDS = 300.0
REMEMBERED = 1000


class Passwords:
    """Hash and verify.

    >>> passwords = Passwords()                                      # doctest: +SKIP
    >>> kept = await passwords.hash("correct horse")                 # doctest: +SKIP
    >>> await passwords.verify(kept, "correct horse")                # doctest: +SKIP
    True
    """

    def __init__(self) -> None:
        self._hasher = PasswordHasher()
        self._threads = ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="gridkit-argon2")
        self._busy = 0
        self._key = secrets.token_bytes(32)
        self._recent: OrderedDict[bytes, float] = OrderedDict()
        self._nobodys: str | None = None

    async def hash(self, password: str) -> str:
        """What to keep of a password.

        Raises:
            LimitError: `TOO_MANY`, as many wait as may.
        """
        return await self._work(self._hasher.hash, password)

    def remembers(self, kept: str | None, password: str) -> bool:
        """Whether `verify` said so a moment ago."""
        return kept is not None and self._recent.get(self._mark(kept, password), 0.0) > time.monotonic()

    async def verify(self, kept: str | None, password: str) -> bool:
        """Whether this is the password of which `kept` was kept; None, for nobody, takes as long and is False.

        Raises:
            LimitError: `TOO_MANY`, as many wait as may.
        """
        if self._nobodys is None:
            self._nobodys = await self.hash(secrets.token_urlsafe())
        right = await self._work(self._matches, kept or self._nobodys, password)
        if kept is None or not right:
            return False
        self._recent[self._mark(kept, password)] = time.monotonic() + REMEMBERED_SECONDS
        while len(self._recent) > REMEMBERED:
            self._recent.popitem(last=False)
        return True

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)

    def _mark(self, kept: str, password: str) -> bytes:
        # the kept text is part of it: a changed password is forgotten with it
        return hmac.digest(self._key, f"{kept}\0{password}".encode(), hashlib.sha256)

    def _matches(self, kept: str, password: str) -> bool:
        try:
            return self._hasher.verify(kept, password)
        except VerifyMismatchError:
            return False

    async def _work(self, function: Callable[..., T], *args: str) -> T:
        if self._busy >= AT_A_TIME + WAITING:
            raise LimitError("too many passwords wait to be checked", code=ErrorCode.TOO_MANY, status=429)
        self._busy += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)
        finally:
            self._busy -= 1
