"""Shape and dtype rules of operations that compare values: the largest, the smallest, the middle one, all in order."""

from __future__ import annotations

from gridkit.plans.table.shapes import Args, Meta, axes_of, axis_of, need, text_of
from gridkit.plans.table.shapes_layers import reduce


def extreme(a: Args) -> Meta:
    """The largest or smallest value over `dim`."""
    shape = a["self"].shape
    axes = axes_of(a["dim"], len(shape))
    need(all(shape[i] for i in axes if shape), f"no values to choose from in {text_of(shape)}")
    return Meta(reduce(dict(a, dtype=a["self"].dtype)).shape, a["self"].dtype)


def extreme_of_dim(a: Args) -> tuple[Meta, Meta]:
    out = extreme(dict(a, dim=[a["dim"]]))
    return out, Meta(out.shape, "int64")


def index_of_extreme(a: Args) -> Meta:
    out = extreme(dict(a, dim=None if a["dim"] is None else [a["dim"]]))
    need(a["self"].dtype != "bool", "argmax of bool")
    return Meta(out.shape, "int64")


def middle(a: Args) -> Meta:
    """The median of all values; of an even number of them the lower one in the middle."""
    need(a["self"].dtype != "bool", "median of bool")
    return extreme(dict(a, dim=None))


def middle_of_dim(a: Args) -> tuple[Meta, Meta]:
    need(a["self"].dtype != "bool", "median of bool")
    return extreme_of_dim(a)


def sorted_(a: Args) -> tuple[Meta, Meta]:
    axis_of(a["dim"], len(a["self"].shape))
    return Meta(a["self"].shape, a["self"].dtype), Meta(a["self"].shape, "int64")


def largest(a: Args) -> tuple[Meta, Meta]:
    """topk: the `k` largest (or smallest) values along `dim`."""
    shape, k = a["self"].shape, a["k"]
    need(bool(shape) and a["self"].dtype != "bool", f"the largest values of {a['self'].dtype}{text_of(shape)}")
    at = axis_of(a["dim"], len(shape))
    need(0 <= k <= shape[at], f"{k} values out of {shape[at]}")
    out = (*shape[:at], k, *shape[at + 1 :])
    return Meta(out, a["self"].dtype), Meta(out, "int64")
