"""The plain profile: a JSON-RPC message a text frame, as afnio's client speaks it.

There are no acknowledgements. What had no link is told on the next one. So are, once more, the last answers that the
broken one had taken, which may have been lost with it: a client knows by their ids whether it still waits for them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable, Sequence

from gridkit.errors import ErrorCode, LimitError
from gridkit.node.rpc.line import Incoming
from gridkit.node.rpc.link import Data, Link
from gridkit.wire.rpc.messages import Profile
from gridkit.wire.rpc.values import Body

FRAME = (1 << 20) - 1
"""bytes of a message; websockets' clients take no more unless they are told to"""
MANY, MUCH = 256, 4 << 20
"""messages, and bytes of them, that wait: then whoever makes more waits too; and so many answers are kept"""


class PlainLine:
    """What waits for a link: see `line.Line`.

    Args:
        doubt: seconds for which an answer may have been lost: a link that took it longer ago has answered a ping since.
            0: none is told again.
    """

    profile = Profile.PLAIN

    def __init__(self, doubt: float) -> None:
        self._doubt = doubt
        self._waiting: deque[tuple[str, bool]] = deque()
        self._doubtful: deque[tuple[float, str]] = deque()
        self._doubtful_bytes = 0
        self._passing: dict[Hashable, str] = {}
        self._first = False  # what was given last is the first of those that wait
        self._up = False
        self._bytes = 0  # that wait

    @property
    def full(self) -> bool:
        return len(self._waiting) >= MANY or self._bytes >= MUCH

    @property
    def held(self) -> int:
        return self._bytes + self._doubtful_bytes

    def put(self, text: str, bodies: Sequence[Body], *, answer: bool = False) -> None:
        assert not bodies, "the plain profile has none"
        size = len(text) if text.isascii() else len(text.encode())
        if size > FRAME:
            raise LimitError(
                f"a message of {size:,} bytes; those of the plain profile have at most {FRAME:,}",
                "ask for less at a time, or use gridkit's own client",
                code=ErrorCode.TOO_LARGE,
            )
        self._waiting.append((text, answer))
        self._bytes += len(text)

    def pass_by(self, key: Hashable, text: str) -> None:
        if self._up:
            self._passing[key] = text

    def next(self) -> str | None:
        self._first = not self._passing and bool(self._waiting)
        if self._passing:
            return self._passing.pop(next(iter(self._passing)))
        return self._waiting[0][0] if self._waiting else None

    def sent(self) -> None:
        """Only now it is given up: a link may end while a message waits for it."""
        if self._first:
            text, answer = self._waiting.popleft()
            self._bytes -= len(text)
            if answer:
                self._doubtful.append((asyncio.get_running_loop().time(), text))
                self._doubtful_bytes += len(text)
                self._forget()

    def _forget(self) -> None:
        """Answers that have arrived, and the oldest of too many."""
        old = asyncio.get_running_loop().time() - self._doubt
        kept = self._doubtful
        while kept and (kept[0][0] <= old or len(kept) > MANY or self._doubtful_bytes > MUCH):
            self._doubtful_bytes -= len(kept.popleft()[1])

    def receive(self, data: Data, link: int) -> list[Incoming]:
        return [Incoming(data, (), 0, len(data))]

    def applied(self, incoming: Incoming) -> None:
        """Nobody is told."""

    def linked(self, link: Link) -> None:
        self._up = True
        self._forget()
        while self._doubtful:
            _, text = self._doubtful.pop()
            self._waiting.appendleft((text, True))
            self._bytes += len(text)
        self._doubtful_bytes = 0

    def dropped(self, link: int) -> None:
        self._up = False
        self._passing.clear()
