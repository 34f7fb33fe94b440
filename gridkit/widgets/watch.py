"""A training, live: curves, a row a worker, progress, Stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import ipywidgets as W

from gridkit import cells, threads
from gridkit.widgets.html import Html, tag
from gridkit.widgets.paint import Painter
from gridkit.widgets.plot import live_picture
from gridkit.widgets.snapshot import RunSnapshot
from gridkit.widgets.twin import TwinBox


class Watched(Protocol):
    """What a panel needs of a Run. Nothing here does I/O."""

    def snapshot(self) -> RunSnapshot: ...

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]: ...


class RunWatch(TwinBox):
    """The live panel of a Run. Painted at most five times a second, on a thread of its own.

    When the run is over and the last state was painted, its outputs in the notebook become its twin.

    Args:
        run: what is watched.
        stop: ``stop(now)`` stops it; may take its time and raise: it is called on a thread of its own.

    Attributes:
        painted: a future; done when nothing more will be painted.

    Example:
        >>> run.watch()                                                             # doctest: +SKIP
    """

    def __init__(self, run: Watched, stop: Callable[[bool], None]) -> None:
        self._run = run
        self._ask = stop
        self._asked = 0
        self._note = ""
        self._drawn: RunSnapshot | None = None
        self.progress = W.HTML()
        self.stop_button = W.Button(description="Stop", icon="stop", tooltip="Stop after this round; again: at once")
        self.curves = W.HTML()
        self.workers = W.HTML()
        self.status = W.HTML()
        top = W.HBox([self.progress, self.stop_button], layout=W.Layout(flex_flow="row wrap"))
        super().__init__([top, self.status, self.curves, self.workers])
        self.stop_button.on_click(lambda _: self.stop())
        self._paint()  # so that it is never shown empty
        self._painter = Painter(self._paint_next, self._show_failure)
        self.painted = self._painter.painted
        self._unsubscribe = run.subscribe(self._painter.changed)
        self._painter.changed()  # what happened before it subscribed
        cells.remember(self)

    def stop(self) -> None:
        """What the button does: stop after this round; a second time: now. Returns at once."""
        now = self._asked > 0
        self._asked += 1
        self._say("asking it to stop at once" if now else "asking it to stop after this round")

        def ask() -> None:
            try:
                self._ask(now)
            except Exception as error:  # noqa: BLE001  the panel shows it
                self._asked -= 1
                self._say(f"it couldn't be stopped: {error}")
            else:
                self._say("it stops at once" if now else "it stops after this round")

        threads.start(ask, name="gridkit-stop", end=lambda: None)

    def close(self) -> None:
        """Close the panel; the training goes on."""
        self._unsubscribe()
        self._painter.close()
        super().close()

    def twin(self) -> tuple[str, Html]:
        snapshot = self._run.snapshot()
        return snapshot.text(), run_twin(snapshot)

    def _say(self, note: str) -> None:
        self._note = note
        self._painter.changed()

    def _paint(self) -> RunSnapshot:
        """Only what has changed is sent: a widget's member that is set to what it is stays quiet."""
        now, before = self._run.snapshot(), self._drawn
        self.progress.value = _bar(now)
        if before is None or now.tests != before.tests or not now.metrics.equals(before.metrics):
            self.curves.value = live_picture(now.metrics, now.title, now.by_worker)
        self.workers.value = now.worker_table()
        self.status.value = now.status_line("" if now.done else self._note)
        self.stop_button.description = "Stop now" if self._asked else "Stop"
        self.stop_button.disabled = now.done or self._asked > 1
        self._drawn = now
        return now

    def _paint_next(self) -> bool:
        if not self._paint().done:
            return True
        self._unsubscribe()
        self.update_twin(over=True)
        return False

    def _show_failure(self, error: Exception) -> bool:
        message = f"this panel couldn't be painted: {type(error).__name__}: {error}"
        self.status.value = tag("div", message, role="status", aria_live="polite")
        return not self._run.snapshot().done


def run_twin(snapshot: RunSnapshot) -> Html:
    """The panel as it stands in a saved notebook."""
    return tag(
        "div",
        tag("div", _bar(snapshot)),
        snapshot.status_line(),
        tag("div", live_picture(snapshot.metrics, snapshot.title, snapshot.by_worker)),
        snapshot.worker_table(),
        class_="gridkit",
    )


def _bar(snapshot: RunSnapshot) -> Html:
    """Rounds that are over, of all; a training without end has no such share.

    Not an `IntProgress`: that one has no role and no value for a screen reader.
    """
    of = max(1, snapshot.rounds or 0, snapshot.rounds_done)
    value = snapshot.rounds_done if snapshot.rounds or snapshot.done else None
    return tag("progress", value=value, max=of, aria_label=snapshot.progress, style="width:24em")
