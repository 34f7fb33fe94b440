"""When the rounds of a comparison end, and what they tell."""

from __future__ import annotations

from collections.abc import Iterable

from tests.benchmarks.turns import Turns


def ran(least: int, most: int, times: Iterable[tuple[float, float]], bound: float) -> tuple[Turns, int]:
    """Rounds in which the sides took so long, and how many there were."""
    turns, given, count = Turns(least, most), iter(times), 0
    for number in turns.rounds(lambda: turns.ratio("theirs", "ours") >= bound):
        for side, seconds in zip(("ours", "theirs"), next(given), strict=True):
            turns.took(side, seconds)
        count = number + 1
    return turns, count


def test_a_bound_that_holds_is_judged_after_the_least_rounds() -> None:
    assert ran(3, 9, [(9.0, 1.0), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0)], 0.8)[1] == 3


def test_who_was_disturbed_gets_more_rounds() -> None:
    assert ran(3, 9, [(9.0, 1.0)] * 5 + [(1.0, 1.0)] + [(9.0, 1.0)] * 3, 0.8)[1] == 6


def test_who_is_too_slow_stays_so() -> None:
    turns, count = ran(3, 9, [(2.0, 1.5), (8.0, 5.0), (2.1, 1.5)] * 3, 0.8)
    assert count == 9 and turns.ratio("theirs", "ours") == 0.75 and turns.best("ours") == 2.0


def test_a_quiet_moment_of_one_side_is_not_held_against_the_other() -> None:
    turns, count = ran(5, 9, [(4.0, 4.0), (4.0, 1.0), (5.0, 4.5), (6.0, 6.0), (4.2, 4.0)], 0.8)
    assert count == 5 and turns.ratio("theirs", "ours") > 0.9


def test_in_every_second_round_the_other_side_is_first() -> None:
    turns = Turns(1, 1)
    assert [turns.order(number, "a", "b") for number in (0, 1, 2)] == [("a", "b"), ("b", "a"), ("a", "b")]
