"""The rules of a training's cycles, read from its `server_config`.

Who gets work, in a training for whoever comes (`federated.selection` does it, all of it decided by the engine):

* `minimum_download_speed`, `minimum_upload_speed`: a worker says how fast its line is (Mbit/s of 2^20 bits, as syft.js
  measures them); one that claims less is refused, `TOO_SLOW`. A claim of 0, or none, is unknown: let in.
* `do_not_reuse_workers_until_cycle` k: whose report counted in cycle n is taken again from cycle n + k on, and is
  refused until then, `COOLING_DOWN`.
* `min_workers` m: the work of a cycle is given out once m workers are there that may have it: that asked within the
  last 60 s, or are at work. Until then `TOO_FEW_WORKERS`; from then on the cycle takes whoever comes.
* `pool_selection` "iterate": first come, first served. At most `max_workers` are at work at a time; more are refused,
  `CYCLE_FULL`.
* `pool_selection` "random": who asks becomes a candidate, `IN_DRAW`. A window after the first candidate (of
  `selection_length` seconds, or a tenth of `cycle_length` if that is shorter) as many as there are free places are
  drawn: of `max_workers`, or of `max_diffs`; without either, all. A drawn worker has its place for 60 s, and gets work
  when it asks. Whoever wasn't drawn is in the next draw, which is a window after a place became free. The draw is
  Philox(seed, cycle, number of the draw) over the candidates' slots.

A refusal says when to come back, in seconds; without that it is for good. PyGrid took these keys and enforced none but
the speeds, which it compared without a unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gridkit.errors import ErrorCode, UsageError
from gridkit.federated import notebook, strategies

MAX_CLIENTS = 100_000


@dataclass(frozen=True, slots=True)
class CycleRules:
    """What decides about the cycles of one training.

    Attributes:
        num_cycles: rounds; 0 is without end.
        cycle_length: seconds a cycle stays open; None is without limit.
        min_diffs: without a roster: a cycle needs at least so many accepted reports.
        max_diffs: without a roster: a cycle closes with so many, never more; None is without limit.
        min_workers: without a roster: work is given out once so many workers are there.
        max_workers: so many workers at a time may be at work in a cycle; None is without limit.
        pool_selection: without a roster: "iterate", first come, first served, or "random", by lot.
        selection_length: seconds from the first candidate to a draw, with "random".
        do_not_reuse_workers_until_cycle: without a roster: so many cycles on a worker may report again; 0 and 1 are
            the next.
        minimum_download_speed, minimum_upload_speed: without a roster: Mbit/s (2^20 bits) that a worker has; 0 is any.
        clients: a fixed roster of so many slots (`grid.train`); None is a training for whoever comes.
        fraction: with a roster: the share of it that takes part in a round; others stand in for those who have left.
        tolerate: with a roster: so many of a round's cohort may fail.
        seed: draws the cohorts, and with "random" the workers.
        weighting: "samples" or "equal".
        max_samples: cap on the weight of one report.
        max_norm: a diff with a larger L2 norm is refused.
        strategy: see `federated.strategies`, or `federated.notebook`; nothing where the training was hosted with an
            averaging plan.
        evaluate: the name of a notebook's function that scores each new model; "" without one.
        iterative_plan: the averaging plan takes one report after the other, and knows of no weights.
        keep_last, keep_every: the node keeps the models of the last rounds and of every k-th (0: none besides).
    """

    num_cycles: int = 0
    cycle_length: float | None = None
    min_diffs: int = 1
    max_diffs: int | None = None
    min_workers: int = 0
    max_workers: int | None = None
    pool_selection: str = "iterate"
    selection_length: float = 2.0
    do_not_reuse_workers_until_cycle: int = 0
    minimum_download_speed: float = 0.0
    minimum_upload_speed: float = 0.0
    clients: int | None = None
    fraction: float = 1.0
    tolerate: int = 0
    seed: int = 0
    weighting: str = "equal"
    max_samples: int | None = None
    max_norm: float | None = None
    strategy: str = "fedavg"
    evaluate: str = ""
    iterative_plan: bool = False
    keep_last: int = 20
    keep_every: int = 0

    @classmethod
    def from_config(cls, server_config: Mapping[str, Any]) -> CycleRules:
        """Read and check a `server_config`.

        Raises:
            UsageError: `BAD_CONFIG`, naming the key.
        """
        values: dict[str, Any] = {}
        for key, value in server_config.items():
            if key in _OF_POOLS and value in _NEUTRAL:
                continue
            if key in _KNOWN:
                values[key] = _KNOWN[key](key, value)
            elif key in _ELSEWHERE:
                if value not in _ELSEWHERE[key]:
                    raise _wrong(key, value, "this node doesn't enforce it; leave it out")
            else:
                raise UsageError(
                    f"server_config has the unknown key {key[:50]!r}",
                    f"use some of: {', '.join(_KNOWN)}",
                    code=ErrorCode.BAD_CONFIG,
                )
        rules = cls(**{key: value for key, value in values.items() if value is not None or key in _OPTIONAL})
        if rules.max_diffs is not None and rules.min_diffs > rules.max_diffs:
            raise _wrong("min_diffs", rules.min_diffs, f"max_diffs is only {rules.max_diffs}")
        if rules.clients is not None and rules.tolerate >= rules.cohort_size:
            raise _wrong("tolerate", rules.tolerate, f"a round takes in only {rules.cohort_size}")
        for key in _OF_ROSTERS if rules.clients is None else _OF_VISITORS:
            if getattr(rules, key) != getattr(cls(), key):
                fixed = "without" if rules.clients is None else "with"
                raise _wrong(key, getattr(rules, key), f"it means nothing {fixed} a fixed roster (clients)")
        if rules.selection_length != cls().selection_length and rules.pool_selection != "random":
            raise _wrong("selection_length", rules.selection_length, 'it means nothing without pool_selection "random"')
        if rules.iterative_plan and rules.weighting != "equal":
            raise _wrong("weighting", rules.weighting, "an iterative averaging plan isn't told of weights")
        return rules

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def cohort_size(self) -> int:
        """Clients of a round, with a fixed roster of which so many are left."""
        return max(1, round(self.fraction * (self.clients or 0)))

    @property
    def quorum(self) -> int:
        """Accepted reports that a round of a fixed roster needs."""
        return max(1, self.cohort_size - self.tolerate)

    @property
    def fewest(self) -> int:
        """Accepted reports with which a round may close."""
        return self.min_diffs if self.clients is None else self.quorum

    @property
    def most(self) -> int | None:
        """Accepted reports that a round may have at most; None is without limit."""
        return self.max_diffs if self.clients is None else self.cohort_size

    @property
    def selection_window(self) -> float:
        """Seconds from the first candidate to a draw."""
        return min(self.selection_length, math.inf if self.cycle_length is None else self.cycle_length / 10)

    def function(self, role: str) -> str | None:
        """The name of the notebook's function that is the "strategy", or does "evaluate", if one does."""
        return notebook.function_of(self.strategy) if role == "strategy" else self.evaluate or None

    @property
    def requires_speed_test(self) -> bool:
        """Whether a worker has to say how fast its line is."""
        return self.minimum_download_speed > 0 or self.minimum_upload_speed > 0


def _wrong(key: str, value: object, reason: str) -> UsageError:
    return UsageError(f"server_config.{key} is {repr(value)[:50]}: {reason}", code=ErrorCode.BAD_CONFIG)


def _whole(low: int, high: int = 2**53) -> Any:
    def check(key: str, value: Any) -> int | None:
        if value is None and key in _OPTIONAL:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value < high:
            raise _wrong(key, value, f"it must be a whole number of {low} or more")
        return value

    return check


def _number(low: float, high: float = 1e300, *, above: bool = False) -> Any:
    def check(key: str, value: Any) -> float | None:
        if value is None and key in _OPTIONAL:
            return None
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not good or not low <= value <= high or (above and value == low):
            raise _wrong(key, value, f"it must be a number {'above' if above else 'from'} {low:g}")
        return float(value)

    return check


def _one_of(*names: str) -> Any:
    def check(key: str, value: Any) -> str:
        if value not in names:
            raise _wrong(key, value, f"it must be one of {', '.join(names)}")
        return str(value)

    return check


def _strategy(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(key, value, "it must be a strategy's name")
    try:
        name = notebook.function_of(value)
        if name is None:
            strategies.get(value)
        else:
            notebook.check_name(name)
    except UsageError as error:
        raise _wrong(key, value, error.hint or error.message) from None
    return value


def _function(key: str, value: Any) -> str:
    if value in _NEUTRAL:
        return ""
    if not isinstance(value, str):
        raise _wrong(key, value, "it must be a function's name")
    try:
        notebook.check_name(value)
    except UsageError as error:
        raise _wrong(key, value, error.hint or error.message) from None
    return value


def _asked(key: str, value: Any) -> bool:
    if value in _NEUTRAL:
        return False
    if value is not True:
        raise _wrong(key, value, "it must be true or false")
    return True


_OPTIONAL = ("cycle_length", "max_diffs", "max_workers", "clients", "max_samples", "max_norm")
_KNOWN: dict[str, Any] = {
    "num_cycles": _whole(0),
    "cycle_length": _number(0, 1e9, above=True),
    "min_diffs": _whole(1),
    "max_diffs": _whole(1),
    "min_workers": _whole(0, MAX_CLIENTS + 1),
    "max_workers": _whole(1),
    "pool_selection": _one_of("iterate", "random"),
    "selection_length": _number(0, 3600, above=True),
    "do_not_reuse_workers_until_cycle": _whole(0),
    "minimum_download_speed": _number(0),
    "minimum_upload_speed": _number(0),
    "clients": _whole(1, MAX_CLIENTS + 1),
    "fraction": _number(0, 1, above=True),
    "tolerate": _whole(0),
    "seed": _whole(0, 2**63),
    "weighting": _one_of("samples", "equal"),
    "max_samples": _whole(1),
    "max_norm": _number(0, above=True),
    "strategy": _strategy,
    "evaluate": _function,
    "iterative_plan": _asked,
    "keep_last": _whole(1),
    "keep_every": _whole(0),
}
_OF_ROSTERS = ("fraction", "tolerate")
_OF_POOLS = (
    "min_workers",
    "pool_selection",
    "do_not_reuse_workers_until_cycle",
    "minimum_download_speed",
    "minimum_upload_speed",
)
_OF_VISITORS = ("min_diffs", "max_diffs", *_OF_POOLS)
_NEUTRAL: tuple[Any, ...] = (None, 0, False, {}, [])
"""PyGrid's users set a key to anything empty when they ask for nothing"""
_ELSEWHERE: dict[str, tuple[Any, ...]] = {
    "name": _NEUTRAL,
    "version": _NEUTRAL,
    "authentication": _NEUTRAL,
}
"""PyGrid's keys that mean nothing to the cycles"""
