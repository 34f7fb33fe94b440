"""What a session says and hears, as frames of its links: the part of a profile."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gridkit.node.rpc.link import Data, Link
from gridkit.wire.rpc.messages import Profile
from gridkit.wire.rpc.values import Body


@dataclass(frozen=True, slots=True)
class Incoming:
    """What a frame brought.

    Attributes:
        seq: the channel's number; 0 without one.
        size: bytes that it holds.
        passing: it goes ahead of what waits.
    """

    text: str | bytes
    bodies: Sequence[memoryview]
    seq: int
    size: int
    passing: bool = False


class Line(Protocol):
    """A profile's. It lives as long as the session; links come and go."""

    profile: Profile

    @property
    def full(self) -> bool:
        """So much waits that whoever makes more should wait too."""

    @property
    def held(self) -> int:
        """Bytes that wait."""

    def put(self, text: str, bodies: Sequence[Body], *, answer: bool = False) -> None:
        """Say this, after what waits. `answer`: it is one.

        Raises:
            LimitError: `TOO_LARGE`.
        """

    def pass_by(self, key: Hashable, text: str) -> None:
        """Say this if there is a link that has time for it before the next of the same key comes."""

    def next(self) -> Data | None: ...

    def sent(self) -> None: ...

    def receive(self, data: Data, link: int) -> Iterable[Incoming]:
        """What is new in a WebSocket message of this link.

        Raises:
            WireError: from here on it breaks the profile's rules.
        """

    def applied(self, incoming: Incoming) -> None:
        """The session has done with it."""

    def linked(self, link: Link) -> None:
        """There is a link, and it is the newest."""

    def dropped(self, link: int) -> None:
        """That link is gone."""
