"""When a cycle closes: with enough reports, at its deadline, or because there can't be enough any more.

A round of a fixed roster closes when all of its cohort have reported, failed, left or run out of time, and at least the
quorum of reports counts; it fails as soon as the quorum is out of reach. A cycle for whoever comes closes with
`max_diffs` reports, or at its deadline with `min_diffs`; with fewer it stays open. Pure, as the engine is.
"""

from __future__ import annotations

from dataclasses import replace

from gridkit.errors import ErrorCode
from gridkit.federated.events import Aggregate, Decision, Expire, Finish, Part
from gridkit.federated.selection import cohort, cohort_size, departed
from gridkit.federated.state import Assignment, CycleState, Phase, Status

Decided = tuple[CycleState, tuple[Decision, ...]]


def close_if_due(state: CycleState, at: float) -> Decided:
    """Close the open cycle, or put its deadline off, if it is time."""
    if state.phase is not Phase.OPEN:
        return state, ()
    decisions: list[Decision] = []
    late = state.deadline is not None and at >= state.deadline
    fixed = state.rules.clients is not None
    enough = _enough_of_roster if fixed else _enough_of_visitors
    if late and (fixed or not enough(state, late)):
        expired = {a.worker: replace(a, status=Status.EXPIRED) for a in state.with_status(Status.ASSIGNED)}
        if fixed:
            expired.update(_absent(state, at))
        if expired:
            state = replace(state, assignments={**state.assignments, **expired})
            decisions.append(Expire(state.sequence, tuple(expired)))
    if enough(state, late):
        if not any(part.weight > 0 for part in aggregation(state).parts):
            state, further = finish(state, "failed", f"round {state.sequence}: no report has any samples")
            return state, (*decisions, *further)
        state = replace(state, phase=Phase.AGGREGATING, deadline=None)
        return state, (*decisions, aggregation(state))
    if fixed:
        state, further = fail_if_hopeless(state)
        return state, (*decisions, *further)
    length = state.rules.cycle_length
    if late and length is not None:
        if state.stopping and not state.with_status(Status.ASSIGNED, Status.ACCEPTED):
            state, further = finish(state, "stopped")
            return state, (*decisions, *further)
        state = replace(state, deadline=at + length)
    return state, tuple(decisions)


def finish(state: CycleState, outcome: str, reason: str | None = None) -> Decided:
    """The end: "completed", "stopped" or "failed"."""
    state = replace(state, phase=Phase.FINISHED, deadline=None, outcome=outcome, reason=reason)
    return state, (Finish(outcome, reason),)


def aggregation(state: CycleState) -> Aggregate:
    """The reports that the cycle has accepted, with their weights."""
    rules = state.rules

    def weight(assignment: Assignment) -> float:
        if rules.weighting == "equal":
            return 1.0
        samples = 1 if assignment.samples is None else assignment.samples
        return float(min(samples, rules.max_samples) if rules.max_samples is not None else samples)

    accepted = state.with_status(Status.ACCEPTED)
    return Aggregate(state.sequence, tuple(Part(a.slot, a.digest or "", weight(a)) for a in accepted))


def _absent(state: CycleState, at: float) -> dict[str, Assignment]:
    """Members of the cohort that never asked for work, as expired assignments under names that no worker has."""
    there = {a.slot for a in state.assignments.values()}
    return {
        f"absent {slot}": Assignment(f"absent {slot}", f"client {slot}", slot, "", at, Status.EXPIRED)
        for slot in cohort(state)
        if slot not in there
    }


def _enough_of_roster(state: CycleState, _late: bool) -> bool:
    decided = state.with_status(Status.ACCEPTED, Status.REFUSED, Status.FAILED, Status.EXPIRED)
    accepted = state.with_status(Status.ACCEPTED)
    return len(decided) == cohort_size(state) and len(accepted) >= state.rules.quorum


def _enough_of_visitors(state: CycleState, late: bool) -> bool:
    rules, accepted = state.rules, len(state.with_status(Status.ACCEPTED))
    if accepted < rules.min_diffs:
        return False
    unlimited = rules.max_diffs is None and rules.cycle_length is None
    return unlimited or late or (rules.max_diffs is not None and accepted >= rules.max_diffs)


def fail_if_hopeless(state: CycleState) -> Decided:
    """A round of a fixed roster that can't have its quorum any more ends the training."""
    rules, size = state.rules, cohort_size(state)
    lost = state.with_status(Status.REFUSED, Status.FAILED, Status.EXPIRED)
    if rules.clients is None or size - len(lost) >= rules.quorum:
        return state, ()
    parts = []
    if lost:
        causes = _some([f"{a.label}: {a.cause or ErrorCode.NOT_ANSWERED}" for a in lost])
        parts.append(f"{len(lost)} of {size} workers failed, {rules.quorum} reports are needed: {causes}")
    if size < rules.cohort_size:
        gone = departed(state)
        reasons = _some([f"{departure.label}: {departure.reason}" for _, departure in sorted(gone.items())])
        needed = "" if lost else f", {rules.quorum} reports are needed"
        had = "had left before" if lost else "have left"
        parts.append(f"{len(gone)} of {rules.clients} clients {had} ({reasons}){needed}")
    return finish(state, "failed", f"round {state.sequence}: {'; '.join(parts)}")


def _some(texts: list[str]) -> str:
    return "; ".join(texts[:5]) + (f" and {len(texts) - 5} more" if len(texts) > 5 else "")
