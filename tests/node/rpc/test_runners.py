"""Processes that are ready before a session needs one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gridkit.errors import LimitError, NodeUnreachable
from gridkit.node.child import Lost
from gridkit.node.rpc.runners import LEFT_SECONDS
from gridkit.node.rpc.works import Work
from tests.node.rpc.ends import Plain, basic, live
from tests.node.rpc.test_tensors_asked import FakeChild, World, ask, settle
from tests.node.rpc.test_tensors_lost import children, gone
from tests.support import NodeUnderTest, wait_for


class Ready(FakeChild):
    over = False


def made(monkeypatch: pytest.MonkeyPatch, **limits: Any) -> World:
    monkeypatch.setattr("tests.node.rpc.test_tensors_asked.FakeChild", Ready)
    return World(monkeypatch, **limits)


async def used(world: World, number: int) -> None:
    """A session whose process is this one."""
    tensors, _, _ = world.session()
    asked = ask(tensors)
    await settle()
    world.children[number].answers(1)
    assert (await asked).result == 1


def test_one_is_taken_by_the_next_session_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    @live
    async def run() -> None:
        world = made(monkeypatch)
        for _ in range(3):
            world.runners.prepare(0)
        await settle()
        assert len(world.children) == 1 and len(world.runners) == 0
        await used(world, 0)
        await used(world, 1)
        world.runners.prepare(0)
        await settle()
        await used(world, 2)
        world.runners.prepare(5)  # of another profile
        await settle()
        await used(world, 4)
        assert len(world.children) == 5 and len(world.runners) == 4
        await world.runners.close()
        assert [child.ended for child in world.children] == [False, False, False, True, False]

    run()


@pytest.mark.parametrize("why", ["it ended", "it couldn't be started"])
def test_one_that_is_gone_is_no_ones(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    @live
    async def run() -> None:
        world = made(monkeypatch)
        if why == "it ended":
            world.runners.prepare(0)
            await settle()
            world.children[0].over = True  # type: ignore[attr-defined]
            await used(world, 1)
            assert world.children[0].ended
        else:
            world.fails = Lost(why)
            world.runners.prepare(0)
            await settle()
            world.fails = None
            await used(world, 0)
        await world.runners.close()

    run()


def test_it_is_one_of_those_that_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    @live
    async def run() -> None:
        world = made(monkeypatch, rpc_runners=2)
        await used(world, 0)
        world.runners.prepare(5)
        await settle()
        await used(world, 2)  # of another profile than the one that is ready, which has to go
        assert [child.ended for child in world.children] == [False, True, False]
        world.runners.prepare(0)
        await settle()
        assert len(world.children) == 3, "there is no room"
        await world.runners.close()

    run()


def test_whoever_is_away_longest_gives_up_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a minute, not before, and not while something is computed. It is told when it comes back."""

    @live
    async def run() -> None:
        world = made(monkeypatch, rpc_runners=2)
        now = asyncio.get_running_loop().time()
        (one, first, told_one), (two, second, told_two), (three, _, _) = [world.session() for _ in range(3)]
        for number, tensors in enumerate((one, two)):
            asked = ask(tensors)
            await settle()
            world.children[number].answers(1, count=1)
            await asked
        first.left, second.left = now - LEFT_SECONDS + 5, now
        with pytest.raises(LimitError):
            await ask(three)
        second.left = now - LEFT_SECONDS - 5
        busy = ask(two)
        await settle()
        with pytest.raises(LimitError):
            await ask(three)
        world.children[1].answers(2)
        await busy
        await settle()
        asked = ask(three)
        await settle()
        assert [child.ended for child in world.children] == [False, True, False] and one.pid is not None
        assert told_two.events == ["log"] and told_one.events == []
        world.children[2].answers(3)
        assert (await asked).result == 3
        await world.runners.close()

    run()


def test_it_ends_when_nobody_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    @live
    async def run() -> None:
        world = made(monkeypatch, rpc_idle=0.05)
        world.runners.prepare(0)
        await asyncio.sleep(0.15)
        assert world.children[0].ended
        world.runners.prepare(0)
        await settle()
        await used(world, 1)
        await asyncio.sleep(0.15)
        assert not world.children[1].ended
        await world.runners.close()

    run()


def test_a_session_that_ends_while_it_waits_for_one_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    @live
    async def run() -> None:
        world = made(monkeypatch)
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def start(*_: Any) -> Any:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        monkeypatch.setattr("gridkit.node.child.Child.start", start)
        world.runners.prepare(0)
        tensors, session, _ = world.session()
        answer = tensors.ask("get_variable", {}, [], Work(1))
        await begun.wait()
        await settle()
        session.closed = NodeUnreachable("the client has closed the session")
        for free in session.on_close:
            free()
        await world.runners.close()
        assert cancelled.is_set() and answer.exception() is session.closed and len(world.runners) == 0

    run()


def test_a_plain_client_finds_one_ready(tmp_path: Path) -> None:
    """It is there before anything is asked, and the node ends it with itself, used or not."""
    node = NodeUnderTest(tmp_path / "data")
    variable = {"data": [1.0], "role": "x", "requires_grad": False, "obj_type": "__variable__"}

    @live
    async def run() -> None:
        first = await Plain.to(node, authorization=basic("one"))
        (ready,) = await asyncio.to_thread(wait_for, lambda: children(node.process.pid))
        made = await first.call("create_variable", variable)
        assert children(node.process.pid) == [ready]
        again = await Plain.to(node, authorization=basic("one"))
        assert (await again.call("get_variable", made))["data"] == [1.0]
        assert children(node.process.pid) == [ready], "a session that has one needs no other"
        await Plain.to(node, authorization=basic("two"))
        pids = await asyncio.to_thread(wait_for, lambda: children(node.process.pid)[1:])
        assert node.terminate() == 0
        assert gone(ready) and gone(pids[0])

    try:
        run()
    finally:
        node.terminate()
    assert "".join(node.said) == ""
