"""Plans for syft.js, against python-protobuf's messages of the same field numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridkit.errors import WireError
from gridkit.wire.syft_plan import MAX_ID, Action, Argument, Value, pack_plan
from tests.wire.schema import Plan

CONSTANTS = {"table": np.arange(6, dtype=np.float32).reshape(2, 3), "mask": np.array([True, False])}


def message(*actions: Action, **changes: Any) -> Any:
    given = {"inputs": [(2, "X"), (3, "lr")], "outputs": [(9, "loss")], "constants": CONSTANTS, **changes}
    return Plan.FromString(pack_plan("net", given["inputs"], actions, given["outputs"], given["constants"]))


def test_a_plan_is_read_by_others() -> None:
    plan = message(Action("matMul", (Value(2), Value(0), False, True), 9))
    role = plan.role
    assert (plan.name, plan.base_framework, plan.torchscript) == ("net", "tfjs", b"")
    assert [i.id_int for i in role.input_placeholder_ids] == [2, 3]
    assert [i.id_int for i in role.output_placeholder_ids] == [9]
    assert [(p.id.id_int, p.description) for p in role.placeholders] == [(2, "X"), (3, "lr"), (9, "loss")]
    (action,) = role.actions
    assert action.command == "matMul" and [i.id.id_int for i in action.return_placeholder_ids] == [9]
    assert [a.WhichOneof("which") for a in action.args] == ["arg_placeholder_id"] * 2 + ["arg_bool"] * 2
    assert [a.arg_placeholder_id.id.id_int for a in action.args[:2]] == [2, 0]
    assert not action.return_ids and action.WhichOneof("which") is None


def test_constants_are_the_state_of_the_role() -> None:
    state = message().role.state
    assert [p.id.id_int for p in state.placeholders] == [0, 1]
    tensors = [t.torch_tensor for t in state.tensors]
    assert [t.serializer for t in tensors] == [4, 4]
    assert list(tensors[0].contents_data.contents_float32) == list(range(6))
    assert list(tensors[1].contents_data.contents_bool) == [True, False]


def test_whatever_the_client_asks_an_id_of_has_one() -> None:
    plan = message(Action("add", (Value(0), 1.0), 9))
    placed = [
        *plan.role.placeholders,
        *plan.role.state.placeholders,
        *(t.torch_tensor for t in plan.role.state.tensors),
    ]
    for holder in (plan, plan.role, *placed, *plan.role.actions[0].return_placeholder_ids):
        assert holder.id.WhichOneof("which") == "id_int"


ARGUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 20), 1 << 20) | st.floats(width=32) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4).map(tuple),
    max_leaves=8,
)


def same(arg: Argument, got: Any) -> bool:
    kind = got.WhichOneof("which")
    match arg:
        case None:
            return kind is None
        case bool():
            return kind == "arg_bool" and got.arg_bool is arg
        case int() | float():
            return kind == "arg_float" and (got.arg_float == arg or (math.isnan(arg) and math.isnan(got.arg_float)))
        case str():
            return kind == "arg_str" and got.arg_str == arg
        case tuple():
            inner = got.arg_list.args
            return kind == "arg_list" and len(inner) == len(arg) and all(map(same, arg, inner))
    return False


@given(st.lists(ARGUMENTS, max_size=5))
def test_arguments_arrive_as_they_are_and_numbers_as_floats(args: list[Argument]) -> None:
    got = message(Action("f", tuple(args), 9)).role.actions[0].args
    assert len(got) == len(args) and all(map(same, args, got))


def test_a_number_beyond_float32_is_infinite() -> None:
    (arg,) = message(Action("f", (1e300,), 9)).role.actions[0].args
    assert arg.arg_float == math.inf


@pytest.mark.parametrize("id", [-1, MAX_ID + 1])
def test_ids_that_javascript_would_round_are_refused(id: int) -> None:
    with pytest.raises(WireError, match="no integer that JavaScript holds exactly"):
        message(Action("f", (Value(id),), 9))


def test_what_the_client_would_not_understand_is_refused() -> None:
    with pytest.raises(WireError, match="values inside of lists"):
        message(Action("concat", ((Value(2), Value(3)),), 9))
    with pytest.raises(WireError, match="'w' is float64, which syft"):
        message(constants={"w": np.zeros(2)})
    with pytest.raises(WireError, match="type bytes"):
        message(Action("f", (b"x",), 9))  # type: ignore[arg-type]
