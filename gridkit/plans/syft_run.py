"""`Plan.execute`: a plan called as workers of the syft family call it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gridkit.errors import UsageError
from gridkit.plans.engines.kernels import torch_dtype
from gridkit.plans.function import call
from gridkit.plans.plan import Input, Plan
from gridkit.plans.syft_form import syft_step


def execute(plan: Plan, data: Sequence[Any]) -> list[torch.Tensor]:
    """See `Plan.execute`."""
    if plan.input("weight") is not None:
        plan = syft_step(plan)
    elif plan.input("lr") is None:
        results = call(plan, data)
        return [results] if isinstance(results, torch.Tensor) else list(results)
    if len(data) != len(plan.inputs):
        names = ", ".join(i.name for i in plan.inputs[:4])
        raise UsageError(
            f"plan {plan.name!r} takes {len(plan.inputs)} arguments, got {len(data)}",
            f"plan.execute(job.worker, {names}, *model.params)",
        )
    classes = plan.inputs[1].shape[1]
    if np.ndim(data[1]) == 1:
        raise UsageError(
            f"y is {list(np.shape(data[1]))}, and plan {plan.name!r} takes it one-hot: [B, {classes}]",
            f"torch.nn.functional.one_hot(y, {classes}).float() makes that of classes",
        )
    return plan.run([_value(i, given) for i, given in zip(plan.inputs, data, strict=True)])


def _value(wanted: Input, given: Any) -> torch.Tensor | float:
    """A number for a scalar may be a number, or a tensor or array with one element, as syft.js takes them."""
    try:
        tensor = given.detach() if isinstance(given, torch.Tensor) else torch.as_tensor(np.asarray(given))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{wanted.name} is no tensor: {error}") from None
    dtype = torch_dtype(wanted.dtype)
    if tensor.dtype != dtype:
        if not torch.can_cast(tensor.dtype, dtype):
            raise UsageError(f"{wanted.name} is {tensor.dtype}, and the plan takes {dtype}")
        tensor = tensor.to(dtype)
    if wanted.shape == ():
        if tensor.numel() != 1:
            raise UsageError(f"{wanted.name} has the shape {list(tensor.shape)}, expected one number")
        tensor = tensor.reshape(())
    return float(tensor) if wanted.role == "lr" else tensor
