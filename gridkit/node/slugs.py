"""Names in paths: what clients make of a title by python-slugify, made here from the same title."""

from __future__ import annotations

import re
import unicodedata

_LETTERS = str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "þ": "th", "ł": "l", "ħ": "h", "ŧ": "t", "ı": "i"}
)
"""those of European alphabets that aren't one with an accent"""
_MARKS = str.maketrans({"’": None, "‘": None, **dict.fromkeys("'–—“”„«»…", "-")})
_LAST = "\u017f"
"""of the blocks of Unicode that European alphabets are in"""


def slug_of(title: str) -> str:
    """The title in small letters, digits and single hyphens.

    Raises:
        ValueError: it has letters or signs of which the client's library makes something of its own, or no letter.

    >>> slug_of("Übung 1: Größe & Form")
    'ubung-1-grosse-form'
    """
    text = unicodedata.normalize("NFC", title).translate(_MARKS)
    strange = re.search(r"&#?\w+;", text) or re.search(rf"[^\x20-\x7e\xc0-{_LAST}]|[×÷ĸĿŀŉŊŋſ]", text)
    if strange:
        raise ValueError(f"a title that becomes a path has letters of European alphabets, no {strange[0]!r}")
    letters = unicodedata.normalize("NFKD", text.lower().translate(_LETTERS))
    ascii_only = letters.encode("ascii", "ignore").decode()  # without the accents
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[0-9]),(?=[0-9])", "", ascii_only)).strip("-")
    if not slug:
        raise ValueError("a title that becomes a path has letters or digits")
    return slug
