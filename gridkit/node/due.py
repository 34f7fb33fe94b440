"""What a push participant has to be told next: a pure function of its training's state and of what it was told.

Source: the notifications and their order are the fl-demonstrator's; that the start is acknowledged before the first
round, and that each step is told until it is acknowledged or doesn't matter any more, are ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from gridkit.federated import cycle
from gridkit.federated.cycle import Answer, CycleState, Phase, Status
from gridkit.wire.notifications import NotificationType

NOTHING: Final = -1
"""`told` of who was told nothing yet"""
FINISHED: Final = 2**31 - 1
"""`told` of who doesn't have to be told anything more"""
PAUSE = 0.5
"""seconds after the first attempt; each other pause is twice as long as the one before"""
LONGEST_PAUSE = 30.0


class Member(Protocol):
    """A participant in a training. `told` is the step of the last notification that it took."""

    slot: int
    worker: str
    told: int


@dataclass(frozen=True, slots=True)
class Notification:
    """Something to tell.

    Attributes:
        step: grows from one notification of a training to the next: 0 for the start, ``2s - 1`` for the update of cycle
            s, ``2s`` for its test, `FINISHED` for the end.
        round: as the protocol counts: the number of aggregations before it; None where the protocol has none.
    """

    kind: NotificationType
    step: int
    round: int | None = None

    def body(self, training: str, model: str) -> bytes:
        """What is sent; the ids are UUIDs in their canonical form.

        >>> START.body("t", "m")
        b'{"notification_type": "TRAINING_START", "training_uuid": "t", "body": {"global_model_uuid": "m"}}'
        """
        body: dict[str, Any] = {} if self.round is None else {"round": self.round}
        message = {
            "notification_type": str(self.kind),
            "training_uuid": training,
            "body": {**body, "global_model_uuid": model},
        }
        return json.dumps(message).encode()

    def __str__(self) -> str:
        return str(self.kind) if self.round is None else f"{self.kind} {self.round}"


START: Final = Notification(NotificationType.TRAINING_START, 0)
FINISH: Final = Notification(NotificationType.TRAINING_FINISHED, FINISHED)


def round_to_train(sequence: int) -> Notification:
    """Train in this cycle."""
    return Notification(NotificationType.UPDATE_ROUND_START, 2 * sequence - 1, sequence - 1)


def round_to_test(sequence: int) -> Notification:
    """Test what this cycle made."""
    return Notification(NotificationType.MODEL_TEST_ROUND, 2 * sequence, sequence)


def due(state: CycleState, member: Member) -> Notification | None:
    """What this participant has to be told now; None: nothing, until the state changes.

    Who has left isn't told anything, and who never took the start not of the end either.

    >>> from types import SimpleNamespace as Member
    >>> state, _ = cycle.CycleState.start(cycle.CycleRules(clients=1, num_cycles=1), at=0.0)
    >>> for told in (-1, 0, 1):
    ...     print(due(state, Member(slot=0, worker="w", told=told)))
    TRAINING_START
    UPDATE_ROUND_START 0
    None
    """
    if member.slot in state.left:
        return None
    if state.phase is Phase.FINISHED:
        found = FINISH if member.told > NOTHING else None
    else:
        found = START if member.told == NOTHING else _asked_for(state, member)
    return found if found is not None and member.told < found.step else None


def owed(state: CycleState, member: Member) -> Notification | None:
    """The round, or the test, that this participant took and hasn't answered yet."""
    found = None if member.slot in state.left else _asked_for(state, member)
    return found if found is not None and member.told == found.step else None


def owner_due(state: CycleState, told: int, own: Iterable[Member]) -> Notification | None:
    """What the owner of a training has to be told, as the one who asked for it: its end, once.

    Args:
        told: as of a member.
        own: the owner's own memberships; as a member it hears of the end unless it left or never took the start.
    """
    hears = any(member.told > NOTHING and member.slot not in state.left for member in own)
    return FINISH if state.phase is Phase.FINISHED and told < FINISHED and not hears else None


def _asked_for(state: CycleState, member: Member) -> Notification | None:
    """What the training needs of this participant now, whether it knows or not."""
    if state.phase is Phase.OPEN and _has_to_train(state, member):
        return round_to_train(state.sequence)
    if state.phase is Phase.TESTING and _has_to_test(state, member):
        return round_to_test(state.sequence)
    return None


def _has_to_train(state: CycleState, member: Member) -> bool:
    assignment = state.assignments.get(member.worker)
    if assignment is None:
        return member.slot in cycle.cohort(state)
    return assignment.status is Status.ASSIGNED


def _has_to_test(state: CycleState, member: Member) -> bool:
    test = state.tests.get(member.worker)
    return test is not None and test.status is Answer.PENDING


def pause(attempt: int) -> float:
    """Seconds after this attempt (1, 2, …) until the next, on average.

    >>> [pause(attempt) for attempt in (1, 2, 3, 4, 99)]
    [0.5, 1.0, 2.0, 4.0, 30.0]
    """
    return min(LONGEST_PAUSE, PAUSE * 2.0 ** min(attempt - 1, 32))
