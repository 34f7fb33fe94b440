"""What each method takes, in both directions and profiles. S7."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridkit.errors import ErrorCode
from gridkit.wire.rpc import plain, v1
from gridkit.wire.rpc.members import Members, read_members
from gridkit.wire.rpc.messages import InvalidMessage, Notification, Profile, Request, pack, parse
from gridkit.wire.rpc.schemas import SCHEMAS, Direction, checked, schema
from gridkit.wire.rpc.values import Body, Callable, DType, Edge, Variable, encode

NODE, CLIENT = Direction.TO_NODE, Direction.TO_CLIENT
PLAIN, V1 = Profile.PLAIN, Profile.V1

X, P, C = encode(Variable("x")), encode(Variable("p", parameter=True)), encode(Callable("c"))
BODIES: list[Body] = []
ARRAY = encode(np.ones((2, 3), np.float32), BODIES)
TENSOR = {"dtype": "float32", "shape": [2, 3], "values": ARRAY}
GRADIENT = {"data": [0.5], "role": "gradient", "requires_grad": False}
SHOWN = {
    "variable_id": "x",
    "obj_type": "__parameter__",
    "data": [1.0, None, "text"],
    "role": "",
    "requires_grad": True,
    "_retain_grad": False,
    "_grad": [X],
    "_output_nr": 0,
    "_grad_fn": None,
    "is_leaf": True,
}

Example = dict[str, Any]
REQUIRED: dict[tuple[Profile, Direction, str], Example] = {
    (PLAIN, NODE, "echo"): {},
    (PLAIN, NODE, "loopback"): {"calls": [{"method": "create_node"}]},
    (PLAIN, NODE, "drop_connection"): {},
    (PLAIN, NODE, "create_variable"): {
        "data": "text",
        "role": "",
        "requires_grad": True,
        "obj_type": "__variable__",
    },
    (PLAIN, NODE, "get_variable"): {"variable_id": "x"},
    (PLAIN, NODE, "update_variable"): {"variable_id": "x", "field": "_grad", "value": [X]},
    (PLAIN, NODE, "append_grad"): {"variable_id": "x", "gradient": X},
    (PLAIN, NODE, "run_function"): {"function_name": "Add"},
    (PLAIN, NODE, "get_backprop_ids"): {"variables": X},
    (PLAIN, NODE, "run_backward"): {"variables": [X, P]},
    (PLAIN, NODE, "create_optimizer"): {"optimizer_name": "SGD", "params": [{"params": [P]}]},
    (PLAIN, NODE, "add_param_group"): {"optimizer_id": "o", "param_group": {"params": [P]}},
    (PLAIN, NODE, "clear_grad"): {"optimizer_id": "o"},
    (PLAIN, NODE, "run_step"): {"optimizer_id": "o"},
    (PLAIN, CLIENT, "heartbeat"): {"id": "e7c1"},
    (PLAIN, CLIENT, "create_variable"): SHOWN,
    (PLAIN, CLIENT, "update_variable"): {"variable_id": "x", "field": "_grad", "value": [GRADIENT]},
    (PLAIN, CLIENT, "append_grad"): {"variable_id": "x", "gradient_id": "g", "gradient": GRADIENT},
    (PLAIN, CLIENT, "create_node"): {"node_id": "n", "name": "AddBackward0"},
    (PLAIN, CLIENT, "create_edge"): {"from_node_id": "n", "to_node_id": None, "output_nr": 0},
    (PLAIN, CLIENT, "update_model"): {"model_id": "m", "field": "usage", "value": {"calls": 3}},
    (PLAIN, CLIENT, "run_callable"): {"callable_id": "c", "args": [[1], X], "kwargs": {"scale": 10}},
    (PLAIN, CLIENT, "clear_backward"): {"variable_ids": ["x"]},
    (PLAIN, CLIENT, "clear_step"): {"variable_ids": []},
    (V1, NODE, "heartbeat"): {"id": 7},
    (V1, NODE, "cancel"): {"id": 7},
    (V1, NODE, "echo"): {},
    (V1, NODE, "loopback"): {"calls": [{"method": "log"}]},
    (V1, NODE, "drop_connection"): {},
    (V1, NODE, "create_variable"): {"variable_id": "x", "data": ARRAY},
    (V1, NODE, "get_variable"): {"variable_id": "x"},
    (V1, NODE, "name_grad"): {"variable_id": "x", "out_id": "g"},
    (V1, NODE, "update_variable"): {"variable_id": "x", "field": "grad", "value": X},
    (V1, NODE, "append_grad"): {"variable_id": "x", "gradient": X},
    (V1, NODE, "delete_variables"): {"variable_ids": ["x"]},
    (V1, NODE, "run_function"): {
        "function_name": "torch.Tensor.to",
        "args": [X, encode(DType("float64"), [])],
        "kwargs": {"copy": True},
        "out_ids": ["y"],
        "grad_enabled": True,
    },
    (V1, NODE, "run_model"): {"model_id": "m", "args": [X], "kwargs": {}, "out_ids": ["y"], "grad_enabled": False},
    (V1, NODE, "get_backprop_ids"): {"variables": [X]},
    (V1, NODE, "run_backward"): {"pass_id": "1", "variables": [X]},
    (V1, NODE, "run_grad"): {
        "pass_id": "1",
        "variables": [X],
        "inputs": [P, encode(Edge(3, 0), [])],
        "out_ids": ["g", "h"],
    },
    (V1, NODE, "create_optimizer"): {
        "optimizer_id": "o",
        "optimizer_name": "SGD",
        "params": [{"params": [P], "options": {"lr": 0.5}}],
        "defaults": {"lr": 0.1},
    },
    (V1, NODE, "add_param_group"): {"optimizer_id": "o", "param_group": {"params": [P]}},
    (V1, NODE, "set_options"): {"optimizer_id": "o", "group": 0, "options": {"lr": 0.1}},
    (V1, NODE, "get_optimizer"): {"optimizer_id": "o"},
    (V1, NODE, "name_state"): {"optimizer_id": "o", "variable_id": "p", "key": "momentum_buffer", "out_id": "b"},
    (V1, NODE, "clear_grad"): {"optimizer_id": "o"},
    (V1, NODE, "run_step"): {"optimizer_id": "o", "step_id": "1"},
    (V1, NODE, "seed"): {"seed": 0},
    (V1, NODE, "offer_function"): {"name": "digits", "version": "1.0", "role": "strategy", "function": C},
    (V1, CLIENT, "heartbeat"): {"id": 7},
    (V1, CLIENT, "cancel"): {"id": "e7c1"},
    (V1, CLIENT, "create_variable"): {
        "variable_id": "x",
        "data": TENSOR,
        "requires_grad": True,
        "is_leaf": False,
        "parameter": False,
        "retains_grad": False,
        "output_nr": 0,
        "grad_fn": 3,
        "has_grad": False,
        "version": 0,
    },
    (V1, CLIENT, "update_variable"): {"variable_id": "x", "field": "data", "value": TENSOR, "version": 1},
    (V1, CLIENT, "append_grad"): {"variable_id": "x", "gradient": TENSOR},
    (V1, CLIENT, "create_node"): {"node_id": 3, "name": "MulBackward0"},
    (V1, CLIENT, "create_edge"): {"from_node_id": 3, "to_node_id": None, "output_nr": 0, "input_nr": 1},
    (V1, CLIENT, "free_nodes"): {"node_ids": [3]},
    (V1, CLIENT, "node_fired"): {"pass_id": "1", "node_id": 3},
    (V1, CLIENT, "update_model"): {"model_id": "m", "field": "calls", "value": 3},
    (V1, CLIENT, "run_callable"): {"callable_id": "c", "args": [ARRAY, X], "kwargs": {}},
    (V1, CLIENT, "clear_backward"): {"pass_id": "1", "variable_ids": ["x"], "status": "done"},
    (V1, CLIENT, "clear_step"): {"step_id": "1", "variable_ids": ["x"], "status": "failed"},
    (V1, CLIENT, "log"): {"level": "info", "text": "done"},
}
"""The members that each method must have."""

OPTIONAL: dict[tuple[Profile, Direction, str], Example] = {
    (PLAIN, NODE, "loopback"): {"calls": [{"method": "m", "params": {"a": 1}, "notify": True, "delay": 1}]},
    (PLAIN, NODE, "drop_connection"): {"code": 1012, "delay": 0.5},
    (PLAIN, NODE, "run_function"): {"args": [X, [1.0], C], "kwargs": {"a": P}, "grad_enabled": False},
    (PLAIN, NODE, "run_backward"): {
        "grad_variables": [X, None],
        "retain_graph": None,
        "create_graph": True,
        "inputs": X,
    },
    (PLAIN, NODE, "create_optimizer"): {"defaults": {"lr": 0.5}},
    (V1, NODE, "loopback"): {"calls": [{"method": "m", "params": {"a": 1}, "notify": True, "delay": 0.5}]},
    (V1, NODE, "drop_connection"): {"code": None, "delay": 0},
    (V1, NODE, "heartbeat"): {"phase": "running", "done": 3, "total": 7, "ahead": 0},
    (V1, NODE, "create_variable"): {"requires_grad": True, "parameter": True},
    (V1, NODE, "get_backprop_ids"): {"inputs": [X]},
    (V1, NODE, "run_backward"): {
        "grad_variables": [None, X],
        "retain_graph": True,
        "create_graph": True,
        "inputs": [X],
    },
    (V1, NODE, "run_grad"): {
        "grad_variables": None,
        "retain_graph": None,
        "create_graph": True,
        "allow_unused": True,
    },
    (V1, NODE, "clear_grad"): {"set_to_none": False},
    (V1, CLIENT, "heartbeat"): {"phase": "waiting", "done": None, "total": None, "ahead": 2},
    (V1, CLIENT, "create_variable"): {"private": True},
    (V1, CLIENT, "append_grad"): {"pass_id": "1", "gradient_id": "g"},
    (V1, CLIENT, "create_node"): {
        "sequence": 5,
        "saved": [{"name": "self", "shape": [2, 3]}],
        "variable_id": "x",
        "label": "x * w",
        "line": "cell 3, line 2",
    },
    (V1, CLIENT, "node_fired"): {"gradients": [None, TENSOR]},
    (V1, CLIENT, "run_callable"): {"parent": 7},
    (V1, CLIENT, "clear_backward"): {"reason": "it was cancelled"},
    (V1, CLIENT, "clear_step"): {"reason": None},
}

Method = tuple[Profile, Direction, str]
METHODS = list(REQUIRED)


def read(method: Method, params: Example, asked: int = 7) -> Members:
    profile, direction, name = method
    message = parse(pack(Request(name, params, asked), profile), profile)
    assert isinstance(message, Request)
    return checked(message, direction, profile, BODIES)


def refused(method: Method, params: Example) -> InvalidMessage:
    with pytest.raises(InvalidMessage) as caught:
        read(method, params)
    return caught.value


def test_every_method_stands_in_the_tables_above() -> None:
    there = {(profile, direction, name) for (profile, direction), names in SCHEMAS.items() for name in names}
    assert there == set(REQUIRED) >= set(OPTIONAL)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_what_a_method_takes(method: Method) -> None:
    least, all_ = REQUIRED[method], REQUIRED[method] | OPTIONAL.get(method, {})
    for params in (least, all_):
        found = read(method, params)
        fields = type(found).model_fields
        names = {field.alias or name: name for name, field in fields.items()}
        for member, value in params.items():
            got = getattr(found, names[member])
            if isinstance(value, bool | int | float | str | None):
                assert got == value
    if method[2] not in ("echo",):
        assert {name for name, field in fields.items() if not field.is_required()} == {
            names[member] for member in OPTIONAL.get(method, {}) if member not in least
        }


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_s7_a_missing_member_is_named(method: Method) -> None:
    for member in REQUIRED[method]:
        answer = refused(method, {name: value for name, value in REQUIRED[method].items() if name != member}).answer
        assert answer is not None and (answer.code, answer.id) == (-32602, 7)
        assert answer.data["missing_key"] == member and answer.data["method"] == method[2]
        assert member in answer.data["exception"]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_s7_a_member_of_another_type_is_refused(method: Method) -> None:
    for member in REQUIRED[method] | OPTIONAL.get(method, {}):
        if (method[0], member) != (PLAIN, "data") and (method[2], member) != ("update_model", "value"):
            answer = refused(method, REQUIRED[method] | {member: {"__variable__": True}}).answer
            assert answer is not None and (answer.code, answer.id) == (-32602, 7)
            assert len(answer.message) < 300 and "pydantic" not in answer.message


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_members_that_are_not_there(method: Method) -> None:
    """afnio's client adds its `run_uuid` to everything; in v1 somebody means something that would not be done."""
    params = REQUIRED[method] | {"run_uuid": "u"}
    if method[0] is PLAIN or method[2] in ("echo", "loopback", "drop_connection"):
        read(method, params)
    else:
        assert "there is no such member" in refused(method, params).message


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("name", ["no.such.method", "__class__", "events", "hello", "rpc_create_node"])
def test_s7_a_method_that_there_is_not(profile: Profile, direction: Direction, name: str) -> None:
    assert schema(name, direction, profile) is None
    error = refused((profile, direction, name), {})
    assert error.code is ErrorCode.UNKNOWN_TYPE and error.answer is not None
    assert (error.answer.code, error.answer.message) == (-32601, f"Method '{name}' not found.")
    assert error.answer.data["method"] == name and isinstance(error.answer.data["exception"], str)
    with pytest.raises(InvalidMessage) as caught:
        checked(Notification(name), direction, profile)
    assert caught.value.answer is None


def test_s7_a_notification_is_never_answered() -> None:
    for message in (Notification("run_step"), Notification("run_step", {"optimizer_id": 3, "step_id": "1"})):
        with pytest.raises(InvalidMessage) as caught:
            checked(message, NODE)
        assert caught.value.answer is None


# ---- fields are a list, and each has its type


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("field", ["__class__", "__dict__", "_pending_grad", "variable_id", "user_attribute", ""])
def test_no_field_is_written_that_is_not_listed(profile: Profile, direction: Direction, field: str) -> None:
    params = {"variable_id": "x", "field": field, "value": True}
    if (profile, direction) == (V1, CLIENT):
        params["version"] = 0
    assert "field" in refused((profile, direction, "update_variable"), params).message
    model = {"model_id": "m", "field": field, "value": 1}
    if direction is CLIENT:
        refused((profile, direction, "update_model"), model)


FIELDS: list[tuple[Profile, Direction, str, list[Any], list[Any]]] = [
    (PLAIN, NODE, "data", ["text", [1.0, None], 3, None], []),
    (PLAIN, NODE, "role", ["", "a role"], [1, None, ["a"]]),
    (PLAIN, NODE, "requires_grad", [True, False], [1, None, "true"]),
    (PLAIN, NODE, "is_leaf", [True], [0]),
    (PLAIN, NODE, "_retain_grad", [True], ["x"]),
    (PLAIN, NODE, "_output_nr", [0, 3], [-1, True, 1.0, None]),
    (PLAIN, NODE, "_grad", [[], [X, P]], [None, [3], [C], [GRADIENT]]),
    (PLAIN, NODE, "_grad_fn", [None, "n"], [3, ""]),
    (PLAIN, CLIENT, "data", ["text", [1.0]], []),
    (PLAIN, CLIENT, "_grad", [[], [GRADIENT]], [None, [X], [{"data": 1}]]),
    (PLAIN, CLIENT, "_grad_fn", [None, "n"], [3]),
    (V1, NODE, "data", [ARRAY], [None, [1.0], X, "text", TENSOR]),
    (V1, NODE, "requires_grad", [True, False], [1, None]),
    (V1, NODE, "retains_grad", [True], [1]),
    (V1, NODE, "grad", [None, X], [ARRAY, [X], 0]),
    (V1, CLIENT, "data", [TENSOR, {"dtype": "bfloat16", "shape": []}], [ARRAY, None, TENSOR | {"more": 1}]),
    (V1, CLIENT, "is_leaf", [True], [1]),
    (V1, CLIENT, "retains_grad", [True, False], [None]),
    (V1, CLIENT, "has_grad", [True, False], [None]),
    (V1, CLIENT, "private", [True, False], [1]),
    (V1, CLIENT, "output_nr", [0], [-1, 1.5]),
    (V1, CLIENT, "grad_fn", [None, 3], ["n", -1]),
]


@pytest.mark.parametrize(("profile", "direction", "field", "good", "wrong"), FIELDS, ids=str)
def test_a_field_takes_values_of_its_type(
    profile: Profile, direction: Direction, field: str, good: list[Any], wrong: list[Any]
) -> None:
    params: Example = {"variable_id": "x", "field": field}
    if (profile, direction) == (V1, CLIENT):
        params["version"] = 0
    for value in good:
        read((profile, direction, "update_variable"), params | {"value": value})
    for value in wrong:
        answer = refused((profile, direction, "update_variable"), params | {"value": value}).answer
        assert answer is not None and answer.code == -32602 and f"'{field}'" in answer.message


# ---- what values become


def test_references_and_tensors_come_decoded() -> None:
    function = read((V1, NODE, "run_function"), REQUIRED[V1, NODE, "run_function"])
    assert isinstance(function, v1.RunFunction)
    assert function.args == [Variable("x"), DType("float64")] and function.kwargs == {"copy": True}
    grad = read((V1, NODE, "run_grad"), REQUIRED[V1, NODE, "run_grad"])
    assert isinstance(grad, v1.RunGrad) and grad.inputs == [Variable("p", parameter=True), Edge(3, 0)]
    shown = read((V1, CLIENT, "create_variable"), REQUIRED[V1, CLIENT, "create_variable"])
    assert isinstance(shown, v1.ShowVariable) and shown.data.values is not None
    assert np.array_equal(shown.data.values, np.ones((2, 3), np.float32))
    ran = read((PLAIN, NODE, "run_function"), {"function_name": "Evaluate", "args": [X, [1.0], C]})
    assert isinstance(ran, plain.RunFunction) and ran.args == [Variable("x"), [1.0], Callable("c")]
    for one in (X, [X]):
        asked = read((PLAIN, NODE, "get_backprop_ids"), {"variables": one})
        assert isinstance(asked, plain.BackpropIds) and asked.variables == [Variable("x")]


@pytest.mark.parametrize("form", [{"__variable__": True}, {"__variable__": True, "variable_id": 3}, {"__tensor__": 9}])
def test_forms_that_are_none_are_invalid_params(form: Example) -> None:
    for profile in Profile:
        least = REQUIRED[profile, NODE, "run_function"]
        answer = refused((profile, NODE, "run_function"), least | {"args": [[form]]}).answer
        assert answer is not None and answer.code == -32602 and "args" in answer.message


def test_echo_gives_back_what_it_was_given_even_what_looks_like_a_reference() -> None:
    params = {"a": {"__variable__": 3}, "__tensor__": 1}
    assert checked(Request("echo", params, 1), NODE, PLAIN).model_dump() == params


def test_what_was_read_cannot_be_changed() -> None:
    found = read((V1, NODE, "run_step"), REQUIRED[V1, NODE, "run_step"])
    with pytest.raises(ValueError, match="frozen"):
        found.step_id = "2"  # type: ignore[attr-defined]


def test_an_object_inside_of_a_result_is_read_likewise() -> None:
    found = read_members(v1.Tensor, TENSOR, BODIES)
    assert found.values is not None and found.shape == [2, 3]
