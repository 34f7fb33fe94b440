"""What goes into the cycle engine, and what comes out: events carry their time, decisions are for the shell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gridkit.errors import ErrorCode
from gridkit.federated.checks import Verdict

# ---- events


@dataclass(frozen=True, slots=True)
class WorkerAsked:
    """A worker wants work. `request_key` is fresh and random; it is used if the worker gets work. `download` and
    `upload` are what the worker says of its line, in Mbit/s (2^20 bits); None and 0 are unknown."""

    at: float
    worker: str
    label: str
    slot: int
    request_key: str = field(repr=False)
    download: float | None = None
    upload: float | None = None


@dataclass(frozen=True, slots=True)
class ReportCame:
    """A report is here, checked and stored. `error` is {type, message, traceback} of a worker that failed."""

    at: float
    worker: str
    request_key: str = field(repr=False)
    digest: str
    verdict: Verdict
    samples: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    size: int = 0
    error: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""

    at: float


@dataclass(frozen=True, slots=True)
class StopAsked:
    """The owner wants the end: after this round, or `now`."""

    at: float
    now: bool = False


@dataclass(frozen=True, slots=True)
class Tester:
    """A worker that shall test each new model on its own data."""

    worker: str
    label: str
    slot: int


@dataclass(frozen=True, slots=True)
class Aggregated:
    """The next model of this cycle is stored. `seconds`: how long averaging took. `testers` test it before the next
    cycle opens; those that have left don't. `metrics` is what the notebook's function says of it (None: no finite
    number), `stop`, whether it asked for the end, `failure`, why it couldn't score it: then that is the end too."""

    at: float
    sequence: int
    seconds: float = 0.0
    testers: tuple[Tester, ...] = ()
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    stop: bool = False
    failure: str = ""


@dataclass(frozen=True, slots=True)
class AggregationFailed:
    """The reports of this cycle can't be averaged, and won't be at another try: the averaging plan is at fault."""

    at: float
    sequence: int
    reason: str


@dataclass(frozen=True, slots=True)
class TestCame:
    """A tester says what the newest model is worth on its data: finite numbers, or text. `digest` is of all of it."""

    at: float
    worker: str
    digest: str
    metrics: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerLeft:
    """A member of the roster takes no further part: it rejected what it was told, or can't be reached."""

    at: float
    worker: str
    slot: int
    label: str
    reason: str


Event = WorkerAsked | ReportCame | Tick | StopAsked | Aggregated | AggregationFailed | TestCame | WorkerLeft


# ---- decisions


@dataclass(frozen=True, slots=True)
class Accept:
    """The worker has work."""

    worker: str
    slot: int
    request_key: str = field(repr=False)
    sequence: int


@dataclass(frozen=True, slots=True)
class Reject:
    """No work. `retry_after` in seconds; None is never again."""

    worker: str
    code: ErrorCode
    reason: str
    retry_after: float | None


@dataclass(frozen=True, slots=True)
class Count:
    """The report, or the test, counts."""

    worker: str


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The same bytes came again: success, and nothing changes."""

    worker: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """The report, or the test, doesn't count. `verdict` is None where nothing was recorded, as after the end."""

    worker: str
    code: ErrorCode
    message: str
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One report of an aggregation."""

    slot: int
    digest: str
    weight: float


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Average these reports, in this (slot) order, into checkpoint ``sequence + 1``."""

    sequence: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Expire:
    """These workers didn't report in time."""

    sequence: int
    workers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Test:
    """These workers test the newest model until the deadline."""

    sequence: int
    deadline: float | None
    workers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Miss:
    """These workers didn't test in time."""

    sequence: int
    workers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Left:
    """The worker has left for good."""

    worker: str


@dataclass(frozen=True, slots=True)
class Open:
    """A cycle opens."""

    sequence: int
    deadline: float | None


@dataclass(frozen=True, slots=True)
class Draw:
    """The number-th draw of a cycle gave places to the workers in these slots, of so many candidates."""

    sequence: int
    number: int
    slots: tuple[int, ...]
    candidates: int


@dataclass(frozen=True, slots=True)
class Finish:
    """The training is over: "completed", "stopped" or "failed"."""

    outcome: str
    reason: str | None = None


Decision = Accept | Reject | Count | Duplicate | Refuse | Aggregate | Expire | Test | Miss | Left | Open | Draw | Finish
