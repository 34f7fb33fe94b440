"""A layered graph as a small inline SVG: rows of boxes, and arrows from each to those below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gridkit.widgets.html import Html, tag

ROW, HEIGHT, GAP, LETTER, NOTE = 62, 28, 22, 7.2, 14
"""pixels: between rows, of a box, between boxes, of a letter, of a note's line"""
MAX_TITLE = 24
"""letters; the whole text is in the hint"""
ACCENT = "#d95f02"
"""what it is drawn with where something has gone through; it stands out from light and dark pages"""
MAX_ROWS, MAX_BOXES = 60, 400
"""that are drawn"""


@dataclass(frozen=True, slots=True)
class Box:
    """A node.

    Attributes:
        title: in the box; hint: where the pointer rests on it; note: below it.
        leaf: it is drawn round; freed: it is drawn dashed.
        number: when something went through it, counted from 1; newest: that is there now.
    """

    title: str
    hint: str
    note: str = ""
    leaf: bool = False
    freed: bool = False
    number: int | None = None
    newest: bool = False


def drawing(
    boxes: Mapping[int, Box],
    rows: Sequence[Sequence[int]],
    arrows: Sequence[tuple[int, int]],
    caption: str,
    described: str,
) -> Html:
    """The picture, in the page's own colour; a text in its place where it is too large.

    Args:
        rows: numbers of boxes, from above.
        arrows: (from, to).
        caption: below it.
        described: what a screen reader says of it.
    """
    if len(rows) > MAX_ROWS or len(boxes) > MAX_BOXES:
        return tag("div", f"{caption}; too many to be drawn: print(graph) lists them", class_="gridkit")
    rows = _ordered(rows, arrows)
    widths = {
        id: max(44.0, 18 + LETTER * len(_cut(box.title)), LETTER * len(_cut(box.note))) for id, box in boxes.items()
    }
    spans = [sum(widths[id] for id in row) + GAP * (len(row) - 1) for row in rows]
    width = max([*spans, 80.0]) + 2 * GAP
    height = ROW * len(rows) - (ROW - HEIGHT) + 2 * GAP + NOTE if rows else HEIGHT
    middles: dict[int, tuple[float, float]] = {}
    for at, (row, span) in enumerate(zip(rows, spans, strict=True)):
        left = (width - span) / 2
        for id in row:
            middles[id] = (left + widths[id] / 2, GAP + ROW * at + HEIGHT / 2)
            left += widths[id] + GAP
    lines = [_arrow(middles[a], middles[b], passed=boxes[a].number is not None) for a, b in arrows]
    drawn = [_box(boxes[id], x, y, widths[id]) for id, (x, y) in middles.items()]
    svg = tag(
        "svg",
        *lines,
        *drawn,
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        role="img",
        aria_label=described,
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


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TITLE else text[: MAX_TITLE - 1] + "…"


def _box(box: Box, x: float, y: float, width: float) -> Html:
    lit = box.number is not None
    note, number = None, None
    if box.note:
        below = y + HEIGHT / 2 + NOTE
        note = tag("text", _cut(box.note), **_middle(x, below), font_size=11, fill="currentColor")
    if lit:
        number = tag("text", box.number, **_middle(x + width / 2 + 9, y - 6), font_size=10, fill="currentColor")
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
            fill=ACCENT if lit else "currentColor",
            fill_opacity=0.45 if box.newest else 0.16 if lit else 0.05,
            stroke=ACCENT if lit else "currentColor",
            stroke_width=4 if box.newest else 2 if lit else 1,
            stroke_dasharray="5 3" if box.freed and not box.newest else None,
        ),
        tag("text", _cut(box.title), **_middle(x, y + 4), font_size=12, fill="currentColor"),
        number,
        note,
    )


def _middle(x: float, y: float) -> dict[str, str]:
    return {"x": f"{x:.1f}", "y": f"{y:.1f}", "text_anchor": "middle"}


def _arrow(start: tuple[float, float], end: tuple[float, float], *, passed: bool) -> Html:
    x, y = start[0], start[1] + HEIGHT / 2
    to_x, to_y = end[0], end[1] - HEIGHT / 2
    bend = (to_y - y) / 2
    head = f"M{to_x - 4:.1f} {to_y - 7:.1f}L{to_x:.1f} {to_y:.1f}L{to_x + 4:.1f} {to_y - 7:.1f}"
    path = f"M{x:.1f} {y:.1f}C{x:.1f} {y + bend:.1f} {to_x:.1f} {to_y - bend:.1f} {to_x:.1f} {to_y:.1f}{head}"
    look = {"stroke": ACCENT, "stroke_width": 2} if passed else {"stroke": "currentColor", "stroke_opacity": 0.7}
    return tag("path", d=path, fill="none", **look)
