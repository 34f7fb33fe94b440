"""The test of a new model, between its aggregation and the next cycle, by those who have data to test it on.

Push systems have such rounds (MODEL_TEST_ROUND in DLR's fl-demonstrator). A first answer is final; the same again is a
`Duplicate`, also after the test, until the next one begins. Who doesn't answer until the deadline is missed, and keeps
nobody waiting. Pure, as the engine is.
"""

from __future__ import annotations

from dataclasses import replace

from gridkit.errors import ErrorCode
from gridkit.federated.events import Aggregated, Count, Decision, Duplicate, Miss, Refuse, Test, TestCame
from gridkit.federated.state import Answer, CycleState, Phase, Tested


def begin(state: CycleState, event: Aggregated) -> tuple[CycleState, tuple[Test, ...]]:
    """The test of the model that was just made; nothing where nobody is there to test it."""
    testers = [tester for tester in event.testers if tester.slot not in state.left]
    if not testers:
        return state, ()
    length = state.rules.cycle_length
    deadline = None if length is None else event.at + length
    tests = {tester.worker: Tested(tester.label, tester.slot, event.at) for tester in testers}
    state = replace(state, phase=Phase.TESTING, deadline=deadline, tests=tests)
    return state, (Test(state.sequence, deadline, tuple(tests)),)


def hear(state: CycleState, event: TestCame) -> tuple[CycleState, Decision]:
    """What a tester said, taken or refused."""
    known = state.tests.get(event.worker)
    if known is not None and known.digest == event.digest:
        return state, Duplicate(event.worker)
    if state.phase is not Phase.TESTING or known is None:
        message = "no model waits for this worker's test" if known is None else "the test is over; this came too late"
        return state, Refuse(event.worker, ErrorCode.CYCLE_CLOSED, message)
    if known.status is not Answer.PENDING:
        message = f"{known.label} has tested this model; the first answer counts"
        return state, Refuse(event.worker, ErrorCode.ALREADY_REPORTED, message)
    tested = replace(known, status=Answer.DONE, digest=event.digest)
    return replace(state, tests={**state.tests, event.worker: tested}), Count(event.worker)


def is_due(state: CycleState, at: float) -> bool:
    """Whether everybody has answered, or the time is up."""
    return not _pending(state) or (state.deadline is not None and at >= state.deadline)


def close(state: CycleState) -> tuple[CycleState, tuple[Miss, ...]]:
    """Wait for nobody any more."""
    missing = {worker: replace(tested, status=Answer.MISSING) for worker, tested in _pending(state).items()}
    if not missing:
        return state, ()
    return replace(state, tests={**state.tests, **missing}), (Miss(state.sequence, tuple(missing)),)


def without(state: CycleState, slot: int) -> CycleState:
    """Don't wait for this slot; what it has answered stays."""
    tests = {
        w: tested for w, tested in state.tests.items() if tested.slot != slot or tested.status is not Answer.PENDING
    }
    return state if len(tests) == len(state.tests) else replace(state, tests=tests)


def _pending(state: CycleState) -> dict[str, Tested]:
    return {worker: tested for worker, tested in state.tests.items() if tested.status is Answer.PENDING}
