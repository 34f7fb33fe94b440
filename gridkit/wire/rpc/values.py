"""Values in params and results: references, tensors, and what else Python's calls pass, as JSON and back.

In JSON a value that has no form of its own is an object with one of these members::

    {"__variable__": true, "variable_id": i}    {"__parameter__": true, "variable_id": i}    `Variable`
    {"__callable__": true, "callable_id": i}                                                 `Callable`
    {"__model_client__": true, "model_id": i}                                                `Model`

and, in `Profile.V1` only::

    {"__tensor__": k, "dtype": d, "shape": [n, m]}      an array: the k-th body of the frame, little-endian, C order
    {"__edge__": true, "node_id": n, "output_nr": k}    `Edge`
    {"__tuple__": […]}  {"__slice__": [a, b, c]}  {"__ellipsis__": true}  {"__dtype__": "float32"}
    {"__memory_format__": "channels_last"}  {"__float__": "nan" | "inf" | "-inf"}

In the plain profile tensors are nested lists, tuples become lists, and NaN and infinity are the tokens that Python's
json writes. Lists, dicts with texts as names, texts, numbers, booleans and None are themselves in both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, Final

import numpy as np

from gridkit.errors import ErrorCode, UsageError, WireError
from gridkit.wire.rpc.messages import MAX_NAME
from gridkit.wire.safetensors import DTYPES, MAX_RANK
from gridkit.wire.strict_json import MAX_DEPTH
from gridkit.wire.tensors import Array

Body = bytes | memoryview
"""The bytes of one tensor in a frame."""

_SENT: Final = frozenset(DTYPES.values())
DTYPE_NAMES: Final = _SENT | {"bfloat16"}
"""that may be named, such as in ``x.to(torch.bfloat16)``"""
MEMORY_FORMATS: Final = frozenset({"contiguous_format", "preserve_format", "channels_last", "channels_last_3d"})
_UNUSUAL: Final = ("nan", "inf", "-inf")


@dataclass(frozen=True, slots=True)
class Variable:
    """A tensor that lives on the node. `parameter`: it was made as one; the id alone says which it is."""

    id: str
    parameter: bool = False


@dataclass(frozen=True, slots=True)
class Callable:
    """A function that lives in the notebook."""

    id: str


@dataclass(frozen=True, slots=True)
class Model:
    """A module that lives on the node."""

    id: str


@dataclass(frozen=True, slots=True)
class Edge:
    """Where a gradient comes to a node of the graph: as that of its result `output_nr`."""

    node: int
    output_nr: int


@dataclass(frozen=True, slots=True)
class DType:
    """torch's dtype of this name."""

    name: str


@dataclass(frozen=True, slots=True)
class MemoryFormat:
    """torch's memory format of this name."""

    name: str


_REFERENCES: Final = {
    "__variable__": "variable_id",
    "__parameter__": "variable_id",
    "__callable__": "callable_id",
    "__model_client__": "model_id",
}
_MARKS: Final = frozenset(
    {
        *_REFERENCES,
        "__tensor__",
        "__edge__",
        "__tuple__",
        "__slice__",
        "__ellipsis__",
        "__dtype__",
        "__memory_format__",
        "__float__",
    }
)
_ATOMS: Final = (str, bool, int)


# ---- writing


def encode(value: object, bodies: list[Body] | None = None) -> Any:
    """A value as JSON takes it.

    Args:
        bodies: those of the frame, to which tensors are added. None: the plain profile.

    Raises:
        UsageError: it has no form there.

    >>> encode((Variable("3"), 1.5), bodies=[])
    {'__tuple__': [{'__variable__': True, 'variable_id': '3'}, 1.5]}
    """
    return _encode(value, bodies, MAX_DEPTH)


def _encode(value: object, bodies: list[Body] | None, depth: int) -> Any:
    if value is None or isinstance(value, _ATOMS):
        return value
    if depth == 0:
        raise UsageError(f"values lie more than {MAX_DEPTH} deep in one another", "does a list hold itself?")
    match value:
        case dict():  # most of what comes here is one
            return {_name(name): _encode(inner, bodies, depth - 1) for name, inner in value.items()}
        case float():
            return value if bodies is None or math.isfinite(value) else {"__float__": str(float(value))}
        case np.generic():
            return _encode(value.item(), bodies, depth - 1)
        case np.ndarray():
            return to_lists(value) if bodies is None else _tensor(value, bodies)
        case list():
            return [_encode(inner, bodies, depth - 1) for inner in value]
        case tuple():
            inner = [_encode(inner, bodies, depth - 1) for inner in value]
            return inner if bodies is None else {"__tuple__": inner}
        case Variable(id_, parameter):
            return {"__parameter__" if parameter else "__variable__": True, "variable_id": id_}
        case Callable(id_):
            return {"__callable__": True, "callable_id": id_}
        case Model(id_):
            return {"__model_client__": True, "model_id": id_}
    if bodies is not None:
        match value:
            case slice():
                return {"__slice__": [_end(end) for end in (value.start, value.stop, value.step)]}
            case EllipsisType():
                return {"__ellipsis__": True}
            case Edge(node, output_nr):
                return {"__edge__": True, "node_id": node, "output_nr": output_nr}
            case DType(name):
                return {"__dtype__": name}
            case MemoryFormat(name):
                return {"__memory_format__": name}
    raise UsageError(
        f"a {type(value).__name__} can't be sent", "send numbers, texts, tensors, and lists, tuples and dicts of them"
    )


def _end(end: object) -> int | None:
    if end is not None and not isinstance(end, int | np.integer):
        raise UsageError(f"a slice from or to a {type(end).__name__} can't be sent", "slice by whole numbers")
    return None if end is None else int(end)


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise UsageError(f"a dict with the key {str(name)[:50]!r} can't be sent", "its keys must be texts")
    if name in _MARKS:
        raise UsageError(f"a dict with the key '{name}' can't be sent", "that is a name of the protocol's own")
    return name


def _tensor(array: Array, bodies: list[Body]) -> dict[str, Any]:
    if array.dtype.name not in _SENT:
        known = ", ".join(sorted(_SENT))
        raise UsageError(f"an array of {array.dtype.name} can't be sent", f"convert it to one of {known}")
    if array.ndim > MAX_RANK:
        raise UsageError(f"an array of {array.ndim} dimensions can't be sent", f"reshape it to {MAX_RANK} at most")
    flat = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1)
    bodies.append(flat.view(np.uint8).data)
    return {"__tensor__": len(bodies) - 1, "dtype": array.dtype.name, "shape": list(array.shape)}


def to_lists(array: Array) -> Any:
    """An array as the plain profile has it: nested lists, or a number.

    float32 and float16 are written with as many digits as tell them apart, so that 0.1 stays 0.1; read as the same
    dtype these are the same bits.
    """
    if array.dtype in (np.float32, np.float16):
        return array.astype(np.str_).astype(np.float64).tolist()
    return array.tolist()


# ---- reading


def decode(value: Any, bodies: Sequence[Body] | None = None) -> Any:
    """What `encode` was given. Arrays lie in the bodies' memory and can't be written to.

    Args:
        value: out of a message that `parse` has read.
        bodies: those of its frame. None: the plain profile.

    Raises:
        WireError: `BAD_REQUEST`: a member of the protocol's own that isn't as it must be.
    """
    if isinstance(value, list):
        return [decode(inner, bodies) for inner in value]
    if not isinstance(value, dict):
        return value
    if _MARKS.isdisjoint(value):
        return {name: decode(inner, bodies) for name, inner in value.items()}
    mark = min(value.keys() & _MARKS)
    found = _reference(value, mark) if mark in _REFERENCES else None
    if found is None and bodies is not None:
        found = _of_v1(value, mark, bodies)
    if found is None:
        raise WireError(f"an object with '{mark}' isn't as it must be", code=ErrorCode.BAD_REQUEST)
    return found


def _reference(value: dict[str, Any], mark: str) -> Variable | Callable | Model | None:
    id_ = value.get(_REFERENCES[mark])
    if len(value) != 2 or value[mark] is not True or not isinstance(id_, str) or not 0 < len(id_) <= MAX_NAME:
        return None
    match mark:
        case "__callable__":
            return Callable(id_)
        case "__model_client__":
            return Model(id_)
    return Variable(id_, mark == "__parameter__")


def _of_v1(value: dict[str, Any], mark: str, bodies: Sequence[Body]) -> Any:
    """None when the object isn't as it must be."""
    match value:
        case {"__tensor__": int(place), "dtype": str(dtype), "shape": list(shape)} if len(value) == 3:
            return _array(place, dtype, shape, bodies)
        case {"__edge__": True, "node_id": int(node), "output_nr": int(number)} if len(value) == 3:
            good = all(type(n) is int and 0 <= n < 1 << 53 for n in (node, number))
            return Edge(node, number) if good else None
    if len(value) != 1:
        return None
    match value:
        case {"__tuple__": list(inner)}:
            return tuple(decode(each, bodies) for each in inner)
        case {"__slice__": [start, stop, step]}:
            ends = (start, stop, step)
            good = all(end is None or type(end) is int for end in ends)
            return slice(*ends) if good else None
        case {"__ellipsis__": True}:
            return ...
        case {"__dtype__": str(name)} if name in DTYPE_NAMES:
            return DType(name)
        case {"__memory_format__": str(name)} if name in MEMORY_FORMATS:
            return MemoryFormat(name)
        case {"__float__": str(text)} if text in _UNUSUAL:
            return float(text)
    return None


def _array(place: int, dtype: str, shape: list[Any], bodies: Sequence[Body]) -> Array | None:
    if type(place) is not int or not 0 <= place < len(bodies) or dtype not in _SENT or len(shape) > MAX_RANK:
        return None
    if not all(type(size) is int and 0 <= size < 1 << 48 for size in shape):
        return None
    body, kind = bodies[place], np.dtype(dtype).newbyteorder("<")
    if math.prod(shape) * kind.itemsize != len(body):
        return None
    flat = np.frombuffer(body, kind)
    if kind == np.bool_ and flat.size and flat.view(np.uint8).max() > 1:  # neither true nor false
        return None
    try:
        array = flat.reshape(shape)
    except ValueError:  # empty, and too large in the others
        return None
    array.flags.writeable = False
    return array


def from_lists(data: object, *, floating: bool = False) -> Array:
    """Nested lists of the plain profile as an array: bool, int64, or float32 when a number has a fraction.

    Args:
        floating: float32 for whole numbers too, as a tensor with a gradient must be.

    Raises:
        UsageError: it isn't made of numbers, or not a rectangle.

    >>> from_lists([[1, 2], [3, 4]], floating=True).dtype
    dtype('float32')
    """
    kinds = _kinds(data)  # before NumPy sees it: of texts it would make one that has the longest one's room for each
    if not kinds <= {bool, int, float}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise UsageError(f"a tensor is made of numbers, or of truth values; here are {names}")
    dtype = np.float32 if floating or float in kinds or not kinds else np.int64 if int in kinds else np.bool_
    try:
        with np.errstate(over="ignore"):  # what is too large is infinite, as in torch
            array: Array = np.array(data, dtype)
    except (OverflowError, ValueError):
        raise UsageError("a tensor's numbers are too large, or its lists aren't of one length") from None
    if array.ndim > MAX_RANK:
        raise UsageError(f"a tensor of {array.ndim} dimensions; at most {MAX_RANK} are taken")
    return array


def _kinds(data: object) -> set[type]:
    if not isinstance(data, list):
        return {type(data)}
    kinds = set(map(type, data))
    if list in kinds:
        kinds.remove(list)
        for inner in data:
            if isinstance(inner, list):
                kinds |= _kinds(inner)
    return kinds
