"""What a plan of a function will give on data of known shapes, without running it."""

from __future__ import annotations

import pytest
import torch

import gridkit as gk
from gridkit.errors import ErrorCode, PlanError
from gridkit.plans.function_form import results_of
from gridkit.wire.tensors import TensorSpec
from tests.support import tiny_plan


@gk.plan(args=[gk.spec("B", 3), gk.spec(3, dtype="float64")])
def both(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return x.double() * w, x.sum(), (x > 0).sum(0)


def spec(dtype: str, *shape: int) -> TensorSpec:
    return TensorSpec("whatever", dtype, shape)


def test_shapes_and_dtypes_are_those_of_the_run() -> None:
    told = results_of(both.to_bytes(), [spec("float32", 5, 3), spec("float64", 3)])
    ran = both(torch.ones(5, 3), torch.ones(3, dtype=torch.float64))
    found = [(str(t.dtype).removeprefix("torch."), tuple(t.shape)) for t in ran]
    assert [(s.dtype, s.shape) for s in told] == found
    assert [s.name for s in told] == ["0", "1", "2"]


@pytest.mark.parametrize(
    "given",
    [
        [],
        [spec("float32", 5, 3)],
        [spec("float32", 5, 3)] * 2,
        [spec("float32", 5, 4), spec("float64", 3)],
        [spec("float32", 3), spec("float64", 3)],
        [spec("float32"), spec("float64", 3)],
        [spec("float64", 5, 3), spec("float64", 3)],
        [spec("float32", 5, 3), spec("float64", 4)],
    ],
)
def test_other_arguments_are_refused(given: list[TensorSpec]) -> None:
    with pytest.raises(PlanError) as error:
        results_of(both.to_bytes(), given)
    assert error.value.code is ErrorCode.BAD_INPUT and error.value.hint


def test_it_must_be_a_plan_of_a_function() -> None:
    for data in (b"", tiny_plan()):
        with pytest.raises(PlanError) as error:
            results_of(data, [spec("float32", 5, 3)])
        assert error.value.code is ErrorCode.BAD_PLAN


def test_what_takes_too_much_is_refused_before_anything_is_allocated() -> None:
    @gk.plan(args=[gk.spec("B", 1000)])
    def square(x: torch.Tensor) -> torch.Tensor:
        return (x[:, :, None] * x[:, None]).sum()

    with pytest.raises(PlanError) as error:
        results_of(square.to_bytes(), [spec("float32", 1 << 12, 1000)])
    assert error.value.code is ErrorCode.OUT_OF_MEMORY
