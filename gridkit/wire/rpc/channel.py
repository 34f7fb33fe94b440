"""A reliable, ordered channel over links that may break. Sans-I/O: no socket, no clock, no threads.

Each end numbers its messages from 1 and keeps each until the other end has done with it. Whatever happens to the links,
each message is given out once, and in order; so what is said above needs no repetitions and no protection from them::

    send ──▶ kept ──outgoing──▶ (link) ──receive──▶ taken ──applied──▶ ack ──▶ no longer kept
                 ◀──resumed───── a new link: what wasn't taken is sent again

*Credit.* An end takes so many messages and bytes (`Window`) that it hasn't done with yet. Who finds no `room` waits:
that is whoever makes the messages, never the event loop. An ack is due when a quarter of the window waits for it, or
`ACK_SECONDS` after the first did; it also goes with every message.

*Passing.* Heartbeats and previews are outside of this. Of those with one key only the latest is sent, none is sent
again, and none waits for room.

A `Channel` never gives up by itself. What breaks its rules (a gap, other content under an old number, an ack of what
was not sent, more than the window, garbage) is a WireError and changes nothing; the shell ends that link.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gridkit.errors import ErrorCode, LimitError, UsageError, WireError
from gridkit.wire.rpc.frames import MAX_TEXT, Frame, Kind, Part, frame_size, pack_frame, read_frames

ACK_SECONDS: Final = 0.05
"""for which an ack waits for a message to go with"""
JOINED: Final = 64 << 10
"""bytes from which on no further frame goes into the same WebSocket message: each costs as much as many small frames"""
MAX_PASSING: Final = 1000
"""keys under which something passing waits for the link"""


@dataclass(frozen=True, slots=True)
class Window:
    """What an end takes before it has done with it.

    Attributes:
        frames: messages.
        bytes: of all of them, and so of one. A WebSocket message may have `JOINED` bytes more.
    """

    frames: int = 256
    bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class Position:
    """How far an end is with what the other one sends.

    Attributes:
        taken: the last number that came to it.
        applied: the last number that it has done with.
    """

    taken: int = 0
    applied: int = 0


class Channel:
    """One end.

    Args:
        window: what this end takes.
        theirs: what the other end takes, as it said when they met; and so what is kept for it here.

    Attributes:
        link: the number of the link in use, 0 before the first; see `resumed`.
        up: there is one.
        position: how far this end is with what comes.

    Example::

        channel.send(b'{"jsonrpc": …}')
        while (data := channel.outgoing(loop.time())) is not None:
            await link.send(data)
        …
        for frame in channel.receive(await link.recv(), number):
            ...                                            # and channel.applied(frame.seq, loop.time())
    """

    def __init__(self, window: Window, theirs: Window) -> None:
        self.window, self.theirs = window, theirs
        self.link, self.up = 0, False
        # out
        self._kept: deque[bytes] = deque()  # the frames after _acked, in order
        self._kept_bytes = 0
        self._acked = 0
        self._next = 1  # that is given to this link
        self._reached = 0  # the largest that was given to any link
        self._passing: dict[Hashable, bytes] = {}
        self._passed = False  # what went last was passing
        # in
        self._taken, self._applied, self._told = 0, 0, 0
        self._seen: deque[int] = deque(maxlen=window.frames)  # the fingerprints of those up to _taken
        self._untold: deque[int] = deque()  # the sizes of those after _told
        self._untold_bytes = 0
        self._since: float | None = None  # an ack waits

    @property
    def position(self) -> Position:
        return Position(self._taken, self._applied)

    @property
    def unacked(self) -> int:
        """Messages that the other end hasn't done with."""
        return len(self._kept)

    @property
    def unacked_bytes(self) -> int:
        """Theirs."""
        return self._kept_bytes

    # ---- out

    def room(self, text: Part, bodies: Sequence[Part] = ()) -> bool:
        """Whether `send` would take this now.

        Raises:
            LimitError: `TOO_LARGE`: it never will.
        """
        return self._fits(self._size(text, bodies))

    def _fits(self, size: int) -> bool:
        return len(self._kept) < self.theirs.frames and self._kept_bytes + size <= self.theirs.bytes

    def _size(self, text: Part, bodies: Sequence[Part]) -> int:
        if len(text) > MAX_TEXT:
            raise LimitError(
                f"a message with {len(text):,} bytes of text; at most {MAX_TEXT:,} are taken",
                "send it in parts, and numbers as arrays",
                code=ErrorCode.TOO_LARGE,
            )
        size = frame_size(text, bodies)
        if size > self.theirs.bytes:
            raise LimitError(
                f"a message of {size:,} bytes; the other end takes {self.theirs.bytes:,}",
                "send it in parts",
                code=ErrorCode.TOO_LARGE,
            )
        return size

    def send(self, text: Part, bodies: Sequence[Part] = ()) -> None:
        """Say this, once there is a link. The bytes are copied.

        Raises:
            LimitError: `BUSY`: there is no room yet; `TOO_LARGE`: there never is.
        """
        if not self.offer(text, bodies):
            raise LimitError(
                f"the other end hasn't done with {self.unacked:,} messages yet", code=ErrorCode.BUSY, status=429
            )

    def offer(self, text: Part, bodies: Sequence[Part] = ()) -> bool:
        """`send` this if there is room now; whether there was.

        Raises:
            LimitError: `TOO_LARGE`: there never is.
        """
        if not self._fits(self._size(text, bodies)):
            return False
        frame = pack_frame(Kind.MESSAGE, self._acked + len(self._kept) + 1, self._applied, text, bodies)
        self._tell()
        self._kept.append(frame)
        self._kept_bytes += len(frame)
        return True

    def pass_by(self, key: Hashable, text: Part, bodies: Sequence[Part] = ()) -> None:
        """Say this if the link has time for it before the next of the same key comes.

        Raises:
            LimitError: `TOO_LARGE`.
        """
        self._size(text, bodies)
        if not self.up:
            return
        self._passing.pop(key, None)
        self._passing[key] = pack_frame(Kind.PASSING, 0, self._applied, text, bodies)
        if len(self._passing) > MAX_PASSING:
            del self._passing[next(iter(self._passing))]

    @property
    def unsent(self) -> int:
        """Messages that this link hasn't had yet."""
        return self._acked + len(self._kept) + 1 - self._next

    def outgoing(self, now: float) -> bytes | None:
        """What the link is to send next, as one WebSocket message; None when there is nothing for it now. To be called
        again until it is None, and when it is `due`.

        Args:
            now: seconds, of any clock that doesn't go back.
        """
        if not self.up:
            return None
        frames, size = [], 0
        while size < JOINED and (frame := self._next_frame()) is not None:
            frames.append(frame)
            size += len(frame)
        if not frames and self._since is not None and (due := self.due) is not None and now >= due:
            self._tell()
            return pack_frame(Kind.ACK, 0, self._applied)
        return b"".join(frames) if len(frames) > 1 else frames[0] if frames else None

    def _next_frame(self) -> bytes | None:
        """In turns, what passes and what stays."""
        waiting = self._next - self._acked <= len(self._kept)
        if self._passing and not (waiting and self._passed):
            self._passed = True
            return self._passing.pop(next(iter(self._passing)))
        if not waiting:
            return None
        self._passed = False
        frame = self._kept[self._next - self._acked - 1]
        self._reached = max(self._reached, self._next)
        self._next += 1
        return frame

    @property
    def due(self) -> float | None:
        """The time at which `outgoing` has an ack to send, if nothing else goes before; None: no ack waits."""
        if self._since is None or not self.up:
            return None
        many = self._applied - self._told >= max(1, self.window.frames // 4)
        return self._since + (0 if many or self._untold_bytes >= self.window.bytes // 4 else ACK_SECONDS)

    # ---- in

    def receive(self, data: bytes | memoryview, link: int) -> Iterator[Frame]:
        """What came, each when it is asked for: messages, to be given back to `applied` by their numbers, and, without
        one, what passes. What came before isn't among them.

        Args:
            link: on which it came. A link that another one has replaced is not listened to.

        Raises:
            WireError: a frame breaks a rule, and changes nothing; those ahead of it were given out.
        """
        frames = read_frames(data)
        while link == self.link and self.up and (frame := next(frames, None)) is not None:
            if frame.ack >= self._next:
                raise WireError(f"message {frame.ack} is acknowledged; the last that was sent is {self._next - 1}")
            new = frame.kind != Kind.ACK
            if frame.kind == Kind.MESSAGE:
                if new := frame.seq > self._taken:
                    self._take(frame)
                else:
                    self._check_same(frame)
            self._release(frame.ack)
            if new:
                yield frame

    def applied(self, seq: int, now: float) -> None:
        """This end has done with the messages up to that number: there is room for others.

        Raises:
            UsageError: no such message came.
        """
        if not 0 <= seq <= self._taken:
            raise UsageError(f"no message {seq} came; the last was {self._taken}")
        if seq > self._applied:
            self._applied = seq
            self._since = now if self._since is None else self._since

    def _take(self, frame: Frame) -> None:
        if frame.seq != self._taken + 1:
            raise WireError(f"message {frame.seq} came after {self._taken}")
        if len(self._untold) >= self.window.frames or self._untold_bytes + frame.size > self.window.bytes:
            raise WireError(f"message {frame.seq} is more than the window takes", code=ErrorCode.TOO_MANY)
        self._taken = frame.seq
        self._seen.append(frame.fingerprint())
        self._untold.append(frame.size)
        self._untold_bytes += frame.size

    def _check_same(self, frame: Frame) -> None:
        """One that came before, as it came before: a sender that isn't sure sends again, at most its window."""
        place = frame.seq - self._taken - 1  # from the end
        if -place > len(self._seen) or self._seen[place] != frame.fingerprint():
            raise WireError(f"message {frame.seq} came before, with other content, or long before")

    def _tell(self) -> None:
        """What was applied is said in a frame that is being made."""
        while self._told < self._applied:
            self._told += 1
            self._untold_bytes -= self._untold.popleft()
        self._since = None

    def _release(self, acked: int) -> None:
        while self._acked < acked:
            self._acked += 1
            self._kept_bytes -= len(self._kept.popleft())

    # ---- links

    def resumed(self, link: int, their: Position) -> None:
        """There is a new link, and both ends have said how far they are; an older link is forgotten.

        No message may be taken between this end's saying how far it is and this: `dropped` sees to that.

        Args:
            link: its number, larger than those before.
            their: how far the other end is.

        Raises:
            WireError: the link isn't newer than the one before, or the position is none that the other end can have;
                nothing is changed.
        """
        if link <= self.link:
            raise WireError(f"link {link} is older than {self.link}")
        if not self._acked <= their.applied <= their.taken <= self._reached:
            raise WireError(
                f"the other end says that it has {their.taken} messages and has done with {their.applied}; "
                f"{self._reached} were sent, and {self._acked} acknowledged"
            )
        self.link, self.up = link, True
        self._passing.clear()
        self._release(their.applied)
        self._next = their.taken + 1
        self._tell()  # this end said how far it was, and may have got on since: an ack is due
        self._since = -math.inf if self._applied else None

    def dropped(self, link: int) -> None:
        """That link is gone. Of a link that another one has replaced this is no news."""
        if link == self.link:
            self.up = False
            self._passing.clear()
