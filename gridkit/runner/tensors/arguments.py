"""What a function is called with: literals, and references to tensors.

In JSON, and in the values that are made of it here:

==========================================  =======================================
``{"__variable__": true, "variable_id": i}``  the tensor with that id; ``__parameter__`` is read alike
``{"__dtype__": "float32"}``                ``torch.float32``
``{"__slice__": [start, stop, step]}``      ``slice(start, stop, step)``, of integers and null
``{"__ellipsis__": true}``                  ``...``
``{"__tuple__": [...]}``                    a tuple, which indexing tells from a list
``{"__float__": "nan"}``                    nan, inf or -inf, which JSON has no literals for
``{"__memory_format__": "channels_last"}``  ``torch.channels_last``
==========================================  =======================================

Lists, texts, numbers, booleans and null stand for themselves, and so do tensors without an id.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gridkit.errors import ErrorCode, PlanError

DTYPES = {
    name: getattr(torch, name)
    for name in ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64")
}
MAX_DEPTH = 16
"""lists within lists; torch itself takes few"""
MAX_TEXT = 200
"""characters; names of modes, and equations of einsum, are shorter"""

_FLOATS = {name: float(name) for name in ("nan", "inf", "-inf")}
_FORMATS = {
    name: getattr(torch, name) for name in ("contiguous_format", "preserve_format", "channels_last", "channels_last_3d")
}
_REFERENCES = ("__variable__", "__parameter__")


def value_of(form: Any, find: Callable[[object], torch.Tensor], depth: int = MAX_DEPTH) -> Any:
    """The value that a form stands for.

    Args:
        form: as above; Python's own tuples, which JSON doesn't know, are read as tuples.
        find: gives a tensor for its id, or raises.

    Raises:
        PlanError: `BAD_INPUT` when the form is none of the above, and what `find` raises.

    >>> value_of([{"__dtype__": "int64"}, {"__slice__": [None, 2, None]}], print)
    [torch.int64, slice(None, 2, None)]
    """
    if isinstance(form, str) and len(form) > MAX_TEXT:
        raise bad_form(f"an argument is a text of more than {MAX_TEXT} characters")
    if form is None or isinstance(form, str | int | float):
        return form
    if not depth:
        raise bad_form(f"an argument has lists within lists, more than {MAX_DEPTH} deep")
    if isinstance(form, torch.Tensor):
        return form
    if isinstance(form, list):
        return [value_of(item, find, depth - 1) for item in form]
    if isinstance(form, tuple):
        return tuple(value_of(item, find, depth - 1) for item in form)
    if not isinstance(form, dict):
        raise bad_form(f"an argument is a {type(form).__name__}, which a function of torch isn't given")
    for mark in _REFERENCES:
        if mark in form:
            return find(form.get("variable_id"))
    if len(form) == 1:
        (mark, inner), *_ = form.items()
        if mark == "__tuple__" and isinstance(inner, list):
            return tuple(value_of(item, find, depth - 1) for item in inner)
        if mark == "__slice__" and isinstance(inner, list) and len(inner) == 3 and all(map(_is_bound, inner)):
            return slice(*inner)
        if mark == "__ellipsis__":
            return ...
        for name, known in (("__dtype__", DTYPES), ("__float__", _FLOATS), ("__memory_format__", _FORMATS)):
            if mark == name and isinstance(inner, str) and inner in known:
                return known[inner]
    raise bad_form(f"an argument has a form that isn't known: {repr(form)[:80]}")


def _is_bound(value: object) -> bool:
    return value is None or type(value) is int


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors of a value, in the order in which they stand there; one that stands there twice comes twice."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors_in(item)]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    return []


def with_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The value with other tensors in place of its own."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)(with_tensors(item, change) for item in value)
    if isinstance(value, dict):
        return {name: with_tensors(item, change) for name, item in value.items()}
    return value


def kind_of(value: Any, into: list[Any]) -> None:
    """Append what decides on the sizes of a function's results: layouts of tensors, and literals with their types."""
    if isinstance(value, torch.Tensor):
        into += (value.dtype, value.shape, value.stride())
    elif isinstance(value, list | tuple):
        into += (type(value), len(value))
        for item in value:
            kind_of(item, into)
    elif isinstance(value, dict):
        into.append(len(value))
        for name, item in value.items():
            into.append(name)
            kind_of(item, into)
    elif isinstance(value, slice):
        into += (slice, value.start, value.stop, value.step)
    else:
        into += (type(value), value)


def bad_form(message: str) -> PlanError:
    """The error of arguments that can't be read."""
    return PlanError(message, "give tensors of the session, numbers, texts, lists and dtypes", code=ErrorCode.BAD_INPUT)
