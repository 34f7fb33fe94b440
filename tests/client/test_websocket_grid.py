"""One WebSocket: an answer belongs to its question, whatever happens in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from gridkit.client.websocket_grid import GridSocket, parse_address
from gridkit.errors import GridClientError, NodeUnreachable, UsageError

Talk = Callable[[GridSocket], Awaitable[None]]


def with_server(handler: Callable[[ServerConnection], Awaitable[None]], talk: Talk, **options: Any) -> None:
    async def run() -> None:
        async with serve(handler, "127.0.0.1", 0, **options) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            client = GridSocket(f"ws://127.0.0.1:{port}/", 1 << 20)
            try:
                await talk(client)
            finally:
                await client.close()

    asyncio.run(run())


async def echo(connection: ServerConnection) -> None:
    """Answers what it is sent, after the seconds that the message asks for."""
    async for message in connection:
        if isinstance(message, str):
            await asyncio.sleep(json.loads(message).get("wait", 0))
        await connection.send(message)


def test_questions_from_many_tasks_get_their_own_answers() -> None:
    async def talk(client: GridSocket) -> None:
        asked = [{"type": "x", "n": n, "wait": 0.01 * (n % 3)} for n in range(20)]
        assert await asyncio.gather(*map(client.ask, asked)) == asked
        assert await client.exchange(b"\x00\xff") == b"\x00\xff"

    with_server(echo, talk)


def test_after_a_cancelled_question_the_next_one_gets_its_own_answer() -> None:
    async def talk(client: GridSocket) -> None:
        slow = asyncio.create_task(client.ask({"type": "slow", "wait": 0.2}))
        await asyncio.sleep(0.05)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert await client.ask({"type": "next"}) == {"type": "next"}

    with_server(echo, talk)


def test_a_socket_that_the_node_closed_meanwhile_is_opened_again() -> None:
    async def once(connection: ServerConnection) -> None:
        await connection.send(await connection.recv())
        await connection.close(1001, "going away")

    async def talk(client: GridSocket) -> None:
        for n in range(3):
            assert await client.ask({"n": n}) == {"n": n}
            await asyncio.sleep(0.05)

    with_server(once, talk)


def test_a_connection_that_ends_in_place_of_an_answer_says_why() -> None:
    async def refuse(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.close(1008, "too many")

    async def talk(client: GridSocket) -> None:
        with pytest.raises(NodeUnreachable, match="1008: too many"):
            await client.ask({})

    with_server(refuse, talk)


def test_an_answer_that_is_too_large_is_not_taken() -> None:
    async def large(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send("x" * (2 << 20))
        await connection.wait_closed()

    async def talk(client: GridSocket) -> None:
        with pytest.raises(NodeUnreachable, match="1009"):
            await client.ask({})

    with_server(large, talk)


def test_answers_of_another_kind_are_refused() -> None:
    async def answers(connection: ServerConnection) -> None:
        for answer in ("[1]", "not json", "[" * 100_000, "text"):
            await connection.recv()
            await connection.send(answer)

    async def talk(client: GridSocket) -> None:
        for _ in range(3):
            with pytest.raises(GridClientError, match="JSON object"):
                await client.ask({"type": "x"})
        with pytest.raises(RuntimeError, match="with text"):
            await client.exchange(b"binary")

    with_server(answers, talk)


def test_the_token_goes_with_the_handshake_and_a_refusal_is_told() -> None:
    seen = []

    def look(connection: ServerConnection, request: Request) -> Response | None:
        seen.append(request.headers.get("authorization"))
        return connection.respond(403, "no\n") if seen[-1] == "Bearer wrong-token" else None

    async def talk(client: GridSocket) -> None:
        await client.ask({})
        await client.act_as("secret-token")
        with pytest.raises(GridClientError, match="403") as caught:
            await client.act_as("wrong-token")
        assert "token" not in f"{caught.value.message}{client!r}"
        assert await client.ask({"n": 1}) == {"n": 1} and client.token == "secret-token"
        await client.close()
        await client.ask({})

    with_server(echo, talk, process_request=look)
    assert seen == [None, "Bearer secret-token", "Bearer wrong-token", "Bearer secret-token"]


def test_nobody_there() -> None:
    async def talk() -> None:
        with pytest.raises(NodeUnreachable, match=r"no answer from the node at ws://127\.0\.0\.1:1/"):
            await GridSocket("ws://127.0.0.1:1/", 1000).ask({})

    asyncio.run(talk())


def test_addresses() -> None:
    assert parse_address("http://127.0.0.1:5000") == (False, "127.0.0.1", 5000)
    assert parse_address("ws://grid.example.org/") == (False, "grid.example.org", None)
    assert parse_address("https://grid.example.org") == parse_address("wss://grid.example.org")  # https is no http
    assert parse_address("wss://[::1]:7") == (True, "::1", 7)
    for wrong in ("127.0.0.1:5000", "ftp://x:1", "http://", "http://x:99999", ""):
        with pytest.raises(UsageError, match="isn't a node's address"):
            parse_address(wrong)
