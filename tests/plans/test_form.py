"""GKP1: round trips, and every way to break it ends in a PlanError that says what is wrong."""

from __future__ import annotations

import copy
import json
import math
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from gridkit.errors import PlanError
from gridkit.plans import form
from gridkit.plans.check import dry_run
from gridkit.plans.plan import Input, Node, Output, Plan, Ref
from gridkit.wire.tensors import TensorSpec

Header = dict[str, Any]


def pack(header: Any, constants: bytes | None = None, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return b"GKP1" + struct.pack("<I", len(text) if length is None else length) + text + (constants or save({}))


def small() -> Header:
    """A training plan by hand: p - lr * g with g = x's mean, a loss with labels, one constant."""
    return {
        "name": "small",
        "lr": 0.1,
        "inputs": [
            {"id": 0, "name": "p", "role": "param", "dtype": "float32", "shape": [3]},
            {"id": 1, "name": "x", "role": "x", "dtype": "float32", "shape": ["B", 3]},
            {"id": 2, "name": "y", "role": "y", "dtype": "int64", "shape": ["B"]},
            {"id": 3, "name": "weight", "role": "weight", "dtype": "float32", "shape": ["B"]},
            {"id": 4, "name": "lr", "role": "lr", "dtype": "float64", "shape": []},
        ],
        "outputs": [{"id": 8, "name": "loss", "role": "loss"}, {"id": 11, "name": "p", "role": "param"}],
        "nodes": [
            ["aten._log_softmax.default", [{"ref": 1}, 1, False], {}, [6]],
            ["aten.nll_loss_forward.default", [{"ref": 6}, {"ref": 2}, {"ref": 5}, 1, -100], {}, [8, 12]],
            ["aten.mean.dim", [{"ref": 1}, [0]], {}, [9]],
            ["py.neg", [{"ref": 4}], {}, [10]],
            ["aten.add.Tensor", [{"ref": 0}, {"ref": 9}], {"alpha": {"ref": 10}}, [11]],
        ],
        "constants": [5],
        "guards": [["ge", "B", 1], ["eq", ["mod", "B", 1], 0]],
    }


ONES = save({"5": np.ones(3, np.float32)})


def test_reads_a_plan_written_by_hand() -> None:
    plan = Plan.from_bytes(pack(small(), ONES))
    assert plan.state == (TensorSpec("p", "float32", (3,)),) == plan.averaged
    assert plan.optimizer_state == ()
    assert repr(plan) == ("<Plan 'small': 5 operations, 1 parameters (3 values), x float32[B, 3], y int64[B], lr 0.1>")
    dry_run(plan, 4)


def test_round_trip_keeps_everything() -> None:
    plan = Plan.from_bytes(pack(small(), ONES))
    again = Plan.from_bytes(plan.to_bytes())
    for part in ("name", "inputs", "outputs", "nodes", "guards", "lr"):
        assert getattr(again, part) == getattr(plan, part)
    assert np.array_equal(again.constants[5], np.ones(3))
    assert again.to_bytes() == plan.to_bytes()


def test_single_values_and_special_numbers_survive() -> None:
    out = Output(2, "r", "loss")
    node = Node("aten.clamp.default", (Ref(1), -math.inf, math.inf), (), (2,))
    plan = Plan("c", (Input(0, "x", "x", "float32", ("B",)),), (out,), (node,), {1: np.array(2.5, np.float32)})
    again = Plan.from_bytes(plan.to_bytes())
    assert again.constants[1].shape == () and again.nodes == (node,)


def test_needs_no_torch() -> None:
    code = (
        "import sys, gridkit.plans.form, gridkit.plans.plan, gridkit.plans.table.ops, gridkit.plans.check\n"
        "gridkit.plans.table.ops.table()\n"
        "plan = gridkit.plans.plan.Plan.from_bytes(sys.stdin.buffer.read())\n"
        "gridkit.plans.check.dry_run(plan, 4)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pack(small(), ONES), capture_output=True, check=True)
    assert done.stdout.strip() == b"False"


# ---- attacks


def put(*path: Any, value: Any) -> Callable[[Header], None]:
    def change(header: Header) -> None:
        place: Any = header
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


def append(key: str, value: Any) -> Callable[[Header], None]:
    return lambda header: header[key].append(value)


NESTED: Any = {"ref": 1}
for _ in range(5):
    NESTED = [NESTED]
BIG = 10**30

ATTACKS: list[tuple[str, Callable[[Header], Any], str]] = [
    ("unknown op", put("nodes", 0, 0, value="os.system"), "'os.system' isn't in the op table"),
    ("dangerous op", put("nodes", 0, 0, value="aten.from_file.default"), "isn't in the op table"),
    ("op no text", put("nodes", 0, 0, value=["aten.mm.default"]), "isn't in the op table"),
    ("too few arguments", put("nodes", 0, 1, value=[{"ref": 1}]), r"node 0 .* argument 'dim' is missing"),
    ("too many arguments", put("nodes", 3, 1, value=[{"ref": 4}] * 2), r"node 3 \(py.neg\): 2 arguments"),
    ("unknown keyword", put("nodes", 4, 2, value={"out": {"ref": 1}}), "unknown keyword 'out'"),
    ("twice", put("nodes", 0, 2, value={"dim": 1}), "an argument is given twice"),
    ("keywords no object", put("nodes", 0, 2, value=[]), "keywords"),
    ("node no list", put("nodes", 0, value={"op": "aten.t.default"}), "node 0: expected"),
    ("wrong type", put("nodes", 0, 1, 1, value="1"), "'1' is no int"),
    ("bool as int", put("nodes", 0, 1, 1, value=True), "True is no int"),
    ("int as bool", put("nodes", 0, 1, 2, value=0), "0 is no bool"),
    ("float as int", put("nodes", 0, 1, 1, value=1.0), "1.0 is no int"),
    ("big int", put("nodes", 0, 1, 1, value=BIG), "is no int"),
    ("number as tensor", put("nodes", 0, 1, 0, value=1), "1 is no Tensor"),
    ("scalar as tensor", put("nodes", 0, 1, 0, value={"ref": 4}), "4 is a Scalar, expected a Tensor"),
    ("tensor as number", put("nodes", 4, 2, "alpha", value={"ref": 0}), "0 is a Tensor, expected a Scalar"),
    ("null", put("nodes", 0, 1, 0, value=None), "None is no Tensor"),
    ("nested", put("nodes", 2, 1, 1, value=NESTED), "is no int"),
    ("no list", put("nodes", 2, 1, 1, value=0), "expected a list"),
    ("undefined", put("nodes", 0, 1, 0, value={"ref": 99}), "refers to 99, which isn't defined"),
    ("forward", put("nodes", 0, 1, 0, value={"ref": 9}), "refers to 9, which isn't defined before"),
    ("itself", put("nodes", 0, 1, 0, value={"ref": 6}), "refers to 6, which isn't defined before"),
    ("ref no id", put("nodes", 0, 1, 0, value={"ref": [1]}), "refers to"),
    ("two keys", put("nodes", 0, 1, 0, value={"ref": 1, "dtype": "float32"}), "is no Tensor"),
    ("defined twice", put("nodes", 2, 3, value=[6]), "id 6 is defined twice"),
    ("an input again", put("nodes", 2, 3, value=[0]), "id 0 is defined twice"),
    ("input twice", put("inputs", 1, "id", value=0), "id 0 is defined twice"),
    ("negative id", put("nodes", 2, 3, value=[-1]), "id -1"),
    ("huge id", put("nodes", 2, 3, value=[1 << 40]), "expected a number from 0"),
    ("bool id", put("nodes", 2, 3, value=[True]), "id True"),
    ("results", put("nodes", 1, 3, value=[8]), "1 results, expected 2"),
    ("no results", put("nodes", 1, 3, value=[None, None]), "at least one in use"),
    ("dtype", put("inputs", 0, "dtype", value="complex64"), "unknown dtype 'complex64'"),
    ("dtype no text", put("inputs", 0, "dtype", value=["float32"]), "unknown dtype"),
    ("role", put("inputs", 0, "role", value="admin"), "unknown role 'admin'"),
    ("role no text", put("inputs", 0, "role", value={}), "unknown role"),
    ("name", put("inputs", 0, "name", value="a" * 201), "expected a text of 1 to 200"),
    ("control character", put("inputs", 0, "name", value="a\x1b[2J"), "printable"),
    ("surrogate", put("inputs", 0, "name", value="\ud800"), "printable"),
    ("rank", put("inputs", 0, "shape", value=[1] * 9), "9 dimensions of input 'p'; at most 8"),
    ("size", put("inputs", 0, "shape", value=[-3]), "shape"),
    ("huge size", put("inputs", 0, "shape", value=[1 << 50]), "shape"),
    (
        "batch in a parameter",
        put("inputs", 0, "shape", value=["B"]),
        'only x, y, weight, uniform, arg may begin with "B"',
    ),
    ("batch inside", put("inputs", 1, "shape", value=[3, "B"]), "shape"),
    ("lr as a tensor", put("inputs", 4, "shape", value=[1]), "a learning rate is one float64"),
    ("two x", put("inputs", 2, "role", value="x"), "two inputs of role x"),
    ("extra key", put("inputs", 0, "path", value="/etc/passwd"), "an input must be an object with"),
    ("output", put("outputs", 0, "id", value=77), "id 77 is no tensor"),
    ("output a number", put("outputs", 0, "id", value=10), "id 10 is no tensor"),
    ("output role", put("outputs", 0, "role", value="x"), "unknown role"),
    ("output for nothing", put("outputs", 1, "name", value="q"), "differ from the inputs"),
    ("lr", put("lr", value="0.1"), "lr is '0.1'"),
    ("lr bool", put("lr", value=True), "lr is True"),
    ("lr big", put("lr", value=10**400), "isn't JSON|lr is"),
    ("guard", put("guards", value=[["eval", "B"]]), "guard"),
    ("guard arity", put("guards", value=[["ge", "B"]]), "guard"),
    ("guard no list", put("guards", value=[{"ge": 1}]), "guard"),
    ("many guards", put("guards", value=["B"] * 101), "101 guards"),
    ("constants", put("constants", value=[5, 20]), "table of constants"),
    ("constants twice", put("constants", value=[5, 5]), "id 5 is defined twice"),
    ("no constants", put("constants", value={}), "expected a list"),
    ("missing key", lambda header: header.pop("lr"), "the header must be an object with"),
    ("extra", put("code", value="import os"), "the header must be an object with"),
    ("many nodes", put("nodes", value=[0] * 20_001), "20,001 nodes; at most 20,000"),
    ("many entries", put("nodes", 2, 1, 1, value=[0] * 10_001), "10,001 entries"),
    (
        "labels unchecked",
        append(
            "nodes",
            ["aten.nll_loss_backward.default", [{"ref": r} for r in (3, 6, 2)] + [None, 0, -7, {"ref": 12}], {}, [20]],
        ),
        "doesn't follow the aten.nll_loss_forward.default",
    ),
]


@pytest.mark.parametrize(("change", "why"), [a[1:] for a in ATTACKS], ids=[a[0] for a in ATTACKS])
def test_attack_is_refused_with_its_reason(change: Callable[[Header], Any], why: str) -> None:
    header = small()
    change(header)
    with pytest.raises(PlanError, match=why) as caught:
        Plan.from_bytes(pack(header, ONES))
    assert "\n" not in caught.value.message and len(caught.value.message) < 400


def test_long_string_argument_is_refused() -> None:
    header = small()
    header["nodes"].append(["aten.gelu.default", [{"ref": 9}], {"approximate": "x" * 33}, [20]])
    with pytest.raises(PlanError, match="is no str"):
        Plan.from_bytes(pack(header, ONES))


def test_pooling_indices_come_from_their_own_forward() -> None:
    inputs = [{"id": 0, "name": "x", "role": "x", "dtype": "float32", "shape": ["B", 1, 4, 4]}]
    inputs += [{"id": 1, "name": "y", "role": "y", "dtype": "int64", "shape": ["B", 1, 2, 2]}]
    forward = ["aten.max_pool2d_with_indices.default", [{"ref": 0}, [2, 2], [2, 2]], {}, [2, 3]]
    header = small() | {"inputs": inputs, "outputs": [], "constants": [], "guards": []}
    for indices, accepted in ((3, True), (1, False)):
        rest = [[2, 2], [2, 2], [0, 0], [1, 1], False, {"ref": indices}]
        backward = ["aten.max_pool2d_with_indices_backward.default", [{"ref": 2}, {"ref": 0}, *rest], {}, [4]]
        data = pack(header | {"nodes": [forward, backward]})
        if accepted:
            Plan.from_bytes(data)
        else:
            with pytest.raises(PlanError, match="doesn't follow"):
                Plan.from_bytes(data)


BYTES: list[tuple[str, bytes, str]] = [
    ("nothing", b"", "don't begin with GKP1"),
    ("pickle", b"\x80\x04\x95\x00", "don't begin with GKP1"),
    ("archive", b"PK\x03\x04" + bytes(40), "don't begin with GKP1"),
    ("magic only", b"GKP1", "cut short"),
    ("half a length", b"GKP1\x01\x00", "cut short"),
    ("too long", pack(small(), ONES, length=form.MAX_HEADER + 1), "8,388,609 bytes; at most"),
    ("cut", pack(small(), ONES)[:200], "cut short"),
    ("length a lie", pack(small(), ONES, length=100), "isn't JSON"),
    ("no JSON", pack(b"\xff\xfe{"), "isn't JSON"),
    ("nested", pack(b"[" * 500_000), "isn't JSON"),
    ("NaN", pack(b'{"lr": NaN}'), "isn't JSON"),
    ("twice the same key", pack(b'{"lr": 1, "lr": 2}'), "isn't JSON"),
    ("many digits", pack(b'{"lr": ' + b"9" * 5000 + b"}"), "isn't JSON"),
    ("a list", pack([]), "isn't an object"),
    ("constants cut", pack(small(), ONES[:-3]), "constants can't be read"),
    ("constants a pickle", pack(small(), b"\x80\x04"), "constants can't be read"),
    ("constants of a strange kind", pack(small(), ONES.replace(b"F32", b"C64")), "constants"),
    ("constants too large", pack(small(), bytes(form.MAX_CONSTANTS + 1)), "constants have 67,108,865 bytes"),
]


@pytest.mark.parametrize(("data", "why"), [b[1:] for b in BYTES], ids=[b[0] for b in BYTES])
def test_broken_bytes_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(PlanError, match=why):
        Plan.from_bytes(data)


# ---- fuzz

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["B", "float32", "aten.mm.default", "aten.full.default", {"ref": 1}, {"ref": 6}, {"dtype": "x"}]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def only_plan_error(data: bytes) -> None:
    """Reading and the dry run end well, or in PlanError: nothing else, whatever the bytes."""
    try:
        dry_run(Plan.from_bytes(data), 4, budget=1 << 20)
    except PlanError as error:
        assert error.message


@settings(max_examples=400)
@given(st.data())
def test_changed_headers_raise_only_plan_error(data: st.DataObject) -> None:
    header = small()
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = header
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and data.draw(st.integers(0, 4)):
                place = place[key]
                continue
            if data.draw(st.booleans()):
                place[key] = copy.deepcopy(data.draw(JSON))
            else:
                del place[key]
            break
    only_plan_error(pack(header, ONES))


@settings(max_examples=300)
@given(st.data())
def test_flipped_bytes_raise_only_plan_error(data: st.DataObject) -> None:
    blob = bytearray(pack(small(), ONES))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    only_plan_error(bytes(blob[: data.draw(st.integers(0, len(blob)))] if data.draw(st.booleans()) else blob))


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_foreign_bytes_raise_only_plan_error(data: bytes) -> None:
    only_plan_error(data)
    only_plan_error(b"GKP1" + data)
    only_plan_error(pack(data))
