"""Who takes part in a cycle: the cohort of a fixed roster, and of whoever comes those whom the rules choose.

The rules are told in `gridkit.federated.rules`. Pure, as the engine is; chance is Philox with the training's seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gridkit.errors import ErrorCode
from gridkit.federated.events import Decision, Draw, Reject, WorkerAsked
from gridkit.federated.state import HELD, Candidate, CycleState, Departure, Phase, Status

RETRY = 1.0
"""seconds after which a worker that got no work may ask again"""
SLOW_RETRY = 60.0
"""the same for one with a slow line"""
LONGEST_RETRY = HELD / 2
"""the most that who waits for a time is told, so that a candidate counts as there when its draw comes"""


def cohort(state: CycleState) -> tuple[int, ...]:
    """The slots of a fixed roster that take part in the current round: Philox(seed, round), without replacement, of
    those that hadn't left before it. It stays the same for as long as the round lasts."""
    rules, gone, size = state.rules, departed(state), cohort_size(state)
    everybody = range(rules.clients or 0)
    here = [slot for slot in everybody if slot not in gone] if gone else everybody
    if size >= len(here):
        return tuple(here)
    return _chosen(rules.seed, state.sequence, 0, here, size)


def cohort_size(state: CycleState) -> int:
    """As many as the rules say while so many are left, so that who leaves costs nothing where others can stand in."""
    return min(state.rules.cohort_size, (state.rules.clients or 0) - len(departed(state)))


def departed(state: CycleState) -> dict[int, Departure]:
    """By slot, who left before the current round."""
    return {slot: departure for slot, departure in state.left.items() if departure.cycle < state.sequence}


def _chosen(seed: int, sequence: int, draw: int, slots: Sequence[int], places: int) -> tuple[int, ...]:
    philox = np.random.Philox(key=np.array([seed, sequence], np.uint64), counter=np.array([0, 0, 0, draw], np.uint64))
    chosen = np.random.Generator(philox).choice(np.array(sorted(slots)), min(places, len(slots)), replace=False)
    return tuple(sorted(chosen.tolist()))


def unfit(state: CycleState, event: WorkerAsked) -> Reject | None:
    """Why this worker can have no work of this cycle, whoever else is there."""
    rules = state.rules
    lines = (
        ("download", event.download, rules.minimum_download_speed),
        ("upload", event.upload, rules.minimum_upload_speed),
    )
    for name, claimed, least in lines:
        if claimed and claimed < least:
            reason = f"your {name} is {claimed:g} Mbit/s, this training asks for {least:g} or more"
            return Reject(event.worker, ErrorCode.TOO_SLOW, reason, SLOW_RETRY)
    if (served := _last_served(state, event.worker)) is not None:
        again = served + rules.do_not_reuse_workers_until_cycle
        reason = f"you have reported in cycle {served}, and may again from cycle {again} on"
        if rules.num_cycles and again > rules.num_cycles:
            reason = f"{reason}; this training ends with cycle {rules.num_cycles}"
            return Reject(event.worker, ErrorCode.COOLING_DOWN, reason, None)
        left = RETRY if state.deadline is None else state.deadline - event.at
        return Reject(event.worker, ErrorCode.COOLING_DOWN, reason, max(RETRY, min(left, LONGEST_RETRY)))
    if rules.clients is not None and event.slot not in cohort(state):
        reason = f"round {state.sequence} goes on without this client"
        return Reject(event.worker, ErrorCode.NOT_IN_COHORT, reason, RETRY)
    return None


def _last_served(state: CycleState, worker: str) -> int | None:
    """The cycle in which this worker's report counted, if it has to rest because of it."""
    known = state.assignments.get(worker)
    if state.rules.do_not_reuse_workers_until_cycle > 1 and known is not None and known.status is Status.ACCEPTED:
        return state.sequence
    return state.served.get(worker)


def note(state: CycleState, event: WorkerAsked) -> CycleState:
    """The worker that asked is there, where the rules count those who are."""
    if state.rules.min_workers <= 1:
        return state
    present = {worker: asked for worker, asked in state.present.items() if event.at < asked + HELD}
    return replace(state, present={**present, event.worker: event.at})


def admit(state: CycleState, event: WorkerAsked) -> tuple[CycleState, Reject | None]:
    """A worker that is fit asks: it is noted as there, and is let in or told why it has to wait."""
    state, rules = note(state, event), state.rules
    if rules.min_workers > 1 and not (state.assignments or state.queue) and len(state.present) < rules.min_workers:
        reason = f"{len(state.present)} of {rules.min_workers} workers are here"
        return state, Reject(event.worker, ErrorCode.TOO_FEW_WORKERS, reason, RETRY)
    if rules.pool_selection == "random":
        return _admit_drawn(state, event)
    if rules.max_workers is not None and len(state.with_status(Status.ASSIGNED)) >= rules.max_workers:
        many = "1 worker is" if rules.max_workers == 1 else f"{rules.max_workers} workers are"
        reason = f"{many} at work already"
        return state, Reject(event.worker, ErrorCode.CYCLE_FULL, reason, RETRY)
    return state, None


def _admit_drawn(state: CycleState, event: WorkerAsked) -> tuple[CycleState, Reject | None]:
    known = state.queue.get(event.worker)
    if known is not None and known.drawn_at is not None:
        return replace(state, queue={worker: c for worker, c in state.queue.items() if worker != event.worker}), None
    queue = {**state.queue, event.worker: Candidate(event.slot, event.at)}
    state, _ = arrange(replace(state, queue=queue), event.at)
    if state.draw_at is None:
        return state, Reject(event.worker, ErrorCode.IN_DRAW, "no place is free; you are in the next draw", RETRY)
    left = state.draw_at - event.at
    reason = f"who gets work is drawn by lot in {left:.1f} s"
    return state, Reject(event.worker, ErrorCode.IN_DRAW, reason, min(left, LONGEST_RETRY))


def arrange(state: CycleState, at: float) -> tuple[CycleState, tuple[Decision, ...]]:
    """What time has brought to the candidates of a random pool: forgotten ones, a draw, when the next one is."""
    if state.phase is not Phase.OPEN or not state.queue:
        if state.queue or state.draw_at is not None:
            state = replace(state, queue={}, draw_at=None)
        return state, ()
    queue = {worker: candidate for worker, candidate in state.queue.items() if at < candidate.until}
    waiting = {worker: candidate for worker, candidate in queue.items() if candidate.drawn_at is None}
    free = _free_places(state, len(queue) - len(waiting), len(waiting))
    draws, draw_at = state.draws, state.draw_at
    decisions: tuple[Decision, ...] = ()
    if free and draw_at is not None and at >= draw_at:
        draws, draw_at = draws + 1, None
        slots = [candidate.slot for candidate in waiting.values()]
        chosen = _chosen(state.rules.seed, state.sequence, draws, slots, free)
        decisions = (Draw(state.sequence, draws, chosen, len(waiting)),)
        queue |= {worker: replace(c, drawn_at=at) for worker, c in waiting.items() if c.slot in chosen}
        free = 0  # or there are no others
    if not free:
        draw_at = None
    elif draw_at is None:
        draw_at = at + state.rules.selection_window
    return replace(state, queue=queue, draws=draws, draw_at=draw_at), decisions


def _free_places(state: CycleState, kept: int, waiting: int) -> int:
    """Places that those who wait may be drawn for; no more than there are of them."""
    rules, taken = state.rules, kept + len(state.with_status(Status.ASSIGNED))
    if rules.max_workers is not None:
        free = rules.max_workers - taken
    elif rules.max_diffs is not None:
        free = rules.max_diffs - taken - len(state.with_status(Status.ACCEPTED))
    else:
        free = waiting
    return max(0, min(free, waiting))
