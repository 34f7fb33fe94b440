"""What a session's client has asked for and isn't done: one task each, which says once a second that it is alive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from gridkit.errors import ErrorCode, LimitError
from gridkit.wire.rpc.messages import Failure, Id, InvalidMessage, RpcCode

BEAT_SECONDS: Final = 0.9
"""from one heartbeat of a request to the next: a client may take two seconds without one for the end"""


class Work:
    """One request or notification that takes its time.

    Attributes:
        id: the request's; None: a notification.
        progress: what its heartbeats tell: ``phase``, ``done``, ``total``, ``ahead``.
    """

    def __init__(self, asked: Id | None) -> None:
        self.id = asked
        self.progress: dict[str, Any] = {}
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None


class Works:
    """All of one session.

    Args:
        most: so many at a time.
        beat: says of one that it is alive.
    """

    def __init__(self, most: int, beat: Callable[[Work], None]) -> None:
        self._most, self._beat = most, beat
        self._all: set[Work] = set()
        self._of: dict[Id, Work] = {}

    def __len__(self) -> int:
        return len(self._all)

    def check(self, asked: Id | None) -> None:
        """Before anything is begun.

        Raises:
            InvalidMessage: a request of this id isn't answered yet.
            LimitError: `BUSY`: there are too many.
        """
        if asked is not None and asked in self._of:
            text = f"a request with the id {asked!r} isn't answered yet"
            raise InvalidMessage(
                text,
                Failure(asked, RpcCode.INVALID_REQUEST, text, {"exception": text, "code": str(ErrorCode.BAD_REQUEST)}),
            )
        if len(self._all) >= self._most:
            raise LimitError(
                f"{self._most:,} requests of this session are being worked on",
                "wait for their answers",
                code=ErrorCode.BUSY,
                status=429,
            )

    def begin(self, work: Work, doing: Coroutine[Any, Any, None]) -> None:
        """Start one, of which `check` has been asked."""
        self._all.add(work)
        if work.id is not None:
            self._of[work.id] = work
            work.timer = asyncio.get_running_loop().call_later(BEAT_SECONDS, self._pulse, work)
        work.task = asyncio.create_task(doing)
        work.task.add_done_callback(lambda _: self._ended(work))

    def _pulse(self, work: Work) -> None:
        self._beat(work)
        work.timer = asyncio.get_running_loop().call_later(BEAT_SECONDS, self._pulse, work)

    def _ended(self, work: Work) -> None:
        self._all.discard(work)
        if work.id is not None:
            del self._of[work.id]
        if work.timer is not None:
            work.timer.cancel()

    def beat(self) -> None:
        """Say of all that they are alive: a new link has heard nothing of them."""
        for work in self._of.values():
            self._beat(work)

    def cancel(self, asked: Id) -> None:
        """Stop one; it is answered all the same. One that is done isn't there any more, which is no mistake."""
        work = self._of.get(asked)
        if work is not None and work.task is not None:
            asyncio.get_running_loop().call_soon(work.task.cancel)  # after its first step, else nobody would answer

    async def close(self) -> None:
        """Stop all."""
        tasks = [work.task for work in self._all if work.task is not None]
        await asyncio.sleep(0)  # each has had its first step
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
