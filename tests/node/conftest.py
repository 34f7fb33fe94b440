"""A node process for the tests of a module, and a training hosted on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from gridkit.plans.plan import Input, Node, Output, Plan, Ref
from gridkit.wire.state import pack_state
from tests.support import NodeUnderTest

MODEL = {"w": np.zeros((3, 2), np.float32), "b": np.zeros(2, np.float32)}
DIFF = {"w": np.full((3, 2), 0.5, np.float32), "b": np.full(2, -1.0, np.float32)}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data")
    yield node
    node.terminate()


@pytest.fixture(scope="session")
def plan_bytes() -> bytes:
    """A valid plan (one multiplication); the node checks its form and never runs it."""
    inputs = (Input(0, "w", "param", "float32", (3, 2)), Input(1, "b", "param", "float32", (2,)))
    node = Node("aten.mul.Tensor", (Ref(0), Ref(1)), (), (2,))
    return Plan("tiny", inputs, (Output(2, "w", "param"), Output(1, "b", "param")), (node,)).to_bytes()


def host_files(plan: bytes, server: dict[str, Any], name: str, version: str = "1.0") -> dict[str, Any]:
    config = {"client_config": {"name": name, "version": version}, "server_config": server, "plans": ["training_plan"]}
    return {
        "config": ("config", json.dumps(config).encode(), "application/json"),
        "model": ("model", pack_state(MODEL), "application/octet-stream"),
        "plan0": ("plan0", plan, "application/octet-stream"),
    }


@pytest.fixture
def host(node: NodeUnderTest, plan_bytes: bytes, request: pytest.FixtureRequest) -> Callable[..., dict[str, Any]]:
    """`host(**server_config)`: host a training named after the test; the node's answer."""

    def host(**server: Any) -> dict[str, Any]:
        with node.http() as http:
            files = host_files(plan_bytes, server, request.node.name[:150])
            answer = http.post("/model-centric/host-training", files=files)
        assert answer.status_code == 200, answer.text
        return {**answer.json(), "name": request.node.name[:150]}

    return host
