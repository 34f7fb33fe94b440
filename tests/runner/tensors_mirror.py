"""Tensors that know their shape only, and have a session do everything else: enough of a client to run nn modules."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch.overrides import resolve_name

from gridkit.runner.tensors.arguments import tensors_in
from gridkit.runner.tensors.session import TensorSession
from tests.runner.tensors_peer import form

# What the shape alone answers.
_LOCAL = """
    shape ndim dtype layout requires_grad is_leaf is_nested is_sparse is_quantized is_cuda is_cpu is_meta
    retains_grad names
"""
_LOCAL_CALLS = """
    size dim numel stride is_floating_point is_complex __len__ is_contiguous ndimension nelement element_size __hash__
    __format__ __repr__ is_same_size get_device
"""


class World:
    """A session, and ids for what is in it."""

    def __init__(self, session: TensorSession) -> None:
        self.session = session
        self.ids = map("m{}".format, itertools.count())
        self.used: set[str] = set()

    def mirror(self, tensor: torch.Tensor) -> Mirror:
        """A leaf of the session with this tensor's values."""
        name = next(self.ids)
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        self.session.create(name, tensor.detach().numpy(), tensor.requires_grad, is_parameter)
        return self.wrapped(tensor.detach().to("meta").requires_grad_(tensor.requires_grad), name)

    def mirrored(self, module: torch.nn.Module) -> dict[str, Mirror]:
        """A module's parameters and buffers by name."""
        state = itertools.chain(module.named_parameters(), module.named_buffers())
        return {name: self.mirror(tensor) for name, tensor in state}

    def wrapped(self, meta: torch.Tensor, name: str) -> Mirror:
        result = meta.as_subclass(Mirror)
        result.name_, result.world = name, self
        return result

    def read(self, tensor: Mirror) -> torch.Tensor:
        return torch.from_numpy(self.session.read(tensor.name_))

    def grad(self, tensor: Mirror) -> torch.Tensor:
        name = next(self.ids)
        self.session.name_grad(tensor.name_, name)
        return torch.from_numpy(self.session.read(name))


class Mirror(torch.Tensor):
    name_: str
    world: World

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(resolve_name(func))
        space, _, short = name.removesuffix(".__get__").rpartition(".")
        if (
            space in ("torch", "torch.Tensor")
            and short in (_LOCAL if name.endswith("__get__") else _LOCAL_CALLS).split()
        ):
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if name == "torch.Tensor.device.__get__":
            return torch.device("cpu")  # what a module makes beside it holds values of its own
        world = next(t.world for t in tensors_in([args, kwargs]) if isinstance(t, Mirror))
        if name == "torch.Tensor.backward":
            return world.session.backward([args[0].name_])
        return _call(world, func, name, args, kwargs)


def _call(world: World, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Run it on shapes here, for the results' shapes and their number, and in the session."""
    world.used.add(name)

    def name_of(tensor: torch.Tensor) -> str:
        return tensor.name_ if isinstance(tensor, Mirror) else world.mirror(tensor).name_

    forms = [form(arg, name_of) for arg in args]
    named = {key: form(value, name_of) for key, value in kwargs.items()}
    with torch._C.DisableTorchFunctionSubclass():
        result = func(*_on_meta(args), **_on_meta(kwargs))
    out: dict[int, Mirror] = {}
    for tensor in tensors_in(result):
        if not isinstance(tensor, Mirror):
            out[id(tensor)] = world.wrapped(tensor, next(world.ids))
    ids = [tensor.name_ if isinstance(tensor, Mirror) else out[id(tensor)].name_ for tensor in tensors_in(result)]
    told = world.session.call(name, forms, named, ids, grad_enabled=torch.is_grad_enabled())
    for mirror, variable in zip(_unique(out.get(id(t), t) for t in tensors_in(result)), told.variables, strict=True):
        assert variable.data.shape == tuple(mirror.shape) and variable.requires_grad == mirror.requires_grad
    return _swapped(result, out)


def _unique(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _on_meta(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value if isinstance(value, Mirror) else value.to("meta")
    if isinstance(value, list | tuple):
        return type(value)(map(_on_meta, value))
    return {key: _on_meta(item) for key, item in value.items()} if isinstance(value, dict) else value


def _swapped(value: Any, out: dict[int, Mirror]) -> Any:
    if isinstance(value, torch.Tensor):
        return out.get(id(value), value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_swapped(item, out) for item in value))
    return type(value)(_swapped(item, out) for item in value) if isinstance(value, list | tuple) else value
