"""Rows of the op table for elements, views, new tensors and numbers; `table.ops` says how a row is read."""

from __future__ import annotations

from gridkit.plans.table import shapes
from gridkit.plans.table.shapes import Rule

ROWS: tuple[tuple[Rule, str], ...] = (
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
    (shapes.stack, "aten.stack.default(Tensor[] tensors, int dim=0) -> Tensor"),
    (shapes.repeat, "aten.repeat.default(Tensor self, int[] repeats) -> Tensor"),
    (shapes.flip, "aten.flip.default(Tensor self, int[] dims) -> Tensor"),
    (shapes.roll, "aten.roll.default(Tensor self, int[1] shifts, int[1] dims=[]) -> Tensor"),
    (
        shapes.triangle,
        """
        aten.triu.default(Tensor self, int diagonal=0) -> Tensor
        aten.tril.default(Tensor self, int diagonal=0) -> Tensor
        """,
    ),
    (shapes.pad, "aten.constant_pad_nd.default(Tensor self, int[] pad, Scalar value=0) -> Tensor"),
    (
        shapes.same,
        """
        aten.relu.default(Tensor self) -> Tensor
        aten.neg.default(Tensor self) -> Tensor
        aten.abs.default(Tensor self) -> Tensor
        aten.sign.default(Tensor self) -> Tensor
        aten.sgn.default(Tensor self) -> Tensor
        aten.floor.default(Tensor self) -> Tensor
        aten.ceil.default(Tensor self) -> Tensor
        aten.round.default(Tensor self) -> Tensor
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
        aten.pow.Tensor_Tensor(Tensor self, Tensor exponent) -> Tensor
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
    (
        shapes.fused,
        """
        aten.lerp.Scalar(Tensor self, Tensor end, Scalar weight) -> Tensor
        aten.addcmul.default(Tensor self, Tensor tensor1, Tensor tensor2, *, Scalar value=1) -> Tensor
        """,
    ),
    (
        shapes.bitwise,
        """
        aten.bitwise_not.default(Tensor self) -> Tensor
        aten.bitwise_and.Tensor(Tensor self, Tensor other) -> Tensor
        aten.bitwise_or.Tensor(Tensor self, Tensor other) -> Tensor
        """,
    ),
    (shapes.where, "aten.where.self(Tensor condition, Tensor self, Tensor other) -> Tensor"),
    (
        shapes.masked_fill,
        """
        aten.masked_fill.Scalar(Tensor self, Tensor mask, Scalar value) -> Tensor
        aten.masked_fill.Tensor(Tensor self, Tensor mask, Tensor value) -> Tensor
        """,
    ),
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
    (shapes.true_divide, "aten.xlogy.Tensor(Tensor self, Tensor other) -> Tensor"),
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
    (
        shapes.arange,
        """
        aten.arange.default(Scalar end, *, dtype? dtype=None) -> Tensor
        aten.arange.start(Scalar start, Scalar end, *, dtype? dtype=None) -> Tensor
        aten.arange.start_step(Scalar start, Scalar end, Scalar step=1, *, dtype? dtype=None) -> Tensor
        """,
    ),
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
