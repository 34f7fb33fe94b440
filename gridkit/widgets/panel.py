"""All in one: what the session is, the trainings on its node, the form that launches one, and the newest one live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import ipywidgets as W

from gridkit import cells
from gridkit.widgets.html import Html, card, table, tag
from gridkit.widgets.launcher import Grid, Launched, Launcher, Row, dispose

_COLUMNS = ("training", "version", "state", "round", "for", "strategy")


class Node(Grid, Protocol):
    """What a panel needs of a session, besides what a launcher does. Nothing here waits."""

    def facts(self) -> Mapping[str, object]:
        """What is known of session and node without asking anybody."""
        ...

    def newest(self) -> Future[Any]:
        """The training hosted last, a `Launched`, or None."""
        ...


class Panel(W.VBox):  # type: ignore[misc]
    """Session, trainings, launcher, live view.

    Example:
        >>> grid.panel()                                                            # doctest: +SKIP
    """

    def __init__(self, grid: Node) -> None:
        self._grid = grid
        self.facts = W.HTML(card("Session", grid.facts()))
        self.trainings = W.HTML(_trainings(()))
        self.launcher = Launcher(grid, on_rows=self._show_rows)
        super().__init__([self.facts, self.trainings, self.launcher])
        self.launcher.ask(grid.newest, self._follow)
        cells.remember(self)

    def _show_rows(self, rows: Sequence[Row]) -> None:
        self.facts.value = card("Session", self._grid.facts())
        self.trainings.value = _trainings(rows)

    def _follow(self, run: Launched | None) -> None:
        if run is not None:
            self.launcher.follow(run)

    def close(self) -> None:
        """Close the panel; trainings go on."""
        self.launcher.close()
        dispose(self)


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
