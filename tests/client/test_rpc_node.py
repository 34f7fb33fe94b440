"""`RpcClient` with a real node."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridkit.client import rpc_session
from gridkit.client.rpc import RpcClient
from gridkit.client.rpc_calls import Progress
from gridkit.errors import AccessError, CallTimeout, ErrorCode, NodeError, NodeUnreachable, NotFoundError, UsageError
from tests.client.cutting import Proxy
from tests.client.rpc_peer import awaited
from tests.client.test_rpc import until
from tests.support import TOKEN, NodeUnderTest

SLEEP: dict[str, Any] = {"function_name": "Sleep", "kwargs": {}, "out_ids": [], "grad_enabled": False}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data")
    yield node
    node.terminate()


def sleep(seconds: float) -> dict[str, Any]:
    return {**SLEEP, "args": [seconds]}


def back(fn: Any, *args: Any, **more: Any) -> dict[str, Any]:
    """The params of a call of `loopback` that runs a function of the notebook."""
    params = {"callable_id": fn.id, "args": list(args), "kwargs": {}, **more}
    return {"calls": [{"method": "run_callable", "params": params}]}


async def script(client: RpcClient) -> list[Any]:
    """A session with something of everything, and all that came of it."""
    called: list[int] = []

    async def nested(n: int) -> Any:
        called.append(n)
        return {"inner": await client.call("echo", {"n": n}), "big": "x" * 3000}

    echoed = await asyncio.gather(*(client.call("echo", {"n": n, "x": np.full(n, n)}) for n in range(5)))
    with client.expose(nested) as fn:
        answers = [await client.call("loopback", back(fn, n)) for n in range(3)]
    slept = await client.call("run_function", sleep(0.02))
    try:
        await client.call("no_such_method")
    except NodeError as error:
        answers.append(error.message)
    return [[(one["n"], one["x"].tolist()) for one in echoed], called, answers, slept]


@awaited
async def test_calls_both_ways(shared: NodeUnderTest) -> None:
    client = RpcClient(shared.url)
    await client.connect(TOKEN)
    echoed, called, answers, slept = await script(client)
    assert echoed == [(n, [n] * n) for n in range(5)] and called == [0, 1, 2] and slept == {"data": 0.02}
    data = {"inner": {"n": 2}, "big": "x" * 3000}
    assert answers[2] == {"replies": [{"result": {"message": "Ok", "data": data}}]} and "not found" in answers[3]
    with pytest.raises(UsageError):
        await client.call("run_function", sleep(-1))
    await client.close()


@awaited
async def test_a_slow_call_outlives_its_timeout_and_tells_how_far_it_is(shared: NodeUnderTest) -> None:
    told: list[Progress] = []
    client = RpcClient(shared.url)
    await client.connect(TOKEN)
    slow = asyncio.create_task(client.call("run_function", sleep(1.6), timeout=1.2, on_progress=told.append))
    assert await client.call("echo", {"n": 1}, timeout=1) == {"n": 1} and not slow.done()
    assert await slow == {"data": 1.6} and told[-1].phase == "sleeping" and told[-1].total == 2
    await client.close()


@awaited
async def test_a_node_waits_for_a_function_that_lives(shared: NodeUnderTest) -> None:
    client = RpcClient(shared.url)
    await client.connect(TOKEN)
    with client.expose(lambda: time.sleep(1.4) or "late") as fn:
        answer = await client.call("loopback", back(fn), timeout=1.2)
    assert answer["replies"][0]["result"]["data"] == "late"
    await client.close()


@awaited
async def test_weak_spot_11_calls_that_are_cancelled_take_no_room_on_the_node(shared: NodeUnderTest) -> None:
    client = RpcClient(shared.url)
    await client.connect(TOKEN)
    for _ in range(3):
        calls = [await client.submit("run_function", sleep(3000)) for _ in range(40)]
        waiting = asyncio.gather(*calls)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    with pytest.raises(CallTimeout):
        await client.call("loopback", {"calls": [{"method": "log", "params": {}, "delay": 9}]}, timeout=0.2)
    assert await client.call("run_function", sleep(0)) == {"data": 0.0}
    await client.close()


@awaited
async def test_links_that_the_node_drops(shared: NodeUnderTest) -> None:
    client = RpcClient(shared.url)
    session = await client.connect(TOKEN)
    expected = await script(client)
    for code in (None, 1012, 1001, 1000):
        slow = asyncio.create_task(client.call("run_function", sleep(0.3)))
        await client.call("drop_connection", {"code": code} if code else {})
        assert await script(client) == expected and await slow == {"data": 0.3}
    assert await client.connect() == session
    await client.close()


@awaited
async def test_a_link_that_is_cut_at_any_byte_changes_nothing(shared: NodeUnderTest) -> None:
    """In either direction, through a proxy."""

    async def run(up: bool, cuts: list[int]) -> tuple[list[Any], Proxy]:
        proxy = Proxy(shared.port, up, cuts)
        async with proxy.running() as url:
            client = RpcClient(url)
            await client.connect(TOKEN, retries=20, delay=0.01)
            outcome = await script(client)
            await client.close()
        return outcome, proxy

    for up in (True, False):
        expected, proxy = await run(up, [])
        for first in range(6):
            for second in (300, 1500):
                outcome, cut = await run(up, [1 + first * proxy.passed // 6, second])
                assert outcome == expected and cut.connections > 1


@pytest.mark.soak
@awaited
async def test_a_session_over_links_that_are_cut_all_the_time(shared: NodeUnderTest) -> None:
    chance = random.Random(7)
    for up in (True, False):
        proxy = Proxy(shared.port, up, [int(10 ** chance.uniform(2.9, 4.5)) for _ in range(1000)])
        async with proxy.running() as url:
            client = RpcClient(url)
            session = await client.connect(TOKEN, retries=100, delay=0.01)
            expected = await script(client)
            for _ in range(60):
                assert await script(client) == expected
            assert await client.connect() == session and proxy.connections > 20
            await client.close()


@awaited
async def test_r8_of_two_links_the_newer_is_the_one(shared: NodeUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one is half there; what was on its way isn't lost, nor done twice."""
    monkeypatch.setattr(rpc_session, "PING_SECONDS", 0.2)
    proxy = Proxy(shared.port, up=False)
    async with proxy.running() as url:
        client = RpcClient(url)
        await client.connect(TOKEN)
        called: list[int] = []
        with client.expose(called.append) as fn:
            await client.call("loopback", back(fn, 1))
            proxy.stall = 0
            call = asyncio.create_task(client.call("loopback", back(fn, 2)))
            await proxy.stalled.wait()
            proxy.stall = None
            await call
        assert called == [1, 2] and proxy.connections == 2
        await client.close()


@awaited
async def test_who_may_not_is_told_so_and_whose_right_ends_too(shared: NodeUnderTest) -> None:
    for key in ("wrong", None):
        with pytest.raises(AccessError, match="refuses") as refused:
            await RpcClient(shared.url).connect(key)
        assert "api_key" in str(refused.value) and shared.url in str(refused.value)
    token = shared.add_user("ada")
    client = RpcClient(shared.url)
    await client.connect(token)
    assert await client.call("echo", {"n": 1}) == {"n": 1}
    with shared.http() as http:
        assert http.delete("/users/ada").status_code == 200
    with pytest.raises((AccessError, NodeUnreachable, NotFoundError)):
        await client.call("echo", timeout=10)
    with pytest.raises(AccessError):
        await client.call("echo", timeout=10)
    await client.close()


@awaited
async def test_sessions_that_are_closed_take_no_room(shared: NodeUnderTest) -> None:
    for n in range(100):
        client = RpcClient(shared.url)
        await client.connect(TOKEN)
        assert await client.call("echo", {"n": n}) == {"n": n}
        await client.close()


@awaited
async def test_a_node_that_is_killed(tmp_path: Path) -> None:
    """Calls end with the reason; the next one begins a session with the node that is there then."""
    node = NodeUnderTest(tmp_path / "data")
    try:
        client = RpcClient(node.url)
        await client.connect(TOKEN)
        call = asyncio.create_task(client.call("run_function", sleep(60)))
        await client.call("echo")
        await asyncio.to_thread(node.kill)
        await asyncio.sleep(0.1)
        assert not call.done(), "it may come back"
        await asyncio.to_thread(node.start)
        with pytest.raises(NotFoundError, match="restarted") as found:
            await asyncio.wait_for(call, 30)
        assert found.value.code is ErrorCode.SESSION_LOST
        assert await client.call("echo", {"n": 1}) == {"n": 1}
        await client.close()
        await until(lambda: not client.connected)
    finally:
        node.terminate()
