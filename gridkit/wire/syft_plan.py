"""Plans as syft.js executes them: TensorFlow.js calls in a protobuf message, written by hand.

Source: syft-proto 0.4.9, ``syft_proto.execution.v1.Plan``, and what syft.js 0.1.4 does with it: it calls
``tf[command](...args)`` for each action, in order, and keeps the result under the action's id. A number travels as
`arg_float` always, since the client can't read an `arg_int` beside every version of its libraries.

::

    Plan               1 Id  2 Role  4 name  9 base_framework
    Role               1 Id  2 ComputationAction*  3 State  4 Placeholder*  5 input Id*  6 output Id*
    ComputationAction  1 command  5 Arg*  8 PlaceholderId* (of the result)
    Arg                1 bool | 3 float | 4 str | 10 PlaceholderId | 11 ArgList{1 Arg*}
    Placeholder        3 Id  5 description
    PlaceholderId      1 Id
    Id                 1 int
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gridkit.errors import WireError
from gridkit.wire.protobuf import FIXED32, delimited, integer, tag
from gridkit.wire.state import pack_state
from gridkit.wire.tensors import Array

MAX_ID = (1 << 53) - 1
"""JavaScript's integers are exact up to here."""


@dataclass(frozen=True, slots=True)
class Value:
    """An input or the result of an action, by its id."""

    id: int


Argument = Value | bool | int | float | str | None | tuple["Argument", ...]
"""None stands for ``undefined``: an optional argument left out before another."""


@dataclass(frozen=True, slots=True)
class Action:
    """One call: ``result = tf.command(*args)``. Values can't stand inside of lists, the client leaves them as ids."""

    command: str
    args: tuple[Argument, ...]
    result: int


def pack_plan(
    name: str,
    inputs: Sequence[tuple[int, str]],
    actions: Sequence[Action],
    outputs: Sequence[tuple[int, str]],
    constants: Mapping[str, Array],
) -> bytes:
    """A Plan message.

    Args:
        name: what the plan is called.
        inputs: id and description of each, in the order in which they are given.
        actions: in the order of execution.
        outputs: id and description of each, in order; no id twice, and none of an input or a constant.
        constants: tensors that belong to the plan, float32, int32 or bool; their ids are 0, 1, … in their order.

    Raises:
        WireError: an id that isn't one of JavaScript's integers, or what the client can't load.
    """
    for called, array in constants.items():
        if array.dtype.name not in ("float32", "int32", "bool"):
            raise WireError(f"tensor '{called}' is {array.dtype}, which syft.js can't load")
    role = [_id(1, 1)]
    role += [delimited(2, _action(action)) for action in actions]
    role += [delimited(3, pack_state(constants))]
    role += [delimited(4, _id(3, id) + delimited(5, text.encode())) for id, text in (*inputs, *outputs)]
    role += [_id(5, id) for id, _ in inputs] + [_id(6, id) for id, _ in outputs]
    body = delimited(2, b"".join(role)) + delimited(4, name.encode()) + delimited(9, b"tfjs")
    return _id(1, 1) + body


def _id(field: int, id: int) -> bytes:
    if not 0 <= id <= MAX_ID:
        raise WireError(f"id {id} is no integer that JavaScript holds exactly")
    return delimited(field, integer(1, id))


def _action(action: Action) -> bytes:
    args = b"".join(delimited(5, _argument(arg)) for arg in action.args)
    return delimited(1, action.command.encode()) + args + delimited(8, _id(1, action.result))


def _argument(arg: Argument) -> bytes:
    match arg:
        case None:
            return b""
        case Value(id):
            return delimited(10, _id(1, id))
        case bool():
            return integer(1, int(arg))
        case int() | float():
            with np.errstate(over="ignore"):
                return tag(3, FIXED32) + np.asarray(arg, "<f4").tobytes()
        case str():
            return delimited(4, arg.encode())
        case tuple():
            if any(isinstance(inner, Value) for inner in arg):
                raise WireError("syft.js doesn't look for values inside of lists")
            return delimited(11, b"".join(delimited(1, _argument(inner)) for inner in arg))
    raise WireError(f"a plan for syft.js can't hold an argument of type {type(arg).__name__}")
