"""Transfers against a real node, over networks that cut, stall and change bytes; over HTTP and over the WebSocket."""

from __future__ import annotations

import asyncio
import hashlib
import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gridkit.client import transfer, transfer_socket
from gridkit.client.link import Link
from gridkit.client.transfer import PIECE
from gridkit.errors import ErrorCode, GridkitError, LimitError, NodeUnreachable, NotFoundError, WireError
from gridkit.wire.safetensors import Packed
from tests.client.cutting import Proxy
from tests.support import TOKEN, NodeUnderTest

SIZE = 12_345_678
WAYS = pytest.mark.parametrize("way", ["http", "socket"])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data")
    yield node
    node.terminate()


def content(seed: int, size: int = SIZE) -> bytes:
    """Bytes that a node stores as they are (see `gridkit.wire.model.model_kind`)."""
    return b"\x28\x92" + np.random.default_rng(seed).bytes(size - 2)


def packed(data: bytes) -> Packed:
    """In parts of all sizes, as a model's tensors are."""
    ends = [0, 1, 10, 5000, 5001, 2 * PIECE, 2 * PIECE + 7, len(data) - 3, len(data)]
    return Packed([memoryview(data)[a:b] for a, b in itertools.pairwise(ends)])


async def host(node: NodeUnderTest, name: str, data: bytes) -> None:
    link = Link(node.url, TOKEN)
    await use(link, name, await transfer.upload(link, packed(data)))
    await link.close()


async def use(link: Link, name: str, upload_id: str) -> str:
    """Host what was uploaded; its digest."""
    wish = {"model_id": name, "allow_download": True, "upload_id": upload_id}
    return str((await link.json("POST", "/serve-model/", json=wish))["digest"])


def drafts(node: NodeUnderTest) -> list[Path]:
    return sorted((node.data / "blobs").rglob(".draft-*"))


async def fetch(way: str, link: Link, name: str, file: io.BytesIO, told: transfer.Told = lambda a, b: None) -> None:
    if way == "http":
        await transfer.download(link, f"/get_model/{name}", file, told)
    else:
        await transfer_socket.download_model(link, name, file, told)


@WAYS
@pytest.mark.parametrize("cuts", [[], [10], [3_000_000, 100_000, 4_000_000]], ids=["whole", "at once", "thrice"])
def test_an_upload_goes_on_after_cuts(shared: NodeUnderTest, way: str, cuts: list[int]) -> None:
    data = content(len(cuts))
    name = f"up-{way}-{len(cuts)}"
    steps: list[int] = []
    before = drafts(shared)

    async def go() -> tuple[str, Proxy]:
        proxy = Proxy(shared.port, up=True, cuts=list(cuts))
        async with proxy.running() as url:
            link = Link(url, TOKEN)
            send = transfer.upload if way == "http" else transfer_socket.upload
            upload_id = await send(link, packed(data), lambda done, size: steps.append(done))
            digest = await use(link, name, upload_id)
            with pytest.raises(NotFoundError):  # it ended with that
                await link.json("GET", f"/uploads/{upload_id}")
            await link.close()
        return digest, proxy

    digest, proxy = asyncio.run(go())
    assert digest == hashlib.sha256(data).hexdigest()
    assert proxy.cuts == []
    assert proxy.passed < SIZE + len(cuts) * 8 * PIECE + 100_000  # what was in flight went again, not all
    assert steps[-1] == SIZE
    assert all(b - a <= PIECE for a, b in itertools.pairwise(steps))
    if cuts != [10]:  # there, the answer with the first id was lost; that upload ends when it has been idle
        assert drafts(shared) == before


@WAYS
@pytest.mark.parametrize("cuts", [[], [1000], [3_000_000, 100_000, 4_000_000]], ids=["whole", "at once", "thrice"])
def test_a_download_goes_on_after_cuts(shared: NodeUnderTest, way: str, cuts: list[int]) -> None:
    data = content(10 + len(cuts))
    name = f"down-{way}-{len(cuts)}"
    steps: list[tuple[int, int]] = []

    async def go() -> tuple[bytes, Proxy]:
        await host(shared, name, data)
        proxy = Proxy(shared.port, up=False, cuts=list(cuts))
        file = io.BytesIO()
        async with proxy.running() as url:
            link = Link(url, TOKEN)
            await fetch(way, link, name, file, lambda done, size: steps.append((done, size)))
            await link.close()
        return file.getvalue(), proxy

    got, proxy = asyncio.run(go())
    assert got == data
    assert proxy.cuts == []
    assert proxy.passed < SIZE + len(cuts) * 2 * PIECE + 100_000
    assert steps[-1] == (SIZE, SIZE)
    assert steps == sorted(steps)


@WAYS
def test_changed_bytes_are_found(shared: NodeUnderTest, way: str) -> None:
    before = drafts(shared)

    async def go() -> None:
        await host(shared, f"flip-{way}", content(20))
        up, down = Proxy(shared.port, up=True, flip=5_000_000), Proxy(shared.port, up=False, flip=5_000_000)
        async with up.running() as url:
            link = Link(url, TOKEN)
            send = transfer.upload if way == "http" else transfer_socket.upload
            with pytest.raises(WireError) as caught:
                await send(link, packed(content(21)))
            assert caught.value.code is ErrorCode.DIGEST_MISMATCH
            await link.close()
        file = io.BytesIO()
        async with down.running() as url:
            link = Link(url, TOKEN)
            with pytest.raises(WireError) as caught:
                await fetch(way, link, f"flip-{way}", file)
            assert caught.value.code is ErrorCode.DIGEST_MISMATCH
            await link.close()
        assert file.getvalue() == b""

    asyncio.run(go())
    assert drafts(shared) == before


@WAYS
def test_a_cancelled_upload_leaves_nothing(shared: NodeUnderTest, way: str) -> None:
    before = drafts(shared)

    async def go() -> None:
        proxy = Proxy(shared.port, up=True, stall=4_000_000)
        async with proxy.running() as url:
            link = Link(url, TOKEN)
            send = transfer.upload if way == "http" else transfer_socket.upload
            task = asyncio.ensure_future(send(link, packed(content(30))))
            await proxy.stalled.wait()
            task.cancel()
            await asyncio.wait([task], timeout=20)
            assert task.cancelled()
            await link.close()

    asyncio.run(go())
    assert drafts(shared) == before


@pytest.mark.faults
@WAYS
def test_c2_a_node_killed_meanwhile_gets_all_of_it_again(tmp_path: Path, way: str) -> None:
    """Uploads are in memory only: the node that comes back has swept what was there, and the client begins anew."""
    data = content(40)

    async def go(node: NodeUnderTest) -> str:
        link = Link(node.url, TOKEN, patience=60)  # a node may take longer than usual to start
        send = transfer.upload if way == "http" else transfer_socket.upload
        reached = asyncio.Event()
        task = asyncio.ensure_future(send(link, packed(data), lambda done, size: done > 3_000_000 and reached.set()))
        await reached.wait()
        node.kill()
        left = drafts(node)
        await asyncio.to_thread(node.start)
        assert len(left) == 1
        assert left[0] not in drafts(node)
        digest = await use(link, "killed", await task)
        await link.close()
        return digest

    node = NodeUnderTest(tmp_path / "data")
    try:
        assert asyncio.run(go(node)) == hashlib.sha256(data).hexdigest()
        assert drafts(node) == []
    finally:
        node.terminate()


@pytest.mark.faults
def test_c2_a_node_killed_meanwhile_goes_on_with_a_download(tmp_path: Path) -> None:
    data = content(41)

    async def go(node: NodeUnderTest) -> bytes:
        await host(node, "kept", data)
        link = Link(node.url, TOKEN)
        file = io.BytesIO()
        proxy = Proxy(node.port, up=False, stall=3_000_000)
        async with proxy.running() as url:
            slow = Link(url, TOKEN, patience=60)
            task = asyncio.ensure_future(fetch("http", slow, "kept", file))
            await proxy.stalled.wait()
            proxy.stall = None
            node.kill()
            proxy.drop()
            await asyncio.to_thread(node.start)
            await task
            await slow.close()
        await link.close()
        return file.getvalue()

    node = NodeUnderTest(tmp_path / "data")
    try:
        assert asyncio.run(go(node)) == data
    finally:
        node.terminate()


def test_what_a_node_refuses_is_a_typed_error(shared: NodeUnderTest) -> None:
    class Large(Packed):
        def __init__(self) -> None:
            super().__init__([])
            self.size = 1 << 40

    async def go() -> None:
        link, stranger = Link(shared.url, TOKEN), Link(shared.url)
        for send in (transfer.upload, transfer_socket.upload):
            with pytest.raises(LimitError):
                await send(link, Large())
            with pytest.raises(GridkitError) as caught:
                await send(stranger, packed(content(50, 5_000_000)))
            assert caught.value.code is ErrorCode.UNAUTHENTICATED
        for way in ("http", "socket"):
            with pytest.raises(NotFoundError):
                await fetch(way, link, "nowhere", io.BytesIO())
        await link.close()
        await stranger.close()

    asyncio.run(go())


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PATIENCE", 0.2)

    async def go() -> None:
        link = Link("http://127.0.0.1:1", TOKEN)
        for send in (transfer.upload, transfer_socket.upload):
            with pytest.raises(NodeUnreachable):
                await send(link, packed(content(60, 5_000_000)))
        await link.close()

    asyncio.run(go())
