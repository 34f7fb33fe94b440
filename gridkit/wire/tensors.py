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


class Difference:
    """The floating tensors of a model minus those of another of the same names, dtypes and shapes, in their order.

    Two numbers so far apart that their dtype doesn't hold their difference give an infinite one.

    >>> one, two = Arrays({"b": np.float32([3, 3])}), Arrays({"b": np.float32([1, 2])})
    >>> Difference(one, two).read(0, 0, 2)
    array([2., 1.], dtype=float32)
    """

    def __init__(self, model: TensorSource, other: TensorSource) -> None:
        if model.specs != other.specs:
            raise ValueError("the two models have other tensors")
        self._model, self._other = model, other
        self._places = [place for place, spec in enumerate(model.specs) if spec.averaged]
        self._specs = tuple(model.specs[place] for place in self._places)

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        return self._specs

    def read(self, place: int, start: int, stop: int) -> Array:
        at = self._places[place]
        with np.errstate(over="ignore", invalid="ignore"):  # what isn't finite is refused where reports are checked
            difference: Array = self._model.read(at, start, stop) - self._other.read(at, start, stop)
        return difference
