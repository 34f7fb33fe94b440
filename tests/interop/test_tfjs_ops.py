"""Every operation with a form for TensorFlow.js, one at a time, against torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gridkit.plans.engines.tfjs import translated
from gridkit.plans.engines.tfjs_calls import FORMS
from tests.interop.tfjs import Tfjs, running
from tests.plans.cases import CASES
from tests.plans.table.test_ops import aten, one_node

pytestmark = pytest.mark.interop

INDICES = {"aten.max_pool2d_with_indices.default": 1}
"""results that TensorFlow.js doesn't give"""


@pytest.fixture(scope="module")
def tfjs() -> Iterator[Tfjs]:
    with running() as process:
        yield process


def moved(value: Any, draw: torch.Generator) -> Any:
    """Floating tensors of the cases are between 0 and 1; here they have both signs."""
    if isinstance(value, list):
        return [moved(v, draw) for v in value]
    if isinstance(value, torch.Tensor) and value.dtype == torch.float32 and value.numel() > 1:
        return value * torch.where(torch.rand(value.shape, generator=draw) < 0.4, -1.0, 1.0)
    return value


# Their domain is positive; and these backwards are given the result that belongs to their input.
POSITIVE = ("log", "log1p", "sqrt", "rsqrt", "pow", "max_pool2d_with_indices_backward", "_log_softmax_backward_data")

EVEN: dict[str, Callable[[Any], list[Any]]] = {
    "aten._adaptive_avg_pool2d_backward.default": lambda draw: [torch.rand(2, 3, 2, 1), torch.rand(2, 3, 4, 3)]
}
"""where the general cases have nothing that TensorFlow.js can do"""


@pytest.mark.parametrize("name", FORMS)
def test_each_operation_gives_what_torch_gives(name: str, tfjs: Tfjs) -> None:
    tried: list[bool] = []
    keeps = name.split(".")[1] in POSITIVE

    # most cases of nll_loss have no form
    @settings(max_examples=30 if "nll" in name else 6, derandomize=True, database=None)
    @given(data=st.data(), seed=st.integers(0, 1000))
    def compare(data: st.DataObject, seed: int) -> None:
        case: Any = EVEN.get(name, CASES[name])(data.draw)
        args, kwargs = case if isinstance(case, tuple) else (case, {})
        args = args if keeps else moved(args, torch.Generator().manual_seed(seed))
        truth = aten(name)(*args, **kwargs)
        truth = truth if isinstance(truth, tuple) else (truth,)
        plan, inputs = one_node(name, args, kwargs, truth)
        kept = [i for i, t in enumerate(truth) if t is not None and i != INDICES.get(name)]
        outputs = tuple(replace(plan.outputs[i], role="result") for i in kept)
        plan = replace(plan, outputs=outputs)
        tried.append(bool(plan.supports("tfjs")))
        if not tried[-1]:
            return
        got = tfjs.run(plan.to_tfjs(), inputs)
        for place, his in zip(kept, got, strict=True):
            mine = truth[place].numpy()
            assert his.shape == mine.shape and (his.dtype == mine.dtype or mine.dtype == np.int64)
            np.testing.assert_allclose(his, mine, rtol=2e-5, atol=1e-5)

    compare()
    assert any(tried), "no case of it could be translated"


def test_each_form_is_of_an_operation_of_the_table() -> None:
    assert set(FORMS) <= set(CASES)
    assert translated(one_node("aten.mm.default", [torch.ones(2, 3), torch.ones(3, 2)], {}, (0,))[0])[1] == ()
