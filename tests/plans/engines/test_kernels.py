"""Kernels that trust their arguments are fed nothing that they couldn't read; indices outside are errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gridkit.errors import PlanError
from gridkit.plans.engines.kernels import function_of
from gridkit.plans.engines.pytorch import program
from tests.plans.cases import CASES
from tests.plans.table.test_ops import one_node

Q = torch.randn(2, 2, 3, 4)
FORWARD = "aten._scaled_dot_product_flash_attention_for_cpu.default"
BACKWARD = "aten._scaled_dot_product_flash_attention_for_cpu_backward.default"


def columns(x: torch.Tensor) -> torch.Tensor:
    """The same values, with columns in one piece."""
    return x.transpose(-1, -2).contiguous().transpose(-1, -2)


def repeated(x: torch.Tensor) -> torch.Tensor:
    return x[..., :1].expand(x.shape)


@pytest.mark.parametrize("spoil", [columns, repeated])
@pytest.mark.parametrize("place", [0, 1, 2, "mask"])
def test_attention_refuses_rows_that_are_not_in_one_piece(spoil: Callable[..., Any], place: Any) -> None:
    args, mask = [Q, Q, Q], torch.zeros(3, 3)
    function_of(FORWARD)(*args, attn_mask=mask)
    if place == "mask":
        mask = spoil(mask)
    else:
        args[place] = spoil(Q)
    with pytest.raises(RuntimeError, match="doesn't lie in one piece"):
        function_of(FORWARD)(*args, attn_mask=mask)


@pytest.mark.parametrize("spoil", [columns, repeated])
@pytest.mark.parametrize("place", range(6))
def test_attention_backward_refuses_them_or_does_not_mind(spoil: Callable[..., Any], place: int) -> None:
    out, sums = function_of(FORWARD)(Q, Q, Q)
    args = [torch.randn(out.shape), Q, Q, Q, out, sums.contiguous()]
    args[place] = spoil(args[place])
    if 1 <= place <= 4:
        with pytest.raises(RuntimeError, match="doesn't lie in one piece"):
            function_of(BACKWARD)(*args, 0.0, False)
        return
    mine = function_of(BACKWARD)(*args, 0.0, False)
    theirs = function_of(BACKWARD)(*(a.contiguous() for a in args), 0.0, False)
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def index(*values: int) -> torch.Tensor:
    return torch.tensor(values)


F34 = torch.ones(3, 4)
OUTSIDE: dict[str, Callable[[int], list[Any]]] = {
    "aten.embedding.default": lambda i: [F34, index(0, i)],
    "aten.gather.default": lambda i: [F34, 0, index(0, i).view(1, 2)],
    "aten.scatter.src": lambda i: [F34, 0, index(0, i).view(1, 2), F34],
    "aten.scatter_add.default": lambda i: [F34, 0, index(0, i).view(1, 2), F34],
    "aten.index_select.default": lambda i: [F34, 0, index(0, i)],
    "aten.index_add.default": lambda i: [F34, 0, index(0, i), torch.ones(2, 4)],
}
WIDE: dict[str, Callable[[int], list[Any]]] = {  # an index that is expanded takes other kernels
    "aten.gather.default": lambda i: [torch.ones(3, 64), 0, index(*[i] * 40).view(40, 1).expand(40, 64)],
    "aten.scatter_add.default": lambda i: [
        torch.ones(3, 64),
        0,
        index(*[i] * 40).view(40, 1).expand(40, 64),
        torch.ones(40, 64),
    ],
}


@pytest.mark.parametrize("place", [3, -1, 1 << 40, -(1 << 62)])
@pytest.mark.parametrize(("name", "args"), [*OUTSIDE.items(), *WIDE.items()])
def test_an_index_outside_is_an_error(name: str, args: Callable[[int], list[Any]], place: int) -> None:
    plan, inputs = one_node(name, args(place), {}, (None,))
    with pytest.raises(PlanError, match=r"node 0 .* (out of (range|bounds)|index)"):
        program(plan)(inputs)


@pytest.mark.parametrize("place", [5, -1, 1 << 40, -(1 << 62)])
def test_the_backward_of_embedding_leaves_indices_outside_alone(place: int) -> None:
    grad, where = torch.ones(3, 2), index(1, place, 1)
    out = function_of("aten.embedding_dense_backward.default")(grad, where, 5, -7, False)
    assert torch.equal(out, torch.tensor([[0.0, 0], [2, 2], [0, 0], [0, 0], [0, 0]]))


def test_every_operation_that_takes_places_as_data_is_tested_here() -> None:
    def takes_places(name: str) -> bool:
        return any(word in name for word in ("index", "gather", "scatter", "embedding"))

    known = {*OUTSIDE, "aten.embedding_dense_backward.default"}
    assert {n for n in CASES if takes_places(n) and "pool" not in n} == known
