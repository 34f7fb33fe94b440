"""A network that loses an answer after the node did what was asked: the request comes again, and is done once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from gridkit.client import transfer
from gridkit.client.accounts import AccountClient
from gridkit.client.datasets import DatasetClient
from gridkit.client.link import Link
from gridkit.client.models import ModelClient
from gridkit.client.node import NodeClient
from gridkit.errors import AccessError, ConflictError, LimitError, NotFoundError
from gridkit.plans.plan import Plan
from gridkit.policy import Policy
from gridkit.wire.safetensors import Packed, pack_tensors
from tests.support import MODEL, TOKEN, NodeUnderTest, tiny_model, tiny_plan

X = np.arange(12, dtype=np.float32).reshape(4, 3)
TENSOR = {"kind": "tensor", "tags": [], "description": "", "policy": Policy().to_json()}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data")
    yield node
    node.terminate()


@asynccontextmanager
async def losing(node: NodeUnderTest, *requests: bytes) -> AsyncIterator[tuple[Link, list[bytes]]]:
    """A link through a proxy that hands on the first request that begins so (of each), and cuts when its answer comes.
    The list holds those that it hasn't met yet."""
    left = list(requests)

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        node_reader, node_writer = await asyncio.open_connection("127.0.0.1", node.port)
        lost = False

        async def up() -> None:
            nonlocal lost
            while data := await reader.read(1 << 16):
                for request in left:
                    if data.startswith(request):
                        left.remove(request)
                        lost = True
                        break
                node_writer.write(data)

        async def down() -> None:
            while (data := await node_reader.read(1 << 16)) and not lost:
                writer.write(data)

        ways = [asyncio.ensure_future(up()), asyncio.ensure_future(down())]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for end in (writer, node_writer):
            end.transport.abort()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await asyncio.gather(*ways)

    server = await asyncio.start_server(join, "127.0.0.1", 0)
    link = Link(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", TOKEN, patience=20)
    try:
        yield link, left
    finally:
        await link.close()
        server.close()


def packed(scale: float = 1.0) -> Packed:
    return Packed([memoryview(tiny_model(scale))])


@pytest.mark.parametrize("new_version", [False, True])
def test_a_model_whose_answer_is_lost_is_served_once(shared: NodeUnderTest, new_version: bool) -> None:
    async def main() -> None:
        name = f"lost-{new_version}"
        wish = {"model_id": name, "new_version": new_version}
        async with losing(shared, b"POST /uploads", b"PATCH", b"POST /serve-model") as (link, left):
            models = ModelClient(link)
            await models.host(packed(), wish, lambda done, size: None)
            assert not left
            assert (await models.details(name))["versions"] == 1
            if not new_version:  # another call is another wish, be the bytes the same
                with pytest.raises(ConflictError):
                    await models.host(packed(), wish, lambda done, size: None)

    asyncio.run(main())


def test_deletes_whose_answer_is_lost_are_done_and_find_nothing_when_nothing_was_there(shared: NodeUnderTest) -> None:
    async def main() -> None:
        for user in ("ada", "bob"):
            shared.add_user(user)
        direct = Link(shared.url, TOKEN)
        await ModelClient(direct).host(packed(), {"model_id": "gone"}, lambda done, size: None)
        await DatasetClient(direct).publish("gone", pack_tensors([X]), None, TENSOR, lambda done, size: None)
        token = await AccountClient(direct).issue_token("bob", None, None, "")
        await direct.close()
        async with losing(shared, *[b"DELETE"] * 4) as (link, left):
            deletes = {
                "gone": (ModelClient(link).delete, DatasetClient(link).delete),
                "ada": (AccountClient(link).remove_user,),
                token.id: (AccountClient(link).revoke_token,),
            }
            for name, calls in deletes.items():
                for delete in calls:
                    await delete(name)
                    with pytest.raises(NotFoundError):  # another call is another wish
                        await delete(name)
            assert not left

    asyncio.run(main())


def test_accounts_and_tokens_whose_answer_is_lost_are_made_once(shared: NodeUnderTest) -> None:
    async def main() -> None:
        async with losing(shared, b"POST /users", b"POST /tokens") as (link, left):
            accounts = AccountClient(link)
            await accounts.add_user("eve", "data scientist", "a password of hers")
            token = await accounts.issue_token("eve", ["browse"], None, "nightly")
            assert not left
            assert [row["id"] for row in await accounts.tokens() if row["user"] == "eve"] == [token.id]
            with shared.http(token.secret) as http:
                assert http.get("/models/").status_code == 200
            with pytest.raises(ConflictError):
                await accounts.add_user("eve", "data scientist", "a password of hers")
            await accounts.issue_token("eve", ["browse"], None, "nightly")
            assert len([row for row in await accounts.tokens() if row["user"] == "eve"]) == 2

    asyncio.run(main())


def test_a_training_whose_answer_is_lost_is_hosted_once(shared: NodeUnderTest) -> None:
    async def main() -> None:
        async with losing(shared, b"POST /model-centric/host-training") as (link, left):
            node = NodeClient(link)
            wish = {"training_plan": Plan.from_bytes(tiny_plan())}, {"name": "lost", "version": "1.0"}, {"clients": 2}
            hosted = await node.host_training(MODEL, *wish)
            assert not left
            (process,) = [row for row in await node.processes() if row["name"] == "lost"]
            assert process["id"] == hosted.process and len(hosted.worker_tokens) == 2
            assert (await node.plan(hosted.plans["training_plan"])).to_bytes() == tiny_plan()
            with pytest.raises(ConflictError):
                await node.host_training(MODEL, *wish)

    asyncio.run(main())


def test_data_whose_answer_is_lost_are_published_once(shared: NodeUnderTest) -> None:
    async def main() -> None:
        async with losing(shared, b"PUT /datasets/") as (link, left):
            datasets = DatasetClient(link)
            data = pack_tensors([X]), pack_tensors([X[:1]])
            await datasets.publish("lost", *data, TENSOR, lambda done, size: None)
            assert not left
            assert [row["id"] for row in await datasets.rows()].count("lost") == 1
            with pytest.raises(ConflictError):
                await datasets.publish("lost", *data, TENSOR, lambda done, size: None)

    asyncio.run(main())


def test_the_same_upload_again_is_the_same_request_also_after_the_node_was_killed(tmp_path: Path) -> None:
    async def main() -> None:
        node = NodeUnderTest(tmp_path / "data")
        ada = node.add_user("ada")
        async with contextlib.aclosing(_Links(node)) as links:
            owner, other = links.of(TOKEN), links.of(ada)
            wish = {"model_id": "m", "upload_id": await transfer.upload(owner, packed())}
            twice = [owner.json("POST", "/serve-model/", json=wish) for _ in range(4)]
            first, *more = await asyncio.gather(*twice)
            assert more == [first] * 3
            node.kill()
            node.start()
            assert await owner.json("POST", "/serve-model/", json=wish) == first
            with pytest.raises(AccessError):
                await other.json("POST", "/serve-model/", json=wish)
            with pytest.raises(NotFoundError):
                await owner.json("POST", "/serve-model/", json={**wish, "model_id": "another"})
        node.terminate()

    asyncio.run(main())


def test_a_node_that_forgot_the_upload_gets_it_again(shared: NodeUnderTest) -> None:
    async def main() -> None:
        link = Link(shared.url, TOKEN)
        used: list[str] = []

        async def use(ids: list[str]) -> None:
            used.append(ids[0])
            if len(used) == 1:  # what a restart of the node does to it
                await link.request("DELETE", f"/uploads/{ids[0]}")
            await link.json("POST", "/serve-model/", json={"model_id": "forgotten", "upload_id": ids[0]})

        await transfer.hand_over(link, [packed()], use)
        assert len(set(used)) == 2
        await link.close()

    asyncio.run(main())


def test_what_is_refused_leaves_no_uploads(shared: NodeUnderTest) -> None:
    async def main() -> None:
        link = Link(shared.url, TOKEN)
        models = ModelClient(link)
        await models.host(packed(), {"model_id": "there"}, lambda done, size: None)
        before = sorted((shared.data / "blobs").rglob(".draft-*"))
        for _ in range(20):  # more than there may be uploads at a time
            with pytest.raises(ConflictError) as refused:
                await models.host(packed(2.0), {"model_id": "there"}, lambda done, size: None)
            assert not isinstance(refused.value, LimitError)
        assert sorted((shared.data / "blobs").rglob(".draft-*")) == before
        await link.close()

    asyncio.run(main())


class _Links:
    def __init__(self, node: NodeUnderTest) -> None:
        self._node, self._links = node, list[Link]()

    def of(self, token: str) -> Link:
        self._links.append(Link(self._node.url, token, patience=20))
        return self._links[-1]

    async def aclose(self) -> None:
        for link in self._links:
            await link.close()
