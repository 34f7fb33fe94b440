"""Tensors that are the difference of two models."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest

from gridkit.federated.aggregate import aggregate
from gridkit.wire.state import StateReader, pack_state
from gridkit.wire.tensors import Array, Arrays, Difference, TensorSpec


def arrays(seed: int) -> dict[str, Array]:
    draw = np.random.default_rng(seed)
    return {
        "w": draw.standard_normal((7, 5)).astype(np.float32),
        "steps": np.array([seed]),
        "half": draw.standard_normal(6).astype(np.float16),
        "flag": np.array([True]),
        "none": np.zeros((0, 3), np.float32),
        "scalar": np.float64(seed / 3),
    }


def test_it_is_of_the_floating_tensors_in_their_dtypes() -> None:
    one, two = arrays(1), arrays(2)
    found = Difference(Arrays(one), Arrays(two))
    floating = ["w", "half", "none", "scalar"]
    assert found.specs == tuple(TensorSpec(name, str(one[name].dtype), one[name].shape) for name in floating)
    for place, name in enumerate(floating):
        expected = (np.asarray(one[name]) - np.asarray(two[name])).reshape(-1)
        assert np.array_equal(found.read(place, 0, expected.size), expected)
        assert np.array_equal(found.read(place, 2, 4), expected[2:4]) or expected.size < 4
        assert found.read(place, 0, expected.size).dtype == expected.dtype


def test_averaging_with_it_gives_the_mean_of_the_models() -> None:
    old, others = arrays(0), [arrays(seed) for seed in (1, 2, 3)]
    start = StateReader(io.BytesIO(pack_state(old)))
    reports = [(float(weight), Difference(start, Arrays(other))) for weight, other in enumerate(others, 1)]
    chunks = list(aggregate("fedavg", start, reports))
    flat = np.concatenate([np.asarray(chunk, np.float64) for chunk in chunks])
    expected = []
    for name, array in old.items():
        mean = sum(w * np.asarray(other[name], np.float64) for w, other in enumerate(others, 1)) / 6
        expected.append(np.asarray(mean if np.asarray(array).dtype.kind == "f" else array, np.float64).reshape(-1))
    assert np.allclose(flat, np.concatenate(expected), atol=2e-3)


@pytest.mark.filterwarnings("error")
def test_what_the_dtype_does_not_hold_is_infinite_and_what_is_no_number_stays_none() -> None:
    one, two = np.float32([3e38, np.inf, np.nan]), np.float32([-3e38, np.inf, 1])
    found = Difference(Arrays({"a": one}), Arrays({"a": two})).read(0, 0, 3)
    assert np.isinf(found[0]) and np.isnan(found[1:]).all()


def test_models_of_other_tensors_have_none() -> None:
    for other in ({"b": np.zeros(2)}, {"a": np.zeros(3)}, {"a": np.zeros(2, np.float32)}, {}):
        with pytest.raises(ValueError, match="other tensors"):
            Difference(Arrays({"a": np.zeros(2)}), Arrays(other))


def test_memory_is_a_piece() -> None:
    size = 8 << 20
    one, two = Arrays({"a": np.ones(size, np.float32)}), Arrays({"a": np.zeros(size, np.float32)})
    found = Difference(one, two)
    tracemalloc.start()
    assert all(found.read(0, start, start + 4096)[0] == 1 for start in range(0, size, 4096))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
