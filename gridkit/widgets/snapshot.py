"""What a panel shows of a training at one moment: values, and the words, tables and cards made of them.

A Run makes a `RunSnapshot`; the live panel, the card and the line of text of a Run, and the twin in a saved notebook
all show what stands in it, so they can't disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gridkit.widgets.html import Html, card, lines, table, tag

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

WORKER_COLUMNS = ("worker", "state", "samples", "seconds", "verdict", "told", "message")
_MESSAGE = 160  # characters of a worker's message; the whole stands in run.reports
_NEWEST = 3  # values of `evaluate`, and as many of the participants' tests, in a line


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker in the newest round.

    Attributes:
        state: in words: waiting, training, reported, refused, failed, no answer, testing, tested, left, stopped, not in
            this round.
        samples: that it reported, or None.
        seconds: from its assignment to its report; until now while it trains or tests; NaN when it wasn't assigned.
        verdict: "accepted", the code of what was wrong, or "".
        told: when a push participant was called last, why, and what it answered, or "".
        message: what was wrong, or "".
    """

    name: str
    state: str
    samples: int | None = None
    seconds: float = math.nan
    verdict: str = ""
    told: str = ""
    message: str = ""

    def cells(self) -> tuple[str, ...]:
        """One text a column of `WORKER_COLUMNS`."""
        samples = "" if self.samples is None else f"{self.samples:,}"
        seconds = "" if math.isnan(self.seconds) else f"{self.seconds:.{1 if self.seconds >= 10 else 2}f}"
        return self.name, self.state, samples, seconds, self.verdict, _cut(self.told), _cut(self.message)


def _cut(text: str) -> str:
    return text if len(text) <= _MESSAGE else text[:_MESSAGE] + "…"


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """A training at one moment.

    Attributes:
        title: name and version.
        status: "running", "stopping", "completed", "stopped" or "failed".
        done: whether it is over, and evaluated: nothing changes any more.
        round: the newest round's number; 0 before the first.
        rounds_done, rounds: how many are over, and were asked for (None: without end).
        metrics: a row a round, as `Run.metrics`.
        workers: by slot.
        error: what `Run.wait` raises (message and advice on two lines), or "".
        by_worker: for columns of `metrics` that are means of the workers' tests, each worker's name and values.
        tests: how many tests have come.
        waits: what it waits for, or "".
    """

    title: str
    status: str
    done: bool
    round: int
    rounds_done: int
    rounds: int | None
    metrics: pd.DataFrame
    workers: tuple[WorkerRow, ...]
    error: str = ""
    by_worker: Mapping[str, Sequence[tuple[str, np.ndarray]]] = field(default_factory=dict)
    tests: int = 0
    waits: str = ""

    @property
    def progress(self) -> str:
        """Such as "3 of 10 rounds"."""
        of = "" if self.rounds is None else f" of {self.rounds}"
        return f"{self.rounds_done}{of} round{'' if (self.rounds or self.rounds_done) == 1 else 's'}"

    @property
    def newest(self) -> dict[str, float]:
        """The newest value of the loss, of what `evaluate` returned, and of the weighted means of the participants'
        tests (at most three of each)."""
        values: dict[str, float] = {}
        tests = list(self.by_worker)
        before = self.metrics.columns[: self.metrics.columns.get_loc("loss")]
        evaluated = before[: len(before) - 2 * len(tests)]  # a weighted and a plain mean each
        for name in ["loss", *evaluated[:_NEWEST], *tests[:_NEWEST]]:
            known = self.metrics[name].dropna()
            if len(known):
                values[str(name)] = float(known.iloc[-1])
        return values

    @property
    def line(self) -> str:
        """Status, progress and newest values in a line."""
        values = "".join(f", {name} {value:.4g}" for name, value in self.newest.items())
        return f"{self.status}, {self.progress}{values}{'; ' if self.waits else ''}{self.waits}"

    @property
    def standing(self) -> str:
        """Such as "round 4: 2 training, 1 reported"."""
        states = [worker.state for worker in self.workers]
        counts = (f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        return f"round {self.round}: {', '.join(counts) or 'no workers yet'}"

    def text(self) -> str:
        """All of it as plain text, a line a worker."""
        lines = [f"{self.title}: {self.line}", *([self.error] if self.error else [])]
        if self.workers:
            rows = self._cells(optional=("told",))
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            padded = (zip(row, widths, strict=True) for row in rows)
            lines += ["  ".join(cell.ljust(width) for cell, width in row).rstrip() for row in padded]
        return "\n".join(lines)

    def worker_table(self) -> Html:
        """A row a worker; what they were told, and messages, when there is such."""
        if not self.workers:
            return tag("p", "No worker has come yet.")
        columns, *rows = self._cells(optional=("told", "message"))
        return table(columns, rows, caption=self.standing)

    def _cells(self, optional: Collection[str]) -> list[tuple[str, ...]]:
        """`WORKER_COLUMNS`, then a row a worker; optional columns only if something stands in them."""
        rows = [worker.cells() for worker in self.workers]
        shown = [at for at, name in enumerate(WORKER_COLUMNS) if name not in optional or any(row[at] for row in rows)]
        return [tuple(row[at] for at in shown) for row in (WORKER_COLUMNS, *rows)]

    def status_line(self, note: str = "") -> Html:
        """How things are; `note` is the panel's own last word. A screen reader says it when there is a note, and at the
        end; numbers that change several times a second would leave nobody in peace."""
        texts = [f"{self.title}: {self.line}", *self.error.splitlines(), *note.splitlines()]
        return tag("div", lines(texts), role="status", aria_live="polite" if note or self.done else "off")

    def card(self) -> Html:
        """The facts of `line`, a row each."""
        values = {name: f"{value:.4g}" for name, value in self.newest.items()}
        facts: dict[str, object] = {"status": self.status, "rounds": self.progress, **values}
        if self.waits:
            facts["now"] = self.waits
        if self.error:
            facts["error"] = lines(self.error.splitlines())
        return card(f"Run {self.title}", facts)


class TextWatch:
    """What stands in for a live panel where there are no widgets: its text says how things are when it is shown.

    Args:
        text: of now.
        hint: how to have a live panel.
    """

    def __init__(self, text: Callable[[], str], hint: str) -> None:
        self._text = text
        self._hint = hint

    def __repr__(self) -> str:
        return f"{self._text()}\n({self._hint})"
