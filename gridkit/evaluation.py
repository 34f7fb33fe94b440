"""The thread that calls a person's `evaluate` with each round's model."""

from __future__ import annotations

import contextvars
import queue
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gridkit import cells, results, threads
from gridkit.errors import ErrorCode, EvaluationFailed, GridkitError

if TYPE_CHECKING:
    from torch import nn

Evaluate = Callable[[Any], Mapping[str, float] | None]


class Evaluator:
    """Calls `evaluate` round by round, on a thread of its own, in a copy of the context in which it is made.

    Args:
        title: of the run, such as "'digits' 1.0".
        evaluate: the person's function.
        model: gives the model of a checkpoint; may block.
        took: called with a round's number, its metrics, and whether it shall be the last.
        ended: called once: with None when all rounds are evaluated, or with the error that ended it.
    """

    def __init__(
        self,
        title: str,
        evaluate: Evaluate,
        model: Callable[[int], nn.Module],
        took: Callable[[int, dict[str, float], bool], None],
        ended: Callable[[GridkitError | None], None],
    ) -> None:
        self._title = title
        self._evaluate = evaluate
        self._model = model
        self._took = took
        self._ended = ended
        self._todo: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self._given_up = False
        context = contextvars.copy_context()
        threads.start(lambda: context.run(self._work), name="gridkit-evaluate", end=self._give_up)

    def add(self, round: int, checkpoint: int) -> None:
        """Another round is over, and this is its model."""
        self._todo.put((round, checkpoint))

    def finish(self) -> None:
        """There won't be another one."""
        self._todo.put(None)

    def _give_up(self) -> None:
        self._given_up = True
        self.finish()

    def _work(self) -> None:
        while (job := self._todo.get()) is not None and not self._given_up:
            round, checkpoint = job
            try:
                model = self._model(checkpoint)
            except GridkitError as error:
                if error.code is ErrorCode.NOT_FOUND:
                    continue  # training ran ahead of evaluation and the node let this model go: the row stays empty
                self._ended(error)
                return
            try:
                said = self._evaluate(model)
                values = results.metric_values(said)
            except Exception as error:  # noqa: BLE001  it is the user's; wait() raises it
                self._ended(self._failed(round, error))
                return
            try:
                self._took(round, values, results.stops(said))
            except GridkitError as error:
                self._ended(error)
                return
        self._ended(None)

    def _failed(self, round: int, error: Exception) -> EvaluationFailed:
        line = cells.line_of(error)
        failed = EvaluationFailed(
            f"evaluate raised {type(error).__name__} after round {round} of {self._title}: {error}"
            f"{'' if line is None else f' ({line})'}",
            "evaluate(run.model) raises it again; gk.options.full_tracebacks = True shows where",
        )
        failed.__cause__ = error
        return failed
