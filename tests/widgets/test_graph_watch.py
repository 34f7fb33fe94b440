"""The live picture of a graph, without a front-end: what it shows of a pass, and what it leaves behind."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator

import pytest

from gridkit.widgets import graph_watch as module
from gridkit.widgets.graph import MAX_ROWS, Box, drawing
from gridkit.widgets.graph_watch import GraphWatch
from gridkit.widgets.html import Html, tag
from tests.support import wait_for
from tests.widgets.test_html import EVIL

VIEW = "application/vnd.jupyter.widget-view+json"


class Picture:
    """Five nodes."""

    def __init__(self, last_pass: str | None, steps: int) -> None:
        self.last_pass, self.steps = last_pass, steps

    def caption(self, steps: int | None = None) -> str:
        return f"graph, {self.steps if steps is None else steps} walked"

    def text(self, steps: int | None = None) -> str:
        return f"five lines {EVIL}"

    def picture(self, steps: int | None = None) -> Html:
        return tag("figure", f"pass {self.last_pass}: {self.steps if steps is None else steps}")


class Walk:
    """What is followed, by hand."""

    def __init__(self) -> None:
        self.picture = Picture(None, 0)
        self.state, self.over, self.left = "nothing yet", False, 0
        self.listener: Callable[[], None] = lambda: None

    def snapshot(self) -> Picture:
        return self.picture

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        self.listener = listener

        def leave() -> None:
            self.left += 1

        return leave

    def tell(self, last_pass: str, steps: int, state: str, over: bool = False) -> None:
        self.picture, self.state, self.over = Picture(last_pass, steps), state, over
        self.listener()


@pytest.fixture
def walk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Walk]:
    monkeypatch.setattr("gridkit.widgets.paint.EVERY", 0.01)
    yield Walk()


def drawn(view: GraphWatch) -> list[str]:
    """What was painted, in order, from now on."""
    found: list[str] = []
    view.picture.observe(lambda change: found.append(re.sub("<[^>]*>", "", change["new"])), "value")
    return found


def test_a_quick_pass_is_shown_step_by_step_and_then_the_twin_stands_alone(walk: Walk) -> None:
    view = GraphWatch(walk)
    assert "nothing yet" in view.status.value and "pass None: 0" in view.picture.value
    assert VIEW in view._repr_mimebundle_() or view.comm is None
    seen = drawn(view)
    walk.tell("1", 5, "pass 1, done", over=True)
    view.painted.result(10)
    assert seen == [f"pass 1: {steps}" for steps in range(1, 6)]
    assert 'aria-live="polite"' in view.status.value and "slower" not in view.status.value
    bundle = view._repr_mimebundle_()
    assert VIEW not in bundle and "pass 1: 5" in bundle["text/html"]
    assert bundle["text/plain"] == f"graph, 5 walked, pass 1, done\nfive lines {EVIL}"
    assert walk.left >= 1


def test_the_next_pass_begins_at_the_top(walk: Walk) -> None:
    view = GraphWatch(walk)
    seen = drawn(view)
    walk.tell("1", 3, "pass 1, done")
    wait_for(lambda: seen and seen[-1] == "pass 1: 3")
    walk.tell("2", 2, "pass 2, 40 %")
    wait_for(lambda: seen[-1] == "pass 2: 2")
    assert seen == ["pass 1: 1", "pass 1: 2", "pass 1: 3", "pass 2: 1", "pass 2: 2"]
    assert "pass 2, 40 %" in view.status.value and 'aria-live="off"' in view.status.value
    assert not view.painted.done()
    view.close()
    view.painted.result(10)


def test_a_large_picture_is_painted_less_often(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    view = GraphWatch(walk)
    seen = drawn(view)
    walk.tell("1", 100, "pass 1, done", over=True)
    view.painted.result(10)
    assert seen == [f"pass 1: {steps}" for steps in (25, 50, 75, 100)]


def test_when_the_session_is_closed_it_is_over(walk: Walk) -> None:
    view = GraphWatch(walk)
    walk.tell("1", 2, "the session is closed")
    view.update_twin(over=True)
    view.painted.result(10)
    assert VIEW not in view._repr_mimebundle_()
    assert not any(thread.name == "gridkit-paint" and thread.is_alive() for thread in threading.enumerate())


def test_what_cannot_be_drawn_is_said(walk: Walk) -> None:
    view = GraphWatch(walk)

    class Broken(Picture):
        def picture(self, steps: int | None = None) -> Html:
            raise ValueError(EVIL)

    walk.picture, walk.over = Broken("1", 1), True
    walk.listener()
    view.painted.result(10)
    assert "ValueError" in view.status.value and "<img" not in view.status.value


def test_names_of_the_notebook_are_text() -> None:
    html = drawing({1: Box(EVIL, EVIL, EVIL, number=1)}, [[1]], [], EVIL, EVIL)
    assert "<img" not in html and "<script" not in html and "&lt;" in html
    assert "too many" in drawing({}, [[]] * (MAX_ROWS + 1), [], "graph", "graph")
