"""References, tensors and Python's literals as JSON, both profiles."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridkit.errors import ErrorCode, UsageError, WireError
from gridkit.wire.rpc.values import (
    Body,
    Callable,
    DType,
    Edge,
    MemoryFormat,
    Model,
    Variable,
    decode,
    encode,
    from_lists,
    to_lists,
)
from gridkit.wire.safetensors import DTYPES
from gridkit.wire.tensors import Array

REFERENCES = [Variable("3"), Variable("p", parameter=True), Callable("c"), Model("m")]
LITERALS: list[Any] = [None, True, 7, -1.5, "text", "", [1, [2]], {"a": {"b": [None]}}]
ONLY_V1 = [
    (1, 2),
    ((), [()]),
    slice(None),
    slice(1, -1, 2),
    ...,
    DType("bfloat16"),
    MemoryFormat("channels_last"),
    Edge(3, 1),
    math.inf,
    -math.inf,
]


def through(value: Any, plain: bool = False) -> Any:
    """There and back, as text in between."""
    bodies: list[Body] = []
    form = json.dumps(encode(value, None if plain else bodies), allow_nan=plain)
    return decode(json.loads(form), None if plain else [bytes(body) for body in bodies])


@pytest.mark.parametrize("value", REFERENCES + LITERALS, ids=repr)
@pytest.mark.parametrize("plain", [False, True])
def test_values_come_as_they_went(value: Any, plain: bool) -> None:
    assert through(value, plain) == value and type(through(value, plain)) is type(value)
    assert through([value, {"x": value}], plain) == [value, {"x": value}]


@pytest.mark.parametrize("value", ONLY_V1, ids=repr)
def test_values_of_v1(value: Any) -> None:
    assert through(value) == value and type(through(value)) is type(value)
    assert through([{"x": (value,)}]) == [{"x": (value,)}]


def test_nan_has_a_form_in_both() -> None:
    assert math.isnan(through(math.nan)) and math.isnan(through([math.nan], plain=True)[0])
    assert encode(math.nan, []) == {"__float__": "nan"}


def test_the_forms_are_the_documented_ones() -> None:
    assert encode(REFERENCES) == [
        {"__variable__": True, "variable_id": "3"},
        {"__parameter__": True, "variable_id": "p"},
        {"__callable__": True, "callable_id": "c"},
        {"__model_client__": True, "model_id": "m"},
    ]
    bodies: list[Body] = []
    assert encode((np.ones((2, 1), np.int16), slice(1, None)), bodies) == {
        "__tuple__": [
            {"__tensor__": 0, "dtype": "int16", "shape": [2, 1]},
            {"__slice__": [1, None, None]},
        ]
    }
    assert [bytes(body) for body in bodies] == [b"\1\0\1\0"]


def test_tuples_are_lists_in_the_plain_profile() -> None:
    assert through((1, (2,)), plain=True) == [1, [2]]


# ---- tensors


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3), (1, 1, 1, 1, 2)])
def test_tensors_come_bit_for_bit(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 100, shape).astype(dtype)
    got = through({"x": [array]})["x"][0]
    assert got.dtype == array.dtype and got.shape == array.shape and got.tobytes() == array.tobytes()


def test_tensors_of_any_layout() -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for view in (array.T, array[:, ::2], array[::-1], array.astype(">f4"), np.broadcast_to(array, (5, 2, 3, 4))):
        got = through(view)
        assert got.dtype == np.float32 and np.array_equal(got, view)
    bits = np.array([0x7FC00001, 0xFF800001, 0x80000000, 1], np.uint32).view(np.float32)  # NaNs, -0, a subnormal
    assert through(bits).tobytes() == bits.tobytes()


def test_several_tensors_have_a_body_each_and_lie_in_its_memory() -> None:
    bodies: list[Body] = []
    form = encode([np.arange(3), {"y": np.zeros(2, np.float32)}], bodies)
    assert len(bodies) == 2
    first, _ = decode(form, [bytes(body) for body in bodies])
    assert first.base is not None
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1
    writeable = bytearray(bytes(bodies[0]))
    with pytest.raises(ValueError, match="read-only"):
        decode(form[0], [memoryview(writeable)])[0] = 1


def test_numpys_numbers_are_numbers() -> None:
    assert through([np.float32(0.5), np.int64(3), np.bool_(True)]) == [0.5, 3, True]
    assert [type(value) for value in through([np.float32(0.5), np.int64(3), np.bool_(True)])] == [float, int, bool]
    assert through(np.float64("inf")) == math.inf
    assert through(slice(np.int64(1), None)) == slice(1, None)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        b"bytes",
        1j,
        print,
        {1: 2},
        {("a",): 2},
        {"__tensor__": 0},
        {"__variable__": True, "variable_id": "x"},
        {"a": {"__float__": "nan"}},
        np.zeros(2, np.complex64),
        np.array(["text"]),
        np.array([object()]),
        np.zeros((1,) * 9),
        slice(1.0),
        slice("a", None),
    ],
    ids=repr,
)
def test_what_has_no_form_is_told_to_its_sender(value: Any) -> None:
    for inner in (value, [value], ({"x": value},)):
        with pytest.raises(UsageError):
            encode(inner, [])


@pytest.mark.parametrize("value", [slice(1), ..., DType("int8"), Edge(1, 0), MemoryFormat("channels_last")], ids=repr)
def test_what_the_plain_profile_has_no_form_for(value: Any) -> None:
    with pytest.raises(UsageError):
        encode([value])


def test_a_list_in_itself() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(UsageError, match="deep"):
        encode(loop, [])


WRONG: list[Any] = [
    {"__variable__": True},
    {"__variable__": False, "variable_id": "x"},
    {"__variable__": 1, "variable_id": "x"},
    {"__variable__": True, "variable_id": 3},
    {"__variable__": True, "variable_id": ""},
    {"__variable__": True, "variable_id": "x" * 201},
    {"__variable__": True, "variable_id": "x", "more": 1},
    {"__variable__": True, "callable_id": "x"},
    {"__variable__": True, "__parameter__": True, "variable_id": "x"},
    {"__callable__": True, "callable_id": None},
    {"__tensor__": 0, "dtype": "float32", "shape": [2]},
    {"__tensor__": 0, "dtype": "float32", "shape": [1, 1], "more": 0},
    {"__tensor__": 0, "dtype": "float32"},
    {"__tensor__": 1, "dtype": "float32", "shape": [1]},
    {"__tensor__": 2, "dtype": "float32", "shape": [0]},
    {"__tensor__": -1, "dtype": "float32", "shape": [1]},
    {"__tensor__": False, "dtype": "float32", "shape": [1]},
    {"__tensor__": 0, "dtype": "object", "shape": [1]},
    {"__tensor__": 0, "dtype": "O", "shape": [1]},
    {"__tensor__": 0, "dtype": "complex64", "shape": [1]},
    {"__tensor__": 0, "dtype": ">f4", "shape": [1]},
    {"__tensor__": 0, "dtype": "float32", "shape": [-1]},
    {"__tensor__": 0, "dtype": "float32", "shape": [-1, -1]},
    {"__tensor__": 0, "dtype": "float32", "shape": [True]},
    {"__tensor__": 0, "dtype": "float32", "shape": [1.0]},
    {"__tensor__": 0, "dtype": "float32", "shape": [1] * 9},
    {"__tensor__": 0, "dtype": "float32", "shape": [1 << 62, 0]},
    {"__tensor__": 1, "dtype": "float32", "shape": [1 << 62, 0]},
    {"__tensor__": 1, "dtype": "float32", "shape": [(1 << 47), (1 << 47), 0]},
    {"__tensor__": 0, "dtype": "bool", "shape": [4]},
    {"__edge__": True, "node_id": "1", "output_nr": 0},
    {"__edge__": True, "node_id": True, "output_nr": 0},
    {"__edge__": True, "node_id": 1, "output_nr": -1},
    {"__tuple__": 1},
    {"__tuple__": [], "more": 1},
    {"__slice__": [1, 2]},
    {"__slice__": [1, 2, 3.0]},
    {"__slice__": [1, True, 3]},
    {"__slice__": [1, "2", 3]},
    {"__ellipsis__": False},
    {"__dtype__": "object"},
    {"__dtype__": "float32", "__float__": "nan"},
    {"__memory_format__": "any"},
    {"__float__": "1"},
    {"__float__": "NaN"},
    {"__float__": 1},
]


@pytest.mark.parametrize("form", WRONG, ids=str)
def test_forms_that_are_none(form: Any) -> None:
    bodies = [b"\0\0\x80?", b""]
    for inner in (form, [form], {"x": form}, {"__tuple__": [form]}):
        with pytest.raises(WireError) as refused:
            decode(inner, bodies)
        assert refused.value.code is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize("value", [value for value in ONLY_V1 if not isinstance(value, float)], ids=repr)
def test_forms_of_v1_are_refused_in_the_plain_profile(value: Any) -> None:
    form = encode(value, [])
    with pytest.raises(WireError):
        decode(form)


# ---- the plain profile's tensors


@given(st.lists(st.floats(width=32), max_size=20))
def test_float32_goes_through_lists_bit_for_bit(values: list[float]) -> None:
    array = np.array(values, np.float32)
    text = json.dumps(encode(array))
    got = from_lists(json.loads(text))
    assert got.dtype == np.float32
    same = got.view(np.uint32) == array.view(np.uint32)
    assert (same | (np.isnan(got) & np.isnan(array))).all()


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5), st.lists(st.booleans(), min_size=1, max_size=5))
def test_whole_numbers_and_truth_values_stay_what_they_are(numbers: list[int], truths: list[bool]) -> None:
    assert encode(from_lists(numbers)) == numbers
    assert encode(from_lists(truths)) == truths and from_lists(truths).dtype == bool


def test_a_float32_is_written_as_people_write_it() -> None:
    assert to_lists(np.array([[0.1, 1e-45], [3.4028235e38, -0.0]], np.float32)) == [[0.1, 1e-45], [3.4028235e38, 0.0]]
    assert to_lists(np.array(0.1, np.float32)) == 0.1 and to_lists(np.array(0.1, np.float16)) == 0.1


def test_lists_become_the_dtype_that_torch_would_give_them() -> None:
    found: list[tuple[Any, bool, str, tuple[int, ...]]] = [
        ([1, 2], False, "int64", (2,)),
        ([1, 2], True, "float32", (2,)),
        ([1, 0.5], False, "float32", (2,)),
        ([True, False], False, "bool", (2,)),
        ([True, 2], False, "int64", (2,)),
        ([[True, False]], True, "float32", (1, 2)),
        ([], False, "float32", (0,)),
        ([[], []], False, "float32", (2, 0)),
        (3, False, "int64", ()),
        (3, True, "float32", ()),
        (0.5, False, "float32", ()),
        ([[[1.0]]], False, "float32", (1, 1, 1)),
    ]
    for data, floating, dtype, shape in found:
        array: Array = from_lists(data, floating=floating)
        assert (array.dtype.name, array.shape) == (dtype, shape), data


@pytest.mark.parametrize(
    "data",
    [
        "text",
        None,
        ["a", "b"],
        [1, "a"],
        [1, None],
        {"a": 1},
        [{"a": 1}],
        [[1, 2], [3]],
        [[1], [2, 3], [4, 5, 6]],
        [1, [2]],
        [[1], 2],
        [1 << 63],
        [10**400, 0.5],
        [[[[[[[[[1]]]]]]]]],
    ],
    ids=str,
)
def test_lists_that_are_no_tensor(data: Any) -> None:
    with pytest.raises(UsageError):
        from_lists(data)
    with pytest.raises(UsageError):
        from_lists([data])


def test_texts_in_a_list_take_no_memory_each() -> None:
    with pytest.raises(UsageError):
        from_lists(["x" * 500_000, *[""] * 100_000])


def test_a_number_beyond_float32_is_infinite_as_in_torch() -> None:
    assert from_lists([1e300, -1e300]).tolist() == [math.inf, -math.inf]
