"""A node process for the tests of a module, and a training hosted on it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gridkit.client.paths import path_of
from gridkit.node import due
from gridkit.node.outbound import Resolve
from gridkit.node.settings import Limits
from tests.datasets import Clients, publish
from tests.endpoints import Endpoint
from tests.node.scene import LIMITS, Scene, Story
from tests.support import NodeUnderTest, host_files, tiny_plan


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data")
    yield node
    node.terminate()


@pytest.fixture(scope="session")
def plan_bytes() -> bytes:
    return tiny_plan()


@pytest.fixture
def host(node: NodeUnderTest, plan_bytes: bytes, request: pytest.FixtureRequest) -> Callable[..., dict[str, Any]]:
    """`host(**server_config)`: host a training named after the test; the node's answer."""

    def host(**server: Any) -> dict[str, Any]:
        with node.http() as http:
            files = host_files(plan_bytes, server, request.node.name[:150])
            answer = http.post("/model-centric/host-training", files=files)
        assert answer.status_code == 200, answer.text
        return {**answer.json(), "name": request.node.name[:150]}

    return host


_numbers = itertools.count()


@pytest.fixture(scope="module")
def clients(node: NodeUnderTest) -> Iterator[Clients]:
    clients = Clients(node)
    yield clients
    clients.close()


@pytest.fixture
def published(clients: Clients) -> Iterator[Callable[..., str]]:
    """`published(policy={…}, …)`: alice publishes it; its id."""
    made: list[str] = []

    def make(**wish: Any) -> str:
        id = f"set {next(_numbers)}"
        answer = publish(clients.alice, id, **wish)
        assert answer.status_code == 201, answer.text
        made.append(id)
        return id

    yield make
    for id in made:
        clients.owner.delete(path_of("datasets", id))


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scene]:
    """Runs a story on a scene, with short pauses; nothing went wrong behind it."""
    monkeypatch.setattr(due, "PAUSE", 0.05)

    def run(story: Story, limits: Limits = LIMITS, complaints: int = 0, resolve: Resolve | None = None) -> Scene:
        async def main() -> Scene:
            async with Scene(tmp_path / "data", limits, resolve) as scene:
                await story(scene)
            return scene

        scene = asyncio.run(main())
        assert len(scene.complaints) == complaints, scene.complaints
        return scene

    return run


@pytest.fixture
def north() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint
    assert endpoint.trouble == []


@pytest.fixture
def south() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint
    assert endpoint.trouble == []
