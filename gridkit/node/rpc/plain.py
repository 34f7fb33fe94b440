"""The plain profile: a JSON-RPC message a text frame, as afnio's client speaks it.

There are no acknowledgements: what had no link is told on the next one; what a link had taken when it broke is lost.
"""

from __future__ import annotations

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
"""messages, and bytes of them, that wait: then whoever makes more waits too"""


class PlainLine:
    """What waits for a link: see `line.Line`."""

    profile = Profile.PLAIN

    def __init__(self) -> None:
        self._waiting: deque[str] = deque()
        self._passing: dict[Hashable, str] = {}
        self._first = False  # what was given last is the first of those that wait
        self._up = False
        self.held = 0

    @property
    def full(self) -> bool:
        return len(self._waiting) >= MANY or self.held >= MUCH

    def put(self, text: str, bodies: Sequence[Body]) -> None:
        assert not bodies, "the plain profile has none"
        size = len(text) if text.isascii() else len(text.encode())
        if size > FRAME:
            raise LimitError(
                f"a message of {size:,} bytes; those of the plain profile have at most {FRAME:,}",
                "ask for less at a time, or use gridkit's own client",
                code=ErrorCode.TOO_LARGE,
            )
        self._waiting.append(text)
        self.held += len(text)

    def pass_by(self, key: Hashable, text: str) -> None:
        if self._up:
            self._passing[key] = text

    def next(self) -> str | None:
        self._first = not self._passing and bool(self._waiting)
        if self._passing:
            return self._passing.pop(next(iter(self._passing)))
        return self._waiting[0] if self._waiting else None

    def sent(self) -> None:
        """Only now it is given up: a link may end while a message waits for it."""
        if self._first:
            self.held -= len(self._waiting.popleft())

    def receive(self, data: Data, link: int) -> list[Incoming]:
        return [Incoming(data, (), 0, len(data))]

    def applied(self, incoming: Incoming) -> None:
        """Nobody is told."""

    def linked(self, link: Link) -> None:
        self._up = True

    def dropped(self, link: int) -> None:
        self._up = False
        self._passing.clear()
