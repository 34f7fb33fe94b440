"""Passwords: many at once are checked, one after the other. How few at a time, and guesses: test_rates.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from argon2 import PasswordHasher

from gridkit.errors import LimitError
from gridkit.node import passwords as module
from gridkit.node.passwords import AT_A_TIME, WAITING, Passwords

Work = Callable[[Passwords], Coroutine[Any, Any, None]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Work], None]]:
    """With a hasher that takes no time."""
    monkeypatch.setattr(module, "PasswordHasher", lambda: PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))

    def run(work: Work) -> None:
        passwords = Passwords()
        try:
            asyncio.run(work(passwords))
        finally:
            passwords.close()

    yield run


def test_a_hundred_that_come_at_once_are_all_checked(run: Callable[[Work], None]) -> None:
    async def work(passwords: Passwords) -> None:
        kept = [await passwords.hash(f"password {number}") for number in range(100)]
        right = await asyncio.gather(*(passwords.verify(one, f"password {n}") for n, one in enumerate(kept)))
        wrong = await asyncio.gather(*(passwords.verify(one, f"password {n + 1}") for n, one in enumerate(kept)))
        assert all(right) and not any(wrong)

    run(work)


def test_more_than_may_wait_are_told_so(run: Callable[[Work], None]) -> None:
    async def work(passwords: Passwords) -> None:
        most = AT_A_TIME + WAITING
        found = await asyncio.gather(*(passwords.verify(None, "x") for _ in range(most + 5)), return_exceptions=True)
        assert sum(isinstance(one, LimitError) for one in found) >= 5
        assert await passwords.verify(None, "x") is False

    run(work)
