"""What comes back from methods."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridkit.errors import ErrorCode, WireError
from gridkit.wire.rpc.messages import Profile
from gridkit.wire.rpc.results import RESULTS, Data, OptimizerState, Returned, read_result
from gridkit.wire.rpc.schemas import SCHEMAS, Direction
from gridkit.wire.rpc.v1 import Tensor
from gridkit.wire.rpc.values import Body, Variable, encode

NODE, CLIENT = Direction.TO_NODE, Direction.TO_CLIENT
PLAIN, V1 = Profile.PLAIN, Profile.V1
BODIES: list[Body] = []
ARRAY = encode(np.ones((2, 3), np.float32), BODIES)
TENSOR = {"dtype": "float32", "shape": [2, 3], "values": ARRAY}
OPTIMIZER = {
    "optimizer_id": "o",
    "optimizer_name": "SGD",
    "defaults": {"lr": 0.1, "betas": {"__tuple__": [0.9, 0.99]}},
    "param_groups": [{"params": ["p", None], "options": {"lr": {"__float__": "inf"}}}],
    "state": {"p": {"step": 3, "momentum_buffer": TENSOR}},
}
GOOD: list[tuple[Profile, Direction, str, Any]] = [
    (V1, NODE, "echo", {"a": {"__tensor__": 9}}),
    (V1, NODE, "loopback", {"replies": [{"result": 1}, None]}),
    (V1, NODE, "get_variable", {"data": ARRAY}),
    (V1, NODE, "run_function", {"variable_ids": ["y"]}),
    (V1, NODE, "get_backprop_ids", {"variable_ids": []}),
    (V1, NODE, "get_optimizer", OPTIMIZER),
    (V1, NODE, "run_step", {}),
    (V1, NODE, "seed", {}),
    (V1, CLIENT, "run_callable", {"data": {"score": 0.75}}),
    (PLAIN, CLIENT, "run_callable", {"message": "Ok", "data": {"score": 20, "of": 3}}),
    (PLAIN, CLIENT, "run_callable", {"message": "Ok", "data": None}),
    (PLAIN, CLIENT, "create_node", {"message": "Ok"}),
]


@pytest.mark.parametrize(("profile", "direction", "method", "result"), GOOD, ids=str)
def test_results(profile: Profile, direction: Direction, method: str, result: Any) -> None:
    read_result(method, result, direction, profile, BODIES)
    for wrong in (None, [], "Ok", {"more": 1} if method != "echo" else 3, {"data": {"__variable__": True}}):
        if (method, wrong) != ("echo", {"data": {"__variable__": True}}):
            with pytest.raises(WireError) as refused:
                read_result(method, wrong, direction, profile, BODIES)
            assert refused.value.code is ErrorCode.BAD_REQUEST


def test_results_come_decoded() -> None:
    data = read_result("get_variable", {"data": ARRAY}, NODE, V1, BODIES)
    assert isinstance(data, Data) and np.array_equal(data.data, np.ones((2, 3)))
    state = read_result("create_optimizer", OPTIMIZER, NODE, V1, BODIES)
    assert isinstance(state, OptimizerState) and state.defaults["betas"] == (0.9, 0.99)
    assert state.param_groups[0].options == {"lr": float("inf")}
    assert state.state["p"]["step"] == 3 and isinstance(state.state["p"]["momentum_buffer"], Tensor)
    returned = read_result("run_callable", {"data": [encode(Variable("x")), ARRAY]}, CLIENT, V1, BODIES)
    assert isinstance(returned, Returned) and returned.data[0] == Variable("x") and returned.data[1].shape == (2, 3)


def test_a_nodes_plain_results_are_as_they_come() -> None:
    sentence = {"message": "Backward pass executed successfully.", "more": [{"__variable__": 1}]}
    assert read_result("run_backward", sentence, NODE, PLAIN).model_dump() == sentence


def test_results_are_of_methods_that_there_are() -> None:
    for (profile, direction), kinds in RESULTS.items():
        assert set(kinds) <= set(SCHEMAS[profile, direction])
