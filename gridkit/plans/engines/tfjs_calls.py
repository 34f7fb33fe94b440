"""What the forms of operations for TensorFlow.js are written with: calls of ``tf.*``, and what is known of values.

A form sees the shapes that the plan's dry run gives, with `Rows` where a size is the batch's: the calls must hold for
any number of rows. Calls are pure, so the same call twice is made once, and what nobody needs is left out at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gridkit.errors import GridkitError
from gridkit.plans.table.shapes import Meta
from gridkit.wire.syft_plan import Action, Argument, Value

DTYPES = {"float32": "float32", "int64": "int32", "int32": "int32", "bool": "bool"}
"""ours to theirs; labels are what is of int64, and fit"""


class NoForm(GridkitError):
    """The operation can't be said in TensorFlow.js; the message says why."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A size that is the batch's, or a multiple of it."""

    times: int = 1


Shape = tuple[int | Rows, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value of the plan: where it is, its shape, and its dtype in our terms."""

    value: Value
    shape: Shape
    dtype: str


@dataclass(frozen=True, slots=True)
class Known:
    """Shape and dtype of a result."""

    shape: Shape
    dtype: str


Operand = Tensor | Value | int | float
"""A number that is known only in the run is a `Value`, a tensor without dimensions."""
Args = Mapping[str, Any]
Form = Callable[["Calls", Args, tuple[Known, ...]], Value | tuple[Value | None, ...]]
"""Makes the calls for an operation: its arguments by name, and what is known of its results."""

FORMS: dict[str, Form] = {}
"""The column of the op table for TensorFlow.js."""


def form(*ops: str) -> Callable[[Form], Form]:
    """Enters a function as the form of those operations."""

    def enter(function: Form) -> Form:
        FORMS.update(dict.fromkeys(ops, function))
        return function

    return enter


class Calls:
    """The calls of one plan, in order.

    Args:
        first: the first id that is free.
    """

    def __init__(self, first: int) -> None:
        self.actions: list[Action] = []
        self.batched: Tensor | None = None
        """An input whose first dimension is the batch."""
        self._next = first
        self._made: dict[tuple[Any, ...], Value] = {}
        self._nhwc: dict[int, Value] = {}  # of values [N, C, H, W], the same with channels last
        self._transposed: dict[int, Value] = {}  # of matrices, what they are the transposition of

    # ---- calls

    def fresh(self) -> Value:
        """A value that no call has given yet."""
        self._next += 1
        return Value(self._next - 1)

    def call(self, command: str, *args: Tensor | Argument) -> Value:
        """``tf.command(*args)``."""
        plain = tuple(a.value if isinstance(a, Tensor) else a for a in args)
        key = (command, *((type(a), a) for a in plain))
        if key not in self._made:
            self._made[key] = self.fresh()
            self.actions.append(Action(command, plain, self._made[key].id))
        return self._made[key]

    def each(self, command: str, *args: Tensor | Value | int | float | str) -> Value:
        """A call that works element by element. An image whose channels-last form is there keeps both forms."""
        result = self.call(command, *args)
        ids = [a.value.id if isinstance(a, Tensor) else a.id for a in args if isinstance(a, Tensor | Value)]
        if ids and all(id in self._nhwc for id in ids):
            images = iter([self._nhwc[id] for id in ids])
            twins = [next(images) if isinstance(a, Tensor | Value) else a for a in args]
            self._nhwc[result.id] = self.call(command, *twins)
        return result

    def cast(self, operand: Tensor, dtype: str) -> Tensor:
        """The tensor as that dtype (in our terms)."""
        if DTYPES[operand.dtype] == DTYPES[dtype]:
            return operand
        return Tensor(self.each("cast", operand, DTYPES[dtype]), operand.shape, dtype)

    def floats(self, *operands: Any) -> list[Any]:
        """Tensors as float32; numbers as they are."""
        return [self.cast(o, "float32") if isinstance(o, Tensor) else o for o in operands]

    # ---- the batch

    def ones(self) -> Value:
        """A one for each row of the batch."""
        if self.batched is None:
            raise NoForm("it asks for the batch size, and the plan has no input with one")
        rank = len(self.batched.shape)
        column = self.batched.value
        if rank > 1:
            column = self.call("slice", column, (0,) * rank, (-1, *[1] * (rank - 1)))
        return self.call("cast", self.call("onesLike", self.call("reshape", column, (-1,))), "float32")

    def count(self) -> Value:
        """The batch size, as a number of the run."""
        return self.call("sum", self.ones())

    # ---- shapes

    def sizes(self, shape: Iterable[int | Rows]) -> tuple[int, ...]:
        """A shape as `reshape` takes it: -1 for the batch."""
        sizes = tuple(-1 if isinstance(s, Rows) else s for s in shape)
        if sizes.count(-1) > 1 or (-1 in sizes and 0 in sizes):
            raise NoForm("more than one of its sizes depends on the batch")
        return sizes

    def reshape(self, operand: Tensor | Value, shape: Iterable[int | Rows]) -> Value:
        return self.call("reshape", operand, self.sizes(shape))

    def filled(self, shape: Shape, number: Operand, dtype: str) -> Value:
        """A tensor with that number everywhere."""
        if isinstance(number, Value):
            return self.expand(Tensor(number, (), "float32"), shape)
        if not any(isinstance(s, Rows) for s in shape):
            return self.call("fill", static(shape), number, DTYPES[dtype])
        return self.expand(Tensor(self.call("scalar", number, DTYPES[dtype]), (), dtype), shape)

    def expand(self, tensor: Tensor, shape: Shape) -> Value:
        """The tensor repeated along dimensions that are new, or of size one."""
        old: Shape = (*[1] * (len(shape) - len(tensor.shape)), *tensor.shape)
        value = tensor.value if len(old) == len(tensor.shape) else self.reshape(tensor, old)
        counts = tuple(s if s != o and isinstance(s, int) else 1 for o, s in zip(old, shape, strict=True))
        if any(count != 1 for count in counts):
            value = self.call("tile", value, counts)
        new = [place for place, (o, s) in enumerate(zip(old, shape, strict=True)) if o != s and isinstance(s, Rows)]
        for place in new:
            if shape[place] != Rows():
                raise NoForm("it repeats a tensor a multiple of the batch size times")
            rows = self.reshape(self.ones(), [Rows() if i == place else 1 for i in range(len(shape))])
            value = self.call("mul", self.call("cast", value, "float32"), rows)
        return self.call("cast", value, DTYPES[tensor.dtype]) if new and tensor.dtype != "float32" else value

    def transpose(self, tensor: Tensor, order: Sequence[int]) -> Value:
        result = self.call("transpose", tensor, tuple(order))
        if tuple(order) == (1, 0):
            self._transposed[result.id] = tensor.value
        return result

    def matmul(self, one: Tensor, two: Tensor) -> Value:
        """A product of matrices; transpositions before it become its flags.

        TensorFlow.js 1.7.4 on WebGL keeps matrices in blocks of two by two and counts a block's margin in where the
        length that is summed over is odd, also when an earlier operation left something there. Padding by nothing
        makes the margin of one factor zero, which is enough.
        """
        turned = [v.value.id in self._transposed for v in (one, two)]
        left, right = (self._transposed.get(v.value.id, v.value) for v in (one, two))
        length = one.shape[-1]
        if isinstance(length, Rows) or length % 2:
            left = self.call("pad", left, ((0, 0),) * len(one.shape), 0.0)
        return self.call("matMul", left, right, *turned)

    # ---- images

    def nhwc(self, tensor: Tensor | Value) -> Value:
        """An image [N, C, H, W] with channels last, as TensorFlow.js takes it."""
        value = tensor.value if isinstance(tensor, Tensor) else tensor
        if value.id not in self._nhwc:
            self._nhwc[value.id] = self.call("transpose", value, (0, 2, 3, 1))
        return self._nhwc[value.id]

    def nchw(self, value: Value) -> Value:
        """The way back."""
        result = self.call("transpose", value, (0, 3, 1, 2))
        self._nhwc[result.id] = value
        return result

    # ---- the end

    def needed(self, outputs: Iterable[Value]) -> list[Action]:
        """The calls that these values depend on."""
        wanted, kept = {v.id for v in outputs}, []
        for action in reversed(self.actions):
            if action.result in wanted:
                kept.append(action)
                wanted |= {a.id for a in action.args if isinstance(a, Value)}
        return kept[::-1]


def static(shape: Iterable[int | Rows], what: str = "it") -> tuple[int, ...]:
    """A shape that mustn't depend on the batch."""
    sizes = tuple(shape)
    if any(isinstance(s, Rows) for s in sizes):
        raise NoForm(f"{what} depends on the batch size")
    return tuple(s for s in sizes if isinstance(s, int))


def only_floats(out: tuple[Known, ...]) -> None:
    """Raise NoForm unless the result is float32: what others compute with."""
    if out[0].dtype != "float32":
        raise NoForm(f"it computes with {out[0].dtype}: TensorFlow.js does so in 32 bits only, and often as floats")


def axis(dim: int, rank: int) -> int:
    return dim + rank if dim < 0 else dim


def merged(one: Meta, other: Meta, batches: tuple[int, int]) -> Known:
    """What two dry runs with different batch sizes say of a value."""
    if one.dtype not in DTYPES:
        raise NoForm(f"its result is {one.dtype}, which TensorFlow.js doesn't have")
    if len(one.shape) != len(other.shape):
        raise NoForm("its rank depends on the batch size")
    return Known(tuple(size(a, b, batches) for a, b in zip(one.shape, other.shape, strict=True)), one.dtype)


def size(one: int, other: int, batches: tuple[int, int]) -> int | Rows:
    if one == other:
        return one
    times, rest = divmod(one, batches[0])
    if rest or other != times * batches[1]:
        raise NoForm("a size is neither fixed nor a multiple of the batch size")
    return Rows(times)


def constant(value: Any) -> bool:
    """Whether it is a number that is known before the run."""
    return isinstance(value, bool | int | float) and not (isinstance(value, float) and math.isnan(value))
