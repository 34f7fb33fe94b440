"""A day of sessions, by simulated time: calls, slow calls, functions, tensors, broken links, a night without any."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from gridkit.aio import Session
from gridkit.client.link import Link
from gridkit.errors import GridkitError, NodeUnreachable
from gridkit.node.settings import Limits
from tests.client.test_rpc_node import back, sleep
from tests.node.rpc.ends import Plain
from tests.support import TOKEN
from tests.tensors.skipping import MEMORY, Node, run

HOUR = 3600.0
PERIOD = 300.0
"""seconds from one time that the notebook does something to the next"""
ABSENT = 8
"""periods from one time that nobody can reach the node, for longer than a session lasts, to the next"""


class Day:
    """A notebook, a client of the plain profile, and a node."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.node = Node(folder, monkeypatch, Limits(run_memory=MEMORY, member_rate=1e9))
        self.grid: Session
        self.sessions: set[str] = set()
        self.called: list[int] = []
        self.facts: list[tuple[int, ...]] = []

    async def work(self, periods: int, first: int = 0) -> None:
        loop = asyncio.get_running_loop()
        for number in range(first, first + periods):
            until = loop.time() + PERIOD
            await self.period(number)
            await self.at_rest()
            if number % ABSENT == ABSENT - 1:
                self.node.leave()
                await asyncio.sleep(1000)
                await self.node.listen()
            elif number % 3 == 2:
                self.node.cut()
            await asyncio.sleep(max(0.0, until - loop.time()))

    async def period(self, number: int) -> None:
        rpc = self.grid.rpc
        self.sessions.add((await rpc.connect())["session_id"])
        echoed = await asyncio.gather(*(rpc.call("echo", {"n": n, "x": np.ones(20)}) for n in range(5)))
        assert [each["n"] for each in echoed] == list(range(5))
        with rpc.expose(self.called.append) as fn:
            await rpc.call("loopback", back(fn, number))
        with pytest.raises(GridkitError):
            await rpc.call("no_such_method")
        never = await rpc.submit("run_function", sleep(3000))
        never.fail(NodeUnreachable("nobody waits for it"))
        await self.tensors(number)
        if number % 6 == 5:
            slow = await rpc.submit("run_function", sleep(120), timeout=2)
            await asyncio.sleep(30)
            self.node.cut()
            assert await slow == {"data": 120.0}
        plain = await Plain.to(self.node)  # type: ignore[arg-type]
        assert await plain.call("echo", {"n": number}) == {"n": number}
        await plain.socket.close()

    async def tensors(self, number: int) -> None:
        grid = self.grid
        w = grid.tensor(torch.full((3,), float(number)), requires_grad=True)
        optimizer = await grid.optimizer("Adam", [w], lr=0.1)
        loss = (w * w).sum()
        loss.backward()
        assert (await (await w.gradient()).get()).tolist() == [2.0 * number] * 3  # type: ignore[attr-defined]
        await optimizer.step()
        with pytest.raises(GridkitError):
            await torch.linalg.cholesky(-w.detach().outer(w.detach())).get()
        assert (await w.get()).shape == (3,)  # type: ignore[attr-defined]

    async def at_rest(self) -> None:
        """Nothing is left of it, at either end."""
        gc.collect()
        await asyncio.sleep(5)
        rpc, (session,) = self.grid.rpc, [s for of in self.node.sessions._of.values() for s in of.values()]
        tensors, client = session.tensors, self.grid._tensors().client
        left = {
            "works": len(session._works),
            "asked of the notebook": len(session._calls),
            "held": session.held,
            "waiting": len(tensors._waiting) + len(tensors._sent) + tensors._bytes,
            "tensors": len(self.node.children[-1].tensors),
            "sessions without a link": len(self.node.sessions._idle),
            "ending": len(self.node.sessions._ending),
            "calls": len(rpc._calls),
            "exposed": len(rpc._callables) + len(rpc._callables.runs),
            "mirrored": len(rpc.mirror.variables) + len(rpc.mirror.nodes) + len(rpc.mirror._passes),
            "failed": len(rpc.mirror._failed) + len(client._failed) + len(client._unheard),
            "to send": len(client._waiting) + len(client._under_way) + len(client.passes),
        }
        assert {name: count for name, count in left.items() if count} == {}
        assert len(self.node._state.connections) == 1 and len(self.node.sessions._runners) <= 1
        self.facts.append((len(asyncio.all_tasks()), len(self.node._state.tasks)))

    async def memory(self) -> int:
        self.called.clear()
        self.facts.clear()
        self.node.children = self.node.children[-1:]
        self.grid.rpc._callables.called.clear()
        self.grid.rpc._callables._workers.close()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]


def day(folder: Path, monkeypatch: pytest.MonkeyPatch, hours: float) -> None:
    async def live() -> None:
        torch.set_num_threads(1)
        world = Day(folder, monkeypatch)
        await world.node.listen()
        link = Link(world.node.url, TOKEN)
        world.grid = Session(link)
        begun = asyncio.get_running_loop().time()
        warm = 2 * ABSENT + 6
        await world.work(1)  # what is imported when it is first used
        gc.collect()
        gc.freeze()  # and lies about here in any case
        tracemalloc.start()
        try:
            await world.work(warm - 1, 1)
            before = await world.memory()
            await world.work(periods := int(hours * HOUR / PERIOD), warm)
            assert len(world.called) == periods, "each function was called once"
            assert len(set(world.facts)) == 1, "tasks are as many at rest at any time"
            grown = await world.memory() - before
        finally:
            tracemalloc.stop()
            gc.unfreeze()
        passed = asyncio.get_running_loop().time() - begun
        print(f"{passed / HOUR:.1f} h, {len(world.sessions)} sessions, {grown:,} bytes more")
        assert passed >= hours * HOUR and len(world.sessions) == 1 + (warm + periods) // ABSENT
        assert grown < 60_000 + 1000 * hours
        await world.grid.close()
        await world.node.close()

    run(live())


def test_an_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    day(tmp_path, monkeypatch, 1)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    day(tmp_path, monkeypatch, 24)
