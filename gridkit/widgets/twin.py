"""What a live widget leaves in a saved notebook: itself, and beside it a twin as text and HTML.

A widget alone is saved as ``VBox(children=…)``, and in a notebook that is opened without its kernel as an error. Its
twin can be read everywhere: on GitHub, in a rendered page, in a diff.
"""

from __future__ import annotations

import threading
import uuid
from typing import Any

import ipywidgets as W

from gridkit import cells, options
from gridkit.widgets.html import Html


class TwinBox(W.VBox):  # type: ignore[misc]
    """A column of widgets with a twin. Subclasses say what `twin` is, and call `update_twin` when it has changed.

    Displayed, it is a widget view with the twin beside it (see `options.static_twin`).
    """

    def __init__(self, children: Any = (), **kwargs: Any) -> None:
        self._displays: list[str] = []
        self._displaying = threading.Lock()  # that no output gets the state from before an update after it
        self._over = False
        super().__init__(children, **kwargs)

    def twin(self) -> tuple[str, Html]:
        """What it shows now, as text and as HTML. No I/O."""
        raise NotImplementedError

    def update_twin(self, *, over: bool = False) -> None:
        """Put the newest twin into the outputs that show this widget; on any thread.

        Args:
            over: nothing will ever change again: from now on the twin stands alone there, so that the notebook can be
                opened without its kernel (a front-end shows an error in place of a widget that it can't find).
        """
        with self._displaying:
            self._over = over
            if options.static_twin:
                for name in self._displays:
                    self._publish(name, update=True)

    def close(self) -> None:
        """Close it, all that it holds, and their layouts and styles: each is known to the front-end on its own."""
        with self._displaying:
            self._displays.clear()  # their front-end has nothing to show any more, and nothing will change
        _dispose(self)

    def __repr__(self) -> str:
        return self.twin()[0]

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        bundle = dict(super()._repr_mimebundle_() or {})
        text, html = self.twin()
        bundle["text/plain"] = text
        if options.static_twin:
            bundle["text/html"] = str(html)
            if self._over or self.comm is None:
                bundle.pop("application/vnd.jupyter.widget-view+json", None)
        return bundle

    def _ipython_display_(self) -> None:
        """Display it under a name, so that the output can be updated later."""
        with self._displaying:
            self._displays.append(uuid.uuid4().hex)
            self._publish(self._displays[-1], update=False)

    def _publish(self, name: str, update: bool) -> None:
        shell = cells.shell()
        if shell is not None:
            bundle = type(self)._repr_mimebundle_(self)  # ipywidgets takes that of this object away when it is closed
            shell.display_pub.publish(bundle, transient={"display_id": name}, update=update)


def _dispose(widget: Any) -> None:
    for child in getattr(widget, "children", ()):
        child.close() if isinstance(child, TwinBox) else _dispose(child)
    for part in (getattr(widget, "layout", None), getattr(widget, "style", None)):
        if isinstance(part, W.Widget):
            part.close()
    W.Widget.close(widget)
