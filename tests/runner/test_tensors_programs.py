"""Programs of many steps, in place and through views, give the values, gradients and graphs that torch gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gridkit.errors import ErrorCode, PlanError
from gridkit.runner.tensors.functions import FUNCTIONS
from gridkit.runner.tensors.graph import grad_fn_of
from gridkit.runner.tensors.variables import Told, array_of
from tests.runner.tensors_peer import ref, same, session

ONE = ["exp", "tanh", "neg", "relu", "clone", "detach", "sigmoid", "t", "contiguous"]
TWO = ["add", "mul", "sub", "maximum", "matmul", "where"]
ONE_IN_PLACE = ["relu_", "tanh_", "neg_", "zero_", "sigmoid_", "detach_"]
TWO_IN_PLACE = ["add_", "mul_", "copy_", "sub_"]

Step = tuple[str, tuple[int, ...], bool]
place = st.integers(0, 63)
steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([*ONE, *ONE_IN_PLACE, "row", "set row"]), st.tuples(place), st.booleans()),
        st.tuples(st.sampled_from([*TWO, *TWO_IN_PLACE]), st.tuples(place, place), st.booleans()),
        st.tuples(st.sampled_from(["delete", "backward"]), st.tuples(place), st.booleans()),
    ),
    min_size=1,
    max_size=14,
)


class Twins:
    """A session and torch, with the same tensors under the same names; and what a mirror of the session would hold."""

    def __init__(self) -> None:
        self.remote = session()
        self.here: dict[str, torch.Tensor] = {}
        self.nodes: dict[int, str] = {}
        self.edges: dict[int, list[tuple[int | None, int]]] = {}
        self.grad_fn: dict[str, int | None] = {}
        self.made = 0
        for name, requires_grad in (("x", True), ("w", True), ("c", False)):
            tensor = torch.linspace(-1, 1, 9).reshape(3, 3) + len(self.here)
            self.take(self.remote.create(name, tensor.numpy(), requires_grad))
            self.here[name] = tensor.requires_grad_(requires_grad)

    def take(self, told: Told) -> None:
        for node in told.nodes:
            self.nodes[node.id], self.edges[node.id] = node.name, []
        for edge in told.edges:
            self.edges[edge.source].append((edge.target, edge.output_nr))
        for variable in (*told.variables, *told.changed):
            self.grad_fn[variable.id] = variable.grad_fn

    def do(self, step: Step) -> None:
        kind, places, grad_enabled = step
        names = [list(self.here)[p % len(self.here)] for p in places]
        if kind == "delete":
            if names[0].startswith("t"):
                del self.here[names[0]]
                self.remote.delete(names)
            return
        if kind == "backward":
            return self.backward(names[0])
        function, args = f"torch.Tensor.{kind}", [self.here[name] for name in names]
        forms: list[Any] = [ref(name) for name in names]
        if kind == "row":
            function, args, forms = (
                "torch.Tensor.__getitem__",
                [*args, slice(0, 1)],
                [*forms, {"__slice__": [0, 1, None]}],
            )
        elif kind == "set row":
            function, args, forms = "torch.Tensor.__setitem__", [*args, 0, 0.5], [*forms, 0, 0.5]
        elif kind == "where":
            function, args, forms = "torch.where", [self.here["c"] > 0, *args], [ref("mask"), *forms]
            self.take(self.remote.call("torch.Tensor.gt", [ref("c"), 0], {}, ["mask"]))
        try:
            with torch.set_grad_enabled(grad_enabled):
                result = FUNCTIONS[function](*args)
            self.keep(function, forms, result, grad_enabled)
        except RuntimeError as error:
            self.refused(
                str(error), lambda: self.remote.call(function, forms, {}, ["never"], grad_enabled=grad_enabled)
            )
        finally:
            self.remote.delete(["mask"])

    def keep(self, function: str, forms: list[Any], result: torch.Tensor | None, grad_enabled: bool) -> None:
        out = []
        if result is not None:
            out = [name for name, tensor in self.here.items() if tensor is result] or [f"t{self.made}"]
            self.made += 1
            self.here[out[0]] = result
        self.take(self.remote.call(function, forms, {}, out[:1], grad_enabled=grad_enabled))

    def backward(self, name: str) -> None:
        gradient = torch.linspace(0, 1, self.here[name].numel()).reshape(self.here[name].shape)
        self.remote.create("gradient", gradient.numpy())
        try:
            self.here[name].backward(gradient, retain_graph=True)
            self.take(self.remote.backward([name], ["gradient"], retain_graph=True))
        except RuntimeError as error:
            self.refused(str(error), lambda: self.remote.backward([name], ["gradient"], retain_graph=True))
        self.remote.delete(["gradient"])

    def refused(self, text: str, act: Any) -> None:
        """Sizes are checked without values: where two things are wrong, the other one may be said."""
        try:
            act()
        except PlanError as error:
            assert error.code is ErrorCode.BAD_INPUT and isinstance(error.__cause__, RuntimeError)
        else:
            raise AssertionError(f"torch refuses it: {text}")

    def check(self) -> None:
        for name, tensor in self.here.items():
            assert same(self.remote.read(name), array_of(tensor)), name
            assert self.picture(self.grad_fn[name]) == picture(grad_fn_of(tensor)), name
            told = self.remote.name_grad(name, "grad")
            grad = tensor.grad if grad_fn_of(tensor) is None else None
            assert bool(told.variables) == (grad is not None)
            if grad is not None:
                assert same(self.remote.read("grad"), array_of(grad)), name
            self.remote.delete(["grad"])

    def picture(self, node: int | None) -> Any:
        if node is None:
            return None
        return self.nodes[node], [(self.picture(target), nr) for target, nr in self.edges[node]]


def picture(node: Any) -> Any:
    if node is None:
        return None
    return node.name().rpartition("::")[2], [(picture(target), nr) for target, nr in node.next_functions]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps)
def test_programs_run_as_in_torch(program: list[Step]) -> None:
    run(program)


@pytest.mark.soak
@pytest.mark.timeout(600)
@settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps)
def test_many_programs_run_as_in_torch(program: list[Step]) -> None:
    run(program)


def run(program: list[Step]) -> None:
    torch.set_num_threads(1)
    twins = Twins()
    for step in program:
        twins.do(step)
        twins.check()
    twins.remote.delete(list(twins.here))
    twins.here.clear()
