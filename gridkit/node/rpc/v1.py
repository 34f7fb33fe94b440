"""The profile `gridkit.v1`: messages through a channel that outlives its links (see `gridkit.wire.rpc.channel`)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable, Iterator, Sequence

from gridkit.errors import WireError
from gridkit.node.rpc.line import Incoming
from gridkit.node.rpc.link import Data, Link
from gridkit.wire.rpc.channel import Channel
from gridkit.wire.rpc.frames import frame_size
from gridkit.wire.rpc.messages import Profile
from gridkit.wire.rpc.values import Body


class V1Line:
    """A channel, what has no room in it yet, and the time of its acks: see `line.Line`."""

    profile = Profile.V1

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[bytes, tuple[Body, ...]]] = deque()
        self._waiting_bytes = 0
        self._link: Link | None = None
        self._ack: asyncio.TimerHandle | None = None

    @property
    def full(self) -> bool:
        self._eased()
        return bool(self._waiting)

    @property
    def held(self) -> int:
        return self._waiting_bytes + self.channel.unacked_bytes

    def put(self, text: str, bodies: Sequence[Body], *, answer: bool = False) -> None:
        data, bodies = text.encode(), tuple(bodies)
        if self._waiting or not self.channel.offer(data, bodies):
            self.channel.room(data, bodies)  # raises if there never is
            self._waiting.append((data, bodies))
            self._waiting_bytes += frame_size(data, bodies)

    def _fill(self) -> bool:
        """What was acknowledged makes room; whether anything took that."""
        before = len(self._waiting)
        while self._waiting and self.channel.offer(*self._waiting[0]):
            self._waiting_bytes -= frame_size(*self._waiting.popleft())
        return len(self._waiting) < before

    def _eased(self) -> None:
        if self._waiting and self._fill() and self._link is not None:
            self._link.poke()

    def pass_by(self, key: Hashable, text: str) -> None:
        self.channel.pass_by(key, text.encode())

    def next(self) -> bytes | None:
        self._fill()
        return self.channel.outgoing(self._loop.time())

    def sent(self) -> None:
        """The channel keeps it until it is acknowledged."""

    def receive(self, data: Data, link: int) -> Iterator[Incoming]:
        if isinstance(data, str):
            raise WireError("a text came after the handshake; frames are binary")
        try:
            for frame in self.channel.receive(data, link):
                yield Incoming(frame.text, frame.bodies, frame.seq, frame.size, passing=frame.seq == 0)
        finally:
            self._eased()

    def applied(self, incoming: Incoming) -> None:
        if incoming.seq:
            self.channel.applied(incoming.seq, self._loop.time())
            self._plan_ack()

    def _plan_ack(self) -> None:
        due = self.channel.due
        if due is None or self._link is None:
            return
        if due <= self._loop.time():
            self._link.poke()
        elif self._ack is None:
            self._ack = self._loop.call_at(due, self._ack_now)

    def _ack_now(self) -> None:
        self._ack = None
        self._plan_ack()

    def linked(self, link: Link) -> None:
        self._link = link

    def dropped(self, link: int) -> None:
        self.channel.dropped(link)
        self._link = None
