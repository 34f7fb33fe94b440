"""Arithmetic, views, new tensors and reductions in TensorFlow.js; `tfjs_calls` says what a form is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gridkit.plans.engines.tfjs_calls import (
    DTYPES,
    Args,
    Calls,
    Form,
    Known,
    NoForm,
    Rows,
    Tensor,
    axis,
    form,
    only_floats,
    static,
)
from gridkit.wire.syft_plan import Value

Out = tuple[Known, ...]


# ---- one tensor, element by element

_UNARY = {
    "relu": "relu",
    "neg": "neg",
    "abs": "abs",
    "sign": "sign",
    "sgn": "sign",
    "floor": "floor",
    "ceil": "ceil",
    "round": "round",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "exp": "exp",
    "expm1": "expm1",
    "log": "log",
    "log1p": "log1p",
    "sqrt": "sqrt",
    "rsqrt": "rsqrt",
    "reciprocal": "reciprocal",
    "sin": "sin",
    "cos": "cos",
    "erf": "erf",
}


def _unary(command: str) -> Form:
    def apply(c: Calls, a: Args, out: Out) -> Value:
        only_floats(out)
        return c.each(command, *c.floats(a["self"]))

    return apply


for _name, _command in _UNARY.items():
    form(f"aten.{_name}.default")(_unary(_command))


# ---- two operands


def _scaled(c: Calls, operand: Any, by: Any) -> Any:
    return operand if by == 1 and not isinstance(by, Value) else c.each("mul", operand, by)


@form("aten.add.Tensor", "aten.add.Scalar", "aten.sub.Tensor", "aten.sub.Scalar")
def _add(c: Calls, a: Args, out: Out) -> Value:
    only_floats(out)
    one, two = c.floats(a["self"], a["other"])
    command = "add" if "add" in a["op"] else "sub"
    return c.each(command, one, _scaled(c, two, a["alpha"]))


@form("aten.rsub.Scalar")
def _rsub(c: Calls, a: Args, out: Out) -> Value:
    only_floats(out)
    (one,) = c.floats(a["self"])
    return c.each("sub", a["other"], _scaled(c, one, a["alpha"]))


_PAIRS = {
    "aten.mul.Tensor": "mul",
    "aten.mul.Scalar": "mul",
    "aten.div.Tensor": "div",
    "aten.div.Scalar": "div",
    "aten.maximum.default": "maximum",
    "aten.minimum.default": "minimum",
    "aten.pow.Tensor_Tensor": "pow",
}


@form(*_PAIRS)
def _pair(c: Calls, a: Args, out: Out) -> Value:
    only_floats(out)
    return c.each(_PAIRS[a["op"]], *c.floats(a["self"], a["other" if "pow" not in a["op"] else "exponent"]))


@form("aten.pow.Tensor_Scalar")
def _power(c: Calls, a: Args, out: Out) -> Value:
    only_floats(out)
    (x,) = c.floats(a["self"])
    return c.each("square", x) if a["exponent"] == 2 else c.each("pow", x, a["exponent"])


@form("aten.clamp.default", "aten.clamp_min.default", "aten.clamp_max.default")
def _clamp(c: Calls, a: Args, out: Out) -> Value:
    only_floats(out)
    (value,) = c.floats(a["self"])
    if a.get("min") is not None:
        value = c.each("maximum", value, a["min"])
    return c.each("minimum", value, a["max"]) if a.get("max") is not None else value


@form("aten.lerp.Scalar")
def _lerp(c: Calls, a: Args, out: Out) -> Value:
    one, two = c.floats(a["self"], a["end"])
    return c.each("add", one, c.each("mul", c.each("sub", two, one), a["weight"]))


@form("aten.addcmul.default")
def _addcmul(c: Calls, a: Args, out: Out) -> Value:
    only_floats(out)
    term, one, two = c.floats(a["self"], a["tensor1"], a["tensor2"])
    return c.each("add", term, _scaled(c, c.each("mul", one, two), a["value"]))


_COMPARED = {
    "eq": "equal",
    "ne": "notEqual",
    "lt": "less",
    "le": "lessEqual",
    "gt": "greater",
    "ge": "greaterEqual",
}


@form(*(f"aten.{name}.{kind}" for name in _COMPARED for kind in ("Tensor", "Scalar")))
def _compare(c: Calls, a: Args, out: Out) -> Value:
    one, two = a["self"], a["other"]
    if not isinstance(two, Tensor) or DTYPES[one.dtype] != DTYPES[two.dtype] or one.dtype == "bool":
        one, two = c.floats(one, two)
    return c.each(_COMPARED[a["op"].split(".")[1]], one, float(two) if isinstance(two, bool) else two)


@form("aten.logical_and.default", "aten.logical_or.default", "aten.logical_not.default")
def _logical(c: Calls, a: Args, out: Out) -> Value:
    given = [c.cast(a[k], "bool") for k in ("self", "other") if k in a]
    command = {"and": "logicalAnd", "or": "logicalOr", "not": "logicalNot"}[a["op"].split(".")[1].split("_")[1]]
    return c.each(command, *given)


@form("aten.where.self")
def _where(c: Calls, a: Args, out: Out) -> Value:
    (known,) = out
    values = [Tensor(c.expand(a[k], known.shape), known.shape, a[k].dtype) for k in ("condition", "self", "other")]
    return c.call("where", c.cast(values[0], "bool"), *(c.cast(v, known.dtype) for v in values[1:]))


@form("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def _masked_fill(c: Calls, a: Args, out: Out) -> Value:
    (known,) = out
    mask = c.expand(a["mask"], known.shape)
    if isinstance(a["value"], Tensor):
        value = c.expand(c.cast(a["value"], known.dtype), known.shape)
    else:
        value = c.filled(known.shape, a["value"], known.dtype)
    return c.call("where", mask, value, c.expand(a["self"], known.shape))


# ---- views


@form("aten.t.default")
def _t(c: Calls, a: Args, out: Out) -> Value:
    x: Tensor = a["self"]
    return c.transpose(x, (1, 0)) if len(x.shape) == 2 else x.value


@form(
    "aten.view.default",
    "aten._unsafe_view.default",
    "aten.unsqueeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
)
def _view(c: Calls, a: Args, out: Out) -> Value:
    x: Tensor = a["self"]
    return x.value if x.shape == out[0].shape else c.reshape(x, out[0].shape)


@form("aten.expand.default")
def _expand(c: Calls, a: Args, out: Out) -> Value:
    return c.expand(a["self"], out[0].shape)


@form("aten.permute.default")
def _permute(c: Calls, a: Args, out: Out) -> Value:
    return c.transpose(a["self"], [axis(d, len(a["dims"])) for d in a["dims"]])


@form("aten.transpose.int")
def _transpose(c: Calls, a: Args, out: Out) -> Value:
    x: Tensor = a["self"]
    order = list(range(len(x.shape)))
    if not order:
        return x.value
    one, two = axis(a["dim0"], len(order)), axis(a["dim1"], len(order))
    order[one], order[two] = two, one
    return c.transpose(x, order)


@form("aten.select.int")
def _select(c: Calls, a: Args, out: Out) -> Value:
    x: Tensor = a["self"]
    dim = axis(a["dim"], len(x.shape))
    index = _place(a["index"], x.shape[dim])
    return c.reshape(_cut(c, x.value, x.shape, dim, index, index + 1), out[0].shape)


def _place(index: Any, whole: int | Rows) -> int:
    """A place along a dimension; one from its end needs to know where that is."""
    if not isinstance(index, int):
        raise NoForm("it takes a part at a place that depends on the batch size")
    if index >= 0:
        return index
    (length,) = static([whole], "the part that it takes")
    return max(index + length, 0)


def _cut(c: Calls, x: Value, shape: Sequence[int | Rows], dim: int, start: int, stop: int) -> Value:
    sizes = [stop - start if i == dim else -1 for i in range(len(shape))]
    return c.call("slice", x, tuple(start if i == dim else 0 for i in range(len(shape))), tuple(sizes))


@form("aten.slice.Tensor")
def _slice(c: Calls, a: Args, out: Out) -> Value:
    x: Tensor = a["self"]
    if x.shape == out[0].shape:
        return x.value
    dim = axis(a["dim"], len(x.shape))
    if a["step"] != 1:
        raise NoForm("it takes every second or further element")
    start = _place(a["start"] or 0, x.shape[dim])
    (length,) = static([out[0].shape[dim]], "the part that it takes")
    return _cut(c, x.value, x.shape, dim, start, start + length)


@form("aten.select_backward.default", "aten.slice_backward.default")
def _put_back(c: Calls, a: Args, out: Out) -> Value:
    g: Tensor = a["grad_output"]
    shape, dim = out[0].shape, axis(a["dim"], len(out[0].shape))
    if a.get("step", 1) != 1:
        raise NoForm("it takes every second or further element")
    start = _place(a["index"] if "index" in a else a["start"], shape[dim])
    kept: list[int | Rows] = [*g.shape[:dim], 1, *g.shape[dim:]] if "index" in a else [*g.shape]
    if g.shape == shape:
        return g.value
    whole, length = static([shape[dim], kept[dim]], "the part that it takes")
    value = c.reshape(g, kept) if "index" in a else g.value
    return _pad(c, value, len(kept), {dim: (start, whole - start - length)})


def _pad(c: Calls, x: Value, rank: int, by: dict[int, tuple[int, int]], number: float = 0.0) -> Value:
    return c.call("pad", x, tuple(by.get(i, (0, 0)) for i in range(rank)), number)


@form("aten.constant_pad_nd.default")
def _constant_pad(c: Calls, a: Args, out: Out) -> Value:
    x: Tensor = a["self"]
    only_floats(out)
    sides = [tuple(a["pad"][i : i + 2]) for i in range(0, len(a["pad"]), 2)]
    if any(s < 0 for pair in sides for s in pair):
        raise NoForm("it pads by less than nothing")
    return _pad(c, x.value, len(x.shape), {len(x.shape) - 1 - i: pair for i, pair in enumerate(sides)}, a["value"])


@form("aten.cat.default")
def _cat(c: Calls, a: Args, out: Out) -> Value:
    """TensorFlow.js's own concat takes a list of tensors, which can't be told; so each is padded, and all are added."""
    only_floats(out)
    rank, at = len(out[0].shape), 0
    dim, parts = axis(a["dim"], rank), []
    (whole,) = static([out[0].shape[dim]], "the length of what it makes")
    for tensor in c.floats(*a["tensors"]):
        if len(tensor.shape) != rank:  # torch lets empty ones pass
            continue
        (length,) = static([tensor.shape[dim]])
        parts.append(_pad(c, tensor.value, rank, {dim: (at, whole - at - length)}))
        at += length
    total = parts[0]
    for part in parts[1:]:
        total = c.call("add", total, part)
    return total


@form("aten.repeat.default")
def _repeat(c: Calls, a: Args, out: Out) -> Value:
    x: Tensor = a["self"]
    if not all(isinstance(r, int) for r in a["repeats"]):
        raise NoForm("it repeats a tensor as many times as the batch has rows")
    lead = len(a["repeats"]) - len(x.shape)
    value = c.reshape(x, (*[1] * lead, *x.shape)) if lead else x.value
    return c.call("tile", value, tuple(a["repeats"])) if a["repeats"] else value


@form("aten.flip.default")
def _flip(c: Calls, a: Args, out: Out) -> Value:
    x: Tensor = a["self"]
    return c.call("reverse", x, tuple(axis(d, len(x.shape)) for d in a["dims"])) if a["dims"] else x.value


# ---- new tensors


@form(
    "aten.full.default",
    "aten.zeros.default",
    "aten.ones.default",
    "aten.full_like.default",
    "aten.zeros_like.default",
    "aten.ones_like.default",
    "aten.new_full.default",
    "aten.new_zeros.default",
    "aten.new_ones.default",
)
def _full(c: Calls, a: Args, out: Out) -> Value:
    number = 0 if "zeros" in a["op"] else 1 if "ones" in a["op"] else a["fill_value"]
    return c.filled(out[0].shape, number, out[0].dtype)


@form("aten.scalar_tensor.default")
def _scalar(c: Calls, a: Args, out: Out) -> Value:
    return c.filled((), a["s"], out[0].dtype)


@form("aten.clone.default")
def _clone(c: Calls, a: Args, out: Out) -> Value:
    value: Value = a["self"].value
    return value


@form("aten._to_copy.default")
def _to_copy(c: Calls, a: Args, out: Out) -> Value:
    return c.cast(a["self"], out[0].dtype).value


# ---- reductions


def _axes(a: Args) -> tuple[int, ...]:
    x: Tensor = a["self"]
    dims = [a["dim"]] if isinstance(a.get("dim"), int) else a.get("dim")
    return tuple(axis(d, len(x.shape)) for d in dims) if dims else tuple(range(len(x.shape)))


def _reduced(c: Calls, command: str, a: Args, x: Tensor) -> Value:
    axes = _axes(a)
    return c.call(command, x, axes, bool(a.get("keepdim", False))) if axes else x.value


@form("aten.sum.default", "aten.sum.dim_IntList")
def _sum(c: Calls, a: Args, out: Out) -> Value:
    return _reduced(c, "sum", a, c.cast(a["self"], out[0].dtype))


@form("aten.mean.default", "aten.mean.dim")
def _mean(c: Calls, a: Args, out: Out) -> Value:
    return _reduced(c, "mean", a, c.cast(a["self"], out[0].dtype))


@form("aten.amax.default", "aten.amin.default")
def _extreme(c: Calls, a: Args, out: Out) -> Value:
    only_floats(out)
    return _reduced(c, "max" if "amax" in a["op"] else "min", a, a["self"])


@form("aten.logsumexp.default")
def _logsumexp(c: Calls, a: Args, out: Out) -> Value:
    return _reduced(c, "logSumExp", a, a["self"])


@form("aten.argmax.default", "aten.argmin.default")
def _index_of_extreme(c: Calls, a: Args, out: Out) -> Value:
    x: Tensor = a["self"]
    flat = a["dim"] is None or not x.shape
    value = c.reshape(x, (-1,)) if flat else x.value
    dim = 0 if flat else axis(a["dim"], len(x.shape))
    found = c.call("argMax" if "argmax" in a["op"] else "argMin", value, dim)
    return c.reshape(found, out[0].shape) if a["keepdim"] else found
