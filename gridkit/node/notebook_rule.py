"""The part of notebooks' functions in a round: they average its reports, and score the model that is made of them.

A notebook that isn't there is waited for, and asked when it is there (again); that stands in the training's rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from gridkit.errors import ErrorCode, LimitError, PlanError
from gridkit.federated import cycle
from gridkit.federated import notebook as words
from gridkit.node.averaging import AveragingFailed
from gridkit.node.notebook_call import Closed, FunctionCall, FunctionFailed, Gone, Score, TensorsLost
from gridkit.node.notebooks import Offer
from gridkit.node.settings import Limits
from gridkit.wire.tensors import Array, TensorSource

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from gridkit.node.processes import Process
    from gridkit.node.rounds import Rounds

T = TypeVar("T")

LOOK_SECONDS = 0.25
"""from one look at whether the function is still wanted, and still there, to the next"""
ALONE_SECONDS = 2.0
"""without a link, after which a notebook counts as gone; it is waited for in any case"""

MAX_LOSSES = 2
"""of the process with its tensors, after which a third is the function's own doing"""


def check_size(size: int, rules: cycle.CycleRules, limits: Limits) -> None:
    """Raise LimitError where the reports of a round are more than a notebook's function can be given.

    Args:
        size: P, the number of values of a report.
    """
    needed, room = 4 * size * (rules.most or rules.fewest), limits.run_memory // 4
    if needed > room or 4 * size > limits.run_results:
        raise LimitError(
            f"the reports of a round have {needed:,} bytes together; a notebook's function can be given {room:,}, and "
            f"give back {limits.run_results:,}",
            "strategy=gk.averaging_plan(rule, model, iterative=True) takes one report after the other; or start the "
            "node with larger --limit run_memory=… and run_results=…",
            code=ErrorCode.TOO_LARGE,
        )


class Notebook:
    """The notebook whose function has a part in one closed cycle.

    Args:
        order: what is to be averaged.
        role: "strategy" or "evaluate".
    """

    def __init__(self, rounds: Rounds, process: Process, order: cycle.Aggregate, role: str) -> None:
        self._rounds, self._process, self._order = rounds, process, order
        self._part = process.id, role
        self.role, self.name = role, str(process.state.rules.function(role))
        self._waits = False
        self._losses = 0

    async def average(self, reports: Sequence[tuple[float, TensorSource]], size: int) -> Array:
        """What the function makes of the reports: float32 [P], to be taken off the model.

        Args:
            reports: (weight, diff) in slot order.
            size: P.

        Raises:
            AveragingFailed: it raised, or gave something else.
            Gone: it can't be called now, or isn't to be any more.
        """
        offer = await self.offer()
        try:
            return await self._asked(offer, FunctionCall(self.role, self.name, offer).average(reports, size))
        except FunctionFailed as error:
            self._go_on(error)
            raise AveragingFailed(str(error)) from error

    async def score(self, model: TensorSource) -> Score:
        """What the function says of the new model.

        Raises:
            FunctionFailed: it raised, or gave something else than metrics.
            Gone: the training has ended meanwhile.
        """
        while True:
            offer = await self.offer()
            with suppress(Gone):  # unless it is `offer` that says so
                try:
                    return await self._asked(offer, FunctionCall(self.role, self.name, offer).score(model))
                except FunctionFailed as error:
                    self._go_on(error)
                    raise

    def _go_on(self, error: FunctionFailed) -> None:
        """Have it asked again if that isn't its fault, as far as anybody can tell.

        Raises:
            Gone: it shall be.
        """
        if isinstance(error, TensorsLost) and self._losses < MAX_LOSSES:
            self._losses += 1
            raise Gone from None

    @contextmanager
    def final(self) -> Iterator[None]:
        """Within the block what makes no model is `AveragingFailed`."""
        try:
            yield
        except PlanError as error:
            raise AveragingFailed(words.failed(self.role, self.name, f"failed: {error.message}")) from error

    async def offer(self) -> Offer:
        """The offer that counts, once there is one of somebody who is there.

        Raises:
            Gone: the training has ended.
        """
        while await self._rounds.is_due(self._process, self._order):
            news = self._rounds.news
            offer = self._rounds.notebooks.newest(self._part)
            if offer is not None and offer.session.link is not None:
                await self._tell(waits=False)
                return offer
            await self._tell(waits=True)
            await self._rounds.changed(news, LOOK_SECONDS)
        raise Gone

    async def _asked(self, offer: Offer, asking: Coroutine[Any, Any, T]) -> T:
        """What comes of a call, as long as it is wanted.

        Raises:
            Gone: it can't be called now, or isn't to be any more.
        """
        call = asyncio.create_task(asking)
        alone = 0.0
        try:
            while not (await asyncio.wait({call}, timeout=LOOK_SECONDS))[0]:
                newest = self._rounds.notebooks.newest(self._part)
                if newest is not offer or not await self._rounds.is_due(self._process, self._order):
                    raise Gone
                alone = 0.0 if offer.session.link is not None else alone + LOOK_SECONDS
                if alone == 0.0 or alone >= ALONE_SECONDS:
                    await self._tell(waits=alone > 0)
            return await call
        except Closed:
            self._rounds.notebooks.withdraw(self._part, offer)
            raise Gone from None
        finally:
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

    async def _tell(self, *, waits: bool) -> None:
        """Say so, if that is new."""
        if waits is not self._waits:
            self._waits = waits
            row = {"cycle": self._order.sequence, "function": self.name}
            await self._rounds.tell(self._process, {"kind": "waiting" if waits else "calling", **row})
