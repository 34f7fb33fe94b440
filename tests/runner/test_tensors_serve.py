"""The loop of a session's process, without the process: what it answers and tells, in the words of `gridkit.v1`."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gridkit.runner.tensors import serve
from gridkit.runner.tensors.serve import Server
from gridkit.runner.tensors.session import TensorSession
from gridkit.wire.frames import cut, pack_frame, read_frame
from gridkit.wire.rpc import v1
from gridkit.wire.rpc.members import read_members
from gridkit.wire.rpc.results import OptimizerState
from gridkit.wire.rpc.values import Body, Variable, decode, encode
from tests.runner.tensors_peer import ref, session

FRAME = 1 << 20


class Node:
    """Asks, and takes what is told by the schemas."""

    def __init__(self, remote: TensorSession, results: int = 1 << 20) -> None:
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(20)
        self.server = Server(theirs, remote, results, FRAME)
        self.thread = threading.Thread(target=self.server.serve)
        self.frames = self.channel.makefile("rb")
        self.number = 0
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.fired: list[dict[str, Any]] = []
        self.heard = 0

    def send(self, method: str, **params: Any) -> int:
        bodies: list[Body] = []
        text = json.dumps({"method": method, "params": encode(params, bodies)}).encode()
        parts = [text, *map(bytes, bodies)]
        self.number += 1
        self.channel.sendall(pack_frame({"number": self.number, "sizes": [len(part) for part in parts]}, parts))
        return self.number

    def hear(self) -> tuple[dict[str, Any], list[bytes]]:
        """The next answer."""
        while True:
            frame = read_frame(self.frames, FRAME)
            assert frame is not None
            header, body = frame
            text, *bodies = cut(body, header["sizes"])
            said = json.loads(text)
            self.heard += 1
            for event in said["events"]:
                kind = v1.TO_CLIENT[event["method"]]
                told = read_members(kind, event["params"], bodies[: header["told"]])
                self.events.append((event["method"], vars(told)))
            for params in said["fired"]:
                self.fired.append(vars(read_members(v1.NodeFired, params, [])))
            if "answer" in said:
                return said, bodies[header["told"] :]

    def do(self, method: str, **params: Any) -> Any:
        number = self.send(method, **params)
        said, bodies = self.hear()
        assert said["answer"] == number and "error" not in said, said
        return decode(said["result"], bodies)

    def refused(self, method: str, **params: Any) -> str:
        self.send(method, **params)
        said, _ = self.hear()
        return str(said["error"]["code"])

    def run(self, function: str, args: list[Any], out: str) -> Any:
        return self.do("run_function", function_name=function, args=args, kwargs={}, out_ids=[out], grad_enabled=True)


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node(session(preview=4))
    made.thread.start()
    yield made
    made.channel.shutdown(socket.SHUT_RDWR)
    made.thread.join(20)
    assert not made.thread.is_alive()
    made.channel.close()


X = Variable("x")


def create(node: Node, name: str = "x", data: Any = (1.0, 2.0), requires_grad: bool = True) -> None:
    node.do("create_variable", variable_id=name, data=np.array(data, np.float32), requires_grad=requires_grad)


def test_only_what_is_new_is_told(node: Node) -> None:
    create(node)
    node.run("torch.Tensor.detach", [X], "y")
    node.events.clear()
    node.run("torch.Tensor.add_", [Variable("y"), 1], "y")
    updates = [(params["variable_id"], params["field"], params["version"]) for _, params in node.events]
    assert [method for method, _ in node.events] == ["update_variable"] * 2
    assert sorted(updates) == [("x", "data", 1), ("y", "data", 1)]
    assert node.events[0][1]["value"].values.tolist() == [2, 3]
    node.events.clear()
    node.do("update_variable", variable_id="y", field="requires_grad", value=True)
    assert [(params["field"], params["value"]) for _, params in node.events] == [("requires_grad", True)]


def test_a_deleted_id_is_told_anew(node: Node) -> None:
    for _ in range(2):
        create(node)
        node.do("delete_variables", variable_ids=["x", "never"])
    assert [method for method, _ in node.events] == ["create_variable"] * 2
    assert len(node.server._teller) == 0


def test_a_pass_is_told_on_its_way(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "FLUSH_EVENTS", 1)
    create(node)
    node.run("torch.Tensor.mul", [X, X], "y")
    node.run("torch.Tensor.sum", [Variable("y")], "s")
    node.events.clear()
    node.heard = 0
    number = node.send("run_backward", pass_id="7", variables=[Variable("s")])
    said, _ = node.hear()
    assert node.heard == 5 and said["answer"] == number
    assert said["names"] == ["x"] and said["total"] == 3 and said["count"] == 6
    assert [fired["pass_id"] for fired in node.fired] == ["7"] * 3
    assert [[g.shape for g in fired["gradients"]] for fired in node.fired[:2]] == [[[2]], [[2], [2]]]
    assert [method for method, _ in node.events] == ["append_grad", "update_variable", "free_nodes"]
    assert node.events[0][1]["gradient"].values.tolist() == [2, 4] and node.events[0][1]["pass_id"] == "7"
    assert node.do("name_grad", variable_id="x", out_id="g") == {"variable_ids": ["g"]}
    assert node.do("name_grad", variable_id="g", out_id="h") == {"variable_ids": []}
    assert node.do("get_variable", variable_id="g")["data"].tolist() == [2, 4]


def test_a_cancelled_request_is_not_begun(node: Node) -> None:
    create(node)
    node.channel.sendall(pack_frame({"cancel": node.number + 1}) + pack_frame({"cancel": node.number}))
    assert node.refused("get_variable", variable_id="x") == "CANCELLED"
    assert node.do("get_variable", variable_id="x")["data"].tolist() == [1, 2]
    assert node.server._cancelled == set()


def test_gradients_are_given_and_set(node: Node) -> None:
    create(node)
    create(node, "g", [5.0, 6.0], requires_grad=False)
    node.do("append_grad", variable_id="x", gradient=Variable("g"))
    node.do("append_grad", variable_id="x", gradient=Variable("g"))
    node.do("name_grad", variable_id="x", out_id="sum")
    assert node.do("get_variable", variable_id="sum")["data"].tolist() == [10, 12]
    node.do("update_variable", variable_id="x", field="grad", value=Variable("g"))
    node.do("update_variable", variable_id="x", field="grad", value=None)
    has_grad = [params["value"] for method, params in node.events if params.get("field") == "has_grad"]
    assert has_grad == [True, False]
    assert node.do("get_backprop_ids", variables=[X]) == {"variable_ids": ["x"]}


def test_optimizers_are_told_as_the_schema_has_them(node: Node) -> None:
    create(node)
    create(node, "w", [[1.0]])
    made = {"optimizer_id": "o", "optimizer_name": "SGD", "defaults": {"lr": 0.5, "momentum": 0.9}}
    group = {"params": [X], "options": {"lr": 0.25}}
    node.do("create_optimizer", params=[group], **made)
    node.do("add_param_group", optimizer_id="o", param_group={"params": [Variable("w")]})
    node.run("torch.Tensor.sum", [X], "s")
    node.do("run_backward", pass_id="1", variables=[Variable("s")])
    number = node.send("run_step", optimizer_id="o", step_id="1")
    said, _ = node.hear()
    assert said["answer"] == number and said["names"] == ["x", "w"]
    node.send("set_options", optimizer_id="o", group=1, options={"lr": 0.125})
    said, bodies = node.hear()
    state = read_members(OptimizerState, said["result"], bodies)
    assert [(g.params, g.options["lr"]) for g in state.param_groups] == [(["x"], 0.25), (["w"], 0.125)]
    kept = state.state["x"]["momentum_buffer"]
    assert isinstance(kept, v1.Tensor) and kept.values is not None and kept.values.tolist() == [1, 1]


def test_arrays_are_tensors_for_one_call(node: Node) -> None:
    create(node)
    given = [[np.ones(2, np.float32), X], 1]
    assert node.run("torch.stack", given, "s") == {"variable_ids": ["s"]}
    assert node.do("get_variable", variable_id="s")["data"].shape == (2, 2)
    node.do("delete_variables", variable_ids=["s"])
    node.send("seed", seed=1)
    assert node.hear()[0]["count"] == 1


def test_refusals(node: Node) -> None:
    node.server._results = 4
    create(node)
    assert node.refused("get_variable", variable_id="x") == "TOO_LARGE"
    assert node.refused("get_variable", variable_id="y") == "NOT_FOUND"
    assert node.refused("run_step", optimizer_id="o", step_id="1") == "NOT_FOUND"
    assert node.refused("run_backward", pass_id="1", variables=[Variable("y")]) == "NOT_FOUND"
    assert node.refused("get_variable") == "BAD_REQUEST"
    function = {"kwargs": {}, "out_ids": ["y"], "grad_enabled": True}
    assert node.refused("run_function", function_name="os.system", args=["ls"], **function) == "NOT_ALLOWED"
    node.server._session._ledger.limit = 500
    large = np.zeros(100)
    assert node.refused("run_function", function_name="torch.sum", args=[large], **function) == "OUT_OF_MEMORY"
    assert ref("x") == encode(X)


def test_memory_flat_over_many_requests(node: Node) -> None:
    """S6: what is made and deleted leaves nothing."""
    create(node)
    for _ in range(300):
        node.run("torch.Tensor.mul", [X, 2], "y")
        node.do("delete_variables", variable_ids=["y"])
    node.send("seed", seed=1)
    said, _ = node.hear()
    assert said["count"] == 1 and len(node.server._teller) == 1
