"""A training as far as it was heard of: its rows put together, and the tables, pictures and words made of them."""

from __future__ import annotations

import concurrent.futures
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gridkit import cells, results
from gridkit.federated.history import History, Row, Standing
from gridkit.widgets.snapshot import RunSnapshot, WorkerRow
from gridkit.widgets.words import clock

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


class Record(cells.ShortDir):
    """What a Run can say without asking anybody: nothing here does I/O.

    Attributes:
        name, version: of the training.
        rounds: how many were asked for; None is without end.
        history: everything that was reported so far.
    """

    def __init__(self, name: str, version: str, rounds: int | None) -> None:
        self.name = name
        self.version = version
        self.rounds = rounds
        self.history = History()
        self._done: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._done.set_running_or_notify_cancel()  # from here on a cancelled wait can't cancel it
        self._lock = threading.Lock()
        self._listeners: dict[object, Callable[[], None]] = {}
        self._clock_ahead = math.inf  # of this clock, against that which stamps the rows (s)
        self._evaluated: dict[int, dict[str, float]] = {}

    def _apply(self, row: Row) -> bool:
        """Take in the next row; False if it is known already."""
        with self._lock:
            if not self.history.apply(row):
                return False
            # Rows come a little late and never early: the least delay seen is the difference of the clocks.
            self._clock_ahead = min(self._clock_ahead, time.time() - row["at"])
            if row["kind"] == "aggregated" and row.get("metrics"):  # of a notebook's function that the node has called
                values = {name: math.nan if v is None else v for name, v in row["metrics"].items()}
                self._evaluated[row["cycle"]] = results.metric_values(values)
        return True

    @property
    def done(self) -> bool:
        """Whether it is over, and evaluated."""
        return self._done.done()

    @property
    def status(self) -> str:
        """ "running", "stopping", "completed", "stopped" or "failed"."""
        if self.history.outcome is not None:
            return self.history.outcome
        if self._done.done():
            return "failed"
        return "stopping" if self.history.stopping else "running"

    @property
    def title(self) -> str:
        return f"'{self.name}' {self.version}"

    def __repr__(self) -> str:
        return f"<Run {self.title}: {self.snapshot().line}>"

    def _repr_html_(self) -> str:
        return self.snapshot().card()

    @property
    def metrics(self) -> pd.DataFrame:
        """A row a round (index `round`): what `evaluate` returned, then loss (sample-weighted mean of the workers'),
        accepted, refused, samples, seconds, bytes. Columns and dtypes are the same when it is empty.

        Where push participants test each round's model, their metric ``m`` stands after `evaluate`'s columns: in
        ``test_m`` the mean weighted by each one's samples (those of its newest update that counted; equal weights in a
        round in which that isn't known of all), in ``test_m_plain`` the plain mean. Both are of those who have answered
        so far, and of numbers only; NaN where there is none. What `evaluate` returns under such a name keeps it; the
        test's column is then ``test_m_2``.
        """
        return self._metrics()[0]

    @property
    def reports(self) -> pd.DataFrame:
        """A row a worker and round: samples, loss, verdict ("accepted" or a code), message, tensor, seconds (from
        assignment to report), bytes, norm (L2, of the diff), warning."""
        with self._lock:
            return results.reports_frame(tuple(self.history.reports))

    @property
    def tests(self) -> pd.DataFrame:
        """What push participants found when they tested a round's model, a row a metric, worker and round: round,
        worker, metric, value (NaN where it is no finite number), text (what it is then, else ""), samples (of the
        worker's update that counted in this round)."""
        with self._lock:
            tests = tuple(self.history.tests)
        return results.tests_frame(tests)

    @property
    def notifications(self) -> pd.DataFrame:
        """Each call to a push participant, a row each: time (UTC), worker, notification (TRAINING_START,
        UPDATE_ROUND_START, MODEL_TEST_ROUND or TRAINING_FINISHED), round (as in `metrics`; the protocol itself counts
        its update rounds from 0), attempt (from 1), answer (HTTP status; missing where there was none), seconds (until
        it came), message ("", or why there was none)."""
        with self._lock:
            notifications = tuple(self.history.notifications)
        return results.notifications_frame(notifications)

    def _metrics(self) -> tuple[pd.DataFrame, results.ByWorker]:
        with self._lock:
            measured = self._measured()
        return results.metrics_frame(*measured)

    def _measured(self) -> tuple[tuple[Row, ...], dict[int, dict[str, float]], tuple[Row, ...]]:
        """What the table of metrics is made of, as it is now; under the lock."""
        return tuple(self.history.rounds), dict(self._evaluated), tuple(self.history.tests)

    def plot(self, ax: Axes | None = None, metrics: Sequence[str] | None = None) -> Axes:
        """Draw metrics over the rounds.

        Args:
            ax: where; None makes a figure of its own.
            metrics: columns of `metrics`; by default what `evaluate` returned, the (first five) weighted means of the
                participants' tests, and the loss. Around such a mean, each participant's own values are a thin line.

        Raises:
            UsageError: there is no such metric.
        """
        from gridkit.widgets.plot import draw

        frame, by_worker = self._metrics()
        return draw(frame, f"{self.name} {self.version}", ax, metrics, by_worker)

    def snapshot(self) -> RunSnapshot:
        """All that a panel shows of it, as one value: status, progress, metrics, a row a worker. No I/O."""
        with self._lock:
            history = self.history
            now = time.time() - self._clock_ahead
            told = {row["slot"]: row["time"] for row in history.notifications}  # the newest of each
            workers = tuple(
                _worker_row(worker, now, told.get(slot)) for slot, worker in sorted(history.workers.items())
            )
            status, done, round, measured = self.status, self.done, history.cycle, self._measured()
            waits = history.waits
        metrics, by_worker = results.metrics_frame(*measured)
        return RunSnapshot(
            title=f"{self.name} {self.version}",
            status=status,
            done=done,
            round=round,
            rounds_done=len(metrics),
            rounds=self.rounds,
            metrics=metrics,
            by_worker=by_worker,
            tests=len(measured[2]),
            waits=waits,
            workers=workers,
            error=str(self._done.exception() or "") if done else "",
        )

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Have `listener` called after each change, until it is over.

        Args:
            listener: called without arguments, on any thread; it must return at once and raise nothing (set an event,
                and look at `snapshot` on a thread of your own).

        Returns:
            A function that ends it.

        >>> changed = threading.Event()
        >>> unsubscribe = run.subscribe(changed.set)                                # doctest: +SKIP
        """
        key = object()
        with self._lock:
            self._listeners[key] = listener
        return lambda: self._listeners.pop(key, None) and None

    def _changed(self) -> None:
        for listener in tuple(self._listeners.values()):
            listener()


def _worker_row(worker: Row, now: float, told_at: float | None) -> WorkerRow:
    """`now` and `told_at`, when its newest notification was sent, are by the rows' clock."""
    seconds = worker["seconds"]
    if worker["state"] in (Standing.TRAINING, Standing.TESTING):
        seconds = max(0.0, now - worker["since"])
    told = "" if told_at is None else f"{clock(told_at)} {worker['told']}"
    about = {name: worker[name] for name in ("samples", "verdict", "message")}
    return WorkerRow(worker["worker"], str(worker["state"]), seconds=seconds, told=told, **about)
