"""What every form has: a line that says how things are, and answers that come later."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

import ipywidgets as W

from gridkit import cells, threads
from gridkit.errors import GridkitError
from gridkit.widgets.html import lines, tag
from gridkit.widgets.twin import TwinBox

T = TypeVar("T")

WIDE = {"description_width": "6.5em"}


class Form(TwinBox):
    """A column of controls with a status. No click waits: what it asks for is started, and applied when it comes.

    Args:
        above, below: the controls on both sides of the status.

    Attributes:
        status: the line.
        said: what it says.
    """

    def __init__(self, above: Sequence[W.Widget], below: Sequence[W.Widget] = ()) -> None:
        self.status = W.HTML()
        super().__init__([*above, self.status, *below])
        self.say("")

    def say(self, text: str) -> None:
        """Show this as the status."""
        self.said = text
        self.status.value = tag("div", lines(text.splitlines()), role="status", aria_live="polite")

    def say_error(self, error: BaseException) -> None:
        """Show what went wrong as the status."""
        self.say("cancelled" if isinstance(error, CancelledError) else f"{type(error).__name__}: {error}")

    def ask(
        self,
        start: Callable[[], Future[T]],
        apply: Callable[[T], None],
        failed: Callable[[BaseException], None] | None = None,
    ) -> None:
        """Start something, and apply what comes of it on a thread of its own; an error is shown."""
        failed = failed or self.say_error
        try:
            future = start()
        except GridkitError as error:
            failed(error)
            return

        def wait() -> None:
            try:
                apply(future.result())
            except Exception as error:  # noqa: BLE001  whatever it is, the person who clicked sees it
                failed(error)

        context = contextvars.copy_context()
        threads.start(lambda: context.run(wait), name="gridkit-form", end=lambda: _cancel(future))


def namespace() -> Mapping[str, Any]:
    """The notebook's variables; none in a script."""
    shell = cells.shell()
    return {} if shell is None else dict(shell.user_ns)


def wide() -> W.Layout:
    """As wide as a form's text fields are."""
    return W.Layout(width="min(100%, 34em)")


def _cancel(future: Future[Any]) -> None:
    future.cancel()
