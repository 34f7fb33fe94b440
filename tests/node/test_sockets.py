"""WebSockets that haven't authenticated: so many at a time, each for so long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets

from tests.support import TOKEN, NodeUnderTest, RawWorker, host_files, tiny_plan

PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    limits = ("--limit", "stranger_seconds=1.5", "--limit", "strangers=3")
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data", *limits)
    with node.http() as http:
        http.post("/users", json={"name": "ana", "password": PASSWORD})
        http.post("/users/login", json={"username": "ana", "password": PASSWORD})  # known for some minutes: no argon2
        http.post("/model-centric/host-training", files=host_files(tiny_plan(), {"num_cycles": 9}, "digits"))
    yield node
    node.terminate()


def socket(node: NodeUnderTest, token: str | None = None) -> Any:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return websockets.connect(node.url.replace("http", "ws") + "/", additional_headers=headers)


async def say(socket: Any, **message: Any) -> dict[str, Any]:
    await socket.send(json.dumps(message))
    return dict(json.loads(await socket.recv()))


def worker_token(node: NodeUnderTest) -> str:
    with node.http() as http:
        wish = {"name": "digits", "version": "1.0"}
        return str(http.post("/model-centric/worker-token", json=wish).json()["worker_token"])


def test_a_stranger_is_told_and_closed_also_while_it_talks(node: NodeUnderTest) -> None:
    async def run() -> None:
        async with socket(node) as stranger:
            with pytest.raises(websockets.ConnectionClosed) as caught:
                while True:
                    assert (await say(stranger, type="socket-ping"))["alive"] == "True"
                    await asyncio.sleep(0.05)
            assert caught.value.rcvd is not None and caught.value.rcvd.code == 1008

    asyncio.run(run())


@pytest.mark.parametrize("how", ["token", "password", "worker token in a message", "worker id"])
def test_who_authenticates_stays(node: NodeUnderTest, how: str) -> None:
    worker = RawWorker(node, worker_token(node))

    async def run() -> None:
        async with socket(node, TOKEN if how == "token" else None) as open_socket:
            if how == "password":
                done = await say(open_socket, type="authentication", username="ana", password=PASSWORD)
                assert done["success"] == "True"
            elif how == "worker token in a message":
                data = {"model_name": "digits", "auth_token": worker_token(node)}
                assert (await say(open_socket, type="model-centric/authenticate", data=data))["data"]["worker_id"]
            elif how == "worker id":
                data = {"worker_id": worker.worker_id, "model": "digits"}
                asked = await say(open_socket, type="model-centric/cycle-request", data=data)
                assert asked["data"]["status"] == "accepted"
            await asyncio.sleep(2)
            assert (await say(open_socket, type="socket-ping"))["alive"] == "True"

    asyncio.run(run())


def test_a_wrong_password_makes_no_friend(node: NodeUnderTest) -> None:
    async def run() -> None:
        async with socket(node) as stranger:
            done = await say(stranger, type="authentication", username="ana", password="wrong")
            assert done["error"] == "Invalid username/password!"
            with pytest.raises(websockets.ConnectionClosed):
                await asyncio.wait_for(stranger.recv(), 10)

    asyncio.run(run())


def test_strangers_have_so_many_places_and_leave_them_when_they_are_known(node: NodeUnderTest) -> None:
    async def run() -> None:
        strangers = [await socket(node) for _ in range(3)]
        with pytest.raises(websockets.InvalidStatus) as caught:
            await socket(node)
        assert caught.value.response.status_code == 403
        async with socket(node, TOKEN) as friend:  # others come in
            assert (await say(friend, type="socket-ping"))["alive"] == "True"
        await say(strangers[0], type="authentication", username="ana", password=PASSWORD)
        strangers.append(await socket(node))
        await strangers[1].close()
        await asyncio.sleep(0.05)
        strangers.append(await socket(node))
        for each in strangers:
            await each.close()

    asyncio.run(run())
    with node.http() as http:
        assert [row["verdict"] for row in http.get("/audit").json()["rows"] if row["operation"] == "connect"] == [
            "TOO_MANY"
        ]


def test_with_open_nobody_is_a_stranger_and_the_node_says_so(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "data", "--open", "--limit", "stranger_seconds=0.3", "--limit", "strangers=1")

    async def run() -> None:
        async with socket(node) as first, socket(node) as second:
            await asyncio.sleep(0.8)
            for each in (first, second):
                assert (await say(each, type="list-models")) == {"success": True, "models": []}

    try:
        asyncio.run(run())
        assert any("WARNING" in line and "--open" in line for line in node.said)
    finally:
        node.terminate()


@pytest.mark.parametrize(
    "text", ["upload", "upload=", "upload=-1", "upload=1.5", "no_such=1", "wrong_rate=inf", "read=1", "=1"]
)
def test_a_limit_is_one_of_the_nodes_and_a_number(tmp_path: Path, text: str) -> None:
    with pytest.raises(RuntimeError, match="is no limit of a node"):
        NodeUnderTest(tmp_path / "data", "--limit", text)
