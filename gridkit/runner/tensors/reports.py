"""What a node puts into a session's tensors itself, and takes out: private or not, no notebook can ask for this."""

from __future__ import annotations

import torch

from gridkit.runner.tensors.arguments import bad_form
from gridkit.runner.tensors.variables import array_of, dtype_name, tensor_of
from gridkit.wire.tensors import Array


def fill(tensor: torch.Tensor, start: int, array: Array) -> None:
    """Put values into a tensor, flat, from a place on.

    Raises:
        PlanError: `BAD_INPUT`: they don't fit.
    """
    if start + array.size > tensor.numel() or array.dtype.name != dtype_name(tensor.dtype):
        raise bad_form(f"{array.dtype.name}[{array.size}] doesn't fit into the tensor at {start}")
    with torch.no_grad():
        tensor.view(-1)[start : start + array.size] = tensor_of(array.reshape(-1))


def taken(tensor: torch.Tensor, size: int) -> Array | None:
    """The values of a tensor if it is float32 [size]."""
    if tensor.dtype != torch.float32 or tuple(tensor.shape) != (size,):
        return None
    return array_of(tensor)
