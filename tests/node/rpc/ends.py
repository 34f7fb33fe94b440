"""Clients of `/ws/v0/rpc/` that do no more than a test tells them: one for each profile."""

from __future__ import annotations

import asyncio
import base64
import functools
import itertools
import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection

from gridkit.wire.rpc.channel import Channel, Window
from gridkit.wire.rpc.handshake import Caller
from gridkit.wire.rpc.messages import (
    Failure,
    Message,
    Notification,
    Reply,
    Request,
    pack,
    parse,
    unbatched,
)
from tests.support import TOKEN, NodeUnderTest

PATH = "/ws/v0/rpc/"
_ids = itertools.count(1)
"""of requests: a client that comes back takes others than it took before"""


def live(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine; pytest sees its arguments."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(test(*arguments, **named))

    return run


def address(url: str) -> str:
    return url.replace("http", "ws") + PATH


def basic(name: str, password: str = TOKEN) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


async def connect(node: NodeUnderTest, **options: Any) -> ClientConnection:
    headers = {"authorization": options.pop("authorization", f"Bearer {TOKEN}")}
    url = address(options.pop("url", node.url))
    return await websockets.connect(url, additional_headers=headers, max_size=None, proxy=None, **options)


class Plain:
    """JSON text frames: what comes is sorted by what it is.

    Attributes:
        replies: by id.
        asked: what the node asked or told, but heartbeats.
        beats: the ids of these.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.session = ""
        self.replies: dict[Any, dict[str, Any]] = {}
        self.asked: list[dict[str, Any]] = []
        self.beats: list[Any] = []

    @classmethod
    async def to(cls, node: NodeUnderTest, **options: Any) -> Plain:
        client = cls(await connect(node, **options))
        first = json.loads(await client.socket.recv())
        assert first.keys() == {"jsonrpc", "id", "result"} and first["id"] is None
        client.session = first["result"]["session_id"]
        return client

    async def send(self, method: str, params: Any = None, **members: Any) -> Any:
        """A request; its id."""
        asked = members.get("id", next(_ids))
        await self.socket.send(json.dumps({"jsonrpc": "2.0", "method": method, "params": params or {}, "id": asked}))
        return asked

    async def step(self) -> dict[str, Any]:
        """Take one message."""
        message = json.loads(await asyncio.wait_for(self.socket.recv(), 20))
        assert isinstance(message, dict) and message["jsonrpc"] == "2.0"
        if "method" not in message:
            assert message.get("id") not in self.replies, "it is answered twice"
            assert "error" not in message or isinstance(message["error"]["data"], dict)
            self.replies[message.get("id")] = message
        elif message["method"] == "heartbeat":
            self.beats.append(message["params"]["id"])
        else:
            self.asked.append(message)
        return dict(message)

    async def reply(self, asked: Any) -> dict[str, Any]:
        while asked not in self.replies:
            await self.step()
        return self.replies[asked]

    async def question(self) -> dict[str, Any]:
        """What the node asks next."""
        while not self.asked:
            await self.step()
        return self.asked.pop(0)

    async def call(self, method: str, params: Any = None) -> Any:
        reply = await self.reply(await self.send(method, params))
        assert "result" in reply, reply
        return reply["result"]

    async def answer(self, question: dict[str, Any], **outcome: Any) -> None:
        await self.socket.send(json.dumps({"jsonrpc": "2.0", "id": question["id"], **outcome}))


class V1:
    """A channel over links that are opened and cut by hand. What comes is applied as soon as `step` takes it.

    Attributes:
        deaf: nothing is applied.
        replies, asked, beats: as of `Plain`, but messages.
        bodies: of the replies, by id.
    """

    def __init__(self, node: NodeUnderTest, window: Window | None = None, **options: Any) -> None:
        self.node, self.options = node, options
        self.caller = Caller(window)
        self.socket: ClientConnection | None = None
        self.replies: dict[Any, Reply | Failure] = {}
        self.bodies: dict[Any, tuple[memoryview, ...]] = {}
        self.asked: list[Request | Notification] = []
        self.beats: list[dict[str, Any]] = []
        self.order: list[Any] = []
        self.deaf = False

    @property
    def channel(self) -> Channel:
        assert self.caller.channel is not None
        return self.caller.channel

    async def open(self) -> V1:
        """A new link."""
        self.socket = await connect(self.node, subprotocols=["gridkit.v1"], **self.options)
        await self.socket.send(pack(self.caller.hello()))
        self.caller.answered(parse(await asyncio.wait_for(self.socket.recv(), 20)))
        await self.flush()
        return self

    async def cut(self) -> None:
        """End the link as a broken cable does."""
        assert self.socket is not None
        self.channel.dropped(self.caller.link)
        self.socket.transport.abort()
        await self.socket.wait_closed()

    async def flush(self) -> None:
        assert self.socket is not None
        while (frame := self.channel.outgoing(asyncio.get_running_loop().time())) is not None:
            await self.socket.send(frame)

    async def say(self, message: Message, bodies: Sequence[bytes] = ()) -> None:
        self.channel.send(pack(message).encode(), bodies)
        await self.flush()

    async def send(self, method: str, params: Any = None, bodies: Sequence[bytes] = ()) -> int:
        """A request; its id."""
        asked = next(_ids)
        await self.say(Request(method, params or {}, asked), bodies)
        return asked

    async def step(self) -> None:
        """Take one WebSocket message."""
        assert self.socket is not None
        data = await asyncio.wait_for(self.socket.recv(), 20)
        assert isinstance(data, bytes)
        for frame in self.channel.receive(data, self.caller.link):
            for message in unbatched(parse(frame.text)):
                self._sort(message, frame.bodies)
            if frame.seq and not self.deaf:
                self.channel.applied(frame.seq, -1.0)  # long ago: its ack is due
        await self.flush()

    def _sort(self, message: Message, bodies: tuple[memoryview, ...]) -> None:
        if isinstance(message, Reply | Failure):
            assert message.id not in self.replies, "it is answered twice"
            self.replies[message.id], self.bodies[message.id] = message, bodies
            self.order.append(message.id)
        elif message.method == "heartbeat":
            self.beats.append(message.params)
        else:
            self.asked.append(message)
            self.order.append(message.method)

    async def reply(self, asked: int) -> Reply | Failure:
        while asked not in self.replies:
            await self.step()
        return self.replies[asked]

    async def question(self) -> Request | Notification:
        while not self.asked:
            await self.step()
        return self.asked.pop(0)

    async def call(self, method: str, params: Any = None, bodies: Sequence[bytes] = ()) -> Any:
        reply = await self.reply(await self.send(method, params, bodies))
        assert isinstance(reply, Reply), reply
        return reply.result
