"""Functions of a notebook that a node may call: which, how they run, and what left the notebook by them."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import queue
import secrets
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from gridkit.client.rpc_audit import MAX_ERROR, MAX_SHOWN, CalledBack, Facts, in_short, own_lines, size_of
from gridkit.errors import ErrorCode, GridkitError, LimitError, NotFoundError, RunError, UsageError
from gridkit.wire.rpc import values
from gridkit.wire.rpc.messages import Id

if TYPE_CHECKING:
    from gridkit.client.rpc_calls import Call

MAX_DEPTH = 16
"""functions that run because of calls that functions made"""
MAX_RUNS = 64
"""functions at the same time. Further ones are refused, not kept waiting: what they wait for may wait for them"""
KEPT = 1000
"""calls in the list of what left the notebook"""

RUNNING: ContextVar[Run | None] = ContextVar("gridkit-rpc-run", default=None)
"""the call of the node's because of which this code runs"""


@dataclass(eq=False, slots=True)
class Run:
    """A call by the node, while it lasts.

    Attributes:
        id: of the node's request.
        depth: 1, or one more than that of the function whose own call led to this one.
        began: by the loop's clock.
        cancelled: the node doesn't want it any more.
        task: of a coroutine function.
        asked: the notebook's own call because of which the node calls, if there is one.
        given: the arguments as the function gets them, if these aren't those that came: for the list of calls.
        since: when the function itself began, by `time.monotonic`.
    """

    id: Id
    depth: int
    began: float
    cancelled: bool = False
    task: asyncio.Task[Any] | None = field(default=None, repr=False)
    asked: Call | None = field(default=None, repr=False)
    given: Any = field(default=None, repr=False)
    since: float = field(default_factory=time.monotonic, repr=False)

    def cancel(self) -> None:
        """End it, if it is a coroutine function. A thread can't be ended from outside; but calls that it makes are."""
        self.cancelled = True
        if self.task is not None:
            self.task.cancel()


class Exposed:
    """A function that the node may call until this is closed: by `close`, the end of a ``with`` block, or because
    nobody holds this any more.

    Passed to a call as an argument, it is the function's name on the wire.

    Attributes:
        id: the function's, on the wire.
        fn: the function.
    """

    def __init__(self, fn: Callable[..., Any], id: str, forget: Callable[[str], None]) -> None:
        self.id, self.fn = id, fn
        self._finalizer = weakref.finalize(self, forget, id)
        self._finalizer.atexit = False

    def __repr__(self) -> str:
        return f"<Exposed {self.name}{', closed' if self.closed else ''}>"

    @property
    def name(self) -> str:
        """The function's."""
        return name_of(self.fn)

    @property
    def closed(self) -> bool:
        """The node can't call it any more."""
        return not self._finalizer.alive

    def __enter__(self) -> Exposed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def reference(self) -> values.Callable:
        """How it is spoken of on the wire."""
        return values.Callable(self.id)

    def close(self) -> None:
        """The node can't call the function any more; calls under way go on. Idempotent."""
        self._finalizer()


class StartThread(Protocol):
    """How a thread is started: as `gridkit.threads.start`."""

    def __call__(self, work: Callable[[], None], *, name: str, end: Callable[[], None]) -> None: ...


def start_daemon(work: Callable[[], None], *, name: str, end: Callable[[], None]) -> None:
    """A thread that ends with the interpreter, whatever it does."""
    threading.Thread(target=work, name=name, daemon=True).start()


class Workers:
    """Threads that do one thing after another, and are there for the next one.

    Args:
        start: starts one.
        end: asks all that is under way to come to an end: Python ends.
    """

    def __init__(self, start: StartThread, end: Callable[[], None]) -> None:
        self._start, self._end = start, end
        self._lock = threading.Lock()
        self._todo: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._idle = 0
        self._closed = False

    def do(self, work: Callable[[], None]) -> None:
        """Have a thread do this. Never waits."""
        with self._lock:
            self._closed = False
            if self._idle:
                self._idle -= 1
                self._todo.put(work)
                return
        self._start(partial(self._work, work), name="gridkit-callable", end=self._leave)

    def close(self) -> None:
        """Threads end when they have nothing to do. Others may be started later."""
        with self._lock:
            self._closed = True
            for _ in range(self._idle):
                self._todo.put(None)
            self._idle = 0

    def _leave(self) -> None:
        self.close()
        self._end()

    def _work(self, first: Callable[[], None]) -> None:
        work: Callable[[], None] | None = first
        while work is not None:
            work()
            work = None  # what it held is let go
            with self._lock:
                if self._closed:
                    return
                self._idle += 1
            work = self._todo.get()


class Callables:
    """The functions that a node may call, and the calls under way.

    Functions run on threads of their own, coroutine functions on the client's loop; both in the context of the cell
    that exposed them, so that their prints land there.

    Args:
        start: starts a thread.
        end: see `Workers`.
        facts: of tensors on the node.

    Attributes:
        runs: the calls under way, by the id of the node's request.
        called: the last calls that were answered, oldest first.
    """

    def __init__(self, start: StartThread, end: Callable[[], None], facts: Facts = lambda variable_id: None) -> None:
        self._facts = facts
        self._exposed: dict[str, tuple[Callable[..., Any], contextvars.Context]] = {}
        self._start, self._end = start, end
        self._workers = Workers(start, end)
        self.runs: dict[Id, Run] = {}
        self.called: deque[CalledBack] = deque(maxlen=KEPT)

    def __len__(self) -> int:
        """Functions that are exposed."""
        return len(self._exposed)

    def expose(self, fn: Callable[..., Any]) -> Exposed:
        """Let the node call `fn` as long as the handle lives; any thread.

        Raises:
            UsageError: it isn't a function.
        """
        check_callable(fn)
        id = secrets.token_hex(8)
        self._exposed[id] = (fn, contextvars.copy_context())
        return Exposed(fn, id, partial(_forget, self._exposed))

    def check(self, function: Exposed) -> None:
        """Raise UsageError unless the node can call this."""
        if function.id not in self._exposed:
            why = "is closed" if function.closed else "was exposed by another session"
            raise UsageError(
                f"the node can't call {function.name}: it {why}", "expose it again: with grid.expose(fn) as exposed: …"
            )

    def replaced(self, value: Any, made: list[Exposed]) -> Any:
        """A value with references in place of functions, which are exposed until those in `made` are closed."""
        if value is None or isinstance(value, str | int | float):
            return value
        if isinstance(value, dict):
            return {name: self.replaced(inner, made) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            inner = [self.replaced(each, made) for each in value]
            return inner if isinstance(value, list) else tuple(inner)
        if isinstance(value, Exposed):
            return value.reference
        if inspect.isroutine(value) or isinstance(value, partial):
            made.append(self.expose(value))
            return made[-1].reference
        return value

    async def run(
        self, id: Id, asked: Call | None, callable_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Run a function; what it returns.

        Args:
            id: of the node's request.
            asked: see `Run`.

        Raises:
            NotFoundError: there is no such function.
            LimitError: too many run, or they nest too deep.
            RunError: the node cancelled it; it ended by something that isn't an Exception, which is the cause; or it
                gave what can't be sent.
            Whatever else the function raises.
        """
        if callable_id not in self._exposed:
            raise NotFoundError(
                f"the notebook has no function '{callable_id}'",
                "it lives as long as the notebook exposes it",
                code=ErrorCode.NOT_FOUND,
                status=404,
            )
        if id in self.runs:
            raise UsageError(f"the request {id!r} is under way already", "another request needs another id")
        depth = 1 if asked is None else asked.depth + 1
        if depth > MAX_DEPTH:
            raise LimitError(
                f"functions of the notebook call the node, and it them, more than {MAX_DEPTH} deep",
                "does a function cause itself to be called?",
                code=ErrorCode.TOO_MANY,
                status=429,
            )
        if len(self.runs) >= MAX_RUNS:
            raise LimitError(f"{MAX_RUNS} functions of the notebook run already", code=ErrorCode.BUSY, status=429)
        fn, context = self._exposed[callable_id]
        run = self.runs[id] = Run(id, depth, asyncio.get_running_loop().time(), asked=asked)
        at = time.time()
        result: str | None = None
        text: str | None = None
        left = 0
        try:
            value = await self._called(run, fn, context.copy(), args, kwargs)
            _check_leaves(name_of(fn), value)
            result, left = in_short(value, self._facts), size_of(value)
            return value
        except Exception as error:
            said = error.message if isinstance(error, GridkitError) else str(error)
            text = f"{type(error).__name__}: {said[:MAX_ERROR]}"
            left = size_of(text) + (0 if isinstance(error, GridkitError) else size_of(own_lines(error)))
            if asked is not None:
                asked.raised = error
            raise
        finally:
            if self.runs.get(id) is run:
                del self.runs[id]
            given = run.given or ((*args, dict(kwargs)) if kwargs else tuple(args))
            run.given = None  # a timer may know this, and the node may have much there
            shown, came, seconds = in_short(given, self._facts), size_of(given), time.monotonic() - run.since
            self.called.append(CalledBack(name_of(fn), shown, result, text, seconds, at, came, left, callable_id))

    async def _called(
        self, run: Run, fn: Callable[..., Any], context: contextvars.Context, args: Sequence[Any], kwargs: Any
    ) -> Any:
        context.run(RUNNING.set, run)
        loop = asyncio.get_running_loop()
        if inspect.iscoroutinefunction(fn):
            run.task = loop.create_task(_outcome_of(fn(*args, **kwargs)), context=context)
            try:
                result, error = await run.task
            except asyncio.CancelledError:
                if not run.cancelled:
                    raise
                result, error = None, cancelled()
        else:
            done = loop.create_future()
            self._workers.do(partial(context.run, _work, fn, args, kwargs, loop, done))
            result, error = await done
        if error is not None:
            raise error
        return result

    def abandon(self) -> None:
        """The session is over: nobody waits for what runs, and ids may come again."""
        for run in self.runs.values():
            run.cancel()
        self.runs.clear()

    def restart(self) -> None:
        """In a forked child, which has no threads: functions stay exposed."""
        self._workers = Workers(self._start, self._end)
        self.runs.clear()

    def close(self) -> None:
        """Forget all functions; threads end when they have nothing to do."""
        self._exposed.clear()
        self._workers.close()


def _forget(exposed: dict[str, Any], id: str) -> None:
    exposed.pop(id, None)


def _work(fn: Callable[..., Any], args: Any, kwargs: Any, loop: asyncio.AbstractEventLoop, done: Any) -> None:
    """On a thread: call the function, and have its outcome where the loop waits for it."""
    try:
        outcome: tuple[Any, Exception | None] = (fn(*args, **kwargs), None)
    except BaseException as error:  # noqa: BLE001  sys.exit() in a function must end neither thread nor notebook
        outcome = (None, _as_exception(error))
    try:
        loop.call_soon_threadsafe(_tell, done, outcome)
    except RuntimeError:
        return  # the loop is closed: nobody waits


async def _outcome_of(coroutine: Coroutine[Any, Any, Any]) -> tuple[Any, Exception | None]:
    try:
        return await coroutine, None
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001  on the loop's own thread it would end the loop
        return None, _as_exception(error)


def _tell(done: asyncio.Future[Any], outcome: tuple[Any, Exception | None]) -> None:
    if not done.done():
        done.set_result(outcome)


def _as_exception(error: BaseException) -> Exception:
    if isinstance(error, Exception) and not isinstance(error, StopIteration):  # which a future doesn't take
        return error
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    ended = RunError(f"the function ended by {text}", code=ErrorCode.RUN_FAILED)
    ended.__cause__ = error
    return ended


def _check_leaves(name: str, value: Any) -> None:
    try:
        values.encode(value, [])
    except UsageError as error:
        raise RunError(
            f"what {name} gave can't leave the notebook: {error.message}", error.hint, code=ErrorCode.RUN_FAILED
        ) from None


def cancelled() -> GridkitError:
    """What a function's own calls end with when the node doesn't want its result any more."""
    return RunError("the node doesn't wait for this function: its call was cancelled", code=ErrorCode.CANCELLED)


def check_callable(fn: object) -> None:
    """Raise UsageError unless it can be called."""
    if not callable(fn):
        raise UsageError(
            f"a {type(fn).__name__} can't be called", "pass a function, such as one of yours that gives an accuracy"
        )


def name_of(fn: Callable[..., Any]) -> str:
    return str(getattr(fn, "__name__", None) or type(fn).__name__)[:MAX_SHOWN]
