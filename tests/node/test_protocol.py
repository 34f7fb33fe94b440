"""The WebSocket protocol class: joined writes and the limit that rises, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json

import uvicorn
import websockets
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from gridkit.node.protocol import GridkitWebSocket

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def _served(endpoint, use):
    app = Starlette(routes=[WebSocketRoute("/", endpoint)])
    config = uvicorn.Config(
        app, port=0, ws=GridkitWebSocket, ws_max_size=1000, ws_per_message_deflate=False, log_level="error"
    )
    server = uvicorn.Server(config)
    listening = config.bind_socket()
    task = asyncio.ensure_future(server.serve(sockets=[listening]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        return await use(listening.getsockname()[1])
    finally:
        server.should_exit = True
        await task


def test_the_101_and_the_first_frame_leave_in_one_segment() -> None:
    async def greet(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("hello")
        await socket.receive()

    async def first_segments(port: int) -> list[bytes]:
        got = []
        for _ in range(50):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HANDSHAKE)
            got.append(await reader.read(65536))
            writer.close()
        return got

    for segment in asyncio.run(_served(greet, first_segments)):
        assert segment.startswith(b"HTTP/1.1 101")
        assert segment.endswith(b"\x81\x05hello")


def test_large_messages_close_with_1009_until_the_limit_is_raised() -> None:
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        while (message := await socket.receive())["type"] != "websocket.disconnect":
            if message["text"] == "trust me":
                socket.scope["extensions"]["gridkit.limit"](100_000)
            await socket.send_text(str(len(message["text"])))

    async def talk(port: int) -> tuple[int, str]:
        async with websockets.connect(f"ws://127.0.0.1:{port}/") as socket:
            await socket.send("x" * 1001)
            try:
                await socket.recv()
            except websockets.ConnectionClosedError as error:
                code = error.rcvd.code
        async with websockets.connect(f"ws://127.0.0.1:{port}/") as socket:
            await socket.send("trust me")
            await socket.recv()
            await socket.send("x" * 50_000)
            return code, await socket.recv()

    assert asyncio.run(_served(echo, talk)) == (1009, "50000")


def test_a_large_answer_arrives_whole() -> None:
    async def send(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(json.dumps(list(range(200_000))))
        await socket.close(4000)

    async def read(port: int) -> tuple[list[int], int]:
        async with websockets.connect(f"ws://127.0.0.1:{port}/", max_size=None) as socket:
            text = await socket.recv()
            await socket.wait_closed()
            return json.loads(text), socket.close_code

    assert asyncio.run(_served(send, read)) == (list(range(200_000)), 4000)


def test_a_connection_that_is_cut_has_said_all_before() -> None:
    async def leave(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("farewell")
        assert socket.scope["extensions"]["gridkit.writable"]()
        socket.scope["extensions"]["gridkit.cut"]()
        await socket.receive()

    async def hear(port: int) -> tuple[str | bytes, int | None]:
        async with websockets.connect(f"ws://127.0.0.1:{port}/") as socket:
            text = await socket.recv()
            await socket.wait_closed()
            return text, socket.close_code

    assert asyncio.run(_served(leave, hear)) == ("farewell", 1006)


def test_who_isnt_listened_to_is_stopped() -> None:
    """Reading pauses a step later than uvicorn asks for it, and pauses all the same."""
    heard = asyncio.Event()

    async def busy(socket: WebSocket) -> None:
        await socket.accept()
        await socket.receive()
        await heard.wait()
        while (await socket.receive())["type"] != "websocket.disconnect":
            await socket.send_text("on")

    async def shout(port: int) -> tuple[int, int]:
        async with websockets.connect(f"ws://127.0.0.1:{port}/", max_queue=None) as socket:
            shouted = 0
            with contextlib.suppress(TimeoutError):
                while shouted < 100_000:
                    async with asyncio.timeout(0.5):
                        await socket.send("x" * 900)
                    shouted += 1
            stopped, answers = shouted, 0
            heard.set()
            while answers < shouted - 1:
                assert await asyncio.wait_for(socket.recv(), 10) == "on"
                answers += 1
            return stopped, answers

    stopped, answers = asyncio.run(_served(busy, shout))
    assert stopped < 50_000 and answers >= stopped - 1
