"""How large a function's results will be, before there is memory for them: it is run on torch's meta device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx.experimental._config as fx_config
from torch.utils._python_dispatch import TorchDispatchMode

from gridkit.errors import ErrorCode, PlanError, PrivacyError
from gridkit.runner.tensors.arguments import kind_of, tensors_in, with_tensors
from gridkit.runner.tensors.ledger import is_private, storage_of

# One for all: each leaves a context variable behind for ever.
_ALL_TRUE = fx_config.patch(meta_nonzero_assume_all_nonzero=True)  # type: ignore[attr-defined]
_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
REMEMBERED = 4096
"""calls whose sizes are remembered"""
MAX_PARTS = 256
"""longer calls aren't: somebody could make each another one"""


def _masked(x: torch.Tensor, other: torch.Tensor, *_: Any, **__: Any) -> int:
    shape: Sequence[int] = torch.broadcast_shapes(x.shape, other.shape)  # type: ignore[no-untyped-call]
    return 16 * math.prod(shape)


def _unique(x: torch.Tensor, *_: Any, **__: Any) -> int:
    return 32 * x.numel()  # values, places, counts, and what is sorted


def _bincount(x: torch.Tensor, weights: Any = None, minlength: int = 0) -> int:
    return 8 * max(int(x.max()) + 1 if x.numel() else 0, minlength)


def _gaussian(x: torch.Tensor, target: torch.Tensor, var: Any, *_: Any, **__: Any) -> int:
    return 8 * _masked(x, target)


def _covariance(x: torch.Tensor, *_: Any, **__: Any) -> int:
    return 16 * (x.numel() + (len(x) ** 2 if x.ndim else 1))


def _combinations(x: torch.Tensor, r: int = 2, *_: Any, **__: Any) -> int:
    return 8 * (r + 1) * int(x.numel() ** min(r, 64))  # a mask over all of them; no tensor has more dimensions


def _setitem(x: torch.Tensor, index: Any, value: Any) -> int:
    return 8 * sum(t.numel() * (t.ndim + 1) for t in tensors_in([index, value]))  # places where masks are true


BY_VALUE: dict[str, Callable[..., int]] = {
    f"{space}.{name}": size
    for spaces, name, size in (
        ("torch torch.Tensor", "masked_select", _masked),
        ("torch torch.Tensor torch.functional", "unique", _unique),
        ("torch torch.Tensor torch.functional", "unique_consecutive", _unique),
        ("torch torch.Tensor", "bincount", _bincount),
        ("torch torch.Tensor", "cov", _covariance),
        ("torch torch.Tensor", "corrcoef", _covariance),
        ("torch", "combinations", _combinations),
        ("torch.nn.functional", "gaussian_nll_loss", _gaussian),
        ("torch.Tensor", "__setitem__", _setitem),
    )
    for space in spaces.split()
}
"""Bytes of functions that look at values, which the meta device hasn't."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a call takes.

    Attributes:
        results: for each tensor that it gives, which of its arguments' tensors that is, or None for a new one; None
            as a whole where it can't be known.
        graph: bytes that it allocates from beginning to end: what a graph may have to keep.
        peak: bytes of its results, or of the largest thing that it needs in between, if that is more.
        shapes: of the results, where these are known.
    """

    results: tuple[int | None, ...] | None
    graph: int
    peak: int
    shapes: tuple[tuple[int, ...], ...] = ()


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every kernel's results. They are kept, so that no two have one place."""

    def __init__(self, given: Sequence[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept: list[torch.Tensor] = []
        self._known = {storage_of(tensor)[0] for tensor in given}
        self.total = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tensors_in(out):
            place, size = storage_of(tensor)
            if place not in self._known:
                self._known.add(place)
                self._kept.append(tensor)
                self.total += size
                self.largest = max(self.largest, size)
        return out


class Sizer:
    """Finds sizes, and remembers them by function, layouts and literals."""

    def __init__(self) -> None:
        self._remembered: dict[Any, Sizes] = {}

    def __len__(self) -> int:
        return len(self._remembered)

    def sizes(
        self,
        name: str,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        private: bool = False,
    ) -> Sizes:
        """What a call takes. Errors that torch finds come out as they are.

        Args:
            private: nothing may be found out by the values of private tensors, and no size may depend on values.

        Raises:
            PlanError: `BAD_INPUT`: the size depends on values in a way that isn't foreseen.
            PrivacyError: it depends on values.
        """
        if name in BY_VALUE and not private:
            size = BY_VALUE[name](*args, **kwargs)
            return Sizes(None, size, size)
        if name == "torch.Tensor.__getitem__" or (private and name == "torch.Tensor.__setitem__"):
            args = [args[0], *map(_as_places, args[1:2]), *args[2:]]
        if name == "torch.Tensor.to":
            args = ["meta" if isinstance(arg, str) and arg == "cpu" else arg for arg in args]
        parts: list[Any] = [name, private]
        kind_of(list(args), parts)
        kind_of(kwargs, parts)
        kind = tuple(parts)
        found = self._remembered.get(kind)
        if found is None:
            try:
                found = dry_run(function, args, kwargs, private)
            except RuntimeError as error:
                if "meta" not in str(error).lower():
                    raise
                if private:
                    raise PrivacyError(
                        f"{name} gives a result whose size depends on values, or asks for one, and these are private",
                        "take what keeps its size, such as torch.where(mask, x, 0), and index_select for x[i]",
                    ) from error
                raise PlanError(
                    f"{name}: the size of its result depends on values",
                    "say the size, as by output_size= or num_classes=, and give numbers in place of tensors",
                    code=ErrorCode.BAD_INPUT,
                ) from error
            if len(self._remembered) >= REMEMBERED:
                self._remembered.clear()
            if len(kind) <= MAX_PARTS:
                self._remembered[kind] = found
        return found


def _as_places(index: Any) -> Any:
    """An index with 0 for integers in tensors: the size is the same, and torch would ask for their values."""
    if isinstance(index, list | tuple):
        return type(index)(map(_as_places, index))
    is_place = isinstance(index, torch.Tensor) and not index.ndim and index.dtype in _INTEGERS
    return 0 if is_place and not is_private(index) else index


def dry_run(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], private: bool = False) -> Sizes:
    """What a call takes, found by running it on tensors without memory. `private`: masks aren't taken to be true."""
    metas: dict[int, torch.Tensor] = {}

    def meta_of(tensor: torch.Tensor) -> torch.Tensor:
        return metas.setdefault(
            id(tensor), torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        )

    args, kwargs = with_tensors(list(args), meta_of), with_tensors(kwargs, meta_of)
    if "device" in kwargs:
        kwargs["device"] = "meta"
    given = tensors_in([args, kwargs])
    watch = Allocations(given)
    # with the device as a context, factories make meta tensors too
    with torch.no_grad(), nullcontext() if private else _ALL_TRUE, torch.device("meta"), watch:
        out = tensors_in(function(*args, **kwargs))
    places = {id(tensor): place for place, tensor in reversed(list(enumerate(given)))}
    results = sum(size for _, size in {storage_of(tensor) for tensor in out} - {storage_of(tensor) for tensor in given})
    shapes = tuple(tuple(tensor.shape) for tensor in out)
    return Sizes(tuple(places.get(id(tensor)) for tensor in out), watch.total, max(watch.largest, results), shapes)
