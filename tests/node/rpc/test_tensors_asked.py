"""What is asked of a session's process, without the process: order, bounds, cancelling, and how all of it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from gridkit.errors import ErrorCode, GridkitError, LimitError, NodeError, NodeUnreachable, PlanError
from gridkit.node.child import Child, Lost
from gridkit.node.rights import Principal, Role
from gridkit.node.rpc import tensors as module
from gridkit.node.rpc.runners import Runners
from gridkit.node.rpc.tensors import AHEAD, Answer, Tensors
from gridkit.node.rpc.works import Work
from gridkit.node.settings import Limits
from gridkit.wire.rpc.messages import Notification
from tests.node.rpc.ends import live


class FakeChild:
    """Says what a test has it say."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.noted: list[dict[str, Any]] = []
        self.frames: asyncio.Queue[Any] = asyncio.Queue()
        self.ended = False
        self.pid = 1

    async def say(self, header: dict[str, Any], parts: Sequence[bytes]) -> None:
        self.asked.append(header["number"])

    def note(self, header: dict[str, Any]) -> None:
        self.noted.append(header)

    async def hear(self) -> Any:
        frame = await self.frames.get()
        if isinstance(frame, Exception):
            raise frame
        return frame

    async def end(self) -> None:
        self.ended = True

    def tells(self, **said: Any) -> None:
        text = json.dumps({"events": [], "fired": [], "total": 0, **said}).encode()
        self.frames.put_nowait(({"sizes": [len(text)], "told": 0}, text))

    def answers(self, number: int, count: int = 1, **said: Any) -> None:
        self.tells(**{"answer": number, "result": number, "names": [], "count": count, **said})


class FakeSession:
    def __init__(self, owner: str = "ana") -> None:
        self.principal = Principal(Role.SCIENTIST, owner)
        self.closed: GridkitError | None = None
        self.on_close: list[Any] = []
        self.left: float | None = None
        self.eased = 0

    def ease(self) -> None:
        self.eased += 1


class Told:
    """What the client was told. `open`: it takes it; `most`: so many events at a time."""

    preview = 0

    def __init__(self) -> None:
        self.events: list[str] = []
        self.passing: list[dict[str, Any]] = []
        self.most = 10
        self.open = asyncio.Event()
        self.open.set()

    async def tell(self, events: list[Notification], bodies: Sequence[Any]) -> None:
        await self.open.wait()
        if len(events) > self.most:
            raise LimitError("too large", code=ErrorCode.TOO_LARGE)
        self.events += [event.method for event in events]

    def pass_by(self, event: Notification) -> None:
        self.passing.append(event.params)

    def lost(self, reason: GridkitError) -> list[Notification]:
        return [Notification("log", {"text": reason.message})]


class World:
    """Sessions with tensors, and the processes that were started for them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **limits: Any) -> None:
        self.children: list[FakeChild] = []
        self.fails: Exception | None = None
        self.runners = Runners(Limits(**limits))

        async def start(*_: Any) -> FakeChild:
            if self.fails is not None:
                raise self.fails
            self.children.append(FakeChild())
            return self.children[-1]

        monkeypatch.setattr(Child, "start", start)

    def session(self, owner: str = "ana") -> tuple[Tensors, FakeSession, Told]:
        session, told = FakeSession(owner), Told()
        return Tensors(session, self.runners, told), session, told  # type: ignore[arg-type]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def ask(tensors: Tensors, work: Work | None = None, closing: Any = None) -> asyncio.Task[Answer]:
    answer = tensors.ask("get_variable", {}, [], work or Work(1), closing)
    return asyncio.create_task(tensors.outcome(answer))


def test_they_are_asked_in_order_and_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    @live
    async def run() -> None:
        world = World(monkeypatch)
        tensors, _, _ = world.session()
        assert tensors.pid is None and not tensors.spare
        works = [Work(number) for number in range(AHEAD + 2)]
        asked = [ask(tensors, work) for work in works]
        await settle()
        (child,) = world.children
        assert child.asked == list(range(1, AHEAD + 1)) and tensors.pid == 1
        assert works[0].progress == {"phase": "running", "ahead": 0}
        assert works[-1].progress == {"phase": "waiting", "ahead": AHEAD + 1}
        child.tells(fired=[{"node_id": 1}] * 3, total=12)
        await settle()
        assert works[0].progress == {"phase": "running", "ahead": 0, "done": 3, "total": 12}
        for number in range(1, AHEAD + 3):
            child.answers(number)
        assert [(await each).result for each in asked] == list(range(1, AHEAD + 3))
        assert child.asked[-2:] == [AHEAD + 1, AHEAD + 2]

    run()


def test_w12_a_client_that_does_not_take_it_stops_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more is read from it, for as long as that takes."""

    @live
    async def run() -> None:
        world = World(monkeypatch, run_seconds=0.05)
        monkeypatch.setattr(module, "GRACE", 0.0)
        tensors, _, told = world.session()
        told.open.clear()
        asked = ask(tensors)
        await settle()
        (child,) = world.children
        child.tells(events=[{"method": "one", "params": {}}])
        child.tells(events=[{"method": "two", "params": {}}])
        await asyncio.sleep(0.1)
        assert child.frames.qsize() == 1 and told.events == []
        told.open.set()
        child.answers(1)
        assert (await asked).result == 1 and told.events == ["one", "two"]

    run()


def test_cancelling(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the process doesn't have yet ends at once; else it has the last word."""

    @live
    async def run() -> None:
        world = World(monkeypatch)
        tensors, _, told = world.session()
        closings: list[Any] = []

        def closing(error: GridkitError | None, names: list[str]) -> list[Notification]:
            closings.append((error and error.code, names))
            return [Notification("clear_backward", {})]

        asked = [ask(tensors, closing=closing) for _ in range(AHEAD + 1)]
        await settle()
        (child,) = world.children
        for each in (asked[0], asked[1], asked[-1]):
            each.cancel()
        with pytest.raises(PlanError) as refused:
            await asked[-1]
        assert refused.value.code is ErrorCode.CANCELLED and told.events == ["clear_backward"]
        assert child.noted == [{"cancel": 1}, {"cancel": 2}]
        child.answers(1, names=["x"])  # it was done already
        error = {"message": "the request was cancelled", "hint": None, "code": "CANCELLED"}
        child.answers(2, error=error, names=["x"])
        assert (await asked[0]).result == 1
        with pytest.raises(PlanError, match="cancelled"):
            await asked[1]
        assert closings == [("CANCELLED", []), (None, ["x"]), ("CANCELLED", ["x"])]
        for number in range(3, AHEAD + 1):
            child.answers(number)
        await asyncio.gather(*asked[2:-1])

    run()


def test_s7_what_is_too_large_to_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request fails, and that its pass is over is told all the same; the next one is done."""

    @live
    async def run() -> None:
        world = World(monkeypatch)
        tensors, _, told = world.session()
        asked = [ask(tensors, closing=lambda error, names: [Notification(f"over {error}", {})]) for _ in range(3)]
        await settle()
        many = [{"method": "one", "params": {}}] * 11
        world.children[0].answers(1, events=many)
        world.children[0].tells(events=many)
        world.children[0].answers(2)
        world.children[0].answers(3)
        for each in asked[:2]:
            with pytest.raises(LimitError, match="too large"):
                await each
        assert (await asked[2]).result == 3
        assert told.events == ["over too large", "over too large", "over None"]

    run()


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (Lost("it ended"), ErrorCode.RUN_FAILED),
        (({"sizes": [2], "told": 0}, b"no"), ErrorCode.RUN_FAILED),
        (None, ErrorCode.TIMED_OUT),
    ],
)
def test_w2_nobody_waits_for_a_process_that_is_gone(monkeypatch: pytest.MonkeyPatch, end: Any, code: ErrorCode) -> None:
    @live
    async def run() -> None:
        world = World(monkeypatch, run_seconds=0.05)
        monkeypatch.setattr(module, "GRACE", 0.0)
        tensors, _, told = world.session()
        asked = [ask(tensors) for _ in range(AHEAD + 5)]
        await settle()
        if end is not None:
            world.children[0].frames.put_nowait(end)
        for each in asked:
            with pytest.raises(NodeError) as failed:
                await each
            assert failed.value.code is code
        assert world.children[0].ended and told.events == ["log"] and len(world.runners) == 0
        again = ask(tensors)
        await settle()
        error = {"message": "there is no tensor 'x'", "hint": "…", "code": "NOT_FOUND"}
        world.children[1].answers(AHEAD + 6, error=error)
        with pytest.raises(PlanError, match="no tensor") as refused:
            await again
        assert refused.value.hint is not None and "lost" in refused.value.hint

    run()


def test_as_many_processes_as_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in which nothing is left is given back for another session, or after a while."""

    @live
    async def run() -> None:
        world = World(monkeypatch, rpc_runners=1)
        (one, _, _), (two, _, _) = world.session(), world.session()
        first = ask(one)
        await settle()
        with pytest.raises(LimitError) as refused:
            await ask(two)
        assert refused.value.code is ErrorCode.TOO_MANY
        world.children[0].answers(1, count=5)
        await first
        await settle()
        with pytest.raises(LimitError):
            await ask(two)
        second = ask(one)
        await settle()
        world.children[0].answers(2, count=0)
        await second
        await settle()
        monkeypatch.setattr(module, "IDLE_SECONDS", 0.0)
        third = ask(two)
        await settle()
        assert world.children[0].ended and one.pid is None and len(world.runners) == 1
        world.children[1].answers(3, count=0)
        await third
        await asyncio.sleep(0.05)
        assert world.children[1].ended and two.pid is None and len(world.runners) == 0

    run()


def test_no_account_has_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has as many as one may takes one of its own sessions', and leaves others theirs."""

    @live
    async def run() -> None:
        world = World(monkeypatch, rpc_runners=4, rpc_runners_each=2)
        mine, hers = [world.session()[0] for _ in range(3)], world.session("eva")[0]
        for number, tensors in enumerate([mine[0], mine[1], hers]):
            asked = ask(tensors)
            await settle()
            world.children[number].answers(1, count=0 if tensors is hers else 5)
            await asked
        with pytest.raises(LimitError, match="2 sessions of yours"):
            await ask(mine[2])
        asked = ask(mine[0])
        await settle()
        world.children[0].answers(2, count=0)
        await asked
        await settle()
        asked = ask(mine[2])
        await settle()
        assert [child.ended for child in world.children] == [True, False, False, False] and len(world.runners) == 3
        world.children[3].answers(2)  # it was refused once
        await asked

    run()


def test_one_that_can_not_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    @live
    async def run() -> None:
        world = World(monkeypatch)
        world.fails = Lost("it ended")
        tensors, _, told = world.session()
        for each in [ask(tensors), ask(tensors)]:
            with pytest.raises(NodeError) as failed:
                await each
            assert failed.value.code is ErrorCode.BUSY
        assert len(world.runners) == 0 and told.events == []

    run()


def test_s7_so_much_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    @live
    async def run() -> None:
        world = World(monkeypatch, run_inputs=1000)
        tensors, _, _ = world.session()
        first = tensors.ask("create_variable", {}, [bytes(800)], Work(1))
        with pytest.raises(LimitError) as refused:
            tensors.ask("create_variable", {}, [bytes(800)], Work(2))
        assert refused.value.code is ErrorCode.BUSY
        await settle()
        world.children[0].answers(1)
        await first
        second = tensors.ask("create_variable", {}, [bytes(800)], Work(2))
        await settle()
        world.children[0].answers(2)
        assert (await second).result == 2

    run()


def test_s7_whoever_asks_for_more_than_is_computed_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    @live
    async def run() -> None:
        world = World(monkeypatch, rpc_requests=20)
        monkeypatch.setattr(module, "AHEAD", 2)
        tensors, session, _ = world.session()
        asked = [ask(tensors) for _ in range(12)]
        assert tensors.crowded
        await settle()
        assert tensors.crowded and not session.eased
        world.children[0].answers(1)
        await settle()
        assert session.eased == 1 and not tensors.crowded
        for number in range(2, 13):
            world.children[0].answers(number)
        await asyncio.gather(*asked)

    run()


def test_the_session_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the middle of a start: the process ends, and whoever waits is told why."""

    @live
    async def run() -> None:
        world = World(monkeypatch)
        tensors, session, told = world.session()
        told.open.clear()
        asked = [tensors.ask("get_variable", {}, [], Work(number)) for number in range(3)]
        await settle()
        world.children[0].tells(events=[{"method": "one", "params": {}}])
        await settle()
        session.closed = NodeUnreachable("the client has closed the session")
        for free in session.on_close:
            free()
        await world.runners.close()
        for each in asked:
            assert each.exception() is session.closed
        assert world.children[0].ended and len(world.runners) == 0 and tensors.pid is None

    run()
