"""A node and its clients in one process and one event loop, whose time passes when there is nothing to do: a day of
heartbeats, pings, pauses and limits takes seconds. Sockets, protocols and sessions are the real ones; tensors are in
this process."""

from __future__ import annotations

import asyncio
import io
import json
import selectors
from collections.abc import Coroutine, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from uvicorn.server import ServerState

from gridkit.node.audit import Audit
from gridkit.node.child import Child
from gridkit.node.protocol import GridkitHttp, GridkitWebSocket
from gridkit.node.rates import Rates
from gridkit.node.rights import Access
from gridkit.node.routes import rpc
from gridkit.node.rpc.sessions import Sessions
from gridkit.node.settings import MIB, Limits
from gridkit.node.watch import Watch
from gridkit.runner.tensors.serve import Server
from gridkit.runner.tensors.session import TensorSession
from gridkit.wire.frames import pack_frame, read_frame
from tests.support import TOKEN

GRACE = 0.0003
"""real seconds in which what was written to a socket comes out of it"""


class Selector(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    """Attributes:
    now: seconds, of the clock that is put forward whenever nothing happens."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0 if timeout is not None else None)
        if found or not timeout or timeout < 0:
            return found
        found = super().select(GRACE)
        if not found:
            self.now += timeout
        return found


def run(work: Coroutine[Any, Any, None]) -> None:
    """As `asyncio.run`, in skipping time."""
    selector = Selector()

    def loop() -> asyncio.AbstractEventLoop:
        made = asyncio.SelectorEventLoop(selector)
        made.time = lambda: selector.now  # type: ignore[method-assign]
        return made

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(work)


class InProcess:
    """In place of `Child`: what the session's process does, when it is asked, here."""

    pid, over = 1, False

    def __init__(self, numbers: Sequence[float]) -> None:
        memory, seconds, count, preview, results, frame = numbers
        self.tensors = TensorSession(int(memory) // 2, seconds, int(count), int(preview))
        self._server = Server(self, self.tensors, int(results), int(frame))  # type: ignore[arg-type]
        self._said: asyncio.Queue[tuple[dict[str, Any], bytes]] = asyncio.Queue()

    def sendall(self, data: bytes) -> None:
        """What the process says."""
        frame = read_frame(io.BytesIO(data), len(data))
        assert frame is not None
        self._said.put_nowait(frame)

    async def say(self, header: dict[str, Any], parts: Sequence[bytes]) -> None:
        frame = read_frame(io.BytesIO(pack_frame(header, parts)), 1 << 30)
        assert frame is not None and json.loads(parts[0])
        self._server._do(header["number"], [bytes(part) for part in parts])

    def note(self, header: dict[str, Any]) -> None:
        self._server._cancelled.add(header["cancel"])

    async def hear(self) -> tuple[dict[str, Any], bytes]:
        return await self._said.get()

    async def end(self) -> None:
        """It has nothing outside of this process."""


class Nobody:
    """No accounts."""

    def is_revoked(self, token_id: str) -> bool:
        return False


class Node:
    """The JSON-RPC endpoint of a node.

    Attributes:
        children: the "processes" that were started.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits) -> None:
        self.limits = limits
        self.watch = Watch(Access(TOKEN, "s" * 20, Nobody()), Rates(limits), Audit(folder / "audit.jsonl"))  # type: ignore[arg-type]
        self.sessions = Sessions(self.watch, limits, {})
        self.children: list[InProcess] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        app = Starlette(routes=rpc.ROUTES)
        app.state.service, app.state.limits = SimpleNamespace(watch=self.watch, rpc=self.sessions), limits
        self._config = uvicorn.Config(
            app,
            http=GridkitHttp,
            ws=GridkitWebSocket,
            ws_max_size=64 * 1024,
            ws_per_message_deflate=False,
            ws_ping_interval=limits.ping_seconds,
            ws_ping_timeout=limits.ping_seconds,
            lifespan="off",
            log_level="warning",
            access_log=False,
        )
        self._config.load()
        self._state = ServerState()

        async def start(limits: Limits, module: str, *numbers: float) -> InProcess:
            self.children.append(InProcess(numbers))
            return self.children[-1]

        monkeypatch.setattr(Child, "start", start)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def listen(self) -> None:
        made = await asyncio.get_running_loop().create_server(
            lambda: GridkitHttp(self._config, self._state, {}), "127.0.0.1", self.port
        )
        self._server, self.port = made, made.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """All links, as a broken cable does."""
        for protocol in tuple(self._state.connections):
            protocol.transport.abort()  # type: ignore[union-attr]

    def leave(self) -> None:
        """Nobody can come in any more, until `listen`."""
        assert self._server is not None
        self._server.close()
        self.cut()

    async def close(self) -> None:
        self.leave()
        await self.sessions.close()
        self.watch.close()


MEMORY = 512 * MIB
