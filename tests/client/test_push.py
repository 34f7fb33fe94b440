"""A participant's calls of a node over networks that cut, and of nodes that refuse."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import numpy as np
import pytest

from gridkit.client import push
from gridkit.client.link import Link
from gridkit.client.push import PushClient, basic
from gridkit.errors import AccessError, LimitError, NodeError, NodeUnreachable, NotFoundError
from tests.client.cutting import Proxy
from tests.push_node import PushNode, packed

MODEL = packed({"w": np.arange(100_000, dtype=np.float32)})


@pytest.fixture(scope="module")
def running() -> Iterator[PushNode]:
    with PushNode(MODEL, {"one": "password"}).running() as node:
        yield node


@pytest.fixture
def node(running: PushNode) -> PushNode:
    running.begin(MODEL)
    return running


@asynccontextmanager
async def client_of(url: str, password: str = "password", patience: float = 10.0) -> AsyncIterator[PushClient]:
    link = Link(url, patience=patience)
    try:
        yield PushClient(link, basic("one", password))
    finally:
        await link.close()


def through(node: PushNode, up: bool, cuts: list[int]) -> Proxy:
    port = urlsplit(node.url).port
    assert port is not None
    return Proxy(port, up, cuts)


def test_a_model_comes_whole_over_a_network_that_cuts(node: PushNode) -> None:
    async def main() -> None:
        proxy = through(node, up=False, cuts=[0, 1000, 200_000])
        async with proxy.running() as url, client_of(url + "/push") as client:
            with await client.model(node.model_id) as file:
                assert file.read() == MODEL
        assert proxy.connections == 4

    asyncio.run(main())


def test_an_update_arrives_over_a_network_that_cuts(node: PushNode) -> None:
    async def main() -> None:
        proxy = through(node, up=True, cuts=[0, 1000, 200_000])
        async with proxy.running() as url, client_of(url + "/push") as client:
            await client.send_update(node.model_id, 3, MODEL, 7, {"loss": 0.1, "accuracy": float("nan")})
            await client.send_update(node.model_id, 4, MODEL, 7, {})

    asyncio.run(main())
    assert [(u["round"], u["samples"], u["model"] == MODEL) for u in node.uploads] == [(3, 7, True), (4, 7, True)]
    assert [u["metrics"] for u in node.uploads] == [{"loss": "0.1", "accuracy": "nan"}, {}]


def test_r1_an_update_whose_answer_was_lost_comes_again_as_it_was(node: PushNode) -> None:
    async def main() -> None:
        node.lost_answers = 1
        async with client_of(node.url) as client:
            await client.send_update(node.model_id, 3, MODEL, 7, {"loss": 0.1})

    asyncio.run(main())
    assert len(node.uploads) == 2 and node.uploads[0] == node.uploads[1]  # which the node counts once


def test_patience_ends(node: PushNode) -> None:
    async def main() -> None:
        async with through(node, up=False, cuts=[0] * 1000).running() as url:
            async with client_of(url + "/push", patience=0.3) as client:
                with pytest.raises(NodeUnreachable):
                    await client.model(node.model_id)
        async with client_of(url, patience=0.3) as client:  # where nobody listens any more
            with pytest.raises(NodeUnreachable):
                await client.send_update(node.model_id, 0, MODEL, 1, {})

    asyncio.run(main())


def test_refusals_are_typed_and_final(node: PushNode, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with client_of(node.url, password="another") as stranger:
            for call in (stranger.model(node.model_id), stranger.send_metrics(node.model_id, {"a": 1.0})):
                with pytest.raises(AccessError) as refused:
                    await call
                assert "another" not in str(refused.value)
        async with client_of(node.url) as client:
            with pytest.raises(NodeError, match="no such model") as unknown:
                await client.model(uuid.uuid4())
            assert unknown.value.status == 400
            monkeypatch.setattr(push, "MODEL_LIMIT", len(MODEL) - 1)
            with pytest.raises(LimitError):
                await client.model(node.model_id)
        async with client_of(node.url + "/elsewhere") as lost:
            with pytest.raises(NotFoundError, match="/elsewhere must be where the node has /api/models/"):
                await lost.model(node.model_id)
        assert node.downloads == 1 and node.metrics == []

    asyncio.run(main())
