"""Which function of torch runs an operation of the table, for all engines that run on torch.

Functions are found by the names of the table alone, never by a text that came with a plan.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

from gridkit.plans.plan import Arg, Dtype, Ref

Function = Callable[..., Any]


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *options: Any, attn_mask: Any = None, **more: Any
) -> Any:
    _in_rows(query, key, value, attn_mask)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default(
        query, key, value, *options, attn_mask=attn_mask, **more
    )


def _attention_backward(
    grad_out: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    *options: Any,
    attn_mask: Any = None,
    **more: Any,
) -> Any:
    _in_rows(query, key, value, out, attn_mask)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default(
        grad_out, query, key, value, out, *options, attn_mask=attn_mask, **more
    )


def _in_rows(*tensors: torch.Tensor | None) -> None:
    """The kernels of attention read whole rows without a look at the stride: another one would lead out of memory."""
    for tensor in tensors:
        if tensor is not None and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            raise RuntimeError("the last dimension of a tensor doesn't lie in one piece")


# torch's own entry points: the same kernels as torch.ops.aten, at about half of the cost of a call.
DIRECT: dict[str, Function] = {
    "aten.mm.default": torch.mm,
    "aten.bmm.default": torch.bmm,
    "aten.addmm.default": torch.addmm,
    "aten.t.default": torch.t,
    "aten.transpose.int": torch.transpose,
    "aten.permute.default": torch.permute,
    "aten.unsqueeze.default": torch.unsqueeze,
    "aten.select.int": torch.select,
    "aten.clone.default": torch.clone,
    "aten.relu.default": torch.relu,
    "aten.tanh.default": torch.tanh,
    "aten.sqrt.default": torch.sqrt,
    "aten.add.Tensor": torch.add,
    "aten.mul.Tensor": torch.mul,
    "aten.mul.Scalar": torch.mul,
    "aten.div.Tensor": torch.div,
    "aten.div.Scalar": torch.div,
    "aten.lerp.Scalar": torch.lerp,
    "aten.addcmul.default": torch.addcmul,
    "aten._scaled_dot_product_flash_attention_for_cpu.default": _attention,
    "aten._scaled_dot_product_flash_attention_for_cpu_backward.default": _attention_backward,
    "aten._softmax.default": torch._softmax,
    "aten._log_softmax.default": torch._log_softmax,
    "aten._log_softmax_backward_data.default": torch._log_softmax_backward_data,
    "aten.native_layer_norm.default": torch.native_layer_norm,
    "aten.convolution.default": torch.convolution,
    "aten.max_pool2d_with_indices.default": torch._C._nn.max_pool2d_with_indices,
    "aten.sum.dim_IntList": torch.sum,
    "aten.sum.default": torch.sum,
    "aten.mean.default": torch.mean,
    "aten.view.default": torch.Tensor.view,
    "aten.expand.default": torch.Tensor.expand,
    "aten.sym_size.int": torch.Tensor.size,
    "py.add": operator.add,
    "py.mul": operator.mul,
    "py.truediv": operator.truediv,
    "py.floordiv": operator.floordiv,
    "py.mod": operator.mod,
    "py.neg": operator.neg,
}

# The same kernels with the first argument's memory for the result.
IN_PLACE: dict[str, Function] = {
    "aten.add.Tensor": torch.Tensor.add_,
    "aten.sub.Tensor": torch.Tensor.sub_,
    "aten.mul.Tensor": torch.Tensor.mul_,
    "aten.mul.Scalar": torch.Tensor.mul_,
    "aten.div.Tensor": torch.Tensor.div_,
    "aten.sqrt.default": torch.Tensor.sqrt_,
    "aten.lerp.Scalar": torch.Tensor.lerp_,
    "aten.addcmul.default": torch.Tensor.addcmul_,
    "aten.add.Scalar": torch.ops.aten.add_.Scalar,
}


def function_of(name: str) -> Function:
    """The function that runs an operation, by its name in the op table."""
    if name in DIRECT:
        return DIRECT[name]
    _, op, overload = name.split(".")
    function: Function = getattr(getattr(torch.ops.aten, op), overload)
    return function


def torch_dtype(name: str) -> torch.dtype:
    """torch's dtype of a NumPy name."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype


_FORMATS = {"contiguous_format": torch.contiguous_format, "preserve_format": torch.preserve_format}


def literal(arg: Arg) -> Any:
    """An argument without references, as torch takes it."""
    if isinstance(arg, Dtype):
        return torch_dtype(arg.name)
    if isinstance(arg, str):
        return _FORMATS.get(arg, arg)
    return [literal(a) for a in arg] if isinstance(arg, tuple) else arg


def has_reference(arg: Arg) -> bool:
    """Whether an argument is a value of the run, or holds one."""
    return isinstance(arg, Ref) or (isinstance(arg, tuple) and any(map(has_reference, arg)))
