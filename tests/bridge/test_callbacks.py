"""The user's callbacks: on the main thread, while it waits or its loop is idle."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
import traceback
from typing import Any

import pytest

from gridkit.bridge import Bridge
from tests.bridge.helpers import Echo, value_of


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
    started, waited = threading.Event(), threading.Event()

    async def slow() -> str:
        started.set()
        while not waited.is_set():
            await asyncio.sleep(0.002)
        return str(bridge.sync(value_of("do")) + await asyncio.wrap_future(bridge.submit(value_of("ne"))))

    async def until_started() -> None:
        while not started.is_set():
            await asyncio.sleep(0.002)

    async def kernel() -> str:
        future = bridge.post(slow)
        bridge.sync(until_started())
        waited.set()
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
