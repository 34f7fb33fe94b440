"""What a module holds, as plans see it: its state_dict, with what kind each entry is, and which are one tensor."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from gridkit.errors import PlanError
from gridkit.plans.table.shapes import ITEM_SIZES


@dataclass(frozen=True, slots=True)
class Held:
    """One entry of the state_dict. `source` is another entry's name when both are the same tensor."""

    tensor: torch.Tensor
    is_param: bool
    source: str | None


def copied(model: torch.nn.Module) -> torch.nn.Module:
    """A copy on the CPU, for the tracer to work on.

    Raises:
        PlanError: the model can't be copied.
    """
    try:
        return copy.deepcopy(model).cpu()
    except (TypeError, RuntimeError, copy.Error) as error:
        raise PlanError(f"the model can't be copied, and tracing mustn't change it: {error}") from error


def sharing(model: torch.nn.Module) -> torch.nn.Module:
    """A copy that has the model's own tensors, for code that gives it others and writes to none; however large it is.

    Raises:
        PlanError: the model can't be copied.
    """
    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.device.type != "cpu" for tensor in tensors):
        return copied(model)
    try:
        return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    except (TypeError, RuntimeError, copy.Error) as error:
        raise PlanError(f"the model can't be copied, and tracing mustn't change it: {error}") from error


def held_state(model: torch.nn.Module) -> dict[str, Held]:
    """The state_dict's entries, in order.

    Raises:
        PlanError: an entry is something else than a parameter or a buffer, or has a dtype that plans don't have.
    """
    params = dict(model.named_parameters(remove_duplicate=False))
    entries = {**params, **dict(model.named_buffers(remove_duplicate=False))}
    held: dict[str, Held] = {}
    first: dict[int, str] = {}
    for name in model.state_dict():
        tensor = entries.get(name)
        if tensor is None:
            raise PlanError(f"state_dict entry {name!r} is neither a parameter nor a buffer")
        if torch.nn.parameter.is_lazy(tensor):
            raise PlanError(f"{name!r} has no size yet: it belongs to a lazy module", "run the model once before")
        source = first.setdefault(id(tensor), name)
        if str(tensor.dtype).removeprefix("torch.") not in ITEM_SIZES:
            raise PlanError(f"{name!r} is {str(tensor.dtype).removeprefix('torch.')}, which a plan can't hold")
        held[name] = Held(tensor, name in params, None if source == name else source)
    return held
