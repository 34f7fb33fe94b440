"""Settings of this process, for a person to change: ``gk.options.full_tracebacks = True``."""

from __future__ import annotations

full_tracebacks = False
"""Show the whole traceback of gridkit's own errors in a notebook. Else two lines: what happened, what to try."""

static_twin = True
"""Keep an HTML picture of a live widget in the saved notebook, beside the widget. Turn it off for a front-end that
shows the picture instead of the widget."""
