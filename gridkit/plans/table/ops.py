"""The op table: every operation a plan may hold, its schema, and the rule for its result's shape.

One row an operation, named as ATen names it, plus a few ``py.`` rows for numbers that depend on the batch size or on
the learning rate. The schema strings are our own, so that a plan is validated without torch; arguments that a plan
never carries (device, layout, pinning) are left out. ``(a)`` marks a result that is a view and takes no memory.
To add an operation, add a row in rows.py or rows_layers.py; the tests compare each row with torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from gridkit.plans.table.rows import ROWS
from gridkit.plans.table.rows_layers import LAYERS
from gridkit.plans.table.shapes import Rule

REQUIRED = object()


@dataclass(frozen=True, slots=True)
class Param:
    """One argument of a schema: `type` without ``[]`` and ``?``; `length` is 0 for lists of any length."""

    name: str
    type: str
    optional: bool
    is_list: bool
    length: int
    keyword: bool
    default: object


@dataclass(frozen=True, slots=True)
class Forward:
    """What must stand before a backward operation whose kernel trusts the indices in its arguments.

    torch checks labels and pooling indices in the forward kernels only; a backward kernel that is fed others writes
    outside of its memory. So such a node is allowed only after its own forward node.

    Attributes:
        op: the forward operation.
        same: arguments that must be the same in both.
        results: the backward's argument: the forward's result that it must be.
    """

    op: str
    same: tuple[str, ...]
    results: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Op:
    """A row of the table."""

    name: str
    params: tuple[Param, ...]
    results: tuple[str, ...]
    is_view: bool
    rule: Rule
    forward: Forward | None = None

    @property
    def positional(self) -> tuple[Param, ...]:
        return tuple(p for p in self.params if not p.keyword)


_NEXT_ROW = re.compile(r" (?=(?:aten|py)\.)")
_PARAM = re.compile(
    r"(?P<type>\w+)(?:\(a\))?(?P<list>\[(?P<length>\d*)\])?(?P<optional>\?)? (?P<name>\w+)(?:=(?P<default>.+))?"
)


_LABELS = ("self", "target", "ignore_index")
_FORWARD = {
    "aten.adaptive_max_pool2d_backward.default": Forward(
        "aten.adaptive_max_pool2d.default", ("self",), (("indices", 1),)
    ),
    "aten.embedding_dense_backward.default": Forward("aten.embedding.default", ("indices",), ()),
    "aten.max_pool2d_with_indices_backward.default": Forward(
        "aten.max_pool2d_with_indices.default",
        ("self", "kernel_size", "stride", "padding", "dilation", "ceil_mode"),
        (("indices", 1),),
    ),
    "aten.nll_loss_backward.default": Forward("aten.nll_loss_forward.default", _LABELS, (("total_weight", 1),)),
    "aten.nll_loss2d_backward.default": Forward("aten.nll_loss2d_forward.default", _LABELS, (("total_weight", 1),)),
}


def _default(text: str | None) -> object:
    if text is None:
        return REQUIRED
    words: dict[str, object] = {"None": None, "True": True, "False": False, "[]": ()}
    if text in words:
        return words[text]
    if text.startswith('"'):
        return text.strip('"')
    return float(text) if "." in text else int(text)


def parse(line: str, rule: Rule) -> Op:
    """Read one row, such as ``aten.mm.default(Tensor self, Tensor mat2) -> Tensor``."""
    name, rest = line.split("(", 1)
    inside, results = rest.rsplit(") -> ", 1)
    params, keyword = [], False
    for piece in filter(None, inside.split(", ")):
        if piece == "*":
            keyword = True
            continue
        match = _PARAM.fullmatch(piece)
        if match is None:
            raise ValueError(f"schema of {name}: {piece!r}")
        default = _default(match["default"])
        is_list, length = match["list"] is not None, int(match["length"] or 0)
        if is_list and isinstance(default, int) and not isinstance(default, bool):
            default = (default,) * length
        params.append(Param(match["name"], match["type"], bool(match["optional"]), is_list, length, keyword, default))
    kinds = tuple(r.split()[0].split("(")[0] for r in results.strip("()").split(", "))
    return Op(name.strip(), tuple(params), kinds, "(a)" in results, rule, _FORWARD.get(name.strip()))


@cache
def table() -> MappingProxyType[str, Op]:
    """The whole table by name. Built at its first use."""
    lines = ((rule, line) for rule, text in (*ROWS, *LAYERS) for line in _NEXT_ROW.split(" ".join(text.split())))
    rows = (parse(line, rule) for rule, line in lines)
    return MappingProxyType({row.name: row for row in rows})
