"""HTML from plain functions, escaped in one place: here.

Text becomes HTML only through `tag`, which escapes whatever isn't `Html` already. Nothing else in gridkit writes a
tag by hand (a test looks), so a model named ``<img src=x onerror=…>`` is shown by that name, and that is all.

>>> tag("b", "a < b", title='say "hi"')
'<b title="say &quot;hi&quot;">a &lt; b</b>'
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

MAX_ROWS = 20
"""of a table in a repr; more are counted, not shown"""

# Inside of a widget, JupyterLab gives each line the height of a button, and cells no distance from each other.
_TABLE = "line-height:1.5;border-spacing:0.6em 0"

_VOID = frozenset({"br", "hr", "img", "input"})


class Html(str):
    """Text that is HTML already. Made by the functions of this file only."""

    __slots__ = ()


def tag(name: str, *children: object, **attributes: object) -> Html:
    """One element.

    Args:
        name: such as "td"; never foreign text.
        children: `Html` as it is; everything else as escaped text; None is left out.
        attributes: values are escaped; None and False are left out. ``class_`` is class, ``aria_label`` aria-label.
    """
    pairs = (
        (key.rstrip("_").replace("_", "-"), value)
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    opened = "".join(f' {key}="{html.escape(str(value), quote=True)}"' for key, value in pairs)
    if name in _VOID:
        return Html(f"<{name}{opened}>")
    return Html(f"<{name}{opened}>{joined(children)}</{name}>")


def joined(parts: Iterable[object]) -> Html:
    """Parts one after the other; `Html` as it is, everything else escaped."""
    return Html("".join(p if isinstance(p, Html) else html.escape(str(p)) for p in parts if p is not None))


def lines(texts: Iterable[object]) -> Html:
    """One below the other."""
    return joined(part for at, text in enumerate(texts) for part in ((tag("br"), text) if at else (text,)))


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str | None = None, limit: int = MAX_ROWS
) -> Html:
    """A table; rows beyond `limit` are counted in a last line."""
    head = tag("thead", tag("tr", *(tag("th", c, scope="col", style="text-align:left") for c in columns)))
    body = [tag("tr", *(tag("td", cell, style="text-align:left") for cell in row)) for row in rows[:limit]]
    if len(rows) > limit:
        body.append(tag("tr", tag("td", f"and {len(rows) - limit} more", colspan=len(columns))))
    title = tag("caption", caption, style="text-align:left") if caption else None
    return tag("table", title, head, tag("tbody", *body), style=_TABLE)


def card(title: object, facts: Mapping[str, object], *details: object) -> Html:
    """A title, a line a fact, and what else belongs to it."""
    lines = [
        tag("tr", tag("th", key, scope="row", style="text-align:left"), tag("td", value, style="text-align:left"))
        for key, value in facts.items()
    ]
    return tag(
        "div", tag("strong", title), tag("table", tag("tbody", *lines), style=_TABLE), *details, class_="gridkit"
    )


def details(summary: object, *content: object, opened: bool = False) -> Html:
    """A part that opens and closes at a click."""
    return tag("details", tag("summary", summary), *content, open="open" if opened else None)
