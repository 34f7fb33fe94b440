"""Calls that wait for their answers, and how long they do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from gridkit.errors import CallTimeout, GridkitError
from gridkit.wire.rpc.messages import Id

if TYPE_CHECKING:
    from gridkit.client.rpc_callables import Run
    from gridkit.client.rpc_session import Ticket


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the node is with a call, as its heartbeats tell.

    Attributes:
        phase: what it is doing, in its own words; None: it doesn't say.
        done, total: of what it counts.
        ahead: calls that are done before this one.
    """

    phase: str | None = None
    done: int | None = None
    total: int | None = None
    ahead: int | None = None


class Call:
    """A call that is under way. Awaiting it gives its result, or raises its error.

    It ends without an answer only when there was no sign of life for `timeout` seconds: neither the answer nor a
    heartbeat. So a call that takes hours needs no other timeout than one of seconds.

    Args:
        method: of the node.
        timeout: seconds.
        ticket: the request, on its way.
        run: the function of this notebook that makes the call, if one does.
        on_progress: called with each heartbeat. What it raises, the call raises.

    Attributes:
        id: of the request.
        depth: of functions that run because of calls that functions made.
        progress: of the last heartbeat.
        kept: what the node may speak of in its answer, and must be here until that was read.
        raised: what a function of this notebook raised that the node called because of it.
        answered: nothing more will come; else, when the call is over, the node is told to stop.
    """

    def __init__(
        self,
        id: Id,
        method: str,
        timeout: float,
        ticket: Ticket,
        run: Run | None = None,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> None:
        self.id, self.method, self.timeout, self.ticket, self.run = id, method, timeout, ticket, run
        self.depth = 0 if run is None else run.depth
        self.progress: Progress | None = None
        self.answered = False
        self.kept: list[object] = []
        self.raised: Exception | None = None
        self._on_progress = on_progress
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Any] = self._loop.create_future()
        self._alive = self._loop.time()

    def __repr__(self) -> str:
        state = "done" if self.done else "under way" if self.progress is None else f"under way: {self.progress}"
        return f"<Call {self.id} of '{self.method}', {state}>"

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer.__await__()

    @property
    def done(self) -> bool:
        """It has a result, or an error."""
        return self._answer.done()

    @property
    def error(self) -> GridkitError | None:
        """Why it failed; None while it is under way, when it went well, and when nobody waits for it any more."""
        if not self._answer.done() or self._answer.cancelled():
            return None
        error = self._answer.exception()
        return error if error is None or isinstance(error, GridkitError) else GridkitError(f"{self.method}: {error!r}")

    def heard(self) -> None:
        """A sign of life came."""
        self._alive = self._loop.time()

    def tell(self, progress: Progress) -> None:
        """The node is so far."""
        self.progress = progress
        if self._on_progress is not None and not self.done:
            try:
                self._on_progress(progress)
            except Exception as error:  # noqa: BLE001  it is the caller's
                self.fail(error)

    def resolve(self, result: Any) -> None:
        """This is the result."""
        if not self._answer.done():
            self._answer.set_result(result)

    def fail(self, error: Exception) -> None:
        """It ends so."""
        if not self._answer.done():
            self._answer.set_exception(error)

    def when_over(self, then: Callable[[], None]) -> None:
        """Have this called once there is a result or an error, or nobody waits any more."""

        def over(answer: asyncio.Future[Any]) -> None:
            if not answer.cancelled():
                answer.exception()  # seen: a call needn't be awaited
            then()

        self._answer.add_done_callback(over)

    async def sent(self) -> None:
        """Until the request is sure to come to the node, or the call is over. Cancelled, the call is cancelled."""
        sent = self._loop.create_future()
        self.ticket.when_sent(partial(_mark, sent))
        try:
            await asyncio.wait([sent, self._answer], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._answer.cancel()
            raise

    @property
    def due(self) -> float:
        """The time, by the loop's clock, at which it ends if there is no sign of life."""
        return self._alive + self.timeout

    def give_up(self) -> None:
        """There was no sign of life."""
        self.fail(
            CallTimeout(
                f"no answer to '{self.method}', nor any sign that it is worked on, for {self.timeout:g} s",
                "is the node reachable? A longer timeout= waits longer for a sign",
            )
        )


class Vigil:
    """Ends calls that give no sign of life. One timer for all: hardly any call lives to see its own.

    Args:
        calls: those that are under way.
    """

    def __init__(self, calls: Mapping[Id, Call]) -> None:
        self._calls = calls
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, call: Call) -> None:
        """One more is under way."""
        if self._timer is None or call.due < self._timer.when():
            self._set(call.due)

    def _set(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for call in [call for call in self._calls.values() if not call.done and call.due <= now]:
            call.give_up()
        if left := [call.due for call in self._calls.values() if not call.done]:
            self._set(min(left))


def _mark(sent: asyncio.Future[None]) -> None:
    if not sent.done():
        sent.set_result(None)
