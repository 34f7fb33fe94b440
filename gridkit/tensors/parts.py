"""Tensors larger than a message may be: they travel in parts, and are put together by functions of torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from gridkit.client.rpc_mirror import MirroredVariable
from gridkit.wire.rpc.values import DType
from gridkit.wire.tensors import Array

if TYPE_CHECKING:
    from gridkit.tensors.handle import Handle, World

PART = 16 << 20
"""bytes of a tensor in one message"""


def sent(world: World, array: Array, *, requires_grad: bool, parameter: bool) -> Handle:
    """A leaf on the node with these values. Of one that comes in parts the node doesn't know that it is a parameter."""
    if array.nbytes <= PART:
        return world.sent(array, requires_grad=requires_grad, parameter=parameter)
    zeros, whole = world.new(), world.new()
    dtype = DType(array.dtype.name)
    first = world.sent(array.reshape(-1)[:1].copy(), requires_grad=False, parameter=False)
    world.run("torch.Tensor.new_zeros", [first.ref, array.size], {"dtype": dtype}, [zeros.id], [first], False)
    for at in _parts(array.size, array.itemsize):
        part = world.sent(array.reshape(-1)[at], requires_grad=False, parameter=False)
        world.run("torch.Tensor.__setitem__", [zeros.ref, at, part.ref], {}, [], [zeros, part], False, [zeros.id])
    world.run("torch.Tensor.view", [zeros.ref, array.shape], {}, [whole.id], [zeros], True)
    if requires_grad:
        world.run("torch.Tensor.requires_grad_", [whole.ref], {}, [whole.id], [whole], True)
    return whole


async def read(handle: Handle, variable: MirroredVariable | None) -> Array:
    """The values of a variable."""
    world, client = handle.world, handle.world.client
    shape = () if variable is None else tuple(variable.data.shape)
    size = math.prod(shape)
    if variable is None or size * 8 <= PART:
        whole: Array = (await client.ask("get_variable", {"variable_id": handle.id}, [handle.id]))["data"]
        return whole
    flat = world.new()
    world.post("torch.Tensor.reshape", [handle.ref, -1], {}, [flat.id], [handle], False)
    found = []
    for at in _parts(size, 8):
        part = world.new()
        world.post("torch.Tensor.__getitem__", [flat.ref, at], {}, [part.id], [flat], False)
        data = (await client.ask("get_variable", {"variable_id": part.id}, [part.id, handle.id]))["data"]
        found.append(np.array(data))
    return np.concatenate(found).reshape(shape)


def _parts(size: int, itemsize: int) -> Iterator[slice]:
    step = max(1, PART // itemsize)
    for start in range(0, size, step):
        yield slice(start, min(size, start + step), None)
