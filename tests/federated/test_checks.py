from __future__ import annotations

import io
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridkit.errors import ErrorCode
from gridkit.federated.checks import Verdict, check_report
from gridkit.wire.state import StateReader, pack_state
from gridkit.wire.tensors import Array, Arrays, TensorSpec

EXPECTED = (TensorSpec("fc.weight", "float32", (2, 3)), TensorSpec("fc.bias", "float32", (3,)))


def report(**changes: Array) -> dict[str, Array]:
    return {"fc.weight": np.ones((2, 3), np.float32), "fc.bias": np.ones(3, np.float32), **changes}


def check(arrays: dict[str, Array], **limits: float) -> Verdict:
    """In memory and from bytes: one verdict."""
    verdict = check_report(Arrays(arrays), EXPECTED, **limits)
    assert check_report(StateReader(io.BytesIO(pack_state(arrays))), EXPECTED, **limits) == verdict
    return verdict


def test_a_fitting_report() -> None:
    assert check(report()) == Verdict(None, norm=3.0)


@pytest.mark.parametrize(
    ("arrays", "code", "tensor"),
    [
        ({}, ErrorCode.COUNT_MISMATCH, None),
        ({"fc.weight": np.ones((2, 3), np.float32)}, ErrorCode.COUNT_MISMATCH, None),
        (report(extra=np.ones(1, np.float32)), ErrorCode.COUNT_MISMATCH, None),
        (dict(reversed(report().items())), ErrorCode.NAME_MISMATCH, "fc.weight"),
        (report(**{"fc.weight": np.ones((3, 2), np.float32)}), ErrorCode.SHAPE_MISMATCH, "fc.weight"),
        (report(**{"fc.weight": np.ones(6, np.float32)}), ErrorCode.SHAPE_MISMATCH, "fc.weight"),
        (report(**{"fc.bias": np.ones(1, np.float32)}), ErrorCode.SHAPE_MISMATCH, "fc.bias"),
        (report(**{"fc.bias": np.ones((), np.float32)}), ErrorCode.SHAPE_MISMATCH, "fc.bias"),
        (report(**{"fc.bias": np.ones((1, 3), np.float32)}), ErrorCode.SHAPE_MISMATCH, "fc.bias"),
        (report(**{"fc.bias": np.ones(0, np.float32)}), ErrorCode.SHAPE_MISMATCH, "fc.bias"),
        (report(**{"fc.bias": np.ones(3, np.float64)}), ErrorCode.DTYPE_MISMATCH, "fc.bias"),
        (report(**{"fc.bias": np.ones(3, np.int8)}), ErrorCode.DTYPE_MISMATCH, "fc.bias"),
        (report(**{"fc.bias": np.ones(3, bool)}), ErrorCode.DTYPE_MISMATCH, "fc.bias"),
        (report(**{"fc.bias": np.array([1, np.nan, 1], np.float32)}), ErrorCode.NOT_FINITE, "fc.bias"),
        (report(**{"fc.bias": np.array([1, 1, -np.inf], np.float32)}), ErrorCode.NOT_FINITE, "fc.bias"),
    ],
)
def test_refused_reports(arrays: dict[str, Array], code: ErrorCode, tensor: str | None) -> None:  # faults.md M1, M2
    verdict = check(arrays)
    assert (verdict.code, verdict.tensor, verdict.accepted) == (code, tensor, False)
    assert verdict.message and "\n" not in verdict.message
    assert tensor is None or f"'{tensor}'" in verdict.message


def test_a_report_without_names_is_read_by_place() -> None:  # syft.js sends none
    arrays = {"0": np.ones((2, 3), np.float32), "1": np.ones(3, np.float32)}
    assert check_report(Arrays({"": arrays["0"]}), EXPECTED[:1]).accepted
    assert check(arrays).code is ErrorCode.NAME_MISMATCH


def test_subnormal_values_count() -> None:
    tiny = np.full(3, 1e-45, np.float32)
    assert check(report(**{"fc.bias": tiny})).accepted


def test_the_norm_is_over_all_tensors_in_float64() -> None:
    big = np.full((2, 3), 3e38, np.float32)  # the squares overflow float32
    verdict = check(report(**{"fc.weight": big}))
    assert verdict.accepted
    assert verdict.norm == pytest.approx(math.sqrt(6 * float(big[0, 0]) ** 2 + 3))


def test_a_norm_of_float64_extremes_is_a_number() -> None:
    spec = (TensorSpec("w", "float64", (2,)),)
    verdict = check_report(Arrays({"w": np.full(2, 1.7e308)}), spec)
    assert verdict.accepted and math.isfinite(verdict.norm)
    assert check_report(Arrays({"w": np.full(2, 1.7e308)}), spec, max_norm=1e300).code is ErrorCode.NORM_TOO_LARGE


def test_max_norm() -> None:  # faults.md M3
    assert check(report(), max_norm=3.0).accepted
    verdict = check(report(), max_norm=2.9)
    assert verdict.code is ErrorCode.NORM_TOO_LARGE and verdict.norm == 3.0
    assert "3" in verdict.message and "2.9" in verdict.message


def test_an_unusual_norm_is_a_warning_only() -> None:
    assert check(report(), usual_norm=0.3).warning is None
    verdict = check(report(), usual_norm=0.299)
    assert verdict.accepted and verdict.warning is not None and "10 times" in verdict.warning
    assert check(report(), usual_norm=0.0).warning is None


@given(st.integers(0, 40), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_one_bad_value_anywhere_is_found(place: int, bad: float) -> None:
    values = np.zeros(41, np.float32)
    values[place] = bad
    verdict = check_report(Arrays({"w": values}), (TensorSpec("w", "float32", (41,)),))
    assert verdict.code is ErrorCode.NOT_FINITE and "1 value" in verdict.message


def test_memory_stays_at_a_few_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 6_000_000
    source = Arrays({"w": np.ones(size, np.float32)})
    tracemalloc.start()
    verdict = check_report(source, (TensorSpec("w", "float32", (size,)),))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert verdict.norm == pytest.approx(math.sqrt(size))
    assert peak < 8 * size / 2  # a float64 copy of it all would be 48 MB
