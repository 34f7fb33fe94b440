"""GKP1, the plan as bytes, and the structural check of every plan that comes from elsewhere. Needs no torch.

Layout: the four bytes ``GKP1``, the header's length (u32, little-endian), the header (JSON), then the constants as
safetensors. The header::

    {"name": "net", "lr": 0.1,
     "inputs":  [{"id": 0, "name": "fc.weight", "role": "param", "dtype": "float32", "shape": [10, 64]}, …],
     "outputs": [{"id": 41, "name": "loss", "role": "loss"}, …],
     "nodes":   [["aten.addmm.default", [{"ref": 1}, {"ref": 4}, {"ref": 8}], {}, [9]], …],
     "constants": [7], "guards": [["ge", "B", 4]]}

A node is ``[operation, arguments, keywords, ids of its results]``. An argument is a number, a bool, null, a short
string, a list of such, ``{"ref": id}``, ``{"dtype": name}`` or ``{"float": "inf" | "-inf" | "nan"}``. A node may refer
only to ids that are defined before it, so a plan has no cycles and no loops.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np

from gridkit.errors import PlanError
from gridkit.plans.check import check_forwards
from gridkit.plans.plan import Arg, Dtype, Guard, Input, Node, Output, Plan, Ref
from gridkit.plans.table.ops import REQUIRED, Op, Param, table
from gridkit.plans.table.shapes import ITEM_SIZES

MAGIC = b"GKP1"
MAX_HEADER = 8 << 20
MAX_NODES = 20_000
MAX_VALUES = 100_000
MAX_INPUTS = 10_000
MAX_CONSTANTS = 64 << 20
MAX_NAME = 200
MAX_STRING = 32
MAX_LIST = 10_000
MAX_RANK = 8
MAX_GUARDS = 100
MAX_GUARD_DEPTH = 8

INPUT_ROLES = ("x", "y", "weight", "lr", "param", "buffer", "optimizer", "uniform", "arg")
BATCHED_ROLES = ("x", "y", "weight", "uniform", "arg")
OUTPUT_ROLES = ("loss", "param", "buffer", "optimizer", "result")
GUARD_OPS = {"add": 2, "mul": 2, "floordiv": 2, "mod": 2, "eq": 2, "ne": 2, "lt": 2, "le": 2, "gt": 2, "ge": 2}
GUARD_OPS |= {"and": 2, "or": 2, "not": 1}

_SPECIAL = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


# ---- writing


def encode(plan: Plan) -> bytes:
    """A plan as GKP1 bytes; the same plan always gives the same bytes."""
    from safetensors.numpy import save

    header = {
        "name": plan.name,
        "lr": plan.lr,
        "inputs": [
            {"id": i.id, "name": i.name, "role": i.role, "dtype": i.dtype, "shape": i.shape} for i in plan.inputs
        ],
        "outputs": [{"id": o.id, "name": o.name, "role": o.role} for o in plan.outputs],
        "nodes": [[n.op, [_out(a) for a in n.args], {k: _out(v) for k, v in n.kwargs}, n.out] for n in plan.nodes],
        "constants": sorted(plan.constants),
        "guards": plan.guards,
    }
    text = json.dumps(header, allow_nan=False, separators=(",", ":")).encode()
    constants = save({str(k): np.asarray(plan.constants[k], order="C") for k in sorted(plan.constants)})
    return MAGIC + struct.pack("<I", len(text)) + text + constants


def _out(arg: Arg) -> Any:
    match arg:
        case Ref(id):
            return {"ref": id}
        case Dtype(name):
            return {"dtype": name}
        case tuple():
            return [_out(a) for a in arg]
        case float() if not math.isfinite(arg):
            return {"float": str(arg)}
    return arg


# ---- reading


def decode(data: bytes) -> Plan:
    """Read and validate GKP1 bytes.

    Raises:
        PlanError: the first rule that they break; nothing of them was executed.
    """
    header, blob = _split(data)
    _keys(header, {"name", "lr", "inputs", "outputs", "nodes", "constants", "guards"}, "the header")
    reader = _Reader()
    inputs = tuple(reader.input(i) for i in _list(header["inputs"], "inputs", MAX_INPUTS))
    constants = reader.constants(_list(header["constants"], "constants", MAX_INPUTS), blob)
    nodes = tuple(reader.node(i, n) for i, n in enumerate(_list(header["nodes"], "nodes", MAX_NODES)))
    outputs = tuple(reader.output(o) for o in _list(header["outputs"], "outputs", MAX_INPUTS))
    guards = tuple(_guard(g) for g in _list(header["guards"], "guards", MAX_GUARDS))
    _roles(inputs, outputs)
    name, lr = _name(header["name"], "the plan's name"), header["lr"]
    if not _is_int(lr) and not (isinstance(lr, float) and math.isfinite(lr)):
        raise PlanError(f"lr is {_show(lr)}, expected a number")
    plan = Plan(name, inputs, outputs, nodes, constants, guards, float(lr))
    check_forwards(plan)
    return plan


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    if data[:4] != MAGIC:
        raise PlanError("these bytes are no plan: they don't begin with GKP1", "write a plan with plan.to_bytes()")
    if len(data) < 8:
        raise PlanError("the plan is cut short")
    (length,) = struct.unpack_from("<I", data, 4)
    if length > MAX_HEADER:
        raise PlanError(f"the plan's header has {length:,} bytes; at most {MAX_HEADER:,} are read")
    if length > len(data) - 8:
        raise PlanError("the plan is cut short")
    try:
        header = json.loads(data[8 : 8 + length], parse_constant=_no_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"the plan's header isn't JSON that can be read: {_show(str(error))}") from None
    if not isinstance(header, dict):
        raise PlanError("the plan's header isn't an object")
    return header, data[8 + length :]


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} isn't JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def _show(value: object) -> str:
    """Foreign text for a message: short, one line, escaped."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _keys(value: Any, keys: set[str], where: str) -> None:
    if not isinstance(value, dict) or set(value) != keys:
        raise PlanError(f"{where} must be an object with {', '.join(sorted(keys))}")


def _list(value: Any, what: str, limit: int) -> list[Any]:
    if not isinstance(value, list):
        raise PlanError(f"{what}: {_show(value)}, expected a list")
    if len(value) > limit:
        raise PlanError(f"{len(value):,} {what}; at most {limit:,} are allowed")
    return value


def _is_int(value: Any, low: int = -(1 << 63), high: int = (1 << 63) - 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _name(value: Any, what: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME or not value.isprintable():
        raise PlanError(f"{what}: {_show(value)}, expected a text of 1 to {MAX_NAME} printable characters")
    return value


def _dtype(value: Any, where: str) -> str:
    if not isinstance(value, str) or value not in ITEM_SIZES:
        raise PlanError(f"{where}: unknown dtype {_show(value)}")
    return value


def _roles(inputs: Iterable[Input], outputs: Iterable[Output]) -> None:
    """Names and roles must leave no doubt about which output is which input's next value."""
    held: dict[tuple[str, str], Input] = {}
    for i in inputs:
        if (i.role, i.name) in held or (i.role in ("x", "y", "weight", "lr") and any(r == i.role for r, _ in held)):
            raise PlanError(f"two inputs of role {i.role} are called {i.name!r}, or two have that role")
        held[i.role, i.name] = i
    wanted = [key for key in held if key[0] in ("param", "buffer", "optimizer")]
    given: list[tuple[str, str]] = [(o.role, o.name) for o in outputs if o.role not in ("loss", "result")]
    if given and given != wanted:
        raise PlanError("the outputs for parameters, buffers and optimiser state differ from the inputs")


class _Reader:
    """Which ids are defined so far, and of which kind: "Tensor", "int" or "Scalar"."""

    def __init__(self) -> None:
        self.kinds: dict[int, str] = {}

    def _define(self, value: Any, kind: str, where: str) -> int:
        if not _is_int(value, 0, MAX_VALUES - 1):
            raise PlanError(f"{where}: id {_show(value)}, expected a number from 0 to {MAX_VALUES - 1}")
        if value in self.kinds:
            raise PlanError(f"{where}: id {value} is defined twice")
        self.kinds[value] = kind
        return int(value)

    def input(self, item: Any) -> Input:
        _keys(item, {"id", "name", "role", "dtype", "shape"}, "an input")
        name = _name(item["name"], "an input's name")
        where = f"input {name!r}"
        role, dtype = item["role"], _dtype(item["dtype"], where)
        if not isinstance(role, str) or role not in INPUT_ROLES:
            raise PlanError(f"{where}: unknown role {_show(role)}")
        shape = tuple(_list(item["shape"], f"dimensions of {where}", MAX_RANK))
        batched = role in BATCHED_ROLES
        if not all(_is_int(s, 0, 1 << 40) or (s == "B" and batched and i == 0) for i, s in enumerate(shape)):
            raise PlanError(f'{where}: shape {_show(list(shape))}; only {", ".join(BATCHED_ROLES)} may begin with "B"')
        if role == "lr" and (shape or dtype != "float64"):
            raise PlanError(f"{where}: a learning rate is one float64")
        if role == "uniform" and dtype != "float32":
            raise PlanError(f"{where}: uniform numbers are float32")
        id = self._define(item["id"], "Scalar" if role == "lr" else "Tensor", where)
        return Input(id, name, role, dtype, shape)  # type: ignore[arg-type]  # the role was just looked up

    def output(self, item: Any) -> Output:
        _keys(item, {"id", "name", "role"}, "an output")
        name, role = _name(item["name"], "an output's name"), item["role"]
        if not isinstance(role, str) or role not in OUTPUT_ROLES:
            raise PlanError(f"output {name!r}: unknown role {_show(role)}")
        if not _is_int(item["id"]) or self.kinds.get(item["id"]) != "Tensor":
            raise PlanError(f"output {name!r}: id {_show(item['id'])} is no tensor of this plan")
        return Output(item["id"], name, role)  # type: ignore[arg-type]  # the role was just looked up

    def constants(self, ids: list[Any], blob: bytes) -> dict[int, np.ndarray]:
        from safetensors import SafetensorError
        from safetensors.numpy import load

        if len(blob) > MAX_CONSTANTS:
            raise PlanError(f"the plan's constants have {len(blob):,} bytes; at most {MAX_CONSTANTS:,} are read")
        try:
            found = load(blob)
        except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise PlanError(f"the plan's constants can't be read: {_show(str(error))}") from None
        for id in ids:
            self._define(id, "Tensor", "constant")
        if set(found) != {str(id) for id in ids}:
            raise PlanError("the table of constants names others than those that are there")
        for key, array in found.items():
            _dtype(array.dtype.name, f"constant {key}")
            if array.ndim > MAX_RANK:
                raise PlanError(f"constant {key} has {array.ndim} dimensions; at most {MAX_RANK} are allowed")
        return {id: found[str(id)] for id in ids}

    def node(self, index: int, item: Any) -> Node:
        where = f"node {index}"
        if not isinstance(item, list) or len(item) != 4:
            raise PlanError(f"{where}: expected [operation, arguments, keywords, results]")
        name, args, kwargs, out = item
        op = table().get(name) if isinstance(name, str) else None
        if op is None:
            raise PlanError(f"{where}: operation {_show(name)} isn't in the op table")
        where = f"{where} ({op.name})"
        if not isinstance(kwargs, dict):
            raise PlanError(f"{where}: keywords {_show(kwargs)}, expected an object")
        positional = op.positional
        values = _list(args, f"arguments of {where}", MAX_LIST)
        if len(values) > len(positional):
            raise PlanError(f"{where}: {len(values)} arguments, at most {len(positional)} are taken")
        given = [(p, v) for p, v in zip(positional, values, strict=False)]
        known = {p.name: p for p in op.params}
        for key, value in kwargs.items():
            if key not in known:
                raise PlanError(f"{where}: unknown keyword {_show(key)}")
            given.append((known[key], value))
        names = [p.name for p, _ in given]
        if len(set(names)) != len(names):
            raise PlanError(f"{where}: an argument is given twice")
        missing = [p.name for p in op.params if p.default is REQUIRED and p.name not in names]
        if missing:
            raise PlanError(f"{where}: argument {missing[0]!r} is missing")
        read = [self.argument(p, v, f"{where}, argument {p.name!r}") for p, v in given]
        results = self.results(op, out, where)
        return Node(
            op.name,
            tuple(read[: len(values)]),
            tuple(zip(names[len(values) :], read[len(values) :], strict=True)),
            results,
        )

    def results(self, op: Op, out: Any, where: str) -> tuple[int | None, ...]:
        ids = _list(out, f"results of {where}", MAX_LIST)
        if len(ids) != len(op.results) or all(i is None for i in ids):
            raise PlanError(f"{where}: {len(ids)} results, expected {len(op.results)} and at least one in use")
        return tuple(None if i is None else self._define(i, k, where) for i, k in zip(ids, op.results, strict=True))

    def argument(self, param: Param, value: Any, where: str) -> Arg:
        if value is None and param.optional:
            return None
        if param.is_list:
            if not isinstance(value, list):
                raise PlanError(f"{where}: {_show(value)}, expected a list")
            _list(value, f"entries of {where}", MAX_LIST)
            any_length = param.length <= 1 or (not value and param.default == ())
            if not any_length and len(value) != param.length:
                raise PlanError(f"{where}: {len(value)} entries, expected {param.length}")
            return tuple(self.single(param.type, v, where) for v in value)
        return self.single(param.type, value, where)

    def single(self, type: str, value: Any, where: str) -> Arg:
        if isinstance(value, dict) and len(value) == 1:
            ((key, inner),) = value.items()
            if key == "ref":
                return self.reference(type, inner, where)
            if key == "dtype" and type == "dtype":
                return Dtype(_dtype(inner, where))
            if key == "float" and type in ("Scalar", "float") and isinstance(inner, str) and inner in _SPECIAL:
                return _SPECIAL[inner]
        elif type == "bool" and isinstance(value, bool):
            return value
        elif (type in ("int", "Scalar") and _is_int(value)) or (type == "Scalar" and isinstance(value, bool)):
            return int(value) if type == "int" else value
        elif type in ("float", "Scalar") and (_is_int(value) or (isinstance(value, float) and math.isfinite(value))):
            return float(value) if type == "float" else value
        elif type == "MemoryFormat" and value in ("contiguous_format", "preserve_format"):
            return str(value)
        elif type == "str" and isinstance(value, str) and len(value) <= MAX_STRING:
            return value
        raise PlanError(f"{where}: {_show(value)} is no {type}")

    def reference(self, type: str, id: Any, where: str) -> Ref:
        kind = self.kinds.get(id) if _is_int(id) else None
        if kind is None:
            raise PlanError(f"{where}: refers to {_show(id)}, which isn't defined before it")
        takes = {
            "Tensor": ("Tensor",),
            "int": ("int", "Scalar"),
            "float": ("int", "Scalar"),
            "Scalar": ("int", "Scalar"),
        }
        if kind not in takes.get(type, ()):
            raise PlanError(f"{where}: {id} is a {kind}, expected a {type}")
        return Ref(int(id))


def _guard(value: Any, depth: int = 0) -> Guard:
    if value == "B" or _is_int(value):
        return value  # type: ignore[no-any-return]
    if depth >= MAX_GUARD_DEPTH or not isinstance(value, list) or not value:
        raise PlanError(f"guard {_show(value)} can't be read")
    op, *rest = value
    if not isinstance(op, str) or len(rest) != GUARD_OPS.get(op):
        raise PlanError(f"guard {_show(value)} can't be read")
    return (op, *(_guard(v, depth + 1) for v in rest))
