"""A session of remote tensors and torch itself, doing the same side by side."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from gridkit.errors import PlanError
from gridkit.runner.tensors.arguments import tensors_in
from gridkit.runner.tensors.functions import FUNCTIONS
from gridkit.runner.tensors.session import TensorSession
from gridkit.runner.tensors.variables import array_of, dtype_name

MIB = 1 << 20


def session(memory: int = 256 * MIB, seconds: float = 60, count: int = 100_000, preview: int = 0) -> TensorSession:
    return TensorSession(memory, seconds, count, preview)


def ref(name: str) -> dict[str, Any]:
    return {"__variable__": True, "variable_id": name}


def form(value: Any, name_of: Any = None) -> Any:
    """The JSON form of an argument; `name_of` gives the id of a tensor."""
    if isinstance(value, torch.Tensor):
        return ref(name_of(value))
    if isinstance(value, torch.dtype):
        return {"__dtype__": dtype_name(value)}
    if isinstance(value, torch.memory_format):
        return {"__memory_format__": str(value).removeprefix("torch.")}
    if isinstance(value, tuple):
        return {"__tuple__": [form(v, name_of) for v in value]}
    if isinstance(value, list):
        return [form(v, name_of) for v in value]
    if isinstance(value, slice):
        return {"__slice__": [value.start, value.stop, value.step]}
    if value is ...:
        return {"__ellipsis__": True}
    if isinstance(value, float) and value - value != 0:
        return {"__float__": str(value)}
    return value


def same(one: Any, two: Any) -> bool:
    """Whether two arrays have the same dtype, shape and bits; all NaNs are one."""
    return (
        one.dtype == two.dtype
        and one.shape == two.shape
        and bool(np.array_equal(one, two, equal_nan=one.dtype.kind == "f"))
    )


class Both:
    """Does everything twice: in a session, and with tensors of this process."""

    def __init__(self, remote: TensorSession | None = None) -> None:
        self.remote = remote or session()
        self.local: dict[str, torch.Tensor] = {}
        self._ids = map("t{}".format, itertools.count())
        self._names: dict[int, str] = {}

    def name_of(self, tensor: torch.Tensor) -> str:
        """Its id; a tensor that isn't there yet is created in the session."""
        name = self._names.get(id(tensor))
        if name is None:
            name = self._keep(next(self._ids), tensor)
            self.remote.create(name, tensor.detach().numpy(), tensor.requires_grad)
        return name

    def _keep(self, name: str, tensor: torch.Tensor) -> str:
        self.local[name] = tensor
        self._names[id(tensor)] = name
        return name

    def run(self, function: str, args: Sequence[Any], kwargs: dict[str, Any]) -> list[torch.Tensor]:
        """The local results. The session's have the ids that `name_of` gives for them."""
        forms = [form(arg, self.name_of) for arg in args]
        named = {key: form(value, self.name_of) for key, value in kwargs.items()}
        torch.default_generator.manual_seed(7)
        results = tensors_in(FUNCTIONS[function](*args, **kwargs))
        ids = [self._names.get(id(tensor)) or self._keep(next(self._ids), tensor) for tensor in results]
        self.remote.seed(7)
        self.remote.call(function, forms, named, ids)
        return results

    def check(self, tensors: Sequence[torch.Tensor]) -> None:
        for tensor in tensors:
            assert same(self.remote.read(self.name_of(tensor)), array_of(tensor)), self.name_of(tensor)

    def backward(self, roots: Sequence[torch.Tensor]) -> None:
        """From all of these, with gradients that aren't all the same."""
        gradients = [torch.linspace(-1, 2, root.numel()).reshape(root.shape) for root in roots]
        gradients = [
            self.run("torch.Tensor.to", [g, root.dtype], {})[0] for g, root in zip(gradients, roots, strict=True)
        ]
        names = [self.name_of(root) for root in roots], [self.name_of(gradient) for gradient in gradients]
        try:
            torch.autograd.backward(roots, gradients)
        except RuntimeError as error:
            with pytest.raises(PlanError, match=re.escape(str(error))):
                self.remote.backward(*names)
        else:
            self.remote.backward(*names)

    def check_grads(self, leaves: Sequence[torch.Tensor]) -> None:
        for leaf in leaves:
            name = next(self._ids)
            told = self.remote.name_grad(self.name_of(leaf), name)
            assert bool(told.variables) == (leaf.grad is not None)
            if leaf.grad is not None:
                assert same(self.remote.read(name), array_of(leaf.grad)), self.name_of(leaf)
