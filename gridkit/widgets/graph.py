"""A layered graph as a small inline SVG: rows of boxes, and arrows from each to those below it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gridkit.widgets.html import Html, tag

ROW, HEIGHT, NOTE, GAP, LETTER = 66, 28, 14, 22, 7.2
"""pixels: between rows, of a box, of a note in it, between boxes, of a letter"""
MAX_TITLE, MAX_NOTE = 24, 34
"""letters; the whole text is in the hint"""
ACCENT = "#d95f02"
"""what it is drawn with where something has gone through; it stands out from light and dark pages"""
MAX_ROWS, MAX_BOXES = 60, 400
"""that are drawn"""


@dataclass(frozen=True, slots=True)
class Box:
    """A node.

    Attributes:
        title: in the box; hint: where the pointer rests on it; note: below the title;
            room: letters that a note may get here later.
        leaf: it is drawn round; freed: it is drawn dashed.
        number: when something went through it, counted from 1; newest: that is there now.
    """

    title: str
    hint: str
    note: str = ""
    room: int = 0
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
        id: 18 + LETTER * max(3.6, len(_cut(box.title)), 0.9 * min(MAX_NOTE, max(box.room, len(box.note))))
        for id, box in boxes.items()
    }
    heights = {id: HEIGHT + (NOTE if box.note else 0) for id, box in boxes.items()}
    spans = [sum(widths[id] for id in row) + GAP * (len(row) - 1) for row in rows]
    width = max([*spans, 80.0]) + 2 * GAP
    height = ROW * (len(rows) - 1) + HEIGHT + NOTE + 2 * GAP if rows else HEIGHT
    middles: dict[int, tuple[float, float]] = {}
    for at, (row, span) in enumerate(zip(rows, spans, strict=True)):
        left = (width - span) / 2
        for id in row:
            middles[id] = (left + widths[id] / 2, GAP + ROW * at + (HEIGHT + NOTE) / 2)
            left += widths[id] + GAP
    lines = []
    for (a, b), count in Counter(arrows).items():
        (x, y), (to_x, to_y) = middles[a], middles[b]
        for place in range(count):  # beside each other
            aside = (place - (count - 1) / 2) * min(10, 30 / count)
            ends = x + aside, y + heights[a] / 2, to_x + aside, to_y - heights[b] / 2
            lines.append(_arrow(*ends, passed=boxes[a].number is not None))
    drawn = [_box(boxes[id], x, y, widths[id], heights[id]) for id, (x, y) in middles.items()]
    # JupyterLab shows the bare text of a picture in a notebook that it doesn't trust yet: a line a box.
    svg = tag(
        "svg",
        *lines,
        *(part for box in drawn for part in (box, "\n")),
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        role="img",
        aria_label=described,
        style=f"width:100%;max-width:{width:.0f}px;height:auto;color:inherit;font-family:inherit",
    )
    return tag("figure", svg, tag("figcaption", caption), class_="gridkit", style="margin:0;white-space:pre-line")


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


def _cut(text: str, limit: int = MAX_TITLE) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _box(box: Box, x: float, y: float, width: float, height: float) -> Html:
    lit = box.number is not None
    return tag(
        "g",
        tag("title", box.hint),
        " ",
        tag(
            "rect",
            x=f"{x - width / 2:.1f}",
            y=f"{y - height / 2:.1f}",
            width=f"{width:.1f}",
            height=height,
            rx=height / 2 if box.leaf else 4,
            fill=ACCENT if lit else "currentColor",
            fill_opacity=0.45 if box.newest else 0.16 if lit else 0.05,
            stroke=ACCENT if lit else "currentColor",
            stroke_width=4 if box.newest else 2 if lit else 1,
            stroke_dasharray="5 3" if box.freed and not box.newest else None,
        ),
        _text(_cut(box.title), x, y + (-3 if box.note else 4), 12),
        " ",
        _text(box.number, x + width / 2 + 10, y - 8, 10) if lit else None,
        " ",
        _text(_cut(box.note, MAX_NOTE), x, y + 13, 11) if box.note else None,
    )


def _text(text: object, x: float, y: float, size: int) -> Html:
    return tag("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor="middle", font_size=size, fill="currentColor")


def _arrow(x: float, y: float, to_x: float, to_y: float, *, passed: bool) -> Html:
    bend = (to_y - y) / 2
    head = f"M{to_x - 4:.1f} {to_y - 7:.1f}L{to_x:.1f} {to_y:.1f}L{to_x + 4:.1f} {to_y - 7:.1f}"
    path = f"M{x:.1f} {y:.1f}C{x:.1f} {y + bend:.1f} {to_x:.1f} {to_y - bend:.1f} {to_x:.1f} {to_y:.1f}{head}"
    look = {"stroke": ACCENT, "stroke_width": 2} if passed else {"stroke": "currentColor", "stroke_opacity": 0.7}
    return tag("path", d=path, fill="none", **look)
