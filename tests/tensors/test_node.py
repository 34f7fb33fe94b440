"""Remote tensors on a real node."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gridkit as gk
from gridkit.errors import GridkitError, PlanError, RunError
from gridkit.session import Session
from tests.client.cutting import Proxy
from tests.support import TOKEN, NodeUnderTest


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data")
    yield node
    node.terminate()


@pytest.fixture(scope="module")
def grid(node: NodeUnderTest) -> Iterator[Session]:
    with gk.connect(node.url, token=TOKEN) as grid:
        yield grid


def test_training_is_that_of_home(grid: Session) -> None:
    torch.default_generator.manual_seed(1)
    home = nn.Sequential(nn.Linear(5, 8), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.BatchNorm1d(8), nn.Linear(8, 3))
    away = grid.module(home)
    local = torch.optim.Adam(home.parameters(), lr=0.01)
    remote = grid.optimizer("Adam", away.parameters(), lr=0.01)
    losses = []
    for step in range(3):
        x, y = torch.randn(6, 5), torch.randint(0, 3, (6,))
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(step)
        expected = F.cross_entropy(home(x), y)
        torch.set_rng_state(state)
        local.zero_grad()
        expected.backward()
        local.step()
        grid.manual_seed(step)
        loss = F.cross_entropy(away(grid.tensor(x)), grid.tensor(y))
        remote.zero_grad()
        loss.backward()
        remote.step()
        losses.append((expected.detach(), loss.detach()))
    for expected, loss in losses:
        assert torch.equal(loss.get(), expected)
    for name, tensor in away.state_dict().items():
        assert torch.equal(tensor.get(), home.state_dict()[name]), name


def test_passes_and_graphs(grid: Session) -> None:
    x = grid.tensor([1.0, 2.0], requires_grad=True)
    y = (x + x) * x
    assert [node.name for node in y.graph().nodes.values()] == ["MulBackward0", "AddBackward0", "AccumulateGrad"]
    begun = y.backward([1.0, 1.0])
    assert x.grad.get().tolist() == [4, 8] and begun.over
    assert {node.fired for node in y.graph().nodes.values()} <= {None, begun.id}
    y.backward([1.0, 1.0])
    with pytest.raises(RunError, match="a second time"):
        _ = x.grad
    with pytest.raises(PlanError, match="positive-definite"):
        torch.linalg.cholesky(-torch.ones_like(x).outer(x)).get()
    assert x[x > 1.5].get().tolist() == [2]


def test_shapes_draw_nothing_here(grid: Session) -> None:
    """A program's own random numbers don't depend on how many remote ones there are."""
    before = torch.get_rng_state()
    x = grid.tensor(torch.zeros(100))
    y = F.dropout(x + 1).normal_() + torch.rand_like(x)
    state = torch.get_rng_state()
    assert y.shape == (100,) and torch.equal(before, state)


def test_what_nobody_holds_goes(grid: Session) -> None:
    x = grid.tensor(torch.ones(50), requires_grad=True)
    for _ in range(200):
        (x * 2).sum()
    mirror = grid.rpc.mirror
    x.get()
    for _ in range(200):
        if len(mirror.variables) == 1:
            break
        time.sleep(0.02)
    assert list(mirror.variables) == [x._core.id]


@contextmanager
def proxy_to(node: NodeUnderTest) -> Iterator[tuple[str, Callable[[], object]]]:
    """An address of the node, and what cuts all links over it."""
    ready: concurrent.futures.Future[tuple[str, asyncio.AbstractEventLoop]] = concurrent.futures.Future()
    proxy, end = Proxy(node.port, up=False), asyncio.Event()

    async def work() -> None:
        async with proxy.running() as url:
            ready.set_result((url, asyncio.get_running_loop()))
            await end.wait()

    thread = threading.Thread(target=asyncio.run, args=(work(),), daemon=True)
    thread.start()
    url, loop = ready.result(10)
    try:
        yield url, lambda: loop.call_soon_threadsafe(proxy.drop)
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(10)


def test_over_links_that_are_cut(node: NodeUnderTest) -> None:
    with proxy_to(node) as (url, cut), gk.connect(url, token=TOKEN) as grid:
        y = x = grid.tensor(torch.ones(4), requires_grad=True)
        home = local = torch.ones(4, requires_grad=True)
        for step in range(60):
            y, home = y * 1.01 + x, home * 1.01 + local
            if step % 20 == 10:
                y.get()
            if step % 20 in (10, 15):
                cut()
        y.sum().backward()
        home.sum().backward()
        assert torch.equal(y.get(), home.detach()) and torch.equal(x.grad.get(), local.grad)


def test_a_node_that_is_killed_says_so(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "data")
    try:
        with gk.connect(node.url, token=TOKEN) as grid:
            x = grid.tensor([1.0], requires_grad=True)
            assert x.get().item() == 1
            node.kill()
            node.start()
            with pytest.raises(GridkitError, match=r"lost|restarted|isn't known|no tensor"):
                x.get()
    finally:
        node.terminate()
