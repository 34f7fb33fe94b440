"""`gridkit.RpcClient` in plain cells and scripts."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gridkit.client import rpc as aio_rpc
from gridkit.client.rpc_handlers import Handlers
from gridkit.errors import NodeUnreachable, UsageError
from gridkit.rpc import Progress, RpcClient
from gridkit.wire.rpc.v1 import TO_CLIENT
from tests.client.rpc_peer import SILENT, Peer, call_back, on_a_thread
from tests.client.test_rpc import slow
from tests.support import wait_for


@pytest.fixture
def peer() -> Iterator[Peer]:
    with on_a_thread(Peer()) as peer:
        peer.methods |= {"call_back": call_back, "slow": slow, "silent": lambda asked: SILENT}
        yield peer


def test_call_and_close(peer: Peer) -> None:
    client = RpcClient(peer.url)
    assert client.connect("key", retries=1, delay=0.1)["session_id"] in peer.sessions
    assert client.call("echo", {"x": np.arange(3)})["x"].tolist() == [0, 1, 2]
    assert client.connected and client.url == peer.url and client.default_timeout == 30
    assert repr(client) == f"RpcClient('{peer.url}', connected)"
    client.close()
    with pytest.raises(NodeUnreachable):
        client.call("echo")
    with client:
        assert client.call("echo", {"n": 1}) == {"n": 1}
    assert repr(client) == f"RpcClient('{peer.url}', closed)"


def test_weak_spot_3_a_function_uses_the_client_as_a_cell_does(peer: Peer) -> None:
    """It deadlocked. Nested, on a thread, as a coroutine function."""
    with RpcClient(peer.url) as client:

        def deep(n: int) -> Any:
            return (
                client.call("echo", {"n": n}) if n == 0 else [client.call("call_back", {"fn": deep, "args": [n - 1]})]
            )

        assert client.call("call_back", {"fn": deep, "args": [3]}) == [[[{"n": 0}]]]

        async def coroutine(n: int) -> int:
            return n + 1

        with client.expose(coroutine) as exposed:
            assert client.call("call_back", {"fn": exposed, "args": [1]}) == 2
        assert [called.function for called in client.called] == ["deep"] * 4 + ["coroutine"]

        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(client.call("call_back", {"fn": deep, "args": [1]})))
        thread.start()
        thread.join(10)
        assert found == [[{"n": 0}]]


def test_progress_is_told_where_the_call_waits(peer: Peer) -> None:
    told: list[tuple[Progress, threading.Thread]] = []
    with RpcClient(peer.url) as client:
        note = lambda progress: told.append((progress, threading.current_thread()))  # noqa: E731
        assert client.call("slow", {"seconds": 0.15}, timeout=0.6, on_progress=note) == "done"
        with pytest.raises(ZeroDivisionError):
            client.call("slow", on_progress=lambda progress: 1 // 0)
    assert told and told[-1][0].total == 6 and {thread for _, thread in told} == {threading.main_thread()}


def test_weak_spot_11_an_interrupt_cancels_the_call_on_the_node(peer: Peer) -> None:
    with RpcClient(peer.url) as client:
        client.connect()

        def interrupt() -> None:
            wait_for(lambda: "silent" in peer.took)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            client.call("silent")
        thread.join()
        wait_for(lambda: peer.cancelled == [1])
        assert client.call("echo", {"n": 1}) == {"n": 1}


def test_handlers_of_a_subclass_are_called(peer: Peer) -> None:
    class Mine(RpcClient):
        seen: list[str]

        async def rpc_create_node(self, params: dict[str, Any]) -> dict[str, str]:
            self.seen.append(params["name"])
            with pytest.raises(UsageError):
                self.call("echo")
            return await super().rpc_create_node(params)

    with Mine(peer.url) as client:
        client.seen = []
        peer.session.tell("create_node", node_id=1, name="AddBackward0")
        client.call("echo")
        assert client.seen == ["AddBackward0"]


def test_every_handler_of_the_protocol_is_there() -> None:
    for kind in (Handlers, aio_rpc.RpcClient, RpcClient):
        handlers = {name.removeprefix("rpc_") for name in dir(kind) if name.startswith("rpc_")}
        handlers |= {name.removeprefix("rpc_") for name in vars(kind) if name.startswith("rpc_")}
        assert handlers == set(TO_CLIENT)


def test_a_client_that_nobody_holds_is_closed(peer: Peer) -> None:
    client = RpcClient(peer.url)
    client.call("echo")
    gone = weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None
    wait_for(lambda: not peer.open)


def test_prints_of_functions_and_lines_of_the_node_are_seen(peer: Peer, capsys: pytest.CaptureFixture[str]) -> None:
    with RpcClient(peer.url) as client:
        client.call("call_back", {"fn": lambda: print("from the function")})
        peer.session.tell("log", level="info", text="from the node")
        client.call("echo")
        seen: list[str] = []
        wait_for(lambda: client.call("echo") == {} and "from the node" in "".join(_noted(capsys, seen)))
    assert "".join(seen) == "from the function\nfrom the node\n"


def _noted(capsys: pytest.CaptureFixture[str], seen: list[str]) -> list[str]:
    seen.append(capsys.readouterr().out)
    return seen


def test_python_ends_although_a_function_waits_for_the_node() -> None:
    code = """
import sys, threading, time
from gridkit.rpc import RpcClient
client = RpcClient(sys.argv[1])
running = threading.Event()
def stuck():
    running.set()
    client.call("silent", timeout=1000)
threading.Thread(target=lambda: client.call("call_back", {"fn": stuck}), daemon=True).start()
assert running.wait(10)
time.sleep(0.1)
print("end", flush=True)
"""
    with on_a_thread(Peer()) as peer:
        peer.methods |= {"call_back": call_back, "silent": lambda asked: SILENT}
        began = time.monotonic()
        ran = subprocess.run([sys.executable, "-c", code, peer.url], capture_output=True, text=True, timeout=60)
        assert ran.stdout == "end\n" and ran.returncode == 0
        assert time.monotonic() - began < 9, "it didn't wait for the thread in vain"
