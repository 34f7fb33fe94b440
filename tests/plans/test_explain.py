"""What `Plan.explain` tells is what the plan holds, and what a worker then really gets and sends."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gridkit.errors import PlanError, UsageError
from gridkit.plans.cost import costs
from gridkit.plans.explain import Explanation
from gridkit.plans.optim import SGD
from gridkit.plans.plan import Input, Node, Output, Plan, Ref
from gridkit.plans.training import training_plan
from gridkit.wire.state import pack_state
from gridkit.workers.local import train_client
from tests.plans.plans import MODELS, SHAPES, batch, header_of, traced


def words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


def rows(told: Explanation, title: str) -> list[tuple[str, ...]]:
    (part,) = [p for p in told.parts if p.title == title]
    return list(part.rows)


def test_an_mlp_by_hand() -> None:
    told = traced("mlp").explain(batch=8)
    # forward twice 2·8·12·9 and 2·8·9·5 once; backward the weights' gradients, and the one to the hidden layer
    first, second = 2 * 8 * 12 * 9, 2 * 8 * 9 * 5
    assert told.kinds["matrix products"] == (5, 2 * first + 3 * second)
    assert [(s.name, s.shape) for s in told.parameters] == [
        ("0.weight", (9, 12)),
        ("0.bias", (9,)),
        ("2.weight", (5, 9)),
        ("2.bias", (5,)),
    ]
    assert told.size == len(traced("mlp").to_bytes())
    assert sum(count for count, _ in told.kinds.values()) == len(told.plan.nodes)


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_what_it_says_a_worker_sends_is_what_a_worker_sends(kind: str) -> None:
    plan, model = traced(kind), MODELS[kind]()
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    result = train_client(plan, state, *batch(16, SHAPES[kind]), batch_size=8, seed=0, round=1, slot=0)
    told = plan.explain()
    assert {s.name: (s.dtype, s.shape) for s in told.sends} == {
        n: (d.dtype.name, d.shape) for n, d in result.diff.items()
    }
    tensors = sum(d.nbytes for d in result.diff.values())
    whole = {r[0]: r[2] for r in rows(told, "A worker sends, each round")}["all changes"]
    assert float(whole.split()[0]) == pytest.approx(tensors / (1000 if "kB" in whole else 1), rel=0.01)
    assert tensors < len(pack_state(result.diff)) < tensors + 100 * len(result.diff)
    said = [r[0] for r in rows(told, "A worker sends, each round")]
    assert said == ["number of samples", "mean loss", "all changes", *(f"change of {n}" for n in result.diff)]


def test_a_captured_tensor_is_named_with_its_shape_and_a_number_with_its_value() -> None:
    shares = torch.tensor([1.0, 2.0, 1.0, 1.0, 3.0])

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(12, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.layer(x - 0.1307) * shares
            return out

    told = training_plan(Scaled(), F.cross_entropy, SGD(0.1), batch(8)).explain()
    assert [(s.dtype, s.shape) for s in told.constants] == [("float32", (5,))]
    assert 0.1307 in told.numbers
    for text in (repr(told), words(told._repr_html_())):
        assert "float32[5], 20 bytes: with all its values" in text
        assert "0.1307" in text
        assert "No tensor travels inside" not in text
    assert "No tensor travels inside" in repr(traced("mlp").explain())


def test_names_that_it_says_travel_are_in_the_bytes() -> None:
    plan = traced("mlp")
    learned = {what: which for what, which in rows(plan.explain(), "A worker learns")}["names"]
    named = re.findall(r"'([^']+)'", learned)
    assert named == ["Sequential", "0.weight"]
    header = header_of(plan)
    assert header["name"] in named
    assert any(i["name"] == named[1] for i in header["inputs"])


def test_text_and_html_tell_the_same() -> None:
    told = traced("cnn", momentum=0.9).explain(batch=4)
    text, page = repr(told), words(told._repr_html_())
    for key, value in told.facts.items():
        assert f"{key}: {value}" in text
        assert key in page
        assert value in page
    for part in told.parts:
        assert part.title in text
        assert part.title in page
        for row in part.rows:
            assert all(cell in text for cell in row)
            assert all(cell in page for cell in (c.replace("'", "&#x27;") for c in row))
    assert "FLOPs for one training step on 4 samples, and " in text


def test_costs_are_for_the_batch_that_was_asked_for() -> None:
    plan = traced("cnn")
    one, many = plan.explain(batch=1), plan.explain(batch=64)
    assert one.flops == sum(c.flops for c in costs(plan, 1)) < many.flops
    assert one.peak_memory == max(c.alive for c in costs(plan, 1)) < many.peak_memory
    assert "on 1 sample, and " in repr(one)


def test_guards_stand_there_in_words() -> None:
    plan = dataclasses.replace(traced("mlp"), guards=(("ge", "B", 4), ("eq", ("mod", "B", 2), 0)))
    assert plan.explain(batch=8).facts["B, the batch size"] == "B >= 4 and (B % 2) == 0"
    assert "B &gt;= 4 and" in plan._repr_html_()
    with pytest.raises(PlanError, match="this batch has 3"):
        plan.explain(batch=3)


@pytest.mark.parametrize("wrong", [0, -1, 2.0, True, "8"])
def test_a_batch_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="expected a number of samples"):
        traced("mlp").explain(batch=wrong)


def test_a_plan_that_can_not_run_has_a_card_and_no_explanation() -> None:
    bomb = Node("aten.full.default", ((1 << 40,), 1.0), (), (1,))
    plan = Plan("p", (Input(0, "x", "x", "float32", ("B", 3)),), (Output(1, "loss", "loss"),), (bomb,))
    assert "Plan 'p'" in words(plan._repr_html_()).replace("&#x27;", "'")
    with pytest.raises(PlanError, match=r"node 0 .* needs 4,398,046,511,104 bytes"):
        plan.explain()


def test_a_function_has_results_and_nothing_of_training() -> None:
    inputs = (Input(0, "x", "arg", "float32", ("B", 3)), Input(1, "scale", "arg", "float32", (3,)))
    nodes = (Node("aten.mul.Tensor", (Ref(0), Ref(1)), (), (2,)), Node("aten.sum.default", (Ref(2),), (), (3,)))
    outputs = (Output(2, "scaled", "result"), Output(3, "total", "result"))
    told = Plan.from_bytes(Plan("scale", inputs, outputs, nodes).to_bytes()).explain(batch=5)
    assert not told.trains
    assert told.flops == 2 * 5 * 3
    assert rows(told, "Results") == [
        ("scaled", "float32[5, 3]", "the result"),
        ("total", "float32[]", "the result"),
    ]
    assert [p.title for p in told.parts] == ["Inputs", "Operations", "Results", "Travels with the plan"]
    assert "for one call on 5 samples" in repr(told)
    assert "worker" not in repr(told)
    assert told.facts["argument x"] == "float32[B, 3]"
    assert told.sends == ()


def test_hostile_names_are_shown_as_text() -> None:
    evil = '<img src=x onerror="alert(1)">'
    inputs = (Input(0, evil, "x", "float32", ("B", 3)), Input(1, evil, "param", "float32", (3,)))
    node = Node("aten.mul.Tensor", (Ref(0), Ref(1)), (), (2,))
    plan = Plan.from_bytes(Plan(evil, inputs, (Output(2, evil, "result"),), (node,)).to_bytes())
    for page in (plan._repr_html_(), plan.explain()._repr_html_()):
        assert "<img" not in page
        assert "&lt;img src=x onerror=&quot;alert(1)&quot;&gt;" in page
    assert "\x1b" not in repr(plan)


def test_a_deep_model_still_has_a_short_card() -> None:
    layers = [layer for _ in range(60) for layer in (nn.Linear(12, 12), nn.ReLU())]
    plan = training_plan(nn.Sequential(*layers, nn.Linear(12, 5)), F.cross_entropy, SGD(0.1, momentum=0.9), batch(8))
    told = plan.explain()
    assert len(told.parameters) == 122
    assert len(plan._repr_html_()) < 50_000
    assert len(told._repr_html_()) < 50_000
    assert "and 102 more" in repr(told)
    assert len(repr(told).splitlines()) < 120


def test_a_foreign_plan_can_not_make_the_card_long() -> None:
    long: Any = "B"
    for _ in range(7):
        long = ("add", long, long)
    name = "n" * 200
    inputs = tuple(Input(i, f"{name[:195]}{i}", "arg", "float32", ("B", 3)) for i in range(1000))
    nodes = tuple(Node("aten.neg.default", (Ref(0),), (), (1000 + i,)) for i in range(1000))
    outputs = tuple(Output(1000 + i, f"{name[:195]}{i}", "result") for i in range(1000))
    plan = Plan(name, inputs, outputs, nodes, {}, (("ge", long, 4),) * 100)
    plan = Plan.from_bytes(plan.to_bytes())
    assert len(plan._repr_html_()) < 50_000
    assert len(plan.explain()._repr_html_()) < 50_000
    assert len(repr(plan.explain())) < 50_000
    assert "95 more conditions" in repr(plan.explain())


def test_explaining_needs_neither_torch_nor_widgets() -> None:
    code = (
        "import sys; from gridkit.plans.plan import Plan; "
        "told = Plan.from_bytes(sys.stdin.buffer.read()).explain(); told._repr_html_(); repr(told); "
        "print(*(m for m in ('torch', 'ipywidgets', 'matplotlib', 'IPython') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], input=traced("mlp").to_bytes(), capture_output=True, check=True)
    assert done.stdout.decode().strip() == ""
