"""What the runner computes: the module's own bits, on memory of its own, and nothing that wasn't checked."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from gridkit.errors import ErrorCode, PlanError, WireError
from gridkit.plans.model import pack
from gridkit.runner.compute import BATCHES, Computation, read_arguments, read_model, read_plan
from gridkit.wire.safetensors import pack_file, pack_tensors
from tests.models import digits, function, packed, unpacked

MIB = 1 << 20


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def loaded(model: nn.Module, example: torch.Tensor, memory: int = 64 * MIB, results: int = MIB) -> Computation:
    return read_model(io.BytesIO(pack(model, example).tobytes()), memory, results)


def call(computation: Computation, *tensors: torch.Tensor) -> list[torch.Tensor]:
    return unpacked(computation(read_arguments(packed(*tensors), MIB)))


MODELS = {
    "mlp": (digits, (64,)),
    "cnn": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 5)),
        (1, 8, 8),
    ),
    "dropout": (lambda: nn.Sequential(nn.Linear(7, 5), nn.Dropout(0.5), nn.Softmax(dim=1)), (7,)),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("batch", [1, 2, 33])
def test_results_are_the_modules_own_bits(kind: str, batch: int) -> None:
    make, shape = MODELS[kind]
    model, x = make().eval(), torch.randn(batch, *shape)
    computation = loaded(model, torch.zeros(4, *shape))
    with torch.no_grad():
        assert torch.equal(call(computation, x)[0], model(x))


def test_a_run_leaves_the_parameters_as_they_are() -> None:
    model, x = digits(), torch.randn(3, 64)
    computation = loaded(model, x)
    before = call(computation, x)
    call(computation, torch.full((3, 64), torch.inf))
    assert torch.equal(call(computation, x)[0], before[0])


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ((), "takes 1 tensors (input), got 0"),
        ((torch.zeros(2, 64), torch.zeros(2, 64)), "got 2"),
        ((torch.zeros(2, 63),), "float32[2, 63], expected float32[B, 64]"),
        ((torch.zeros(64),), "float32[64], expected float32[B, 64]"),
        ((torch.zeros(2, 64, dtype=torch.float64),), "float64[2, 64]"),
        ((torch.zeros(0, 64),), "an empty batch"),
        ((torch.tensor(1.0),), "float32[], expected"),
    ],
)
def test_arguments_that_do_not_fit_are_named(tensors: tuple[torch.Tensor, ...], words: str) -> None:
    computation = loaded(digits(), torch.zeros(2, 64))
    with pytest.raises(PlanError) as caught:
        call(computation, *tensors)
    assert caught.value.code is ErrorCode.BAD_INPUT and words in caught.value.message


def test_two_arguments_must_agree_on_the_batch() -> None:
    @function(("B", 2), ("B",))
    def scaled(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return x * w[:, None]

    computation = read_plan(scaled.to_bytes(), MIB, MIB)
    assert call(computation, torch.ones(3, 2), torch.arange(3.0))[0].tolist() == [[0, 0], [1, 1], [2, 2]]
    with pytest.raises(PlanError, match=r"argument 'w'.* is float32\[2\]"):
        call(computation, torch.ones(3, 2), torch.ones(2))


def test_results_are_bounded_before_they_are_computed() -> None:
    @function(("B", 1))
    def wide(x: torch.Tensor) -> torch.Tensor:
        return x.repeat(1, 1000)

    computation = read_plan(wide.to_bytes(), MIB, 40_000)
    assert call(computation, torch.ones(10, 1))[0].shape == (10, 1000)
    with pytest.raises(PlanError, match="take 44,000 bytes; 40,000 are allowed") as caught:
        call(computation, torch.ones(11, 1))
    assert caught.value.code is ErrorCode.TOO_LARGE


def test_values_are_bounded_before_they_are_computed() -> None:
    @function(("B", 1))
    def square(x: torch.Tensor) -> torch.Tensor:
        return (x @ x.T).sum()

    computation = read_plan(square.to_bytes(), MIB, MIB)
    assert call(computation, torch.ones(100, 1))[0].item() == 10_000
    with pytest.raises(PlanError, match="are allowed") as caught:
        call(computation, torch.ones(10_000, 1))
    assert caught.value.code is ErrorCode.OUT_OF_MEMORY


def test_a_model_larger_than_the_memory_is_not_loaded() -> None:
    with pytest.raises(PlanError) as caught:
        loaded(nn.Linear(600, 600), torch.zeros(1, 600), memory=MIB)
    assert caught.value.code is ErrorCode.OUT_OF_MEMORY


def test_arguments_larger_than_the_memory_are_not_read() -> None:
    with pytest.raises(PlanError) as caught:
        read_arguments(packed(torch.zeros(1000)), 3999)
    assert caught.value.code is ErrorCode.OUT_OF_MEMORY


def test_batch_sizes_are_not_remembered_for_ever() -> None:
    computation = loaded(digits(), torch.zeros(1, 64))
    for batch in range(1, BATCHES + 20):
        call(computation, torch.zeros(batch, 64))
    assert computation._check_size.cache_info().currsize == BATCHES
    assert not any(isinstance(key, tuple) and key[0] == "dry run" and key[1] > 2 for key in computation._plan._memo)


def test_random_inputs_are_drawn_anew() -> None:
    torch.manual_seed(0)

    @function(("B", 100))
    def dropped(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 0.5)

    assert [i.role for i in dropped.inputs].count("uniform") == 1
    computation = read_plan(dropped.to_bytes(), MIB, MIB)
    one, two = (call(computation, torch.ones(2, 100))[0] for _ in range(2))
    assert not torch.equal(one, two) and set(one.unique().tolist()) == {0.0, 2.0}


def test_bools_are_zero_or_one_whatever_the_bytes_say() -> None:
    data = bytearray(pack_tensors([np.zeros(4, np.bool_)]).tobytes())
    data[-4:] = bytes([0, 1, 2, 255])
    (tensor,) = read_arguments(bytes(data), MIB)
    assert tensor.view(torch.uint8).tolist() == [0, 1, 1, 1]


def test_large_tensors_are_read_in_pieces() -> None:
    x = torch.arange(2_500_000, dtype=torch.float64)
    (read,) = read_arguments(packed(x), 64 * MIB)
    assert torch.equal(read, x)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x80\x04.", ErrorCode.UNSAFE_FORMAT),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '|O'}", ErrorCode.UNSAFE_FORMAT),
        (b"PK\x03\x04" + bytes(100), ErrorCode.UNSAFE_FORMAT),
        (b"", ErrorCode.MALFORMED),
        (packed(torch.zeros(3))[:-1], ErrorCode.MALFORMED),
        (pack_file({"1": np.zeros(3)}).tobytes(), ErrorCode.MALFORMED),
    ],
)
def test_bytes_that_are_no_tensors_are_refused(data: bytes, code: ErrorCode) -> None:
    with pytest.raises(WireError) as caught:
        read_arguments(data, MIB)
    assert caught.value.code is code


def test_a_training_plan_is_no_plan_of_a_function() -> None:
    from tests.plans.plans import traced

    with pytest.raises(PlanError, match="no plan of a function"):
        read_plan(traced("mlp").to_bytes(), MIB, MIB)


def test_a_failing_operation_is_named() -> None:
    import gridkit as gk

    @gk.plan(args=[gk.spec("B", 3), gk.spec("B", dtype="int64")])
    def picked(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return x.index_select(0, index)

    computation = read_plan(picked.to_bytes(), MIB, MIB)
    with pytest.raises(PlanError, match=r"index_select.* of plan 'picked' failed"):
        call(computation, torch.ones(2, 3), torch.tensor([0, 7]))
