"""When a live panel is painted: often enough for the eye, seldom enough for everything else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from gridkit import threads

EVERY = 0.2
"""seconds between the beginnings of two paints, at least"""
SHARE = 0.2
"""of a core that painting may take; slow paints are spaced out"""
TICK = 1.0
"""seconds after which it is painted anyway: running clocks go on while nothing else happens"""


class Painter:
    """Calls `paint` on a thread of its own after changes, and never more often than it should.

    A change is painted at once if nothing was for `EVERY` seconds, else as soon as they are over; what changes
    meanwhile is painted together. So the last state is always painted.

    Args:
        paint: paints the newest state; returns whether there may be another one.
        failed: called with what `paint` raised; then painting goes on.

    Attributes:
        painted: done when nothing more will be painted: after `paint` said so, or `close`.
    """

    def __init__(self, paint: Callable[[], bool], failed: Callable[[Exception], bool]) -> None:
        self._paint = paint
        self._failed = failed
        self._wanted = threading.Event()
        self._closed = threading.Event()
        self.painted: Future[None] = Future()
        self.painted.set_running_or_notify_cancel()  # whoever waits for it can't cancel it
        threads.start(self._work, name="gridkit-paint", end=self.close)

    def changed(self) -> None:
        """There is something new. Returns at once; call it on any thread, as often as you like."""
        self._wanted.set()

    def close(self) -> None:
        """Paint no more."""
        self._closed.set()
        self._wanted.set()

    def _work(self) -> None:
        try:
            more = True
            while more and not self._closed.is_set():
                self._wanted.wait(TICK)
                if self._closed.is_set():
                    break
                self._wanted.clear()  # before the state is read: what comes now is painted next time
                began, used = time.monotonic(), time.thread_time()
                try:
                    more = self._paint()
                except Exception as error:  # noqa: BLE001  the panel shows it
                    more = self._failed(error)
                pause = max(EVERY, (time.thread_time() - used) / SHARE)
                if more:
                    self._closed.wait(began + pause - time.monotonic())
        finally:
            self.painted.set_result(None)
