"""Comparisons that hold on a machine that others use too."""

from __future__ import annotations

from collections.abc import Callable, Iterator


class Turns:
    """The least time of each side of a comparison, over rounds in which the sides take turns.

    Whatever else a machine does only slows them, so the best round of a side says most about it. A bound is judged
    after `least` rounds. Where it doesn't hold then, up to `most` rounds are run until it does: a side that was
    disturbed in all of its rounds gets more of them, its rival too, and what is too slow stays so in its best round.

    >>> turns = Turns(least=6, most=24)
    >>> for number in turns.rounds(lambda: turns["ours"] <= 2 * turns["theirs"]):
    ...     for side in turns.order(number, "ours", "theirs"):
    ...         turns.took(side, measure(side))                                     # doctest: +SKIP
    """

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most
        self._best: dict[str, float] = {}

    def rounds(self, holds: Callable[[], bool]) -> Iterator[int]:
        """The numbers of the rounds: `least` of them, and more while the bound doesn't hold."""
        for number in range(self._most):
            if number >= self._least and holds():
                return
            yield number

    def order(self, number: int, *sides: str) -> tuple[str, ...]:
        """Who comes when in this round: the other way round in every second one."""
        return sides[::-1] if number % 2 else sides

    def took(self, side: str, seconds: float) -> None:
        self._best[side] = min(seconds, self._best.get(side, seconds))

    def __getitem__(self, side: str) -> float:
        """The least seconds that this side took so far."""
        return self._best[side]
