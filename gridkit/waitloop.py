"""The loop that the main thread waits on, and nest_asyncio, which makes it re-entrant: only it, nothing else.

`gridkit.bridge` says what it is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from gridkit.errors import UsageError

NEST_LIBRARIES = ("nest_asyncio2", "nest_asyncio")


class GridkitLoop(asyncio.SelectorEventLoop):
    """An event loop that a forked child may drop.

    The child shares the parent's epoll object: `close`, which asyncio's finalizer calls, would take the parent's
    sockets out of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._process = os.getpid()

    def __del__(self) -> None:
        if self._process == os.getpid():
            super().__del__()


class WaitLoop(GridkitLoop):
    """Where the main thread waits. nest_asyncio patches a loop's class, so ours is the only one that it touches."""


def how_to_wait() -> str:
    """The value of ``GRIDKIT_WAIT``: empty, "plain", or the name of a nest library.

    Raises:
        UsageError: it is none of these.
    """
    how = os.environ.get("GRIDKIT_WAIT", "")
    if how not in ("", "plain", *NEST_LIBRARIES):
        raise UsageError(f"GRIDKIT_WAIT is {how!r}", f"unset it, or use one of plain, {', '.join(NEST_LIBRARIES)}")
    return how


def new_wait_loop() -> WaitLoop:
    """A `WaitLoop` made re-entrant by nest_asyncio."""
    for name in (how_to_wait(),) if how_to_wait() in NEST_LIBRARIES else NEST_LIBRARIES:
        try:
            library = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name or name == NEST_LIBRARIES[-1]:
                raise
        else:
            break
    loop = WaitLoop()
    with _asyncio_left_alone(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nest_asyncio2's, that the user applied nest_asyncio: not to this loop
        library.apply(loop)
    return loop


@contextlib.contextmanager
def _asyncio_left_alone() -> Iterator[None]:
    """Take back what nest_asyncio's `apply` changes beside the loop it is given.

    It makes all tasks of the process pure Python ones, replaces `asyncio.run` by one that neither closes its loop nor
    works under uvloop, and patches the loop policy. The loop's own class is all that re-entrancy needs.
    """
    places: list[Any] = [asyncio, asyncio.events, asyncio.futures, asyncio.tasks]
    if sys.version_info < (3, 14):
        places.append(type(asyncio.get_event_loop_policy()))
    if "tornado.concurrent" in sys.modules:
        places.append(sys.modules["tornado.concurrent"])
    before = [dict(vars(place)) for place in places]
    try:
        yield
    finally:
        for place, names in zip(places, before, strict=True):
            for name, value in dict(vars(place)).items():
                if name not in names:
                    delattr(place, name)
                elif value is not names[name]:
                    setattr(place, name, names[name])
