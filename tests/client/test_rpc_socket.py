"""Messages that are taken right where they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from gridkit.client.rpc_socket import Data, RpcSocket
from tests.client.rpc_peer import awaited


@asynccontextmanager
async def to(say: Callable[[ServerConnection], Awaitable[object]]) -> AsyncIterator[RpcSocket]:
    """A socket whose other end says this, and then waits."""

    async def serve_one(socket: ServerConnection) -> None:
        await say(socket)
        await socket.wait_closed()

    async with serve(serve_one, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}", create_connection=RpcSocket, proxy=None) as socket:
            assert isinstance(socket, RpcSocket)
            yield socket


@awaited
async def test_in_order_whenever_it_comes_and_in_however_many_pieces() -> None:
    async def say(socket: ServerConnection) -> None:
        await socket.send("hello")
        await socket.send(b"early")
        await told.wait()
        await socket.send([b"a ", b"", b"message ", b"in pieces"])
        await socket.send(["a ", "text"])
        await socket.send(b"last")
        await socket.close(4001)

    told = asyncio.Event()
    came: list[Data] = []
    async with to(say) as socket:
        assert await socket.first() == "hello"
        await asyncio.sleep(0.05)
        told.set()
        await socket.read(came.append)
    assert came == [b"early", b"a message in pieces", "a text", b"last"] and socket.close_code == 4001


@awaited
async def test_what_take_raises_is_raised_and_nothing_is_taken_after_it() -> None:
    async def say(socket: ServerConnection) -> None:
        for number in range(4):
            await socket.send(bytes([number]))

    taken: list[Data] = []

    def take(data: Data) -> None:
        taken.append(data)
        if data == b"\x01":
            raise ValueError("that is too much")

    async with to(say) as socket:
        with pytest.raises(ValueError, match="too much"):
            await socket.read(take)
        await asyncio.sleep(0.05)
        assert taken == [b"\x00", b"\x01"]
        assert await (await socket.ping()) >= 0, "the link is there as long as nobody ends it"


@awaited
async def test_a_link_that_ends_before_anything_was_said() -> None:
    async with to(lambda socket: socket.close(1008)) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            await socket.first()
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008


@awaited
async def test_text_that_is_no_utf8_is_kept_apart_from_what_it_could_be() -> None:
    async def say(socket: ServerConnection) -> None:
        socket.protocol.send_text(b"\xff")
        socket.send_data()

    async with to(say) as socket:
        assert await socket.first() == "\udcff"
