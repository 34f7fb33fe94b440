"""How the rows of a training on a node reach its Run, where push participants are told of the end after it has come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from gridkit import hosted

Row = dict[str, Any]
FINISHED: Row = {"kind": "finished"}


def told(what: str, slot: int, answer: int | None) -> Row:
    return {"kind": "notified", "notification": what, "slot": slot, "answer": answer}


START = [told("TRAINING_START", 0, 200), told("TRAINING_START", 1, None), told("TRAINING_START", 1, 200)]


class Node:
    """Has these rows, and others when it is told so; its stream ends with the end of the training, if it comes."""

    def __init__(self, *rows: Row) -> None:
        self.kept: list[Row] = []
        self.more = asyncio.Event()
        self.add(*rows)

    def add(self, *rows: Row) -> None:
        self.kept += [{"seq": len(self.kept) + place + 1, **row} for place, row in enumerate(rows)]
        self.more.set()

    async def rows(self, run: str, after: int = 0) -> AsyncGenerator[Row]:
        while True:
            self.more.clear()
            for row in self.kept[after:]:
                after = row["seq"]
                yield row
                if row["kind"] == "finished":
                    return
            await self.more.wait()


def feed(check: Callable[[Node, list[str], asyncio.Task[None]], Any], *rows: Row) -> None:
    """Feed a Run with the rows of such a node; `check` sees, in the loop, what was taken."""

    async def main() -> None:
        node, taken = Node(*rows), list[str]()
        about: Any = ("run", "digits", "1.0", lambda work: None, None, lambda: None)
        source = hosted.NodeSource(node, *about)  # type: ignore[arg-type]  # nothing is lent

        def take(row: Row) -> None:
            taken.append(str(row.get("notification", row["kind"])))

        def fail(error: BaseException) -> None:
            raise error

        task = asyncio.create_task(source._feed(take, fail))
        await check(node, taken, task)
        await asyncio.wait_for(task, 5)

    asyncio.run(main())


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def test_without_participants_the_end_comes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosted, "FAREWELL_SECONDS", 600.0)

    async def check(node: Node, taken: list[str], task: asyncio.Task[None]) -> None:
        await task
        assert taken == ["opened", "finished"]

    feed(check, {"kind": "opened"}, FINISHED)


def test_the_end_comes_with_what_participants_were_told_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosted, "FAREWELL_SECONDS", 600.0)

    async def check(node: Node, taken: list[str], task: asyncio.Task[None]) -> None:
        await until(lambda: len(taken) == 4)
        node.add(FINISHED, told("TRAINING_FINISHED", 0, 200))
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(taken) == 4  # one more has to hear of it
        node.add(told("TRAINING_FINISHED", 1, 500))
        await task
        assert taken[4:] == ["finished", "TRAINING_FINISHED", "TRAINING_FINISHED"]

    feed(check, *START, {"kind": "opened"})


def test_who_cannot_be_told_holds_the_end_up_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosted, "FAREWELL_SECONDS", 0.05)

    async def check(node: Node, taken: list[str], task: asyncio.Task[None]) -> None:
        await until(lambda: "finished" in taken)
        assert taken[-2:] == ["finished", "TRAINING_FINISHED"] and not task.done()
        node.add(told("TRAINING_FINISHED", 0, None), told("TRAINING_FINISHED", 0, 200))
        await task
        assert taken.count("TRAINING_FINISHED") == 3

    gone = {"kind": "left", "slot": 1}
    feed(check, *START, gone, FINISHED, told("TRAINING_FINISHED", 0, None))


def test_nobody_is_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosted, "FAREWELL_SECONDS", 0.05)
    monkeypatch.setattr(hosted, "LATE_SECONDS", 0.05)

    async def check(node: Node, taken: list[str], task: asyncio.Task[None]) -> None:
        await task
        assert taken[-1] == "finished"

    feed(check, *START, FINISHED)
