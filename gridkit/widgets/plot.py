"""The one picture of a training: lines over rounds, drawn by matplotlib, shown as SVG in the page's own colours.

`draw` serves `run.plot()`, the live panel and saved pictures. A figure of gridkit is a `PageFigure`: in a notebook it
is an inline ``<svg>`` whose text and axes have the colour of the page's text (``currentColor``), so it can be read on
light and dark pages alike, and a screen reader reads the newest values. Everything else a figure can do stays.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gridkit.errors import UsageError
from gridkit.widgets.html import Html
from gridkit.widgets.svg import SvgRenderer

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SIZE = (6.0, 3.5)
"""of a figure of gridkit (inches)"""

PALETTE = ("#1f77b4", "#d95f02", "#2a9134", "#9467bd", "#d62f7f", "#8c6d46", "#0e8f96", "#7a7a7a")
"""Line colours with a contrast of at least 3 to white and to the dark theme's ground; used unless the user has chosen
others (``rcParams["axes.prop_cycle"]``)."""

_STYLES = ("-", "--", ":", "-.")
_MARKERS = "os^Dv"
_MARKED_ROUNDS = 40  # with more rounds, markers would run into each other
_NAME = 60  # characters of a name in the picture


def shown_metrics(frame: pd.DataFrame) -> list[str]:
    """What is drawn when nothing is chosen: what `evaluate` returned, and the loss."""
    return list(frame.columns[: list(frame.columns).index("loss") + 1])


def draw(frame: pd.DataFrame, title: str, ax: Axes | None = None, metrics: Sequence[str] | None = None) -> Axes:
    """Lines over rounds.

    Args:
        frame: a row a round (index: its number), as `Run.metrics`.
        title: foreign text; never read as mathematics.
        ax: where; None makes a `PageFigure` through pyplot (on the main thread only).
        metrics: columns of `frame`; by default `shown_metrics`.

    Raises:
        UsageError: there is no such metric; nothing was drawn.
    """
    metrics = shown_metrics(frame) if metrics is None else list(metrics)
    for name in metrics:
        if name not in frame.columns:
            raise UsageError(f"there is no metric {name!r}", f"use some of: {', '.join(frame.columns)}")
    given = ax
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.figure(FigureClass=PageFigure, figsize=SIZE, layout="constrained").subplots()
    own_colours = mpl.rcParams["axes.prop_cycle"] == mpl.rcParamsDefault["axes.prop_cycle"]
    lines = []
    for place, name in enumerate(metrics):
        colour = PALETTE[place % len(PALETTE)] if own_colours else None
        marker = _MARKERS[place % len(_MARKERS)] if len(frame) <= _MARKED_ROUNDS else None
        style = _STYLES[place % len(_STYLES)]
        values = frame[name].to_numpy(np.float64)
        lines += ax.plot(frame.index, values, linestyle=style, marker=marker, markersize=4, label=name, color=colour)
    ax.set_xlabel("round")
    ax.set_title(_readable(title), parse_math=False)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if lines:
        legend = ax.legend(lines, [_readable(name) for name in metrics], frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
    ax.grid(alpha=0.3)
    if given is None:
        _say_what_is_missing(ax, frame[metrics])
    return ax


def _say_what_is_missing(ax: Axes, drawn: pd.DataFrame) -> None:
    """A picture without a point would have rounds from -0.04 to 0.04."""
    if not drawn.notna().any(axis=None):
        ax.set(xticks=[], yticks=[])
        if not drawn.empty:  # workers of the syft family send a diff and no more
            ax.text(
                0.5,
                0.5,
                "no loss was reported" if list(drawn) == ["loss"] else "no values were reported",
                ha="center",
                va="center",
                transform=ax.transAxes,
            )


def live_picture(frame: pd.DataFrame, title: str) -> Html:
    """The picture as SVG, on any thread: pyplot, which belongs to the user, isn't touched."""
    figure = PageFigure(figsize=SIZE)
    # Room for labels of a fixed size: to have matplotlib find out how much they need takes half of the time.
    ax = draw(frame, title, figure.subplots(gridspec_kw={"left": 0.12, "right": 0.98, "bottom": 0.15, "top": 0.91}))
    _say_what_is_missing(ax, frame[shown_metrics(frame)])
    return figure.to_svg()


class PageFigure(Figure):
    """A figure that a notebook shows as SVG in the page's colours.

    >>> figure = PageFigure(figsize=(6, 3))
    >>> _ = figure.subplots().plot([1, 2, 3], label="loss")
    >>> str(figure.to_svg())[:30]
    '<svg viewBox="0 0 600 300" rol'
    """

    def to_svg(self) -> Html:
        """The figure as it is now.

        Text, axes and ticks in the colours of rcParams become ``currentColor``, grounds in the colours of rcParams
        are left out; all other colours stay. Hatches aren't drawn.
        """
        rc = mpl.rcParams
        ink = {rc["text.color"], rc["axes.edgecolor"], rc["axes.labelcolor"], rc["xtick.color"], rc["ytick.color"]}
        renderer = SvgRenderer(self.bbox.width, self.bbox.height, self.dpi, {to_hex(colour) for colour in ink})
        grounds = [(self.patch, rc["figure.facecolor"]), *((ax.patch, rc["axes.facecolor"]) for ax in self.axes)]
        with ExitStack() as put_back:
            for patch, usual in grounds:
                if patch.get_visible() and to_hex(patch.get_facecolor()) == to_hex(usual):
                    patch.set_visible(False)
                    put_back.callback(patch.set_visible, True)
            self.draw(renderer)
        return renderer.svg(self.described())

    def described(self) -> str:
        """Such as "digits 1.0, 17 rounds: loss 0.219, accuracy 0.898", for those who hear it."""
        return "; ".join(filter(None, map(_heard, self.axes)))

    def _repr_html_(self) -> str:
        return self.to_svg()


def _heard(ax: Axes) -> str:
    values, rounds = [], 0
    for line in ax.get_lines():
        y = np.asarray(line.get_ydata(), np.float64)
        rounds = max(rounds, len(y))
        known = y[np.isfinite(y)]
        values.append(f"{line.get_label()} {known[-1]:.3g}" if len(known) else f"{line.get_label()}: no value yet")
    title = ax.get_title()
    return f"{title + ', ' if title else ''}{rounds} rounds: {', '.join(values)}"


def _readable(name: str) -> str:
    """Short, and without what has no shape."""
    name = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in str(name))
    return name if len(name) <= _NAME else name[: _NAME - 1] + "…"
