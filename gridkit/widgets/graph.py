"""A layered graph as a small inline SVG: rows of boxes, and arrows from each to those below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gridkit.widgets.html import Html, tag

ROW, HEIGHT, GAP, LETTER = 58, 28, 18, 7.2
"""pixels: between rows, of a box, between boxes, of a letter"""
MAX_TITLE = 24
"""letters; the whole text is in the hint"""
MAX_ROWS, MAX_BOXES = 60, 400
"""that are drawn"""


@dataclass(frozen=True, slots=True)
class Box:
    """A node.

    Attributes:
        title: in the box; hint: where the pointer rests on it.
        leaf: it is drawn round; faded: it is over; marked: something went through it.
    """

    title: str
    hint: str
    leaf: bool = False
    faded: bool = False
    marked: bool = False


def drawing(
    boxes: Mapping[int, Box], rows: Sequence[Sequence[int]], arrows: Sequence[tuple[int, int]], caption: str
) -> Html:
    """The picture, in the page's own colour; a text in its place where it is too large.

    Args:
        rows: numbers of boxes, from above.
        arrows: (from, to).
    """
    if len(rows) > MAX_ROWS or len(boxes) > MAX_BOXES:
        return tag("div", f"{caption}; too many to be drawn: print(graph) lists them", class_="gridkit")
    rows = _ordered(rows, arrows)
    widths = {id: max(44.0, 18 + LETTER * min(len(box.title), MAX_TITLE)) for id, box in boxes.items()}
    spans = [sum(widths[id] for id in row) + GAP * (len(row) - 1) for row in rows]
    width = max([*spans, 80.0]) + 2 * GAP
    height = ROW * len(rows) - (ROW - HEIGHT) + 2 * GAP if rows else HEIGHT
    middles: dict[int, tuple[float, float]] = {}
    for at, (row, span) in enumerate(zip(rows, spans, strict=True)):
        left = (width - span) / 2
        for id in row:
            middles[id] = (left + widths[id] / 2, GAP + ROW * at + HEIGHT / 2)
            left += widths[id] + GAP
    lines = [_arrow(middles[a], middles[b], faded=boxes[a].faded) for a, b in arrows]
    drawn = [_box(boxes[id], x, y, widths[id]) for id, (x, y) in middles.items()]
    svg = tag(
        "svg",
        *lines,
        *drawn,
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        role="img",
        aria_label=caption,
        style=f"width:100%;max-width:{width:.0f}px;height:auto;color:inherit;font-family:inherit",
    )
    return tag("figure", svg, tag("figcaption", caption), class_="gridkit", style="margin:0")


def _ordered(rows: Sequence[Sequence[int]], arrows: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Each row by the mean place of those that lead to it, so that fewer arrows cross (Sugiyama's barycentres)."""
    above: dict[int, list[int]] = {}
    for a, b in arrows:
        above.setdefault(b, []).append(a)
    places: dict[int, float] = {}
    ordered = []
    for row in rows:
        means = {id: sum(places.get(a, 0.5) for a in above.get(id, ())) / max(1, len(above.get(id, ()))) for id in row}
        line = sorted(row, key=lambda id: means[id])
        places |= {id: (at + 0.5) / len(line) for at, id in enumerate(line)}
        ordered.append(line)
    return ordered


def _box(box: Box, x: float, y: float, width: float) -> Html:
    title = box.title if len(box.title) <= MAX_TITLE else box.title[: MAX_TITLE - 1] + "…"
    return tag(
        "g",
        tag("title", box.hint),
        tag(
            "rect",
            x=f"{x - width / 2:.1f}",
            y=f"{y - HEIGHT / 2:.1f}",
            width=f"{width:.1f}",
            height=HEIGHT,
            rx=HEIGHT / 2 if box.leaf else 4,
            fill="currentColor",
            fill_opacity=0.18 if box.marked else 0.06,
            stroke="currentColor",
        ),
        tag("text", title, x=f"{x:.1f}", y=f"{y + 4:.1f}", text_anchor="middle", font_size=12, fill="currentColor"),
        opacity=0.55 if box.faded else None,
    )


def _arrow(start: tuple[float, float], end: tuple[float, float], *, faded: bool) -> Html:
    x, y = start[0], start[1] + HEIGHT / 2
    to_x, to_y = end[0], end[1] - HEIGHT / 2
    bend = (to_y - y) / 2
    head = f"M{to_x - 4:.1f} {to_y - 7:.1f}L{to_x:.1f} {to_y:.1f}L{to_x + 4:.1f} {to_y - 7:.1f}"
    path = f"M{x:.1f} {y:.1f}C{x:.1f} {y + bend:.1f} {to_x:.1f} {to_y - bend:.1f} {to_x:.1f} {to_y:.1f}{head}"
    return tag("path", d=path, fill="none", stroke="currentColor", opacity=0.35 if faded else 0.7)
