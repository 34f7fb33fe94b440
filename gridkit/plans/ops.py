"""The op table: every operation a plan may hold, its schema, and the rule for its result's shape.

One row an operation, named as ATen names it, plus a few ``py.`` rows for numbers that depend on the batch size or on
the learning rate. The schema strings are our own, so that a plan is validated without torch; arguments that a plan
never carries (device, layout, pinning) are left out. ``(a)`` marks a result that is a view and takes no memory.
To add an operation, add a row; the tests compare each row with torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from gridkit.plans import shapes
from gridkit.plans import shapes_layers as layers
from gridkit.plans.shapes import Rule

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


_TABLE: tuple[tuple[Rule, str], ...] = (
    (shapes.transpose_2d, "aten.t.default(Tensor(a) self) -> Tensor(a)"),
    (
        shapes.view,
        """
        aten.view.default(Tensor(a) self, int[] size) -> Tensor(a)
        aten._unsafe_view.default(Tensor self, int[] size) -> Tensor
        """,
    ),
    (shapes.expand, "aten.expand.default(Tensor(a) self, int[] size) -> Tensor(a)"),
    (shapes.permute, "aten.permute.default(Tensor(a) self, int[] dims) -> Tensor(a)"),
    (shapes.transpose, "aten.transpose.int(Tensor(a) self, int dim0, int dim1) -> Tensor(a)"),
    (
        shapes.squeeze,
        """
        aten.squeeze.dim(Tensor(a) self, int dim) -> Tensor(a)
        aten.squeeze.dims(Tensor(a) self, int[] dim) -> Tensor(a)
        """,
    ),
    (shapes.unsqueeze, "aten.unsqueeze.default(Tensor(a) self, int dim) -> Tensor(a)"),
    (shapes.select, "aten.select.int(Tensor(a) self, int dim, int index) -> Tensor(a)"),
    (
        shapes.slice_,
        "aten.slice.Tensor(Tensor(a) self, int dim=0, int? start=None, int? end=None, int step=1) -> Tensor(a)",
    ),
    (
        shapes.put_back,
        """
        aten.select_backward.default(Tensor grad_output, int[] input_sizes, int dim, int index) -> Tensor
        aten.slice_backward.default(Tensor grad_output, int[] input_sizes, int dim, int start, int end, int step) ->
            Tensor
        """,
    ),
    (shapes.cat, "aten.cat.default(Tensor[] tensors, int dim=0) -> Tensor"),
    (shapes.pad, "aten.constant_pad_nd.default(Tensor self, int[] pad, Scalar value=0) -> Tensor"),
    (
        layers.matmul,
        """
        aten.mm.default(Tensor self, Tensor mat2) -> Tensor
        aten.bmm.default(Tensor self, Tensor mat2) -> Tensor
        aten.addmm.default(Tensor self, Tensor mat1, Tensor mat2, *, Scalar beta=1, Scalar alpha=1) -> Tensor
        """,
    ),
    (
        layers.convolution,
        "aten.convolution.default(Tensor input, Tensor weight, Tensor? bias, int[] stride, int[] padding, "
        "int[] dilation, bool transposed, int[] output_padding, int groups) -> Tensor",
    ),
    (
        layers.convolution_backward,
        "aten.convolution_backward.default(Tensor grad_output, Tensor input, Tensor weight, int[]? bias_sizes, "
        "int[] stride, int[] padding, int[] dilation, bool transposed, int[] output_padding, int groups, "
        "bool[3] output_mask) -> (Tensor, Tensor, Tensor)",
    ),
    (
        layers.max_pool,
        "aten.max_pool2d_with_indices.default(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0, "
        "int[2] dilation=1, bool ceil_mode=False) -> (Tensor, Tensor)",
    ),
    (
        layers.max_pool_backward,
        "aten.max_pool2d_with_indices_backward.default(Tensor grad_output, Tensor self, int[2] kernel_size, "
        "int[2] stride, int[2] padding, int[2] dilation, bool ceil_mode, Tensor indices) -> Tensor",
    ),
    (
        layers.avg_pool,
        "aten.avg_pool2d.default(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0, "
        "bool ceil_mode=False, bool count_include_pad=True, int? divisor_override=None) -> Tensor",
    ),
    (
        layers.avg_pool_backward,
        "aten.avg_pool2d_backward.default(Tensor grad_output, Tensor self, int[2] kernel_size, int[2] stride, "
        "int[2] padding, bool ceil_mode, bool count_include_pad, int? divisor_override) -> Tensor",
    ),
    (layers.adaptive_pool, "aten._adaptive_avg_pool2d.default(Tensor self, int[2] output_size) -> Tensor"),
    (
        layers.adaptive_pool_backward,
        "aten._adaptive_avg_pool2d_backward.default(Tensor grad_output, Tensor self) -> Tensor",
    ),
    (
        shapes.same,
        """
        aten.relu.default(Tensor self) -> Tensor
        aten.neg.default(Tensor self) -> Tensor
        aten.abs.default(Tensor self) -> Tensor
        aten.sign.default(Tensor self) -> Tensor
        aten.sgn.default(Tensor self) -> Tensor
        aten.gelu.default(Tensor self, *, str approximate="none") -> Tensor
        aten.silu.default(Tensor self) -> Tensor
        aten.elu.default(Tensor self, Scalar alpha=1, Scalar scale=1, Scalar input_scale=1) -> Tensor
        aten.celu.default(Tensor self, Scalar alpha=1.0) -> Tensor
        aten.mish.default(Tensor self) -> Tensor
        aten.leaky_relu.default(Tensor self, Scalar negative_slope=0.01) -> Tensor
        aten.hardtanh.default(Tensor self, Scalar min_val=-1, Scalar max_val=1) -> Tensor
        aten.hardsigmoid.default(Tensor self) -> Tensor
        aten.hardswish.default(Tensor self) -> Tensor
        aten.softplus.default(Tensor self, Scalar beta=1, Scalar threshold=20) -> Tensor
        """,
    ),
    (
        shapes.floating,
        """
        aten.tanh.default(Tensor self) -> Tensor
        aten.sigmoid.default(Tensor self) -> Tensor
        aten.exp.default(Tensor self) -> Tensor
        aten.expm1.default(Tensor self) -> Tensor
        aten.log.default(Tensor self) -> Tensor
        aten.log1p.default(Tensor self) -> Tensor
        aten.sqrt.default(Tensor self) -> Tensor
        aten.rsqrt.default(Tensor self) -> Tensor
        aten.reciprocal.default(Tensor self) -> Tensor
        aten.sin.default(Tensor self) -> Tensor
        aten.cos.default(Tensor self) -> Tensor
        aten.erf.default(Tensor self) -> Tensor
        """,
    ),
    (
        shapes.log_sigmoid_backward,
        "aten.log_sigmoid_backward.default(Tensor grad_output, Tensor self, Tensor buffer) -> Tensor",
    ),
    (shapes.log_sigmoid_forward, "aten.log_sigmoid_forward.default(Tensor self) -> (Tensor, Tensor)"),
    (
        shapes.with_number,
        """
        aten.add.Scalar(Tensor self, Scalar other, Scalar alpha=1) -> Tensor
        aten.sub.Scalar(Tensor self, Scalar other, Scalar alpha=1) -> Tensor
        aten.rsub.Scalar(Tensor self, Scalar other, Scalar alpha=1) -> Tensor
        aten.mul.Scalar(Tensor self, Scalar other) -> Tensor
        aten.pow.Tensor_Scalar(Tensor self, Scalar exponent) -> Tensor
        aten.clamp.default(Tensor self, Scalar? min=None, Scalar? max=None) -> Tensor
        aten.clamp_min.default(Tensor self, Scalar min) -> Tensor
        aten.clamp_max.default(Tensor self, Scalar max) -> Tensor
        """,
    ),
    (
        shapes.true_divide,
        """
        aten.div.Tensor(Tensor self, Tensor other) -> Tensor
        aten.div.Scalar(Tensor self, Scalar other) -> Tensor
        """,
    ),
    (
        shapes.pair,
        """
        aten.add.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor
        aten.sub.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor
        aten.mul.Tensor(Tensor self, Tensor other) -> Tensor
        aten.maximum.default(Tensor self, Tensor other) -> Tensor
        aten.minimum.default(Tensor self, Tensor other) -> Tensor
        """,
    ),
    (
        shapes.compare,
        """
        aten.eq.Tensor(Tensor self, Tensor other) -> Tensor
        aten.ne.Tensor(Tensor self, Tensor other) -> Tensor
        aten.lt.Tensor(Tensor self, Tensor other) -> Tensor
        aten.le.Tensor(Tensor self, Tensor other) -> Tensor
        aten.gt.Tensor(Tensor self, Tensor other) -> Tensor
        aten.ge.Tensor(Tensor self, Tensor other) -> Tensor
        aten.eq.Scalar(Tensor self, Scalar other) -> Tensor
        aten.ne.Scalar(Tensor self, Scalar other) -> Tensor
        aten.lt.Scalar(Tensor self, Scalar other) -> Tensor
        aten.le.Scalar(Tensor self, Scalar other) -> Tensor
        aten.gt.Scalar(Tensor self, Scalar other) -> Tensor
        aten.ge.Scalar(Tensor self, Scalar other) -> Tensor
        aten.logical_and.default(Tensor self, Tensor other) -> Tensor
        aten.logical_or.default(Tensor self, Tensor other) -> Tensor
        aten.logical_not.default(Tensor self) -> Tensor
        """,
    ),
    (shapes.where, "aten.where.self(Tensor condition, Tensor self, Tensor other) -> Tensor"),
    (shapes.masked_fill, "aten.masked_fill.Scalar(Tensor self, Tensor mask, Scalar value) -> Tensor"),
    (
        shapes.backward_of_element,
        """
        aten.threshold_backward.default(Tensor grad_output, Tensor self, Scalar threshold) -> Tensor
        aten.tanh_backward.default(Tensor grad_output, Tensor output) -> Tensor
        aten.sigmoid_backward.default(Tensor grad_output, Tensor output) -> Tensor
        aten.gelu_backward.default(Tensor grad_output, Tensor self, *, str approximate="none") -> Tensor
        aten.silu_backward.default(Tensor grad_output, Tensor self) -> Tensor
        aten.elu_backward.default(Tensor grad_output, Scalar alpha, Scalar scale, Scalar input_scale, bool
            is_result, Tensor self_or_result) -> Tensor
        aten.mish_backward.default(Tensor grad_output, Tensor self) -> Tensor
        aten.leaky_relu_backward.default(Tensor grad_output, Tensor self, Scalar negative_slope, bool
            self_is_result) -> Tensor
        aten.hardtanh_backward.default(Tensor grad_output, Tensor self, Scalar min_val, Scalar max_val) -> Tensor
        aten.hardsigmoid_backward.default(Tensor grad_output, Tensor self) -> Tensor
        aten.hardswish_backward.default(Tensor grad_output, Tensor self) -> Tensor
        aten.softplus_backward.default(Tensor grad_output, Tensor self, Scalar beta, Scalar threshold) -> Tensor
        """,
    ),
    (layers.prelu, "aten._prelu_kernel.default(Tensor self, Tensor weight) -> Tensor"),
    (
        layers.prelu_backward,
        "aten._prelu_kernel_backward.default(Tensor grad_output, Tensor self, Tensor weight) -> (Tensor, Tensor)",
    ),
    (
        layers.layer_norm,
        "aten.native_layer_norm.default(Tensor input, int[] normalized_shape, Tensor? weight, Tensor? bias, float eps) "
        "-> (Tensor, Tensor, Tensor)",
    ),
    (
        layers.layer_norm_backward,
        "aten.native_layer_norm_backward.default(Tensor grad_out, Tensor input, int[] normalized_shape, Tensor mean, "
        "Tensor rstd, Tensor? weight, Tensor? bias, bool[3] output_mask) -> (Tensor, Tensor, Tensor)",
    ),
    (
        layers.group_norm,
        "aten.native_group_norm.default(Tensor input, Tensor? weight, Tensor? bias, int N, int C, int HxW, int group, "
        "float eps) -> (Tensor, Tensor, Tensor)",
    ),
    (
        layers.group_norm_backward,
        "aten.native_group_norm_backward.default(Tensor grad_out, Tensor input, Tensor mean, Tensor rstd, "
        "Tensor? weight, int N, int C, int HxW, int group, bool[3] output_mask) -> (Tensor, Tensor, Tensor)",
    ),
    (
        layers.softmax,
        """
        aten._softmax.default(Tensor self, int dim, bool half_to_float) -> Tensor
        aten._log_softmax.default(Tensor self, int dim, bool half_to_float) -> Tensor
        """,
    ),
    (
        layers.softmax_backward,
        """
        aten._softmax_backward_data.default(Tensor grad_output, Tensor output, int dim, dtype input_dtype) -> Tensor
        aten._log_softmax_backward_data.default(Tensor grad_output, Tensor output, int dim, dtype input_dtype) ->
            Tensor
        """,
    ),
    (
        layers.nll,
        """
        aten.nll_loss_forward.default(Tensor self, Tensor target, Tensor? weight, int reduction, int ignore_index)
            -> (Tensor, Tensor)
        aten.nll_loss2d_forward.default(Tensor self, Tensor target, Tensor? weight, int reduction, int ignore_index)
            -> (Tensor, Tensor)
        """,
    ),
    (
        layers.nll_backward,
        """
        aten.nll_loss_backward.default(Tensor grad_output, Tensor self, Tensor target, Tensor? weight, int
            reduction, int ignore_index, Tensor total_weight) -> Tensor
        aten.nll_loss2d_backward.default(Tensor grad_output, Tensor self, Tensor target, Tensor? weight, int
            reduction, int ignore_index, Tensor total_weight) -> Tensor
        """,
    ),
    (
        layers.elementwise_loss,
        """
        aten.mse_loss.default(Tensor self, Tensor target, int reduction=1) -> Tensor
        aten.smooth_l1_loss.default(Tensor self, Tensor target, int reduction=1, float beta=1.0) -> Tensor
        aten.huber_loss.default(Tensor self, Tensor target, int reduction=1, float delta=1.0) -> Tensor
        aten.binary_cross_entropy.default(Tensor self, Tensor target, Tensor? weight=None, int reduction=1) -> Tensor
        aten.binary_cross_entropy_with_logits.default(Tensor self, Tensor target, Tensor? weight=None, Tensor?
            pos_weight=None, int reduction=1) -> Tensor
        """,
    ),
    (
        layers.elementwise_loss_backward,
        """
        aten.mse_loss_backward.default(Tensor grad_output, Tensor self, Tensor target, int reduction) -> Tensor
        aten.smooth_l1_loss_backward.default(Tensor grad_output, Tensor self, Tensor target, int reduction, float
            beta) -> Tensor
        aten.huber_loss_backward.default(Tensor grad_output, Tensor self, Tensor target, int reduction, float delta)
            -> Tensor
        aten.binary_cross_entropy_backward.default(Tensor grad_output, Tensor self, Tensor target, Tensor?
            weight=None, int reduction=1) -> Tensor
        """,
    ),
    (shapes.true_divide, "aten.xlogy.Tensor(Tensor self, Tensor other) -> Tensor"),
    (
        layers.reduce,
        """
        aten.sum.default(Tensor self, *, dtype? dtype=None) -> Tensor
        aten.sum.dim_IntList(Tensor self, int[1]? dim, bool keepdim=False, *, dtype? dtype=None) -> Tensor
        """,
    ),
    (
        layers.mean,
        """
        aten.mean.default(Tensor self, *, dtype? dtype=None) -> Tensor
        aten.mean.dim(Tensor self, int[1]? dim, bool keepdim=False, *, dtype? dtype=None) -> Tensor
        """,
    ),
    (
        shapes.full,
        """
        aten.full.default(int[] size, Scalar fill_value, *, dtype? dtype=None) -> Tensor
        aten.zeros.default(int[] size, *, dtype? dtype=None) -> Tensor
        aten.ones.default(int[] size, *, dtype? dtype=None) -> Tensor
        aten.full_like.default(Tensor self, Scalar fill_value, *, dtype? dtype=None) -> Tensor
        aten.zeros_like.default(Tensor self, *, dtype? dtype=None) -> Tensor
        aten.ones_like.default(Tensor self, *, dtype? dtype=None) -> Tensor
        aten.new_full.default(Tensor self, int[] size, Scalar fill_value, *, dtype? dtype=None) -> Tensor
        aten.new_zeros.default(Tensor self, int[] size, *, dtype? dtype=None) -> Tensor
        aten.new_ones.default(Tensor self, int[] size, *, dtype? dtype=None) -> Tensor
        """,
    ),
    (shapes.scalar, "aten.scalar_tensor.default(Scalar s, *, dtype? dtype=None) -> Tensor"),
    (shapes.arange, "aten.arange.default(Scalar end, *, dtype? dtype=None) -> Tensor"),
    (shapes.same, "aten.clone.default(Tensor self, *, MemoryFormat? memory_format=None) -> Tensor"),
    (
        shapes.cast,
        "aten._to_copy.default(Tensor self, *, dtype? dtype=None, MemoryFormat? memory_format=None) -> Tensor",
    ),
    (shapes.size, "aten.sym_size.int(Tensor self, int dim) -> int"),
    (lambda a: a["self"] + a["other"], "py.add(Scalar self, Scalar other) -> Scalar"),
    (lambda a: a["self"] * a["other"], "py.mul(Scalar self, Scalar other) -> Scalar"),
    (lambda a: a["self"] / a["other"], "py.truediv(Scalar self, Scalar other) -> Scalar"),
    (lambda a: a["self"] // a["other"], "py.floordiv(Scalar self, Scalar other) -> Scalar"),
    (lambda a: a["self"] % a["other"], "py.mod(Scalar self, Scalar other) -> Scalar"),
    (lambda a: -a["self"], "py.neg(Scalar self) -> Scalar"),
)


@cache
def table() -> MappingProxyType[str, Op]:
    """The whole table by name. Built at its first use."""
    lines = ((rule, line) for rule, text in _TABLE for line in _NEXT_ROW.split(" ".join(text.split())))
    rows = (parse(line, rule) for rule, line in lines)
    return MappingProxyType({row.name: row for row in rows})
