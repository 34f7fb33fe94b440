"""nn modules whose parameters are on a node: the code runs here, its arithmetic there."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from gridkit.errors import UsageError
from gridkit.tensors.handle import World
from gridkit.tensors.remote import Remote

M = TypeVar("M", bound=nn.Module)


def remote_module(world: World, module: M) -> M:
    """A copy of a module whose parameters and buffers are remote; what is shared in it stays shared.

    Raises:
        UsageError: it isn't a module, or can't be copied.
    """
    if not isinstance(module, nn.Module):
        raise UsageError(f"a {type(module).__name__} isn't an nn.Module", "for a tensor there is grid.tensor")
    state = (*module.parameters(), *module.buffers())
    if any(isinstance(tensor, Remote) for tensor in state):
        raise UsageError("this module is remote already", "a copy of it is copy.deepcopy(net)")
    made: dict[int, torch.Tensor] = {}
    memo: dict[int, object] = {}
    for tensor in state:  # copied by deepcopy as they are: they are replaced in a moment, and may be large
        memo[id(tensor)] = tensor
    try:
        copied: M = copy.deepcopy(module, memo)
    except (TypeError, RuntimeError) as error:
        raise UsageError(f"this {type(module).__name__} can't be copied: {error}") from None
    for tensor in state:
        if id(tensor) not in made:
            made[id(tensor)] = world.create(tensor, parameter=isinstance(tensor, nn.Parameter))
    for part in copied.modules():
        for held in (part._parameters, part._buffers):
            for name, own in list(held.items()):
                if own is not None:
                    setattr(part, name, made[id(own)])  # nn.LSTM, say, keeps its weights in a list besides
    return copied
