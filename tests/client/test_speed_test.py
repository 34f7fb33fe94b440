"""The speed test of data holders: units, order, ends, against the node's own route and against others'."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import gridkit as gk
from gridkit.client import speed_test
from gridkit.client.link import Link
from gridkit.client.speed_test import UNKNOWN, Speeds, measure
from gridkit.errors import AccessError, ErrorCode, NodeUnreachable
from tests.support import TOKEN, NodeUnderTest
from tests.training import mlp, plan_of, shards

DATA = shards(1)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data", "--limit=speed_test=2000000")
    yield node
    node.terminate()


@asynccontextmanager
async def other_node(asked: list[str], block: bytes) -> AsyncIterator[Link]:
    """A node that answers a download with 40 blocks, 10 ms apart, and reads what is sent."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                header, length, chunked = b"", 0, False
                while (header := await reader.readline()) != b"\r\n":
                    length = int(header.split(b":")[1]) if header.lower().startswith(b"content-length:") else length
                    chunked = chunked or header.lower().startswith(b"transfer-encoding: chunked")
                method, target, _ = line.decode().split()
                taken = len(await reader.readexactly(length))
                while chunked and (size := int(await reader.readline(), 16)) + 1:
                    taken += len(await reader.readexactly(size + 2)) - 2
                    if not size:
                        break
                asked.append(f"{method} {'ping' if 'is_ping=1' in target else taken or 'bytes'}")
                if method == "GET" and "is_ping" not in target:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (40 * len(block)))
                    for _ in range(40):
                        writer.write(block)
                        await writer.drain()
                        await asyncio.sleep(0.01)
                else:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    link = Link(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    yield link
    await link.close()
    server.close()


def test_pings_come_first_and_each_part_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_test, "UPLOAD", 3 * speed_test._PIECE)
    asked: list[str] = []

    async def main() -> Speeds:
        async with other_node(asked, bytes(1 << 17)) as link:
            return await measure(link, "a worker")

    found = asyncio.run(main())
    assert asked[:5] == ["GET ping"] * 5
    assert sorted(asked[5:]) == ["GET bytes", f"POST {3 * speed_test._PIECE}"]
    assert found.ping > 0 and found.upload > 0
    assert 0 < found.download < 100  # 40 blocks of 1 Mbit in at least 0.4 s: Mbit/s, not bytes

    monkeypatch.setattr(speed_test, "SECONDS", 0.05)
    monkeypatch.setattr(speed_test, "UPLOAD", 1 << 40)
    asked.clear()
    assert asyncio.run(main()).upload > 0
    assert int(asked[-1].split()[1] if asked[-1].startswith("POST") else asked[-2].split()[1]) < 1 << 34


def test_nobody_there() -> None:
    async def main() -> None:
        link = Link("http://127.0.0.1:1")
        with pytest.raises(NodeUnreachable):
            await measure(link, "a worker")
        await link.close()

    asyncio.run(main())
    assert Speeds() == UNKNOWN == Speeds(0, 0, 0)


@pytest.mark.parametrize("transport", ["http", "ws"])
def test_a_job_measures_when_asked_and_a_slow_one_is_told(
    node: NodeUnderTest, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mlp()
    measured: list[Speeds] = []

    async def noted(link: Link, worker_id: str) -> Speeds:
        measured.append(await measure(link, worker_id))
        return measured[-1] if len(measured) == 1 else Speeds(1.0, 2.5, 0.0)

    monkeypatch.setattr("gridkit.aio.job.measure", noted)
    monkeypatch.setattr("gridkit.client.speed_test.UPLOAD", 1 << 21)
    with gk.connect(node.url, token=TOKEN) as grid, gk.Syft(node.url.replace("http", transport)) as client:
        server = {"minimum_download_speed": 3, "minimum_upload_speed": 3, "max_diffs": 2, "min_diffs": 2}
        process = grid.host_training(
            model, plan_of(model, DATA), name=f"speed {transport}", client_config={}, server_config=server
        )
        told: list[Any] = []
        for _ in range(2):
            job = client.new_job(process.name, process.version, process.worker_token)
            client._core._identities.clear()  # another worker each time
            assert client.requires_speed_test
            job.on("accepted", told.append)
            job.on("rejected", told.append)
            job.start()
        again = told[-1].job
        again.start()  # measured a moment ago
        assert len(measured) == 2 and all(m.download > 3 and m.upload > 3 and m.ping >= 20 for m in measured)
        assert told[0].cycle == 1
        assert (told[1].code, told[1].timeout) == (ErrorCode.TOO_SLOW, 60.0) and told[2].code == told[1].code
        assert "2.5" in told[1].reason and "3" in told[1].reason

        plain = grid.host_training(model, plan_of(model, DATA), name=f"any speed {transport}")
        job = client.new_job(plain.name, plain.version, plain.worker_token)
        job.start()
        assert not client.requires_speed_test and len(measured) == 2


def test_who_has_not_enrolled_measures_nothing(node: NodeUnderTest) -> None:
    async def main() -> None:
        link = Link(node.url)
        with pytest.raises(AccessError):
            await measure(link, "0" * 32)
        await link.close()

    asyncio.run(main())
