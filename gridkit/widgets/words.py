"""Numbers, moments and foreign text as people read them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from datetime import datetime

# Characters that turn the text after them round, so that a name could read as another one.
_TURNING = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
_BREAKING = frozenset({"Cc", "Zl", "Zp", "Cs"})


def scaled(value: float, units: tuple[str, ...]) -> str:
    """Three digits and a unit.

    >>> scaled(70_000, ("bytes", "kB", "MB"))
    '70 kB'
    """
    for unit in units[:-1]:
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.0f} {units[-1]}" if value >= 100 else f"{value:.3g} {units[-1]}"


def size(count: int) -> str:
    """Bytes.

    >>> size(1_230_000)
    '1.23 MB'
    """
    return scaled(count, ("bytes", "kB", "MB", "GB"))


def many(count: int, what: str) -> str:
    """
    >>> many(1, "model"), many(10_000, "model")
    ('1 model', '10,000 models')
    """
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def shape(extents: Iterable[object]) -> str:
    """
    >>> shape(["B", 64])
    '[B, 64]'
    """
    return f"[{', '.join(map(str, extents))}]"


def moment(seconds: float | None) -> str:
    """Unix time as the reader's own clock shows it, to the minute; "never" for None."""
    return "never" if seconds is None else _by_calendar(seconds, "%Y-%m-%d %H:%M")


def clock(seconds: float) -> str:
    """Unix time as the reader's own clock shows it, such as "14:03:07"."""
    return _by_calendar(seconds, "%H:%M:%S")


def _by_calendar(seconds: float, form: str) -> str:
    try:
        return datetime.fromtimestamp(seconds).astimezone().strftime(form)
    except (OverflowError, OSError, ValueError):  # what a node says, and no calendar has
        return str(seconds)


def plain(text: object, limit: int = 200) -> str:
    """Foreign text on one line, cut to `limit` characters; what would break or turn the line is spelled out.

    >>> plain("a\\nb")
    'a\\\\nb'
    """
    whole = str(text)
    line = "".join(_spelled(c) for c in whole[:limit])
    return line if len(whole) <= limit else f"{line[: limit - 1]}…"


def width(text: str) -> int:
    """Columns of a fixed-width font."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1 for c in text
    )


def fitted(text: str, columns: int) -> str:
    """`text` in exactly so many columns of a fixed-width font: cut, or filled with spaces."""
    if width(text) > columns:
        while width(text) > columns - 1:
            text = text[:-1]
        text += "…"
    return text + " " * (columns - width(text))


def _spelled(character: str) -> str:
    breaks = unicodedata.category(character) in _BREAKING or unicodedata.bidirectional(character) in _TURNING
    return character.encode("unicode_escape", "surrogatepass").decode("ascii") if breaks else character
