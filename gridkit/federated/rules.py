"""The rules of a training's cycles, read from its `server_config`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gridkit.errors import ErrorCode, UsageError
from gridkit.federated import strategies

MAX_CLIENTS = 100_000


@dataclass(frozen=True, slots=True)
class CycleRules:
    """What decides about the cycles of one training.

    Attributes:
        num_cycles: rounds; 0 is without end.
        cycle_length: seconds a cycle stays open; None is without limit.
        min_diffs: without a roster: a cycle needs at least so many accepted reports.
        max_diffs: without a roster: a cycle closes with so many, never more; None is without limit.
        max_workers: so many workers at a time may be at work in a cycle; None is without limit.
        clients: a fixed roster of so many slots (`grid.train`); None is a training for whoever comes.
        fraction: with a roster: the share of it that takes part in a round.
        tolerate: with a roster: so many of a round's cohort may fail.
        seed: draws the cohorts.
        weighting: "samples" or "equal".
        max_samples: cap on the weight of one report.
        max_norm: a diff with a larger L2 norm is refused.
        strategy: see `federated.strategies`.
        keep_last, keep_every: the node keeps the models of the last rounds and of every k-th (0: none besides).
    """

    num_cycles: int = 0
    cycle_length: float | None = None
    min_diffs: int = 1
    max_diffs: int | None = None
    max_workers: int | None = None
    clients: int | None = None
    fraction: float = 1.0
    tolerate: int = 0
    seed: int = 0
    weighting: str = "equal"
    max_samples: int | None = None
    max_norm: float | None = None
    strategy: str = "fedavg"
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
            raise _wrong("tolerate", rules.tolerate, f"a round has only {rules.cohort_size} clients")
        pointless = ("fraction", "tolerate") if rules.clients is None else ("min_diffs", "max_diffs")
        for key in pointless:
            if getattr(rules, key) != getattr(cls(), key):
                fixed = "without" if rules.clients is None else "with"
                raise _wrong(key, getattr(rules, key), f"it means nothing {fixed} a fixed roster (clients)")
        return rules

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def cohort_size(self) -> int:
        """Clients of a round, with a fixed roster."""
        return max(1, round(self.fraction * (self.clients or 0)))

    @property
    def quorum(self) -> int:
        """Accepted reports that a round of a fixed roster needs."""
        return max(1, self.cohort_size - self.tolerate)


def _wrong(key: str, value: object, reason: str) -> UsageError:
    return UsageError(f"server_config.{key} is {str(value)[:50]!r}: {reason}", code=ErrorCode.BAD_CONFIG)


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
        strategies.get(value)
    except UsageError as error:
        raise _wrong(key, value, error.message) from None
    return value


_OPTIONAL = ("cycle_length", "max_diffs", "max_workers", "clients", "max_samples", "max_norm")
_KNOWN: dict[str, Any] = {
    "num_cycles": _whole(0),
    "cycle_length": _number(0, 1e9, above=True),
    "min_diffs": _whole(1),
    "max_diffs": _whole(1),
    "max_workers": _whole(1),
    "clients": _whole(1, MAX_CLIENTS + 1),
    "fraction": _number(0, 1, above=True),
    "tolerate": _whole(0),
    "seed": _whole(0, 2**63),
    "weighting": _one_of("samples", "equal"),
    "max_samples": _whole(1),
    "max_norm": _number(0, above=True),
    "strategy": _strategy,
    "keep_last": _whole(1),
    "keep_every": _whole(0),
}
_NEUTRAL: tuple[Any, ...] = (None, 0, False, {}, [])
_ELSEWHERE: dict[str, tuple[Any, ...]] = {
    "name": _NEUTRAL,
    "version": _NEUTRAL,
    "min_workers": _NEUTRAL,
    "pool_selection": (None, "iterate"),
    "do_not_reuse_workers_until_cycle": _NEUTRAL,
    "minimum_upload_speed": _NEUTRAL,
    "minimum_download_speed": _NEUTRAL,
    "iterative_plan": _NEUTRAL,
    "authentication": _NEUTRAL,
}
"""PyGrid's keys that mean nothing here unless they ask for something"""
