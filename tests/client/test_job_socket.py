"""The data holders' WebSocket: answers by id or by type, timeouts, sockets that go, and every kind of wrong answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from gridkit.client import job_socket
from gridkit.client.job_socket import JobSocket
from gridkit.client.link import Link
from gridkit.errors import ErrorCode, NodeError, NodeUnreachable

Behaviour = Callable[[ServerConnection], Awaitable[None]]


@asynccontextmanager
async def talking_to(behaviour: Behaviour, prefix: str = "") -> AsyncIterator[JobSocket]:
    async with serve(behaviour, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        link = Link(f"http://127.0.0.1:{port}{prefix}")
        socket = JobSocket(link)
        yield socket
        await socket.close()
        await link.close()


async def received(socket: ServerConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(await socket.recv())
    return message


def test_answers_are_matched_by_id_whatever_their_order() -> None:
    async def backwards(socket: ServerConnection) -> None:
        asked = [await received(socket) for _ in range(3)]
        for message in reversed(asked):
            data = {"echo": message["data"]["n"]}
            await socket.send(json.dumps({"type": "t", "request_id": message["request_id"], "data": data}))

    async def main() -> list[Any]:
        async with talking_to(backwards) as socket:
            return await asyncio.gather(*(socket.ask("t", {"n": n}) for n in range(3)))

    assert asyncio.run(main()) == [{"echo": n} for n in range(3)]


def test_without_ids_type_and_order_tell_and_other_frames_are_nobodys() -> None:
    async def plain(socket: ServerConnection) -> None:
        asked = [(await received(socket))["data"]["n"] for _ in range(3)]
        await socket.send(json.dumps({"type": "news", "data": {}}))
        for n in asked:
            await socket.send(json.dumps({"type": "t", "data": {"n": n}}))

    async def main() -> list[Any]:
        async with talking_to(plain) as socket:
            return await asyncio.gather(*(socket.ask("t", {"n": n}) for n in range(3)))

    assert asyncio.run(main()) == [{"n": 0}, {"n": 1}, {"n": 2}]


@pytest.mark.parametrize(
    ("frame", "kind", "text"),
    [
        ('{"type": "t", "data": {"error": "no", "code": "CYCLE_CLOSED"}}', "ConflictError", "no"),
        ('{"type": "t", "data": {"status": "rejected", "error": "both"}}', "NodeError", "both"),
        ('{"type": "t", "error": "flat", "code": "UNAUTHENTICATED"}', "AccessError", "flat"),
        ('{"error": "without a type"}', "NodeError", "without a type"),
        ("no JSON", "NodeError", "something else than JSON"),
        ("[]", "NodeError", "something else than JSON"),
        ("[" * 100_000, "NodeError", "something else than JSON"),
    ],
    ids=["typed", "beside a status", "flat", "untyped", "text", "list", "deep"],
)
def test_errors_and_wrong_answers_are_raised(frame: str, kind: str, text: str) -> None:
    async def wrong(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(frame)
        await socket.wait_closed()

    async def main() -> None:
        async with talking_to(wrong) as socket:
            with pytest.raises(NodeError, match=text) as caught:
                await socket.ask("t", {})
            assert type(caught.value).__name__ == kind

    asyncio.run(main())


def test_no_answer_is_a_response_timeout_and_a_late_one_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_socket, "ANSWER_SECONDS", 0.2)
    assert job_socket.MAX_ANSWER > 1 << 20

    async def late(socket: ServerConnection) -> None:
        first, second = await received(socket), await received(socket)
        for message in (first, second):
            await socket.send(json.dumps({**message, "data": {"n": message["data"]["n"]}}))
        await socket.wait_closed()

    async def main() -> None:
        async with talking_to(late) as socket:
            with pytest.raises(NodeUnreachable, match="response timeout"):
                await socket.ask("t", {"n": 1})
            assert await socket.ask("t", {"n": 2}) == {"n": 2}

    asyncio.run(main())


def test_a_socket_that_goes_ends_who_waits_and_the_next_message_opens_another() -> None:
    opened: list[str] = []

    async def once(socket: ServerConnection) -> None:
        opened.append(socket.request.path)  # type: ignore[union-attr]
        message = await received(socket)
        if len(opened) == 2:
            await socket.send(json.dumps({**message, "data": {"ok": 1}}))
            return  # closes it, with nobody waiting
        if len(opened) == 3:
            await socket.send(json.dumps({**message, "data": {"ok": 2}}))
            await socket.wait_closed()

    async def main() -> None:
        async with talking_to(once, "/grid") as socket:
            with pytest.raises(NodeUnreachable, match="closed"):
                await socket.ask("t", {})
            assert await socket.ask("t", {}) == {"ok": 1}
            while socket.is_open:
                await asyncio.sleep(0.01)
            assert await socket.ask("t", {}) == {"ok": 2}
            await socket.close()
        assert opened == ["/grid"] * 3

    asyncio.run(main())


def test_nobody_there_and_a_refused_handshake() -> None:
    async def main() -> None:
        link = Link("http://127.0.0.1:1")
        with pytest.raises(NodeUnreachable):
            await JobSocket(link).ask("t", {})
        await link.close()

        async with serve(lambda s: s.wait_closed(), "127.0.0.1", 0, origins=["http://only.this"]) as server:
            link = Link(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            with pytest.raises(NodeError) as caught:
                await JobSocket(link).ask("t", {})
            assert caught.value.status == 403 and caught.value.code is None
            await link.close()

    asyncio.run(main())
    assert ErrorCode.CYCLE_CLOSED in job_socket._STATUS and set(job_socket._STATUS) <= set(ErrorCode.__members__)
