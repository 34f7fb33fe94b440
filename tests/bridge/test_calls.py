"""Plain calls over async sockets: results, errors, timeouts, threads, the sync face. (Kernels: tests/kernel.)"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import threading
import time
import traceback
import typing

import pytest

from gridkit.bridge import Bridge, sync
from gridkit.errors import NodeUnreachable, UsageError
from tests.bridge.helpers import Echo, fail_with, value_of
from tests.echo import EchoServer


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


def test_a_busy_main_thread_keeps_the_connection(bridge: Bridge) -> None:
    with EchoServer(ping_interval=0.1, ping_timeout=0.4) as strict:
        client = Echo(bridge, strict.url)
        time.sleep(1.5)
        assert client.call("echo", 1) == 1
        assert strict.connections == 1


def test_plain_waits_show_whole_tracebacks(monkeypatch: pytest.MonkeyPatch, bridge: Bridge) -> None:
    monkeypatch.setenv("GRIDKIT_WAIT", "plain")
    with pytest.raises(UsageError) as caught:
        bridge.sync(fail_with(UsageError("what")))
    assert "fail_with" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]


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
