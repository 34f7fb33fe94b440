"""What left a notebook by functions that a node called."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gridkit.wire.rpc import values

MAX_SHOWN = 60
"""characters of a value"""
MAX_ERROR = 1000
"""of an error's text"""

_LIBRARIES = (str(Path(__file__).parents[1]), *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")))

Facts = Callable[[str], "str | None"]
"""dtype and shape of a tensor on the node, by its id, such as "float32[4]"; None: not known"""


@dataclass(frozen=True, slots=True)
class CalledBack:
    """One call of a function by the node.

    Attributes:
        function: its name.
        args: what came, in short: texts and numbers, and of arrays dtype and shape; "remote": the values stayed there.
        result: what left the notebook, so too; None if it was an error.
        error: the text of the error that left it; its traceback did too, see `own_lines`.
        seconds: that the function took.
        at: seconds since 1970.
        came, left: bytes of the arrays and texts in that, and of a number what it takes to write it.
        id: the function's, on the wire.
    """

    function: str
    args: str
    result: str | None
    error: str | None
    seconds: float
    at: float
    came: int
    left: int
    id: str


def in_short(value: Any, facts: Facts, depth: int = 3) -> str:
    """What a value is, without the numbers in its arrays."""
    match value:
        case np.ndarray():
            return f"{value.dtype.name}{list(value.shape)}"
        case str() if len(value) > MAX_SHOWN:
            return f"text of {len(value)}"
        case values.Variable(id_):
            return f"remote {getattr(value, 'facts', None) or facts(id_) or id_}"
        case dict() if depth and len(value) <= 8:
            inner = ", ".join(f"{name}={in_short(each, facts, depth - 1)}" for name, each in value.items())
            return f"{{{inner}}}"[: 4 * MAX_SHOWN]
        case tuple() | list() if depth and len(value) <= 8:
            inner = ", ".join(in_short(each, facts, depth - 1) for each in value)
            return (f"({inner})" if isinstance(value, tuple) else f"[{inner}]")[: 4 * MAX_SHOWN]
        case tuple() | list() | dict():
            return f"{type(value).__name__} of {len(value)}"
    shown = repr(value)
    return shown if len(shown) <= MAX_SHOWN else f"{shown[: MAX_SHOWN - 1]}…"


def size_of(value: Any) -> int:
    """Bytes that a value has on the wire, without brackets and the like.

    >>> size_of({"loss": 0.5, "scores": np.zeros(4, np.float32)})
    29
    """
    match value:
        case np.ndarray():
            return value.nbytes
        case str():
            return len(value.encode(errors="replace"))
        case dict():
            return sum(size_of(name) + size_of(each) for name, each in value.items())
        case tuple() | list():
            return sum(map(size_of, value))
        case values.Variable(id_):
            return len(id_)
        case None:
            return 0
    return len(repr(value.item() if isinstance(value, np.generic) else value))


def own_lines(error: Exception) -> str:
    """A traceback of the person's own functions: their names and the numbers of lines, and no code, which stays here.
    What lies in libraries says nothing but where Python is."""
    told = traceback.TracebackException.from_exception(error)
    todo: list[traceback.TracebackException | None] = [told]
    while todo:
        if (each := todo.pop()) is not None:
            own = [frame for frame in each.stack if not frame.filename.startswith(_LIBRARIES)]
            places = [(Path(frame.filename).name, frame.lineno or 0, frame.name, "") for frame in own]
            each.stack = traceback.StackSummary.from_list(places)
            todo += (each.__cause__, each.__context__)
    return "".join(told.format())
