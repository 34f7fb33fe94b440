"""A bar under the cell that waits for a transfer. In a script there is none."""

from __future__ import annotations

import contextvars
import functools
import time
import uuid

from gridkit import cells
from gridkit.widgets import words
from gridkit.widgets.html import Html, tag

AFTER = 0.5
"""seconds after which it appears: what is over by then needs none"""
EVERY = 0.2
"""seconds between two updates"""


class Progress:
    """A bar, drawn by calling it; when all is done it stays as a line that says how long it took.

    Args:
        what: what is under way, such as "digits, up".

    >>> progress = Progress("digits, up")
    >>> progress(1_000_000, 4_000_000)
    """

    def __init__(self, what: str) -> None:
        self._what = words.plain(what)
        self._context = contextvars.copy_context()  # of the cell: outputs made in it get there
        self._began = time.monotonic()
        self._drawn = 0.0
        self._name: str | None = None

    def __call__(self, done: int, total: int) -> None:
        """So many bytes of so many are through. Cheap, and may be called on any thread."""
        now = time.monotonic()
        over = done >= total
        if now - self._began < AFTER or (now - self._drawn < EVERY and not over):
            return
        shell = cells.shell()
        if not hasattr(shell, "kernel"):
            return
        self._drawn = now
        shown = self._name is not None
        self._name = self._name or uuid.uuid4().hex
        text, html = self._look(done, total, now - self._began)
        bundle = {"text/plain": text, "text/html": str(html)}
        publish = functools.partial(shell.display_pub.publish, transient={"display_id": self._name}, update=shown)
        self._context.run(publish, bundle)

    def _look(self, done: int, total: int, seconds: float) -> tuple[str, Html]:
        if done >= total:
            text = f"{self._what}: {words.size(total)} in {seconds:.1f} s"
            return text, tag("span", text)
        text = f"{self._what}: {words.size(done)} of {words.size(total)}"
        return text, tag("span", tag("progress", value=done, max=total, aria_label=self._what), " ", text)
