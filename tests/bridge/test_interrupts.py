"""Interrupts of waits, and the end of the process."""

from __future__ import annotations

import asyncio
import concurrent.futures
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gridkit.bridge import Bridge
from gridkit.errors import GridkitError
from gridkit.waitloop import NEST_LIBRARIES
from tests.bridge.helpers import Echo, value_of
from tests.echo import EchoServer
from tests.scripts import run_script
from tests.support import wait_for


@pytest.fixture(autouse=True)
def interrupts_raise() -> Iterator[None]:
    """A shell starts background jobs with SIGINT ignored; these tests are to pass there, too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt(when: Callable[[], object]) -> None:
    """Send the main thread a SIGINT as soon as `when()` is true."""

    def watch() -> None:
        wait_for(when)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def interrupt_next_sleep(server: EchoServer) -> None:
    """Send the main thread a SIGINT as soon as the server has been asked to sleep."""
    before = server.started.count("sleep")
    interrupt(lambda: server.started.count("sleep") > before)


def test_an_interrupt_ends_the_wait_cancels_the_call_and_leaves_all_usable(echo: Echo, server: EchoServer) -> None:
    before = len(server.cancelled)
    first = echo.bridge._wait_loop
    interrupt_next_sleep(server)
    with pytest.raises(KeyboardInterrupt) as caught:
        echo.call("sleep", 60)
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[1:] == ["call", "sync"]  # no frame of asyncio or nest_asyncio
    assert echo.call("echo", 1) == 1
    assert server.cancelled[before:] == ["sleep"]
    assert first is not None and first.is_closed()
    assert echo.bridge._wait_loop is not first


def test_an_interrupt_in_a_callbacks_own_call_ends_all_waits(echo: Echo, server: EchoServer) -> None:
    answers: list[concurrent.futures.Future[Any]] = []

    async def call_back() -> None:
        answers.append(echo.bridge.post(lambda: echo.call("sleep", 60)))
        await asyncio.sleep(60)

    interrupt_next_sleep(server)
    with pytest.raises(KeyboardInterrupt):
        echo.bridge.sync(call_back())
    with pytest.raises(GridkitError, match="interrupted"):
        answers[0].result(10)
    assert echo.call("echo", 1) == 1
    assert echo.bridge._waiting == []


def test_a_callback_that_catches_the_interrupt_lets_the_outer_wait_go_on(echo: Echo, server: EchoServer) -> None:
    def stubborn() -> str:
        try:
            echo.call("sleep", 60)
        except KeyboardInterrupt:
            return f"caught, {echo.call('echo', 'and on')}"
        return "not interrupted"

    echo.core.callbacks["stubborn"] = (stubborn, None)
    interrupt_next_sleep(server)
    assert echo.call("call_back", "stubborn", []) == ["caught, and on"]
    assert echo.call("echo", 1) == 1


def test_an_interrupt_also_ends_async_callbacks_under_way(bridge: Bridge) -> None:
    posted: list[concurrent.futures.Future[Any]] = []
    interrupt(lambda: bridge._tasks)
    with pytest.raises(KeyboardInterrupt):
        posted.append(bridge.post(value_of, 1, 60))
        bridge.sync(value_of(None, 60))
    with pytest.raises(GridkitError, match="value_of was interrupted"):
        posted[0].result(10)


def test_an_interrupt_of_a_plain_wait(monkeypatch: pytest.MonkeyPatch, bridge: Bridge) -> None:
    monkeypatch.setenv("GRIDKIT_WAIT", "plain")
    waiting = threading.Event()

    async def wait() -> None:
        waiting.set()
        await asyncio.sleep(60)

    interrupt(waiting.is_set)
    with pytest.raises(KeyboardInterrupt):
        bridge.sync(wait())
    assert bridge.sync(value_of(1)) == 1
    assert bridge._wait_loop is None


@pytest.mark.parametrize("how", [*NEST_LIBRARIES, "plain"])
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
