"""A small two-way protocol over a real WebSocket, to try the bridge on: calls both ways, cancels, keepalive pings.

``EchoServer`` runs on a thread of the test's process; ``EchoClient`` is what a test, a script or a kernel uses.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import json
import threading
from collections.abc import Callable
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from gridkit.bridge import BRIDGE, Bridge, sync

CALLBACK_SECONDS = 20  # how long the server waits for a client's answer


class EchoServer:
    """Answers echo, sleep, call_back; notes calls, cancels and connections. A context manager."""

    def __init__(self, **keepalive: float) -> None:
        self.keepalive = keepalive
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.connections = 0
        self.loop = asyncio.new_event_loop()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=lambda: self.loop.run_until_complete(self.main()), daemon=True)

    def __enter__(self) -> EchoServer:
        self.thread.start()
        assert self.ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.end.set)
        self.thread.join(10)
        self.loop.close()

    async def main(self) -> None:
        self.end = asyncio.Event()
        async with serve(self.handle, "127.0.0.1", 0, compression=None, **self.keepalive) as server:
            self.url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
            self.ready.set()
            await self.end.wait()

    async def handle(self, connection: ServerConnection) -> None:
        self.connections += 1
        calls: dict[int, asyncio.Task[None]] = {}
        answers: dict[int, asyncio.Future[Any]] = {}
        numbers = itertools.count()

        async def call_back(name: str, args: list[Any]) -> Any:
            number = next(numbers)
            answers[number] = asyncio.get_running_loop().create_future()
            await connection.send(json.dumps({"callback": number, "name": name, "args": args}))
            return await asyncio.wait_for(answers[number], CALLBACK_SECONDS)

        async def answer(number: int, name: str, args: list[Any]) -> None:
            result: Any = None
            self.started.append(name)
            try:
                if name == "echo":
                    result = args[0]
                elif name == "sleep":
                    await asyncio.sleep(args[0])
                elif name == "call_back":  # the callback's name, then one list of arguments a call, all at once
                    result = await asyncio.gather(*(call_back(args[0], list(each)) for each in args[1:]))
                elif name == "call_back_later":
                    calls[-number] = asyncio.ensure_future(call_back_later(*args))
            except asyncio.CancelledError:
                self.cancelled.append(name)
                raise
            await connection.send(json.dumps({"id": number, "result": result}))

        async def call_back_later(seconds: float, name: str, *args: Any) -> None:
            await asyncio.sleep(seconds)
            await call_back(name, list(args))

        try:
            async for text in connection:
                message = json.loads(text)
                if "cancel" in message:
                    calls[message["cancel"]].cancel()
                elif "answer" in message:
                    answers[message["answer"]].set_result(message["result"])
                else:
                    calls[message["id"]] = asyncio.ensure_future(
                        answer(message["id"], message["name"], message["args"])
                    )
        except websockets.ConnectionClosedError:
            return
        finally:
            for task in calls.values():
                task.cancel()


class AsyncEchoClient:
    """The async core; all of it runs on the bridge's I/O thread."""

    def __init__(self, bridge: Bridge = BRIDGE) -> None:
        self.bridge = bridge
        self.numbers = itertools.count(1)
        self.calls: dict[int, asyncio.Future[Any]] = {}
        self.callbacks: dict[str, tuple[Callable[..., Any], contextvars.Context | None]] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    async def open(self, url: str) -> None:
        self.connection: ClientConnection = await connect(url, compression=None, ping_interval=None, proxy=None)
        self.reader = asyncio.ensure_future(self.read())

    async def call(self, name: str, *args: Any) -> Any:
        """Have the server do `name`."""
        number = next(self.numbers)
        self.calls[number] = asyncio.get_running_loop().create_future()
        await self.connection.send(json.dumps({"id": number, "name": name, "args": args}))
        try:
            return await self.calls[number]
        except asyncio.CancelledError:
            await self.connection.send(json.dumps({"cancel": number}))
            raise
        finally:
            del self.calls[number]

    async def close(self) -> None:
        await self.connection.close()

    async def read(self) -> None:
        async for text in self.connection:
            message = json.loads(text)
            if "callback" in message:
                task = asyncio.ensure_future(self.called_back(message))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
            elif message["id"] in self.calls:
                self.calls[message["id"]].set_result(message["result"])

    async def called_back(self, message: dict[str, Any]) -> None:
        fn, context = self.callbacks[message["name"]]
        try:
            result = await asyncio.wrap_future(self.bridge.post(fn, *message["args"], context=context))
        except Exception as error:  # noqa: BLE001  # it travels to the server, as a user's errors do
            result = f"{type(error).__name__}: {error}"
        await self.connection.send(json.dumps({"answer": message["callback"], "result": result}))


class EchoClient:
    """The sync face on the module's BRIDGE, made as gridkit's own faces are."""

    def __init__(self, url: str) -> None:
        self._core = AsyncEchoClient()
        BRIDGE.sync(self._core.open(url))

    call = sync(AsyncEchoClient.call)
    close = sync(AsyncEchoClient.close)

    def on(self, name: str, fn: Callable[..., Any], *, here: bool = False) -> None:
        """Register a callback; `here` binds its prints to the cell that registers it."""
        self._core.callbacks[name] = (fn, contextvars.copy_context() if here else None)
