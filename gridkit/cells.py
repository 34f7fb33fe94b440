"""What gridkit knows of the notebook's cells: which one is running, and which line of one an error came from.

Running a cell again makes what it made before superfluous: a session, a live panel. `remember` notes what a cell made,
and the next time the same cell runs, `renew` closes it. Outside of a notebook both do nothing.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
import threading
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

_LIBRARIES = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")} | {str(Path(__file__).parent)}
)


class Closable(Protocol):
    """What a cell makes and the same cell, run again, closes."""

    def close(self) -> None: ...


class ShortDir:
    """Completion offers what is public, and nothing else."""

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if not name.startswith("_")]


@dataclass
class _Made:
    """What one execution of a cell made. Held weakly: what nobody else holds is gone anyway."""

    execution: str
    things: weakref.WeakSet[Closable] = field(default_factory=weakref.WeakSet)


_made: dict[str, _Made] = {}


def renew() -> None:
    """Close what a former execution of the running cell has made."""
    running = _running()
    if running is None:
        return
    cell, execution = running
    former = _made.get(cell)
    if former is not None and former.execution == execution:
        return
    _made[cell] = _Made(execution)
    for thing in () if former is None else tuple(former.things):
        thing.close()


def remember(thing: Closable) -> None:
    """Note that the running cell has made `thing`, to be closed when the same cell runs again (see `renew`)."""
    renew()
    running = _running()
    if running is not None:
        _made[running[0]].things.add(thing)


def shell() -> Any:
    """IPython's shell, or None in a script. Imports nothing."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()


def why_no_widgets() -> str | None:
    """Why there can be no live widget here, as a hint; None where there can be one."""
    if not hasattr(shell(), "kernel"):
        return "in a notebook this is a live panel"
    if importlib.util.find_spec("ipywidgets") is None:
        return "a live panel needs ipywidgets: pip install ipywidgets"
    return None


def _running() -> tuple[str, str] | None:
    """The running cell and its execution; None outside of a cell: in a script, a callback, another thread.

    JupyterLab and VS Code name the cell; else a cell is its text. So a cell that was edited is still the same one in
    a notebook, and another one in a bare kernel.
    """
    here = shell()
    if here is None or threading.current_thread() is not threading.main_thread():
        return None
    message = here.get_parent() if hasattr(here, "get_parent") else {}
    header = message.get("header") or {}
    if header.get("msg_type", "execute_request") != "execute_request":
        return None
    text = here.user_ns["In"][-1]
    name = (message.get("metadata") or {}).get("cellId")
    return str(name or text), str(header.get("msg_id") or here.execution_count)


def line_of(error: BaseException) -> str | None:
    """The innermost line of the user's own code in the error's traceback: "In[3], line 2" or "train.py, line 12"."""
    place = _innermost(error.__traceback__)
    if place is None:
        return None
    return f"{name_of(place[0])}, line {place[1]}"


def name_of(path: str) -> str:
    """How a person calls a file of code: "In[3]" if it is a cell, else the file's name."""
    here = shell()
    cell = None if here is None else here.compile.format_code_name(path)
    return Path(path).name if cell is None else str(cell[1])


def _innermost(trace: TracebackType | None) -> tuple[str, int] | None:
    found = None
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        if not path.startswith((*_LIBRARIES, "<frozen")):
            found = (path, trace.tb_lineno)
        trace = trace.tb_next
    return found
