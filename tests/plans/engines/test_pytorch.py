"""Both engines: checks at the door, the failing node by name, and values dropped when they are done with."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from gridkit.errors import PlanError
from gridkit.plans.engines import kernels
from gridkit.plans.engines.pytorch import program
from gridkit.plans.plan import Input, Node, Output, Plan, Ref
from tests.plans.plans import MODELS, SHAPES, batch, mlp, start, traced

ENGINES = ["generated", "interpreter"]


def given(size: int = 4) -> list[Any]:
    return [*start(traced("mlp"), mlp()), *batch(size), torch.ones(size), 0.1]


def test_learning_rate_may_be_a_tensor() -> None:
    torch.manual_seed(0)
    inputs = given()
    one = traced("mlp").run(inputs)
    two = traced("mlp").run([*inputs[:-1], torch.tensor(0.1, dtype=torch.float64)])
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_results_are_ordinary_tensors_and_inputs_stay() -> None:
    inputs = given()
    before = [i.clone() for i in inputs[:-1]]
    loss, *state = traced("mlp").run(inputs)
    assert loss.shape == () and not loss.requires_grad and not state[0].is_inference()
    assert all(torch.equal(a, b) for a, b in zip(before, inputs, strict=False))


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        (0, torch.zeros(9, 11), r"input '0.weight' of plan 'Sequential' is \[9, 11\], expected \[9, 12\]"),
        (0, torch.zeros(9, 12).double(), "input '0.weight' .* is float64, expected float32"),
        (4, torch.zeros(4, 13), r"input 'x' .* is \[4, 13\], expected \[B, 12\]"),
        (4, torch.zeros(5, 12), r"input 'y' .* is \[4\], expected \[B\]"),
        (5, torch.zeros(4), "input 'y' .* is float32, expected int64"),
        (5, torch.full((4,), 9), r"node \d+ \(aten.nll_loss_forward.default\) .* failed: Target 9 is out of bounds"),
    ],
)
def test_wrong_inputs_are_refused(place: int, value: torch.Tensor, why: str) -> None:
    inputs = given()
    inputs[place] = value
    with pytest.raises(PlanError, match=why):
        traced("mlp").run(inputs)


def test_number_of_inputs_and_empty_batches() -> None:
    with pytest.raises(PlanError, match="takes 8 inputs, got 7"):
        traced("mlp").run(given()[:-1])
    with pytest.raises(PlanError, match="empty batch"):
        traced("mlp").run(given(0))


@pytest.mark.parametrize("engine", ENGINES)
def test_values_are_dropped_after_their_last_use(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    born: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def watched(x: torch.Tensor) -> torch.Tensor:
        result = torch.neg(x)
        gc.collect()
        alive.append(sum(r() is not None for r in born))
        born.append(weakref.ref(result))
        return result

    monkeypatch.setitem(kernels.DIRECT, "aten.neg.default", watched)
    nodes = tuple(Node("aten.neg.default", (Ref(i),), (), (i + 1,)) for i in range(6))
    plan = Plan("chain", (Input(0, "x", "x", "float32", ("B",)),), (Output(6, "loss", "loss"),), nodes)
    program(plan, engine)([torch.ones(3)])
    assert alive == [0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("donate", [False, True])
def test_a_failing_node_is_named(engine: Any, donate: bool) -> None:
    plan = traced("mlp", momentum=0.9)
    inputs = [*start(plan, mlp()), *batch(4), torch.ones(4), 0.1]
    inputs[-3] = torch.full((4,), 9)
    node = next(i for i, n in enumerate(plan.nodes) if n.op == "aten.nll_loss_forward.default")
    with pytest.raises(PlanError, match=rf"^node {node} \(aten.nll_loss_forward.default\) of plan .* failed: Target 9"):
        program(plan, engine, donate)(inputs)


@pytest.mark.parametrize("engine", ENGINES)
def test_arithmetic_that_fails_is_named_too(engine: Any) -> None:
    size, divided = Node("aten.sym_size.int", (Ref(0), 0), (), (1,)), Node("py.mod", (Ref(1), Ref(2)), (), (3,))
    zero = Node("py.mul", (Ref(1), 0), (), (2,))
    made = Node("aten.scalar_tensor.default", (Ref(3),), (), (4,))
    nodes = (size, zero, divided, made)
    plan = Plan("m", (Input(0, "x", "x", "float32", ("B",)),), (Output(4, "loss", "loss"),), nodes)
    with pytest.raises(PlanError, match=r"^node 2 \(py.mod\) of plan 'm' failed: integer (division or )?modulo"):
        program(plan, engine)([torch.ones(3)])


@pytest.mark.parametrize("engine", ENGINES)
def test_an_error_outside_of_the_nodes_stays_what_it_is(engine: Any) -> None:
    with pytest.raises(ValueError):
        program(traced("mlp"), engine)([])


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_engines_have_the_same_bits(kind: str) -> None:
    plan = traced(kind, momentum=0.9, nesterov=True)
    for size in (1, 8, 33):
        torch.manual_seed(size)
        inputs = [*start(plan, MODELS[kind]()), *batch(size, SHAPES[kind]), torch.rand(size), 0.1]
        with torch.no_grad():
            one, two = (program(plan, engine)(inputs) for engine in ("generated", "interpreter"))
        assert len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_program_is_made_once() -> None:
    plan = traced("mlp")
    assert program(plan) is program(plan, "generated") is not program(plan, donate=True)


def test_every_function_named_here_is_in_the_table() -> None:
    from gridkit.plans.table.ops import table

    assert set(kernels.DIRECT) | set(kernels.IN_PLACE) <= set(table())
    assert all(n in kernels.DIRECT for n in table() if n.startswith("py."))
