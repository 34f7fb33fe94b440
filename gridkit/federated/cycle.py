"""The cycle engine: ``decide(state, event) -> (state, decisions)``. Pure: no I/O, no clock, no randomness of its own.

::

                      WorkerAsked → Accept | Reject
                      ReportCame  → Count | Refuse | Duplicate
                          ┌──────┐
    start ──Open──▶ OPEN ─┘      │ enough reports, or the deadline
                     ▲           ▼
                     │      AGGREGATING ──Aggregated──▶ FINISHED (completed | stopped | failed)
                   Open          │ Aggregated, with testers     ▲
                     │           ▼                              │
                     └──────  TESTING ──────────────────────────┘
                          TestCame → Count | Refuse | Duplicate

Every protocol is a shell that turns its messages into events, stores the new state, and does what was decided. An
event carries its time, and the random key where one may be needed, so any history can be replayed.

A first report is final for its worker and cycle, whatever its verdict. The same bytes again are a `Duplicate`, also
when their cycle has just closed; other bytes are refused.

A member of a fixed roster may leave for good (`WorkerLeft`). The cycle that is open loses its report, later ones draw
their cohorts without it, and a cycle that can't have its quorum any more fails at once: nobody is waited for in vain.
"""

from __future__ import annotations

import hmac
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gridkit.errors import AccessError, ConflictError, ErrorCode
from gridkit.federated import testing
from gridkit.federated.closing import Decided, aggregation, close_if_due, fail_if_hopeless, finish
from gridkit.federated.events import (
    Accept,
    Aggregate,
    Aggregated,
    AggregationFailed,
    Count,
    Decision,
    Draw,
    Duplicate,
    Event,
    Expire,
    Finish,
    Left,
    Miss,
    Open,
    Part,
    Refuse,
    Reject,
    ReportCame,
    StopAsked,
    Test,
    TestCame,
    Tester,
    Tick,
    WorkerAsked,
    WorkerLeft,
)
from gridkit.federated.rules import CycleRules
from gridkit.federated.selection import RETRY, admit, arrange, cohort, note, unfit
from gridkit.federated.state import Answer, Assignment, CycleState, Departure, Phase, Status, Tested, opened

__all__ = [
    "Accept",
    "Aggregate",
    "Aggregated",
    "AggregationFailed",
    "Answer",
    "Assignment",
    "Count",
    "CycleRules",
    "CycleState",
    "Decision",
    "Departure",
    "Draw",
    "Duplicate",
    "Event",
    "Expire",
    "Finish",
    "Left",
    "Miss",
    "Open",
    "Part",
    "Phase",
    "Refuse",
    "Reject",
    "ReportCame",
    "Status",
    "StopAsked",
    "Test",
    "TestCame",
    "Tested",
    "Tester",
    "Tick",
    "WorkerAsked",
    "WorkerLeft",
    "check_key",
    "cohort",
    "decide",
    "pending_aggregation",
    "usual_norm",
]

CAUSE = 300
"""characters of why a report doesn't count, or a worker left, that stay in the state; published rows have them all"""


def decide(state: CycleState, event: Event) -> Decided:
    """What an event changes and what is to be done.

    >>> state, _ = CycleState.start(CycleRules(num_cycles=1), at=0.0)
    >>> state, decisions = decide(state, WorkerAsked(1.0, "w", "worker 0", 0, "key"))
    >>> decisions
    (Accept(worker='w', slot=0, sequence=1),)
    """
    handler: Callable[[CycleState, Any], Decided] = _HANDLERS[type(event)]
    state, drawn = arrange(state, event.at)  # what time has brought
    state, decisions = handler(state, event)
    state, more = arrange(state, event.at)  # when the next draw is, with the places that this event took or gave back
    return state, (*drawn, *decisions, *more)


# ---- what shells ask


def check_key(state: CycleState, worker: str, request_key: str) -> Assignment:
    """The assignment that this key opens, before a body is taken or a download given.

    Raises:
        AccessError: `BAD_KEY`: not this worker's key.
        ConflictError: `CYCLE_CLOSED`: it was, in an earlier cycle, or the training is over.
    """
    for assignments, current in ((state.assignments, True), (state.previous, False)):
        assignment = assignments.get(worker)
        if assignment is not None and _same(assignment.request_key, request_key):
            if current and state.phase is not Phase.FINISHED:
                return assignment
            raise ConflictError("the cycle of this request key is closed", code=ErrorCode.CYCLE_CLOSED, status=409)
    raise AccessError(
        "the request key isn't this worker's, or is from an older round",
        "ask for the cycle again",
        code=ErrorCode.BAD_KEY,
        status=401,
    )


def usual_norm(state: CycleState) -> float | None:
    """Median L2 norm of the reports that the cycle has accepted."""
    norms = [a.norm for a in state.assignments.values() if a.status is Status.ACCEPTED]
    return statistics.median(norms) if norms else None


def pending_aggregation(state: CycleState) -> Aggregate | None:
    """What a shell that starts again has to aggregate."""
    return aggregation(state) if state.phase is Phase.AGGREGATING else None


# ---- inside


def _asked(state: CycleState, event: WorkerAsked) -> Decided:
    if state.phase is Phase.FINISHED:
        return state, (Reject(event.worker, ErrorCode.TRAINING_OVER, "the training is over", None),)
    if (departure := state.left.get(event.slot)) is not None:
        return state, (Reject(event.worker, ErrorCode.WORKER_LEFT, _gone(departure), None),)

    def not_now(code: ErrorCode, reason: str) -> Decided:
        return state, (Reject(event.worker, code, reason, RETRY),)

    known = state.assignments.get(event.worker)
    if state.phase is Phase.AGGREGATING:
        return not_now(ErrorCode.CYCLE_CHANGING, "the reports of this round are being averaged")
    if state.phase is Phase.TESTING:
        return not_now(ErrorCode.CYCLE_CHANGING, "the newest model is being tested")
    if known is not None and known.status is Status.ASSIGNED:
        return note(state, event), (Accept(event.worker, known.slot, known.request_key, state.sequence),)
    if (reject := unfit(state, event)) is not None:
        return state, (reject,)
    if known is not None and not _returned(state, known):
        return not_now(ErrorCode.CYCLE_CHANGING, f"you have reported in round {state.sequence}; wait for the next")
    state, reject = admit(state, event)
    if reject is not None:
        return state, (reject,)
    assignment = Assignment(event.worker, event.label, event.slot, event.request_key, event.at)
    state = replace(state, assignments={**state.assignments, event.worker: assignment})
    return state, (Accept(event.worker, event.slot, event.request_key, state.sequence),)


def _returned(state: CycleState, assignment: Assignment) -> bool:
    """A slot of an open training whose time ran out may be taken up again while the cycle stays open."""
    return assignment.status is Status.EXPIRED and state.rules.clients is None


def _reported(state: CycleState, event: ReportCame) -> Decided:
    def refused(code: ErrorCode, message: str) -> Decided:
        return state, (Refuse(event.worker, code, message),)

    for assignments in (state.assignments, state.previous):
        known = assignments.get(event.worker)
        if known is not None and _same(known.request_key, event.request_key):
            break
    else:
        return refused(ErrorCode.BAD_KEY, "the request key isn't this worker's, or is from an older round")
    if known.digest == event.digest and known.status in (Status.ACCEPTED, Status.FAILED):
        return state, (Duplicate(event.worker),)
    if known.digest == event.digest and known.status is Status.REFUSED and event.verdict.code is not None:
        return refused(event.verdict.code, event.verdict.message)
    if assignments is state.previous or state.phase is not Phase.OPEN or known.status is Status.EXPIRED:
        over = f"round {state.sequence}" if assignments is state.assignments else "the round of this report"
        return refused(ErrorCode.CYCLE_CLOSED, f"{over} is closed; this report came too late")
    if known.status is not Status.ASSIGNED and known.digest is None:
        return refused(ErrorCode.WORKER_LEFT, _gone(state.left[known.slot]))
    if known.status is not Status.ASSIGNED:
        return refused(ErrorCode.ALREADY_REPORTED, f"{known.label} has reported in this round; the first report counts")

    status = Status.FAILED if event.error is not None else Status.REFUSED
    if event.verdict.accepted:
        status = Status.ACCEPTED
    assignment = replace(
        known,
        status=status,
        digest=event.digest,
        samples=event.samples,
        norm=event.verdict.norm,
        loss=event.metrics.get("loss"),
        size=event.size,
        cause="" if event.verdict.accepted else f"{event.verdict.code}: {event.verdict.message}"[:CAUSE],
    )
    state = replace(state, assignments={**state.assignments, event.worker: assignment})
    if event.verdict.accepted:
        answer: Decision = Count(event.worker)
    else:
        assert event.verdict.code is not None
        answer = Refuse(event.worker, event.verdict.code, event.verdict.message, event.verdict)
    state, further = _proceed(state, event.at)
    return state, (answer, *further)


def _ticked(state: CycleState, event: Tick) -> Decided:
    return _proceed(state, event.at)


def _stop_asked(state: CycleState, event: StopAsked) -> Decided:
    if state.phase is Phase.FINISHED:
        return state, ()
    idle = state.phase is Phase.OPEN and not state.with_status(Status.ASSIGNED, Status.ACCEPTED)
    if event.now or state.stopping or idle:
        state, _ = testing.close(replace(state, stopping=True))
        return finish(state, "stopped")
    return _proceed(replace(state, stopping=True), event.at)


def _aggregated(state: CycleState, event: Aggregated) -> Decided:
    if state.phase is not Phase.AGGREGATING or event.sequence != state.sequence:
        return state, ()
    if event.failure:
        return finish(state, "failed", f"round {state.sequence}: {event.failure}")
    state = replace(state, stopping=state.stopping or event.stop)
    state, test = testing.begin(state, event)
    return (state, test) if test else _go_on(state, event.at)


def _aggregation_failed(state: CycleState, event: AggregationFailed) -> Decided:
    if state.phase is not Phase.AGGREGATING or event.sequence != state.sequence:
        return state, ()
    return finish(state, "failed", f"round {state.sequence}: {event.reason}")


def _test_came(state: CycleState, event: TestCame) -> Decided:
    state, answer = testing.hear(state, event)
    state, further = _proceed(state, event.at)
    return state, (answer, *further)


def _left(state: CycleState, event: WorkerLeft) -> Decided:
    if state.phase is Phase.FINISHED or event.slot in state.left or event.slot not in range(state.rules.clients or 0):
        return state, ()
    known = state.assignments.get(event.worker)
    undecided = known is None or known.status is Status.ASSIGNED
    if state.phase is Phase.OPEN and undecided and event.slot in cohort(state):
        assignment = known or Assignment(event.worker, event.label, event.slot, "", event.at)
        cause = f"{ErrorCode.WORKER_LEFT}: {event.reason}"[:CAUSE]
        assignment = replace(assignment, status=Status.FAILED, cause=cause)
        state = replace(state, assignments={**state.assignments, event.worker: assignment})
    departure = Departure(state.sequence, event.label, event.reason[:CAUSE])
    state = testing.without(replace(state, left={**state.left, event.slot: departure}), event.slot)
    state, further = _proceed(state, event.at)
    return state, (Left(event.worker), *further)


_HANDLERS: dict[type, Callable[[CycleState, Any], Decided]] = {
    WorkerAsked: _asked,
    ReportCame: _reported,
    Tick: _ticked,
    StopAsked: _stop_asked,
    Aggregated: _aggregated,
    AggregationFailed: _aggregation_failed,
    TestCame: _test_came,
    WorkerLeft: _left,
}


def _proceed(state: CycleState, at: float) -> Decided:
    if state.phase is Phase.TESTING and testing.is_due(state, at):
        state, missed = testing.close(state)
        state, further = _go_on(state, at)
        return state, (*missed, *further)
    return close_if_due(state, at)


def _go_on(state: CycleState, at: float) -> Decided:
    """With the next cycle, unless that was the last one, or nobody has to come any more."""
    if state.rules.num_cycles and state.sequence >= state.rules.num_cycles:
        return finish(state, "completed")
    if state.stopping:
        return finish(state, "stopped")
    state, decisions = opened(state, at)
    state, further = fail_if_hopeless(state)
    return state, (*decisions, *further)


def _gone(departure: Departure) -> str:
    return f"{departure.label} has left this training: {departure.reason}"


def _same(one: str, other: str) -> bool:
    """In constant time; foreign text may hold lone surrogates."""
    return bool(one) and hmac.compare_digest(one.encode(), other.encode(errors="surrogatepass"))
