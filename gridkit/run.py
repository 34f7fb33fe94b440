"""A training that is under way or over: its metrics, its reports, its model; waiting for it and stopping it.

A Run is fed with rows (`federated.history`): by the simulator's thread, or from a node's event stream. `Run` is the
face for plain cells, `AsyncRun` that of `gridkit.aio`; both can be awaited in any event loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import math
import time
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from gridkit import cells, results
from gridkit.bridge import BRIDGE
from gridkit.errors import ErrorCode, EvaluationFailed, GridkitError, RunError, UsageError
from gridkit.evaluation import Evaluate, Evaluator
from gridkit.federated.history import Row
from gridkit.origin import Origin, note
from gridkit.plans.plan import Plan
from gridkit.record import Record
from gridkit.widgets.snapshot import TextWatch
from gridkit.wire.tensors import Array
from gridkit.workers.settings import LocalSettings

if TYPE_CHECKING:
    from torch import nn

    from gridkit.client.rpc_callables import Exposed
    from gridkit.widgets.watch import RunWatch
    from gridkit.workers.local import LocalResult

T = TypeVar("T")

_HEARTBEAT_SECONDS = 0.2
_PAINT_SECONDS = 3.0


class RunSource(Protocol):
    """What feeds a Run."""

    def start(self, take: Callable[[Row], None], fail: Callable[[BaseException], None]) -> None:
        """Begin: `take` each row in order, up to the "finished" one; `fail` if they can't be had. From any thread."""
        ...

    async def model(self, checkpoint: int | None) -> dict[str, Array]:
        """The model of a checkpoint (1 is the start), or the newest."""
        ...

    async def stop(self, now: bool) -> None:
        """Stop after this round, or at once."""
        ...

    async def lend(self, role: str, fn: Callable[..., Any] | Exposed) -> None:
        """Lend the training a function of this notebook, for the "strategy", or to "evaluate"."""
        ...

    def raised(self) -> BaseException | None:
        """What a function of this notebook, on which the training depends, raised last."""
        ...

    def in_thread(self, call: Coroutine[Any, Any, T]) -> T:
        """What one of these calls gives, for the evaluating thread, which may block."""
        ...


class RunBase(Record):
    """What both faces share. Made by `train`, `simulate`, `host_training` and `grid.runs`.

    Args:
        clients: what `train` was given, by slot: data, or the name of a push participant, whose data is elsewhere.
    """

    def __init__(
        self,
        name: str,
        version: str,
        source: RunSource,
        *,
        rounds: int | None = None,
        model: nn.Module | None = None,
        plan: Plan | None = None,
        clients: Sequence[tuple[Array, Array] | str] | None = None,
        settings: Mapping[str, Any] | None = None,
        evaluate: Evaluate | None = None,
    ) -> None:
        super().__init__(name, version, rounds)
        self._source = source
        self._template = copy.deepcopy(model) if model is not None else None
        self._plan = plan
        self._clients = clients
        self._here = {slot: each for slot, each in enumerate(clients or ()) if not isinstance(each, str)}
        self._settings = LocalSettings.from_config(settings or {})
        self._painting: list[concurrent.futures.Future[None]] = []  # panels that don't show the end yet
        self._evaluator: Evaluator | None = None
        if evaluate is not None:
            self._evaluator = Evaluator(
                self.title, evaluate, self._checkpoint, self._take_values, self._evaluation_ended
            )
        source.start(self._take, self._fail)

    def watch(self) -> RunWatch | TextWatch:
        """A live panel: curves, a row a worker, progress, Stop. In a script, its text.

        Example:
            >>> run.watch()                                                         # doctest: +SKIP
        """
        hint = cells.why_no_widgets()
        if hint is not None:
            return TextWatch(lambda: self.snapshot().text(), hint)
        from gridkit.widgets.watch import RunWatch

        panel = RunWatch(self, lambda now: self._source.in_thread(self._stop(now)))
        self._painting = [painted for painted in self._painting if not painted.done()] + [panel.painted]
        return panel

    # -- rows

    def _take(self, row: Row) -> None:
        if not self._apply(row):
            return
        if row["kind"] == "aggregated" and self._evaluator is not None:
            self._evaluator.add(row["cycle"], row["checkpoint"])
        if row["kind"] == "finished":
            if self._evaluator is not None and row["outcome"] != "failed":
                self._evaluator.finish()
            else:
                self._end(None)
        self._changed()

    def _checkpoint(self, number: int) -> nn.Module:
        return self._module(self._source.in_thread(self._source.model(number)))

    def _take_values(self, round: int, values: dict[str, float], last: bool) -> None:
        with self._lock:
            self._evaluated[round] = values
        self._changed()
        if last and not self.history.stopping and self.history.outcome is None:
            self._source.in_thread(self._source.stop(False))

    def _evaluation_ended(self, error: BaseException | None) -> None:
        self._end(error)
        if isinstance(error, EvaluationFailed):
            self._source.in_thread(self._source.stop(False))  # nobody would look at what comes now

    def _end(self, error: BaseException | None) -> None:
        with self._lock:
            if self._done.done():
                return
            if error is None and self.history.outcome == "failed":
                error = results.failure(self.history, self.title, debuggable=self._here)
                if self.history.code in (ErrorCode.AVERAGING_FAILED, ErrorCode.EVALUATION_FAILED):
                    error = _of_function(error, self._source.raised())
            if error is None:
                self._done.set_result(None)
            else:
                self._done.set_exception(error)
        self._changed()

    def _fail(self, error: BaseException) -> None:
        self._end(error)

    # -- with I/O

    async def _wait(self, timeout: float | None = None) -> None:
        end = math.inf if timeout is None else time.monotonic() + timeout
        ended = asyncio.wrap_future(self._done)
        ended.add_done_callback(lambda future: future.cancelled() or future.exception())  # it is raised below
        try:
            while not ended.done() and (left := end - time.monotonic()) > 0:
                # In ipykernel the interrupt of a cell that awaits takes effect with the loop's next event.
                await asyncio.wait([ended], timeout=min(_HEARTBEAT_SECONDS, left))
        finally:
            ended.cancel()  # that it doesn't call back into a loop that may be closed by then
        if not self._done.done():
            waits = f"; {self.history.waits}" if self.history.waits else ""
            raise TimeoutError(f"the training {self.title} is still {self.status} after {timeout:g} s{waits}")
        await self._last_paint()
        error = self._done.exception()
        if error is not None:
            raise copy.copy(error).with_traceback(None) from error.__cause__

    async def _last_paint(self) -> None:
        """Until its panels show the end: a notebook that is saved when this cell is over would miss it."""
        painting = [asyncio.wrap_future(painted) for painted in self._painting]
        if painting:
            await asyncio.wait(painting, timeout=_PAINT_SECONDS)
        for painted in painting:
            painted.cancel()

    async def _stop(self, now: bool = False) -> None:
        if not self.done:
            await self._source.stop(now)

    async def _offer(self, fn: Callable[..., Any] | None = None, *, evaluate: Exposed | None = None) -> None:
        if fn is None and evaluate is None:
            raise UsageError("nothing is offered", "run.offer(fn) for the strategy, run.offer(evaluate=exposed)")
        for role, function in (("strategy", fn), ("evaluate", evaluate)):
            if function is not None:
                await self._source.lend(role, function)

    async def _state(self) -> dict[str, Array]:
        return await self._source.model(None)

    async def _model(self) -> nn.Module:
        with self._lock:
            over, rounds = self.history.outcome is not None, self.history.rounds
            last = rounds[-1]["round"] if rounds else 0
        module = self._module(await self._state())
        if over:  # else the newest model may be that of a round that isn't told of yet
            note(module, Origin(self.name, self.version, last))
        return module

    def _module(self, state: Mapping[str, Array]) -> nn.Module:
        import torch

        if self._template is None:
            raise UsageError(
                f"the run {self.title} has no module to put its weights into",
                "your_model.load_state_dict({name: torch.from_numpy(a) for name, a in run.state.items()})",
            )
        module = copy.deepcopy(self._template)
        module.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
        return module.eval()

    def _debugged(self, client: int | str, round: int | None) -> tuple[int, int]:
        if self._clients is None:
            raise UsageError(
                f"the data of {self.title}'s workers isn't in this process", "debug where the clients were passed"
            )
        names = {each: slot for slot, each in enumerate(self._clients) if isinstance(each, str)}
        names |= {f"client {slot}": slot for slot in self._here}
        slot = names.get(client, -1) if isinstance(client, str) else client
        if not 0 <= slot < len(self._clients):
            raise UsageError(
                f"there is no client {client!r}", f"use 0 to {len(self._clients) - 1}, or {next(iter(names))!r} …"
            )
        if slot not in self._here:
            raise UsageError(
                f"'{self._clients[slot]}' is a push participant: its code and its data aren't in this process",
                "run.reports says what it reported, run.notifications what it answered",
            )
        if round is None:
            mine = [row for row in self.history.reports if row["slot"] == slot]
            bad = [row for row in mine if row["verdict"] != "accepted"]
            round = (bad or mine or [{"round": max(1, self.history.cycle)}])[-1]["round"]
        return slot, round

    async def _debug(self, client: int | str, round: int | None = None) -> Callable[[], LocalResult]:
        from gridkit.workers.local import train_client

        slot, round = self._debugged(client, round)
        state = await self._source.model(round)
        assert self._plan is not None, "clients whose data is here have a plan to train with"
        x, y = self._here[slot]
        plan, settings = self._plan, self._settings.arguments()
        return lambda: train_client(plan, state, x, y, round=round, slot=slot, **settings)

    def __await__(self) -> Generator[Any, None, Self]:
        yield from self._wait().__await__()
        return self


class AsyncRun(RunBase):
    """A Run for `gridkit.aio`."""

    async def wait(self, timeout: float | None = None) -> Self:
        """Until it is over. `timeout` in seconds.

        Raises:
            WorkersFailed: so many failed that a round's quorum couldn't be met.
            EvaluationFailed: the function passed as `evaluate` raised.
            TimeoutError: it goes on still.
        """
        await self._wait(timeout)
        return self

    async def stop(self, now: bool = False) -> None:
        """Stop after this round; `now`, or asked a second time: at once."""
        await self._stop(now)

    async def offer(self, fn: Callable[..., Any] | None = None, *, evaluate: Exposed | None = None) -> None:
        """Lend the training functions again. See `Run.offer`."""
        await self._offer(fn, evaluate=evaluate)

    async def fetch_model(self) -> nn.Module:
        """The newest model, in eval mode: a copy of yours with the training's weights."""
        return await self._model()

    async def fetch_state(self) -> dict[str, Array]:
        """The newest weights by name."""
        return await self._state()

    async def debug(self, client: int | str, round: int | None = None) -> LocalResult:
        """Run a client's round again in this process. See `Run.debug`."""
        return (await self._debug(client, round))()


class Run(RunBase):
    """A training that is under way or over.

    >>> run = grid.train(model, plan, name="digits", clients=shards)               # doctest: +SKIP
    >>> run.wait().metrics                                                          # doctest: +SKIP
    """

    def wait(self, timeout: float | None = None) -> Self:
        """Wait until it is over. Interrupting the cell ends the waiting, not the training.

        Args:
            timeout: seconds; None waits without end.

        Raises:
            WorkersFailed: so many failed that a round's quorum couldn't be met; names them and their causes.
            EvaluationFailed: the function passed as `evaluate` raised.
            TimeoutError: it goes on still.
        """
        try:
            BRIDGE.sync(self._wait(timeout))
        except KeyboardInterrupt:
            print(f"stopped waiting; the training {self.title} goes on. run.stop() ends it after this round.")
            raise
        return self

    def stop(self, now: bool = False) -> None:
        """Stop after this round; `now`, or asked a second time: at once."""
        BRIDGE.sync(self._stop(now))

    def offer(self, fn: Callable[..., Any] | None = None, *, evaluate: Exposed | None = None) -> None:
        """Lend the training its functions, as after a kernel restart.

        A training that was started with ``strategy=fn``, or with an exposed `evaluate`, waits when it needs the
        function and the session isn't there that lent it; with this it goes on. A new function takes the place of an
        older one.

        Args:
            fn: averages the reports.
            evaluate: scores each new model.

        Raises:
            ConflictError: the training is over.
            UsageError: no function has that part there.
            AccessError: it is somebody else's training.

        Example:
            >>> grid = gk.connect(url)                                              # doctest: +SKIP
            >>> grid.runs["digits", "1.0"].offer(median)                            # doctest: +SKIP
        """
        BRIDGE.sync(self._offer(fn, evaluate=evaluate))

    @property
    def model(self) -> nn.Module:
        """The newest model, in eval mode: a copy of yours with the training's weights."""
        return BRIDGE.sync(self._model())

    @property
    def state(self) -> dict[str, Array]:
        """The newest weights by name."""
        return BRIDGE.sync(self._state())

    def debug(self, client: int | str, round: int | None = None) -> LocalResult:
        """Run a client's round again in this process, so that its error has a traceback of its own here.

        Args:
            client: its place in `clients`, or its name, such as "client 3".
            round: by default the last one in which it failed.

        Returns:
            What it would have reported.
        """
        return BRIDGE.sync(self._debug(client, round))()


def _of_function(error: RunError, raised: BaseException | None) -> RunError:
    """The error of a training whose function raised, with the line where it did."""
    if raised is None:
        return error
    line = cells.line_of(raised)
    hint = raised.hint if isinstance(raised, GridkitError) else None
    told = type(error)(
        f"{error.message}{'' if line is None else f' ({line})'}",
        hint or "gk.options.full_tracebacks = True shows where",
    )
    told.__cause__ = raised
    return told


def verify(run_a: RunBase, run_b: RunBase) -> results.Verification:
    """Compare the newest models of two runs, bit for bit.

    >>> gk.verify(grid.train(…), gk.simulate(…))                                    # doctest: +SKIP
    equal: 4 tensors, 4,810 values
    """
    return results.compare(BRIDGE.sync(run_a._state()), BRIDGE.sync(run_b._state()))
