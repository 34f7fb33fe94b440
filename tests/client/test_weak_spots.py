"""Weak spots of other clients of this protocol, as far as the tests of a part don't show that ours hasn't them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridkit.client.rpc import RpcClient
from tests.client.cutting import Proxy
from tests.client.rpc_peer import awaited
from tests.client.test_rpc_node import back
from tests.support import TOKEN, NodeUnderTest


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    """A node that pings often, and soon takes who doesn't answer for gone."""
    limits = ("ping_seconds=0.3", "rpc_silence=3.0")
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data", *(f"--limit={limit}" for limit in limits))
    yield node
    assert node.terminate() == 0


@awaited
async def test_weak_spot_4_a_function_that_runs_long_costs_no_link(impatient: NodeUnderTest) -> None:
    """The node's pings went unanswered; the link was cut, the node asked again, and so on."""
    proxy = Proxy(impatient.port, up=True)
    ran = []

    def slow() -> str:
        ran.append(time.monotonic())
        time.sleep(1.5)
        return "done"

    async with proxy.running() as url:
        client = RpcClient(url)
        await client.connect(TOKEN)
        with client.expose(slow) as fn:
            calling = asyncio.create_task(client.call("loopback", back(fn)))
            rounds = 0
            while not calling.done():
                assert await client.call("echo", {"n": rounds}) == {"n": rounds}
                rounds += 1
                await asyncio.sleep(0.01)
            assert (await calling)["replies"] == [{"result": {"message": "Ok", "data": "done"}}]
        await client.close()
    assert len(ran) == 1 and rounds > 5 and proxy.connections == 1


@awaited
async def test_weak_spot_10_every_method_is_waited_for_while_there_are_heartbeats(impatient: NodeUnderTest) -> None:
    """Four methods were, by their names. Here it is one of a kind that wasn't, and the function that it waits for."""
    client = RpcClient(impatient.url)
    await client.connect(TOKEN)
    with client.expose(lambda: time.sleep(3.0)) as fn:
        answer = await client.call("loopback", back(fn), timeout=2.5)
    assert answer["replies"] == [{"result": {"message": "Ok", "data": None}}]
    await client.close()


def test_weak_spot_15_a_client_that_is_made_does_nothing_yet(tmp_path: Path) -> None:
    """No thread, no socket, no file; what lies in the folder or the home isn't looked for."""
    code = """
import os, socket, sys, threading
before = dict(os.environ)
opened = []
sys.addaudithook(lambda event, arguments: opened.append((event, arguments)) if event in WATCHED else None)
WATCHED = ("socket.__new__", "socket.connect", "subprocess.Popen")
from gridkit.rpc import RpcClient
client = RpcClient("http://127.0.0.1:9")
assert threading.active_count() == 1 and opened == [], opened
assert dict(os.environ) == before
"""
    (tmp_path / ".env").write_text("GRIDKIT_TOKEN=of another\nPYTHONHOME=/nowhere\n")
    environment = {**os.environ, "HOME": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == [".env"]


def test_weak_spot_16_every_module_can_be_imported() -> None:
    """One was shipped that couldn't. Alembic's own script is run by Alembic only."""
    code = """
import importlib, pkgutil
import gridkit
names = [module.name for module in pkgutil.walk_packages(gridkit.__path__, "gridkit.")]
assert len(names) > 200, len(names)
for name in names:
    if not name.endswith((".__main__", ".migrations.env")):
        importlib.import_module(name)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert (ran.returncode, ran.stderr) == (0, "")
