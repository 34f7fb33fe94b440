"""Sync over async: how a plain call waits for the network without stopping anything else.

One daemon thread, ``gridkit-io``, runs one event loop and owns every socket, so a busy cell never starves a keepalive.
A plain call hands its coroutine to that loop and waits:

* on the main thread on a loop of its own, `WaitLoop`, which nest_asyncio makes re-entrant. While it waits, callbacks of
  the user run there, and may themselves make plain calls. The kernel's loop is never re-entered: on ipykernel 7 that
  drops the queued cells of a Run All.
* on every other thread with a plain wait. These never run callbacks.

Callbacks come in through `Bridge.post`, into one inbox. Both possible places are woken, the waiting call and the idle
loop of the kernel; whichever is awake first takes what is there. (With two inboxes a callback could sit in the one
whose loop had just gone to sleep.)

``GRIDKIT_WAIT=plain`` makes every wait a plain one (no re-entrancy, no callbacks while waiting, whole tracebacks: for
debugging); ``GRIDKIT_WAIT=nest_asyncio`` or ``nest_asyncio2`` picks the library, which is otherwise the second, when
installed, else the first.

Nothing here starts a thread or imports nest_asyncio before the first call that needs it.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import contextvars
import functools
import inspect
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from gridkit.errors import GridkitError, NodeUnreachable, UsageError
from gridkit.waitloop import NEST_LIBRARIES, GridkitLoop, WaitLoop, how_to_wait, new_wait_loop

T = TypeVar("T")
R = TypeVar("R")
Core = TypeVar("Core")
P = ParamSpec("P")

_MAX_DEPTH = 24  # waits inside callbacks inside waits …: deeper ones are plain (each takes a dozen frames)
_POLL_SECONDS = 1.0  # a plain wait looks up this often: on Windows a lock can't be interrupted otherwise
_SLICE_SECONDS, _REST_SECONDS = 0.002, 0.01  # how an idle kernel goes on with callbacks that a wait left unfinished
_EXIT_SECONDS = 2.0  # for closing connections when the interpreter ends
_PLUMBING = frozenset({"asyncio", "concurrent", "selectors", "threading", "contextlib", *NEST_LIBRARIES})


@dataclass(frozen=True, slots=True)
class _Posted:
    future: concurrent.futures.Future[Any]
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    context: contextvars.Context | None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where callbacks can run: a loop of the main thread, and the context of the cell that it runs them for."""

    loop: asyncio.AbstractEventLoop
    context: contextvars.Context


class Bridge:
    """The I/O thread, the inbox for callbacks, and the waits. Use the module's `BRIDGE`."""

    def __init__(self) -> None:
        self._closed = False
        self._reset()

    def _reset(self) -> None:
        """Start from nothing: at first, and in a forked child, where none of the parent's threads exist."""
        self._lock = threading.Lock()
        self._io: GridkitLoop | None = None
        self._thread: threading.Thread | None = None
        self._wait_loop: WaitLoop | None = None
        self._waiting: list[_Place] = []  # the main thread's waits, innermost last
        self._home: _Place | None = None  # the loop that the main thread's caller ran in: the kernel's, as a rule
        self._inbox: deque[_Posted] = deque()
        self._tasks: set[asyncio.Task[None]] = set()  # async callbacks under way (a loop itself holds them weakly)

    # ------------------------------------------------------------------ the I/O thread

    @property
    def io(self) -> asyncio.AbstractEventLoop:
        """The loop that owns the sockets; its thread is started here, and again if it has died.

        Raises:
            NodeUnreachable: the interpreter is ending.
        """
        with self._lock:
            if self._io is None or self._thread is None or not self._thread.is_alive():
                if self._closed:
                    raise NodeUnreachable("gridkit is closed: the interpreter is ending")
                self._io = GridkitLoop()
                self._thread = threading.Thread(target=_serve, args=(self._io,), name="gridkit-io", daemon=True)
                self._thread.start()
            return self._io

    def submit(self, coro: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start `coro` on the I/O thread, in a copy of the caller's context, and don't wait.

        Returns:
            A future for any thread; cancelling it cancels the coroutine. In a coroutine:
            ``await asyncio.wrap_future(BRIDGE.submit(coro))``.
        """
        self._note_home()
        try:
            return asyncio.run_coroutine_threadsafe(coro, self.io)
        except BaseException:
            coro.close()
            raise

    def leave(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have `work` done on the I/O thread, if there still is one; nobody waits for it or hears of it.

        For finalizers, which the garbage collector calls on any thread at any moment: it takes no lock.
        """
        io = self._io
        if io is not None:
            with contextlib.suppress(RuntimeError):  # that loop is closed, and with it all that it held
                io.call_soon_threadsafe(self._begin, work)

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.get_running_loop().create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Cancel what runs on the I/O thread and end it. Called when the interpreter ends; there is no way back."""
        with self._lock:
            self._closed = True
            io, thread = self._io, self._thread
        if io is not None and thread is not None and thread.is_alive():
            io.call_soon_threadsafe(io.stop)
            thread.join(_EXIT_SECONDS)
        if self._wait_loop is not None and not self._wait_loop.is_running():
            self._discard(self._wait_loop)
            self._wait_loop = None

    # ------------------------------------------------------------------ callbacks

    def post(
        self, fn: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> concurrent.futures.Future[Any]:
        """Run ``fn(*args)`` on the user's (main) thread as soon as that waits in gridkit or its loop is idle.

        May be called on any thread. `fn` may be a coroutine function. In a script without a loop, `fn` runs in the
        next wait.

        Args:
            context: runs `fn` in a copy of this one: pass the context of the cell that registered the callback, and
                its prints land there. None: that of the cell which waits.

        Returns:
            A future for what `fn` returns or raises. When the user interrupts `fn`, it ends with a `GridkitError`
            (and the interrupt goes on to the cell).
        """
        posted = _Posted(concurrent.futures.Future(), fn, args, context)
        self._inbox.append(posted)
        self._wake()
        return posted.future

    def _wake(self) -> None:
        for place in (*self._waiting[-1:], self._home):
            if place is not None:
                # A context that is entered can't be entered again, so each call gets a fresh copy.
                with contextlib.suppress(RuntimeError):  # that loop is closed: what was posted waits for the next
                    place.loop.call_soon_threadsafe(self._drain, context=place.context.copy())

    def _drain(self) -> None:
        """Run what is in the inbox. On the main thread, called by a loop, in the context of the cell that waits."""
        while self._inbox:
            posted = self._inbox.popleft()
            if posted.future.set_running_or_notify_cancel():
                self._call(posted)

    def _call(self, posted: _Posted) -> None:
        context = contextvars.copy_context() if posted.context is None else posted.context.copy()
        try:
            result = context.run(posted.fn, *posted.args)
        except Exception as error:  # noqa: BLE001  # it belongs to the one who posted
            posted.future.set_exception(error)
        except BaseException:
            # Raised on the I/O thread, a KeyboardInterrupt would end its loop.
            posted.future.set_exception(_interrupted(posted.fn))
            raise
        else:
            if inspect.isawaitable(result):
                loop = asyncio.get_running_loop()
                task = loop.create_task(_settle(posted, result), context=context)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                posted.future.set_result(result)

    def _note_home(self) -> None:
        """Remember the main thread's own loop, if it runs one, and the context of the cell that calls now."""
        if threading.current_thread() is threading.main_thread() and not self._nested():
            loop = _running_loop()
            if not isinstance(loop, WaitLoop):  # as it is in a callback that `_go_on` lets go on
                self._home = None if loop is None else _Place(loop, contextvars.copy_context())

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let SIGINT end a wait that blocks the caller's own loop.

        `asyncio.run`, and ipykernel for cells with an await, set a handler that leaves the rest to that loop. It is
        called as well.
        """
        handler: Any = None
        if threading.current_thread() is threading.main_thread() and _running_loop() and not self._nested():
            handler = signal.getsignal(signal.SIGINT)
        if not callable(handler) or handler is signal.default_int_handler:
            yield
            return

        def interrupt(number: int, frame: FrameType | None) -> None:
            handler(number, frame)
            raise KeyboardInterrupt

        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, handler)

    def _nested(self) -> bool:
        """Whether the main thread is inside a wait already (its running loop needn't be the wait loop: a callback may
        have started another one in it)."""
        return any(place.loop.is_running() for place in tuple(self._waiting))

    def _go_on(self, loop: WaitLoop, home: asyncio.AbstractEventLoop) -> None:
        """Let async callbacks that a finished wait left behind go on, a slice at a time, while `home` is idle."""
        if loop.is_closed() or loop.is_running() or not self._unfinished(loop):
            return
        loop.call_later(_SLICE_SECONDS, loop.stop)
        loop.run_forever()
        home.call_later(_REST_SECONDS, self._go_on, loop, home)

    def _unfinished(self, loop: WaitLoop) -> list[asyncio.Task[None]]:
        return [task for task in tuple(self._tasks) if task.get_loop() is loop]

    # ------------------------------------------------------------------ waiting

    def sync(self, coro: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run `coro` on the I/O thread and wait for it; the user's callbacks run meanwhile (main thread only).

        Args:
            timeout: seconds; None waits without end.

        Returns:
            What `coro` returns.

        Raises:
            TimeoutError: `timeout` went by; the coroutine is cancelled.
            KeyboardInterrupt: the user interrupted the wait; the coroutine is cancelled.
            UsageError: called on the I/O thread, where waiting would stop the very thing that is waited for.
            NodeUnreachable: the coroutine was cancelled by someone else, as by closing its session.
            Whatever else the coroutine raises.

        >>> async def answer() -> int:
        ...     return 42
        >>> BRIDGE.sync(answer())
        42
        """
        try:
            loop = self._loop_to_wait_on()
        except BaseException:
            coro.close()  # else it would be reported as never awaited
            raise
        with self._interruptible():
            return self._wait_plainly(coro, timeout) if loop is None else self._wait_on_loop(coro, timeout, loop)

    def _loop_to_wait_on(self) -> WaitLoop | None:
        """The main thread's wait loop, made when it is first needed; None: wait plainly.

        A flood of callbacks that make calls would nest until Python's recursion limit: hence `_MAX_DEPTH`.
        """
        if threading.current_thread() is self._thread:
            raise UsageError(
                "a blocking gridkit call was made on gridkit's own network thread, where it could never end",
                "make the callback an async function and await the same method of gridkit.aio",
            )
        if how_to_wait() == "plain" or threading.current_thread() is not threading.main_thread():
            return None
        if len(self._waiting) >= _MAX_DEPTH and self._nested():
            return None
        if self._wait_loop is None:
            self._wait_loop = new_wait_loop()
        return self._wait_loop

    def _wait_plainly(self, coro: Coroutine[Any, Any, T], timeout: float | None) -> T:
        future: concurrent.futures.Future[T] | None = None
        end = None if timeout is None else time.monotonic() + timeout
        try:
            future = self.submit(coro)
            while not future.done():
                left = _POLL_SECONDS if end is None else min(_POLL_SECONDS, end - time.monotonic())
                if left <= 0:
                    break
                concurrent.futures.wait([future], left)
            return _result(future, timeout)
        except BaseException as error:
            if future is not None:
                future.cancel()
            _trim(error)
            raise
        finally:
            del future  # the error's traceback holds this frame, and the future holds the error

    def _wait_on_loop(self, coro: Coroutine[Any, Any, T], timeout: float | None, loop: WaitLoop) -> T:
        future: concurrent.futures.Future[T] | None = None
        if not self._nested():
            self._waiting.clear()  # an interrupt at the wrong moment may have left an entry
        place = _Place(loop, contextvars.copy_context())
        try:
            # Before anything is sent: the callback may come back at once.
            self._waiting.append(place)
            future = self.submit(coro)
            done = loop.create_future()
            future.add_done_callback(functools.partial(_wake_waiter, loop, done))
            if timeout is not None:
                loop.call_later(timeout, _mark, done)
            loop.call_soon(self._drain, context=place.context.copy())  # what was posted before anyone waited
            loop.run_until_complete(done)
            return _result(future, timeout)
        except BaseException as error:
            if future is not None:
                future.cancel()
            if not isinstance(error, Exception):
                self._wait_loop = None  # interrupted somewhere inside: no telling what state it is in
            _trim(error)
            raise
        finally:
            self._leave(place, loop)
            del future  # the error's traceback holds this frame, and the future holds the error

    def _leave(self, place: _Place, loop: WaitLoop) -> None:
        with contextlib.suppress(ValueError):
            self._waiting.remove(place)
        if not loop.is_running():  # this was the outermost wait on it
            if loop is not self._wait_loop:
                self._discard(loop)
            elif self._home is not None and self._unfinished(loop):
                with contextlib.suppress(RuntimeError):  # that loop is closed: they go on in the next wait
                    self._home.loop.call_soon_threadsafe(self._go_on, loop, self._home.loop)

    def _discard(self, loop: WaitLoop) -> None:
        unfinished = self._unfinished(loop)
        for task in unfinished:
            task.cancel()
        if unfinished:
            loop.run_until_complete(_all_done(unfinished))
        loop.close()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _mark(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


def _wake_waiter(loop: WaitLoop, done: asyncio.Future[None], _: object) -> None:
    with contextlib.suppress(RuntimeError):  # nobody waits any more: the loop was closed after an interrupt
        loop.call_soon_threadsafe(_mark, done)


def _result(future: concurrent.futures.Future[T], timeout: float | None) -> T:
    if not future.done():
        raise TimeoutError(f"no result within {timeout:g} seconds")
    try:
        return future.result()
    except concurrent.futures.CancelledError:
        # Passed on as it is, it would look like a cancellation of the caller's own task.
        raise NodeUnreachable("the call was cut off: its session, or the interpreter, is closing") from None


def _trim(error: BaseException) -> None:
    """Take the frames of asyncio and of this file from `error`; gridkit's own errors say all in their text."""
    if how_to_wait() == "plain":
        return
    traceback: TracebackType | None = None if isinstance(error, GridkitError) else error.__traceback__
    while traceback is not None:
        module = str(traceback.tb_frame.f_globals.get("__name__", ""))
        if module != __name__ and module.partition(".")[0] not in _PLUMBING:
            break
        traceback = traceback.tb_next
    error.__traceback__ = traceback


def _interrupted(fn: Callable[..., Any]) -> GridkitError:
    return GridkitError(f"the callback {getattr(fn, '__name__', repr(fn))} was interrupted")


async def _settle(posted: _Posted, awaitable: Awaitable[Any]) -> None:
    try:
        result = await awaitable
    except Exception as error:  # noqa: BLE001  # it belongs to the one who posted
        posted.future.set_exception(error)
    except BaseException:
        posted.future.set_exception(_interrupted(posted.fn))
        raise
    else:
        posted.future.set_result(result)


async def _all_done(tasks: list[asyncio.Task[None]]) -> None:
    """Wait until cancelled tasks have ended, but not for those that refuse to."""
    await asyncio.wait(tasks, timeout=_EXIT_SECONDS)


def _serve(loop: GridkitLoop) -> None:
    """The I/O thread: run `loop` until it is stopped, then cancel what is left, so that every waiter wakes up."""
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        tasks = list(asyncio.all_tasks(loop))
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(_all_done(tasks))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


BRIDGE = Bridge()
atexit.register(BRIDGE.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=BRIDGE._reset)


def sync(method: Callable[Concatenate[Core, P], Coroutine[Any, Any, R]]) -> Callable[Concatenate[Any, P], R]:
    """Make a plain method of an async one: for classes whose instances hold the async object as ``self._core``.

    Name, docstring, signature and types stay.

    >>> class AsyncGreeter:
    ...     async def greet(self, name: str) -> str:
    ...         return f"hello {name}"
    >>> class Greeter:
    ...     def __init__(self) -> None:
    ...         self._core = AsyncGreeter()
    ...     greet = sync(AsyncGreeter.greet)
    >>> Greeter().greet("Ada")
    'hello Ada'
    """

    @functools.wraps(method)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return BRIDGE.sync(method(self._core, *args, **kwargs))

    call.__signature__ = inspect.signature(method)  # type: ignore[attr-defined]
    return call
