"""Comparisons that hold on a machine that others use too."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator


class Turns:
    """How long the sides of a comparison took, over rounds in which they take turns.

    A bound is judged after `least` rounds. Where it doesn't hold then, up to `most` rounds are run until it does: a
    side that was disturbed gets more of them, its rival too, and what is too slow stays so in all of them.

    >>> turns = Turns(least=6, most=24)
    >>> for number in turns.rounds(lambda: turns.ratio("theirs", "ours") >= 0.5):
    ...     for side in turns.order(number, "ours", "theirs"):
    ...         turns.took(side, measure(side))                                     # doctest: +SKIP
    """

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most
        self._seconds: dict[str, list[float]] = {}

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
        self._seconds.setdefault(side, []).append(seconds)

    def best(self, side: str) -> float:
        """The least seconds of this side: whatever else a machine does only slows it."""
        return min(self._seconds[side])

    def ratio(self, side: str, other: str) -> float:
        """How many times as long as `other` this side takes.

        Either is a fair figure, and spoiled by what spares the other one. The bests tell it where both sides had a
        quiet moment. Where one had it and the other hadn't, the median over the rounds does, whose neighbours in time
        are slowed alike.
        """
        of_rounds = [a / b for a, b in zip(self._seconds[side], self._seconds[other], strict=True)]
        return max(self.best(side) / self.best(other), statistics.median(of_rounds))
