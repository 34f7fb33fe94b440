"""Which line of the user's code is at work: messages of the tracer name it."""

from __future__ import annotations

import linecache
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any

import torch

from gridkit.cells import name_of

_TORCH, _HERE = str(Path(torch.__file__).parent), str(Path(__file__).parents[1])

Place = tuple[str, int]
"""A file and a line number."""


def code_of(function: Callable[..., Any]) -> CodeType | None:
    """The code of a function or method; None of a callable that has none."""
    return getattr(function, "__code__", None)


def is_library(path: str) -> bool:
    """Whether that file belongs to torch or to this package."""
    return path.startswith((_TORCH, _HERE))


def running(frame: FrameType | None, boundary: CodeType | None) -> Place | None:
    """The innermost line of the user below the function with the code `boundary`."""
    while frame is not None and frame.f_code is not boundary:
        if not is_library(frame.f_code.co_filename):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return None


def raised(trace: TracebackType | None) -> Place | None:
    """The innermost line of the user in an error's traceback."""
    found = None
    while trace is not None:
        if not is_library(trace.tb_frame.f_code.co_filename):
            found = (trace.tb_frame.f_code.co_filename, trace.tb_lineno)
        trace = trace.tb_next
    return found


def shown(place: Place) -> str:
    """A place for the end of a message: `` (net.py:12: return self.fc(x) * x.max())``, or ``In[3]:2`` of a cell."""
    path, number = place
    text = linecache.getline(path, number).strip()
    return f" ({name_of(path)}:{number}: {text if len(text) <= 80 else text[:77] + '...'})"
