"""What a person types to try a model, and what came of it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from gridkit.errors import UsageError
from gridkit.widgets import trial


def given(*shapes: list[Any]) -> list[dict[str, Any]]:
    return [{"name": f"x{n}", "dtype": "float32", "shape": shape} for n, shape in enumerate(shapes)]


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        (given(["B", 3]), [[0.0, 0.0, 0.0]]),
        (given([2, 2]), [[0.0, 0.0], [0.0, 0.0]]),
        (given([]), 0.0),
        (given(["B", 2], ["B"]), [[[0.0, 0.0]], [0.0]]),
    ],
)
def test_a_small_input_is_suggested_as_zeros_that_it_accepts(inputs: Any, text: Any) -> None:
    suggested = trial.suggestion(inputs)
    assert json.loads(suggested) == text
    assert len(trial.values(suggested, inputs, {})) == len(inputs)


@pytest.mark.parametrize("inputs", [[], given(["B", 64]), given([10**12]), given([10**9, 0]), given([-4])])
def test_no_suggestion_for_none_or_many_values(inputs: Any) -> None:
    assert trial.suggestion(inputs) == ""


def test_variables_that_fit_are_offered_newest_first() -> None:
    namespace = {
        "old": np.zeros((3, 64)),
        "flat": np.zeros(64),
        "empty": np.zeros((0, 64)),
        "frame": pd.DataFrame(np.zeros((3, 64))),
        "kind": np.ndarray,
        "new": torch.zeros(9, 64),
        "_hidden": torch.zeros(9, 64),
    }
    assert trial.fitting(namespace, given(["B", 64])) == ["new", "old"]
    assert trial.fitting(namespace, given([3, 64])) == ["old"]
    assert trial.fitting(namespace, given(["B", 64], ["B"])) == []
    assert trial.fitting(namespace, given([])) == []


def test_several_inputs_are_a_list_or_names_with_commas() -> None:
    inputs = given(["B", 1], ["B"])
    x, mask = np.ones((2, 1)), np.ones(2)
    read = trial.values("x, mask", inputs, {"x": x, "mask": mask})
    assert read[0] is x and read[1] is mask
    assert trial.values("[[[1]], [2]]", inputs, {}) == [[[1]], [2]]


@pytest.mark.parametrize("text", ["x", "[[[1]]]", "7", "x, x, x", "", "{", "x y"])
def test_too_few_too_many_and_unknown_ones_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        trial.values(text, given(["B", 1], ["B"]), {"x": np.ones((2, 1))})


def test_a_result_is_shown_with_its_shape_and_cut() -> None:
    assert trial.shown(torch.zeros(2, 2)) == "Tensor [2, 2]\ntensor([[0., 0.],\n        [0., 0.]])"
    two = trial.shown((torch.zeros(1), np.ones(1)))
    assert two.splitlines() == ["Tensor [1]", "tensor([0.])", "ndarray [1]", "[1.]"]
    assert len(trial.shown("x" * 100_000)) < 5_000
