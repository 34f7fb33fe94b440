"""What the node has asked a session's client and isn't answered yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from gridkit.errors import ErrorCode, GridkitError, NodeError
from gridkit.wire.rpc.messages import Failure, Id, Reply


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client said.

    Attributes:
        bodies: of the frame.
        size: its bytes.
    """

    message: Reply | Failure
    bodies: tuple[memoryview, ...]
    size: int


class Call:
    """One request. `link`: the number of the link that was in use; `at_once`: gets the answer when it comes."""

    def __init__(self, method: str, link: int, at_once: Callable[[Answer], object] | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.method, self.link, self.at_once = method, link, at_once
        self.answer: asyncio.Future[Answer] = loop.create_future()
        self.heard = loop.time()
        self.timer: asyncio.TimerHandle | None = None


class Calls:
    """All of one session.

    Args:
        silence: seconds without a heartbeat, or an answer, after which one is given up. Without a link it just waits:
            whether the client comes back is the session's to know.
    """

    def __init__(self, silence: float) -> None:
        self._silence = silence
        self._of: dict[Id, Call] = {}
        self._last = 0
        self.up = False

    def __len__(self) -> int:
        return len(self._of)

    def begin(self, method: str, link: int, at_once: Callable[[Answer], object] | None = None) -> tuple[int, Call]:
        """A request's id, and what will hold its answer."""
        self._last += 1
        call = self._of[self._last] = Call(method, link, at_once)
        self._watch(self._last, call)
        return self._last, call

    def _watch(self, asked: int, call: Call) -> None:
        loop = asyncio.get_running_loop()
        silent = loop.time() - call.heard if self.up else 0.0
        if silent >= self._silence:
            text = f"the client gave no sign of life for {self._silence:g} s while it was asked for '{call.method}'"
            self._fail(call, NodeError(text, code=ErrorCode.TIMED_OUT, status=504))
        else:
            call.timer = loop.call_later(max(self._silence - silent, 0.01), self._watch, asked, call)

    def ended(self, asked: int) -> None:
        """Nobody waits for it any more."""
        call = self._of.pop(asked)
        if call.timer is not None:
            call.timer.cancel()

    def answered(self, answer: Answer) -> None:
        """The client answers. An answer that nobody waits for is none."""
        call = None if answer.message.id is None else self._of.get(answer.message.id)
        if call is None or call.answer.done():
            return
        if call.at_once is not None:
            call.at_once(answer)
        call.answer.set_result(answer)

    def beat(self, asked: Id) -> None:
        """The client is working on it."""
        if (call := self._of.get(asked)) is not None:
            call.heard = asyncio.get_running_loop().time()

    def linked(self) -> None:
        """A new link: silence begins anew."""
        self.up = True
        for call in self._of.values():
            call.heard = asyncio.get_running_loop().time()

    def fail(self, error: GridkitError, link: int | None = None) -> None:
        """None of these will be answered. `link`: only those that were asked before this one."""
        for call in self._of.values():
            if link is None or call.link < link:
                self._fail(call, error)

    def _fail(self, call: Call, error: GridkitError) -> None:
        if not call.answer.done():
            call.answer.set_exception(error)
