"""The bridge in real kernels: ipykernel 6 and 7, each with both nest libraries, against a real WebSocket server."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from tests.echo import EchoServer
from tests.kernel.driver import Kernel

pytestmark = pytest.mark.kernel

BLOCKED_SECONDS = 60
SETUP = """
import asyncio, threading, time
from tests.echo import BRIDGE, EchoClient
client = EchoClient({url!r})
def on_main(): return threading.current_thread() is threading.main_thread()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[EchoServer]:
    with EchoServer() as running:
        yield running


@pytest.fixture(
    scope="module",
    params=[(7, "nest_asyncio2"), (7, "nest_asyncio"), (6, "nest_asyncio2"), (6, "nest_asyncio")],
    ids=str,
)
def kernel(request: pytest.FixtureRequest, server: EchoServer) -> Iterator[Kernel]:
    major, library = request.param
    started = Kernel(major, {"GRIDKIT_WAIT": library})
    try:
        started.run(SETUP.format(url=server.url))
        assert started.run(f"import sys; {library!r} in sys.modules").result == "True"
        yield started
    finally:
        started.close()


@pytest.fixture(scope="module", autouse=True)
def blocked() -> Iterator[dict[int, tuple[Kernel, str]]]:
    """A kernel of each version, asleep for a minute while the other tests run; the last test looks at them."""
    with EchoServer(ping_interval=3, ping_timeout=5) as strict:
        cells = {}
        for major in (6, 7):
            kernel = Kernel(major)
            kernel.run(SETUP.format(url=strict.url))
            # For comparison a connection on the kernel's own loop, which a blocked cell does starve.
            kernel.run(f"import websockets; starved = await websockets.connect({strict.url!r}, proxy=None)")
            cells[major] = (kernel, kernel.send(f"time.sleep({BLOCKED_SECONDS}); print(client.call('echo', 'alive'))"))
        yield cells
        for kernel, _ in cells.values():
            kernel.close()


def test_run_all_with_a_blocking_wait_loses_no_cell(kernel: Kernel) -> None:
    codes = [
        "print('first'); client.call('sleep', 1)",
        "print('second')",
        "client.call('echo', 3)",
        "await asyncio.sleep(0); 4",
    ]
    first, second, third, fourth = kernel.finish([kernel.send(code) for code in codes])
    assert (first.text, second.text, third.result, fourth.result) == ("first\n", "second\n", "3", "4")


def test_run_all_with_callbacks_that_wait_in_turn_loses_no_cell(kernel: Kernel) -> None:
    kernel.run(
        "async def ask(x):\n    await asyncio.sleep(0.05)\n    return client.call('echo', x)\nclient.on('ask', ask)"
    )
    codes = ["client.call('call_back', 'ask', *([i] for i in range(20)))", "5", "client.call('echo', 6)", "7"]
    cells = kernel.finish([kernel.send(code) for code in codes])
    assert [cell.result for cell in cells] == [str(list(range(20))), "5", "6", "7"]


@pytest.mark.parametrize(
    "define",
    [
        "def back(x): return [x, on_main()]",
        "def back(x): return [client.call('echo', x), on_main()]",
        "async def back(x):\n    await asyncio.sleep(0.01)\n    return [x, on_main()]",
        "async def back(x):\n    await asyncio.sleep(0)\n    return [client.call('echo', x), on_main()]",
    ],
    ids=["sync", "sync that calls", "async", "async that calls"],
)
def test_a_callback_runs_on_the_main_thread_while_a_cell_waits(kernel: Kernel, define: str) -> None:
    kernel.run(f"{define}\nclient.on('back', back)")
    assert kernel.run("client.call('call_back', 'back', [1], [2])").result == "[[1, True], [2, True]]"


def test_a_callback_runs_while_the_kernel_is_idle(kernel: Kernel) -> None:
    kernel.run("came = []\nclient.on('note', lambda x: came.append(client.call('echo', x)))")
    kernel.run("client.call('call_back_later', 0.05, 'note', 8)")
    time.sleep(0.5)
    # This cell makes no call of gridkit's, so it can't have been the one that ran the callback.
    assert kernel.run("came").result == "[8]"


def test_a_callback_runs_while_a_cell_awaits(kernel: Kernel) -> None:
    code = """
    came = asyncio.Event()
    client.on('note', came.set)
    client.call('call_back_later', 0.05, 'note')
    await asyncio.wait_for(came.wait(), 10)
    """
    kernel.run(code)


def test_an_interrupt_ends_the_wait_quickly_and_the_next_call_works(kernel: Kernel, server: EchoServer) -> None:
    before = len(server.cancelled)
    name = kernel.send("print('waiting', flush=True); client.call('sleep', 600)")
    kernel.until_printed(name, "waiting")
    time.sleep(0.2)
    kernel.interrupt()
    (cell,) = kernel.finish([name], seconds=10)
    assert (cell.reply, cell.error) == ("error", "KeyboardInterrupt")
    assert "nest_asyncio" not in cell.traceback and "selectors" not in cell.traceback
    assert kernel.run("client.call('echo', 9)").result == "9"
    assert server.cancelled[before:] == ["sleep"]


def test_an_interrupt_of_a_blocking_call_in_a_cell_with_await(kernel: Kernel) -> None:
    """For such cells ipykernel sets an interrupt handler of its own, which needs the loop that is blocked here."""
    name = kernel.send("await asyncio.sleep(0); print('waiting', flush=True); client.call('sleep', 600)")
    kernel.until_printed(name, "waiting")
    time.sleep(0.2)
    kernel.interrupt()
    (cell,) = kernel.finish([name], seconds=10)
    assert cell.reply == "error"
    assert kernel.run("client.call('echo', 9)").result == "9"


def test_an_interrupt_while_a_callback_waits(kernel: Kernel) -> None:
    kernel.run(
        "def back():\n    print('in the callback', flush=True)\n    client.call('sleep', 600)\nclient.on('back', back)"
    )
    name = kernel.send("client.call('call_back', 'back', [])")
    kernel.until_printed(name, "in the callback")
    kernel.interrupt()
    (cell,) = kernel.finish([name], seconds=10)
    assert cell.error == "KeyboardInterrupt"
    assert "back()" in re.sub(r"\x1b\[[0-9;]*m", "", cell.traceback)  # the user's own frame is shown
    assert kernel.run("client.call('echo', 9)").result == "9"


def test_prints_in_callbacks_land_in_the_cell_that_waits(kernel: Kernel) -> None:
    kernel.run("def say(i): print('callback', i)\nclient.on('say', say)")
    one = kernel.send("client.call('call_back', 'say', [1], [2]); print('end 1')")
    two = kernel.send("client.call('call_back', 'say', [3]); print('end 2')")
    first, second = kernel.finish([one, two])
    kernel.run("time.sleep(0.3)")  # whatever strays would have come by now
    assert first.text == "callback 1\ncallback 2\nend 1\n"
    assert second.text == "callback 3\nend 2\n"


def test_prints_of_a_callback_bound_to_its_cell_land_there_even_while_another_waits(kernel: Kernel) -> None:
    code = """
    def say(i): print('callback', i)
    async def say_later(i):
        await asyncio.sleep(0.01)
        say(i)
    client.on('say', say, here=True)
    client.on('say later', say_later, here=True)
    print('registered')
    """
    registering = kernel.send(code)
    waiting = kernel.send(
        "client.call('call_back', 'say', [1], [2]); client.call('call_back', 'say later', [3]); print('end')"
    )
    first, second = kernel.finish([registering, waiting])
    kernel.run("time.sleep(0.3)")
    assert first.text == "registered\ncallback 1\ncallback 2\ncallback 3\n"
    assert second.text == "end\n"


def test_calls_from_threads_and_inside_coroutines(kernel: Kernel) -> None:
    code = """
    from concurrent.futures import ThreadPoolExecutor
    async def inside(): return client.call('echo', 'coroutine')
    with ThreadPoolExecutor(3) as pool:
        from_threads = list(pool.map(lambda i: client.call('echo', i), range(3)))
    from_threads, await inside()
    """
    assert kernel.run(code).result == "([0, 1, 2], 'coroutine')"


def test_the_kernels_own_loop_stays_as_it_was(kernel: Kernel) -> None:
    code = """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        task = group.create_task(asyncio.sleep(0, 'done'))
    hasattr(type(loop), '_nest_patched'), hasattr(asyncio, '_nest_patched'), task.result()
    """
    assert kernel.run(code).result == "(False, False, 'done')"


@pytest.mark.soak
@pytest.mark.timeout(180)
@pytest.mark.parametrize("major", [6, 7])
def test_a_blocked_cell_of_a_minute_keeps_the_connection(blocked: dict[int, tuple[Kernel, str]], major: int) -> None:
    kernel, name = blocked[major]
    (cell,) = kernel.finish([name], seconds=BLOCKED_SECONDS + 30)
    assert (cell.reply, cell.text) == ("ok", "alive\n"), cell.traceback
    # The server does drop a client that answers no pings: the test could have failed.
    starved = kernel.send("await starved.recv()")
    assert kernel.finish([starved])[0].error == "ConnectionClosedError"
