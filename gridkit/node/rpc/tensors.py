"""The tensors of one session: they live in a process of their own, which is asked one thing after the other.

::

    a method ──▶ ask (in order) ──▶ what waits ──▶ the process ──▶ what it tells, then its answer
                                                                   (to the client)  (to the method's coroutine)

What is asked is handed to the process ahead of its turn, so that it never waits for the node. When the client doesn't
take what it is told, no more is read from the process, which then waits in the middle of what it does.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gridkit.errors import ErrorCode, GridkitError, LimitError, NodeError, PlanError, PrivacyError
from gridkit.node.child import Child, Lost
from gridkit.node.rpc.runners import Runners
from gridkit.node.rpc.session import Session
from gridkit.node.rpc.works import Work
from gridkit.wire.frames import cut
from gridkit.wire.rpc.messages import Notification
from gridkit.wire.rpc.values import Body

AHEAD, AHEAD_BYTES = 64, 16 << 20
"""requests that the process has before it has answered, and bytes of them"""
CROWD = 400
"""requests that wait: then the client is asked to wait, too"""
GRACE = 2.0
"""seconds beyond `run_seconds`, in which a backward pass ends by itself"""
IDLE_SECONDS = 60.0
"""after which a process in which nothing is left is ended"""

PLACES_SECONDS = 0.5
"""from one count of what waits to the next"""

Events = list[Notification]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the process said.

    Attributes:
        result: the method's, as `gridkit.v1` has it.
        bodies: the result's.
        names: the variables that a pass or a step changed.
    """

    result: Any
    bodies: Sequence[Body]
    names: list[str]


Closing = Callable[[GridkitError | None, list[str]], Events]
"""What is told when a request is over, ahead of its reply: by its error, and the variables that it changed, or was to
change."""


class Telling(Protocol):
    """How a profile says what the process tells."""

    preview: int
    """tensors of at most so many elements are told with their values"""

    async def tell(self, events: Events, bodies: Sequence[Body]) -> None: ...

    def pass_by(self, event: Notification) -> None: ...

    def lost(self, reason: GridkitError) -> Events:
        """What to say when the process ended, with all that it had."""


@dataclass(slots=True, eq=False)
class _Request:
    number: int
    text: bytes
    bodies: Sequence[Body]
    work: Work
    closing: Closing | None
    answer: asyncio.Future[Answer]
    untold: GridkitError | None = None
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = len(self.text) + sum(map(len, self.bodies))

    def closed(self, outcome: Answer | GridkitError, names: list[str]) -> Events:
        if self.closing is None:
            return []
        return self.closing(outcome if isinstance(outcome, GridkitError) else None, names)


class Tensors:
    """All of one session. Nothing is started before the first is asked for.

    Args:
        telling: its profile's.
    """

    def __init__(self, session: Session, runners: Runners, telling: Telling) -> None:
        self.telling = telling
        self._session, self._runners = session, runners
        self._child: Child | None = None
        self._waiting: deque[_Request] = deque()
        self._sent: deque[_Request] = deque()
        self._bytes = self._last = 0
        self._count = 0  # of what there is in the process
        self._task: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._loss: GridkitError | None = None
        self._placed = 0.0
        session.on_close.append(self._close)

    @property
    def pid(self) -> int | None:
        """The process's; None: there is none."""
        return None if self._child is None else self._child.pid

    @property
    def owner(self) -> str:
        """The account whose session it is."""
        return self._session.principal.name

    @property
    def spare(self) -> bool:
        """Whether nothing is in the process, and nothing is asked of it."""
        return self._child is not None and self._task is None and not self._count

    @property
    def left(self) -> float | None:
        """Since when (the loop's time) the client is away, and nothing is computed; None: one of the two isn't so."""
        return None if self._task is not None else self._session.left

    @property
    def crowded(self) -> bool:
        """Whether so much waits that no more should be asked. It gets less by itself: the process waits for nothing
        that the client has to say."""
        return len(self._waiting) >= min(CROWD, self._runners.limits.rpc_requests // 2)

    # ---- asking

    def ask(
        self,
        method: str,
        params: dict[str, Any],
        bodies: Sequence[Body],
        work: Work,
        closing: Closing | None = None,
    ) -> asyncio.Future[Answer]:
        """Ask after all that was asked before; `outcome` waits for it.

        Args:
            method, params, bodies: as `gridkit.v1` has them.
            work: what it is for; its progress tells where it is.

        Raises:
            LimitError: `BUSY`: too much waits.
        """
        text = json.dumps({"method": method, "params": params}, separators=(",", ":")).encode()
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        request = _Request(self._last + 1, text, bodies, work, closing, answer)
        if self._bytes + request.size > self._runners.limits.run_inputs:
            raise LimitError(
                f"{self._bytes:,} bytes wait to be computed with in this session",
                "wait for answers before you ask for more",
                code=ErrorCode.BUSY,
                status=429,
            )
        self._last += 1
        self._bytes += request.size
        work.progress.update(phase="waiting", ahead=len(self._waiting) + len(self._sent))
        self._waiting.append(request)
        if self._task is None:
            self._begin()
        return answer

    async def outcome(self, answer: asyncio.Future[Answer]) -> Answer:
        """What comes of it. When the work for it is cancelled the process is told so, and has the last word: it may
        be done already.

        Raises:
            PlanError: what the process refused, or that it was cancelled.
            NodeError: the process ended, or couldn't be started.
        """
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._session.closed is not None or task is None:
                raise
            task.uncancel()
            await self._cancel(answer)
            return await asyncio.shield(answer)

    async def _cancel(self, answer: asyncio.Future[Answer]) -> None:
        for request in self._waiting:
            if request.answer is answer:
                self._waiting.remove(request)
                self._session.ease()
                await self._finish(request, PlanError("the request was cancelled", code=ErrorCode.CANCELLED))
                return
        request_or_none = next((each for each in self._sent if each.answer is answer), None)
        if request_or_none is not None and self._child is not None:
            self._child.note({"cancel": request_or_none.number})

    # ---- serving

    def _begin(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        self._task = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        try:
            while self._waiting or self._sent:
                await self._exchange()
        except Exception as error:  # it is the node's own mistake; nobody may wait for ever
            logging.getLogger("gridkit.node").error("the node failed", exc_info=error)
            await self._lose(NodeError("the node failed; its log says why", code=ErrorCode.INTERNAL))
        finally:
            self._task = None
            if self._waiting and self._session.closed is None:
                self._begin()  # they came while the others were told that all is lost
            elif self._child is not None and not self._count:
                self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._retire_if_spare)

    def _tell_places(self) -> None:
        """What waits knows how much is ahead of it; now and then, as it is only asked for now and then."""
        now = asyncio.get_running_loop().time()
        if now >= self._placed + PLACES_SECONDS:
            self._placed = now
            for place, request in enumerate((*self._sent, *self._waiting)):
                request.work.progress["ahead"] = place

    async def _exchange(self) -> None:
        """Hand over what may be handed over, and take one request's answer."""
        if self._child is None:
            try:
                self._child = await self._runners.start(self, self.telling.preview)
            except GridkitError as error:
                while self._waiting:
                    await self._finish(self._waiting.popleft(), error)
                self._session.ease()
                return
        seconds = self._runners.limits.run_seconds
        try:
            async with asyncio.timeout(seconds + GRACE):
                await self._hand_over(self._child)
            if self._sent:
                self._tell_places()
                self._sent[0].work.progress.update(phase="running", ahead=0)
                await self._take(self._child, seconds + GRACE)
        except TimeoutError:
            hint = "give it fewer samples at a time, or start the node with a larger --limit run_seconds=…"
            text = f"the computation took longer than {seconds:g} s"
            await self._lose(NodeError(text, hint, code=ErrorCode.TIMED_OUT, status=504))
        except Lost as error:
            hint = "the node's log says more"
            await self._lose(NodeError(f"the computation's process ended: {error}", hint, code=ErrorCode.RUN_FAILED))

    async def _hand_over(self, child: Child) -> None:
        size = sum(request.size for request in self._sent)
        while self._waiting and len(self._sent) < AHEAD and size < AHEAD_BYTES:
            crowded, request = self.crowded, self._waiting.popleft()
            self._sent.append(request)
            if crowded and not self.crowded:
                asyncio.get_running_loop().call_soon(self._session.ease)
            size += request.size
            parts = [request.text, *map(bytes, request.bodies)]
            await child.say({"number": request.number, "sizes": [len(part) for part in parts]}, parts)

    async def _take(self, child: Child, seconds: float) -> None:
        """What the process tells, up to the answer of the request whose turn it is."""
        request = self._sent[0]
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            async with asyncio.timeout(seconds):
                header, body = await child.hear()
            seconds -= loop.time() - begun  # what the client takes its time for doesn't count
            said, told, bodies = _read(header, body)
            progress = request.work.progress
            if said["total"]:
                progress.update(done=progress.get("done", 0) + len(said["fired"]), total=said["total"])
            for params in said["fired"]:
                self.telling.pass_by(Notification("node_fired", params))
            events = [Notification(event["method"], event["params"]) for event in said["events"]]
            if "answer" in said:
                break
            request.untold = await self._say(events, told) or request.untold
        if said["answer"] != request.number:
            raise Lost("its answer is to another question")
        self._count = said["count"]
        self._sent.popleft()
        outcome: Answer | GridkitError
        outcome = self._error_of(said["error"]) if "error" in said else Answer(said["result"], bodies, said["names"])
        await self._finish(request, outcome, said["names"], events, told)

    def _error_of(self, error: dict[str, Any]) -> PlanError:
        code, hint = ErrorCode(error["code"]), error["hint"]
        if code is ErrorCode.NOT_FOUND and self._loss is not None:
            hint = f"what was there before is lost: {self._loss.message}"
        kind = PrivacyError if code is ErrorCode.PRIVATE else PlanError
        return kind(error["message"], hint, code=code)

    async def _finish(
        self,
        request: _Request,
        outcome: Answer | GridkitError,
        names: list[str] | None = None,
        events: Events | None = None,
        told: Sequence[Body] = (),
    ) -> None:
        """Tell the last of it, then give whoever waits the outcome."""
        self._bytes -= request.size
        outcome = request.untold or outcome
        refused = await self._say([*(events or []), *request.closed(outcome, names or [])], told)
        if refused is not None:
            outcome = refused
            await self._say(request.closed(outcome, names or []), ())
        if request.answer.done():
            return
        if isinstance(outcome, GridkitError):
            request.answer.set_exception(outcome)
            request.answer.exception()  # nobody may wait for it any more
        else:
            request.answer.set_result(outcome)

    async def _say(self, events: Events, bodies: Sequence[Body]) -> GridkitError | None:
        """Tell the client; why that can't be done, such as that it is too large."""
        if events and self._session.closed is None:
            try:
                await self.telling.tell(events, bodies)
            except GridkitError as error:
                return error
        return None

    # ---- the end of a process

    async def _lose(self, reason: NodeError) -> None:
        """The process is gone, or must go. What waits was asked for in the belief that all is there: it fails too."""
        self._loss = reason
        await self._end()
        failed = [*self._sent, *self._waiting]
        self._sent.clear()
        self._waiting.clear()
        self._session.ease()
        await self._say(self.telling.lost(reason), ())
        for request in failed:
            await self._finish(request, reason)

    def _retire_if_spare(self) -> None:
        if self.spare:
            self._runners.run(self.retire())

    async def retire(self) -> None:
        """Give the process back. If there is something in it, that is lost, and will be said."""
        if self._count:
            text = "another session needed the process while this one's client was away"
            self._loss = NodeError(text, "begin anew", code=ErrorCode.RUN_FAILED)
            self._runners.run(self._tell_loss(self.telling.lost(self._loss)))
        await self._end()

    async def _tell_loss(self, events: Events) -> None:
        await self._say(events, ())

    async def _end(self) -> None:
        child, self._child = self._child, None
        self._count = 0
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if child is not None:
            self._runners.ended(self)
            await child.end()

    def _close(self) -> None:
        """The session has ended."""
        self._runners.run(self._closed())

    async def _closed(self) -> None:
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._end()
        reason = self._session.closed or NodeError("the session ended", code=ErrorCode.SESSION_LOST)
        for request in (*self._sent, *self._waiting):
            if not request.answer.done():
                request.answer.set_exception(reason)
                request.answer.exception()
        self._sent.clear()
        self._waiting.clear()


def _read(header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], list[Body], list[Body]]:
    """What a frame says; the bodies of what it tells, and those of the result."""
    try:
        text, *bodies = cut(body, header["sizes"])
        return json.loads(text), list(bodies[: header["told"]]), list(bodies[header["told"] :])
    except (GridkitError, ValueError, KeyError, TypeError) as error:
        raise Lost(f"what it says can't be read: {error}") from None
