"""The WebSocket protocol class: joined writes and the limit that rises, over real sockets."""

from __future__ import annotations

import asyncio
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
