"""What is to be done with remote tensors, on its way: in order, bounded, once; and the async face of a session."""

from __future__ import annotations

import asyncio
import gc
import os
from typing import Any

import pytest
import torch

from gridkit.aio import Session
from gridkit.client import tensors
from gridkit.client.link import Link
from gridkit.client.rpc import RpcClient
from gridkit.client.tensors import TensorClient
from gridkit.errors import GridkitError, LimitError, NotFoundError, PlanError, UsageError
from gridkit.wire.rpc.values import Variable
from tests.client.rpc_peer import SILENT, Asked, awaited
from tests.tensors.tensor_peer import TensorPeer


class Holder:
    """Whoever has an id."""


def client_of(rpc: RpcClient) -> TensorClient:
    loop = asyncio.get_running_loop()
    return TensorClient(rpc, lambda work: asyncio.run_coroutine_threadsafe(work, loop))


def add(client: TensorClient, out: Holder, *ids: str) -> str:
    id = client.new_id(out)
    params = {"function_name": "torch.add", "args": [Variable(each) for each in ids], "kwargs": {}, "out_ids": [id]}
    client.post("run_function", {**params, "grad_enabled": True}, makes=[id], uses=ids)
    return id


def made(client: TensorClient, out: Holder, value: torch.Tensor) -> str:
    id = client.new_id(out)
    params = {"variable_id": id, "data": value.numpy(), "requires_grad": value.requires_grad, "parameter": False}
    client.post("create_variable", params, makes=[id])
    return id


async def read(client: TensorClient, id: str) -> Any:
    return (await client.ask("get_variable", {"variable_id": id}, [id]))["data"].tolist()


@awaited
async def test_order_over_links_that_are_cut() -> None:
    """At every message, whether it arrives or not: nothing is done twice, nothing out of order."""
    outcomes = set()
    for cut in range(3, 30, 3):
        async with TensorPeer().running() as peer, RpcClient(peer.url) as rpc:
            peer.cuts, peer.after = {cut, cut + 7}, bool(cut % 2)
            client, holders = client_of(rpc), [Holder() for _ in range(12)]
            ids = [made(client, holders[0], torch.ones(2))]
            for holder in holders[1:]:
                ids.append(add(client, holder, ids[-1], ids[-1]))
            outcomes.add((tuple(await read(client, ids[-1])), tuple(peer.took)))
    assert outcomes == {((2048.0, 2048.0), ("create_variable", *["run_function"] * 11, "get_variable"))}


@awaited
async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "MAX_UNDER_WAY", 8)
    monkeypatch.setattr(tensors, "MAX_WAITING", 10)
    async with TensorPeer().running() as peer, RpcClient(peer.url) as rpc:
        client, holder = client_of(rpc), Holder()
        free, most = asyncio.Event(), 0
        answer = peer.methods["create_variable"]

        async def slow(asked: Asked) -> Any:
            await free.wait()
            return answer(asked)

        peer.methods["create_variable"] = slow
        ids = [made(client, holder, torch.ones(1)) for _ in range(30)]
        assert client.crowded
        while len(peer.took) < 8:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert len(peer.took) == 8 and "21 to send" in repr(client), "the next is at hand"
        with pytest.raises(LimitError):
            for _ in range(1000):
                ids.append(made(client, holder, torch.ones(1)))
                most += 1
        assert most < 500
        free.set()
        await client.room()
        assert not client.crowded
        await client.settled()
        assert set(rpc.mirror.variables) == set(ids)


@awaited
async def test_the_first_cause_is_told() -> None:
    async with TensorPeer().running() as peer, RpcClient(peer.url) as rpc:
        client, holder = client_of(rpc), Holder()
        good, other = made(client, holder, torch.ones(2)), made(client, holder, torch.ones(3))
        last = add(client, holder, good, other)
        for _ in range(5):
            last = add(client, holder, good, last)
        for _ in range(2):
            with pytest.raises(PlanError, match="broadcast"):
                await read(client, last)
        assert await read(client, good) == [1, 1]
        client.post("seed", {"seed": "none"})
        with pytest.raises(GridkitError, match="seed"):
            await read(client, good)
        assert await read(client, good) == [1, 1], "it was told once"


@awaited
async def test_registries_stay_flat() -> None:
    async with TensorPeer().running() as peer, RpcClient(peer.url) as rpc:
        client, first = client_of(rpc), Holder()
        x = made(client, first, torch.ones(2, requires_grad=True).detach())
        wrong = made(client, first, torch.ones(3))
        for turn in range(300):
            add(client, Holder(), x, x if turn % 3 else wrong)
            if turn % 50 == 0:
                await client.room()
        gc.collect()
        await client.settled()
        await asyncio.sleep(3 * tensors.SWEEP_SECONDS)
        await client.settled()
        assert set(rpc.mirror.variables) == {x, wrong} and len(peer.tensors) == 2
        assert client._failed == {} and not client._dropped and not client._under_way


@awaited
async def test_what_has_been_answered_is_noted_before_it_counts_as_settled() -> None:
    """The second answer comes in the very turn of the loop in which the first one wakes who waits for both."""
    async with TensorPeer().running() as peer, RpcClient(peer.url) as rpc:
        client, holder = client_of(rpc), Holder()
        peer.methods["create_variable"] = lambda asked: SILENT
        _, last = made(client, holder, torch.ones(1)), made(client, holder, torch.ones(1))

        async def why() -> GridkitError | None:
            await client.settled()
            return client.failure_of(last)

        asked = asyncio.create_task(why())
        while len(client._under_way) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        one, other = client._under_way
        one.fail(PlanError("first"))
        asyncio.get_running_loop().call_soon(other.fail, PlanError("second"))
        assert str(await asked) == "second"


@awaited
async def test_a_forked_process_is_told() -> None:
    async with TensorPeer().running() as peer, RpcClient(peer.url) as rpc:
        client, holder = client_of(rpc), Holder()
        made(client, holder, torch.ones(1))
        client._process = os.getpid() + 1
        with pytest.raises(NotFoundError, match="forked"):
            made(client, holder, torch.ones(1))


@awaited
async def test_the_async_face() -> None:
    async with TensorPeer().running() as peer, Session(Link(peer.url, "key")) as grid:
        x = grid.tensor([1.0, 2.0], requires_grad=True)
        y = (x * x).sum()
        begun = y.backward()
        assert torch.equal(await (await x.gradient()).get(), torch.tensor([2.0, 4.0]))
        await begun
        assert begun.over and (await y.get()).item() == 5
        assert len((await y.graph()).nodes) == 3
        net = grid.module(torch.nn.Linear(2, 1))
        optimizer = await grid.optimizer("SGD", net.parameters(), lr=0.1)
        net(x).sum().backward()
        before = await net.weight.get()
        await optimizer.step()
        assert torch.allclose(await net.weight.get(), before - 0.1 * torch.tensor([1.0, 2.0]))
        await optimizer.set_options(0, lr=1.0)
        assert optimizer.options[0]["lr"] == 1.0 and list(await optimizer.state()) == []
        with pytest.raises(UsageError, match="gradient"):
            _ = x.grad
        with pytest.raises(UsageError, match="to_thread"):
            x[x > 1]
        chosen = await asyncio.to_thread(lambda: x[x > 1])
        assert (await chosen.get()).tolist() == [2]
        rpc = grid.rpc
    assert not rpc.connected
