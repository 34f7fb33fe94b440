"""The generated function: its text holds nothing of a plan but integers, and it is what the plan says."""

from __future__ import annotations

import ast
import re
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from gridkit.errors import PlanError
from gridkit.plans.engines.generated import generate
from gridkit.plans.engines.pytorch import program
from gridkit.plans.plan import Arg, Dtype, Input, Node, Output, Plan, Ref
from gridkit.plans.table.ops import table
from tests.plans.plans import traced

X = Input(0, "x", "x", "float32", ("B",))


def plan_of(*nodes: Node, out: int, name: str = "p", constants: dict[int, np.ndarray] | None = None) -> Plan:
    return Plan(name, (X,), (Output(out, "loss", "loss"),), nodes, constants or {})


def neg(source: int, result: int) -> Node:
    return Node("aten.neg.default", (Ref(source),), (), (result,))


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.parametrize("donate", [False, True])
def test_the_text_holds_integers_and_the_tables_own_words(kind: str, donate: bool) -> None:
    source = generate(traced(kind, momentum=0.9), donate).source
    keywords = {p.name for op in table().values() for p in op.params}
    tree = ast.parse(source)
    for part in ast.walk(tree):
        if isinstance(part, ast.Name):
            assert re.fullmatch(r"[vfc]\d+|_|values", part.id), part.id
        elif isinstance(part, ast.keyword):
            assert part.arg in keywords
        elif isinstance(part, ast.Constant):
            assert type(part.value) is int and isinstance(part.value, int)
        assert not isinstance(part, ast.Attribute | ast.Import | ast.ImportFrom | ast.Lambda)


def test_nothing_that_a_plan_says_becomes_code() -> None:
    """Not even of a plan that never saw the validator."""
    evil = "x'); __import__('os').abort() #\n"
    node = Node("aten.gelu.default", (Ref(0),), (("approximate", evil),), (1,))
    plan = replace(plan_of(node, out=1, name=evil), inputs=(replace(X, name=evil),))
    made = generate(plan)
    assert "os" not in made.source
    with pytest.raises(PlanError, match=r"node 0 \(aten.gelu.default\)"):
        made([torch.ones(2)])
    unknown = replace(plan, nodes=(replace(node, kwargs=((evil, 1),)),))
    with pytest.raises(KeyError):
        generate(unknown)
    with pytest.raises(KeyError):
        generate(replace(plan, nodes=(replace(node, op="os.abort.default"),)))


def test_no_builtins_within_reach() -> None:
    made = generate(plan_of(neg(0, 1), out=1))
    assert set(made.function.__globals__["__builtins__"]) == {"__import__"}


def test_literals_of_every_kind_arrive_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from gridkit.plans.engines import kernels

    seen: list[Any] = []

    def watched(*args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append((args[1:], kwargs))
        return torch.ones(2)

    monkeypatch.setitem(kernels.DIRECT, "aten.sum.dim_IntList", watched)
    literals: tuple[Arg, ...] = (1, True, 1.0, None, (1, 2), (), "none", "contiguous_format", Dtype("float64"), 1e-300)
    nodes = [Node("aten.sum.dim_IntList", (Ref(0), a), (("dtype", a),), (i + 1,)) for i, a in enumerate(literals)]
    generate(plan_of(*nodes, out=1))([torch.ones(2)])
    wanted = [1, True, 1.0, None, [1, 2], [], "none", torch.contiguous_format, torch.float64, 1e-300]
    assert [args[0] for args, _ in seen] == [kwargs["dtype"] for _, kwargs in seen] == wanted
    assert [type(args[0]) for args, _ in seen] == [type(w) for w in wanted]


def test_lists_of_values_some_results_and_constants() -> None:
    pooled = Node("aten.max_pool2d_with_indices.default", (Ref(5), (2, 2)), (), (6, None))
    index = Node("aten.max_pool2d_with_indices.default", (Ref(5), (2, 2)), (), (None, 7))
    both = Node("aten.native_layer_norm.default", (Ref(5), (4,), None, None, 1e-5), (), (8, None, 9))
    nodes = (
        Node("aten.sym_size.int", (Ref(0), 0), (), (1,)),
        Node("py.mul", (Ref(1), 2), (), (2,)),
        Node("aten.new_ones.default", (Ref(0), (1, Ref(2))), (), (3,)),
        Node("aten.cat.default", ((Ref(4), Ref(3)), 0), (), (10,)),
        Node("aten.view.default", (Ref(10), (1, 1, Ref(2), 4)), (), (5,)),
        pooled,
        index,
        both,
    )
    outputs = tuple(Output(i, f"o{i}", "buffer") for i in (6, 7, 8, 9, 4))
    constants = {4: np.arange(12, dtype=np.float32).reshape(3, 4)}
    plan = Plan("p", (X,), outputs, nodes, constants)
    results = {engine: program(plan, engine)([torch.ones(2)]) for engine in ("generated", "interpreter")}
    x = torch.cat([torch.arange(12.0).view(3, 4), torch.ones(1, 4)]).view(1, 1, 4, 4)
    expected = [*torch.ops.aten.max_pool2d_with_indices.default(x, [2, 2])]
    expected += [torch.ops.aten.native_layer_norm.default(x, [4], None, None, 1e-5)[i] for i in (0, 2)]
    for result in results.values():
        assert all(torch.equal(a, b) for a, b in zip(result, [*expected, torch.tensor(constants[4])], strict=True))


def test_torch_may_warn_and_import_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    from gridkit.plans.engines import kernels

    def noisy(x: torch.Tensor) -> torch.Tensor:
        warnings.warn("careful", UserWarning, stacklevel=2)
        return x

    monkeypatch.setitem(kernels.DIRECT, "aten.neg.default", noisy)
    with pytest.warns(UserWarning, match="careful"):
        generate(plan_of(neg(0, 1), out=1))([torch.ones(1)])


def test_the_largest_plan_is_made_in_seconds() -> None:
    """As many nodes as the validator lets through."""
    count = 20_000
    plan = plan_of(*(neg(i, i + 1) for i in range(count)), out=count)
    (result,) = generate(plan)([torch.ones(1)])
    assert result.item() == 1
