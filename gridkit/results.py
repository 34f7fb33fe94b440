"""What a run's rows come to: two tables, the error that names the workers, the comparison of two models."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gridkit.errors import RunError, WorkersFailed
from gridkit.federated.history import History, Row
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


def metric_values(values: Mapping[str, Any] | None) -> dict[str, float]:
    """What `evaluate` returned, as numbers by column; a name that `metrics` has already gets ``evaluate_`` before it.

    Raises:
        TypeError, ValueError: it is no mapping from names to numbers.
    """
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise TypeError(f"evaluate returned {type(values).__name__}, not a dict of metrics")
    return {f"evaluate_{name}" if name in _ROUND_COLUMNS else str(name): float(v) for name, v in values.items()}


def metrics_frame(rounds: Sequence[Row], evaluated: Mapping[int, Mapping[str, float]]) -> pd.DataFrame:
    """A row a round: what `evaluate` returned (NaN where it hasn't), then loss, counts, seconds, bytes."""
    import pandas as pd

    index = pd.Index([row["round"] for row in rounds], dtype="int64", name="round")
    columns: dict[str, Any] = {}
    for name in dict.fromkeys(name for values in evaluated.values() for name in values):
        values = [evaluated.get(row["round"], {}).get(name, np.nan) for row in rounds]
        columns[name] = pd.Series(values, index, "float64")
    for name, kind in _ROUND_COLUMNS.items():
        columns[name] = pd.Series([row[name] for row in rounds], index, kind)
    return pd.DataFrame(columns)


def reports_frame(reports: Sequence[Row]) -> pd.DataFrame:
    """A row a worker and round."""
    import pandas as pd

    columns = {name: pd.Series([row[name] for row in reports], dtype=kind) for name, kind in _REPORT_COLUMNS.items()}
    return pd.DataFrame(columns)


def failure(history: History, title: str, *, debuggable: Collection[int] = ()) -> RunError:
    """The error of a failed run: the last round's failures, equal causes together, workers by name.

    Args:
        title: of the run, such as "'digits' 1.0".
        debuggable: the slots for which `run.debug` works here.
    """
    failed = sorted(history.failures(history.cycle), key=lambda row: row["slot"])
    if not failed or history.code:
        return RunError(f"the training {title} failed: {history.reason}")
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
