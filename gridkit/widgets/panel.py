"""All in one: what the session is, the trainings on its node, the form that launches one, and the newest one live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import ipywidgets as W

from gridkit import cells
from gridkit.widgets.html import Html, card, table, tag
from gridkit.widgets.launcher import Grid, Launched, Launcher, Row
from gridkit.widgets.twin import TwinBox

_COLUMNS = ("training", "version", "state", "round", "for", "strategy")


class Node(Grid, Protocol):
    """What a panel needs of a session, besides what a launcher does. Nothing here waits."""

    def facts(self) -> Mapping[str, object]:
        """What is known of session and node without asking anybody."""
        ...


class Panel(TwinBox):
    """Session, trainings, launcher, live view.

    Args:
        grid: of a session.
        rows: the node's trainings, oldest first.
        run: the newest one.

    Example:
        >>> grid.panel()                                                            # doctest: +SKIP
    """

    def __init__(self, grid: Node, rows: Sequence[Row] = (), run: Launched | None = None) -> None:
        self._grid = grid
        self.facts = W.HTML()
        self.trainings = W.HTML()
        self.launcher = Launcher(grid, rows, on_rows=self._show_rows, on_over=self.update_twin)
        super().__init__([self.facts, self.trainings, self.launcher])
        if run is not None:
            self.launcher.follow(run)
        cells.remember(self)

    def _show_rows(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self.facts.value = card("Session", self._grid.facts())
        self.trainings.value = _trainings(rows)

    def twin(self) -> tuple[str, Html]:
        text, html = self.launcher.twin()
        facts = ", ".join(f"{key} {value}" for key, value in self._grid.facts().items())
        lines = [" ".join(str(cell) for cell in _training(row)) for row in reversed(self._rows)]
        shown = tag("div", card("Session", self._grid.facts()), _trainings(self._rows), html)
        return "\n".join([f"Session: {facts}", *lines, text]), shown


def _trainings(rows: Sequence[Row]) -> Html:
    """Newest first."""
    if not rows:
        return tag("p", "No training is hosted on this node yet.")
    lines = [_training(row) for row in reversed(rows)]
    return table(_COLUMNS, lines, caption="Trainings on the node, newest first")


def _training(row: Row) -> tuple[Any, ...]:
    rules = row["server_config"]
    clients, rounds = rules.get("clients"), rules.get("num_cycles")
    of = f" of {rounds}" if rounds else ""
    whom = "whoever joins" if clients is None else f"{clients:,} client{'' if clients == 1 else 's'}"
    return row["name"], row["version"], row["outcome"] or "running", f"{row['cycle']}{of}", whom, _strategy(rules)


def _strategy(rules: Mapping[str, Any]) -> str:
    return str(rules.get("strategy") or "fedavg")
