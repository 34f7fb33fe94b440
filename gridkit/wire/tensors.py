"""Tensors as they are described on the wire, and where their elements come from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, dtype (by its NumPy name) and shape of a tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def averaged(self) -> bool:
        """Whether rounds change it: floating tensors are averaged, integers and bools stay as they are."""
        return self.dtype.startswith("float")


class TensorSource(Protocol):
    """Tensors that are read a piece at a time: from a file, or from memory."""

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """What is there, in order."""
        ...

    def read(self, place: int, start: int, stop: int) -> Array:
        """Elements ``start:stop`` of the tensor at that place, flat, in C order."""
        ...


class Arrays:
    """A `TensorSource` over arrays in memory.

    >>> Arrays({"b": np.zeros((2, 3), np.float32)}).specs
    (TensorSpec(name='b', dtype='float32', shape=(2, 3)),)
    """

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._flat = [np.ascontiguousarray(array).reshape(-1) for array in arrays.values()]
        self._specs = tuple(TensorSpec(name, str(a.dtype), tuple(a.shape)) for name, a in arrays.items())

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        return self._specs

    def read(self, place: int, start: int, stop: int) -> Array:
        return self._flat[place][start:stop]
