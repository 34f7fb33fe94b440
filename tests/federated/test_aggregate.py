from __future__ import annotations

import io
import tracemalloc
from collections.abc import Sequence

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridkit.errors import ErrorCode, PlanError, UsageError
from gridkit.federated import strategies
from gridkit.federated.aggregate import aggregate, flat, subtract
from gridkit.wire.state import StateReader, pack_state, pack_stream, read_state
from gridkit.wire.tensors import Array, Arrays, TensorSource, TensorSpec

State = dict[str, Array]
FINITE = st.floats(-1e6, 1e6, width=32)


@st.composite
def trainings(draw: st.DrawFn) -> tuple[State, list[tuple[float, State]]]:
    """A model with float, integer and empty tensors, and diffs of its floating ones."""
    shapes = draw(st.lists(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=6), min_size=1, max_size=3))
    dtypes = [draw(st.sampled_from(["float32", "float64", "float16", "int64", "bool"])) for _ in shapes]

    def state(which: Sequence[int]) -> State:
        small = st.floats(-100, 100, width=16)
        return {
            f"t{n}": draw(hnp.arrays(dtypes[n], shapes[n], elements=small if dtypes[n][0] == "f" else None))
            for n in which
        }

    floating = [n for n, dtype in enumerate(dtypes) if dtype.startswith("float")]
    weights = draw(st.lists(st.integers(0, 200), min_size=1, max_size=4).filter(any))
    return state(range(len(shapes))), [(float(weight), state(floating)) for weight in weights]


def averaged(old: TensorSource, reports: list[tuple[float, TensorSource]], chunk: int) -> bytes:
    return b"".join(pack_stream(old.specs, aggregate("fedavg", old, reports, chunk)))


def reader(state: State) -> StateReader:
    return StateReader(io.BytesIO(pack_state(state)))


@given(trainings(), st.integers(1, 9))
def test_bits_depend_neither_on_the_chunk_nor_on_where_tensors_come_from(
    training: tuple[State, list[tuple[float, State]]], chunk: int
) -> None:
    old, reports = training
    in_memory = averaged(Arrays(old), [(weight, Arrays(diff)) for weight, diff in reports], 1 << 18)
    from_files = averaged(reader(old), [(weight, reader(diff)) for weight, diff in reports], chunk)
    assert in_memory == from_files


@given(trainings())
def test_the_new_model_is_the_formula(training: tuple[State, list[tuple[float, State]]]) -> None:
    old, reports = training
    data = averaged(Arrays(old), [(weight, Arrays(diff)) for weight, diff in reports], 5)
    new = read_state(data)
    assert list(new) == list(old)
    total = sum(weight for weight, _ in reports)
    for name, before in old.items():
        assert (new[name].dtype, new[name].shape) == (before.dtype, before.shape)
        if before.dtype.kind != "f":
            assert np.array_equal(new[name], before)
            continue
        mean = np.zeros(before.shape)
        for weight, diff in reports:
            mean = mean + diff[name].astype(np.float64) * weight
        want = (before.astype(np.float64) - mean / total).astype(before.dtype)
        assert new[name].tobytes() == want.tobytes()


def test_a_worked_example() -> None:
    old = {"w": np.array([1.0, 2.0], np.float32), "steps": np.array(7)}
    reports = [(1.0, Arrays({"w": np.float32([1, 0])})), (3.0, Arrays({"w": np.float32([0, 4])}))]
    new = read_state(averaged(Arrays(old), list(reports), 1))
    assert new["w"].tolist() == [0.75, -1.0] and new["steps"] == 7


def test_the_mean_of_equal_diffs_is_that_diff() -> None:
    """A float32 accumulator would drift; float64 gives the very float32 back."""
    diff = {"w": np.float32([0.1, 1e-20, 3.3e7])}
    old = {"w": np.zeros(3, np.float32)}
    new = read_state(averaged(Arrays(old), [(144.0, Arrays(diff))] * 1000, 2))
    assert (-new["w"]).tobytes() == diff["w"].tobytes()


def test_what_is_read_is_not_changed() -> None:
    old, diff = {"w": np.ones(5, np.float32)}, {"w": np.ones(5, np.float32)}
    averaged(Arrays(old), [(2.0, Arrays(diff))] * 3, 2)
    assert old["w"].tolist() == diff["w"].tolist() == [1.0] * 5


class Counted:
    """A report of ones that exists nowhere; counts what is asked for."""

    def __init__(self, specs: tuple[TensorSpec, ...]) -> None:
        self.specs = specs

    def read(self, place: int, start: int, stop: int) -> Array:
        return np.ones(stop - start, np.float32)


def test_peak_memory_is_a_few_chunks_however_many_reports_come() -> None:  # faults.md C5
    specs = (TensorSpec("w", "float32", (2_000_000,)), TensorSpec("b", "float32", (70_000,)))
    chunk = 1 << 16
    tracemalloc.start()
    size = 0
    for piece in aggregate("fedavg", Counted(specs), [(1.0, Counted(specs))] * 50, chunk):
        size += piece.size
        assert piece[0] == 0.0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == sum(spec.size for spec in specs)
    assert peak < 6 * chunk * 8


def test_unknown_strategy() -> None:
    with pytest.raises(UsageError, match="'median'"):
        strategies.get("median")


# ---- averaging plans


@given(trainings(), st.integers(1, 9))
def test_what_a_plan_gives_is_taken_off_the_model(
    training: tuple[State, list[tuple[float, State]]], chunk: int
) -> None:
    """The reports as a plan sees them, taken off one by one, are the formula; the chunks don't matter."""
    old, reports = training
    result = np.concatenate([np.zeros(0, np.float32), *flat(reader(reports[0][1]), chunk)])
    assert result.dtype == np.float32
    assert result.tobytes() == b"".join(a.astype(np.float32).tobytes() for a in reports[0][1].values())
    new = read_state(b"".join(pack_stream(reader(old).specs, subtract(reader(old), result, chunk))))
    for name, before in old.items():
        if before.dtype.kind != "f":
            assert np.array_equal(new[name], before)
            continue
        off = reports[0][1][name].astype(np.float32)
        assert new[name].tobytes() == (before.astype(np.float64) - off).astype(before.dtype).tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -3.4e38])
def test_a_model_that_is_no_longer_finite_is_refused(value: float) -> None:
    old = Arrays({"a": np.ones(3, np.float32), "b": np.float32([1, 2e38])})
    with pytest.raises(PlanError, match="'b' that are not finite") as caught:
        list(subtract(old, np.float32([1, 1, 1, 1, value]), 2))
    assert caught.value.code is ErrorCode.NOT_FINITE


def test_what_was_infinite_before_may_stay_so() -> None:
    mask = Arrays({"mask": np.float32([0, -np.inf])})
    (new,) = subtract(mask, np.zeros(2, np.float32))
    assert new.tolist() == [0, -np.inf]
