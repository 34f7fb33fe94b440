"""One session of JSON-RPC with a node, over as many WebSockets as it takes.

The shell around `gridkit.wire.rpc.channel`: it opens a link, reads it, writes it, and opens the next one when it
breaks. What is said in a session arrives once and in order, whatever becomes of the links, until the session ends: it
is closed, the node doesn't know it any more, the credential is no longer good, or there was no link for too long.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import deque
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from gridkit.client.link import Link, error_of
from gridkit.errors import AccessError, ErrorCode, GridkitError, NodeError, NodeUnreachable, WireError
from gridkit.wire.rpc import failures
from gridkit.wire.rpc.channel import JOINED, Channel, Window
from gridkit.wire.rpc.frames import Frame
from gridkit.wire.rpc.handshake import BROKEN, Caller
from gridkit.wire.rpc.messages import Profile, pack, parse
from gridkit.wire.rpc.values import Body

if TYPE_CHECKING:
    from websockets.http11 import Response

    from gridkit.client.rpc_socket import RpcSocket

PATH = "/ws/v0/rpc/"
OPEN_SECONDS = 10.0
"""for a link to come about, from its first byte to the node's answer to `hello`"""
PING_SECONDS = 10.0
"""after which a silent link is asked whether it is there, and again until it counts as cut"""
LONGEST_PAUSE = 2.0
"""seconds between two tries"""
TOGETHER = 32
"""messages that aren't kept for the end of a turn: the node may work on them meanwhile"""
MAX_BROKEN = 3
"""links in a row that end because one end broke the rules; more links won't help"""
_PASSING_STATUS = frozenset({408, 429, 500, 502, 503, 504})
"""of a handshake that is worth another try"""


class Ticket:
    """A message on its way to the channel.

    Attributes:
        sent: the channel has it: it will arrive.
        withdrawn: it isn't to be said any more.
    """

    __slots__ = ("_told", "bodies", "sent", "text", "withdrawn")

    def __init__(self, text: bytes, bodies: list[Body]) -> None:
        self.text, self.bodies, self.sent, self.withdrawn = text, bodies, False, False
        self._told: Callable[[], object] | None = None

    def when_sent(self, told: Callable[[], object]) -> None:
        """Call this once it is, or now."""
        if self.sent:
            told()
        else:
            self._told = told

    def withdraw(self) -> bool:
        """Don't say it after all; False when it is said already."""
        if not self.sent:
            self.withdrawn, self.text, self.bodies = True, b"", []
        return self.withdrawn

    def _is_sent(self) -> None:
        self.sent, self.text, self.bodies = True, b"", []
        if self._told is not None:
            self._told()


class RpcSession:
    """A session, from its first link to its end.

    Args:
        link: gives the node's address, the credential and the TLS context.
        window: what this end takes before it has done with it.
        patience: seconds without a link after which the session is given up.
        take: gets what the node says, in order, in the loop's own time: it must not block. Of each frame with a
            number `done` has to be told.
        over: told, once, why the session ended, unless it was closed.

    Attributes:
        ended: why; None while it lasts.
    """

    def __init__(
        self,
        link: Link,
        window: Window,
        patience: float,
        take: Callable[[Frame], None],
        over: Callable[[GridkitError], None],
    ) -> None:
        self._link = link
        self._url = "ws" + link.url.removeprefix("http") + PATH
        self._window = window
        self._patience = patience
        self._take = take
        self._over = over
        self._caller = Caller(window)
        self._waiting: deque[Ticket] = deque()
        self._kicked = asyncio.Event()
        self._idle: RpcSocket | None = None  # the link, when nothing is being written, nor was in this turn of the loop
        self._soon: RpcSocket | None = None  # the link, when what is said in this turn is written in the next
        self._ack: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._broken = 0
        self.ended: GridkitError | None = None

    @property
    def id(self) -> str:
        """The session's id, which is a secret between the two ends."""
        return self._caller.session

    @property
    def linked(self) -> bool:
        """There is a link now."""
        return self._channel is not None and self._channel.up

    @property
    def _channel(self) -> Channel | None:
        return self._caller.channel

    # ---- what is said

    def say(self, text: str, bodies: list[Body]) -> Ticket:
        """Say this as soon as there is room. Never waits.

        Raises:
            LimitError: it is more than the other end ever takes.
            GridkitError: the session has ended.
        """
        if self.ended is not None:
            raise fresh(self.ended)
        ticket = Ticket(text.encode(), bodies)
        self._fill()
        if self._waiting or not self._hand_over(ticket):
            if self._channel is not None:
                self._channel.room(ticket.text, ticket.bodies)  # raises if there never is
            self._waiting.append(ticket)
        return ticket

    @property
    def waiting(self) -> int:
        """Messages that wait for room, or for a link."""
        return len(self._waiting)

    def pass_by(self, key: Hashable, text: str) -> None:
        """Say this if the link has time for it before the next of the same key comes."""
        if self._channel is not None:
            self._channel.pass_by(key, text.encode())
            self._push(self._channel)

    def done(self, seq: int) -> None:
        """This end has done with what came up to that number."""
        if self._channel is not None:  # else the session has ended
            self._channel.applied(seq, asyncio.get_running_loop().time())
            self._plan_ack()

    def _plan_ack(self) -> None:
        due = None if self._channel is None else self._channel.due
        if due is None:
            return
        loop = asyncio.get_running_loop()
        if due <= loop.time():
            self._write_soon()  # perhaps there is more to be said in this turn of the loop
        elif self._ack is None:
            self._ack = loop.call_at(due, self._ack_now)

    def _ack_now(self) -> None:
        self._ack = None
        self._plan_ack()  # a timer may be early

    def _hand_over(self, ticket: Ticket) -> bool:
        """Whether the channel has it now. While there is no link it can still be withdrawn."""
        channel = self._channel
        if channel is None or not channel.up or not channel.offer(ticket.text, ticket.bodies):
            return False
        self._push(channel)
        ticket._is_sent()
        return True

    def _push(self, channel: Channel) -> None:
        """Write what waits: at once if nothing is being written, for a call that somebody waits for shouldn't wait for
        a turn of the loop. What else is said in this turn goes together, in the next, or when it is `TOGETHER`."""
        socket = self._idle
        if socket is not None:
            self._write_now(socket, channel)
            self._write_soon()
        elif self._soon is not None and channel.unsent >= TOGETHER:
            self._write_now(self._soon, channel)

    def _write_now(self, socket: RpcSocket, channel: Channel) -> bool:
        """Whether there was something, and the link took it."""
        if not socket.free:
            return False
        data = channel.outgoing(asyncio.get_running_loop().time())
        if data is not None:
            socket.write(data)
        return data is not None

    def _write_soon(self) -> None:
        """In the next turn of the loop, what there is by then."""
        socket, self._idle = self._idle, None
        if socket is not None:
            self._soon = socket
            asyncio.get_running_loop().call_soon(self._turn, socket, self._caller.link)

    def _turn(self, socket: RpcSocket, link: int) -> None:
        channel = self._channel
        if channel is None or not channel.up or link != self._caller.link:
            return  # the link is gone, or another one
        self._soon = None
        while self._write_now(socket, channel):
            pass
        if socket.free:
            self._idle = socket
        else:
            self._kicked.set()

    def _fill(self) -> None:
        while self._waiting and (self._waiting[0].withdrawn or self._hand_over(self._waiting[0])):
            self._waiting.popleft()

    # ---- links

    async def start(self, retries: int, delay: float) -> None:
        """Open the first link.

        Args:
            retries: how often to try, with `delay` seconds between two tries.

        Raises:
            AccessError: the credential isn't good: it isn't tried again.
            NodeError: the node refuses for another reason.
            NodeUnreachable: nobody answered, or somebody who doesn't speak this protocol.
        """
        for left in range(max(1, retries) - 1, -1, -1):
            try:
                socket = await self._open()
                break
            except GridkitError as error:
                if not left or _is_final(error):
                    raise
            await asyncio.sleep(delay)
        self._task = asyncio.create_task(self._keep_linked(socket))

    def give_up(self, reason: GridkitError) -> None:
        """End the session here: `over` is told, and the link goes."""
        self._end(reason)
        if self._task is not None:
            self._task.cancel()

    async def close(self, reason: GridkitError) -> None:
        """End the session, here and on the node. Idempotent."""
        if self.ended is None:
            self.ended = reason
            self._waiting.clear()
        task, self._task = self._task, None
        if task is not None:
            await asyncio.sleep(0)  # it has had its first step, else it couldn't end the link
            task.cancel()
            await asyncio.wait([task])

    async def _keep_linked(self, socket: RpcSocket) -> None:
        idle = 0  # links in a row over which nothing came
        try:
            while True:
                idle = 0 if await self._use(socket) else idle + 1
                again = await self._open_again(idle)
                if again is None:
                    return
                socket = again
        except Exception as error:
            self._end(GridkitError(f"the session with {self._link.url} ended by a mistake of gridkit's own: {error!r}"))
            raise
        finally:
            if self._ack is not None:
                self._ack.cancel()

    async def _open_again(self, idle: int) -> RpcSocket | None:
        """The next link; None: the session has ended. The first try is made at once, unless the last links were in
        vain."""
        clock = asyncio.get_running_loop().time
        since = clock()
        for attempt in itertools.count(idle):
            if attempt:
                pause = min(LONGEST_PAUSE, 0.02 * 2 ** min(attempt, 10), max(0.0, since + self._patience - clock()))
                await asyncio.sleep(random.uniform(0.5, 1.0) * pause)
            if self.ended is not None:
                return None
            try:
                return await self._open()
            except GridkitError as error:
                if _is_final(error) or clock() - since >= self._patience:
                    self._end(error)
                    return None
        raise AssertionError("unreachable")

    def _end(self, error: GridkitError) -> None:
        if self.ended is None:
            self.ended = error
            self._waiting.clear()
            self._over(error)

    async def _open(self) -> RpcSocket:
        """A WebSocket on which both ends have said how far they are."""
        from websockets.asyncio.client import connect
        from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
        from websockets.typing import Subprotocol

        from gridkit.client.rpc_socket import RpcSocket

        try:
            async with asyncio.timeout(OPEN_SECONDS):
                socket = await connect(
                    self._url,
                    ssl=self._link.tls,
                    additional_headers=self._link.credentials,
                    subprotocols=[Subprotocol(Profile.V1)],
                    compression=None,
                    proxy=None,
                    open_timeout=None,
                    close_timeout=1.0,
                    ping_interval=PING_SECONDS,
                    ping_timeout=PING_SECONDS,
                    max_size=self._window.bytes + JOINED,
                    create_connection=RpcSocket,
                )
                assert isinstance(socket, RpcSocket)
                try:
                    await self._greet(socket)
                except BaseException:
                    socket.transport.abort()
                    raise
        except InvalidStatus as error:
            raise self._refused(error.response) from None
        except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed) as error:
            raise self._link.unreachable(error) from None
        return socket

    def _refused(self, answer: Response) -> NodeError:
        if answer.status_code not in (401, 403):
            return error_of(answer.status_code, answer.reason_phrase, bytes(answer.body or b""))
        return AccessError(
            f"the node at {self._link.url} refuses the session ({answer.status_code})",
            "client.connect(api_key=…), before a with block too; or set GRIDKIT_TOKEN",
            code=ErrorCode.UNAUTHENTICATED,
            status=answer.status_code,
        )

    async def _greet(self, socket: RpcSocket) -> None:
        if socket.subprotocol != str(Profile.V1):
            raise NodeError(
                f"what answers at {self._url} doesn't speak {Profile.V1}", "is it a node of this version?", status=501
            )
        await socket.send(pack(self._caller.hello()))
        self._caller.answered(parse(await socket.first()))

    async def _use(self, socket: RpcSocket) -> bool:
        """Read and write a link until it breaks. Whether anything new came."""
        channel, number = self._caller.channel, self._caller.link
        assert channel is not None

        def take(data: str | bytes) -> None:
            if isinstance(data, str):
                raise WireError("a text came after the handshake; frames are binary")
            for frame in channel.receive(data, number):
                self._take(frame)
            if self._waiting:
                self._fill()

        writer = asyncio.create_task(self._write(socket, channel))
        self._fill()
        before = channel.position.taken
        try:
            await socket.read(take)
            broken = socket.close_code == BROKEN
        except WireError as error:
            broken = True
            await socket.close(BROKEN, error.message[:100])
        finally:
            channel.dropped(number)
            writer.cancel()
            await asyncio.wait([writer])
            if self.ended is not None:
                await socket.close()
            socket.transport.abort()
        came = channel.position.taken > before
        self._broken = int(broken) if came else self._broken + broken
        if self._broken >= MAX_BROKEN:
            self._end(WireError(f"this end and the node at {self._link.url} disagree about what was said"))
        return came

    async def _write(self, socket: RpcSocket, channel: Channel) -> None:
        from websockets.exceptions import ConnectionClosed

        clock = asyncio.get_running_loop().time
        try:
            while True:
                while (frame := channel.outgoing(clock())) is not None:
                    await socket.send(frame)
                self._idle = socket
                self._kicked.clear()
                await self._kicked.wait()
        except ConnectionClosed:
            return  # as the reader sees too
        finally:
            self._idle = self._soon = None


def fresh(error: GridkitError) -> GridkitError:
    """The same error once more: one object raised to several callers would gather all their tracebacks."""
    return failures.error_of(failures.failure_of(error, None))


def _is_final(error: GridkitError) -> bool:
    """Whether another try would end so too."""
    if isinstance(error, NodeUnreachable):
        return False
    return not (isinstance(error, NodeError) and error.status in _PASSING_STATUS)
