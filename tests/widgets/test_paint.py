"""When a panel is painted: few times, the last state always, on a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from gridkit.widgets import paint
from gridkit.widgets.paint import EVERY, SHARE, TICK, Painter
from tests.support import wait_for


class Panel:
    """Paints a number."""

    def __init__(self, cost: float = 0.0) -> None:
        self.state = 0
        self.over = False
        self.cost = cost
        self.painted: list[int] = []
        self.times: list[float] = []
        self.failures: list[str] = []
        self.trouble: Exception | None = None
        self.threads: set[str] = set()
        self.painter = Painter(self.paint, self.failed)

    def paint(self) -> bool:
        self.times.append(time.monotonic())
        self.threads.add(threading.current_thread().name)
        state, over = self.state, self.over
        end = time.thread_time() + self.cost
        while time.thread_time() < end:
            pass
        if self.trouble is not None:
            raise self.trouble
        self.painted.append(state)
        return not over

    def failed(self, error: Exception) -> bool:
        self.failures.append(str(error))
        return not self.over

    def change(self) -> None:
        self.state += 1
        self.painter.changed()


@pytest.fixture
def panel() -> Iterator[Panel]:
    made = Panel()
    yield made
    made.painter.close()
    made.painter.painted.result(5)


def test_a_flood_of_changes_is_a_few_paints_and_the_last_state_is_among_them(panel: Panel) -> None:
    began = time.monotonic()
    for _ in range(600):
        panel.change()
        time.sleep(1 / 300)
    took = time.monotonic() - began
    panel.over = True
    panel.change()
    panel.painter.painted.result(5)
    assert panel.painted[-1] == 601
    assert len(panel.times) <= took / EVERY + 2
    assert len(panel.times) >= took / EVERY / 2  # and it moves
    assert all(later - earlier >= EVERY * 0.99 for earlier, later in zip(panel.times, panel.times[1:], strict=False))
    assert panel.threads == {"gridkit-paint"}


def test_the_first_change_is_painted_at_once_and_the_last_one_soon(panel: Panel) -> None:
    began = time.monotonic()
    panel.change()
    wait_for(lambda: panel.painted == [1], what="the first paint")
    assert panel.times[0] - began < TICK / 2
    panel.change(), panel.change()
    wait_for(lambda: panel.painted == [1, 3], what="the second paint")


def test_a_change_during_a_paint_is_not_lost() -> None:
    panel = Panel(cost=0.1)
    try:
        panel.change()
        wait_for(lambda: len(panel.times) == 1, what="a paint that has begun")
        panel.change()
        wait_for(lambda: panel.painted[-1:] == [2], what="the newest state")
    finally:
        panel.painter.close()


def test_slow_paints_are_spaced_out() -> None:
    panel = Panel(cost=0.15)
    began = time.monotonic()
    try:
        while time.monotonic() - began < 2.2:
            panel.change()
            time.sleep(0.01)
        used = panel.cost * len(panel.times)
        assert 2 <= len(panel.times) <= 2.2 / (panel.cost / SHARE) + 2
        assert used <= (time.monotonic() - began) * SHARE + 2 * panel.cost
    finally:
        panel.painter.close()


def test_clocks_go_on_while_nothing_else_happens(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paint, "TICK", 0.05)
    panel.change()  # the thread notices with the next wait
    wait_for(lambda: len(panel.times) >= 3, what="paints without changes")


def test_an_error_is_told_and_painting_goes_on(panel: Panel) -> None:
    panel.trouble = ValueError("no ink")
    panel.change()
    wait_for(lambda: panel.failures == ["no ink"], what="the failure")
    panel.trouble = None
    panel.change()
    wait_for(lambda: panel.painted == [2], what="the next paint")


def test_an_error_in_the_last_paint_ends_it_too(panel: Panel) -> None:
    panel.trouble, panel.over = ValueError("no ink"), True
    panel.change()
    panel.painter.painted.result(5)
    assert panel.failures == ["no ink"]


def test_closed_it_ends_at_once_and_its_thread_with_it(panel: Panel) -> None:
    panel.change()
    wait_for(lambda: panel.painted == [1], what="a paint")
    panel.painter.close(), panel.painter.close()
    panel.painter.painted.result(0.5)
    panel.change()
    time.sleep(EVERY * 2)
    assert panel.painted == [1]
