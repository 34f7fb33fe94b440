"""Results written over values that nobody needs: never another result, and never a value that someone needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gridkit.plans.engines.fuse import _ALIASES, overwriting
from gridkit.plans.engines.kernels import IN_PLACE
from gridkit.plans.engines.pytorch import program
from gridkit.plans.optim import SGD, Adam, AdamW
from gridkit.plans.plan import Arg, Input, Node, Output, Plan, Ref
from gridkit.plans.table.ops import REQUIRED, table
from gridkit.plans.training import training_plan
from tests.plans.plans import MODELS, SHAPES, batch, mlp, start
from tests.plans.table.test_ops import CASES, aten


def test_a_form_in_place_gives_the_same_bits_and_its_first_argument() -> None:
    torch.manual_seed(0)
    for name, in_place in IN_PLACE.items():
        kinds = [p.type for p in table()[name].params if p.default is REQUIRED]
        args = [torch.rand(7, 5) if kind == "Tensor" else 0.3 for kind in kinds]
        expected = aten(name)(*args)
        result = in_place(*args)
        assert result is args[0] and torch.equal(result, expected), name


# ---- what the op table promises: only marked rows share memory with an argument


def memory_of(value: Any) -> set[int]:
    if isinstance(value, torch.Tensor):
        return {value.untyped_storage().data_ptr()} - {0}
    return set().union(*map(memory_of, value)) if isinstance(value, list | tuple) else set()


@pytest.mark.parametrize("name", [n for n in CASES if not table()[n].is_view and n not in _ALIASES])
@settings(max_examples=4)
@given(data=st.data())
def test_a_row_that_is_no_view_gives_memory_of_its_own(name: str, data: st.DataObject) -> None:
    case = CASES[name](data.draw)
    args, kwargs = case if isinstance(case, tuple) else (case, {})
    assert not memory_of(args) & memory_of(aten(name)(*args, **kwargs))


# ---- training: the numbers stay, and so does what the caller holds


@pytest.mark.parametrize(
    ("optimizer", "overwritten", "owned"),
    [
        (SGD(0.1), 0, 4 * 1),  # p + -lr * g
        (SGD(0.1, momentum=0.9), 4 * 1, 4 * 3),  # m * 0.9, + g; p + -lr * m
        (SGD(0.1, momentum=0.9, weight_decay=0.1, nesterov=True), 4 * 1, 4 * 3),
        (Adam(0.1), 4 * 4, 4 * 7 + 1),  # lerp; * and addcmul; / and + eps of the root; / of the change; p; the count
        (AdamW(0.1), 4 * 5, 4 * 8 + 1),  # and p * (1 - lr * decay)
    ],
    ids=str,
)
def test_optimiser_steps_take_no_fresh_memory(optimizer: Any, overwritten: int, owned: int) -> None:
    plan = training_plan(mlp(), F.cross_entropy, optimizer, batch(8))
    assert (len(overwriting(plan)), len(overwriting(plan, donate=True))) == (overwritten, owned)


class Tied(nn.Module):
    """A tied parameter, a frozen one, batch norm's running statistics, and a buffer that stays."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(12, 12), nn.Linear(12, 12), nn.BatchNorm1d(12)
        self.b.weight = self.a.weight
        self.a.bias.requires_grad_(False)
        self.out = nn.Linear(12, 5)
        self.register_buffer("scale", torch.rand(12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.b(F.relu(self.norm(self.a(x * self.scale)))))


@pytest.mark.parametrize("make", [mlp, MODELS["cnn"], Tied])
@pytest.mark.parametrize(
    "optimizer",
    [SGD(0.1), SGD(0.1, 0.9, 0.1), SGD(0.1, 0.9, 0.1, nesterov=True), Adam(0.01, weight_decay=0.1), AdamW(0.01)],
    ids=str,
)
def test_a_loop_that_gives_its_state_away_has_the_same_bits(make: Any, optimizer: Any) -> None:
    torch.manual_seed(0)
    model = make()
    shape = SHAPES["cnn"] if make is MODELS["cnn"] else SHAPES["mlp"]
    plan = training_plan(model, F.cross_entropy, optimizer, batch(8, shape))
    kept, given_away = start(plan, model), start(plan, model)
    ones, lr = torch.ones(8), optimizer.lr
    places = {t.data_ptr() for t in given_away}
    with torch.no_grad():
        for seed in range(5):
            data = batch(8, shape, seed)
            one, *kept = program(plan, "interpreter")([*kept, *data, ones, lr])
            two, *given_away = program(plan, donate=True)([*given_away, *data, ones, lr])
            assert torch.equal(one, two)
            assert all(torch.equal(a, b) for a, b in zip(kept, given_away, strict=True))
    assert torch.equal(ones, torch.ones(8))
    if make is not Tied:
        assert {t.data_ptr() for t in given_away} == places


@pytest.mark.parametrize("optimizer", [SGD(0.1, 0.9), AdamW(0.01)], ids=str)
def test_inputs_stay_unless_they_are_given_away(optimizer: Any) -> None:
    plan = training_plan(mlp(), F.cross_entropy, optimizer, batch(8))
    inputs = [*start(plan, mlp()), *batch(8), torch.ones(8), 0.1]
    before = [i.clone() if isinstance(i, torch.Tensor) else i for i in inputs]
    plan.run(inputs)
    assert all(torch.equal(a, b) for a, b in zip(before[:-1], inputs[:-1], strict=True))


# ---- plans made to go wrong

P, Q = Input(0, "p", "param", "float32", (3, 3)), Input(1, "q", "buffer", "float32", (3, 3))
X, W = Input(2, "x", "x", "float32", ("B", 3)), Input(3, "w", "weight", "float32", (3, 3))


def doubled(source: int, result: int, other: int | None = None) -> Node:
    return Node("aten.add.Tensor", (Ref(source), Ref(source if other is None else other)), (), (result,))


def view(source: int, result: int, op: str = "aten.t.default") -> Node:
    return Node(op, (Ref(source),), (), (result,))


def made(nodes: list[Node], p: int, q: int = 1, loss: int = 3, constants: Any = None) -> Plan:
    outputs = (Output(loss, "loss", "loss"), Output(p, "p", "param"), Output(q, "q", "buffer"))
    return Plan("made", (P, Q, X, W), outputs, tuple(nodes), constants or {})


HARMLESS: dict[str, tuple[Plan, set[int]]] = {
    "the plain case": (made([doubled(0, 4)], 4), {0}),
    "a chain": (made([doubled(0, 4), doubled(4, 5), doubled(5, 6)], 6), {0, 1, 2}),
    "read before": (made([view(0, 4), doubled(1, 5, 4), doubled(0, 6)], 6, 5), {1, 2}),
    "read after": (made([doubled(0, 4), doubled(1, 5, 0)], 4, 5), {1}),
    "its view read after": (made([view(0, 4), doubled(0, 5), doubled(1, 6, 4)], 5, 6), {2}),
    "its view read there": (made([view(0, 4), doubled(0, 5, 4)], 5), set()),
    "the view of its view": (made([view(0, 4), view(4, 5), doubled(0, 6), doubled(1, 7, 5)], 6, 7), {3}),
    "an unmarked view": (
        made([Node("aten._unsafe_view.default", (Ref(0), (3, 3)), (), (4,)), doubled(0, 5), doubled(1, 6, 4)], 5, 6),
        {2},
    ),
    "over a view": (made([view(0, 4), doubled(4, 5)], 5), set()),
    "the old value as another's new one": (made([doubled(0, 4)], 4, 0), set()),
    "both of one new value": (made([doubled(0, 4)], 4, 4), set()),
    "two views of one new value": (made([doubled(0, 4), view(4, 5)], 4, 5), set()),
    "a view as the new value": (made([doubled(0, 4), view(4, 5)], 5), set()),
    "changed places": (made([], 1, 0), set()),
    "a weight as the new value": (made([doubled(0, 4)], 4, 3), {0}),
    "the loss is the new value": (made([doubled(0, 4)], 4, loss=4), set()),
    "a constant as the new value": (made([doubled(0, 4)], 4, 5, constants={5: np.ones((3, 3), np.float32)}), {0}),
    "a middle value that is needed": (made([doubled(0, 4), doubled(4, 5), doubled(1, 6, 4)], 5, 6), {0, 2}),
    "x is not ours": (made([doubled(2, 4), doubled(4, 5)], 0, loss=5), set()),
    "the weight is not ours": (made([doubled(3, 4), doubled(4, 5)], 0, loss=5), {1}),
    "a batch that makes it larger": (made([doubled(0, 4, 2)], 4), {0}),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_overwritten(name: str) -> None:
    plan, expected = HARMLESS[name]
    assert_loops_agree(plan)
    assert overwriting(plan, donate=True) == expected


def assert_loops_agree(plan: Plan, steps: int = 3) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(3, 3), torch.randn(3, 3)
    kept = [torch.randn(3, 3), torch.randn(3, 3)]
    given_away = [t.clone() for t in kept]
    before = x.clone(), weight.clone()
    for _ in range(steps):
        one, *kept = program(plan, "interpreter")([*kept, x, weight])
        two, *given_away = program(plan, donate=True)([*given_away, x, weight])
        three = program(plan)([*kept, x, weight])
        assert torch.equal(one, two)
        assert all(torch.equal(a, b) for a, b in zip(kept, given_away, strict=True))
        again = program(plan, "interpreter")([*kept, x, weight])
        assert all(torch.equal(a, b) for a, b in zip(three, again, strict=True))
    assert torch.equal(before[0], x) and torch.equal(before[1], weight)


@st.composite
def plans(draw: Any) -> Plan:
    """Element-wise operations and views of 3x3 tensors, in any order, with any values as the next state."""
    nodes: list[Node] = []
    ids = [0, 1, 2, 3, 4]
    for new in range(5, 5 + draw(st.integers(1, 10))):
        a, b, c = (Ref(draw(st.sampled_from(ids))) for _ in range(3))
        args: tuple[str, tuple[Arg, ...]] = draw(
            st.sampled_from(
                [
                    ("aten.add.Tensor", (a, b)),
                    ("aten.mul.Tensor", (a, b)),
                    ("aten.sub.Tensor", (a, b)),
                    ("aten.mul.Scalar", (a, 0.5)),
                    ("aten.addcmul.default", (a, b, c)),
                    ("aten.lerp.Scalar", (a, b, 0.3)),
                    ("aten.t.default", (a,)),
                    ("aten._unsafe_view.default", (a, (3, 3))),
                    ("aten.relu.default", (a,)),
                    ("aten.mm.default", (a, b)),
                ]
            )
        )
        if args[0] == "aten._unsafe_view.default" and any(n.op == "aten.t.default" for n in nodes):
            args = ("aten.t.default", (a,))  # a transposed tensor has no such view
        nodes.append(Node(args[0], args[1], (), (new,)))
        ids.append(new)
    p, q, loss = (draw(st.sampled_from(ids)) for _ in range(3))
    return made(nodes, p, q, loss, {4: np.linspace(-1, 1, 9, dtype=np.float32).reshape(3, 3)})


@settings(max_examples=200)
@given(plan=plans())
def test_no_plan_can_tell(plan: Plan) -> None:
    assert_loops_agree(plan)


def test_sizes_that_depend_on_the_batch_are_not_overwritten() -> None:
    """x + 1 may be larger than its first argument, depending on the batch."""
    q = Input(1, "q", "buffer", "float32", (1, 3))
    nodes = (doubled(1, 4), doubled(4, 5, 2), Node("aten.sum.dim_IntList", (Ref(5), (0,), True), (), (6,)))
    plan = Plan(
        "p", (P, q, X, W), (Output(3, "loss", "loss"), Output(0, "p", "param"), Output(6, "q", "buffer")), nodes
    )
    assert overwriting(plan, donate=True) == {0}
    for size in (1, 4):
        x = torch.randn(size, 3)
        _, _, new = program(plan, donate=True)([torch.ones(3, 3), torch.ones(1, 3), x, torch.ones(3, 3)])
        torch.testing.assert_close(new, (2 + x).sum(0, keepdim=True))
