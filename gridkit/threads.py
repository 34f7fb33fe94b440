"""Background threads that may be inside torch when Python ends.

A daemon thread that is cut off there takes the process with it (``terminate called``, exit code 134). So these are
asked to end, and waited for, before the interpreter goes.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable

EXIT_SECONDS = 10.0
"""for all of them together; one that is still busy then is left to its fate"""

_running: dict[threading.Thread, Callable[[], None]] = {}


def start(work: Callable[[], None], *, name: str, end: Callable[[], None]) -> None:
    """Run `work` on a thread of its own. `end` asks it to come to an end soon; it is called when Python ends."""

    def run() -> None:
        try:
            work()
        finally:
            _running.pop(threading.current_thread(), None)

    thread = threading.Thread(target=run, name=name, daemon=True)
    _running[thread] = end
    thread.start()


@atexit.register
def _end_all() -> None:
    running = list(_running.items())
    for _, end in running:
        end()
    limit = time.monotonic() + EXIT_SECONDS
    for thread, _ in running:
        thread.join(max(0.0, limit - time.monotonic()))
