"""Translations for TensorFlow.js: their form, and what is said where there is none. tests/interop executes them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gridkit.errors import PlanError, UsageError
from gridkit.plans.engines.tfjs import translated
from gridkit.plans.engines.tfjs_calls import FORMS
from gridkit.plans.function import plan as plan_of
from gridkit.plans.function import spec
from gridkit.plans.optim import SGD
from gridkit.plans.plan import Plan
from gridkit.plans.table.ops import table
from gridkit.plans.training import training_plan
from gridkit.wire.syft_plan import Value
from tests.plans.plans import batch, traced
from tests.wire.schema import Plan as Message


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_a_translation_keeps_the_rules_of_the_client(kind: str) -> None:
    """Each id is written once and before it is read, numbers are floats, no lists of values, outputs stand alone."""
    message: Any = Message.FromString(traced(kind).to_tfjs())
    role = message.role
    inputs = [i.id_int for i in role.input_placeholder_ids]
    known = {*inputs, *(p.id.id_int for p in role.state.placeholders)}
    for action in role.actions:
        assert "." not in action.command and action.WhichOneof("which") is None
        for arg in action.args:
            assert arg.WhichOneof("which") in ("arg_bool", "arg_float", "arg_str", "arg_placeholder_id", "arg_list")
            if arg.WhichOneof("which") == "arg_placeholder_id":
                assert arg.arg_placeholder_id.id.id_int in known
            assert all(inner.WhichOneof("which") in ("arg_float", "arg_list") for inner in arg.arg_list.args)
        (result,) = action.return_placeholder_ids
        assert result.id.id_int not in known
        known.add(result.id.id_int)
    outputs = [i.id_int for i in role.output_placeholder_ids]
    assert len(set(outputs)) == len(outputs) and not set(outputs) & set(inputs)
    assert {p.id.id_int for p in role.placeholders} == {*inputs, *outputs}
    names = [s.name for s in traced(kind).state]
    described = {p.id.id_int: p.description for p in role.placeholders}
    assert [described[i] for i in inputs] == ["X", "y", "batch_size", "lr", *names]
    assert [described[i] for i in outputs] == ["loss", "accuracy", *names]


def test_nothing_is_computed_that_nobody_needs() -> None:
    made, _ = translated(traced("cnn"))
    assert made is not None
    read = {a.id for action in made.actions for a in action.args if hasattr(a, "id")} | {id for id, _ in made.outputs}
    assert all(action.result in read for action in made.actions)
    calls = [(action.command, action.args) for action in made.actions if action.command != "clone"]
    assert len(set(map(repr, calls))) == len(calls)


def test_a_translation_is_the_same_after_the_wire() -> None:
    plan = traced("mlp")
    assert Plan.from_bytes(plan.to_bytes()).to_tfjs() == plan.to_tfjs()


def test_each_form_belongs_to_a_row_of_the_table() -> None:
    assert set(FORMS) <= set(table())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(2, 4, 3, groups=2), nn.Linear(36, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv(x).flatten(1)
        h = h.cumsum(1)  # here
        out: torch.Tensor = self.out(h)
        return out


@pytest.fixture(scope="module")
def grouped() -> Plan:
    return training_plan(Net(), F.cross_entropy, SGD(0.1), (torch.randn(4, 2, 5, 5), batch(4)[1]), name="net")


def test_what_is_missing_is_named_with_its_line(grouped: Plan) -> None:
    support = grouped.supports("tfjs")
    assert not support
    rows = {row.op: row for row in reversed(support.missing)}
    conv, cumsum = rows["aten.convolution.default"], rows["aten.cumsum.default"]
    assert conv.reason == "it has 2 groups" and "in module 'conv' (Conv2d)" in conv.line
    assert cumsum.line.startswith("test_tfjs.py:") and cumsum.line.endswith("h = h.cumsum(1)  # here")
    for row in support.missing:
        assert row.node is not None and grouped.nodes[row.node].op == row.op
        assert str(row) in repr(support)


def test_translating_it_names_the_first(grouped: Plan) -> None:
    with pytest.raises(PlanError, match=r"node 0 \(aten.convolution.default\) of plan 'net' has no TensorFlow.js form"):
        grouped.to_tfjs()


def test_lines_do_not_travel(grouped: Plan) -> None:
    data = grouped.to_bytes()
    assert b"test_tfjs" not in data and b"in module" not in data
    got = Plan.from_bytes(data)
    assert got.nodes == grouped.nodes and all(node.place == "" for node in got.nodes)
    assert [row.reason for row in got.supports("tfjs").missing] == [
        row.reason for row in grouped.supports("tfjs").missing
    ]
    assert all(row.line == "" for row in got.supports("tfjs").missing)


def test_a_backward_node_stands_at_the_line_of_its_forward_one() -> None:
    model = nn.Sequential(
        nn.Linear(12, 16), nn.Unflatten(1, (1, 4, 4)), nn.MaxPool2d(3, 1), nn.Flatten(), nn.Linear(4, 5)
    )
    support = training_plan(model, F.cross_entropy, SGD(0.1), batch(4)).supports("tfjs")
    (row,) = support.missing
    assert row.op == "aten.max_pool2d_with_indices_backward.default"
    assert row.line == "in module '2' (MaxPool2d)" and "its windows overlap" in row.reason


def test_what_the_family_lacks_is_said_before_hosting() -> None:
    support = traced("mlp", momentum=0.9).supports("tfjs")
    assert not support and "keeps 'momentum.0.weight' and 3 others between steps" in repr(support)
    assert [row.node for row in support.missing] == [None]
    with pytest.raises(PlanError, match=r"has no TensorFlow.js form: the optimiser keeps"):
        traced("mlp", momentum=0.9).to_tfjs()


def test_a_plan_that_has_the_form_says_so() -> None:
    support = traced("mlp").supports("tfjs")
    assert support and support.missing == () and repr(support).endswith("has the form 'tfjs'>")


def test_other_forms_are_unknown() -> None:
    with pytest.raises(UsageError, match="no form 'onnx'"):
        traced("mlp").supports("onnx")


B3 = spec("B", 3)

FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...], str]] = {
    "64-bit floats": (lambda x: x * 2, (spec("B", dtype="float64"),), "input 'x' is float64, which"),
    "64-bit integers": (lambda x: x * 2, (spec("B", dtype="int64"),), "it computes with int64"),
    "a square of the batch size": (lambda x: x.repeat(x.shape[0], 1), (B3,), "nor a multiple of the batch size"),
    "the last row": (lambda x: x[-1], (B3,), "the part that it takes depends on the batch size"),
    "every second": (lambda x: x[:, ::2], (B3,), "every second"),
    "a condition": (lambda x: x * 2 if x.shape[0] > 3 else x, (B3,), "which nobody checks there"),
    "an operation": (lambda x: x.sort(1).values, (B3,), "it has no form there"),
    "a number in the wrong place": (
        lambda x: F.leaky_relu(x, 1 / x.shape[0]),
        (B3,),
        "an argument depends on the batch size",
    ),
    "whole division": (lambda x: x * (x.shape[0] // 2), (B3,), "would round"),
    "indices": (
        lambda x: F.max_pool2d(x, 2, return_indices=True)[1] + 1,
        (spec("B", 1, 4, 4),),
        "it works on indices, which",
    ),
    "repeated for each row": (
        lambda x, w: w.repeat(x.shape[0], 1),
        (B3, spec(3)),
        "as many times as the batch has rows",
    ),
}


@pytest.mark.parametrize("what", FUNCTIONS)
def test_functions_without_the_form_say_why(what: str) -> None:
    function, args, why = FUNCTIONS[what]
    support = plan_of(args=args, name="f")(function).supports("tfjs")
    assert not support and why in repr(support)


def test_translating_needs_no_torch() -> None:
    code = (
        "import sys; from gridkit.plans.plan import Plan; "
        "data = Plan.from_bytes(sys.stdin.buffer.read()).to_tfjs(); assert 'torch' not in sys.modules; print(len(data))"
    )
    done = subprocess.run([sys.executable, "-c", code], input=traced("mlp").to_bytes(), capture_output=True, check=True)
    assert int(done.stdout) == len(traced("mlp").to_tfjs())


def test_products_over_an_odd_or_unknown_length_have_a_clean_margin() -> None:
    """WebGL counts the margin of its blocks in; tests with a CPU can't see it."""
    made, _ = translated(traced("mlp"))  # lengths 12, 9, 5 and the batch
    assert made is not None
    padded = {action.result for action in made.actions if action.command == "pad"}
    firsts = [action.args[0] for action in made.actions if action.command == "matMul"]
    assert [first.id in padded for first in firsts if isinstance(first, Value)] == [False, True, True, True, True]
