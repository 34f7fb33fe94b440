"""A session with something of everything, on a real node, whose link is cut at every message: calls, functions of the
notebook that make calls, tensors, passes, optimizers. The outcome is the undisturbed one, and nothing is done twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from gridkit.aio import Session, connect
from gridkit.client.rpc import RpcClient
from gridkit.client.rpc_mirror import Mirror
from gridkit.errors import GridkitError
from tests.client.boundaries import Boundaries
from tests.client.rpc_peer import awaited
from tests.client.test_rpc_node import back, sleep
from tests.support import TOKEN, NodeUnderTest


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data")
    yield node
    assert node.terminate() == 0
    assert "Traceback" not in "".join(node.said), "".join(node.said)


class Told:
    """How often the mirror was told of what is told once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: dict[str, int] = {}
        for name in ("create_node", "create_edge", "append_grad"):
            monkeypatch.setattr(Mirror, name, self._counting(name, getattr(Mirror, name)))

    def _counting(self, name: str, method: Any) -> Any:
        def counted(*args: Any, **named: Any) -> Any:
            self.counts[name] = self.counts.get(name, 0) + 1
            return method(*args, **named)

        return counted


async def script(grid: Session, told: Told) -> dict[str, Any]:
    """Whatever is changed is changed in place, added up, or counted: so twice isn't once."""
    called: list[int] = []
    told.counts.clear()

    async def metric(prediction: torch.Tensor, number: int) -> dict[str, Any]:
        called.append(number)
        inner = await grid.rpc.call("echo", {"n": number})
        return {"sum": (await prediction.sum().get()).item(), "inner": inner["n"]}  # type: ignore[attr-defined]

    echoed = await asyncio.gather(*(grid.rpc.call("echo", {"n": n, "x": np.full(n, n)}) for n in range(3)))
    count = grid.tensor(torch.zeros(2))
    for _ in range(2):
        count += 1
    w = grid.tensor([1.0, 2.0], requires_grad=True)
    optimizer = await grid.optimizer("SGD", [w], lr=0.5, momentum=0.9)
    gradients = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = ((w + w) * w).sum()
        loss.backward()
        gradients.append((await (await w.gradient()).get()).tolist())  # type: ignore[attr-defined]
        await optimizer.step()
    with grid.expose(metric) as exposed:
        scores = await grid.evaluate(exposed, w * 1, 1)
    slept = await grid.rpc.call("run_function", sleep(0.01))
    try:
        error = str(await grid.rpc.call("no_such_method"))
    except GridkitError as refused:
        error = refused.message
    return {
        "echoed": [(one["n"], one["x"].tolist()) for one in echoed],
        "count": (await count.get()).tolist(),  # type: ignore[attr-defined]
        "gradients": gradients,
        "w": (await w.get()).tolist(),  # type: ignore[attr-defined]
        "scores": scores,
        "called": called,
        "slept": slept,
        "error": error,
        "told": dict(told.counts),
    }


async def cut_at_each(node: NodeUnderTest, monkeypatch: pytest.MonkeyPatch, *, all: bool) -> None:
    """And the link after it soon too: at its `hello`, at the answer to that, or at what comes then.

    Args:
        all: each message is lost, and once more it arrives before the link is cut; else it is one of the two in turns.
    """
    told, proxy = Told(monkeypatch), Boundaries(node.port)
    async with proxy.running() as url, await connect(url, token=TOKEN) as grid:
        expected = await script(grid, told)
        assert expected["count"] == [2, 2] and expected["gradients"][0] == [4, 8] and expected["called"] == [1]
        assert expected["told"]["append_grad"] == 2 and "not found" in expected["error"]
        session = await grid.rpc.connect()
        proxy.begin(set())
        assert await script(grid, told) == expected
        boundaries, links = proxy.moved, proxy.connections
        assert boundaries > 50
        for place in range(1, boundaries + 1):
            for arrives in (False, True) if all else (place % 2 == 0,):
                proxy.begin({place, place + 1 + place % 3}, arrives)
                assert await script(grid, told) == expected, f"cut at {place}, {arrives=}"
        assert proxy.connections - links > 1.5 * boundaries, "a script's last messages may not come to be"
        assert await grid.rpc.connect() == session and not grid.rpc._calls


def test_a_link_that_is_cut_at_any_message_changes_nothing(
    node: NodeUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(cut_at_each(node, monkeypatch, all=False))


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_link_that_is_cut_at_any_message_lost_or_not_changes_nothing(
    node: NodeUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(cut_at_each(node, monkeypatch, all=True))


@awaited
async def test_a_session_whose_first_links_are_cut(node: NodeUnderTest) -> None:
    """At each of the first messages, so that one end may know of the session, or both, or none."""
    for place in range(1, 7):
        for arrives in (False, True):
            proxy = Boundaries(node.port)
            proxy.begin({place, place + 2}, arrives)
            async with proxy.running() as url:
                client = RpcClient(url)
                await client.connect(TOKEN, retries=5, delay=0.01)
                with client.expose(lambda n: n + 1) as fn:
                    answers = [await client.call("loopback", back(fn, n)) for n in range(3)]
                assert [each["replies"][0]["result"]["data"] for each in answers] == [1, 2, 3]
                assert len(client.called) == 3 and proxy.connections == 3
                await client.close()
