"""One link, without a network: who writes what, and what its end leaves to the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import pytest
from starlette.websockets import WebSocketDisconnect

from gridkit.node.rpc import link as links
from gridkit.node.rpc.link import Link
from tests.node.rpc.ends import live

GONE = {"type": "websocket.disconnect", "code": 1001}


class FakeSocket:
    """A WebSocket whose other side a test is.

    Attributes:
        open: what is sent is taken; else it waits.
    """

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.gone = False
        self.sent: list[Any] = []
        self.closed: list[int] = []
        self.coming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.lone: Any = None
        self.scope = {
            "extensions": {
                "gridkit.writable": self.open.is_set,
                "gridkit.write": self.write,
                "gridkit.lone": self.take_lone,
                "gridkit.cut": lambda: self.end("cut"),
            }
        }

    def take_lone(self, take: Any) -> None:
        self.lone = take

    def write(self, frame: Any) -> bool:
        assert self.open.is_set()
        if not self.gone:
            self.sent.append(frame)
        return not self.gone

    def end(self, how: Any) -> None:
        self.closed.append(how)
        self.coming.put_nowait(GONE)

    async def receive(self) -> dict[str, Any]:
        return await self.coming.get()

    async def send(self, message: dict[str, Any]) -> None:
        await self.open.wait()
        if self.gone:
            raise WebSocketDisconnect(1006)
        self.sent.append(message.get("text", message.get("bytes")))

    async def close(self, code: int, reason: str) -> None:
        await self.open.wait()
        self.end(code)


class Line(deque[str]):
    """What waits."""

    def next(self) -> str | None:
        return self[0] if self else None

    def sent(self) -> None:
        self.popleft()


class World:
    """A link that answers each text with ``re: `` and it."""

    def __init__(self) -> None:
        self.socket, self.line = FakeSocket(), Line()
        self.link = Link(self.socket, 1)  # type: ignore[arg-type]
        self.taken: list[Any] = []
        self.drained = 0
        self.room = asyncio.Event()
        self.room.set()
        self.link.write(self.line, self._drained)
        self.reading = asyncio.create_task(self.link.read(self._take, self._calm))

    def _drained(self) -> None:
        self.drained += 1

    def _take(self, data: Any) -> bool:
        self.taken.append(data)
        self.line.append(f"re: {data}")
        self.link.poke()
        return self.room.is_set()

    async def _calm(self) -> None:
        assert not self.room.is_set(), "nobody asked for it"
        await self.room.wait()

    def come(self, *texts: str) -> None:
        for text in texts:
            self.socket.coming.put_nowait({"type": "websocket.receive", "text": text})

    async def end(self) -> int:
        self.socket.coming.put_nowait(GONE)
        return await asyncio.wait_for(self.reading, 5)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@live
async def test_what_comes_is_answered_in_order() -> None:
    world = World()
    world.come(*map(str, range(200)))
    await settle()
    assert world.socket.sent == [f"re: {n}" for n in range(200)]
    world.line.append("by itself")
    world.link.poke()
    await settle()
    assert world.socket.sent[-1] == "by itself" and not world.line
    assert await world.end() == 1001


@live
async def test_the_reader_never_waits_for_who_doesnt_read() -> None:
    world = World()
    await settle()
    world.socket.open.clear()
    world.come("a", "b", "c")
    await settle()
    assert world.taken == ["a", "b", "c"] and world.socket.sent == []
    world.socket.open.set()
    await settle()
    assert world.socket.sent == ["re: a", "re: b", "re: c"]
    await world.end()


@live
async def test_a_lone_message_is_answered_where_it_came() -> None:
    """No turn of the loop is between the two; and one that came before has its turn first."""
    world = World()
    await settle()
    world.socket.lone("a")
    assert world.socket.sent == ["re: a"]
    world.come("b")
    await settle()
    world.socket.lone("c")
    assert world.socket.sent == ["re: a", "re: b", "re: c"]
    await world.end()
    assert world.socket.lone is None


@live
async def test_nothing_is_taken_before_there_is_room_for_it() -> None:
    """However the last one came that there was room for."""
    world = World()
    await settle()
    for how in ("alone", "in a crowd"):
        world.room.clear()
        if how == "alone":
            world.socket.lone("last")
        else:
            world.come("last")
            await settle()
        assert world.taken.pop() == "last" and world.socket.lone is None
        world.come("next")
        await settle()
        assert world.taken == []
        world.room.set()
        await settle()
        assert world.taken.pop() == "next" and world.socket.lone is not None
    await world.end()


@pytest.mark.parametrize("when", ["before it is written", "while it is written"])
def test_what_an_ended_link_didnt_write_is_the_next_ones(when: str) -> None:
    @live
    async def run() -> None:
        world = World()
        await settle()
        world.line.append("late")
        if when == "while it is written":
            world.socket.open.clear()
        world.link.poke()
        if when == "while it is written":
            await settle()
        world.link.end(4001, "replaced")
        world.socket.open.set()
        await settle()
        assert world.socket.sent == [] and list(world.line) == ["late"]
        assert world.socket.closed == [4001]
        assert await world.reading == 1001

    run()


@live
async def test_what_a_broken_link_didnt_take_is_the_next_ones() -> None:
    world = World()
    await settle()
    world.socket.gone = True
    world.come("a")
    await settle()
    assert list(world.line) == ["re: a"]
    assert await world.end() == 1001, "why it ended is told after that"


@pytest.mark.parametrize(("code", "how"), [(1012, 1012), (None, "cut")])
def test_a_link_that_is_finished_says_first_what_waits(code: int | None, how: Any) -> None:
    @live
    async def run() -> None:
        world = World()
        await settle()
        world.socket.open.clear()
        world.line.extend(["a", "b"])
        world.link.finish(code)
        await settle()
        assert world.socket.closed == []
        world.socket.open.set()
        assert await asyncio.wait_for(world.reading, 5) == 1001
        assert world.socket.sent == ["a", "b"] and world.socket.closed == [how]

    run()


@live
async def test_a_link_whose_client_isnt_there_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "END_SECONDS", 0.05)
    world = World()
    world.socket.open.clear()
    world.link.end(1008, "over")
    assert await asyncio.wait_for(world.reading, 5) == 1001
    assert world.socket.closed == ["cut"]


@live
async def test_a_link_leaves_no_task_behind() -> None:
    world = World()
    await settle()
    await world.end()
    await settle()
    assert asyncio.all_tasks() == {asyncio.current_task()}
