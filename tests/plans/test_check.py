"""The dry run and the guards: what a plan would do is known before it does it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gridkit.errors import PlanError
from gridkit.plans.check import check_guards, dry_run, guard_text, last_uses, shapes_of
from gridkit.plans.plan import Guard, Input, Node, Output, Plan, Ref
from gridkit.plans.table.ops import table
from gridkit.plans.table.shapes import Meta

X = Input(0, "x", "x", "float32", ("B", 3))


def plan_of(*nodes: Node, guards: tuple[Guard, ...] = (), out: int = 1) -> Plan:
    return Plan("p", (X,), (Output(out, "loss", "loss"),), nodes, {}, guards)


def test_a_huge_constant_is_refused_with_its_node() -> None:
    bomb = Node("aten.full.default", ((1 << 40,), 1.0), (), (1,))
    plan = Plan.from_bytes(plan_of(bomb).to_bytes())  # its form is right
    with pytest.raises(PlanError, match=r"node 0 \(aten.full.default\) of plan 'p' needs 4,398,046,511,104 bytes"):
        plan.run([torch.zeros(2, 3)])


@pytest.mark.parametrize("op", ["py.mul", "py.truediv", "py.mod", "py.floordiv", "py.add"])
def test_no_size_depends_on_the_learning_rate(op: str) -> None:
    """The dry run doesn't know it: with 0.0 this plan would take nothing, with 0.1 it takes 40 GB."""
    rate = Input(1, "lr", "lr", "float64", ())
    nodes = (Node(op, (Ref(1), 1e11), (), (2,)), Node("aten.arange.default", (Ref(2),), (), (3,)))
    plan = Plan("p", (X, rate), (Output(4, "loss", "loss"),), (*nodes, Node("aten.sum.default", (Ref(3),), (), (4,))))
    plan = Plan.from_bytes(plan.to_bytes())
    with pytest.raises(PlanError, match=r"node 1 \(aten.arange.default\) of plan 'p' can't run"):
        plan.run([torch.zeros(2, 3), 0.1])


def test_many_small_values_are_refused_too() -> None:
    nodes = [Node("aten.full.default", ((1 << 20,), 1.0), (), (i,)) for i in range(1, 101)]
    alive = Node("aten.cat.default", (tuple(Ref(i) for i in range(1, 101)),), (), (101,))
    with pytest.raises(PlanError, match=r"node 49 .* 209,715,2\d\d in all; 209,715,200 are allowed"):
        shapes_of(plan_of(*nodes, alive, out=101), 2, budget=50 << 22)
    freed = [Node("aten.full.default", ((1 << 20,), 1.0), (), (i,)) for i in range(1, 100)]
    shapes_of(plan_of(*freed, Node("aten.sum.default", (Ref(99),), (), (100,)), out=100), 2, budget=5 << 22)


def test_views_take_no_memory_but_what_reads_them_does() -> None:
    wide = Node("aten.expand.default", (Ref(0), (1 << 10, 2, 3)), (), (1,))
    again = Node("aten.expand.default", (Ref(1), (1 << 10, 2, 3)), (), (2,))
    copied = Node("aten.add.Tensor", (Ref(1), Ref(2)), (), (3,))
    twice = Node("aten.add.Tensor", (Ref(2), Ref(3)), (), (4,))
    shapes_of(plan_of(wide, again, copied, out=3), 2, budget=30_000)
    with pytest.raises(PlanError, match=r"node 3 \(aten.add.Tensor\).* 49,176 in all"):
        shapes_of(plan_of(wide, again, copied, twice, out=4), 2, budget=30_000)


def test_a_view_keeps_alive_what_it_is_a_view_of() -> None:
    """Else a plan could hold any number of tensors by views, and count as small."""
    nodes = []
    for i in range(1, 200, 2):
        nodes.append(Node("aten.full.default", ((1 << 20,), 1.0), (), (i,)))
        nodes.append(Node("aten.view.default", (Ref(i), (1 << 10, 1 << 10)), (), (i + 1,)))
    used = Node("aten.cat.default", (tuple(Ref(i) for i in range(2, 202, 2)),), (), (201,))
    with pytest.raises(PlanError, match=r"node 98 .* 209,715,2\d\d in all; 209,715,200 are allowed"):
        shapes_of(plan_of(*nodes, used, out=201), 2, budget=50 << 22)
    freed = Node("aten.sum.default", (Ref(200),), (), (201,))
    shapes_of(plan_of(*nodes, freed, out=201), 2, budget=5 << 22)


def test_every_view_is_of_the_argument_that_the_count_of_memory_takes_it_for() -> None:
    views = [op for op in table().values() if op.is_view]
    assert len(views) >= 10
    assert {(op.params[0].name, op.params[0].type) for op in views} == {("self", "Tensor")}


def test_a_view_that_nobody_could_read_is_refused() -> None:
    wide = Node("aten.expand.default", (Ref(0), (1 << 40, 2, 3)), (), (1,))
    with pytest.raises(PlanError, match=r"node 0 \(aten.expand.default\)"):
        shapes_of(plan_of(wide), 2)


def test_numbers_stay_in_64_bits() -> None:
    first = Node("aten.sym_size.int", (Ref(0), 0), (), (1,))
    squares = [Node("py.mul", (Ref(i), Ref(i)), (), (i + 1,)) for i in range(1, 200)]
    with pytest.raises(PlanError, match=r"node 6 \(py.mul\).*64 bits"):
        shapes_of(plan_of(first, *squares), 2)


def test_a_fraction_is_no_size() -> None:
    half = (Node("aten.sym_size.int", (Ref(0), 0), (), (1,)), Node("py.truediv", (Ref(1), 3), (), (2,)))
    with pytest.raises(PlanError, match=r"node 2 .* argument 'size' isn't a whole number"):
        shapes_of(plan_of(*half, Node("aten.zeros.default", ((Ref(2),),), (), (3,)), out=3), 2)


def test_division_by_zero_is_refused() -> None:
    with pytest.raises(PlanError, match=r"node 0 \(py.floordiv\)"):
        shapes_of(plan_of(Node("py.floordiv", (1, 0), (), (1,))), 2)


def test_wrong_shapes_name_the_node() -> None:
    with pytest.raises(PlanError, match=r"node 0 \(aten.mm.default\) of plan 'p' can't run: product of \[4, 3\]"):
        dry_run(plan_of(Node("aten.mm.default", (Ref(0), Ref(0)), (), (1,))), 4)


def test_a_loss_must_be_one_number() -> None:
    with pytest.raises(PlanError, match=r"the loss of plan 'p' is float32\[4, 3\], not one number"):
        dry_run(plan_of(Node("aten.neg.default", (Ref(0),), (), (1,))), 4)


def test_a_next_value_must_look_like_the_old_one() -> None:
    held = Input(1, "w", "param", "float32", (3,))
    plan = Plan("p", (X, held), (Output(0, "w", "param"),), ())
    with pytest.raises(PlanError, match=r"output 'w' of plan 'p' is float32\[4, 3\]"):
        dry_run(plan, 4)


def test_constants_count() -> None:
    plan = Plan("p", (X,), (), (), {1: np.zeros(1000, np.float32)})
    with pytest.raises(PlanError, match="take 4,024 bytes; 1,000 are allowed"):
        dry_run(plan, 2, budget=1000)


def test_result_is_remembered_for_a_batch_size() -> None:
    plan = plan_of(Node("aten.sum.default", (Ref(0),), (), (1,)))
    known = dry_run(plan, 4)
    assert known[1] == Meta((), "float32") and dry_run(plan, 4) is known and dry_run(plan, 5) is not known


def test_values_die_after_their_last_use() -> None:
    nodes = (
        Node("aten.neg.default", (Ref(0),), (), (1,)),
        Node("aten.exp.default", (Ref(1),), (), (2,)),
        Node("aten.sum.default", (Ref(2),), (), (3,)),
    )
    assert last_uses(plan_of(*nodes, out=3)) == [(), (1,), (2,)]


@pytest.mark.parametrize(
    ("guard", "good", "bad", "text"),
    [
        (("gt", "B", 4), 5, 4, "B > 4"),
        (("eq", ("mod", "B", 2), 0), 6, 5, "(B % 2) == 0"),
        (("not", ("le", "B", 3)), 4, 3, "not (B <= 3)"),
        (("and", ("ge", "B", 2), ("lt", "B", 9)), 8, 9, "(B >= 2) and (B < 9)"),
        (("or", ("eq", "B", 1), ("eq", "B", 3)), 3, 2, "(B == 1) or (B == 3)"),
        (("ne", ("floordiv", ("add", ("mul", 2, "B"), 1), 3), 3), 6, 4, "(((2 * B) + 1) // 3) != 3"),
        (("eq", ("mod", 4, ("add", "B", -2)), 0), 3, 2, "(4 % (B + -2)) == 0"),
    ],
)
def test_guards(guard: Guard, good: int, bad: int, text: str) -> None:
    plan = plan_of(guards=(guard,), out=0)
    check_guards(plan, good)
    assert guard_text(guard) == text
    with pytest.raises(PlanError, match=f"this batch has {bad}") as caught:
        check_guards(plan, bad)
    assert text in caught.value.message
