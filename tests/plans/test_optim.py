"""Optimisers: their arguments. That their steps have torch.optim's bits is shown in test_training."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gridkit.errors import UsageError
from gridkit.plans.optim import SGD


@pytest.mark.parametrize(
    "options",
    [{"lr": -1}, {"lr": math.nan}, {"lr": math.inf}, {"lr": "0.1"}, {"lr": True}, {"lr": 1, "momentum": -0.1}],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected a number of at least 0"):
        SGD(**options)


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(UsageError, match="nesterov"):
        SGD(0.1, nesterov=True)


def test_momentum_keeps_one_tensor_a_parameter() -> None:
    assert SGD(0.1).slots == () and SGD(0.1, momentum=0.9).slots == ("momentum",)
