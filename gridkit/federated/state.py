"""What is known of a training's cycles: a value, and JSON."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from gridkit.federated.events import Decision, Open
from gridkit.federated.rules import CycleRules

HELD = 60.0
"""seconds for which a worker that asked counts as there, and for which a drawn one has its place"""


class Phase(enum.StrEnum):
    OPEN = "open"
    AGGREGATING = "aggregating"
    TESTING = "testing"
    FINISHED = "finished"


class Status(enum.StrEnum):
    """Where a worker stands in a cycle."""

    ASSIGNED = "assigned"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    FAILED = "failed"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Assignment:
    """One worker in one cycle. The key is a secret between it and the node."""

    worker: str
    label: str
    slot: int
    request_key: str = field(repr=False)
    at: float
    status: Status = Status.ASSIGNED
    digest: str | None = None
    samples: int | None = None
    norm: float = 0.0
    loss: float | None = None
    size: int = 0
    cause: str = ""

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _ASSIGNMENT}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that waits for its lot, or (with `drawn_at`) for which a place is kept."""

    slot: int
    asked_at: float
    drawn_at: float | None = None

    @property
    def until(self) -> float:
        """When it is forgotten, unless it asks."""
        return (self.asked_at if self.drawn_at is None else self.drawn_at) + HELD

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _CANDIDATE}


class Answer(enum.StrEnum):
    """Where a tester stands; `PENDING` while the cycle is tested, never after."""

    PENDING = "pending"
    DONE = "done"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Tested:
    """One tester of the newest model. `at` is when its test began; `digest` is of what it said."""

    label: str
    slot: int
    at: float
    status: Answer = Answer.PENDING
    digest: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _TESTED}


@dataclass(frozen=True, slots=True)
class Departure:
    """Who left, in which cycle, and why. The cycles after that one do without it."""

    cycle: int
    label: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _DEPARTURE}


_ASSIGNMENT = tuple(item.name for item in fields(Assignment))
_CANDIDATE = tuple(item.name for item in fields(Candidate))
_TESTED = tuple(item.name for item in fields(Tested))
_DEPARTURE = tuple(item.name for item in fields(Departure))


@dataclass(frozen=True, slots=True)
class CycleState:
    """All that is known of a training's cycles; small, a value, and JSON.

    Attributes:
        deadline: when the cycle that is open shall close, or the test of its model end.
        assignments, previous: by worker, of this cycle and of the last.
        present: with `min_workers`: when each worker that may have work asked last.
        queue: with a random pool: this cycle's candidates.
        draws, draw_at: how many draws this cycle has had, and when the next one is.
        served: with `do_not_reuse_workers_until_cycle`: the last cycle in which each worker's report counted.
        tests: by worker, who tests the newest model, or tested the newest that was; until the next is tested.
        left: by slot, who takes no further part.
    """

    rules: CycleRules
    phase: Phase = Phase.OPEN
    sequence: int = 1
    opened_at: float = 0.0
    deadline: float | None = None
    assignments: Mapping[str, Assignment] = field(default_factory=dict)
    previous: Mapping[str, Assignment] = field(default_factory=dict)
    present: Mapping[str, float] = field(default_factory=dict)
    queue: Mapping[str, Candidate] = field(default_factory=dict)
    draws: int = 0
    draw_at: float | None = None
    served: Mapping[str, int] = field(default_factory=dict)
    tests: Mapping[str, Tested] = field(default_factory=dict)
    left: Mapping[int, Departure] = field(default_factory=dict)
    stopping: bool = False
    outcome: str | None = None
    reason: str | None = None

    @classmethod
    def start(cls, rules: CycleRules, at: float) -> tuple[CycleState, tuple[Decision, ...]]:
        """The first cycle, open."""
        return opened(cls(rules, sequence=0), at)

    @property
    def due(self) -> float | None:
        """When a `Tick` is due: the cycle's deadline, a draw, or the end of a kept place for which others wait."""
        times = [time for time in (self.deadline, self.draw_at) if time is not None]
        if self.draw_at is None and any(c.drawn_at is None for c in self.queue.values()):
            times += [c.until for c in self.queue.values() if c.drawn_at is not None]
        return min(times, default=None)

    def with_status(self, *statuses: Status) -> list[Assignment]:
        """The cycle's assignments with one of these statuses, in slot order."""
        chosen = (a for a in self.assignments.values() if a.status in statuses)
        return sorted(chosen, key=lambda a: a.slot)

    def to_json(self) -> dict[str, Any]:
        def plain(items: Mapping[Any, Assignment | Candidate | Tested | Departure]) -> dict[str, dict[str, Any]]:
            return {str(key): item.to_json() for key, item in items.items()}

        value = {item.name: getattr(self, item.name) for item in fields(self)}
        return value | {
            "rules": self.rules.to_json(),
            "assignments": plain(self.assignments),
            "previous": plain(self.previous),
            "queue": plain(self.queue),
            "tests": plain(self.tests),
            "left": plain(self.left),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CycleState:
        """Members that an earlier version of this package didn't write have their defaults."""

        def assignments(items: Mapping[str, Mapping[str, Any]]) -> dict[str, Assignment]:
            return {worker: Assignment(**{**item, "status": Status(item["status"])}) for worker, item in items.items()}

        return cls(
            **{
                **value,
                "rules": CycleRules(**value["rules"]),
                "phase": Phase(value["phase"]),
                "assignments": assignments(value["assignments"]),
                "previous": assignments(value["previous"]),
                "queue": {worker: Candidate(**item) for worker, item in value.get("queue", {}).items()},
                "tests": {
                    worker: Tested(**{**item, "status": Answer(item["status"])})
                    for worker, item in value.get("tests", {}).items()
                },
                "left": {int(slot): Departure(**item) for slot, item in value.get("left", {}).items()},
            }
        )


def opened(state: CycleState, at: float) -> tuple[CycleState, tuple[Decision, ...]]:
    """The next cycle, open."""
    rules = state.rules
    sequence, rest = state.sequence + 1, rules.do_not_reuse_workers_until_cycle
    deadline = None if rules.cycle_length is None else at + rules.cycle_length
    served: dict[str, int] = {}
    if rest > 1:
        served = {worker: cycle for worker, cycle in state.served.items() if cycle + rest > sequence}
        served |= {a.worker: state.sequence for a in state.with_status(Status.ACCEPTED)}
    state = replace(
        state,
        phase=Phase.OPEN,
        sequence=sequence,
        opened_at=at,
        deadline=deadline,
        previous=state.assignments,
        assignments={},
        present={worker: asked for worker, asked in state.present.items() if worker not in served},
        queue={},
        draws=0,
        draw_at=None,
        served=served,
    )
    return state, (Open(sequence, deadline),)
