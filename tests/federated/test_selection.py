"""Who gets work, rule by rule. tests/federated/test_cycle_machine.py holds the rules against random histories."""

from __future__ import annotations

import collections
import json
from typing import Any

import pytest

from gridkit.errors import ErrorCode
from gridkit.federated import cycle
from gridkit.federated.cycle import Accept, CycleState, Draw, Phase, Reject
from gridkit.federated.rules import CycleRules
from gridkit.federated.selection import cohort
from tests.federated.machine import BAD, FAILED, Training, came


def refusal(answer: Accept | Reject, code: ErrorCode) -> Reject:
    assert isinstance(answer, Reject) and answer.code is code, answer
    return answer


# ---- min_workers


def test_work_waits_for_enough_workers() -> None:
    training = Training(min_workers=3, min_diffs=3, max_diffs=3)
    first = refusal(training.ask(0, at=1.0), ErrorCode.TOO_FEW_WORKERS)
    assert first.reason == "1 of 3 workers are here" and first.retry_after
    assert refusal(training.ask(0, at=2.0), ErrorCode.TOO_FEW_WORKERS).reason == "1 of 3 workers are here"
    assert refusal(training.ask(1, at=3.0), ErrorCode.TOO_FEW_WORKERS).reason == "2 of 3 workers are here"
    assert isinstance(training.ask(2, at=4.0), Accept)
    assert isinstance(training.ask(0, at=5.0), Accept) and isinstance(training.ask(1, at=6.0), Accept)


def test_who_asked_a_minute_ago_is_gone() -> None:
    training = Training(min_workers=2)
    training.ask(0, at=1.0)
    assert refusal(training.ask(1, at=61.0), ErrorCode.TOO_FEW_WORKERS).reason == "1 of 2 workers are here"
    assert isinstance(training.ask(0, at=120.0), Accept)


def test_once_enough_were_there_a_cycle_takes_whoever_comes() -> None:
    training = Training(min_workers=2, min_diffs=2, max_diffs=2)
    training.ask(0, at=1.0)
    training.step(came(2.0, 1, training.ask(1, at=2.0).request_key))  # type: ignore[union-attr]
    assert isinstance(training.ask(2, at=500.0), Accept)


def test_each_cycle_waits_anew() -> None:
    training = Training(min_workers=2, min_diffs=1)
    training.ask(0, at=1.0)
    training.work(1)
    training.aggregated()
    assert isinstance(training.ask(2, at=10.0), Accept), "0 and 1 asked a moment ago"
    training = Training(min_workers=2, min_diffs=1)
    training.ask(0, at=1.0)
    training.work(1)
    training.step(cycle.Aggregated(100.0, 1, 0.1))
    refusal(training.ask(2, at=100.0), ErrorCode.TOO_FEW_WORKERS)


def test_who_asks_again_while_at_work_counts_as_there() -> None:
    training = Training(min_workers=2, min_diffs=1)
    training.ask(0, at=1.0)
    key = training.ask(1, at=2.0).request_key  # type: ignore[union-attr]
    assert training.ask(1, at=50.0).request_key == key  # type: ignore[union-attr]
    training.step(came(51.0, 1, key))
    training.aggregated()
    assert isinstance(training.ask(0, at=70.0), Accept), "1 asked 20 s ago"


def test_who_may_have_no_work_doesnt_count_as_there() -> None:
    training = Training(min_workers=2, minimum_upload_speed=2)
    refusal(training.ask(0, at=1.0, upload=1.0), ErrorCode.TOO_SLOW)
    assert refusal(training.ask(1, at=2.0), ErrorCode.TOO_FEW_WORKERS).reason == "1 of 2 workers are here"


def test_who_rests_doesnt_count_as_there() -> None:
    training = Training(min_workers=2, do_not_reuse_workers_until_cycle=2)
    training.ask(0, at=1.0)
    training.work(1)
    training.aggregated()
    assert isinstance(training.ask(2, at=2.0), Accept), "0 and 2 are there"
    training = Training(min_workers=2, do_not_reuse_workers_until_cycle=2)
    training.ask(0, at=1.0)
    training.work(1)
    training.aggregated()
    training.step(cycle.Tick(61.5))
    refusal(training.ask(1), ErrorCode.COOLING_DOWN)
    assert refusal(training.ask(2), ErrorCode.TOO_FEW_WORKERS).reason == "1 of 2 workers are here"


# ---- minimum speeds


@pytest.mark.parametrize("line", [{}, {"download": None}, {"download": 0.0}, {"download": 0}, {"download": 2.0}])
def test_an_unknown_line_and_a_fast_one_are_let_in(line: dict[str, Any]) -> None:
    assert isinstance(Training(minimum_download_speed=2).ask(0, **line), Accept)


@pytest.mark.parametrize("name", ["download", "upload"])
def test_a_slow_line_is_told_both_numbers(name: str) -> None:
    training = Training(**{f"minimum_{name}_speed": 2})
    slow = refusal(training.ask(0, **{name: 1.25}), ErrorCode.TOO_SLOW)
    assert slow.reason == f"your {name} is 1.25 Mbit/s, this training asks for 2 or more"
    assert slow.retry_after == 60.0
    assert isinstance(training.ask(0, **{name: 2.5}), Accept), "it may come again"
    assert isinstance(training.ask(0, **{name: 1.25}), Accept), "it has its work already"


# ---- do_not_reuse_workers_until_cycle


def test_who_reported_rests() -> None:
    training = Training(do_not_reuse_workers_until_cycle=3, num_cycles=9)
    training.work(0)
    for worker in (1, 2):
        training.aggregated()
        resting = refusal(training.ask(0), ErrorCode.COOLING_DOWN)
        assert resting.reason == "you have reported in cycle 1, and may again from cycle 4 on"
        assert resting.retry_after
        training.work(worker)
    training.aggregated()
    assert training.state.sequence == 4 and isinstance(training.ask(0), Accept)
    refusal(training.ask(1), ErrorCode.COOLING_DOWN)


def test_it_is_told_so_in_the_cycle_in_which_it_reported_too() -> None:
    training = Training(do_not_reuse_workers_until_cycle=2, min_diffs=2, max_diffs=2)
    training.work(0)
    assert "from cycle 3 on" in refusal(training.ask(0), ErrorCode.COOLING_DOWN).reason


@pytest.mark.parametrize("k", [0, 1])
def test_the_next_cycle_is_the_rule(k: int) -> None:
    training = Training(do_not_reuse_workers_until_cycle=k)
    training.work(0)
    training.aggregated()
    assert isinstance(training.ask(0), Accept)


@pytest.mark.parametrize("verdict", [BAD, FAILED])
def test_who_was_refused_neednt_rest(verdict: Any) -> None:
    training = Training(do_not_reuse_workers_until_cycle=5)
    training.work(0, verdict=verdict)
    training.work(1)
    training.aggregated()
    assert isinstance(training.ask(0), Accept)


def test_who_cant_be_taken_again_neednt_come_again() -> None:
    training = Training(do_not_reuse_workers_until_cycle=6, num_cycles=5)
    training.work(0)
    training.aggregated()
    over = refusal(training.ask(0), ErrorCode.COOLING_DOWN)
    assert over.retry_after is None and "ends with cycle 5" in over.reason


def test_the_time_to_come_back_is_the_cycles_end() -> None:
    training = Training(do_not_reuse_workers_until_cycle=2, cycle_length=20, max_diffs=1)
    training.work(0)
    training.step(cycle.Aggregated(1.0, 1, 0.1))
    assert refusal(training.ask(0, at=2.0), ErrorCode.COOLING_DOWN).retry_after == 19.0


# ---- random pools


def test_a_draw_gives_away_the_free_places() -> None:
    training = Training(pool_selection="random", max_workers=2, min_diffs=5, max_diffs=5, seed=3)
    for worker in range(5):
        waiting = refusal(training.ask(worker, at=1.0 + worker / 10), ErrorCode.IN_DRAW)
        assert waiting.retry_after == pytest.approx(2.0 - worker / 10)
    assert training.state.due == 3.0, "2 s after the first"
    (draw,) = training.step(cycle.Tick(3.0))
    assert isinstance(draw, Draw) and (draw.sequence, draw.number, draw.candidates, len(draw.slots)) == (1, 1, 5, 2)
    assert training.rows[-1] == training.rows[-1] | {"kind": "drawn", "slots": list(draw.slots), "candidates": 5}
    for worker in range(5):
        answer = training.ask(worker, at=4.0)
        assert isinstance(answer, Accept) == (worker in draw.slots)
        if isinstance(answer, Reject):
            assert answer.code is ErrorCode.IN_DRAW and "no place is free" in answer.reason


def test_asking_late_is_a_draw_too() -> None:
    """The shell's timer may come after a worker's question."""
    training = Training(pool_selection="random")
    refusal(training.ask(0, at=1.0), ErrorCode.IN_DRAW)
    assert isinstance(training.ask(0, at=3.0), Accept)
    assert isinstance(training.last[0], Draw)


def test_without_limits_all_are_drawn() -> None:
    training = Training(pool_selection="random", min_diffs=4)
    for worker in range(4):
        training.ask(worker, at=0.5)
    training.step(cycle.Tick(2.5))
    assert all(isinstance(training.ask(worker), Accept) for worker in range(4))


def test_max_diffs_are_places_where_max_workers_arent() -> None:
    training = Training(pool_selection="random", max_diffs=3, min_diffs=3)
    for worker in range(6):
        training.ask(worker)
    (draw,) = training.step(cycle.Tick(2.0))
    assert isinstance(draw, Draw) and len(draw.slots) == 3
    out = next(worker for worker in range(6) if worker not in draw.slots)
    one, two, _ = draw.slots
    training.work(one)
    training.ask(out, at=3.0)
    assert training.state.draw_at is None, "a report that counts frees no place"
    training.work(two, verdict=BAD)
    assert training.state.draw_at == 5.0
    (again,) = training.step(cycle.Tick(5.0))
    assert isinstance(again, Draw) and again.number == 2 and len(again.slots) == 1


def test_a_place_that_nobody_takes_goes_to_another() -> None:
    training = Training(pool_selection="random", max_workers=1, min_diffs=2)
    training.ask(0), training.ask(1)
    (draw,) = training.step(cycle.Tick(2.0))
    (gone,) = draw.slots  # type: ignore[union-attr]
    here = 1 - gone
    for at in (20.0, 40.0, 60.0):
        refusal(training.ask(here, at=at), ErrorCode.IN_DRAW)
        assert training.state.due == 62.0, "the end of the place that is kept"
    training.step(cycle.Tick(62.0))
    assert training.state.due == 64.0
    training.step(cycle.Tick(64.0))
    refusal(training.ask(gone), ErrorCode.IN_DRAW)
    assert isinstance(training.ask(here), Accept)


def test_who_no_longer_asks_is_not_drawn() -> None:
    training = Training(pool_selection="random", selection_length=100, max_workers=1)
    answer = refusal(training.ask(0, at=0.0), ErrorCode.IN_DRAW)
    assert answer.retry_after == 30.0, "soon enough to count as there"
    for at in (30.0, 60.0, 90.0):
        training.ask(1, at=at)
    (draw,) = training.step(cycle.Tick(100.0))
    assert isinstance(draw, Draw) and draw.slots == (1,) and draw.candidates == 1
    training.step(cycle.Tick(200.0))
    assert not training.state.queue and training.state.due is None


def test_the_next_cycle_begins_without_candidates() -> None:
    training = Training(pool_selection="random", max_diffs=1)
    training.ask(0), training.ask(1)
    (draw,) = training.step(cycle.Tick(2.0))
    training.work(draw.slots[0])  # type: ignore[union-attr]
    assert training.state.phase is Phase.AGGREGATING and training.state.due is None
    training.aggregated()
    assert not training.state.queue and training.state.draws == 0 and training.state.due is None


def test_a_window_is_at_most_a_tenth_of_the_cycle() -> None:
    training = Training(pool_selection="random", cycle_length=10)
    training.ask(0, at=1.0)
    assert training.state.due == 2.0
    training.step(cycle.Tick(2.0))
    assert training.state.due == 10.0, "the cycle's deadline"


def test_min_workers_come_before_the_draw() -> None:
    training = Training(pool_selection="random", min_workers=2)
    refusal(training.ask(0, at=1.0), ErrorCode.TOO_FEW_WORKERS)
    assert training.state.due is None
    refusal(training.ask(1, at=4.0), ErrorCode.IN_DRAW)
    refusal(training.ask(0, at=5.0), ErrorCode.IN_DRAW)
    training.step(cycle.Tick(6.0))
    assert isinstance(training.ask(0), Accept) and isinstance(training.ask(1), Accept)


def drawn(seed: int, order: list[int], sequence: int = 1) -> tuple[int, ...]:
    training = Training(pool_selection="random", max_workers=3, seed=seed, min_diffs=3, max_diffs=3)
    for _ in range(sequence):
        for worker in order:
            training.ask(worker)
        training.step(cycle.Tick(training.now + 2.0))
        (draw,) = training.last
        assert isinstance(draw, Draw)
        for slot in draw.slots:
            training.work(slot)
        training.aggregated()
    return draw.slots


def test_a_draw_is_of_the_seed_and_the_cycle_not_of_who_was_first() -> None:
    forwards, backwards = list(range(8)), list(range(7, -1, -1))
    assert drawn(1, forwards) == drawn(1, backwards)
    assert len({drawn(seed, forwards) for seed in range(20)}) > 10
    assert len({drawn(1, forwards, sequence) for sequence in range(1, 9)}) > 4


def test_everybody_has_the_same_chance() -> None:
    """800 draws of 3 of 8: each comes 300 times, give or take five standard deviations (14)."""
    counts = collections.Counter(slot for seed in range(100) for n in range(8) for slot in _draw(seed, n))
    assert set(counts) == set(range(8)) and all(abs(count - 300) < 70 for count in counts.values()), counts


def _draw(seed: int, sequence: int) -> tuple[int, ...]:
    rules = CycleRules(pool_selection="random", max_workers=3, seed=seed)
    state, _ = cycle.CycleState.start(rules, 0.0)
    state = cycle.CycleState.from_json({**state.to_json(), "sequence": sequence})
    for worker in range(8):
        state, _ = cycle.decide(state, cycle.WorkerAsked(0.0, f"w{worker}", f"w{worker}", worker, "key"))
    _, (draw,) = cycle.decide(state, cycle.Tick(2.0))
    assert isinstance(draw, Draw)
    return draw.slots


# ---- rosters, and what is stored


def test_cohorts_are_what_they_were() -> None:
    """Of release 0.1: a training that is under way goes on with the same ones."""
    rules = CycleRules(clients=10, fraction=0.3, seed=1)
    assert [cohort(CycleState(rules, sequence=n)) for n in (1, 2, 3)] == [(0, 1, 2), (1, 2, 5), (2, 5, 8)]
    assert cohort(CycleState(CycleRules(clients=4), sequence=7)) == (0, 1, 2, 3)


def test_a_state_of_an_earlier_version_is_read() -> None:
    training = Training(min_diffs=2, max_diffs=2)
    training.work(0)
    old = json.loads(json.dumps(training.state.to_json()))
    for name in ("present", "queue", "draws", "draw_at", "served", "tests", "left"):
        del old[name]
    for name in ("min_workers", "pool_selection", "selection_length", "do_not_reuse_workers_until_cycle"):
        del old["rules"][name]
    assert CycleState.from_json(old) == training.state
