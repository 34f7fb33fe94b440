"""`gridkit.rpc.RpcClient` from a notebook's cells: functions that print and call, interrupts, cells that run again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client.rpc_peer import SILENT, Peer, call_back, on_a_thread
from tests.client.test_rpc import slow
from tests.kernel.driver import Kernel
from tests.support import wait_for

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with on_a_thread(Peer()) as peer:
        peer.methods |= {"call_back": call_back, "slow": slow, "silent": lambda asked: SILENT}
        yield peer


@pytest.fixture(scope="module", params=[7, pytest.param(6, marks=pytest.mark.soak)], ids="ipykernel {}".format)
def kernel(request: pytest.FixtureRequest, peer: Peer) -> Iterator[Kernel]:
    started = Kernel(request.param)
    try:
        started.run(f"from gridkit.rpc import RpcClient; url = {peer.url!r}; client = RpcClient(url)")
        yield started
        started.run("client.close()")
        said = "".join(cell.text for cell in started.cells.values())
        assert "never retrieved" not in said and "Task was destroyed" not in said and "Unclosed" not in said, said
    finally:
        started.close()


def test_weak_spot_15_prints_land_in_the_cell_that_exposed_the_function(kernel: Kernel) -> None:
    """They appeared in whatever cell was current."""
    metric = "def metric(n):\n    print('scored', n)\n    return client.call('echo', {'n': n})\n"
    first = kernel.send(f"{metric}exposed = client.expose(metric)")
    kernel.finish([first])
    second = kernel.run("client.call('call_back', {'fn': exposed, 'args': [1]})")
    kernel.until_printed(first, "scored 1")
    assert second.result == "{'n': 1}" and second.text == ""
    third = kernel.send("client.call('call_back', {'fn': metric, 'args': [2]})")
    kernel.until_printed(third, "scored 2")


def test_progress_is_printed_under_the_call(kernel: Kernel) -> None:
    cell = kernel.run("client.call('slow', on_progress=lambda progress: print(progress.done, 'of', progress.total))")
    assert cell.result == "'done'" and "5 of 6\n" in cell.text


def test_an_interrupt_cancels_the_call_and_the_next_cell_works(kernel: Kernel, peer: Peer) -> None:
    before = len(peer.took), len(peer.cancelled)
    waiting = kernel.send("client.call('silent')")
    wait_for(lambda: len(peer.took) > before[0])
    kernel.interrupt()
    (cell,) = kernel.finish([waiting])
    assert cell.error == "KeyboardInterrupt"
    wait_for(lambda: len(peer.cancelled) > before[1])
    assert kernel.run("client.call('echo', {'n': 3})").result == "{'n': 3}"


def test_a_cell_that_awaits_may_call_too(kernel: Kernel) -> None:
    cell = kernel.run("import asyncio\nawait asyncio.sleep(0.01)\nclient.call('echo', {'n': 4})")
    assert cell.result == "{'n': 4}"


def test_a_cell_that_runs_again_closes_the_client_that_it_made(kernel: Kernel, peer: Peer) -> None:
    code = "again = RpcClient(url); again.call('echo', {'n': 5})"
    kernel.run(code)
    open_ = len(peer.open)
    kernel.run(code)
    wait_for(lambda: len(peer.open) == open_)


def test_errors_are_two_lines(kernel: Kernel) -> None:
    (cell,) = kernel.finish([kernel.send("RpcClient('nowhere')")])
    assert cell.error == "UsageError" and "'nowhere' isn't a node's address" in cell.traceback
    assert len(cell.traceback.splitlines()) == 2
