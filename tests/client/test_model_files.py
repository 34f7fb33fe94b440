"""Models in the formats in which nodes send them: what is read, what is written, what is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest

from gridkit.client.model_files import read_model
from gridkit.errors import ErrorCode, WireError
from gridkit.wire.safetensors import pack_file
from gridkit.wire.state import pack_state
from gridkit.wire.tensors import Array

MODEL = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "none": np.zeros((0, 2), np.float64), "n": np.array(3)}
NEW = {name: array + 1 for name, array in MODEL.items()}
FORMATS = {"safetensors": pack_file(MODEL).tobytes(), "State": pack_state(MODEL)}


@pytest.mark.parametrize("data", FORMATS.values(), ids=FORMATS)
def test_read_and_packed_again(data: bytes) -> None:
    model = read_model(io.BytesIO(data))
    shuffled = dict(reversed(NEW.items()))
    for arrays, wanted in ((model.arrays, MODEL), (read_model(io.BytesIO(model.pack(shuffled))).arrays, NEW)):
        assert list(arrays) == list(MODEL)
        for name, array in wanted.items():
            np.testing.assert_array_equal(arrays[name], array)
            assert arrays[name].dtype == array.dtype


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"a": None}, ErrorCode.NAME_MISMATCH),
        ({"more": np.zeros(1)}, ErrorCode.NAME_MISMATCH),
        ({"a": np.zeros((3, 2), np.float32)}, ErrorCode.SHAPE_MISMATCH),
        ({"a": np.zeros((1, 3), np.float32)}, ErrorCode.SHAPE_MISMATCH),
        ({"a": np.zeros((2, 3), np.float64)}, ErrorCode.DTYPE_MISMATCH),
    ],
)
@pytest.mark.parametrize("data", FORMATS.values(), ids=FORMATS)
def test_m1_other_tensors_are_refused_by_name(data: bytes, changed: dict[str, Array | None], code: ErrorCode) -> None:
    given = {name: array for name, array in {**NEW, **changed}.items() if array is not None}
    with pytest.raises(WireError, match=f"'{next(iter(changed))}'") as refused:
        read_model(io.BytesIO(data)).pack(given)
    assert refused.value.code == code


@pytest.mark.parametrize("data", [b"", b"\x80\x02.", b"PK\x05\x06" + bytes(18), b"\x1f\x8b", b"<html>", bytes(100)])
def test_what_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        read_model(io.BytesIO(data))


def test_cut_models_are_refused() -> None:
    for data in FORMATS.values():
        for size in (1, 7, 9, len(data) // 2, len(data) - 1):
            with pytest.raises(WireError):
                read_model(io.BytesIO(data[:size]))
