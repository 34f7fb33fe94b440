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


def _rank(dtype: str) -> int:
    return 0 if dtype == "bool" else 1 if "int" in dtype else 2


def _join(one: str | None, other: str) -> str:
    if one is None or one == other:
        return other
    low, high = sorted((one, other), key=lambda d: (_rank(d), ITEM_SIZES[d], d == "int8"))
    if _rank(low) == _rank(high) == 1 and "uint8" in (low, high):
        return "int16" if "int8" in (low, high) else high
    return high


def result_type(*values: Meta | bool | int | float) -> str:
    """The dtype that torch's promotion gives: tensors first, then 0-d tensors, then numbers, each only by a higher kind."""
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
        if dtype_ is not None and (best is None or _rank(dtype_) > _rank(best)):
            best = dtype_
    return best or "float32"


def _floating(dtype: str) -> str:
    return dtype if _rank(dtype) == 2 else "float32"


# ---- shapes


def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    out: list[int] = []
    for axis in range(1, max(map(len, shapes), default=0) + 1):
        sizes = {s[-axis] for s in shapes if len(s) >= axis} - {1}
        if len(sizes) > 1:
            raise ShapeError(f"shapes {' and '.join(map(_text, shapes))} don't broadcast")
        out.append(sizes.pop() if sizes else 1)
    return tuple(reversed(out))


def _text(shape: Sequence[int]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _axis(dim: int, rank: int) -> int:
    if not -max(rank, 1) <= dim < max(rank, 1):
        raise ShapeError(f"dimension {dim} of a tensor with {rank}")
    return dim % max(rank, 1)


def _axes(dims: Sequence[int] | None, rank: int) -> tuple[int, ...]:
    axes = tuple(range(rank)) if not dims else tuple(_axis(d, rank) for d in dims)
    if len(set(axes)) != len(axes):
        raise ShapeError(f"dimension repeated in {_text(dims or ())}")
    return axes


def _need(condition: bool, why: str) -> None:
    if not condition:
        raise ShapeError(why)


def _equal(one: Meta, other: Meta, what: str) -> None:
    _need(one.shape == other.shape, f"{what}: {_text(one.shape)} against {_text(other.shape)}")


def _sized(shape: Sequence[int]) -> tuple[int, ...]:
    _need(all(isinstance(s, int) and s >= 0 for s in shape), f"size {_text(shape)}")
    return tuple(shape)


def _pair(value: Sequence[int]) -> tuple[int, int]:
    _need(len(value) in (1, 2), f"expected one or two numbers, got {_text(value)}")
    return value[0], value[-1]


# ---- element by element


def same(a: Args) -> Meta:
    """Shape and dtype of the first tensor."""
    first = a["self"]
    assert isinstance(first, Meta)
    return first


def floating(a: Args) -> Meta:
    """Shape of the first tensor; integers become float32."""
    return Meta(a["self"].shape, _floating(a["self"].dtype))


def with_number(a: Args) -> Meta:
    """A tensor and numbers."""
    numbers = [a[k] for k in ("other", "exponent", "min", "max") if a.get(k) is not None]
    return Meta(a["self"].shape, result_type(a["self"], *numbers))


def true_divide(a: Args) -> Meta:
    operands = (a["self"], a["other"])
    shape = broadcast(*(v.shape for v in operands if isinstance(v, Meta)))
    return Meta(shape, _floating(result_type(*operands)))


def pair(a: Args) -> Meta:
    """Two tensors that broadcast."""
    return Meta(broadcast(a["self"].shape, a["other"].shape), result_type(a["self"], a["other"]))


def compare(a: Args) -> Meta:
    other = a.get("other")
    return Meta(broadcast(a["self"].shape, other.shape) if isinstance(other, Meta) else a["self"].shape, "bool")


def where(a: Args) -> Meta:
    _need(a["condition"].dtype == "bool", "the condition isn't bool")
    shape = broadcast(a["condition"].shape, a["self"].shape, a["other"].shape)
    return Meta(shape, result_type(a["self"], a["other"]))


def masked_fill(a: Args) -> Meta:
    _need(a["mask"].dtype == "bool", "the mask isn't bool")
    return Meta(broadcast(a["self"].shape, a["mask"].shape), a["self"].dtype)


def backward_of_element(a: Args) -> Meta:
    """The gradient of an element-wise operation: the gradient's and the saved tensor's shapes are equal."""
    saved = a.get("output") or a.get("self_or_result") or a["self"]
    return Meta(broadcast(a["grad_output"].shape, saved.shape), result_type(a["grad_output"], saved))


def log_sigmoid_forward(a: Args) -> tuple[Meta, Meta]:
    return a["self"], Meta((0,), a["self"].dtype)


def cast(a: Args) -> Meta:
    return Meta(a["self"].shape, a["dtype"] or a["self"].dtype)


# ---- views


def transpose_2d(a: Args) -> Meta:
    _need(len(a["self"].shape) <= 2, f"t of {_text(a['self'].shape)}")
    return Meta(a["self"].shape[::-1], a["self"].dtype)


def view(a: Args) -> Meta:
    size, total = list(a["size"]), a["self"].size
    if size.count(-1) == 1:
        known = math.prod(s for s in size if s != -1)
        _need(known > 0 and total % known == 0, f"can't view {_text(a['self'].shape)} as {_text(size)}")
        size[size.index(-1)] = total // known
    _need(math.prod(_sized(size)) == total, f"can't view {_text(a['self'].shape)} as {_text(size)}")
    return Meta(tuple(size), a["self"].dtype)


def expand(a: Args) -> Meta:
    old, new = a["self"].shape, list(a["size"])
    _need(len(new) >= len(old), f"can't expand {_text(old)} to {_text(new)}")
    lead = len(new) - len(old)
    for i, size in enumerate(old):
        if new[lead + i] == -1:
            new[lead + i] = size
        _need(size in (1, new[lead + i]), f"can't expand {_text(old)} to {_text(new)}")
    return Meta(_sized(new), a["self"].dtype)


def permute(a: Args) -> Meta:
    shape = a["self"].shape
    axes = tuple(_axis(d, len(shape)) for d in a["dims"])
    _need(sorted(axes) == list(range(len(shape))), f"permute {_text(shape)} by {_text(a['dims'])}")
    return Meta(tuple(shape[i] for i in axes), a["self"].dtype)


def transpose(a: Args) -> Meta:
    shape = list(a["self"].shape)
    one, two = _axis(a["dim0"], len(shape)), _axis(a["dim1"], len(shape))
    if shape:
        shape[one], shape[two] = shape[two], shape[one]
    return Meta(tuple(shape), a["self"].dtype)


def squeeze(a: Args) -> Meta:
    shape = a["self"].shape
    dims = [a["dim"]] if isinstance(a["dim"], int) else a["dim"]
    gone = {_axis(d, len(shape)) for d in dims}
    return Meta(tuple(s for i, s in enumerate(shape) if i not in gone or s != 1), a["self"].dtype)


def unsqueeze(a: Args) -> Meta:
    shape = a["self"].shape
    at = _axis(a["dim"], len(shape) + 1)
    return Meta((*shape[:at], 1, *shape[at:]), a["self"].dtype)


def select(a: Args) -> Meta:
    shape = a["self"].shape
    _need(bool(shape), "select of a single value")
    at = _axis(a["dim"], len(shape))
    _need(-shape[at] <= a["index"] < shape[at], f"index {a['index']} of a dimension of {shape[at]}")
    return Meta(shape[:at] + shape[at + 1 :], a["self"].dtype)


def slice_(a: Args) -> Meta:
    shape = list(a["self"].shape)
    _need(bool(shape) and a["step"] > 0, "slice of a single value, or a step below one")
    at = _axis(a["dim"], len(shape))
    shape[at] = len(range(*slice(a["start"], a["end"], a["step"]).indices(shape[at])))
    return Meta(tuple(shape), a["self"].dtype)


def put_back(a: Args) -> Meta:
    """Gradient of select and slice: zeros of the old size around the gradient."""
    fake = dict(a, self=Meta(_sized(a["input_sizes"]), a["grad_output"].dtype))
    _equal(slice_(fake) if "step" in a else select(fake), a["grad_output"], "the gradient has another shape")
    return Meta(tuple(a["input_sizes"]), a["grad_output"].dtype)


def cat(a: Args) -> Meta:
    tensors = a["tensors"]
    _need(bool(tensors) and bool(tensors[0].shape), "cat of nothing or of single values")
    at, shape = _axis(a["dim"], len(tensors[0].shape)), list(tensors[0].shape)
    for other in tensors[1:]:
        rest = list(other.shape)
        _need(len(rest) == len(shape) and rest[:at] + rest[at + 1 :] == shape[:at] + shape[at + 1 :], "sizes differ")
        shape[at] += rest[at]
    return Meta(tuple(shape), result_type(*tensors))


def pad(a: Args) -> Meta:
    shape, widths = list(a["self"].shape), a["pad"]
    _need(len(widths) % 2 == 0 and len(widths) <= 2 * len(shape), f"padding {_text(widths)} of {_text(shape)}")
    for i in range(len(widths) // 2):
        shape[-1 - i] += widths[2 * i] + widths[2 * i + 1]
    return Meta(_sized(shape), a["self"].dtype)


# ---- sums and products


def reduce(a: Args) -> Meta:
    """sum: over all, or over `dim`; integers become int64."""
    shape = a["self"].shape
    axes = _axes(a.get("dim"), len(shape))
    if a.get("keepdim"):
        out = tuple(1 if i in axes else s for i, s in enumerate(shape))
    else:
        out = tuple(s for i, s in enumerate(shape) if i not in axes)
    dtype = a["dtype"] or (a["self"].dtype if _rank(a["self"].dtype) == 2 else "int64")
    return Meta(out, dtype)


def mean(a: Args) -> Meta:
    _need(_rank(a["dtype"] or a["self"].dtype) == 2, f"mean of {a['self'].dtype}")
    return reduce(a)


def matmul(a: Args) -> Meta:
    """mm (2-d) and bmm (3-d), with addmm's extra term."""
    one, two = a.get("mat1") or a["self"], a["mat2"]
    rank = 3 if a["op"] == "aten.bmm.default" else 2
    _need(len(one.shape) == len(two.shape) == rank, f"product of {_text(one.shape)} and {_text(two.shape)}")
    _need(
        one.shape[-1] == two.shape[-2] and one.shape[:-2] == two.shape[:-2],
        f"product of {_text(one.shape)} and {_text(two.shape)}",
    )
    _need(one.dtype == two.dtype, f"product of {one.dtype} and {two.dtype}")
    out = (*one.shape[:-1], two.shape[-1])
    if "mat1" in a:
        _need(broadcast(a["self"].shape, out) == out, f"can't add {_text(a['self'].shape)} to {_text(out)}")
        _need(a["self"].dtype == one.dtype, f"sum of {a['self'].dtype} and {one.dtype}")
    return Meta(out, one.dtype)


# ---- convolution and pooling


def convolution(a: Args) -> Meta:
    x, w = a["input"], a["weight"]
    n = len(x.shape) - 2
    _need(n >= 1 and len(w.shape) == n + 2, f"convolution of {_text(x.shape)} with {_text(w.shape)}")
    _need(x.dtype == w.dtype, f"convolution of {x.dtype} with {w.dtype}")
    groups, turned = a["groups"], a["transposed"]
    _need(groups >= 1, "groups below one")
    stride, padding, dilation, extra = (_spread(a[k], n) for k in ("stride", "padding", "dilation", "output_padding"))
    _need(min(*stride, *dilation) >= 1 and min(*padding, *extra) >= 0, "stride, padding or dilation out of range")
    inside = w.shape[0] if turned else w.shape[1] * groups
    outside = w.shape[1] * groups if turned else w.shape[0]
    _need(x.shape[1] == inside and outside % groups == 0, f"{x.shape[1]} channels where the weight takes {inside}")
    if a["bias"] is not None:
        _need(a["bias"].shape == (outside,), f"bias {_text(a['bias'].shape)} for {outside} channels")
    sizes = []
    for i in range(n):
        reach = dilation[i] * (w.shape[2 + i] - 1) + 1
        if turned:
            size = (x.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + reach + extra[i]
        else:
            size = (x.shape[2 + i] + 2 * padding[i] - reach) // stride[i] + 1
        _need(size >= 1, f"kernel {_text(w.shape[2:])} is larger than the padded input {_text(x.shape[2:])}")
        sizes.append(size)
    return Meta((x.shape[0], outside, *sizes), x.dtype)


def _spread(value: Sequence[int], n: int) -> tuple[int, ...]:
    _need(len(value) in (1, n), f"expected {n} numbers, got {_text(value)}")
    return tuple(value) * (n if len(value) == 1 else 1)


def convolution_backward(a: Args) -> tuple[Meta, Meta, Meta]:
    forward = convolution(dict(a, bias=None))
    _equal(forward, a["grad_output"], "the gradient has another shape than the output")
    outside = Meta((forward.shape[1],), forward.dtype)
    return a["input"], a["weight"], outside


def _pooled(x: Meta, a: Args, dilation: tuple[int, int]) -> Meta:
    _need(len(x.shape) in (3, 4), f"2-d pooling of {_text(x.shape)}")
    kernel, padding = _pair(a["kernel_size"]), _pair(a["padding"])
    stride = _pair(a["stride"]) if a["stride"] else kernel
    _need(min(*kernel, *stride, *dilation) >= 1 and min(padding) >= 0, "kernel, stride or padding out of range")
    sizes = []
    for i in range(2):
        _need(2 * padding[i] <= kernel[i], "padding above half of the kernel")
        have, room = x.shape[i - 2], x.shape[i - 2] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1
        size = (room + (stride[i] - 1 if a["ceil_mode"] else 0)) // stride[i] + 1
        if a["ceil_mode"] and (size - 1) * stride[i] >= have + padding[i]:
            size -= 1
        _need(size >= 1, f"kernel {_text(kernel)} is larger than the padded input {_text(x.shape[-2:])}")
        sizes.append(size)
    return Meta((*x.shape[:-2], *sizes), x.dtype)


def max_pool(a: Args) -> tuple[Meta, Meta]:
    out = _pooled(a["self"], a, _pair(a["dilation"]))
    return out, Meta(out.shape, "int64")


def max_pool_backward(a: Args) -> Meta:
    out = _pooled(a["self"], a, _pair(a["dilation"]))
    _equal(out, a["grad_output"], "the gradient has another shape than the output")
    _equal(out, a["indices"], "the indices have another shape than the output")
    _need(a["indices"].dtype == "int64", "the indices aren't int64")
    return same(a)


def avg_pool(a: Args) -> Meta:
    _need(a["divisor_override"] != 0, "divisor zero")
    return _pooled(a["self"], a, (1, 1))


def avg_pool_backward(a: Args) -> Meta:
    _equal(avg_pool(a), a["grad_output"], "the gradient has another shape than the output")
    return same(a)


def adaptive_pool(a: Args) -> Meta:
    _need(len(a["self"].shape) in (3, 4), f"2-d pooling of {_text(a['self'].shape)}")
    return Meta((*a["self"].shape[:-2], *_sized(_pair(a["output_size"]))), a["self"].dtype)


def adaptive_pool_backward(a: Args) -> Meta:
    one, two = a["grad_output"].shape, a["self"].shape
    _need(len(one) == len(two) and len(one) in (3, 4) and one[:-2] == two[:-2], f"{_text(one)} from {_text(two)}")
    return same(a)


# ---- normalisation


def prelu(a: Args) -> Meta:
    _need(broadcast(a["self"].shape, a["weight"].shape) == a["self"].shape, "the weight doesn't fit the input")
    _need(a["self"].dtype == a["weight"].dtype, f"{a['self'].dtype} with a weight of {a['weight'].dtype}")
    return same(a)


def prelu_backward(a: Args) -> tuple[Meta, Meta]:
    _equal(prelu(a), a["grad_output"], "the gradient has another shape than the output")
    return a["self"], a["self"]


def layer_norm(a: Args) -> tuple[Meta, Meta, Meta]:
    x, inner = a["input"], tuple(a["normalized_shape"])
    _need(bool(inner) and x.shape[-len(inner) :] == inner, f"layer norm over {_text(inner)} of {_text(x.shape)}")
    for key in ("weight", "bias"):
        _need(a[key] is None or a[key].shape == inner, f"{key} isn't {_text(inner)}")
    outer = Meta(x.shape[: len(x.shape) - len(inner)] + (1,) * len(inner), x.dtype)
    return x, outer, outer


def layer_norm_backward(a: Args) -> tuple[Meta, Meta, Meta]:
    out, mean_, rstd = layer_norm(a)
    _equal(out, a["grad_out"], "the gradient has another shape than the output")
    _equal(mean_, a["mean"], "mean")
    _equal(rstd, a["rstd"], "rstd")
    inner = Meta(tuple(a["normalized_shape"]), out.dtype)
    return a["input"], inner, inner


def group_norm(a: Args) -> tuple[Meta, Meta, Meta]:
    x, groups = a["input"], a["group"]
    _need(len(x.shape) >= 2 and x.shape[:2] == (a["N"], a["C"]), f"{_text(x.shape)} isn't {a['N']} by {a['C']}")
    _need(x.size == a["N"] * a["C"] * a["HxW"], f"{_text(x.shape)} hasn't {a['HxW']} values a channel")
    _need(groups >= 1 and a["C"] % groups == 0, f"{a['C']} channels in {groups} groups")
    for key in ("weight", "bias"):
        _need(a.get(key) is None or a[key].shape == (a["C"],), f"{key} isn't [{a['C']}]")
    each = Meta((a["N"], groups), x.dtype)
    return x, each, each


def group_norm_backward(a: Args) -> tuple[Meta, Meta, Meta]:
    out, mean_, rstd = group_norm(a)
    _equal(out, a["grad_out"], "the gradient has another shape than the output")
    _equal(mean_, a["mean"], "mean")
    _equal(rstd, a["rstd"], "rstd")
    inner = Meta((a["C"],), out.dtype)
    return a["input"], inner, inner


# ---- softmax and losses


def softmax(a: Args) -> Meta:
    _axis(a["dim"], len(a["self"].shape))
    _need(not a["half_to_float"] and _rank(a["self"].dtype) == 2, f"softmax of {a['self'].dtype}")
    return same(a)


def softmax_backward(a: Args) -> Meta:
    _axis(a["dim"], len(a["output"].shape))
    _equal(a["grad_output"], a["output"], "the gradient has another shape than the output")
    return Meta(a["output"].shape, a["input_dtype"])


def _reduced(shape: tuple[int, ...], dtype: str, reduction: int) -> Meta:
    _need(reduction in (0, 1, 2), f"reduction {reduction}")
    return Meta(shape if reduction == 0 else (), dtype)


def nll(a: Args) -> tuple[Meta, Meta]:
    x, target = a["self"], a["target"]
    rank = 4 if "2d" in a["op"] else 2
    _need(len(x.shape) == rank, f"log-probabilities {_text(x.shape)}, expected {rank} dimensions")
    _need(target.shape == (x.shape[0], *x.shape[2:]), f"labels {_text(target.shape)} for {_text(x.shape)}")
    _need(target.dtype in ("int64", "uint8"), f"labels are {target.dtype}, expected int64")
    if a["weight"] is not None:
        _need(a["weight"].shape == (x.shape[1],), f"{_text(a['weight'].shape)} class weights for {x.shape[1]} classes")
    return _reduced(target.shape, x.dtype, a["reduction"]), Meta((), x.dtype)


def nll_backward(a: Args) -> Meta:
    out, total = nll(a)
    _equal(out, a["grad_output"], "the gradient has another shape than the loss")
    _equal(total, a["total_weight"], "the total weight isn't one value")
    return same(a)


def elementwise_loss(a: Args) -> Meta:
    others = [a[k] for k in ("weight", "pos_weight") if a.get(k) is not None]
    shape = broadcast(a["self"].shape, a["target"].shape, *(o.shape for o in others))
    return _reduced(shape, result_type(a["self"], a["target"], *others), a["reduction"])


def elementwise_loss_backward(a: Args) -> Meta:
    shape = broadcast(a["self"].shape, a["target"].shape)
    _need(a["grad_output"].shape in ((), shape), f"gradient {_text(a['grad_output'].shape)} for {_text(shape)}")
    return Meta(shape, a["self"].dtype)


# ---- new tensors and numbers


def _number_type(value: bool | int | float) -> str:
    return "bool" if isinstance(value, bool) else "int64" if isinstance(value, int) else "float32"


def full(a: Args) -> Meta:
    if "self" in a:
        return Meta(_sized(a.get("size", a["self"].shape)), a["dtype"] or a["self"].dtype)
    return Meta(_sized(a["size"]), a["dtype"] or _number_type(a.get("fill_value", 0.0)))


def scalar(a: Args) -> Meta:
    return Meta((), a["dtype"] or "float32")


def arange(a: Args) -> Meta:
    _need(a["end"] >= 0, f"arange({a['end']})")
    return Meta((math.ceil(a["end"]),), a["dtype"] or _number_type(a["end"]))


def size(a: Args) -> int:
    shape = a["self"].shape
    _need(bool(shape), "size of a single value")
    return int(shape[_axis(a["dim"], len(shape))])
