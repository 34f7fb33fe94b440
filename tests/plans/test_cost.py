"""What plans cost: against counts by hand, and against torch's own counter where it counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from gridkit.errors import PlanError
from gridkit.plans.cost import _ROWS, Cost, costs, kind_of
from gridkit.plans.optim import SGD, Adam, AdamW
from gridkit.plans.plan import Arg, Input, Node, Output, Plan, Ref
from gridkit.plans.table import shapes
from gridkit.plans.table import shapes_layers as layers
from gridkit.plans.table.ops import table
from gridkit.plans.training import training_plan
from tests.plans.plans import MODELS, SHAPES, batch, cnn, traced

ONE_BY_ONE = {
    shapes.same,
    shapes.floating,
    shapes.with_number,
    shapes.true_divide,
    shapes.pair,
    shapes.bitwise,
    shapes.compare,
    shapes.where,
    shapes.masked_fill,
    shapes.backward_of_element,
    shapes.log_sigmoid_forward,
    shapes.log_sigmoid_backward,
    layers.prelu,
    layers.prelu_backward,
}
"""Shape rules of operations on each element: what stands in no row of the cost table counts as one of these."""


def cost_of(op: str, *args: Any, sizes: tuple[tuple[int, ...], ...], out: int = 1) -> Cost:
    """The cost of one node whose leading inputs have these sizes; `args` are what follows them."""
    inputs = tuple(Input(i, f"t{i}", "param", "float32", size) for i, size in enumerate(sizes))
    refs: tuple[Arg, ...] = tuple(Ref(i) for i in range(len(sizes)))
    ids = tuple(range(100, 100 + out))
    node = Node(op, (*refs, *args), (), ids)
    (found,) = costs(Plan("one", inputs, (Output(100, "loss", "loss"),), (node,)), 1)
    return found


def counted(kind: str, plan: Plan, size: int) -> int:
    return sum(c.flops for c in costs(plan, size) if c.kind == kind)


def test_every_operation_of_the_table_has_a_row_or_works_on_each_element() -> None:
    unstated = [o.name for o in table().values() if kind_of(o) == "element by element" and o.rule not in ONE_BY_ONE]
    assert [name for name in unstated if name.split(".")[1] not in _ROWS] == [], (
        "give it a row in gridkit/plans/cost.py"
    )


def test_every_row_is_of_an_operation_of_the_table() -> None:
    assert set(_ROWS) <= {name.split(".")[1] for name in table()}


def test_products_by_hand() -> None:
    assert cost_of("aten.mm.default", sizes=((3, 5), (5, 7))).flops == 3 * 7 * (5 + 5)
    assert cost_of("aten.addmm.default", sizes=((7,), (3, 5), (5, 7))).flops == 3 * 7 * (5 + 5)
    assert cost_of("aten.bmm.default", sizes=((2, 3, 5), (2, 5, 7))).flops == 2 * 3 * 7 * (5 + 5)


def test_a_grouped_convolution_by_hand() -> None:
    # each of 2x6x4x4 values sees 4 / 2 channels of 3x3
    args = (None, (1, 1), (0, 0), (1, 1), False, (0, 0), 2)
    found = cost_of("aten.convolution.default", *args, sizes=((2, 4, 6, 6), (6, 2, 3, 3)))
    assert (found.kind, found.flops) == ("convolutions", 2 * 6 * 4 * 4 * (2 * 2 * 3 * 3))


@pytest.mark.parametrize("mask", [(True, True, True), (False, True, True), (False, True, False), (True, False, False)])
def test_the_gradients_of_a_convolution_by_hand(mask: tuple[bool, ...]) -> None:
    one, rest = 2 * 6 * 4 * 4 * (2 * 4 * 3 * 3), 2 * 6 * 4 * 4
    args = ((6,), (1, 1), (0, 0), (1, 1), False, (0, 0), 1, mask)
    sizes = ((2, 6, 4, 4), (2, 4, 6, 6), (6, 4, 3, 3))
    found = cost_of("aten.convolution_backward.default", *args, sizes=sizes, out=3)
    assert found.flops == (mask[0] + mask[1]) * one + mask[2] * rest


def test_attention_as_torch_counts_it_and_its_softmax() -> None:
    query, key, value = (2, 4, 6, 8), (2, 4, 7, 8), (2, 4, 7, 8)
    name, scores = "aten._scaled_dot_product_flash_attention_for_cpu", 2 * 4 * 6 * 7
    products = sdpa_flop_count(query, key, value)  # type: ignore[no-untyped-call]
    found = cost_of(f"{name}.default", sizes=(query, key, value), out=2)
    assert (found.kind, found.flops) == ("attention", products + 5 * scores)
    sizes = (query, query, key, value, query, (2, 4, 6))
    back = cost_of(f"{name}_backward.default", 0.0, False, sizes=sizes, out=3)
    products = sdpa_backward_flop_count(query, query, key, value)  # type: ignore[no-untyped-call]
    assert back.flops == products + 6 * scores


@pytest.mark.parametrize(
    ("op", "args", "sizes", "flops"),
    [
        ("aten.tanh.default", (), ((4, 5),), 20),
        ("aten.add.Tensor", (), ((4, 5), (5,)), 20),
        ("aten.mul.Tensor", (), ((4, 1), (1, 5)), 20),
        ("aten.sum.dim_IntList", ((0,),), ((4, 5),), 20),
        ("aten.mean.default", (), ((4, 5),), 20),
        ("aten._softmax.default", (1, False), ((4, 5),), 100),
        ("aten.native_layer_norm.default", ((5,), None, None, 1e-5), ((4, 5),), 160),
        ("aten.avg_pool2d.default", ((2, 2),), ((1, 3, 4, 4),), 3 * 2 * 2 * 4),
        ("aten.view.default", ((20,),), ((4, 5),), 0),
        ("aten.clone.default", (), ((4, 5),), 0),
        ("aten.zeros_like.default", (), ((4, 5),), 0),
    ],
)
def test_others_by_hand(op: str, args: tuple[Any, ...], sizes: tuple[tuple[int, ...], ...], flops: int) -> None:
    out = len(table()[op].results)
    assert cost_of(op, *args, sizes=sizes, out=out).flops == flops


def test_a_sum_with_a_factor_is_a_multiply_add() -> None:
    inputs = tuple(Input(i, f"t{i}", "param", "float32", (4, 5)) for i in range(2))
    node = Node("aten.add.Tensor", (Ref(0), Ref(1)), (("alpha", -0.1),), (2,))
    (found,) = costs(Plan("one", inputs, (Output(2, "loss", "loss"),), (node,)), 1)
    assert found.flops == 2 * 20


@pytest.mark.parametrize("optimizer", [SGD(0.1, 0.9, 0.01, True), Adam(0.1, weight_decay=0.1), AdamW(0.1)], ids=repr)
def test_numbers_cost_nothing_whatever_they_are_called(optimizer: SGD | Adam | AdamW) -> None:
    plan = training_plan(nn.Linear(12, 5), F.cross_entropy, optimizer, batch(8))
    numbers = [cost for cost in costs(plan, 8) if cost.op.startswith("py.")]
    assert numbers and all(cost.flops == 0 and cost.kind == "numbers" for cost in numbers)


def test_bytes_read_and_written_and_alive() -> None:
    found = cost_of("aten.mm.default", sizes=((3, 5), (5, 7)))
    assert found.moved == found.alive == 4 * (15 + 35 + 21)
    view = cost_of("aten.view.default", (20,), sizes=((4, 5),))
    assert (view.kind, view.moved, view.alive) == ("views", 0, 80)


@pytest.mark.parametrize("size", [1, 8, 33])
@pytest.mark.parametrize("kind", sorted(MODELS))
def test_as_many_as_torch_counts_in_a_training_step(kind: str, size: int) -> None:
    torch.manual_seed(0)
    model = MODELS[kind]()
    x, y = batch(size, SHAPES[kind])
    plan = traced(kind)
    with FlopCounterMode(display=False) as torch_counts:
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
    seen = torch_counts.get_flop_counts()["Global"]
    bias = 0 if kind == "mlp" else size * (3 * 8 * 8 + 4 * 2 * 2)  # torch leaves the biases' gradients out
    assert counted("matrix products", plan, size) + counted("convolutions", plan, size) - bias == sum(seen.values())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(3, 6, (1, 3), dilation=2, bias=False),
        nn.ConvTranspose2d(3, 6, 3, stride=2, output_padding=1, bias=False),
    ],
    ids=["strided", "dilated", "transposed"],
)
def test_convolutions_as_torch_counts_them(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Tanh(), nn.Conv2d(3, 3, 1, bias=False), layer, nn.Flatten())
    x, y = torch.randn(4, 3, 9, 9), torch.zeros(4, dtype=torch.int64)
    plan = training_plan(model, F.cross_entropy, SGD(0.1), (x, y))
    with FlopCounterMode(display=False) as torch_counts:
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
    assert counted("convolutions", plan, 4) == torch_counts.get_total_flops()


class Encoder(nn.Module):
    """A sequence of 7 through a Transformer encoder layer to five classes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
        self.out = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.out(self.layer(x).mean(1))
        return result


def test_an_encoder_layer_as_torch_counts_it() -> None:
    model, (x, y) = Encoder(), batch(6, (7, 16))
    plan = training_plan(model, F.cross_entropy, SGD(0.1), (x, y))
    with FlopCounterMode(display=False) as torch_counts:
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
    assert counted("matrix products", plan, 6) == torch_counts.get_total_flops()
    scores = (
        6 * 4 * 7 * 7
    )  # torch's counter leaves out the attention's kernel for the CPU: products of width 4, softmax
    assert counted("attention", plan, 6) == scores * ((2 + 5) * 2 * 4 + 5 + 6)


def test_twice_the_batch_takes_twice_the_products() -> None:
    plan = traced("cnn")
    assert counted("convolutions", plan, 16) == 2 * counted("convolutions", plan, 8) > 0
    assert max(c.alive for c in costs(plan, 16)) > max(c.alive for c in costs(plan, 8))


def test_alive_is_at_least_what_goes_in() -> None:
    plan, state = traced("cnn"), sum(p.numel() for p in cnn().parameters())
    assert all(c.alive >= 4 * state for c in costs(plan, 1))


def test_a_plan_that_needs_too_much_is_refused() -> None:
    with pytest.raises(PlanError, match=r"node \d+ .* needs"):
        costs(traced("mlp"), 1000, budget=100_000)
