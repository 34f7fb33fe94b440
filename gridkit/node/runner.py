"""What a node computes, in child processes: inference of hosted models, and plans on its datasets.

Requests wait in lines, one a model; each line is served by one child at a time. What has come together in a line while
the child was busy is handed over in one frame, but computed one by one, so nobody's result depends on who else asked.
A child that dies or takes too long is replaced. What it held is tried once more, each request on its own, so that only
the one that was the reason fails.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, BinaryIO, cast

from gridkit.errors import ErrorCode, GridkitError, LimitError, NodeError
from gridkit.node.child import Child, Lost, own_file
from gridkit.node.settings import MIB, Limits
from gridkit.wire.frames import cut

PROCESSES = 2
"""children; all but one of them may be busy with plans, which can take long"""
GROUP = 64
"""requests that are handed over together at most"""
GROUP_BYTES = 16 * MIB
PATIENCE = 0.3
"""seconds that a request waits for a busy child before another one is started"""
TURNS = 2
"""a request waits for so many computations of the longest kind, and is turned away then"""
IDLE_SECONDS = 600.0
"""a child that nobody needed for so long is ended: it holds memory"""

_STATUS = {
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.OUT_OF_MEMORY: 507,
    ErrorCode.RUN_FAILED: 500,
}


@dataclass(slots=True, eq=False)
class _Request:
    """Somebody who waits. `digest` is None for a plan, whose bytes are `data`; `told` is whether it is told on what."""

    digest: str | None
    data: bytes
    open: Callable[[], BinaryIO]
    answer: asyncio.Future[bytes]
    told: bool = False
    since: float = field(default_factory=time.monotonic)
    alone: bool = False

    def opened(self) -> IO[bytes]:
        """A file for the child, to be closed here."""
        file = self.open()
        try:
            return own_file(file)
        finally:
            if self.digest is not None:  # data is closed by whoever gave it
                file.close()


@dataclass(slots=True, eq=False)
class _Lane:
    """A place for a child, and what it did last."""

    child: Child | None = None
    busy: bool = False
    last: object = None
    idle: asyncio.TimerHandle | None = None


class Runner:
    """The node's computations. Nothing is started before the first one.

    Args:
        limits: the members that begin with ``run_``; an attribute too.

    Example:
        >>> runner = Runner(Limits())                                                       # doctest: +SKIP
        >>> result = await runner.infer(digest, lambda: blobs.open(digest), inputs)         # doctest: +SKIP
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._lanes = [_Lane() for _ in range(PROCESSES)]
        self._lines: dict[object, deque[_Request]] = {}  # by model; a plan has a line of its own
        self._served: set[object] = set()
        self._waiting = 0
        self._bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """Process ids of the children that run."""
        return [lane.child.pid for lane in self._lanes if lane.child is not None]

    async def infer(self, digest: str, open_model: Callable[[], BinaryIO], inputs: bytes) -> bytes:
        """The results of a model.

        Args:
            digest: SHA-256 of the model's bytes, by which a child remembers it.
            open_model: opens those bytes (GKM1); called in a thread, when a child hasn't loaded them yet.
            inputs: safetensors with the keys "0", "1", …: the model's arguments in order.

        Returns:
            Safetensors with the keys "0", "1", …: the results in order.

        Raises:
            NodeError: `BAD_INPUT`, `MALFORMED`, `UNSAFE_FORMAT` or `BAD_PLAN` (400): what is wrong; `TIMED_OUT`
                (504); `RUN_FAILED` (500): the child died of it; `BUSY` (503): too many wait, it waited too long, or
                no child can be started.
            LimitError: `TOO_LARGE` (413): inputs or results; `OUT_OF_MEMORY` (507).
        """
        return await self._ask(digest, digest, inputs, open_model)

    async def run_plan(self, plan: bytes, data: IO[bytes], *, told: bool = False) -> bytes:
        """The results of a plan on data that its sender may not see: errors in the run don't tell of the data.

        Args:
            plan: GKP1 bytes; its inputs have role "arg" (or "uniform": drawn anew), its outputs "result".
            data: safetensors with the keys "0", "1", …: its arguments in order. The caller closes it.
            told: its sender may see the data, so errors may say at which operation it failed, and why.

        Returns, Raises:
            As `infer`.
        """
        return await self._ask(object(), None, plan, lambda: cast(BinaryIO, data), told)

    async def close(self) -> None:
        """End the children; whoever waits gets `BUSY`."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for line in self._lines.values():
            for request in line:
                _fail(request, _busy("the node is being stopped"))
        self._lines.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for lane in self._lanes:
            if lane.idle is not None:
                lane.idle.cancel()
            await self._end(lane)

    # -- waiting

    async def _ask(
        self, line: object, digest: str | None, data: bytes, open: Callable[[], BinaryIO], told: bool = False
    ) -> bytes:
        limits = self.limits
        if len(data) > limits.run_inputs:
            raise LimitError(
                f"the inputs are larger than {limits.run_inputs} bytes", code=ErrorCode.TOO_LARGE, status=413
            )
        if self._closed or self._waiting >= limits.run_waiting or self._bytes + len(data) > limits.run_inputs:
            raise _busy("too many computations wait on this node")
        request = _Request(digest, data, open, asyncio.get_running_loop().create_future(), told)
        self._waiting += 1
        self._bytes += len(data)
        self._lines.setdefault(line, deque()).append(request)
        self._dispatch()
        try:
            return await request.answer
        finally:
            self._waiting -= 1
            self._bytes -= len(data)

    def _dispatch(self) -> None:
        """Give every line that may go on a lane, the one that waits for longest first."""
        self._timer = None
        for line in list(self._lines):
            if line in self._served:
                continue
            lane = self._lane(line)
            if lane is not None:
                self._served.add(line)
                lane.busy = True
                task = asyncio.get_running_loop().create_task(self._serve(lane, line))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _lane(self, line: object) -> _Lane | None:
        free = [lane for lane in self._lanes if not lane.busy]
        is_plan = not isinstance(line, str)
        if not free or (is_plan and sum(not isinstance(served, str) for served in self._served) >= PROCESSES - 1):
            return None
        best = min(free, key=lambda lane: (lane.child is None, lane.last != line))
        if best.child is None and len(free) < PROCESSES:
            rest = self._lines[line][0].since + PATIENCE - time.monotonic()
            if rest > 0:  # the others may be done before a new child has torch
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(rest, self._dispatch)
                return None
        return best

    def _group(self, line: object) -> list[_Request]:
        """The next requests of a line that are handed over together."""
        waiting, size = self._lines[line], 0
        group: list[_Request] = []
        oldest = time.monotonic() - TURNS * self.limits.run_seconds
        while waiting and len(group) < GROUP and size < GROUP_BYTES:
            if waiting[0].alone and group:
                break
            request = waiting.popleft()
            if request.since < oldest and not request.alone:
                _fail(request, _busy("the computation waited too long for its turn"))
            elif not request.answer.done():  # else whoever asked has gone
                group.append(request)
                size += len(request.data)
                if request.alone:
                    break
        if not waiting:
            del self._lines[line]
        return group

    # -- serving

    async def _serve(self, lane: _Lane, line: object) -> None:
        group = self._group(line)
        if lane.idle is not None:
            lane.idle.cancel()
        try:
            if group:
                lane.last = line
                await self._compute(lane, line, group)
        finally:
            left = self._lines.get(line, deque())
            for request in group:
                if not request.answer.done() and request not in left:
                    _fail(request, _failed("the computation was broken off"))
            lane.busy = False
            self._served.discard(line)
            if left:  # to the end, so that other lines have their turn
                self._lines[line] = self._lines.pop(line)
            lane.idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._retire, lane)
            self._dispatch()

    async def _compute(self, lane: _Lane, line: object, group: list[_Request]) -> None:
        """Have the group computed, or failed, or put back to be tried one by one."""
        if lane.child is None:
            try:
                lane.child = await Child.start(self.limits)
            except (Lost, TimeoutError) as error:
                for request in group:
                    _fail(request, _busy(f"no runner could be started: {error}"))
                return
        reason: NodeError
        try:
            await self._converse(lane.child, group)
            return
        except TimeoutError:
            reason = _timed_out(self.limits.run_seconds)
        except Lost:
            reason = _failed("the computation ended its process")
        except BaseException:
            await self._end(lane)
            raise
        await self._end(lane)
        open = [request for request in group if not request.answer.done()]
        if len(open) == 1 and (open[0].alone or reason.code is ErrorCode.TIMED_OUT):
            _fail(open[0], reason)
            return
        for request in reversed(open):
            request.alone = True
            self._lines.setdefault(line, deque()).appendleft(request)

    async def _converse(self, child: Child, group: list[_Request]) -> None:
        """Hand the group over and take the answers, each within the time of one computation."""
        sizes = [len(request.data) for request in group]
        parts = [request.data for request in group]
        digest = group[0].digest
        if digest is None:
            if not await self._give(child, group):
                return
            await child.say({"do": "plan", "sizes": sizes, "told": group[0].told}, parts)
        else:
            await child.say({"do": "infer", "digest": digest, "sizes": sizes}, parts)
        answered = 0
        while answered < len(group):
            async with asyncio.timeout(self.limits.run_seconds):
                header, body = await child.hear()
            if "need" not in header:
                answered += _answer(group[answered:], header, body)
            elif not await self._give(child, group):
                child.hand(None)
                return

    async def _give(self, child: Child, group: list[_Request]) -> bool:
        """Give the child the model's file, or the data; when that can't be opened, everybody is told why."""
        try:
            file = await asyncio.to_thread(group[0].opened)
        except (OSError, GridkitError) as error:
            for request in group:
                _fail(request, error)
            return False
        with file:
            child.hand(file)
        return True

    def _retire(self, lane: _Lane) -> None:
        if not lane.busy and lane.child is not None:
            lane.busy = True
            task = asyncio.get_running_loop().create_task(self._retired(lane))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _retired(self, lane: _Lane) -> None:
        await self._end(lane)
        lane.busy = False
        self._dispatch()

    async def _end(self, lane: _Lane) -> None:
        child, lane.child = lane.child, None
        if child is not None:
            await child.end()


def _answer(group: list[_Request], header: dict[str, Any], body: bytes) -> int:
    """Give the next ones of the group their answers; how many that were."""
    answers = header.get("answers")
    if not isinstance(answers, list) or not 0 < len(answers) <= len(group):
        raise Lost("its answers aren't those to the questions")
    try:
        results = cut(body, [size for size, _ in answers])
        errors = [error and _error_of(error) for _, error in answers]
    except (GridkitError, TypeError, ValueError, KeyError) as error:
        raise Lost(f"its answers can't be read: {error}") from None
    for request, result, failure in zip(group, results, errors, strict=False):
        if failure is not None:
            _fail(request, failure)
        elif not request.answer.done():
            request.answer.set_result(result)
    return len(answers)


def _error_of(error: dict[str, Any]) -> NodeError:
    code = ErrorCode(error["code"])
    status = _STATUS.get(code, 400)
    kind = LimitError if status in (413, 507) else NodeError
    return kind(str(error["message"]), error["hint"] and str(error["hint"]), code=code, status=status)


def _fail(request: _Request, error: Exception) -> None:
    if not request.answer.done():
        request.answer.set_exception(error)


def _busy(message: str) -> NodeError:
    return NodeError(message, "try again in a moment", code=ErrorCode.BUSY, status=503)


def _failed(message: str) -> NodeError:
    return NodeError(message, "the node's log says more", code=ErrorCode.RUN_FAILED)


def _timed_out(seconds: float) -> NodeError:
    hint = "give it fewer samples at a time, or start the node with a larger --limit run_seconds=…"
    return NodeError(f"the computation took longer than {seconds:g} s", hint, code=ErrorCode.TIMED_OUT, status=504)
