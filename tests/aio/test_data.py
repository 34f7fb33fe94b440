"""What people publish, as arrays and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from gridkit.aio.data import Data
from gridkit.errors import UsageError


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(6.0).reshape(2, 3),
        torch.arange(6).reshape(2, 3).T,
        torch.tensor([True, False]),
        torch.tensor(5, dtype=torch.int16),
        torch.empty(0, 3),
        torch.ones(2, 2, requires_grad=True),
    ],
)
def test_a_tensor_comes_back(value: torch.Tensor) -> None:
    data = Data.of(value)
    assert (data.kind, data.columns) == ("tensor", None)
    back = data.value()
    assert isinstance(back, torch.Tensor)
    assert back.dtype == value.dtype and torch.equal(back, value)


def test_several_come_back_as_a_tuple() -> None:
    back = Data.of((torch.ones(2), np.zeros(3, np.int8), [1.0, 2.0])).value()
    assert isinstance(back, tuple)
    assert [(t.dtype, t.shape) for t in back] == [(torch.float32, (2,)), (torch.int8, (3,)), (torch.float32, (2,))]


def test_a_frame_comes_back_without_its_index() -> None:
    frame = pd.DataFrame({"age": [40, 50], "sick": [True, False], 3: np.array([1, 2], np.float32)}, index=["a", "b"])
    data = Data.of(frame)
    assert (data.kind, data.columns) == ("frame", ["age", "sick", "3"])
    assert [array.dtype.name for array in data.arrays] == ["int64", "bool", "float32"]
    back = data.value()
    pd.testing.assert_frame_equal(back, frame.reset_index(drop=True).rename(columns={3: "3"}))


def test_a_series_is_a_tensor() -> None:
    (array,) = Data.of(pd.Series([1.0, 2.0], index=[5, 6])).arrays
    assert array.tolist() == [1.0, 2.0]


def test_bools_are_sane_whatever_their_bytes() -> None:
    foreign = np.array([0, 1, 2, 255], np.uint8).view(bool)
    back = Data("tensor", [foreign]).value()
    assert isinstance(back, torch.Tensor)
    assert back.view(torch.uint8).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize(
    ("column", "advice"),
    [
        (["a", "b"], "cat.codes"),
        (pd.Series(["a", "b"], dtype="category"), "cat.codes"),
        (pd.to_datetime(["2020-01-01", "2020-01-02"]), "astype('int64')"),
        (pd.Series([1, None], dtype="Int64"), "astype('float64')"),
        (pd.Series([1, 2], dtype="uint32"), "astype('float64')"),
        ([{}, []], "drop"),
        ([1 + 2j, 0], "drop"),
    ],
)
def test_a_column_that_cannot_be_sent_is_named_with_advice(column: Any, advice: str) -> None:
    with pytest.raises(UsageError, match=r"'it'") as error:
        Data.of(pd.DataFrame({"fine": [1, 2], "it": column}))
    assert error.value.hint is not None and advice in error.value.hint


@pytest.mark.parametrize(
    "value",
    [
        "text",
        None,
        {"a": 1},
        (),
        [[1], [1, 2]],
        np.array(["a"]),
        np.array([{}]),
        torch.ones(2, dtype=torch.bfloat16),
        torch.ones(2, dtype=torch.complex64),
        pd.DataFrame(),
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
    ],
)
def test_what_is_no_data(value: Any) -> None:
    with pytest.raises(UsageError) as error:
        Data.of(value)
    assert error.value.hint
