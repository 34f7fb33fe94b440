"""What a node says in one session, applied in order: handlers are run, requests answered, calls resolved."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

from gridkit.client.rpc_audit import own_lines
from gridkit.client.rpc_callables import Callables
from gridkit.client.rpc_session import RpcSession
from gridkit.errors import ErrorCode, GridkitError, LimitError, RunError, UsageError
from gridkit.wire.rpc.failures import failure_of, failure_of_function
from gridkit.wire.rpc.frames import Frame
from gridkit.wire.rpc.messages import (
    Failure,
    Id,
    InvalidMessage,
    Message,
    Notification,
    Reply,
    Request,
    RpcCode,
    pack,
    parse,
    unbatched,
)
from gridkit.wire.rpc.schemas import Direction, checked
from gridkit.wire.rpc.values import Body, encode

BEAT_SECONDS = 1.0
"""between two heartbeats for a function that runs"""
MAX_UNHEARD = 10_000
"""answers for which the node has no room, above which it is given up: it asks and doesn't listen"""
MAX_BEHIND = 2000
"""messages that are to be applied, above which what is passing is dropped"""
_LOG = logging.getLogger("gridkit.rpc")

Arrived = tuple[int, Sequence[Message] | InvalidMessage, Sequence[Body]]
"""a frame's number, what it says, or what is wrong with it, and its bodies"""


class Owner(Protocol):
    """For whom messages are applied."""

    def _heard(self, id: Id) -> None:
        """A sign of life for a call."""

    def _waiting(self) -> int:
        """Calls that aren't answered."""

    def _answered(self, message: Reply | Failure, bodies: Sequence[Body]) -> None:
        """A call's outcome."""

    async def _handle(self, method: str, params: dict[str, Any]) -> Any:
        """What the node asks for."""

    def _fail_all(self, error: GridkitError) -> None:
        """The session has ended so."""


class Applier:
    """One session's.

    Args:
        callables: those that run are told of to the node, so that it goes on waiting for them.
    """

    def __init__(self, owner: Owner, callables: Callables) -> None:
        self._owner, self._callables = owner, callables
        self._session: RpcSession | None = None
        self._inbox: deque[Arrived | GridkitError] = deque()
        self._came = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._at_rest = False  # nothing is to be applied, or being applied
        self._answering: set[asyncio.Task[None]] = set()
        self._beating: asyncio.Task[None] | None = None

    def start(self, session: RpcSession) -> None:
        """From now on `take` is called."""
        self._session = session
        self._task = asyncio.create_task(self._apply(session))

    @property
    def is_running(self) -> bool:
        """Whether the caller's code is a handler of the node's messages."""
        return self._task is not None and asyncio.current_task() is self._task

    def close(self) -> None:
        """Apply nothing more."""
        for task in (self._task, self._beating, *self._answering):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        self._inbox.clear()
        self._session = None

    async def wait(self) -> None:
        """Until all of a session that has ended is applied, its end too."""
        if self._task is not None:
            await asyncio.wait([self._task])

    # ---- the reader's side

    def take(self, frame: Frame) -> None:
        """What came. Never blocks."""
        session = self._session
        if session is None:
            return
        room = frame.seq > 0 or len(self._inbox) < MAX_BEHIND
        try:
            messages = unbatched(parse(frame.text))
        except InvalidMessage as error:
            if room:
                self._arrive((frame.seq, error, ()))
            return
        for message in messages:
            if isinstance(message, Notification) and message.method == "heartbeat":
                id = message.params.get("id")
                if isinstance(id, int | str):
                    self._owner._heard(id)
        first = messages[0] if messages else None
        if isinstance(first, Reply | Failure) and frame.seq and self._at_rest and not self._inbox:
            self._owner._answered(first, frame.bodies)  # nothing else waits: it needs no turn of its own
            session.done(frame.seq)
        elif room:
            self._arrive((frame.seq, messages, frame.bodies))

    def end(self, error: GridkitError) -> None:
        """The session has ended; said after all that came before."""
        self._arrive(error)

    def _arrive(self, item: Arrived | GridkitError) -> None:
        self._inbox.append(item)
        self._came.set()

    # ---- in order

    async def _apply(self, session: RpcSession) -> None:
        while self._session is session:
            while self._inbox:
                item = self._inbox.popleft()
                if isinstance(item, GridkitError):
                    self._owner._fail_all(item)
                    return
                if session.waiting > MAX_UNHEARD + self._owner._waiting():
                    session.give_up(LimitError("the node asks and doesn't listen", code=ErrorCode.TOO_MANY, status=429))
                seq, messages, bodies = item
                if isinstance(messages, InvalidMessage):
                    if messages.answer is not None:
                        post(session, messages.answer)
                    _LOG.warning("the node said what it may not say: %s", messages.message)
                else:
                    for message in messages:
                        await self._apply_one(session, message, bodies)
                if seq:
                    session.done(seq)
            self._at_rest = True
            self._came.clear()
            await self._came.wait()
            self._at_rest = False

    async def _apply_one(self, session: RpcSession, message: Message, bodies: Sequence[Body]) -> None:
        match message:
            case Reply() | Failure():
                self._owner._answered(message, bodies)
            case Notification():
                try:
                    await self._handled(message, bodies)
                except Exception as error:  # noqa: BLE001  it is a subclass's; nobody is answered
                    _LOG.warning("'%s' of the node failed here: %s: %s", message.method, type(error).__name__, error)
            case Request(method="run_callable"):
                task = asyncio.create_task(self._answer(session, message, bodies))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
                if self._beating is None or self._beating.done():
                    self._beating = asyncio.create_task(self._beat(session))
            case Request():
                await self._answer(session, message, bodies)

    async def _handled(self, message: Request | Notification, bodies: Sequence[Body]) -> Any:
        params = dict(checked(message, Direction.TO_CLIENT, bodies=bodies))
        if isinstance(message, Request) and message.method == "run_callable":
            params["id"] = message.id
        return await self._owner._handle(message.method, params)

    async def _answer(self, session: RpcSession, request: Request, bodies: Sequence[Body]) -> None:
        out: list[Body] = []
        try:
            result = await self._handled(request, bodies)
            text = _packed(request, result, out)
        except Exception as error:  # noqa: BLE001  the node hears of it
            text, out = pack(_failure(error, request)), []
        try:
            session.say(text, out)
        except GridkitError as error:  # it is too large, or the session has ended
            post(session, failure_of(error, request.id))

    async def _beat(self, session: RpcSession) -> None:
        """Tell the node every second which of its calls are being worked on."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            runs = list(self._callables.runs.values())
            if not runs or session.ended is not None:
                return
            for run in runs:
                if clock() - run.began >= BEAT_SECONDS:
                    session.pass_by(("heartbeat", run.id), pack(Notification("heartbeat", {"id": run.id})))


def post(session: RpcSession, message: Message) -> None:
    """Say this if the session lasts."""
    with suppress(GridkitError):
        session.say(pack(message), [])


def _packed(request: Request, result: Any, bodies: list[Body]) -> str:
    try:
        return pack(Reply(request.id, encode(result, bodies)))
    except UsageError as error:
        raise RunError(
            f"the result of '{request.method}' can't leave the notebook: {error.message}",
            error.hint,
            code=ErrorCode.RUN_FAILED,
        ) from None


def _failure(error: Exception, request: Request) -> Failure:
    if isinstance(error, GridkitError):
        return failure_of(error, request.id)
    if isinstance(error, KeyError) and request.method != "run_callable":  # a subclass's handler missed a member
        key = str(error.args[0]) if error.args else ""
        text = f"Missing key: {key}"
        return Failure(request.id, int(RpcCode.INVALID_PARAMS), text, {"exception": text, "missing_key": key})
    return failure_of_function(error, request.id, own_lines(error))
