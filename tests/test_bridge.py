"""The bridge: sync calls over async sockets. (In real kernels: tests/kernel.)"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import typing
from collections.abc import Iterator
from typing import Any

import pytest

import gridkit.bridge as module
from gridkit.bridge import Bridge, sync, sync_function
from gridkit.errors import GridkitError, NodeUnreachable, UsageError
from tests.cached import ROOT, package_folder
from tests.echo import AsyncEchoClient, EchoServer

LIBRARIES = ("nest_asyncio", "nest_asyncio2")


@pytest.fixture(params=LIBRARIES)
def bridge(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bridge]:
    """A bridge of the test's own, on each of the two libraries (which patch a loop's class: so a class of its own)."""
    monkeypatch.setenv("GRIDKIT_WAIT", request.param)
    monkeypatch.setattr(module, "WaitLoop", type("WaitLoop", (module._Loop,), {}))
    made = Bridge()
    yield made
    made.close()


class Echo:
    """AsyncEchoClient driven through the test's own bridge."""

    def __init__(self, bridge: Bridge, url: str) -> None:
        self.bridge, self.core = bridge, AsyncEchoClient(bridge)
        bridge.sync(self.core.open(url))

    def call(self, name: str, *args: Any, timeout: float | None = None) -> Any:
        return self.bridge.sync(self.core.call(name, *args), timeout)


@pytest.fixture(scope="module")
def server() -> Iterator[EchoServer]:
    with EchoServer() as running:
        yield running


@pytest.fixture
def echo(bridge: Bridge, server: EchoServer) -> Iterator[Echo]:
    made = Echo(bridge, server.url)
    yield made
    bridge.sync(made.core.close())


async def value_of(value: Any, seconds: float = 0.0) -> Any:
    await asyncio.sleep(seconds)
    return value


async def fail_with(error: BaseException) -> None:
    raise error


def run_script(code: str, **env: str) -> str:
    """Run `code` in a fresh interpreter; what it printed. An unclosed loop or socket, and any other warning, fails."""
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


# ---------------------------------------------------------------------- plain calls


def test_a_call_returns_what_the_server_sent(echo: Echo) -> None:
    assert echo.call("echo", {"a": [1, 2]}) == {"a": [1, 2]}


def test_errors_of_the_coroutine_arrive_with_its_own_frames_only(bridge: Bridge) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        bridge.sync(fail_with(ZeroDivisionError("mine")))
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[1:] == ["sync", "fail_with"]


def test_gridkits_own_errors_show_no_inner_frames(bridge: Bridge) -> None:
    cause = ValueError("why")

    async def fail() -> None:
        raise UsageError("what", "this") from cause

    with pytest.raises(UsageError, match="what\nTry: this") as caught:
        bridge.sync(fail())
    assert "fail" not in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert caught.value.__cause__ is cause


def test_a_timeout_cancels_the_call_and_the_server_hears_of_it(echo: Echo, server: EchoServer) -> None:
    before = len(server.cancelled)
    with pytest.raises(TimeoutError, match=r"0\.05 seconds"):
        echo.call("sleep", 60, timeout=0.05)
    assert echo.call("echo", 1) == 1
    assert server.cancelled[before:] == ["sleep"]


def test_a_timeout_error_of_the_coroutine_itself_is_passed_on(bridge: Bridge) -> None:
    with pytest.raises(TimeoutError, match="from the server"):
        bridge.sync(fail_with(TimeoutError("from the server")), timeout=30)


def test_a_coroutine_cancelled_by_others_is_no_cancellation_of_the_caller(bridge: Bridge) -> None:
    future: list[concurrent.futures.Future[None]] = []

    async def main() -> str:
        try:
            bridge.sync(cancel_me())
        except NodeUnreachable as error:
            return str(error)
        return "not cut off"

    async def cancel_me() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)
        await asyncio.sleep(60)

    assert "cut off" in asyncio.run(main())
    assert not future


def test_a_blocking_call_on_the_io_thread_raises_at_once(bridge: Bridge) -> None:
    async def wrong() -> None:
        bridge.sync(value_of(1))

    with pytest.raises(UsageError, match=r"network thread.*\n.*gridkit\.aio"):
        bridge.sync(wrong(), timeout=10)


def test_the_callers_context_goes_along(bridge: Bridge) -> None:
    colour = contextvars.ContextVar("colour", default="none")
    colour.set("green")

    async def look() -> str:
        return colour.get()

    assert bridge.sync(look()) == "green"


def test_calls_from_many_threads_at_once(echo: Echo) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: echo.call("echo", i), range(64))) == list(range(64))


def test_a_thread_other_than_main_gets_no_loop_of_its_own(bridge: Bridge) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: bridge.sync(value_of(3))).result() == 3
        with pytest.raises(TimeoutError):
            pool.submit(lambda: bridge.sync(value_of(3, 60), timeout=0.05)).result()
    assert bridge._wait_loop is None


def test_inside_a_coroutine(echo: Echo) -> None:
    async def main() -> list[int]:
        first = echo.call("echo", 1)
        second = await asyncio.wrap_future(echo.bridge.submit(echo.core.call("echo", 2)))
        return [first, second]

    assert asyncio.run(main()) == [1, 2]


def test_submit_starts_at_once_and_cancelling_its_future_cancels(bridge: Bridge) -> None:
    ended = threading.Event()

    async def until_cancelled() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    future = bridge.submit(until_cancelled())
    bridge.sync(value_of(None))
    future.cancel()
    assert ended.wait(10)


def test_an_io_thread_that_died_is_replaced(bridge: Bridge) -> None:
    first = bridge.io
    first.call_soon_threadsafe(first.stop)
    assert bridge._thread is not None
    bridge._thread.join(10)
    assert bridge.sync(value_of("again")) == "again"
    assert bridge.io is not first


def test_when_the_io_loop_ends_every_waiter_wakes(bridge: Bridge) -> None:
    async def end() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(60)

    with pytest.raises(NodeUnreachable, match="cut off"):
        bridge.sync(end())


def test_after_close_a_call_says_so(bridge: Bridge) -> None:
    bridge.close()
    bridge.close()
    with pytest.raises(NodeUnreachable, match="ending"):
        bridge.sync(value_of(1))


# ---------------------------------------------------------------------- callbacks


def test_a_callback_runs_on_the_main_thread_while_it_waits(echo: Echo) -> None:
    seen: list[threading.Thread] = []

    def double(x: int) -> int:
        seen.append(threading.current_thread())
        return 2 * x

    echo.core.callbacks["double"] = (double, None)
    assert echo.call("call_back", "double", [1], [2], [3]) == [2, 4, 6]
    assert seen == [threading.main_thread()] * 3


def test_callbacks_may_make_sync_calls(echo: Echo) -> None:
    echo.core.callbacks["ask"] = (lambda x: echo.call("echo", x + 1), None)
    assert echo.call("call_back", "ask", [1], [2], [3]) == [2, 3, 4]


def test_async_callbacks_may_await_and_make_sync_calls(echo: Echo) -> None:
    async def ask(x: int) -> list[int]:
        first = echo.call("echo", x)
        await asyncio.sleep(0.001)
        task = asyncio.current_task()
        second = echo.call("echo", x + 1)
        assert asyncio.current_task() is task
        async with asyncio.timeout(10):  # needs a current task, as TaskGroup does
            await asyncio.sleep(0.001)
        return [first, second]

    echo.core.callbacks["ask"] = (ask, None)
    assert echo.call("call_back", "ask", *([i] for i in range(20))) == [[i, i + 1] for i in range(20)]


def test_callbacks_in_callbacks_in_callbacks(echo: Echo) -> None:
    echo.core.callbacks["down"] = (lambda n: 1 + (echo.call("call_back", "down", [n - 1])[0] if n else 0), None)
    assert echo.call("call_back", "down", [10]) == [11]


def test_a_callback_may_run_a_loop_of_its_own(echo: Echo) -> None:
    """User code does so after nest_asyncio.apply(): such calls are nested, though their loop is not the wait loop."""

    async def inner() -> Any:
        return echo.call("echo", 1)

    def run_another_loop() -> Any:
        outer = asyncio.get_running_loop()
        loop = asyncio.new_event_loop()
        asyncio._set_running_loop(None)
        try:
            return loop.run_until_complete(inner())
        finally:
            asyncio._set_running_loop(outer)
            loop.close()

    async def call_back() -> list[Any]:
        return [await asyncio.wrap_future(echo.bridge.post(run_another_loop)) for _ in range(3)]

    assert echo.bridge.sync(call_back(), timeout=10) == [1, 1, 1]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_flood_of_callbacks_that_call_back_in_meets_no_recursion_limit(echo: Echo, kind: str) -> None:
    depths: list[int] = []

    def ask(x: int) -> Any:
        depths.append(sum(1 for _ in traceback.walk_stack(None)))
        return echo.call("echo", x)

    async def ask_async(x: int) -> Any:
        await asyncio.sleep(0)
        return ask(x)

    echo.core.callbacks["ask"] = (ask if kind == "sync" else ask_async, None)
    assert echo.call("call_back", "ask", *([i] for i in range(400))) == list(range(400))
    assert max(depths) < 600


def test_an_error_in_a_callback_goes_to_the_one_who_posted(echo: Echo) -> None:
    echo.core.callbacks["boom"] = (lambda: 1 / 0, None)

    async def boom() -> None:
        raise KeyError("async")

    echo.core.callbacks["async boom"] = (boom, None)
    assert echo.call("call_back", "boom", []) == ["ZeroDivisionError: division by zero"]
    assert echo.call("call_back", "async boom", []) == ["KeyError: 'async'"]
    assert echo.call("echo", 1) == 1


def test_what_was_posted_before_anyone_waited_runs_in_the_next_wait(bridge: Bridge) -> None:
    future = bridge.post(lambda x: x + 1, 1)
    cancelled = bridge.post(lambda: pytest.fail("was cancelled"))
    cancelled.cancel()
    assert not future.done()
    bridge.sync(value_of(None, 0.01))
    assert future.result(0) == 2


def test_a_callback_runs_in_the_context_it_was_given_else_in_the_waiters(bridge: Bridge) -> None:
    cell = contextvars.ContextVar("cell", default="none")
    cell.set("registering")
    registering = contextvars.copy_context()
    cell.set("waiting")
    names: list[str] = []

    def note() -> None:
        names.append(cell.get())
        cell.set("changed")  # must reach neither the next callback nor the cell

    async def note_async() -> None:
        await asyncio.sleep(0)
        note()

    async def post() -> None:
        for fn in (note, note_async):
            for context in (registering, registering, None, None):
                await asyncio.wrap_future(bridge.post(fn, context=context))

    bridge.sync(post())
    assert names == ["registering", "registering", "waiting", "waiting"] * 2
    assert cell.get() == "waiting"


def test_an_idle_loop_runs_callbacks(echo: Echo) -> None:
    """The kernel between two cells: its loop runs, nobody waits."""
    ran = []
    echo.core.callbacks["note"] = (lambda x: ran.append((x, threading.current_thread())), None)

    async def kernel() -> None:
        echo.call("call_back_later", 0.02, "note", 7)
        while not ran:
            await asyncio.sleep(0.005)

    asyncio.run(asyncio.wait_for(kernel(), 10))
    assert ran == [(7, threading.main_thread())]


def test_an_async_callback_that_outlives_its_wait_goes_on_while_the_loop_is_idle(bridge: Bridge) -> None:
    started = threading.Event()

    async def slow() -> str:
        started.set()
        for _ in range(3):
            await asyncio.sleep(0.01)
        return str(bridge.sync(value_of("do")) + await asyncio.wrap_future(bridge.submit(value_of("ne"))))

    async def kernel() -> str:
        future = bridge.post(slow)
        bridge.sync(value_of(None, 0.005))
        assert started.is_set() and not future.done()
        result = str(await asyncio.wrap_future(future))
        return result + str(await asyncio.wrap_future(bridge.post(lambda: ", and the loop is still known")))

    assert asyncio.run(asyncio.wait_for(kernel(), 10)) == "done, and the loop is still known"


def test_no_callback_is_lost_between_a_wait_and_an_idle_loop(bridge: Bridge) -> None:
    """Post from the I/O thread at every moment while waits come and go (the race that two inboxes lose)."""
    count = 300
    done: list[concurrent.futures.Future[int]] = []

    async def poster() -> None:
        for i in range(count):
            done.append(bridge.post(lambda i=i: i))
            await asyncio.sleep(0.0005)

    async def kernel() -> list[int]:
        posting = bridge.submit(poster())
        while not posting.done():
            bridge.sync(value_of(None, 0.001))
            await asyncio.sleep(0.001)
        return [await asyncio.wrap_future(future) for future in done]

    assert asyncio.run(asyncio.wait_for(kernel(), 60)) == list(range(count))


# ---------------------------------------------------------------------- interrupts


@pytest.fixture(autouse=True)
def interrupts_raise() -> Iterator[None]:
    """A shell starts background jobs with SIGINT ignored; these tests are to pass there, too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_soon(seconds: float = 0.1) -> None:
    threading.Timer(seconds, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)).start()


def test_an_interrupt_ends_the_wait_cancels_the_call_and_leaves_all_usable(echo: Echo, server: EchoServer) -> None:
    before = len(server.cancelled)
    first = echo.bridge._wait_loop
    interrupt_soon()
    with pytest.raises(KeyboardInterrupt) as caught:
        echo.call("sleep", 60)
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[1:] == ["call", "sync"]  # no frame of asyncio or nest_asyncio
    assert echo.call("echo", 1) == 1
    assert server.cancelled[before:] == ["sleep"]
    assert first is not None and first.is_closed()
    assert echo.bridge._wait_loop is not first


def test_an_interrupt_in_a_callbacks_own_call_ends_all_waits(echo: Echo) -> None:
    answers: list[concurrent.futures.Future[Any]] = []

    async def call_back() -> None:
        answers.append(echo.bridge.post(lambda: echo.call("sleep", 60)))
        await asyncio.sleep(60)

    interrupt_soon()
    with pytest.raises(KeyboardInterrupt):
        echo.bridge.sync(call_back())
    with pytest.raises(GridkitError, match="interrupted"):
        answers[0].result(10)
    assert echo.call("echo", 1) == 1
    assert echo.bridge._waiting == []


def test_a_callback_that_catches_the_interrupt_lets_the_outer_wait_go_on(echo: Echo) -> None:
    def stubborn() -> str:
        try:
            echo.call("sleep", 60)
        except KeyboardInterrupt:
            return f"caught, {echo.call('echo', 'and on')}"
        return "not interrupted"

    echo.core.callbacks["stubborn"] = (stubborn, None)
    interrupt_soon()
    assert echo.call("call_back", "stubborn", []) == ["caught, and on"]
    assert echo.call("echo", 1) == 1


def test_an_interrupt_also_ends_async_callbacks_under_way(bridge: Bridge) -> None:
    posted: list[concurrent.futures.Future[Any]] = []
    interrupt_soon()
    with pytest.raises(KeyboardInterrupt):
        posted.append(bridge.post(value_of, 1, 60))
        bridge.sync(value_of(None, 60))
    with pytest.raises(GridkitError, match="value_of was interrupted"):
        posted[0].result(10)


def test_an_interrupt_of_a_plain_wait(monkeypatch: pytest.MonkeyPatch, bridge: Bridge) -> None:
    monkeypatch.setenv("GRIDKIT_WAIT", "plain")
    interrupt_soon()
    with pytest.raises(KeyboardInterrupt):
        bridge.sync(value_of(None, 60))
    assert bridge.sync(value_of(1)) == 1
    assert bridge._wait_loop is None


@pytest.mark.parametrize("how", [*LIBRARIES, "plain"])
def test_an_interrupt_of_a_wait_that_blocks_a_loop_with_its_own_handler(how: str) -> None:
    """asyncio.run's handler cancels the main task, which can't hear of it here; it is called all the same."""
    said = run_script(
        """
        import asyncio, signal, threading, os
        from gridkit.bridge import BRIDGE
        signal.signal(signal.SIGINT, signal.default_int_handler)
        async def value_of(value, seconds=0):
            await asyncio.sleep(seconds)
            return value
        async def main():
            before = signal.getsignal(signal.SIGINT)
            assert before is not signal.default_int_handler
            BRIDGE.sync(value_of(1))
            threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            try: BRIDGE.sync(value_of(None, 600))
            except KeyboardInterrupt: print("interrupted", BRIDGE.sync(value_of(2)))
            assert signal.getsignal(signal.SIGINT) is before
            await asyncio.sleep(600)
        try: asyncio.run(main())
        except KeyboardInterrupt: print("and cancelled")
        """,
        GRIDKIT_WAIT=how,
    )
    assert said == "interrupted 2\nand cancelled\n"


# ---------------------------------------------------------------------- keepalive


def test_a_busy_main_thread_keeps_the_connection(bridge: Bridge) -> None:
    with EchoServer(ping_interval=0.1, ping_timeout=0.4) as strict:
        client = Echo(bridge, strict.url)
        time.sleep(1.5)
        assert client.call("echo", 1) == 1
        assert strict.connections == 1


# ---------------------------------------------------------------------- settings, facade


def test_plain_waits_show_whole_tracebacks(monkeypatch: pytest.MonkeyPatch, bridge: Bridge) -> None:
    monkeypatch.setenv("GRIDKIT_WAIT", "plain")
    with pytest.raises(UsageError) as caught:
        bridge.sync(fail_with(UsageError("what")))
    assert "fail_with" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]


def test_an_unknown_way_to_wait_is_refused(monkeypatch: pytest.MonkeyPatch, bridge: Bridge) -> None:
    monkeypatch.setenv("GRIDKIT_WAIT", "patiently")
    coro = value_of(1)
    with pytest.raises(UsageError, match=r"'patiently'\nTry: .*plain, nest_asyncio2, nest_asyncio"):
        bridge.sync(coro)
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


class AsyncCounter:
    def __init__(self) -> None:
        self.total = 0

    async def add(self, amount: int, *, times: int = 1) -> int:
        """Add `amount`, some times."""
        self.total += amount * times
        return self.total


class Counter:
    def __init__(self) -> None:
        self._core = AsyncCounter()

    add = sync(AsyncCounter.add)


def test_the_sync_face_keeps_name_doc_signature_and_types() -> None:
    assert Counter().add(2, times=3) == 6
    assert Counter.add.__name__ == "add"
    assert Counter.add.__doc__ == AsyncCounter.add.__doc__
    assert inspect.signature(Counter().add) == inspect.signature(AsyncCounter().add)
    assert typing.get_type_hints(Counter.add) == {"amount": int, "times": int, "return": int}
    assert not inspect.iscoroutinefunction(Counter.add)
    with pytest.raises(TypeError, match="amount"):
        Counter().add()  # type: ignore[call-arg]


def test_sync_function() -> None:
    plain = sync_function(value_of)
    assert plain("x", seconds=0.0) == "x"
    assert inspect.signature(plain) == inspect.signature(value_of)


# ---------------------------------------------------------------------- whole processes


@pytest.mark.parametrize("library", LIBRARIES)
def test_nothing_is_started_before_it_is_needed_and_asyncio_is_left_as_it_was(library: str) -> None:
    said = run_script(
        f"""
        import asyncio, sys, threading
        from gridkit.bridge import BRIDGE
        async def one(): return 1
        assert threading.active_count() == 1 and not {{"nest_asyncio", "nest_asyncio2"}} & set(sys.modules)
        thread = threading.Thread(target=lambda: BRIDGE.sync(one())); thread.start(); thread.join()
        assert not {{"nest_asyncio", "nest_asyncio2"}} & set(sys.modules), "only the main thread needs it"
        def names(): return (
            asyncio.run, asyncio.Task, asyncio.Future, asyncio.get_event_loop, asyncio.tasks.Task,
            type(asyncio.get_event_loop_policy()).__dict__.get("get_event_loop"), hasattr(asyncio, "_nest_patched"))
        before = names()
        assert BRIDGE.sync(one()) == 1
        assert {{"nest_asyncio", "nest_asyncio2"}} & set(sys.modules) == {{{library!r}}}
        assert names() == before
        assert "_nest_patched" not in vars(asyncio.SelectorEventLoop)
        print(asyncio.run(one()))
        """,
        GRIDKIT_WAIT=library,
    )
    assert said == "1\n"


def test_the_maintained_library_is_preferred_and_the_old_one_will_do() -> None:
    code = """
        import sys
        if {hidden}: sys.modules["nest_asyncio2"] = None
        from gridkit.bridge import BRIDGE
        async def one(): return 1
        BRIDGE.sync(one())
        print(*sorted({{"nest_asyncio", "nest_asyncio2"}} & {{name for name, m in sys.modules.items() if m}}))
        """
    assert run_script(code.format(hidden=False), GRIDKIT_WAIT="") == "nest_asyncio2\n"
    assert run_script(code.format(hidden=True), GRIDKIT_WAIT="") == "nest_asyncio\n"


@pytest.mark.parametrize("users", LIBRARIES)
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_user_who_patched_asyncio_is_still_fine(users: str, library: str) -> None:
    said = run_script(
        f"""
        import asyncio, {users}, warnings
        warnings.simplefilter("ignore", ResourceWarning)  # their asyncio.run closes no loop
        {users}.apply()
        from gridkit.bridge import BRIDGE
        async def one(): return 1
        async def call_back(): return await asyncio.wrap_future(BRIDGE.post(lambda: BRIDGE.sync(one())))
        async def main(): return BRIDGE.sync(call_back()) + asyncio.run(one())
        print(asyncio.run(main()))
        """,
        GRIDKIT_WAIT=library,
    )
    assert said == "2\n"


def test_a_call_in_flight_at_exit_ends_quietly() -> None:
    said = run_script(
        """
        import asyncio
        from gridkit.bridge import BRIDGE
        async def for_ever():
            try: await asyncio.sleep(600)
            finally: print("cleaned up", flush=True)
        async def one(): return 1
        BRIDGE.submit(for_ever())
        BRIDGE.sync(one())
        """
    )
    assert said == "cleaned up\n"


def test_a_call_while_the_interpreter_ends_raises_instead_of_hanging() -> None:
    said = run_script(
        """
        import atexit
        def late():
            try: BRIDGE.sync(one())
            except ConnectionError as error: print(error)
        atexit.register(late)  # runs after what was registered later: the bridge's own
        from gridkit.bridge import BRIDGE
        async def one(): return 1
        BRIDGE.sync(one())
        """
    )
    assert "ending" in said


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_a_bridge_of_its_own_and_leaves_the_parents_alone() -> None:
    with EchoServer() as server:
        said = run_script(
            f"""
            import gc, os, sys, warnings
            warnings.simplefilter("ignore")  # fork with threads; the parent's sockets, which the child just drops
            from tests.echo import BRIDGE, EchoClient
            client = EchoClient({server.url!r})
            assert client.call("echo", 1) == 1
            BRIDGE._lock.acquire()  # as if another thread were starting the I/O thread just now
            child = os.fork()
            if child == 0:
                print("child", EchoClient({server.url!r}).call("echo", 2), flush=True)
                gc.collect()  # finalises the parent's loops, which must not reach the parent's epoll objects
                sys.exit(0)
            BRIDGE._lock.release()
            assert os.waitpid(child, 0)[1] == 0
            print("parent", client.call("echo", 3))
            client.close()
            """
        )
    assert said == "child 2\nparent 3\n"


def test_under_uvloop() -> None:
    said = run_script(
        """
        import asyncio, uvloop
        from gridkit.bridge import BRIDGE
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        async def one(): return 1
        async def call_back(): return await asyncio.wrap_future(BRIDGE.post(lambda: BRIDGE.sync(one())))
        async def main():
            assert type(asyncio.get_running_loop()).__module__ == "uvloop"
            later = BRIDGE.post(one)
            return BRIDGE.sync(call_back()) + await asyncio.wrap_future(BRIDGE.post(one))
        print(BRIDGE.sync(call_back()), asyncio.run(main()))
        """,
        PYTHONPATH=os.pathsep.join([str(ROOT), str(package_folder("uvloop", "uvloop"))]),
    )
    assert said == "1 2\n"
