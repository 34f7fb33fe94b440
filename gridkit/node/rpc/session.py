"""One client of the node, over all its links: takes what it says in order, answers, and asks it.

::

    Link.read ──▶ feed ──▶ (in order) ──▶ a method ─┬─▶ its result, at once
    (reader)               (applier)                └─▶ a task of its own (worker) ─▶ its result, when it is there
                                       ──▶ an answer to `call`, which a worker waits for

The applier is no task: it runs where a message comes in, and only ever pauses for four reasons: that the client doesn't
take what it is told, that it asks more often than it may, that it asks for more tensors than are computed, and that a
message has so many events that others should have their turn.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gridkit.errors import ErrorCode, GridkitError, LimitError, NodeError, NodeUnreachable
from gridkit.node.rights import Principal
from gridkit.node.rpc.calls import Answer, Calls
from gridkit.node.rpc.line import Incoming, Line
from gridkit.node.rpc.link import BREATH, Link
from gridkit.node.rpc.works import Work, Works
from gridkit.node.settings import Limits
from gridkit.node.watch import Watch
from gridkit.wire.rpc.failures import error_of, failure_of
from gridkit.wire.rpc.messages import (
    Failure,
    Id,
    InvalidMessage,
    Message,
    Notification,
    Params,
    Profile,
    Reply,
    Request,
    batched,
    pack,
    parse,
    unbatched,
)
from gridkit.wire.rpc.schemas import Direction, checked
from gridkit.wire.rpc.values import Body

if TYPE_CHECKING:
    from gridkit.node.rpc.tensors import Tensors

RIGHT = "rpc"
"""the operation that a session is"""
SMALL = 64 * 1024
"""bytes of a message that are counted only afterwards"""
CROWD, WEIGHT = 1000, 16 << 20
"""messages, and bytes of them, that wait to be taken: then no more are read"""


@dataclass(frozen=True, slots=True)
class Result:
    """What a method gives back that is more than a value. `after`: what is told right behind it."""

    value: Any
    bodies: Sequence[Body] = ()
    after: Sequence[Notification] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """A message to the node, as a method gets it.

    Attributes:
        params: checked, and decoded.
        raw: as they came.
        work: what it does, if that takes time.
    """

    session: Session
    params: Any
    raw: Params
    bodies: Sequence[memoryview]
    work: Work


Handler = Callable[[Asked], Any]
"""A plain function's result is the answer. One that gives back a coroutine has taken its turn, and is answered when the
coroutine is done: what it does before is in the order of the messages, what the coroutine does isn't."""


@dataclass(frozen=True, slots=True)
class Method:
    """What answers a method, and the right that it needs (see `rights.RULES`)."""

    handler: Handler
    operation: str = RIGHT


class Session:
    """What a client has on the node.

    Args:
        line: its profile.
        methods: what may be asked.
        weigh: raises LimitError when so much waits in this and the principal's other sessions that no more may.

    Attributes:
        principal: who it is, as the newest link's credential has it.
        id: names it to its client, and to nobody else.
        link: the newest; None: there is none.
        left: when the last one went (the loop's time); None: there is one, or there was none yet.
        on_close: called when the session ends; what lives in it is freed there.
        tensors: those that the client has on the node.
    """

    def __init__(
        self,
        line: Line,
        principal: Principal,
        watch: Watch,
        limits: Limits,
        methods: dict[str, Method],
        weigh: Callable[[], None],
    ) -> None:
        self.line, self.principal = line, principal
        self.id = secrets.token_hex(16)
        self.link: Link | None = None
        self.left: float | None = None
        self.links = 0
        self.closed: GridkitError | None = None
        self.on_close: list[Callable[[], object]] = []
        self.tensors: Tensors
        self._watch, self._methods, self._weigh = watch, methods, weigh
        self._plain = line.profile is Profile.PLAIN
        self._scope: Any = {}
        self._inbox: deque[Incoming] = deque()
        self._weight = 0
        self._applying = False
        self._events: deque[Message] = deque()  # of the message that is being taken
        self._taken: Incoming | None = None  # it
        self._pause: asyncio.Handle | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._turn = asyncio.Lock()
        self._works = Works(limits.rpc_requests, self._beat)
        self._calls = Calls(limits.rpc_idle if self._plain else limits.rpc_silence)  # plain clients send no heartbeats

    # ---- links

    def linked(self, link: Link, principal: Principal) -> Link | None:
        """This link is the one in use from now on, and is written to; the one that was, if there was one."""
        old, self.link, self.left = self.link, link, None
        self.links = link.number
        self.principal, self._scope = principal, link.socket.scope
        self.line.linked(link)
        self._calls.linked()
        if self._plain:
            lost = NodeUnreachable("the link was cut before the client had answered")
            self._calls.fail(lost, link.number)  # that client's answers go to the link that asked, or nowhere
            link.socket.scope["extensions"]["gridkit.patience"](self._is_awaited)
        self._works.beat()
        link.write(self.line, self.ease)
        return old

    def _is_awaited(self) -> bool:
        """Whether the client may be busy with a function of its own, and so not answer pings."""
        return len(self._calls) > 0

    def dropped(self, link: Link) -> bool:
        """A link is gone; whether that was the one in use."""
        if self.link is not link:
            return False
        self.link, self.left = None, asyncio.get_running_loop().time()
        self._calls.up = False
        self.line.dropped(link.number)
        return True

    @property
    def held(self) -> int:
        """Bytes of messages that wait here, either way."""
        return self._weight + self.line.held

    async def close(self, reason: GridkitError) -> None:
        """End it: nothing is answered any more, all that it had is freed."""
        if self.closed is not None:
            return
        self.closed = reason
        self._inbox.clear()
        self._events.clear()
        self._taken, self._weight = None, 0
        if self._pause is not None:
            self._pause.cancel()
        self._calls.fail(reason)
        self.ease()
        await self._works.close()
        for free in self.on_close:
            free()

    # ---- in

    def feed(self, incoming: Incoming) -> bool:
        """What came on the link in use; whether more may come (else `calm` is to be awaited).

        Raises:
            LimitError: more waits than may.
        """
        if self.closed is not None:
            return True
        if incoming.passing:
            if not self._too_often():
                for message in self._messages(incoming)[:BREATH]:  # more are none that may be lost
                    self._handle(message, incoming)
            return True
        if incoming.size > SMALL:
            self._weigh()
        self._inbox.append(incoming)
        self._weight += incoming.size
        self._apply()
        return not self._is_crowded()

    def _is_crowded(self) -> bool:
        """Of the other profile the channel's window is the bound, and to read is never to wait: the acks that make room
        come that way."""
        return self._plain and (len(self._inbox) > CROWD or self._weight > WEIGHT)

    async def calm(self) -> None:
        """Until more may come."""
        while self.closed is None and self._is_crowded():
            await self._news()

    def _apply(self) -> None:
        """Take what waits, in order."""
        if self._applying or self._pause is not None:
            return
        self._applying = True
        try:
            count = 0
            while (self._taken or self._inbox) and not self.line.full and not self.tensors.crowded:
                if count == BREATH:  # one message may have thousands of events
                    self._pause = asyncio.get_running_loop().call_soon(self._go_on)
                    break
                if seconds := self._too_often():
                    self._pause = asyncio.get_running_loop().call_later(seconds, self._go_on)
                    break
                if self._taken is None:
                    self._read(self._inbox.popleft())
                else:
                    self._handle(self._events.popleft(), self._taken)
                    count += 1
                    self._done()
        finally:
            self._applying = False

    def _read(self, incoming: Incoming) -> None:
        """Take it, or its first event."""
        messages = self._messages(incoming)
        if messages:
            self._handle(messages[0], incoming)
        self._events.extend(messages[1:])
        self._taken = incoming
        self._done()

    def _done(self) -> None:
        if not self._events and self._taken is not None:
            taken, self._taken = self._taken, None
            self._weight -= taken.size
            self.line.applied(taken)

    def _too_often(self) -> float:
        """Seconds to wait. What comes in order is only slowed down: the next message may build on it."""
        try:
            self._watch.admit(self.principal, self._scope)
        except LimitError as error:
            return error.retry_after or 0.1
        return 0.0

    def _go_on(self) -> None:
        self._pause = None
        self.ease()

    def ease(self) -> None:
        """Something went on: whoever waits for room looks again."""
        self._apply()
        waiting, self._waiting = self._waiting, []
        for news in waiting:
            if not news.done():
                news.set_result(None)

    async def _news(self) -> None:
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(news)
        await news

    def _messages(self, incoming: Incoming) -> Sequence[Message]:
        try:
            return unbatched(parse(incoming.text, self.line.profile))
        except InvalidMessage as error:
            self._refuse(error, None, "")
            return ()

    def _handle(self, message: Message, incoming: Incoming) -> None:
        if isinstance(message, Reply | Failure):
            self._calls.answered(Answer(message, tuple(incoming.bodies), incoming.size))
            return
        asked = message.id if isinstance(message, Request) else None
        try:
            method = self._methods.get(message.method)
            if method is None:
                text = f"Method '{message.method}' not found."
                raise NodeError(text, code=ErrorCode.UNKNOWN_TYPE, status=404)
            self._watch.access.allow(self.principal, method.operation)
            params = checked(message, Direction.TO_NODE, self.line.profile, incoming.bodies)
            self._works.check(asked)
            work = Work(asked)
            done = method.handler(Asked(self, params, message.params, incoming.bodies, work))
        except GridkitError as error:
            self._refuse(error, asked, message.method)
        except Exception as error:  # noqa: BLE001  it is this method's; the log says why
            self._refuse(_failed(error), asked, message.method)
        else:
            if isinstance(done, Coroutine):
                self._works.begin(work, self._work(asked, message.method, done))
            elif asked is not None:
                self._answer(asked, done)

    async def _work(self, asked: Id | None, method: str, doing: Coroutine[Any, Any, Any]) -> None:
        try:
            done = await doing
            await self.room()
        except asyncio.CancelledError:
            if self.closed is not None:
                raise
            cancelled = NodeError(f"'{method}' was cancelled", code=ErrorCode.CANCELLED, status=499)
            self._refuse(cancelled, asked, method)
        except GridkitError as error:
            self._refuse(error, asked, method)
        except Exception as error:  # noqa: BLE001  as above
            self._refuse(_failed(error), asked, method)
        else:
            if asked is not None:
                self._answer(asked, done)

    def note(self, error: GridkitError) -> None:
        """Something was refused that isn't answered: into the audit log."""
        self._watch.refused(self.principal, self._scope, RIGHT, "", error)

    def done(self, operation: str, subject: str) -> None:
        """An operation went well: into the audit log, if it changes something."""
        self._watch.done(self.principal, self._scope, operation, subject)

    def _refuse(self, error: GridkitError, asked: Id | None, method: str) -> None:
        """Note it, and answer it if it is a request's, or of a text that couldn't be read."""
        told = self._watch.refused(self.principal, self._scope, RIGHT, method, error)
        if isinstance(error, InvalidMessage):
            if error.answer is not None:
                self._put(error.answer)
        elif asked is not None:
            self._put(failure_of(told, asked, method=method))

    def _answer(self, asked: Id, done: Any) -> None:
        result = done if isinstance(done, Result) else Result(done)
        try:
            self._put(Reply(asked, result.value), result.bodies)
        except GridkitError as error:  # it is too large, or has no form
            self._put(failure_of(error, asked))
        for event in result.after:
            self._put(event)

    # ---- out

    def _put(self, message: Message, bodies: Sequence[Body] = ()) -> None:
        if self.closed is not None:
            return
        text = pack(message, self.line.profile)
        if bodies or len(text) > SMALL:
            self._weigh()
        self.line.put(text, bodies, answer=isinstance(message, Reply | Failure))
        if self.link is not None:
            self.link.poke()

    async def room(self) -> None:
        """Until the client takes more. Whoever makes what it is told waits here, before making it.

        Raises:
            GridkitError: the session ended.
        """
        async with self._turn:  # who comes later has something to say that comes later
            while self.line.full and self.closed is None:
                await self._news()
        if self.closed is not None:
            raise self.closed

    async def tell(self, events: Sequence[Notification], bodies: Sequence[Body] = ()) -> None:
        """Notifications, in order, in one frame where the profile has that.

        Raises:
            GridkitError: the session ended, or that is too large.
        """
        await self.room()
        if self._plain or len(events) == 1:
            for event in events:
                self._put(event, bodies)
        else:
            self._put(batched(events), bodies)

    async def ask(
        self,
        method: str,
        params: Params,
        bodies: Sequence[Body] = (),
        *,
        at_once: Callable[[Answer], object] | None = None,
    ) -> Answer:
        """Ask the client, and wait for what it says: as long as it gives signs of life, over any number of links.

        Args:
            at_once: gets the answer before the client's next message is taken.

        Raises:
            NodeError: `TIMED_OUT`: it gave none.
            GridkitError: the session ended; of a plain client also that its link did.
        """
        await self.room()
        asked, call = self._calls.begin(method, self.links + (self.link is None), at_once)
        try:
            self._put(Request(method, params, asked), bodies)
            return await call.answer
        except (asyncio.CancelledError, NodeError):
            if not self._plain:
                self._put(Notification("cancel", {"id": asked}))
            raise
        finally:
            self._calls.ended(asked)

    async def call(self, method: str, params: Params, bodies: Sequence[Body] = ()) -> Answer:
        """As `ask`; a failure that the client answers is raised.

        Raises:
            GridkitError: also what the client's function raised, as an error that names its type.
        """
        answer = await self.ask(method, params, bodies)
        if isinstance(answer.message, Failure):
            raise error_of(answer.message)
        return answer

    def _beat(self, work: Work) -> None:
        progress = {} if self._plain else work.progress
        self.pass_by(("heartbeat", work.id), Notification("heartbeat", {"id": work.id, **progress}))

    def pass_by(self, key: Hashable, event: Notification) -> None:
        """Tell this if the client has time for it before the next of the same key comes: it may be lost."""
        if self.link is not None and self.closed is None:
            self.line.pass_by(key, pack(event, self.line.profile))
            self.link.poke()

    # ---- what the client says of requests

    def heard(self, asked: Id) -> None:
        """The client works on a request of the node."""
        self._calls.beat(asked)

    def cancel(self, asked: Id) -> None:
        """The client doesn't want one of its requests done any more."""
        self._works.cancel(asked)


def _failed(error: Exception) -> NodeError:
    logging.getLogger("gridkit.node").error("the node failed", exc_info=error)
    return NodeError("the node failed; its log says why", code=ErrorCode.INTERNAL)
