"""Every row of the op table against torch: its schema, and the shape and dtype that its rule predicts."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gridkit.errors import PlanError
from gridkit.plans.check import shapes_of
from gridkit.plans.engines.pytorch import program
from gridkit.plans.plan import Arg, Dtype, Input, Node, Output, Plan, Ref
from gridkit.plans.table.ops import parse, table
from gridkit.plans.table.shapes import Meta, same
from tests.plans.cases import CASES, f

ROWS = table()
ATEN = [name for name in ROWS if name.startswith("aten.")]


def aten(name: str) -> Any:
    _, op, overload = name.split(".")
    return getattr(getattr(torch.ops.aten, op), overload)


# ---- schemas

LEFT_OUT = {"layout", "device", "pin_memory", "non_blocking", "implicit", "memory_format"}


@pytest.mark.parametrize("name", ATEN)
def test_schema_is_that_of_torch(name: str) -> None:
    text = str(aten(name)._schema).replace("SymInt", "int").replace("ScalarType", "dtype")
    theirs = parse(name + text[text.index("(") :], same)
    row = ROWS[name]
    assert row.params == tuple(p for p in theirs.params if p in row.params or p.name not in LEFT_OUT)
    assert (row.results, row.is_view) == (theirs.results, theirs.is_view)


def test_a_row_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(ValueError, match=re.escape("aten.f.default")):
        parse("aten.f.default(Tensor) -> Tensor", same)


# ---- rules


def test_every_row_has_a_case() -> None:
    assert set(CASES) == set(ATEN)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def one_node(name: str, args: list[Any], kwargs: dict[str, Any], truth: tuple[Any, ...]) -> tuple[Plan, list[Any]]:
    """A plan of that one operation, with its tensors as inputs."""
    inputs: list[torch.Tensor] = []

    def arg(value: Any) -> Arg:
        if isinstance(value, torch.Tensor):
            inputs.append(value)
            return Ref(len(inputs) - 1)
        if isinstance(value, torch.dtype):
            return Dtype(name_of(value))
        return tuple(map(arg, value)) if isinstance(value, list) else value

    given, options = tuple(map(arg, args)), tuple((k, arg(v)) for k, v in kwargs.items())
    specs = tuple(Input(i, f"a{i}", "buffer", name_of(t.dtype), tuple(t.shape)) for i, t in enumerate(inputs))
    out = tuple(100 + i for i in range(len(truth)))
    plan = Plan("one", specs, (), (Node(name, given, options, out),))
    return replace(plan, outputs=tuple(Output(o, f"r{o}", "buffer") for o in out)), inputs


@pytest.mark.parametrize("name", ATEN)
@settings(max_examples=20)
@given(data=st.data())
def test_rule_and_engine_agree_with_torch(name: str, data: st.DataObject) -> None:
    case = CASES[name](data.draw)
    args, kwargs = case if isinstance(case, tuple) else (case, {})
    truth = aten(name)(*args, **kwargs)
    truth = truth if isinstance(truth, tuple) else (truth,)
    plan, inputs = one_node(name, args, kwargs, truth)
    known = shapes_of(plan, 1)
    for place, value in zip(plan.nodes[0].out, truth, strict=True):
        assert place is not None
        if isinstance(value, torch.Tensor):
            assert known[place] == Meta(tuple(value.shape), name_of(value.dtype))
        elif value is not None:  # None is a gradient that the mask didn't ask for
            assert known[place] == value
    for mine, theirs in zip(program(plan)(inputs), truth, strict=True):
        if isinstance(theirs, torch.Tensor):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)
        else:
            assert mine == theirs


REFUSED: list[tuple[str, list[Any], str]] = [
    ("aten.mm.default", [f(2, 3), f(4, 2)], r"product of \[2, 3\] and \[4, 2\]"),
    ("aten.mm.default", [f(2, 3), f(3, 2).double()], "product of float32 and float64"),
    ("aten.addmm.default", [f(5), f(2, 3), f(3, 4)], "don't broadcast"),
    ("aten.add.Tensor", [f(2, 3), f(4)], "don't broadcast"),
    ("aten.view.default", [f(2, 3), [4, 2]], "can't view"),
    ("aten.view.default", [f(2, 3), [-1, -1]], "can't view|size"),
    ("aten.expand.default", [f(2, 3), [4, 3]], "can't expand"),
    ("aten.permute.default", [f(2, 3), [0, 0]], "permute"),
    ("aten.unsqueeze.default", [f(2), 5], "dimension 5"),
    ("aten.select.int", [f(2), 0, 7], "index 7"),
    ("aten.cat.default", [[f(2, 3), f(3, 4)], 0], "sizes differ"),
    ("aten.sum.dim_IntList", [f(2, 3), [0, 0]], "repeated"),
    ("aten.median.dim", [f(0, 3), 0], "no values to choose from"),
    ("aten.median.default", [f(2) > 0.5], "median of bool"),
    ("aten.sort.default", [f(2, 3), 2], "dimension 2"),
    ("aten.topk.default", [f(2, 3), 4], "4 values out of 3"),
    ("aten.topk.default", [f(), 1], "largest values"),
    ("aten.convolution.default", [f(1, 2, 5, 5), f(3, 4, 3, 3), None, [1], [0], [1], False, [0], 1], "channels"),
    ("aten.convolution.default", [f(1, 2, 2, 2), f(3, 2, 3, 3), None, [1], [0], [1], False, [0], 1], "larger"),
    ("aten.convolution.default", [f(1, 2, 5, 5), f(3, 2, 3, 3), None, [0], [0], [1], False, [0], 1], "stride"),
    ("aten.max_pool2d_with_indices.default", [f(1, 1, 4, 4), [2, 2], [2, 2], [2, 2]], "half of the kernel"),
    ("aten._adaptive_avg_pool2d_backward.default", [f(2, 3, 2, 2), f(2, 1, 4, 4)], "from"),
    ("aten.nll_loss_forward.default", [f(2, 3), torch.zeros(3, dtype=torch.int64), None, 0, -100], "labels"),
    ("aten.nll_loss_forward.default", [f(2, 3), torch.zeros(2), None, 0, -100], "expected int64"),
    ("aten._log_softmax_backward_data.default", [f(2, 4), f(2, 3), 1, torch.float32], "another shape"),
    ("aten.log_sigmoid_backward.default", [f(4), f(4), f(1)], "buffer"),
    ("aten.where.self", [f(2), f(2), f(2)], "isn't bool"),
    ("aten.lerp.Scalar", [f(2), f(2).double(), 0.5], "float32 and float64"),
    ("aten.addcmul.default", [torch.ones(2, dtype=torch.int64)] * 3, "dtypes int64"),
    ("aten.mean.default", [torch.ones(2, dtype=torch.int64)], "mean of int64"),
    ("aten.full.default", [[2, -1], 0], "size"),
    ("aten.arange.default", [-1], "arange"),
    ("aten.stack.default", [[f(2, 3), f(3, 2)]], "sizes differ"),
    ("aten.roll.default", [f(2, 3), [1, 2], [0]], "2 shifts of 1 dimensions"),
    ("aten.repeat.default", [f(2, 3), [2]], "repeat"),
    ("aten.triu.default", [f(3)], "a triangle of"),
    ("aten.bitwise_not.default", [f(3)], "bits of float32"),
    ("aten.masked_fill.Tensor", [f(3), torch.ones(3, dtype=torch.bool), f(3)], "expected a single value"),
    ("aten.arange.start_step", [0, 5, 0], "arange"),
    ("aten.amax.default", [f(2, 0), [1]], "no values to choose from"),
    ("aten.glu.default", [f(2, 3)], "half of 3"),
    ("aten.pixel_shuffle.default", [f(2, 3, 2, 2), 2], "pixel shuffle"),
    ("aten._native_batch_norm_legit.no_stats", [f(4, 0), None, None, True, 0.1, 1e-5], "batch norm of"),
    ("aten._native_batch_norm_legit.no_stats", [f(4, 2), None, None, False, 0.1, 1e-5], "training=False"),
    ("aten._native_batch_norm_legit.no_stats", [f(4, 2), f(3), None, True, 0.1, 1e-5], "weight"),
    ("aten.embedding.default", [f(4), torch.zeros(3, dtype=torch.int64)], "a table of"),
    ("aten.embedding.default", [f(4, 2), f(3)], "expected int64"),
    ("aten.gather.default", [f(3, 4), 1, torch.zeros(4, 1, dtype=torch.int64)], r"indices \[4, 1\] into \[3, 4\]"),
    ("aten.scatter.src", [f(3, 4), 1, torch.zeros(3, 4, dtype=torch.int64), f(3, 2)], "for values"),
    ("aten.index_select.default", [f(3, 4), 0, torch.zeros(1, 1, dtype=torch.int64)], "indices"),
    ("aten.index_add.default", [f(3, 4), 0, torch.zeros(2, dtype=torch.int64), f(3, 4)], "where"),
    ("aten.upsample_nearest2d.default", [f(1, 1, 2, 2), [4, 4], 1e-30, 1e-30], "isn't 4"),
    ("aten._scaled_dot_product_flash_attention_for_cpu.default", [f(1, 1, 2, 3)] * 2 + [f(1, 1, 1, 3)], "attention of"),
    ("aten._scaled_dot_product_flash_attention_for_cpu.default", [f(1, 1, 2, 3)] * 3 + [0.5], "dropout inside"),
    ("aten.native_layer_norm.default", [f(2, 3), [4], None, None, 1e-5], "layer norm over"),
    ("aten.native_group_norm.default", [f(2, 4, 3), None, None, 2, 4, 9, 2, 1e-5], "values a channel"),
]


@pytest.mark.parametrize(("name", "args", "why"), REFUSED)
def test_rule_refuses_what_does_not_fit(name: str, args: list[Any], why: str) -> None:
    plan, _ = one_node(name, args, {}, (None,) * len(ROWS[name].results))
    with pytest.raises(PlanError, match=why) as caught:
        shapes_of(plan, 1)
    assert f"node 0 ({name})" in caught.value.message
