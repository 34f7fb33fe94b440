"""One call of a notebook's function by a training: what it is given, as tensors of the notebook's session, and what it
gives back.

Reports are private tensors: the notebook can calculate with them, and read neither them nor what is made of them. A
model isn't: it is the owner's to retrieve.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gridkit.errors import ErrorCode, GridkitError, LimitError, NodeError, WireError
from gridkit.federated import notebook
from gridkit.federated.aggregate import flat
from gridkit.node.notebooks import Offer
from gridkit.node.rpc.calls import Answer
from gridkit.node.rpc.works import Work
from gridkit.wire.rpc.messages import Failure
from gridkit.wire.rpc.values import Body, Variable, decode, encode
from gridkit.wire.tensors import Array, TensorSource

if TYPE_CHECKING:
    from gridkit.node.rpc.tensors import Answer as TensorAnswer

CHUNK = 1 << 20
"""values of a tensor that go into the session's process at a time"""
BUSY_SECONDS = 1.0
"""after which a notebook, or a node, that had too much to do is asked again"""
MAX_METRICS = 200
MAX_NAME = 200
"""characters of a metric's name"""


class Gone(Exception):
    """The function can't be called now: the notebook is gone, or another one has taken its place."""


class Closed(Exception):
    """The notebook doesn't have the function any more."""


class FunctionFailed(Exception):
    """It raised, or gave what can't be used; the text says so, and names it."""


class TensorsLost(FunctionFailed):
    """What it was given is gone: the session's process ended meanwhile, for whatever reason."""


@dataclass(frozen=True, slots=True)
class Score:
    """What a function says of a model.

    Attributes:
        metrics: None where it is no finite number.
        stop: it wants the training to end.
    """

    metrics: Mapping[str, float | None] = field(default_factory=dict)
    stop: bool = False


class FunctionCall:
    """One call.

    Args:
        role: "strategy" or "evaluate".
        name: the function's.
    """

    def __init__(self, role: str, name: str, offer: Offer) -> None:
        self._role, self._name = role, name
        self._offer, self._session = offer, offer.session
        self._number = secrets.token_hex(8)  # no notebook calls its own so
        self._placed: list[str] = []
        self._size = 0
        self._process: int | None = None  # that has what it was given
        self._taken: asyncio.Future[TensorAnswer] | None = None

    async def average(self, reports: Sequence[tuple[float, TensorSource]], size: int) -> Array:
        """What the function makes of reports: float32 [P].

        Args:
            reports: (weight, diff) in slot order.
            size: P.

        Raises:
            FunctionFailed, Gone, Closed: there is no such thing.
        """
        self._size = size
        weights = np.array([weight for weight, _ in reports], np.float32)
        try:
            chunks = (chunk for _, diff in reports for chunk in flat(diff, CHUNK))
            diffs = await self._place("reports", "float32", (len(reports), size), chunks, private=True)
            given = [Variable(diffs), Variable(await self._put("weights", weights))]
            answer = await self._ask(given)
        except BaseException:
            await self._forget()
            raise
        return await self._update(answer)

    async def score(self, model: TensorSource) -> Score:
        """What the function says of a model, which it gets by name.

        Raises:
            FunctionFailed, Gone, Closed: nothing.
        """
        state: dict[str, Variable] = {}
        try:
            for place, spec in enumerate(model.specs):
                name = f"model {place}"
                if spec.size <= CHUNK:
                    array = await asyncio.to_thread(model.read, place, 0, spec.size)
                    state[spec.name] = Variable(await self._put(name, array.reshape(spec.shape)))
                else:
                    ends = range(0, spec.size, CHUNK)
                    chunks = (model.read(place, at, min(at + CHUNK, spec.size)) for at in ends)
                    state[spec.name] = Variable(await self._place(name, spec.dtype, spec.shape, chunks, private=False))
            answer = await self._ask([state])
        except BaseException:
            await self._forget()
            raise
        return self._scored(_data(answer))

    # ---- what it is given

    async def _put(self, name: str, array: Array) -> str:
        """A tensor with these values, which go in one message; its id."""
        self._placed.append(f"{name} {self._number}")
        await self._do("create_variable", {"variable_id": self._placed[-1]}, array)
        return self._placed[-1]

    async def _place(
        self, name: str, dtype: str, shape: Sequence[int], chunks: Iterator[Array], *, private: bool
    ) -> str:
        """A tensor with these values, which are read as they go; its id."""
        self._placed.append(f"{name} {self._number}")
        id = self._placed[-1]
        await self._do("reserve", {"variable_id": id, "dtype": dtype, "shape": list(shape), "private": private})
        at = 0
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            await self._do("fill", {"variable_id": id, "start": at}, chunk)
            at += chunk.size
        return id

    async def _do(self, method: str, params: dict[str, Any], data: Array | None = None) -> None:
        bodies: list[Body] = []
        if data is not None:
            params = {**params, "data": encode(data, bodies)}
        try:
            tensors = self._session.tensors
            await tensors.outcome(tensors.ask(method, params, bodies, Work(None)))
        except GridkitError as error:
            raise await self._reason(error, f"can't be given its tensors: {error.message}") from None

    async def _reason(self, error: GridkitError, otherwise: str) -> Exception:
        """What to make of an error that isn't the function's own."""
        if self._session.closed is not None:
            return Gone()
        if isinstance(error, LimitError) or error.code in (ErrorCode.BUSY, ErrorCode.TOO_MANY):
            await asyncio.sleep(BUSY_SECONDS)
            return Gone()
        return self._failed(otherwise)

    def _failed(self, what: str) -> FunctionFailed:
        lost = self._process is not None and self._session.tensors.pid != self._process
        return (TensorsLost if lost else FunctionFailed)(notebook.failed(self._role, self._name, what))

    async def _forget(self) -> None:
        """It won't get them, or has failed on them."""
        if self._session.closed is None and self._placed:
            self._session.tensors.ask("delete_variables", {"variable_ids": self._placed}, (), Work(None))

    # ---- the call

    async def _ask(self, given: list[Any]) -> Answer:
        self._process = self._session.tensors.pid
        form = {"callable_id": self._offer.function, "args": encode(given, []), "kwargs": {}}
        try:
            answer = await self._session.ask("run_callable", form, at_once=self._take)
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
            return Closed()
        if code in (ErrorCode.BUSY, ErrorCode.TOO_MANY) and kind == "LimitError":
            await asyncio.sleep(BUSY_SECONDS)
            return Gone()
        return self._failed(f"raised {kind or 'an error'}: {text}")

    # ---- what it gives

    def _take(self, answer: Answer) -> None:
        """Ask for what a reference stands for, before the notebook may have the node forget it."""
        given = None if isinstance(answer.message, Failure) else _data(answer)
        if isinstance(given, Variable) and self._role == "strategy":
            params = {"variable_id": given.id, "size": self._size}
            try:
                self._taken = self._session.tensors.ask("take", params, (), Work(None))
            except GridkitError as error:
                self._taken = asyncio.get_running_loop().create_future()
                self._taken.set_exception(error)

    async def _update(self, answer: Answer) -> Array:
        given = _data(answer)
        kind = f"{given.dtype.name}{list(given.shape)}" if isinstance(given, np.ndarray) else _kind(given)
        if self._taken is not None:
            try:
                taken = await self._session.tensors.outcome(self._taken)
            except GridkitError as error:
                raise await self._reason(error, f"gave a tensor that can't be read: {error.message}") from None
            given = decode(taken.result["data"], list(taken.bodies))
            kind = f"{taken.result['dtype']}{taken.result['shape']}"
        if not isinstance(given, np.ndarray) or (given.dtype.name, given.shape) != ("float32", (self._size,)):
            raise self._failed(notebook.mismatch(kind, self._size))
        if not np.isfinite(given).all():
            raise self._failed(notebook.NOT_FINITE)
        return given

    def _scored(self, given: Any) -> Score:
        if given is None:
            return Score()
        if not isinstance(given, dict) or len(given) > MAX_METRICS:
            raise self._failed(f"gave {_kind(given)}, expected a dict of up to {MAX_METRICS} metrics")
        metrics: dict[str, float | None] = {}
        stop = False
        for name, value in given.items():
            if isinstance(value, np.ndarray) and value.size == 1:
                value = value.item()
            if name == "stop" and isinstance(value, bool):
                stop = value
                continue
            if not isinstance(value, int | float) or len(name) > MAX_NAME:
                raise self._failed(f"gave {name[:MAX_NAME]!r} as {_kind(value)}, expected a number")
            metrics[name] = float(value) if math.isfinite(value) else None
        return Score(metrics, stop)


def _data(answer: Answer) -> Any:
    result = answer.message.result if not isinstance(answer.message, Failure) else None
    try:
        return decode(result.get("data"), answer.bodies) if isinstance(result, dict) else result
    except WireError:
        return result  # it isn't what it should be, in any case


def _kind(value: object) -> str:
    return "a remote tensor" if isinstance(value, Variable) else f"a {type(value).__name__}"
