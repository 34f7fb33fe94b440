"""A graph, live: a backward pass walks through it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import ipywidgets as W

from gridkit import cells
from gridkit.widgets.html import Html, tag
from gridkit.widgets.paint import Painter
from gridkit.widgets.twin import TwinBox

PAINTS, MIN_PAINTS = 20, 4
"""in which a pass that is quicker than the eye is shown"""
MAX_BYTES = 1_000_000
"""of all of them together"""


class Picture(Protocol):
    """A graph at one moment. `steps`: how many nodes the last pass has gone through, or are shown so."""

    @property
    def last_pass(self) -> str | None: ...

    @property
    def steps(self) -> int: ...

    def caption(self, steps: int | None = None) -> str: ...

    def text(self, steps: int | None = None) -> str: ...

    def picture(self, steps: int | None = None) -> Html: ...


class Walked(Protocol):
    """What is followed. Nothing here does I/O."""

    def snapshot(self) -> Picture: ...

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]: ...

    @property
    def state(self) -> str: ...

    @property
    def over(self) -> bool: ...


class GraphWatch(TwinBox):
    """The live picture of a graph: nodes light up in the order in which a backward pass goes through them.

    A pass that is quicker than the eye is shown slower than it was. When no other can follow, its outputs in the
    notebook become its twin.

    Attributes:
        painted: a future; done when nothing more will be painted.

    Example:
        >>> y.graph(live=True)                                                      # doctest: +SKIP
        >>> y.backward()                                                            # doctest: +SKIP
    """

    def __init__(self, walk: Walked) -> None:
        self._walk = walk
        self._pass: str | None = None
        self._steps = 0
        self._last_look = False
        self.status = W.HTML()
        self.picture = W.HTML()
        super().__init__([self.status, self.picture])
        self._draw(walk.snapshot(), over=False)  # so that it is never shown empty
        self._painter = Painter(self._paint_next, self._show_failure)
        self.painted = self._painter.painted
        self._unsubscribe = walk.subscribe(self._painter.changed)
        self._painter.changed()  # what happened before it subscribed
        cells.remember(self)

    def close(self) -> None:
        """Close the picture; the graph stays."""
        self._end()
        super().close()

    def update_twin(self, *, over: bool = False) -> None:
        if over:
            self._end()
        super().update_twin(over=over)

    def twin(self) -> tuple[str, Html]:
        graph, state = self._walk.snapshot(), self._walk.state
        texts = [graph.caption(), *([state] if state else [])]
        return "\n".join([", ".join(texts), graph.text()]), tag("div", _status(state, True), graph.picture())

    def _end(self) -> None:
        self._unsubscribe()
        self._painter.close()

    def _draw(self, graph: Picture, over: bool) -> None:
        """Only what has changed is sent: a widget's member that is set to what it is stays quiet."""
        slower = ", shown slower than it was" if self._steps < graph.steps else ""
        self.status.value = _status(f"{self._walk.state}{slower}", over)
        self.picture.value = graph.picture(self._steps)

    def _paint_next(self) -> bool:
        over = self._walk.over  # first: what comes after it is in the snapshot
        graph = self._walk.snapshot()
        if graph.last_pass != self._pass:
            self._pass, self._steps = graph.last_pass, 0
        paints = max(MIN_PAINTS, min(PAINTS, MAX_BYTES // len(self.picture.value)))
        self._steps = min(graph.steps, self._steps + math.ceil(graph.steps / paints))
        shown = self._steps == graph.steps
        self._draw(graph, over and shown)
        if not (over and shown):
            self._last_look = False
            if not shown:
                self._painter.changed()
            return True
        if not self._last_look:  # the last nodes may be told of after the pass's end
            self._last_look = True
            self._painter.changed()
            return True
        self.update_twin(over=True)
        return False

    def _show_failure(self, error: Exception) -> bool:
        self.status.value = _status(f"this graph couldn't be painted: {type(error).__name__}: {error}", True)
        return not self._walk.over


def _status(state: str, over: bool) -> Html:
    """A screen reader says it at the end."""
    return tag("div", state, role="status", aria_live="polite" if over else "off")
