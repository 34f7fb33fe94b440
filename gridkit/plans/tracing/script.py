"""TorchScript modules, taken apart: their graph runs in Python, so that the tracer sees what a module in Python shows.

TorchScript's own interpreter takes the batch size for a plain number; here it stays a symbol. Branches and loops are
run as they come, so they may depend on sizes, never on values. Source: TorchScript's operators, as documented in
torch/csrc/jit/OVERVIEW.md.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from gridkit.errors import PlanError
from gridkit.plans.tracing import source

_LINE = re.compile(r'File "(.+?)", line (\d+)')

# Operations on numbers, lists and texts, which torch has only inside of TorchScript
_PLAIN: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": lambda a, b, mode=None: _divided(a, b, mode),
    "truediv": operator.truediv,
    "floordiv": operator.floordiv,
    "floor_divide": operator.floordiv,
    "remainder": operator.mod,
    "pow": operator.pow,
    "neg": operator.neg,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "__is__": operator.is_,
    "__isnot__": operator.is_not,
    "__not__": operator.not_,
    "__and__": operator.and_,
    "__or__": operator.or_,
    "__contains__": operator.contains,
    "__getitem__": operator.getitem,
    "_set_item": operator.setitem,
    "__range_length": lambda low, high, step: len(range(low, high, step)),
    "__derive_index": lambda place, low, step: low + place * step,
    "len": len,
    "min": min,
    "max": max,
    "Int": int,
    "Float": float,
    "Bool": bool,
    "append": list.append,
    "slice": lambda items, start, end, step: items[slice(start, end, step)],
    "list": list,
    "format": lambda *parts: str(parts[0]),
}
_OF_ANY = ("append", "__is__", "__isnot__")
_SAME = (
    "prim::NumToTensor",
    "prim::unchecked_cast",
    "prim::unchecked_unwrap_optional",
    "aten::_unwrap_optional",
    "aten::ScalarImplicit",
    "aten::IntImplicit",
    "aten::FloatImplicit",
)
_SCALAR_TYPES = {  # TorchScript knows dtypes by these numbers (c10/core/ScalarType.h)
    torch.uint8: 0,
    torch.int8: 1,
    torch.int16: 2,
    torch.int32: 3,
    torch.int64: 4,
    torch.float16: 5,
    torch.float32: 6,
    torch.float64: 7,
    torch.bool: 11,
}
_OF_TENSORS: dict[str, Callable[[torch.Tensor], Any]] = {
    "aten::size": lambda x: list(x.shape),
    "aten::dim": lambda x: x.dim(),
    "aten::numel": lambda x: x.numel(),
    "aten::is_floating_point": lambda x: x.is_floating_point(),
    "prim::dtype": lambda x: _SCALAR_TYPES[x.dtype],
    "prim::device": lambda x: torch.device("cpu"),
    "prim::layout": lambda x: 0,
    "prim::requires_grad": lambda x: x.requires_grad,
}
# What torch's functions in Python do otherwise than the operation of the same name
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "aten::gru": torch.gru,
    "aten::lstm": torch.lstm,
    "aten::rnn_tanh": torch.rnn_tanh,
    "aten::rnn_relu": torch.rnn_relu,
    "aten::_convolution": lambda *args: torch.ops.aten.convolution.default(*args[:9]),
    "aten::upsample_nearest2d": lambda x, size, scales: F.interpolate(x, size, scales),
}


def _divided(a: Any, b: Any, mode: str | None) -> Any:
    if mode == "trunc" and (a < 0) != (b < 0):
        return -(-a // b)
    return a / b if mode is None else a // b


class _Part:
    """A module inside of the scripted one: where in the state_dict its entries begin."""

    def __init__(self, module: Any, path: str) -> None:
        self.module, self.path = module, path


class Script:
    """A TorchScript module's `forward` as Python, in eval mode.

    Args:
        module: stays as it is.
        tensors: its parameters and buffers, by name.

    Raises:
        PlanError: it has no `forward`.
    """

    def __init__(self, module: torch.jit.ScriptModule, tensors: Mapping[str, torch.Tensor]) -> None:
        try:
            self._graph = module.inlined_graph
        except (RuntimeError, AttributeError) as error:
            raise PlanError(f"the TorchScript module has no graph to take apart: {error}") from None
        self._module = module
        self._tensors = tensors  # held, so that nothing else gets their id()
        self._names = {id(tensor): name for name, tensor in tensors.items()}
        self._state: Mapping[str, torch.Tensor] = {}

    def run(self, state: Mapping[str, torch.Tensor], args: Sequence[torch.Tensor]) -> Any:
        """What `forward` returns, with these tensors in place of the module's own.

        Raises:
            PlanError: an operation that can't be taken apart; the message names it and the line.
        """
        self._state = state
        inputs = list(self._graph.inputs())
        values: dict[str, Any] = {inputs[0].debugName(): _Part(self._module, "")}
        defaults = self._module.forward.schema.arguments[1:] if hasattr(self._module.forward, "schema") else []
        for place, value in enumerate(inputs[1:]):
            if place >= len(args) and not (place < len(defaults) and defaults[place].has_default_value()):
                raise PlanError(
                    f"the TorchScript module takes {len(inputs) - 1} arguments, the example has {len(args)}"
                )
            values[value.debugName()] = args[place] if place < len(args) else defaults[place].default_value
        results = self._block(self._graph, values)
        return results[0] if len(results) == 1 else tuple(results)

    def _block(self, block: Any, values: dict[str, Any]) -> list[Any]:
        for node in block.nodes():
            results = self._node(node, values)
            for output, result in zip(node.outputs(), results, strict=True):
                values[output.debugName()] = result
        return [values[output.debugName()] for output in block.outputs()]

    def _node(self, node: Any, values: dict[str, Any]) -> Sequence[Any]:
        kind = node.kind()
        if kind == "prim::Constant":
            return [_constant(node)]
        args = [values[value.debugName()] for value in node.inputs()]
        if kind == "prim::If":
            return self._block(list(node.blocks())[0 if args[0] else 1], values)
        if kind == "prim::Loop":
            return self._loop(node, args, values)
        try:
            return _spread(node, self._apply(node, kind, args))
        except PlanError as error:
            place = _place(node)
            if place is None or source.shown(place) in error.message:
                raise
            raise PlanError(f"{error.message}{source.shown(place)}", error.hint) from error

    def _loop(self, node: Any, args: list[Any], values: dict[str, Any]) -> list[Any]:
        (body,) = node.blocks()
        most, going, *carried = args
        turn = 0
        while going and turn < most:
            for value, given in zip(body.inputs(), [turn, *carried], strict=True):
                values[value.debugName()] = given
            going, *carried = self._block(body, values)
            turn += 1
        return carried

    def _apply(self, node: Any, kind: str, args: list[Any]) -> Any:
        name = kind.partition("::")[2]
        if kind == "prim::GetAttr":
            return self._attribute(args[0], node.s("name"))
        if kind in ("prim::ListConstruct", "prim::TupleConstruct"):
            return list(args) if kind == "prim::ListConstruct" else tuple(args)
        if kind in ("prim::ListUnpack", "prim::TupleUnpack"):
            return tuple(args[0])
        if kind == "prim::TupleIndex":
            return args[0][args[1]]
        if kind == "prim::DictConstruct":
            return dict(zip(args[::2], args[1::2], strict=True))
        if kind == "prim::RaiseException":
            raise PlanError(f"the model raises an error for the example: {args[0]}")
        if kind == "prim::Uninitialized":
            return None
        if kind in _SAME:
            return args[0]
        if kind in _OF_TENSORS and isinstance(args[0], torch.Tensor):
            found = _OF_TENSORS[kind](args[0])
            return found[args[1]] if kind == "aten::size" and len(args) > 1 else found
        if kind == "prim::type":  # of a device
            return args[0].type
        if kind.startswith("prim::is_"):  # of which kind a tensor's memory is
            return kind == "prim::is_cpu"
        if kind in _FUNCTIONS:
            return _FUNCTIONS[kind](*args)
        if name in _PLAIN and not any(isinstance(arg, torch.Tensor) for arg in args):
            return _plain(name, args)
        if name in _OF_ANY or (name in _PLAIN and isinstance(args[0], list | tuple | dict)):
            return _PLAIN[name](*args)
        return self._operation(node, kind, args)

    def _attribute(self, part: _Part, name: str) -> Any:
        path = f"{part.path}{name}"
        if path in self._state:
            return self._state[path]
        if name == "training":
            return False
        value = getattr(part.module, name)
        return _Part(value, f"{path}.") if isinstance(value, torch.nn.Module) else self._own(value)

    def _own(self, value: Any) -> Any:
        """An attribute's value; recurrent layers hold their parameters in a list, too."""
        if isinstance(value, torch.Tensor):
            return self._state[self._names[id(value)]] if id(value) in self._names else value
        return [self._own(inner) for inner in value] if isinstance(value, list) else value

    def _operation(self, node: Any, kind: str, args: list[Any]) -> Any:
        schema = node.schema() if kind.startswith("aten::") else None
        if not schema or schema == "(no schema)":
            raise PlanError(f"a plan can't hold TorchScript's operation {kind}")
        full = schema.partition("(")[0].partition("::")[2]
        name, _, overload = full.partition(".")
        packet = getattr(torch.ops.aten, name, None)
        function = getattr(packet, overload or "default", None)
        if function is None:
            raise PlanError(f"a plan can't hold TorchScript's operation {kind}")
        positional = [a for a in function._schema.arguments if not a.kwarg_only]
        named = [a.name for a in function._schema.arguments if a.kwarg_only]
        return function(*args[: len(positional)], **dict(zip(named, args[len(positional) :], strict=False)))


def _plain(name: str, args: list[Any]) -> Any:
    if name in ("Int", "Float") and isinstance(args[0], torch.SymInt | torch.SymFloat):
        return args[0]  # int() would make one number of the batch size
    return _PLAIN[name](*args)


def _constant(node: Any) -> Any:
    return node.output().toIValue() if node.hasAttributes() else None


def _spread(node: Any, result: Any) -> Sequence[Any]:
    count = node.outputsSize()
    return [result] if count == 1 else () if count == 0 else tuple(result)


def _place(node: Any) -> source.Place | None:
    """The user's line that a node stems from."""
    for path, number in _LINE.findall(node.sourceRange()):
        if not source.is_library(path):
            return path, int(number)
    return None
