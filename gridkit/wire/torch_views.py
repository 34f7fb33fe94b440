"""The named tensors of a torch archive, from the symbols of its pickle.

What each kind of archive holds: a *state dict* maps names to tensors; a *module* is an object whose ``_parameters``,
``_buffers`` and ``_modules`` are such maps; of *TorchScript* every tensor that is an attribute counts, since its pickle
doesn't say which of them are buffers. Names are those of ``state_dict()``.

Source: torch 2.13, ``torch/_utils.py``, ``torch/serialization.py`` and ``torch/csrc/jit/serialization/pickler.cpp``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gridkit.errors import ErrorCode, WireError
from gridkit.wire.symbols import Global, Made
from gridkit.wire.tensors import Array, TensorSpec

Kind = Literal["state_dict", "module", "torchscript"]

MAX_TENSORS = 10_000
MAX_NAME = 200
MAX_RANK = 8
MAX_DEPTH = 64
MAX_VISITS = 1_000_000
"""attributes looked at, so that modules that hold each other many times over come to an end"""
MAX_STRIDED = 64 << 20
"""bytes of a storage whose tensors don't lie in order: it is read as a whole"""

DTYPES = {
    "torch.BoolStorage": "bool",
    "torch.ByteStorage": "uint8",
    "torch.CharStorage": "int8",
    "torch.ShortStorage": "int16",
    "torch.IntStorage": "int32",
    "torch.LongStorage": "int64",
    "torch.HalfStorage": "float16",
    "torch.FloatStorage": "float32",
    "torch.DoubleStorage": "float64",
}
_TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
CALLS = frozenset(
    (
        *_TENSORS,
        *_PARAMETERS,
        "torch._utils._rebuild_tensor_v3",
        "torch.Size",
        "torch.device",
        "torch.jit._pickle.build_boollist",
        "torch.jit._pickle.build_doublelist",
        "torch.jit._pickle.build_intlist",
        "torch.jit._pickle.build_tensorlist",
        "torch.jit._pickle.restore_type_tag",
        "collections.OrderedDict",
        "__builtin__.set",
    )
)
"""what a pickle may call; each makes a value and does nothing else"""


@dataclass(frozen=True, slots=True)
class View:
    """A named tensor, and where in the archive its elements lie.

    Attributes:
        spec: name, dtype and shape.
        storage: the key of its storage, entry ``data/<key>``; tensors may share one.
        numel: elements of the storage.
        offset: the first element's place in the storage.
        stride: steps in the storage from one element to the next, one a dimension.
    """

    spec: TensorSpec
    storage: str
    numel: int
    offset: int
    stride: tuple[int, ...]

    @property
    def in_order(self) -> bool:
        """Whether its elements lie one after the other, in C order."""
        step = 1
        for size, stride in zip(self.spec.shape[::-1], self.stride[::-1], strict=True):
            if size > 1 and stride != step:
                return self.spec.size == 0
            step *= size
        return True

    @property
    def extent(self) -> int:
        """Elements of the storage from its first to its last, both included."""
        if not self.spec.size:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.spec.shape, self.stride, strict=True))

    def laid(self, elements: Array) -> Array:
        """The tensor on the storage's elements from `offset` on, without a copy: writing to it writes there."""
        if len(elements) < self.extent:
            raise ValueError("there are fewer elements than the tensor extends over")
        strides = [stride * elements.itemsize for stride in self.stride]
        return np.lib.stride_tricks.as_strided(elements, self.spec.shape, strides)


def named_views(root: Any, classes: set[str], scripted: bool) -> tuple[Kind, tuple[View, ...]]:
    """What kind of archive it is, and its tensors, in the order of ``state_dict()``.

    Args:
        root: what `gridkit.wire.symbols.read_symbols` gave for its ``data.pkl``.
        classes: the classes that it has instances of.
        scripted: it has TorchScript's entries.

    Raises:
        WireError: it is none of the three, or a tensor is one that can't be averaged.
    """
    kind, pairs = _pairs(root, classes, scripted)
    views: dict[str, View] = {}
    for name, value in pairs:
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise WireError(f"a tensor is called {_show(name)}, expected 1 to {MAX_NAME} printable characters")
        if name in views:
            raise WireError(f"the archive has two tensors called {_show(name)}")
        views[name] = _view(name, value)
        if len(views) > MAX_TENSORS:
            raise WireError(f"the archive has more than {MAX_TENSORS:,} tensors")
    if not views:
        raise WireError("the archive has no tensors", "save model.state_dict()")
    _check_storages(views.values())
    return kind, tuple(views.values())


def _pairs(root: Any, classes: set[str], scripted: bool) -> tuple[Kind, Iterator[tuple[str, Any]]]:
    walk = _Walk()
    if isinstance(root, Made):
        if scripted:
            return "torchscript", walk.scripted(root)
        if root.by in ("dict", "collections.OrderedDict"):
            if classes:
                text = f"the archive is a dict that holds objects, such as {min(classes)}"
                raise WireError(text, "save model.state_dict()", code=ErrorCode.UNSAFE_FORMAT)
            return "state_dict", walk.flat(root)
        if root.by in classes and "_parameters" in walk.items(root.state):
            return "module", walk.module(root)
    raise WireError("the archive is no state dict, no module and no TorchScript", "save model.state_dict()")


class _Walk:
    """Goes through the symbols and gives the tensors with their names; ends, whatever holds what."""

    def __init__(self) -> None:
        self._left = MAX_VISITS

    def flat(self, root: Made) -> Iterator[tuple[str, Any]]:
        for name, value in self.items(root).items():
            if _is_tensor(value):
                yield name, value
            elif isinstance(value, (Made, tuple)):
                raise WireError(f"{_show(name)} in the archive is no tensor", "save model.state_dict()")

    def module(self, module: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
        self._deeper(prefix, depth)
        state = self.items(module.state if isinstance(module, Made) else None)
        hidden = self._set(state.get("_non_persistent_buffers_set"))
        for name, value in self.items(state.get("_parameters")).items():
            if value is not None:
                yield prefix + name, value
        for name, value in self.items(state.get("_buffers")).items():
            if value is not None and name not in hidden:
                yield prefix + name, value
        for name, child in self.items(state.get("_modules")).items():
            if child is not None:
                yield from self.module(child, f"{prefix}{name}.", depth + 1)

    def scripted(self, module: Made, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
        self._deeper(prefix, depth)
        state = self.items(module.state)
        yield from ((prefix + name, value) for name, value in state.items() if _is_tensor(value))
        for name, value in state.items():
            if isinstance(value, Made) and value.by.startswith("__torch__."):
                yield from self.scripted(value, f"{prefix}{name}.", depth + 1)

    def items(self, made: Any) -> dict[str, Any]:
        """A dict's items, by their keys that are names."""
        if not isinstance(made, Made) or made.by == "list":
            return {}
        self._visit(len(made.items))
        named = [(key, value) for key, value in made.items if type(key) is str]
        found = dict(named)
        if len(found) != len(named):
            raise WireError("a dict in the archive has the same key twice")
        return found

    def _set(self, made: Any) -> set[str]:
        """The texts in a set: a call with one list."""
        if not isinstance(made, Made) or len(made.arguments) != 1 or not isinstance(made.arguments[0], Made):
            return set()
        self._visit(len(made.arguments[0].items))
        return {name for name in made.arguments[0].items if isinstance(name, str)}

    def _deeper(self, prefix: str, depth: int) -> None:
        self._visit(1)
        if depth > MAX_DEPTH or len(prefix) > MAX_NAME:
            raise WireError("the archive's modules are nested too deep")

    def _visit(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise WireError("the archive's modules hold each other too many times over")


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Made) and value.by.startswith("torch._utils._rebuild_")


def _view(name: str, value: Any) -> View:
    where = f"tensor {_show(name)}"
    while isinstance(value, Made) and value.by in _PARAMETERS and value.arguments:
        value = value.arguments[0]
    if not isinstance(value, Made) or value.by not in _TENSORS:
        raise WireError(f"{where} is of a dtype or kind that isn't averaged", "save it as a plain float32 tensor")
    match value.arguments:
        case (Made(by="persistent", arguments=(("storage", Global() as typed, str(key), str(), int(numel)),)), *rest):
            pass
        case _:
            raise WireError(f"{where} has no storage that can be read")
    match rest:
        case (int(offset), tuple(shape), tuple(stride), *more):
            pass
        case _:
            raise WireError(f"{where} is described in a way that can't be read")
    if typed not in DTYPES:
        raise WireError(f"{where} lies in a {_show(str(typed))}, which isn't averaged", "save it as float32")
    if len(more) > 2:  # that it is to be conjugated or negated, for one
        raise WireError(f"{where} has marks of its own", "save it as a plain float32 tensor")
    if not (key.isascii() and key.isdigit() and len(key) < 20):
        raise WireError(f"{where} has the storage {_show(key)}, expected a number")
    numbers = (numel, offset, *shape, *stride)
    if not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers) or len(shape) != len(stride):
        raise WireError(f"{where} has a shape, an offset or strides that can't be")
    view = View(TensorSpec(name, DTYPES[typed], shape), key, numel, offset, stride)
    _check_extent(view, where)
    return view


def _check_extent(view: View, where: str) -> None:
    if len(view.spec.shape) > MAX_RANK:
        raise WireError(f"{where} has {len(view.spec.shape)} dimensions; at most {MAX_RANK} are read")
    if not view.spec.size:
        return
    reach = 0  # of all dimensions so far: the farthest element's place
    for stride, size in sorted((t, s) for s, t in zip(view.spec.shape, view.stride, strict=True) if s > 1):
        if stride <= reach:
            raise WireError(f"{where} has elements that share their memory", "save its .contiguous()")
        reach += (size - 1) * stride
    if view.offset + reach >= view.numel:
        raise WireError(f"{where} is larger than its storage")


def _check_storages(views: Iterable[View]) -> None:
    seen: dict[str, tuple[str, int]] = {}
    for view in views:
        if seen.setdefault(view.storage, (view.spec.dtype, view.numel)) != (view.spec.dtype, view.numel):
            raise WireError(f"the archive describes storage {view.storage} in two ways")
        size = view.numel * np.dtype(view.spec.dtype).itemsize
        if size > MAX_STRIDED and not view.in_order:
            text = f"tensor {_show(view.spec.name)} doesn't lie in order, in a storage of {size:,} bytes"
            raise WireError(text, "save its .contiguous()")


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
