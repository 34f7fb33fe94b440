"""Averaging by a function of a notebook: the reports stay on the node, as tensors of the notebook's session.

The function gets references, so it computes on the node, and what it gives, a reference too, becomes the update. The
reports are private: the notebook can calculate with them, and read neither them nor what is made of them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from gridkit.errors import ErrorCode, GridkitError, LimitError, NodeError, PlanError, WireError
from gridkit.federated import cycle
from gridkit.federated import notebook as rule
from gridkit.federated.aggregate import flat
from gridkit.node.averaging import AveragingFailed
from gridkit.node.notebooks import Offer
from gridkit.node.rpc.calls import Answer
from gridkit.node.rpc.works import Work
from gridkit.node.settings import Limits
from gridkit.wire.rpc.messages import Failure
from gridkit.wire.rpc.values import Body, Variable, decode, encode
from gridkit.wire.tensors import Array, TensorSource

if TYPE_CHECKING:
    from gridkit.node.processes import Process
    from gridkit.node.rounds import Rounds
    from gridkit.node.rpc.tensors import Answer as TensorAnswer

LOOK_SECONDS = 0.25
"""from one look at whether the function is still wanted, and still there, to the next"""
ALONE_SECONDS = 2.0
"""without a link, after which a notebook counts as gone; it is waited for in any case"""
CHUNK = 1 << 20
"""values of a report that go into the tensors' process at a time"""
BUSY_SECONDS = 1.0
"""after which a notebook, or a node, that had too much to do is asked again"""


class Gone(Exception):
    """The function can't be called now: the notebook is gone, or another one has taken its place."""


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
    """The notebook whose function averages one closed cycle. That it is waited for stands in the training's rows.

    Args:
        order: what is to be averaged.
    """

    def __init__(self, rounds: Rounds, process: Process, order: cycle.Aggregate) -> None:
        self._rounds, self._process, self._order = rounds, process, order
        self._waits = False

    @property
    def name(self) -> str:
        """The function's."""
        return str(self._process.state.rules.function)

    async def lent(self) -> Lent:
        """The function, once somebody offers it who is there.

        Raises:
            Gone: the training has ended.
        """
        while await self._rounds.is_due(self._process, self._order):
            news = self._rounds.news
            offer = self._rounds.notebooks.newest(self._process.id)
            if offer is not None and offer.session.link is not None:
                await self.tell(waits=False)
                return Lent(self, offer)
            await self.tell(waits=True)
            await self._rounds.changed(news, LOOK_SECONDS)
        raise Gone

    async def wants(self, offer: Offer) -> bool:
        """Whether this offer is still the one that counts, and the cycle still to be averaged."""
        newest = self._rounds.notebooks.newest(self._process.id)
        return newest is offer and await self._rounds.is_due(self._process, self._order)

    def withdraw(self, offer: Offer) -> None:
        """It can't be called."""
        self._rounds.notebooks.withdraw(self._process.id, offer)

    async def tell(self, *, waits: bool) -> None:
        """Say so, if that is new."""
        if waits is not self._waits:
            self._waits = waits
            row = {"cycle": self._order.sequence, "function": self.name}
            await self._rounds.tell(self._process, {"kind": "waiting" if waits else "calling", **row})


class Lent:
    """A notebook's function, for one try."""

    def __init__(self, notebook: Notebook, offer: Offer) -> None:
        self._notebook, self._offer = notebook, offer

    @contextmanager
    def final(self) -> Iterator[None]:
        """Within the block what makes no model is `AveragingFailed`."""
        try:
            yield
        except PlanError as error:
            raise AveragingFailed(rule.failed(self._notebook.name, f"failed: {error.message}")) from error

    async def result(self, reports: Sequence[tuple[float, TensorSource]], size: int) -> Array:
        """What the function makes of the reports: float32 [P], to be taken off the model.

        Args:
            reports: (weight, diff) in slot order.
            size: P.

        Raises:
            AveragingFailed: it raised, or gave something else.
            Gone: it can't be called now, or isn't to be any more.
        """
        offer = self._offer
        call = asyncio.create_task(_Attempt(self._notebook.name, offer).result(reports, size))
        alone = 0.0
        try:
            while not (await asyncio.wait({call}, timeout=LOOK_SECONDS))[0]:
                if not await self._notebook.wants(offer):
                    raise Gone
                alone = 0.0 if offer.session.link is not None else alone + LOOK_SECONDS
                if alone == 0.0 or alone >= ALONE_SECONDS:
                    await self._notebook.tell(waits=alone > 0)
            return await call
        except _Closed:
            self._notebook.withdraw(offer)
            raise Gone from None
        finally:
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)


class _Closed(Exception):
    """The notebook doesn't have the function any more."""


class _Attempt:
    """One call of a function, with the reports of a round as tensors of its session."""

    def __init__(self, name: str, offer: Offer) -> None:
        self._name, self._offer, self._session = name, offer, offer.session
        number = secrets.token_hex(8)  # no notebook calls its own so
        self._diffs, self._weights = f"reports {number}", f"weights {number}"
        self._size = 0
        self._taken: asyncio.Future[TensorAnswer] | None = None

    async def result(self, reports: Sequence[tuple[float, TensorSource]], size: int) -> Array:
        self._size = size
        try:
            await self._place(reports)
            answer = await self._ask()
        except BaseException:
            await self._forget()
            raise
        return await self._read(answer)

    # ---- what it is given

    async def _place(self, reports: Sequence[tuple[float, TensorSource]]) -> None:
        weights = np.array([weight for weight, _ in reports], np.float32)
        await self._do("reserve", {"variable_id": self._diffs, "shape": [len(reports), self._size]})
        at = 0
        for _, diff in reports:
            chunks = flat(diff, CHUNK)
            while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
                await self._do("fill", {"variable_id": self._diffs, "start": at}, chunk)
                at += chunk.size
        await self._do("create_variable", {"variable_id": self._weights}, weights)

    async def _do(self, method: str, params: dict[str, Any], data: Array | None = None) -> None:
        bodies: list[Body] = []
        if data is not None:
            params = {**params, "data": encode(data, bodies)}
        try:
            tensors = self._session.tensors
            await tensors.outcome(tensors.ask(method, params, bodies, Work(None)))
        except GridkitError as error:
            raise await self._reason(error, f"can't be given its reports: {error.message}") from None

    async def _reason(self, error: GridkitError, otherwise: str) -> Exception:
        """What to make of an error that isn't the function's own."""
        if self._session.closed is not None:
            return Gone()
        if isinstance(error, LimitError) or error.code in (ErrorCode.BUSY, ErrorCode.TOO_MANY):
            await asyncio.sleep(BUSY_SECONDS)
            return Gone()
        return AveragingFailed(rule.failed(self._name, otherwise))

    async def _forget(self) -> None:
        """It won't get them, or has failed on them."""
        if self._session.closed is None:
            tensors, ids = self._session.tensors, [self._diffs, self._weights]
            tensors.ask("delete_variables", {"variable_ids": ids}, (), Work(None))

    # ---- the call

    async def _ask(self) -> Answer:
        given = [encode(Variable(name), []) for name in (self._diffs, self._weights)]
        params: dict[str, Any] = {"callable_id": self._offer.function, "args": given, "kwargs": {}}
        try:
            answer = await self._session.ask("run_callable", params, at_once=self._take)
        except NodeError as error:
            if error.code is ErrorCode.TIMED_OUT:  # it showed no sign of life
                raise Gone from None
            raise await self._reason(error, f"can't be called: {error.message}") from None
        except GridkitError as error:
            raise await self._reason(error, f"can't be called: {error.message}") from None
        if isinstance(answer.message, Failure):
            raise await self._failure(answer.message)
        return answer

    async def _failure(self, failure: Failure) -> Exception:
        code, kind = failure.data.get("code"), failure.data.get("type")
        text = str(failure.data.get("exception") or failure.message)
        if code == ErrorCode.NOT_FOUND and self._offer.function in text:
            return _Closed()
        if code in (ErrorCode.BUSY, ErrorCode.TOO_MANY) and kind == "LimitError":
            await asyncio.sleep(BUSY_SECONDS)
            return Gone()
        return AveragingFailed(rule.failed(self._name, f"raised {kind or 'an error'}: {text}"))

    def _take(self, answer: Answer) -> None:
        """Ask for what a reference stands for, before the notebook may have the node forget it."""
        given = None if isinstance(answer.message, Failure) else _data(answer)
        if isinstance(given, Variable):
            params: dict[str, Any] = {"variable_id": given.id, "size": self._size}
            try:
                self._taken = self._session.tensors.ask("take", params, (), Work(None))
            except GridkitError as error:
                self._taken = asyncio.get_running_loop().create_future()
                self._taken.set_exception(error)

    async def _read(self, answer: Answer) -> Array:
        given = _data(answer)
        kind = f"{given.dtype.name}{list(given.shape)}" if isinstance(given, np.ndarray) else f"a {_kind(given)}"
        if self._taken is not None:
            try:
                taken = await self._session.tensors.outcome(self._taken)
            except GridkitError as error:
                raise await self._reason(error, f"gave a tensor that can't be read: {error.message}") from None
            given = decode(taken.result["data"], list(taken.bodies))
            kind = f"{taken.result['dtype']}{taken.result['shape']}"
        if not isinstance(given, np.ndarray) or (given.dtype.name, given.shape) != ("float32", (self._size,)):
            raise AveragingFailed(rule.failed(self._name, rule.mismatch(kind, self._size)))
        if not np.isfinite(given).all():
            raise AveragingFailed(rule.failed(self._name, rule.NOT_FINITE))
        return given


def _data(answer: Answer) -> Any:
    result = answer.message.result if not isinstance(answer.message, Failure) else None
    try:
        return decode(result.get("data"), answer.bodies) if isinstance(result, dict) else result
    except WireError:
        return result  # it isn't what it should be, in any case


def _kind(value: object) -> str:
    return type(value).__name__
