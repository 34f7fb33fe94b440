"""Shape and dtype rules of the operations: what a node's result will be, worked out without torch.

A rule gets a node's arguments by schema name, tensors as `Meta`, and returns the `Meta` of each result. It raises
`ShapeError` (or a plain ValueError, IndexError, TypeError from arithmetic on nonsense) where torch would refuse.
The tests compare every rule with what torch itself does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

ITEM_SIZES = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "float16": 2,
    "float32": 4,
    "float64": 8,
}


class ShapeError(ValueError):
    """Arguments that the operation can't take; the text says why."""


@dataclass(frozen=True, slots=True)
class Meta:
    """What is known of a tensor before it exists."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * ITEM_SIZES[self.dtype]


Args = dict[str, Any]
Result = Meta | tuple[Meta, ...] | int | float
Rule = Callable[[Args], Result]


# ---- dtypes


def kind_of(dtype: str) -> int:
    return 0 if dtype == "bool" else 1 if "int" in dtype else 2


def _join(one: str | None, other: str) -> str:
    if one is None or one == other:
        return other
    low, high = sorted((one, other), key=lambda d: (kind_of(d), ITEM_SIZES[d], d == "int8"))
    if kind_of(low) == kind_of(high) == 1 and "uint8" in (low, high):
        return "int16" if "int8" in (low, high) else high
    return high


def result_type(*values: Meta | bool | int | float) -> str:
    """The dtype that torch's promotion gives: tensors first; 0-d tensors and numbers count by a higher kind only."""
    classes: list[str | None] = [None, None, None]
    for value in values:
        if isinstance(value, Meta):
            place, dtype = (0 if value.shape else 1), value.dtype
        else:
            place = 2
            dtype = "bool" if isinstance(value, bool) else "int64" if isinstance(value, int) else "float32"
        classes[place] = _join(classes[place], dtype)
    best: str | None = None
    for dtype_ in classes:
        if dtype_ is not None and (best is None or kind_of(dtype_) > kind_of(best)):
            best = dtype_
    return best or "float32"


def to_floating(dtype: str) -> str:
    return dtype if kind_of(dtype) == 2 else "float32"


# ---- shapes


def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    out: list[int] = []
    for axis in range(1, max(map(len, shapes), default=0) + 1):
        sizes = {s[-axis] for s in shapes if len(s) >= axis} - {1}
        if len(sizes) > 1:
            raise ShapeError(f"shapes {' and '.join(map(text_of, shapes))} don't broadcast")
        out.append(sizes.pop() if sizes else 1)
    return tuple(reversed(out))


def text_of(shape: Sequence[int]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def axis_of(dim: int, rank: int) -> int:
    if not -max(rank, 1) <= dim < max(rank, 1):
        raise ShapeError(f"dimension {dim} of a tensor with {rank}")
    return dim % max(rank, 1)


def axes_of(dims: Sequence[int] | None, rank: int) -> tuple[int, ...]:
    axes = tuple(range(rank)) if not dims else tuple(axis_of(d, rank) for d in dims)
    if len(set(axes)) != len(axes):
        raise ShapeError(f"dimension repeated in {text_of(dims or ())}")
    return axes


def need(condition: bool, why: str) -> None:
    if not condition:
        raise ShapeError(why)


def equal(one: Meta, other: Meta, what: str) -> None:
    need(one == other, f"{what}: {one.dtype}{text_of(one.shape)} against {other.dtype}{text_of(other.shape)}")


def sized(shape: Sequence[int]) -> tuple[int, ...]:
    need(all(isinstance(s, int) and s >= 0 for s in shape), f"size {text_of(shape)}")
    return tuple(shape)


# ---- element by element


def same(a: Args) -> Meta:
    """Shape and dtype of the first tensor."""
    first = a["self"]
    assert isinstance(first, Meta)
    return first


def floating(a: Args) -> Meta:
    """Shape of the first tensor; integers become float32."""
    return Meta(a["self"].shape, to_floating(a["self"].dtype))


def with_number(a: Args) -> Meta:
    """A tensor and numbers."""
    numbers = [a[k] for k in ("other", "exponent", "min", "max") if a.get(k) is not None]
    return Meta(a["self"].shape, result_type(a["self"], *numbers))


def true_divide(a: Args) -> Meta:
    operands = (a["self"], a["other"])
    shape = broadcast(*(v.shape for v in operands if isinstance(v, Meta)))
    return Meta(shape, to_floating(result_type(*operands)))


def pair(a: Args) -> Meta:
    """Two tensors that broadcast."""
    other = a["exponent"] if "exponent" in a else a["other"]
    return Meta(broadcast(a["self"].shape, other.shape), result_type(a["self"], other))


def fused(a: Args) -> Meta:
    """Several operations on floating tensors in one kernel, which takes but one dtype."""
    tensors = [v for v in a.values() if isinstance(v, Meta)]
    dtypes = {t.dtype for t in tensors}
    need(len(dtypes) == 1 and kind_of(a["self"].dtype) == 2, f"dtypes {' and '.join(sorted(dtypes))}")
    return Meta(broadcast(*(t.shape for t in tensors)), a["self"].dtype)


def compare(a: Args) -> Meta:
    other = a.get("other")
    return Meta(broadcast(a["self"].shape, other.shape) if isinstance(other, Meta) else a["self"].shape, "bool")


def bitwise(a: Args) -> Meta:
    """On bools and integers."""
    other = a["other"] if "other" in a else a["self"]
    need(kind_of(a["self"].dtype) < 2 and kind_of(other.dtype) < 2, f"bits of {a['self'].dtype} and {other.dtype}")
    return pair(dict(a, other=other))


def where(a: Args) -> Meta:
    need(a["condition"].dtype == "bool", "the condition isn't bool")
    shape = broadcast(a["condition"].shape, a["self"].shape, a["other"].shape)
    return Meta(shape, result_type(a["self"], a["other"]))


def masked_fill(a: Args) -> Meta:
    need(a["mask"].dtype == "bool", "the mask isn't bool")
    if isinstance(a["value"], Meta):
        need(a["value"].shape == (), f"filling with {text_of(a['value'].shape)}, expected a single value")
    return Meta(broadcast(a["self"].shape, a["mask"].shape), a["self"].dtype)


def backward_of_element(a: Args) -> Meta:
    """The gradient of an element-wise operation: the gradient's and the saved tensor's shapes are equal."""
    saved = a.get("output") or a.get("self_or_result") or a["self"]
    return Meta(broadcast(a["grad_output"].shape, saved.shape), result_type(a["grad_output"], saved))


def log_sigmoid_forward(a: Args) -> tuple[Meta, Meta]:
    return a["self"], a["self"]


def log_sigmoid_backward(a: Args) -> Meta:
    equal(a["self"], a["grad_output"], "the gradient has another shape than the output")
    equal(a["self"], a["buffer"], "the buffer has another shape than the output")
    return same(a)


def cast(a: Args) -> Meta:
    return Meta(a["self"].shape, a["dtype"] or a["self"].dtype)


# ---- views


def transpose_2d(a: Args) -> Meta:
    need(len(a["self"].shape) <= 2, f"t of {text_of(a['self'].shape)}")
    return Meta(a["self"].shape[::-1], a["self"].dtype)


def view(a: Args) -> Meta:
    size, total = list(a["size"]), a["self"].size
    if size.count(-1) == 1:
        known = math.prod(s for s in size if s != -1)
        need(known > 0 and total % known == 0, f"can't view {text_of(a['self'].shape)} as {text_of(size)}")
        size[size.index(-1)] = total // known
    need(math.prod(sized(size)) == total, f"can't view {text_of(a['self'].shape)} as {text_of(size)}")
    return Meta(tuple(size), a["self"].dtype)


def expand(a: Args) -> Meta:
    old, new = a["self"].shape, list(a["size"])
    need(len(new) >= len(old), f"can't expand {text_of(old)} to {text_of(new)}")
    lead = len(new) - len(old)
    for i, size in enumerate(old):
        if new[lead + i] == -1:
            new[lead + i] = size
        need(size in (1, new[lead + i]), f"can't expand {text_of(old)} to {text_of(new)}")
    return Meta(sized(new), a["self"].dtype)


def permute(a: Args) -> Meta:
    shape = a["self"].shape
    axes = tuple(axis_of(d, len(shape)) for d in a["dims"])
    need(sorted(axes) == list(range(len(shape))), f"permute {text_of(shape)} by {text_of(a['dims'])}")
    return Meta(tuple(shape[i] for i in axes), a["self"].dtype)


def transpose(a: Args) -> Meta:
    shape = list(a["self"].shape)
    one, two = axis_of(a["dim0"], len(shape)), axis_of(a["dim1"], len(shape))
    if shape:
        shape[one], shape[two] = shape[two], shape[one]
    return Meta(tuple(shape), a["self"].dtype)


def squeeze(a: Args) -> Meta:
    shape = a["self"].shape
    dims = [a["dim"]] if isinstance(a["dim"], int) else a["dim"]
    gone = {axis_of(d, len(shape)) for d in dims}
    return Meta(tuple(s for i, s in enumerate(shape) if i not in gone or s != 1), a["self"].dtype)


def unsqueeze(a: Args) -> Meta:
    shape = a["self"].shape
    at = axis_of(a["dim"], len(shape) + 1)
    return Meta((*shape[:at], 1, *shape[at:]), a["self"].dtype)


def select(a: Args) -> Meta:
    shape = a["self"].shape
    need(bool(shape), "select of a single value")
    at = axis_of(a["dim"], len(shape))
    need(-shape[at] <= a["index"] < shape[at], f"index {a['index']} of a dimension of {shape[at]}")
    return Meta(shape[:at] + shape[at + 1 :], a["self"].dtype)


def slice_(a: Args) -> Meta:
    shape = list(a["self"].shape)
    need(bool(shape) and a["step"] > 0, "slice of a single value, or a step below one")
    at = axis_of(a["dim"], len(shape))
    shape[at] = len(range(*slice(a["start"], a["end"], a["step"]).indices(shape[at])))
    return Meta(tuple(shape), a["self"].dtype)


def put_back(a: Args) -> Meta:
    """Gradient of select and slice: zeros of the old size around the gradient."""
    fake = dict(a, self=Meta(sized(a["input_sizes"]), a["grad_output"].dtype))
    equal(slice_(fake) if "step" in a else select(fake), a["grad_output"], "the gradient has another shape")
    return Meta(tuple(a["input_sizes"]), a["grad_output"].dtype)


def cat(a: Args) -> Meta:
    tensors = a["tensors"]
    need(bool(tensors) and bool(tensors[0].shape), "cat of nothing or of single values")
    at, shape = axis_of(a["dim"], len(tensors[0].shape)), list(tensors[0].shape)
    for other in tensors[1:]:
        rest = list(other.shape)
        need(len(rest) == len(shape) and rest[:at] + rest[at + 1 :] == shape[:at] + shape[at + 1 :], "sizes differ")
        shape[at] += rest[at]
    return Meta(tuple(shape), result_type(*tensors))


def stack(a: Args) -> Meta:
    tensors = a["tensors"]
    need(bool(tensors), "stack of nothing")
    shape = tensors[0].shape
    need(all(t.shape == shape for t in tensors), "sizes differ")
    at = axis_of(a["dim"], len(shape) + 1)
    return Meta((*shape[:at], len(tensors), *shape[at:]), result_type(*tensors))


def repeat(a: Args) -> Meta:
    shape, times = a["self"].shape, sized(a["repeats"])
    need(len(times) >= len(shape), f"repeat {text_of(shape)} by {text_of(times)}")
    shape = (1,) * (len(times) - len(shape)) + shape
    return Meta(tuple(s * t for s, t in zip(shape, times, strict=True)), a["self"].dtype)


def flip(a: Args) -> Meta:
    if a["dims"]:
        axes_of(a["dims"], len(a["self"].shape))
    return same(a)


def roll(a: Args) -> Meta:
    need(len(a["shifts"]) == max(len(a["dims"]), 1), f"{len(a['shifts'])} shifts of {len(a['dims'])} dimensions")
    for dim in a["dims"]:
        axis_of(dim, len(a["self"].shape))
    return same(a)


def triangle(a: Args) -> Meta:
    need(len(a["self"].shape) >= 2, f"a triangle of {text_of(a['self'].shape)}")
    return same(a)


def pad(a: Args) -> Meta:
    shape, widths = list(a["self"].shape), a["pad"]
    need(len(widths) % 2 == 0 and len(widths) <= 2 * len(shape), f"padding {text_of(widths)} of {text_of(shape)}")
    for i in range(len(widths) // 2):
        shape[-1 - i] += widths[2 * i] + widths[2 * i + 1]
    return Meta(sized(shape), a["self"].dtype)


# ---- new tensors and numbers


def _number_type(value: bool | int | float) -> str:
    return "bool" if isinstance(value, bool) else "int64" if isinstance(value, int) else "float32"


def full(a: Args) -> Meta:
    if "self" in a:
        return Meta(sized(a.get("size", a["self"].shape)), a["dtype"] or a["self"].dtype)
    return Meta(sized(a["size"]), a["dtype"] or _number_type(a.get("fill_value", 0.0)))


def scalar(a: Args) -> Meta:
    return Meta((), a["dtype"] or "float32")


def arange(a: Args) -> Meta:
    start, end, step = a.get("start", 0), a["end"], a.get("step", 1)
    need(step != 0 and (end - start) / step >= 0, f"arange({start}, {end}, {step})")
    numbers = (start, end, step)
    found = "int64" if all(isinstance(n, int) for n in numbers) else "float32"
    return Meta((math.ceil((end - start) / step),), a["dtype"] or found)


def size(a: Args) -> int:
    shape = a["self"].shape
    need(bool(shape), "size of a single value")
    return int(shape[axis_of(a["dim"], len(shape))])
