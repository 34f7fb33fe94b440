"""The one picture of a training: lines over rounds, drawn by matplotlib, shown as SVG in the page's own colours.

`draw` serves `run.plot()`, the live panel and saved pictures. A figure of gridkit is a `PageFigure`: in a notebook it
is an inline ``<svg>`` whose text and axes have the colour of the page's text (``currentColor``), so it can be read on
light and dark pages alike, and a screen reader reads the newest values. Everything else a figure can do stays.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

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

_TESTS = 5  # of the participants' metrics, whose names and number are theirs to choose
_THIN = 0.9  # a worker's line (points)
_NAMED_WORKERS = 8  # with more, nobody could tell their lines by colour
_MARKED_POINTS = 100  # of all workers' lines around one mean, as a point alone is no line
_POINTS = 4000  # of all workers' lines around one mean; to have no more, rounds are left out
_LARGEST = 1e300  # of a value that is drawn: matplotlib can't draw an axis up to the largest of all
_GROUP = "workers"  # what matplotlib calls the group id of the workers' lines

ByWorker = Mapping[str, Sequence[tuple[str, np.ndarray]]]
"""For columns that are means: of each worker its name and its values, one a round."""


def shown_metrics(frame: pd.DataFrame, by_worker: ByWorker) -> list[str]:
    """What is drawn when nothing is chosen: what `evaluate` returned, the first weighted means of the participants'
    tests, and the loss, unless nobody reported one and there is something else."""
    hidden = {f"{name}_plain" for name in by_worker} | set(list(by_worker)[_TESTS:])
    shown = [name for name in frame.columns[: list(frame.columns).index("loss") + 1] if name not in hidden]
    return shown[:-1] if by_worker and frame["loss"].isna().all() else shown


def draw(
    frame: pd.DataFrame,
    title: str,
    ax: Axes | None = None,
    metrics: Sequence[str] | None = None,
    by_worker: ByWorker | None = None,
) -> Axes:
    """Lines over rounds.

    Args:
        frame: a row a round (index: its number), as `Run.metrics`.
        title: foreign text; never read as mathematics.
        ax: where; None makes a `PageFigure` through pyplot (on the main thread only).
        metrics: columns of `frame`; by default `shown_metrics`.
        by_worker: for columns of `frame` that are means, what they are means of. Each worker's values are a thin line,
            dashed as the mean is; of up to eight workers in a colour of its own, of more in the mean's.

    Raises:
        UsageError: there is no such metric; nothing was drawn.
    """
    by_worker = by_worker or {}
    metrics = shown_metrics(frame, by_worker) if metrics is None else list(metrics)
    for name in metrics:
        if name not in frame.columns:
            raise UsageError(f"there is no metric {name!r}", f"use some of: {', '.join(frame.columns)}")
    given = ax
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.figure(FigureClass=PageFigure, figsize=SIZE, layout="constrained").subplots()
    own_colours = _own_colours()
    lines = []
    for place, name in enumerate(metrics):
        colour = PALETTE[place % len(PALETTE)] if own_colours else None
        marker = _MARKERS[place % len(_MARKERS)] if len(frame) <= _MARKED_ROUNDS else None
        style = _STYLES[place % len(_STYLES)]
        values = _drawable(frame[name].to_numpy(np.float64))
        lines += ax.plot(frame.index, values, linestyle=style, marker=marker, markersize=4, label=name, color=colour)
    workers = _draw_workers(ax, frame, dict(zip(metrics, lines, strict=True)), by_worker)
    ax.set_xlabel("round")
    ax.set_title(_readable(title), parse_math=False)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if lines:
        names = [_readable(name) for name in (*metrics, *workers)]
        below = _room_below(ax, names) if workers else {}
        legend = ax.legend([*lines, *workers.values()], names, frameon=False, **below)
        for text in legend.get_texts():
            text.set_parse_math(False)
    ax.grid(alpha=0.3)
    if given is None:
        _say_what_is_missing(ax, frame[metrics])
    return ax


def _draw_workers(ax: Axes, frame: pd.DataFrame, means: Mapping[str, Line2D], by_worker: ByWorker) -> dict[str, Line2D]:
    """The thin lines, beneath the means; returns what stands for each worker in the legend, if it has a name there."""
    names = list(dict.fromkeys(name for metric in means for name, _ in by_worker.get(metric, ())))
    named = len(names) <= _NAMED_WORKERS
    colours = PALETTE if _own_colours() else mpl.rcParams["axes.prop_cycle"].by_key().get("color", PALETTE)
    colour = {name: colours[(len(means) + place) % len(colours)] for place, name in enumerate(names)}
    for metric, mean in means.items():
        workers = by_worker.get(metric, ())
        points = len(frame) * len(workers)
        step = 1 + points // _POINTS
        some = slice((len(frame) - 1) % step if len(frame) else 0, None, step)  # the last round among them
        rounds = frame.index.to_numpy(np.float64)[some]
        marker = "." if points <= _MARKED_POINTS else None
        look: dict[str, Any] = {
            "linestyle": mean.get_linestyle(),
            "marker": marker,
            "linewidth": _THIN,
            "markersize": 4,
            "gid": _GROUP,
        }
        if named:
            for name, values in workers:
                ax.plot(
                    rounds, _drawable(values[some]), color=colour[name], label=f"{metric}: {name}", zorder=1.9, **look
                )
        elif workers:  # one path with gaps in place of many paths
            x = np.tile([*rounds, np.nan], len(workers))
            y = np.concatenate([[*_drawable(values[some]), np.nan] for _, values in workers])
            ax.plot(x, y, color=mean.get_color(), alpha=0.4, label=f"{metric}: workers", zorder=1.9, **look)
    return {name: Line2D([], [], color=colour[name], linewidth=_THIN) for name in names} if named else {}


def _room_below(ax: Axes, names: Sequence[str]) -> dict[str, Any]:
    """Where the legend stands when workers are named in it, too, and would hide their lines: beneath the axes, for
    which a picture of ours grows. Another's figure stays as it is."""
    figure = ax.get_figure(root=True)
    if not isinstance(figure, PageFigure) or figure.axes != [ax]:
        return {}
    width, height = figure.get_size_inches()
    columns = min(4, max(1, int(width * 72 // (6 * max(map(len, names)) + 45))))  # points: letters, line, distance
    room = 0.22 * -(-len(names) // columns)
    figure.set_figheight(height + room)
    if figure.get_layout_engine() is None:
        bottom, top = figure.subplotpars.bottom * height + room, figure.subplotpars.top * height + room
        figure.subplots_adjust(bottom=bottom / (height + room), top=top / (height + room))
    under = ax.transAxes + ScaledTranslation(0, -0.45, figure.dpi_scale_trans)  # inches, for the numbers and "round"
    return {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "bbox_transform": under, "ncols": columns}


def _drawable(values: np.ndarray) -> np.ndarray:
    return np.where(np.abs(values) < _LARGEST, values, np.nan)


def _own_colours() -> bool:
    """Whether the user has left the choice of colours to us."""
    return bool(mpl.rcParams["axes.prop_cycle"] == mpl.rcParamsDefault["axes.prop_cycle"])


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


def live_picture(frame: pd.DataFrame, title: str, by_worker: ByWorker | None = None) -> Html:
    """The picture as SVG, on any thread: pyplot, which belongs to the user, isn't touched."""
    figure = PageFigure(figsize=SIZE)
    # Room for labels of a fixed size: to have matplotlib find out how much they need takes half of the time.
    figure.subplots_adjust(left=0.12, right=0.98, bottom=0.15, top=0.91)
    ax = figure.subplots()
    draw(frame, title, ax, by_worker=by_worker)
    _say_what_is_missing(ax, frame[shown_metrics(frame, by_worker or {})])
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
        if line.get_gid() == _GROUP:
            continue  # their means are said; the values stand in the table of tests
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
