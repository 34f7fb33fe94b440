"""Remote tensors from below: what is to be done with them, sent in order without waiting for any answer.

Each operation names its results itself, so the next one can be sent at once: ``y = (x + x) * w`` costs no round trip.
Whoever reads a value waits, and hears then of what failed on the way to it. Nothing here knows torch.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gridkit.client import rpc_mirror as mirror
from gridkit.client.rpc import RpcClient
from gridkit.client.rpc_calls import Call, Progress
from gridkit.client.rpc_mirror import MirroredVariable, PassKind
from gridkit.client.rpc_session import fresh
from gridkit.errors import ErrorCode, GridkitError, LimitError, NotFoundError, RunError

MAX_UNDER_WAY = 256
"""operations that the node hasn't answered, above which the next ones wait here"""
MAX_WAITING = 2000
"""operations that wait here, above which the computation that makes them waits too"""
MAX_WAITING_BYTES = 256 << 20
"""of tensors in them"""
SWEEP_SECONDS = 0.05
"""for which ids of tensors that nobody has any more are gathered"""

Place = tuple[str, int]
"""A file and a line number."""
Spawn = Callable[[Coroutine[Any, Any, Any]], "concurrent.futures.Future[Any]"]


class Pass:
    """A backward pass, or a step of an optimizer, on its way. Awaiting it waits for its end.

    Attributes:
        id: its number in the session.
        kind: "backward" or "step".
        touches: ids of the variables that it changes; None: not known, so any.
        error: why it failed; None as long as it hasn't.
        cancelled: somebody asked for that.
        mirrored: what reads of gradients wait for.
    """

    def __init__(self, tensors: TensorClient, id: str, kind: PassKind, touches: Sequence[str] | None) -> None:
        self.id, self.kind = id, kind
        self.touches = None if touches is None else frozenset(touches)
        self.error: GridkitError | None = None
        self.cancelled = False
        self.mirrored: mirror.Pass | None = None
        self._tensors = tensors
        self._call: Call | None = None
        self._over = asyncio.Event()

    def __repr__(self) -> str:
        return f"<{self}>"

    def __str__(self) -> str:
        return f"{self._name}, {self.state}"

    @property
    def _name(self) -> str:
        return f"{'pass' if self.kind == 'backward' else 'step'} {self.id}"

    def __await__(self) -> Any:
        return self.wait().__await__()

    @property
    def over(self) -> bool:
        """It has ended, well or not."""
        return self._over.is_set()

    @property
    def state(self) -> str:
        """Such as "40 %", "pending", "done", "failed", "cancelled"."""
        if self.over:
            return "done" if self.error is None else "cancelled" if self.cancelled else "failed"
        progress: Progress | None = None if self._call is None else self._call.progress
        if progress is None or not progress.total or progress.done is None:
            return "pending"
        return f"{100 * progress.done // progress.total} %"

    async def wait(self) -> None:
        """Until it has ended.

        Raises:
            GridkitError: why it failed.
        """
        await self._over.wait()
        if self.error is not None:
            raise fresh(self.error)

    async def cancel(self) -> None:
        """End it at the next node of the graph. What it has done by then stays."""
        await self._tensors.caught_up()
        if self._call is not None and not self._call.done:
            self.cancelled = True
            self._call.fail(RunError(f"{self._name} was cancelled"))

    def ended(self, error: GridkitError | None) -> None:
        """For `TensorClient`."""
        self.error = error
        self._over.set()


@dataclass(eq=False)
class _Item:
    """Something that is to be said.

    Attributes:
        makes: ids whose values hang on it.
        uses: ids that must be there for it.
        where: the line of the person's code that asked for it.
        asked: who waits for the call that it becomes; then it isn't kept track of here.
    """

    method: str
    params: dict[str, Any]
    makes: Sequence[str] = ()
    uses: Sequence[str] = ()
    where: Place | None = None
    size: int = 0
    begun: Pass | None = None
    asked: asyncio.Future[Call] | None = None


@dataclass(eq=False)
class _Marker:
    """When this is reached, all before it has been sent."""

    size = 0
    reached: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class TensorClient:
    """The remote tensors of one `RpcClient`: from any thread, in the order in which operations are asked for.

    Args:
        rpc: whose session has the tensors.
        spawn: starts a coroutine on the loop that `rpc` belongs to, from any thread.
        shown: how a line of the person's code is told in errors.

    Attributes:
        rpc: as given.
        passes: those that haven't ended, in order, by id.
    """

    def __init__(self, rpc: RpcClient, spawn: Spawn, shown: Callable[[Place], str] = "{0[0]}:{0[1]}".format) -> None:
        self.rpc = rpc
        self._shown = shown
        self.passes: dict[str, Pass] = {}
        self._spawn = spawn
        self._ids, self._pass_ids = itertools.count(1), itertools.count(1)
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._waiting: deque[_Item | _Marker] = deque()
        self._waiting_bytes = 0
        self._sending = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._under_way: dict[Call, None] = {}
        self._answered = asyncio.Event()
        self._failed: dict[str, GridkitError] = {}  # by id: why its value isn't what it should be
        self._unheard: list[GridkitError] = []  # of operations that no id hangs on
        self._dropped: deque[str] = deque()
        self._sweeping = False

    def __repr__(self) -> str:
        return f"<remote tensors of {self.rpc!r}: {len(self.rpc.mirror.variables)} known, {len(self._waiting)} to send>"

    # ---- ids

    def new_id(self, holder: object) -> str:
        """An id that lives as long as `holder`; then the node is told to forget what has it."""
        id = f"v{next(self._ids)}"
        self.keep(holder, id)
        return id

    def keep(self, holder: object, id: str) -> None:
        """The node has something under this id, which lives as long as `holder`."""
        weakref.finalize(holder, self._drop, id).atexit = False

    def _drop(self, id: str) -> None:
        """Called by the garbage collector, on any thread and at any moment: it takes no lock, and sends nothing."""
        self._dropped.append(id)
        if not self._sweeping and self._loop is not None:
            self._sweeping = True
            with suppress(RuntimeError):  # the loop is closed, and the session with it
                self._loop.call_soon_threadsafe(self._sweep_later)

    def _sweep_later(self) -> None:
        asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = False
        ids = [self._dropped.popleft() for _ in range(min(len(self._dropped), 10_000))]
        if not ids:
            return
        if self._dropped:
            self._sweeping = True
            self._sweep_later()
        item = _Item("delete_variables", {"variable_ids": ids})
        if self.rpc.mirror.lost is None:
            self._put(item)
        else:
            self._item_over(item, None)

    # ---- saying

    def post(
        self,
        method: str,
        params: dict[str, Any],
        *,
        makes: Sequence[str] = (),
        uses: Sequence[str] = (),
        where: Place | None = None,
        size: int = 0,
    ) -> None:
        """Have the node do something, after all that was asked for before. Never waits.

        Args:
            makes: ids of the results, and of what is changed in place.
            uses: ids of the arguments.
            where: the line that asks for it, as errors tell it.
            size: bytes of tensors in it.

        Raises:
            LimitError: far too much waits to be sent.
        """
        if len(self._waiting) >= 50 * MAX_WAITING or self._waiting_bytes >= 8 * MAX_WAITING_BYTES:
            raise LimitError(
                f"{len(self._waiting):,} operations wait to be sent",
                "read a result now and then: await tensor.get()",
                code=ErrorCode.TOO_MANY,
                status=429,
            )
        self._put(_Item(method, params, makes, uses, where, size))

    def begin(
        self,
        kind: PassKind,
        method: str,
        params: dict[str, Any],
        *,
        uses: Sequence[str],
        makes: Sequence[str] = (),
        touches: Sequence[str] | None = None,
        where: Place | None = None,
    ) -> Pass:
        """Ask for a pass, whose id is put into `params`. Never waits.

        Args:
            touches: the variables that it changes, if they are known.
        """
        begun = Pass(self, str(next(self._pass_ids)), kind, touches)
        self.passes[begun.id] = begun
        params = {**params, "pass_id" if kind == "backward" else "step_id": begun.id}
        self._put(_Item(method, params, makes, uses, where, begun=begun))
        return begun

    @property
    def crowded(self) -> bool:
        """So much waits to be sent that whoever asks for more should wait for `room`."""
        return len(self._waiting) >= MAX_WAITING or self._waiting_bytes >= MAX_WAITING_BYTES

    async def room(self) -> None:
        """Until it isn't crowded."""
        while self.crowded:
            await self.caught_up()

    async def caught_up(self) -> None:
        """Until all that was asked for by now has been sent."""
        marker = _Marker()
        self._put(marker)
        await marker.reached

    async def settled(self) -> None:
        """Until all that was asked for by now has been done, or has failed."""
        await self.caught_up()
        for call in tuple(self._under_way):
            while call in self._under_way:  # one that is done stays until its outcome is noted
                self._answered.clear()
                await self._answered.wait()

    async def told(self, id: str) -> MirroredVariable | None:
        """The variable as soon as the node has told of it, whatever passes are on their way; None: it won't."""
        await self.caught_up()
        while (known := self.rpc.mirror.variables.get(id)) is None and id not in self._failed and self._under_way:
            self._answered.clear()
            await self._answered.wait()
        return known

    def _put(self, item: _Item | _Marker) -> None:
        if self._process != os.getpid():
            raise NotFoundError(
                "remote tensors belong to the process that made them, and this one was forked from it",
                "make them here",
                code=ErrorCode.SESSION_LOST,
                status=404,
            )
        with self._lock:
            self._waiting.append(item)
            self._waiting_bytes += item.size
            idle, self._sending = not self._sending, True
        if idle:
            try:
                self._spawn(self._send_all())
            except BaseException:
                self._sending = False
                raise

    async def _send_all(self) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._sweep_later()  # what was dropped before there was a loop
        item: _Item | _Marker | None = None
        try:
            while True:
                with self._lock:
                    if not self._waiting:
                        self._sending = False
                        return
                    item = self._waiting.popleft()
                    self._waiting_bytes -= item.size
                if isinstance(item, _Item):
                    await self._send(item)
                elif not item.reached.done():
                    item.reached.set_result(None)
        except BaseException as error:
            with self._lock:
                left = [item, *self._waiting]
                self._waiting.clear()
                self._waiting_bytes = 0
                self._sending = False
            for each in left:
                if isinstance(each, _Item):
                    self._item_over(each, RunError(f"{each.method} wasn't sent: {error!r}"))
                elif each is not None:
                    each.reached.cancel()
            raise

    async def _send(self, item: _Item) -> None:
        while len(self._under_way) >= MAX_UNDER_WAY:
            self._answered.clear()
            await self._answered.wait()
        try:
            if item.begun is not None and self.rpc.mirror.lost is None:
                item.begun.mirrored = self.rpc.mirror.begin(item.begun.id, item.begun.kind, item.begun.touches)
            call = await self.rpc.submit(item.method, item.params)
        except GridkitError as error:
            self._item_over(item, error)
            return
        if item.asked is not None:
            if not item.asked.done():
                item.asked.set_result(call)
            else:
                call.fail(RunError("nobody waits for it any more"))
            return
        if item.begun is not None:
            item.begun._call = call
        self._under_way[call] = None
        call.when_over(partial(self._call_over, item, call))

    # ---- outcomes

    def _call_over(self, item: _Item, call: Call) -> None:
        del self._under_way[call]
        self._answered.set()
        self._item_over(item, call.error)

    def _item_over(self, item: _Item, error: GridkitError | None) -> None:
        if item.asked is not None:
            if error is not None and not item.asked.done():
                item.asked.set_exception(error)
            return
        if item.method == "delete_variables":
            self.rpc.mirror.forget(item.params["variable_ids"])  # all that came before about them has been told
            for id in item.params["variable_ids"]:
                self._failed.pop(id, None)
            return
        if error is not None:
            error = self._root(item.uses, error)
            if item.where is not None and not getattr(error, "__notes__", None):
                error.add_note(f"asked for here:{self._shown(item.where)}")
            for id in item.makes:
                self._failed.setdefault(id, error)
            if not item.makes and item.begun is None:
                self._unheard.append(error)
        if item.begun is not None:
            if item.begun.mirrored is not None and error is not None:
                item.begun.mirrored.error = error
            if not item.begun.cancelled:  # else the node still has to say what it has done by then
                self.rpc.mirror.end(item.begun.id, None, error)
            self.passes.pop(item.begun.id, None)
            item.begun.ended(error)
            self.rpc.mirror.changed()

    def _root(self, uses: Sequence[str], error: GridkitError) -> GridkitError:
        """What failed first on the way there: what isn't there failed, or hangs on something that did."""
        return next((self._failed[id] for id in uses if id in self._failed), error)

    def failure_of(self, id: str) -> GridkitError | None:
        """Why there is no such value, as far as it is known. Never waits."""
        return self._failed.get(id)

    def pending_on(self, id: str) -> Pass | None:
        """The newest pass that may change this variable and hasn't ended. Never waits."""
        found = (p for p in reversed(tuple(self.passes.values())) if p.touches is None or id in p.touches)
        return next(found, None)

    # ---- reading

    async def ask(self, method: str, params: dict[str, Any], uses: Sequence[str] = ()) -> Any:
        """What the node answers, after it has done all that was asked for before.

        Raises:
            GridkitError: what failed first on the way there.
        """
        item = _Item(method, params, uses=uses, asked=asyncio.get_running_loop().create_future())
        self._put(item)
        assert item.asked is not None
        try:
            result = await (await item.asked)
        except GridkitError as error:
            root = self._root(uses, error)
            raise (error if root is error else again(root)) from None
        failed = next((self._failed[id] for id in uses if id in self._failed), None)
        if failed is not None:  # it is there, but something that should have changed it failed
            raise again(failed)
        self._raise_unheard()
        return result

    def _raise_unheard(self) -> None:
        if self._unheard:
            error = self._unheard[0]
            self._unheard.clear()
            raise error

    async def ready(self, id: str, kind: PassKind) -> MirroredVariable | None:
        """The variable, after the passes of this kind that have been asked for by now and may change it; None if it
        isn't known yet.

        Raises:
            RunError: the newest of them failed.
            NotFoundError: `SESSION_LOST`.
        """
        await self.caught_up()
        try:
            return await self.rpc.mirror.ready(id, kind)
        except NotFoundError as error:
            if error.code is ErrorCode.SESSION_LOST:
                raise
            return None  # it was asked for after the last of these passes
        except RunError:
            await self.settled()  # the answer to what failed says more than that it failed
            return await self.rpc.mirror.ready(id, kind)


def again(error: GridkitError) -> GridkitError:
    """The same error once more, with its notes."""
    copy = fresh(error)
    for note in getattr(error, "__notes__", ()):
        if note not in getattr(copy, "__notes__", ()):
            copy.add_note(note)
    return copy
