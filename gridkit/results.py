"""What a run's rows come to: its tables, the error that names the workers, the comparison of two models."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gridkit.errors import ErrorCode, EvaluationFailed, RunError, WorkersFailed
from gridkit.federated.history import History, Row, Standing
from gridkit.wire.tensors import Array

if TYPE_CHECKING:
    import pandas as pd

_ROUND_COLUMNS = {
    "loss": "float64",
    "accepted": "int64",
    "refused": "int64",
    "samples": "int64",
    "seconds": "float64",
    "bytes": "int64",
}
_REPORT_COLUMNS = {
    "round": "int64",
    "worker": "object",
    "samples": "Int64",  # a failed report has none
    "loss": "float64",
    "verdict": "object",
    "message": "object",
    "tensor": "object",
    "seconds": "float64",
    "bytes": "int64",
    "norm": "float64",
    "warning": "object",
}
_TEST_COLUMNS = {
    "round": "int64",
    "worker": "object",
    "metric": "object",
    "value": "float64",
    "text": "object",
    "samples": "Int64",
}
_NOTIFICATION_COLUMNS = {
    "worker": "object",
    "notification": "object",
    "round": "int64",
    "attempt": "int64",
    "answer": "Int64",  # nobody answered
    "seconds": "float64",
    "message": "object",
}

ByWorker = Mapping[str, Sequence[tuple[str, Array]]]
"""Columns of metrics: of each worker its name and its values, one a round (NaN where it gave none)."""


def metric_values(values: Mapping[str, Any] | None) -> dict[str, float]:
    """What `evaluate` returned, as numbers by column; a name that `metrics` has already gets ``evaluate_`` before it.

    Raises:
        TypeError, ValueError: it is no mapping from names to numbers.
    """
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise TypeError(f"evaluate returned {type(values).__name__}, not a dict of metrics")
    return {
        f"evaluate_{name}" if name in _ROUND_COLUMNS else str(name): float(value)
        for name, value in values.items()
        if not (name == "stop" and _is_bool(value))  # which is no metric
    }


def stops(values: Mapping[str, Any] | None) -> bool:
    """Whether what `evaluate` returned asks for the end: ``{"accuracy": 0.99, "stop": True}``."""
    asked = values.get("stop") if isinstance(values, Mapping) else None
    return _is_bool(asked) and bool(asked)


def _is_bool(value: Any) -> bool:
    """Python's, or what NumPy and torch give of a comparison of numbers."""
    kind = str(getattr(value, "dtype", "")).removeprefix("torch.")
    return isinstance(value, bool) or (kind == "bool" and not value.shape)


def metrics_frame(
    rounds: Sequence[Row], evaluated: Mapping[int, Mapping[str, float]], tests: Sequence[Row] = ()
) -> tuple[pd.DataFrame, ByWorker]:
    """A row a round: what `evaluate` returned (NaN where it hasn't), means of the workers' tests, then loss, counts,
    seconds, bytes.

    A test's metric ``m`` has two columns: ``test_m`` is the mean weighted by the samples of each worker's newest update
    that counted (equal weights in a round in which one of them has none), ``test_m_plain`` the plain mean. Where
    `evaluate`, or another metric, has such a column already, it is ``test_m_2``.

    Returns:
        The table, and for each column of weighted means the workers' own values.
    """
    import pandas as pd

    index = pd.Index([row["round"] for row in rounds], dtype="int64", name="round")
    columns: dict[str, Array] = {}
    for name in dict.fromkeys(name for values in evaluated.values() for name in values):
        values = [evaluated.get(row["round"], {}).get(name, np.nan) for row in rounds]
        columns[name] = np.array(values, np.float64)
    scores, names = _scores(tests)
    by_worker: dict[str, list[tuple[str, Array]]] = {}
    for metric, column in _test_columns(scores, columns).items():
        given = [scores[metric].get(number, {}) for number in index]
        columns[column] = np.array([_mean(each.values(), weighted=True) for each in given])
        columns[_plain(column)] = np.array([_mean(each.values(), weighted=False) for each in given])
        slots = sorted(set().union(*given))
        nothing = (np.nan, 0)
        by_worker[column] = [(names[s], np.array([each.get(s, nothing)[0] for each in given])) for s in slots]
    for name, kind in _ROUND_COLUMNS.items():
        columns[name] = np.array([row[name] for row in rounds], kind)
    return pd.DataFrame(columns, index), by_worker


_Score = tuple[float, int]  # a value, and the samples it weighs; 0 is unknown


def _scores(tests: Sequence[Row]) -> tuple[dict[str, dict[int, dict[int, _Score]]], dict[int, str]]:
    """By metric, round and slot what was measured, leaving out what is no number; and the workers' names by slot."""
    scores: dict[str, dict[int, dict[int, _Score]]] = {}
    samples: dict[int, int] = {}
    names: dict[int, str] = {}
    for row in tests:
        slot = row["slot"]
        names[slot] = row["worker"]
        samples[slot] = row["samples"] or samples.get(slot, 0)  # who isn't drawn in a round tests its model too
        for metric, value in row["metrics"].items():
            if not isinstance(value, str):
                scores.setdefault(metric, {}).setdefault(row["round"], {})[slot] = float(value), samples[slot]
    return scores, names


def _test_columns(metrics: Iterable[str], taken: Iterable[str]) -> dict[str, str]:
    """A column a metric, so that it and its plain mean's are free: others choose the names of their metrics."""
    used = {*taken, *_ROUND_COLUMNS}
    columns = {}
    for metric in metrics:
        numbered = (f"test_{metric}_{number}" for number in itertools.count(2))
        free = (c for c in itertools.chain([f"test_{metric}"], numbered) if not {c, _plain(c)} & used)
        columns[metric] = column = next(free)
        used |= {column, _plain(column)}
    return columns


def _plain(column: str) -> str:
    return f"{column}_plain"


def _mean(scores: Collection[_Score], *, weighted: bool) -> float:
    if not scores:
        return np.nan
    weights = [samples for _, samples in scores]
    if not weighted or not all(weights):
        weights = [1] * len(scores)
    total = sum(weights)  # values are multiplied by shares of it: however large they are, no sum overflows
    return sum(value * (weight / total) for (value, _), weight in zip(scores, weights, strict=True))


def reports_frame(reports: Sequence[Row]) -> pd.DataFrame:
    """A row a worker and round."""
    import pandas as pd

    return pd.DataFrame(_columns(reports, _REPORT_COLUMNS))


def tests_frame(tests: Sequence[Row]) -> pd.DataFrame:
    """A row a metric, worker and round; the value of what is no number is NaN, and its text stands beside it."""
    import pandas as pd

    rows = []
    for row in tests:
        about = {name: row[name] for name in ("round", "worker", "samples")}
        for metric, value in row["metrics"].items():
            read = {"value": np.nan, "text": value} if isinstance(value, str) else {"value": value, "text": ""}
            rows.append({**about, "metric": metric, **read})
    return pd.DataFrame(_columns(rows, _TEST_COLUMNS))


def notifications_frame(notifications: Sequence[Row]) -> pd.DataFrame:
    """A row a call to a push participant."""
    import pandas as pd

    times = pd.Series([row["time"] for row in notifications], dtype="float64")
    moments = pd.to_datetime(times, unit="s", utc=True, errors="coerce").astype("datetime64[us, UTC]")
    return pd.DataFrame({"time": moments, **_columns(notifications, _NOTIFICATION_COLUMNS)})


def _columns(rows: Sequence[Row], kinds: Mapping[str, str]) -> dict[str, Any]:
    import pandas as pd

    return {name: pd.Series([row[name] for row in rows], dtype=kind) for name, kind in kinds.items()}


def failure(history: History, title: str, *, debuggable: Collection[int] = ()) -> RunError:
    """The error of a failed run: the last round's failures, equal causes together, workers by name.

    Args:
        title: of the run, such as "'digits' 1.0".
        debuggable: the slots for which `run.debug` works here.
    """
    if history.code == ErrorCode.EVALUATION_FAILED:
        listed = "what was exposed gets the model's tensors by name, and lists its calls: exposed.calls"
        return EvaluationFailed(f"the training {title} failed: {history.reason}", listed)
    failed = sorted(history.failures(history.cycle), key=lambda row: row["slot"])
    answered = "run.notifications has what its service answered; tolerate=k lets k fail"
    if not failed or history.code:
        left = any(worker["state"] is Standing.LEFT for worker in history.workers.values())
        hint = answered if left and not history.code else None
        if history.code == ErrorCode.AVERAGING_FAILED and ": the strategy " in str(history.reason):
            hint = "it gets diffs [K, P] and weights [K], and gives float32 [P], such as diffs.mean(dim=0)"
        return RunError(f"the training {title} failed: {history.reason}", hint)
    groups: dict[str, list[Row]] = {}
    for row in failed:
        groups.setdefault(_likeness(row), []).append(row)
    parts = [f"{_names(rows)}: {_cause(rows[0])}" for rows in groups.values()]
    of = f" of {history.cohort_size}" if history.cohort_size else ""
    workers = "workers" if max(len(failed), history.cohort_size) > 1 else "worker"
    hint = None
    at_hand = [row["worker"] for row in failed if row["slot"] in debuggable]
    if at_hand:
        hint = f"run.debug({at_hand[0]!r}) runs that client's round again here; tolerate=k lets k fail"
    elif any(row["verdict"] == ErrorCode.WORKER_LEFT for row in failed):
        hint = answered
    elif any(row["verdict"] == ErrorCode.NOT_ANSWERED for row in failed):
        hint = "what they logged says why nothing came; round_timeout=… gives them longer, tolerate=k lets k fail"
    elif history.cohort_size > 1:
        hint = "tolerate=k lets k fail"
    return WorkersFailed(
        f"{len(failed)}{of} {workers} failed in round {history.cycle} of {title}: {'; '.join(parts)}",
        hint,
        groups=tuple((tuple(row["worker"] for row in rows), _detail(rows[0])) for rows in groups.values()),
    )


def _cause(row: Row) -> str:
    if row["error"]:
        return f"{row['error']['type']}: {row['error']['message']}"
    return f"{row['verdict']}{': ' + row['message'] if row['message'] else ''}"


def _detail(row: Row) -> str:
    return (row["error"] or {}).get("traceback") or _cause(row)


def _likeness(row: Row) -> str:
    """What equal failures have in common: two tracebacks that differ in addresses only are one."""
    return re.sub(r"0x[0-9a-fA-F]+", "0x…", f"{_cause(row)}\n{_detail(row)}")


def _names(rows: Sequence[Row]) -> str:
    names = [row["worker"] for row in rows]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


@dataclass(frozen=True, slots=True, repr=False)
class Verification:
    """Whether two runs have the same model; true when they have, else names the first tensor that differs."""

    equal: bool
    message: str

    def __bool__(self) -> bool:
        return self.equal

    def __repr__(self) -> str:
        return self.message


def compare(a: Mapping[str, Array], b: Mapping[str, Array]) -> Verification:
    """Two models, bit for bit."""
    for name in dict.fromkeys([*a, *b]):
        if name not in a or name not in b:
            return Verification(False, f"differ: only one has '{name}'")
        one, other = a[name], b[name]
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            return Verification(False, f"differ: '{name}' is {_kind(one)} in one and {_kind(other)} in the other")
        if one.tobytes() != other.tobytes():
            octets = [np.frombuffer(array.tobytes(), np.uint8).reshape(array.size, -1) for array in (one, other)]
            count = int((octets[0] != octets[1]).any(axis=1).sum())
            with np.errstate(invalid="ignore"):
                largest = float(np.max(np.abs(one.astype(np.float64) - other.astype(np.float64))))
            return Verification(False, f"differ: '{name}' in {count} of {one.size} values, at most by {largest:.3g}")
    return Verification(True, f"equal: {len(a)} tensors, {sum(array.size for array in a.values()):,} values")


def _kind(array: Array) -> str:
    return f"{array.dtype}{list(array.shape)}"
