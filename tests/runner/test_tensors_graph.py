"""torch's graph as a session tells it: nodes before those that lead to them, edges, leaves, views, what was freed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gridkit.errors import ErrorCode, NodeError, PlanError
from gridkit.runner.tensors.passes import Event, GradAppended, NodeFired
from gridkit.runner.tensors.session import TensorSession
from gridkit.runner.tensors.variables import Told
from tests.runner.tensors_peer import ref, session

ONES = np.array([1.0, 2.0], np.float32)


class Mirror:
    """What a client would have: everything applied in the order in which it was told."""

    def __init__(self, remote: TensorSession) -> None:
        self.remote = remote
        self.nodes: dict[int, Any] = {}
        self.edges: dict[int, list[tuple[int | None, int]]] = {}
        self.variables: dict[str, Any] = {}
        self.freed: set[int] = set()

    def take(self, told: Told) -> Told:
        for node in told.nodes:
            assert node.id not in self.nodes
            self.nodes[node.id] = node
            self.edges[node.id] = []
        for edge in told.edges:
            assert edge.target is None or edge.target in self.nodes
            assert edge.place == len(self.edges[edge.source])
            self.edges[edge.source].append((edge.target, edge.output_nr))
        for variable in (*told.variables, *told.changed):
            assert variable.grad_fn is None or variable.grad_fn in self.nodes
            self.variables[variable.id] = variable
        self.freed |= set(told.freed)
        return told

    def leaf(self, name: str, array: Any = ONES, requires_grad: bool = True) -> None:
        self.take(self.remote.create(name, np.asarray(array, np.float32), requires_grad))

    def run(self, function: str, *args: Any, out: str | list[str], **options: Any) -> Told:
        names = [out] if isinstance(out, str) else out
        forms = [ref(a) if isinstance(a, str) and a in self.variables else a for a in args]
        return self.take(self.remote.call(function, forms, {}, names, **options))

    def picture(self, name: str) -> Any:
        """The graph behind a variable, as nested lists."""
        return self._behind(self.variables[name].grad_fn)

    def _behind(self, node: int | None) -> Any:
        if node is None:
            return None
        name = self.nodes[node].name
        return f"leaf {self.nodes[node].variable}" if name == "AccumulateGrad" else [name, *self.behind(node)]

    def behind(self, node: int) -> list[Any]:
        return [self._behind(target) for target, _ in self.edges[node]]


@pytest.fixture
def mirror() -> Mirror:
    torch.set_num_threads(1)
    return Mirror(session(preview=16))


def test_an_operation_tells_its_nodes_and_edges(mirror: Mirror) -> None:
    mirror.leaf("x")
    mirror.leaf("w")
    first = mirror.run("torch.Tensor.add", "x", "x", out="s")
    second = mirror.run("torch.Tensor.mul", "s", "w", out="y")
    assert [node.name for node in first.nodes] == ["AccumulateGrad", "AddBackward0"]
    assert [node.name for node in second.nodes] == ["AccumulateGrad", "MulBackward0"]
    assert mirror.picture("y") == ["MulBackward0", ["AddBackward0", "leaf x", "leaf x"], "leaf w"]
    mul = second.nodes[-1]
    assert mul.saved == (("other", (2,)), ("self", (2,))) and mul.sequence is not None
    assert first.nodes[0].sequence is None and first.nodes[0].variable == "x"


def test_an_argument_without_a_gradient_has_an_edge_to_nothing(mirror: Mirror) -> None:
    mirror.leaf("x")
    mirror.leaf("c", requires_grad=False)
    mirror.run("torch.Tensor.mul", "c", "x", out="y")
    assert mirror.picture("y") == ["MulBackward0", None, "leaf x"]


def test_results_of_one_call_share_a_node(mirror: Mirror) -> None:
    mirror.leaf("x", np.arange(6.0))
    told = mirror.run("torch.Tensor.split", "x", 2, out=["a", "b", "c"])
    assert len({v.grad_fn for v in told.variables}) == 1
    assert [v.output_nr for v in told.variables] == [0, 1, 2]
    mirror.run("torch.Tensor.mul", "c", 2, out="y")
    assert mirror.edges[mirror.variables["y"].grad_fn][0] == (told.variables[0].grad_fn, 2)


def test_without_gradients_there_is_no_graph(mirror: Mirror) -> None:
    mirror.leaf("x")
    told = mirror.run("torch.Tensor.mul", "x", 2, out="y", grad_enabled=False)
    assert told.nodes == () and not told.variables[0].requires_grad


def test_a_diamond_of_many_floors_is_told_once(mirror: Mirror) -> None:
    mirror.leaf("x")
    name = "x"
    for floor in range(60):
        mirror.run("torch.Tensor.add", name, name, out=f"y{floor}")
        name = f"y{floor}"
    assert len(mirror.nodes) == 61
    told = mirror.take(mirror.remote.backward([name], ["x"]))
    assert told.variables[0].has_grad


def test_a_change_in_place_moves_a_variable_to_a_new_node(mirror: Mirror) -> None:
    mirror.leaf("x")
    mirror.run("torch.Tensor.mul", "x", 2, out="y")
    told = mirror.run("torch.Tensor.add_", "y", 1, out="y")
    assert mirror.picture("y") == ["AddBackward0", ["MulBackward0", "leaf x", None], None]
    assert told.variables[0].version == 1 and told.variables[0].data.values.tolist() == [3, 5]


def test_views_are_told_of_a_change_to_their_base_and_the_other_way(mirror: Mirror) -> None:
    mirror.leaf("x", np.arange(6.0))
    mirror.run("torch.Tensor.mul", "x", 2, out="y")
    mirror.run("torch.Tensor.__getitem__", "y", {"__slice__": [1, 3, None]}, out="v")
    mirror.run("torch.Tensor.detach", "y", out="d")
    told = mirror.run("torch.Tensor.mul_", "y", 3, out="y")
    assert {v.id for v in told.changed} == {"v", "d"}
    assert mirror.nodes[mirror.variables["v"].grad_fn].name == "AsStridedBackward0"
    assert mirror.variables["v"].data.values.tolist() == [6, 12]
    told = mirror.run("torch.Tensor.zero_", "v", out="v")
    assert {v.id for v in told.changed} == {"y", "d"}
    assert mirror.picture("y")[0] == "CopySlices"
    mirror.run("torch.Tensor.__setitem__", "v", 0, 5, out=[])
    assert mirror.variables["y"].data.values.tolist() == [0, 5, 0, 18, 24, 30]


def test_a_function_that_gives_its_argument_back_gives_it_another_name(mirror: Mirror) -> None:
    mirror.leaf("x")
    mirror.run("torch.Tensor.contiguous", "x", out="same")
    events: list[Event] = []
    mirror.run("torch.Tensor.sum", "same", out="y")
    told = mirror.take(mirror.remote.backward(["y"], emit=events.append))
    assert {v.id for v in told.variables} == {"x", "same"}
    assert [e.variable for e in events if isinstance(e, GradAppended)] == ["x", "same"]
    mirror.remote.delete(["x"])
    assert mirror.remote.read("same").tolist() == [1, 2]


def test_a_pass_tells_of_each_node_and_each_gradient_in_order(mirror: Mirror) -> None:
    mirror.leaf("x")
    mirror.leaf("w")
    mirror.run("torch.Tensor.add", "x", "x", out="s")
    mirror.run("torch.Tensor.mul", "s", "w", out="p")
    mirror.take(mirror.remote.update("s", "retains_grad", True))
    mirror.run("torch.Tensor.sum", "p", out="y")
    events: list[Event] = []
    assert sorted(mirror.remote.reached(["y"])) == ["s", "w", "x"]
    told = mirror.take(mirror.remote.backward(["y"], emit=events.append))
    fired = [mirror.nodes[e.node].name for e in events if isinstance(e, NodeFired)]
    assert fired.index("SumBackward0") < fired.index("MulBackward0") < fired.index("AddBackward0")
    assert sorted(fired) == ["AccumulateGrad", "AccumulateGrad", "AddBackward0", "MulBackward0", "SumBackward0"]
    gradients = {e.variable: e.gradient.values.tolist() for e in events if isinstance(e, GradAppended)}
    assert gradients == {"w": [2, 4], "s": [1, 2], "x": [2, 4]}  # both paths to x in one
    assert {v.id for v in told.variables} == {"x", "w", "s"} and all(v.has_grad for v in told.variables)


def test_hooks_are_there_for_one_pass_only(mirror: Mirror) -> None:
    mirror.leaf("x")
    mirror.run("torch.Tensor.pow", "x", 2, out="s")
    mirror.run("torch.Tensor.sum", "s", out="y")
    mirror.remote.update("s", "retains_grad", True)
    first: list[Event] = []
    second: list[Event] = []
    mirror.remote.backward(["y"], retain_graph=True, emit=first.append)
    mirror.remote.backward(["y"], retain_graph=True, emit=second.append)
    mirror.remote.backward(["y"])
    assert len(first) == len(second) == 5
    # each pass tells its own gradient; the variable's is the sum
    assert [e.gradient.values.tolist() for e in second if isinstance(e, GradAppended)] == [[1, 1], [2, 4]]
    mirror.remote.name_grad("x", "g")
    assert mirror.remote.read("g").tolist() == [6, 12]


def test_a_gradient_with_a_name_is_told_when_a_pass_adds_to_it(mirror: Mirror) -> None:
    mirror.leaf("x")
    mirror.run("torch.Tensor.sum", "x", out="y")
    mirror.take(mirror.remote.backward(["y"], retain_graph=True))
    mirror.take(mirror.remote.name_grad("x", "g"))
    told = mirror.take(mirror.remote.backward(["y"]))
    assert [v.id for v in told.changed] == ["g"] and mirror.variables["g"].data.values.tolist() == [2, 2]


def test_a_graph_that_was_freed_says_so(mirror: Mirror) -> None:
    mirror.leaf("x")
    mirror.run("torch.Tensor.pow", "x", 2, out="s")
    mirror.run("torch.Tensor.sum", "s", out="y")
    mirror.take(mirror.remote.backward(["y"], retain_graph=True))
    assert mirror.freed == set()
    mirror.take(mirror.remote.backward(["y"]))
    assert {mirror.nodes[n].name for n in mirror.freed} == {"PowBackward0"}
    with pytest.raises(PlanError, match="second time") as caught:
        mirror.remote.backward(["y"])
    assert caught.value.code is ErrorCode.BAD_INPUT and isinstance(caught.value.__cause__, RuntimeError)


def test_only_the_inputs_get_gradients(mirror: Mirror) -> None:
    mirror.leaf("x")
    mirror.leaf("w")
    mirror.run("torch.Tensor.mul", "x", "w", out="p")
    mirror.run("torch.Tensor.exp", "p", out="e")
    mirror.run("torch.Tensor.sum", "e", out="y")
    events: list[Event] = []
    told = mirror.take(mirror.remote.backward(["y"], inputs=["p", "w"], emit=events.append))
    assert [v.id for v in told.variables] == ["p", "w"]
    assert {e.variable for e in events if isinstance(e, GradAppended)} == {"p", "w"}
    assert mirror.remote.name_grad("x", "g").variables == ()
    mirror.remote.name_grad("p", "g")
    assert mirror.remote.read("g").tolist() == mirror.remote.read("e").tolist()


def test_gradients_of_gradients(mirror: Mirror) -> None:
    mirror.leaf("x")
    mirror.run("torch.Tensor.pow", "x", 3, out="c")
    mirror.run("torch.Tensor.sum", "c", out="y")
    told = mirror.take(mirror.remote.grad(["y"], ["x"], ["g"], create_graph=True))
    assert told.freed == () and told.variables[0].grad_fn is not None
    mirror.run("torch.Tensor.sum", "g", out="z")
    mirror.take(mirror.remote.backward(["z"]))
    mirror.take(mirror.remote.name_grad("x", "gg"))
    assert mirror.remote.read("gg").tolist() == [6, 12]


@pytest.mark.filterwarnings("ignore:Using backward")
def test_create_graph_tells_the_graph_behind_a_gradient_when_it_is_named(mirror: Mirror) -> None:
    mirror.leaf("x")
    mirror.run("torch.Tensor.pow", "x", 3, out="c")
    mirror.run("torch.Tensor.sum", "c", out="y")
    mirror.take(mirror.remote.backward(["y"], create_graph=True))
    told = mirror.take(mirror.remote.name_grad("x", "g"))
    assert "PowBackward0" in [node.name for node in told.nodes]


def test_gradients_by_edge_and_of_what_isnt_used(mirror: Mirror) -> None:
    mirror.leaf("x")
    mirror.leaf("unused")
    mirror.run("torch.Tensor.mul", "x", 2, out="m")
    mirror.run("torch.Tensor.exp", "m", out="e")
    mirror.run("torch.Tensor.sum", "e", out="y")
    events: list[Event] = []
    edge = (mirror.variables["m"].grad_fn, 0)
    told = mirror.remote.grad(
        ["y"], [edge, "unused", "x"], ["a", "b", "c"], retain_graph=True, allow_unused=True, emit=events.append
    )
    assert [v.id for v in mirror.take(told).variables] == ["a", "c"]
    assert not any(isinstance(event, GradAppended) for event in events)
    assert mirror.remote.read("a").tolist() == mirror.remote.read("e").tolist()
    assert mirror.remote.name_grad("x", "none").variables == ()
    with pytest.raises(PlanError, match="isn't in the graph"):
        mirror.remote.grad(["y"], [(10_000, 0)], ["d"])
    with pytest.raises(PlanError, match="not have been used"):
        mirror.remote.grad(["y"], ["unused"], ["d"])


def test_a_leaf_as_root(mirror: Mirror) -> None:
    mirror.leaf("x", 3.0)
    told = mirror.take(mirror.remote.backward(["x"]))
    assert [node.name for node in told.nodes] == ["AccumulateGrad"]
    assert mirror.variables["x"].has_grad


def test_whoever_is_told_may_end_the_pass(mirror: Mirror) -> None:
    mirror.leaf("x")
    mirror.run("torch.Tensor.exp", "x", out="e")
    mirror.run("torch.Tensor.sum", "e", out="y")

    def stop(event: Event) -> None:
        raise NodeError("cancelled")

    with pytest.raises(NodeError, match="cancelled"):
        mirror.remote.backward(["y"], retain_graph=True, emit=stop)
    mirror.take(mirror.remote.backward(["y"]))
    assert mirror.variables["x"].has_grad


def test_a_pass_has_an_end() -> None:
    mirror = Mirror(session(seconds=0.0))
    mirror.leaf("x")
    mirror.run("torch.Tensor.sum", "x", out="y")
    with pytest.raises(PlanError, match="longer than 0 s") as caught:
        mirror.remote.backward(["y"])
    assert caught.value.code is ErrorCode.TIMED_OUT


def test_a_gradient_that_a_client_appends(mirror: Mirror) -> None:
    mirror.leaf("x")
    mirror.leaf("g", [0.5, 0.25], requires_grad=False)
    for total in ([0.5, 0.25], [1.0, 0.5]):
        told = mirror.take(mirror.remote.append_grad("x", "g"))
        assert told.variables[0].has_grad
        mirror.remote.name_grad("x", "now")
        assert mirror.remote.read("now").tolist() == total
        mirror.remote.delete(["now"])
    mirror.run("torch.Tensor.mul", "x", 2, out="y")
    with pytest.raises(PlanError, match="is no leaf"):
        mirror.remote.append_grad("y", "g")
    mirror.leaf("long", [1, 2, 3], requires_grad=False)
    with pytest.raises(PlanError):
        mirror.remote.append_grad("x", "long")


@pytest.mark.filterwarnings("ignore:Using backward")
def test_nodes_that_nobody_could_see_are_told_even_if_they_were_freed(mirror: Mirror) -> None:
    """Behind a gradient with a graph, which a pass went through before anybody asked for it."""
    mirror.leaf("x")
    mirror.run("torch.Tensor.exp", "x", out="e")
    mirror.run("torch.Tensor.sum", "e", out="y")
    mirror.remote.backward(["y"], create_graph=True)
    mirror.remote.backward(["y"])
    told = mirror.take(mirror.remote.name_grad("x", "g"))
    assert told.variables[0].id == "g"


@pytest.mark.filterwarnings("ignore:Using backward")
def test_a_gradient_with_a_graph_goes_with_its_variable(mirror: Mirror) -> None:
    mirror.leaf("x")
    mirror.run("torch.Tensor.pow", "x", 3, out="c")
    mirror.run("torch.Tensor.sum", "c", out="y")
    mirror.remote.backward(["y"], create_graph=True)
    mirror.remote.delete(["x", "c", "y"])
    assert (len(mirror.remote), mirror.remote.held) == (0, 0)
