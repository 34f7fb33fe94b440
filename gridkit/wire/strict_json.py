"""JSON that comes from others, read so that what is taken can be written again, wherever it is shown.

Strict: no name twice in an object, no lone surrogates, at most `MAX_DEPTH` objects and lists in one another; and unless
a protocol has them, no NaN, no infinity and no number beyond float64.
"""

from __future__ import annotations

import json
import math
from typing import Any

MAX_DEPTH = 100
"""objects and lists in one another"""


def decode(text: str, *, unusual: bool = False) -> Any:
    """The value; `check` has still to look at it. With `unusual`, NaN and infinity are numbers.

    Raises:
        ValueError, RecursionError: it breaks a rule; see `reason`.

    >>> decode('{"n": 1}')
    {'n': 1}
    """
    return (_UNUSUAL if unusual else _STRICT).decode(text)


def check(text: str, value: Any) -> None:
    """That what was decoded from this text isn't nested too deeply, and has no lone surrogates.

    Raises:
        ValueError, RecursionError: it is, or has; see `reason`.
    """
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(value)
    if not text.isascii():
        text.encode()
    if "\\ud" in text or "\\uD" in text:  # a pair of surrogates is one letter; alone they have no UTF-8
        json.dumps(value, ensure_ascii=False).encode()


def reason(error: ValueError | RecursionError) -> str:
    """What is wrong, for who sent it."""
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]


def _check_depth(value: Any, depth: int = MAX_DEPTH) -> None:
    if isinstance(value, dict | list):
        if depth == 0:
            raise RecursionError
        for inner in value.values() if isinstance(value, dict) else value:
            if isinstance(inner, dict | list):
                _check_depth(inner, depth - 1)


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:50]} is too large for a number")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return made


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
_UNUSUAL = json.JSONDecoder(object_pairs_hook=_unique)
