"""State dicts as archives: torch reads them, and so do we."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import torch

from gridkit.errors import WireError
from gridkit.wire.tensors import Array, Arrays, TensorSpec
from gridkit.wire.torch_archive import TorchArchive, layout_difference, rewrite
from gridkit.wire.torch_views import DTYPES
from gridkit.wire.torch_writer import pack_archive

VALUES = {
    **{dtype: np.arange(7).astype(dtype) for dtype in DTYPES.values()},
    "a.weight": np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32),
    "größe": np.array(2.5),
    "none": np.zeros((0, 3), np.float32),
    "large": np.arange((1 << 20) + 5, dtype=np.int32),
}


def packed(values: dict[str, Array]) -> bytes:
    return b"".join(pack_archive(Arrays(values)))


def test_torch_reads_what_is_written() -> None:
    state = torch.load(io.BytesIO(packed(VALUES)), weights_only=True)
    assert list(state) == list(VALUES)
    for name, values in VALUES.items():
        assert torch.equal(state[name], torch.from_numpy(values)) and state[name].is_contiguous()


def test_torch_maps_what_is_written(tmp_path: object) -> None:
    path = f"{tmp_path}/model.pt"
    with open(path, "wb") as file:
        file.write(packed(VALUES))
    state = torch.load(path, weights_only=True, mmap=True)
    assert all(torch.equal(state[name], torch.from_numpy(values)) for name, values in VALUES.items())


def test_it_is_an_archive_like_those_of_torch() -> None:
    data = packed(VALUES)
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert file.testzip() is None
    archive = TorchArchive(io.BytesIO(data))
    assert archive.kind == "state_dict" and archive.specs == Arrays(VALUES).specs
    assert all(archive.entry(view).start % 64 == 0 for view in archive.views)
    assert b"".join(rewrite(archive, Arrays(VALUES))) == data
    saved = io.BytesIO()
    torch.save({name: torch.from_numpy(values) for name, values in VALUES.items()}, saved)
    assert (
        layout_difference(archive, TorchArchive(saved)) is None
        and layout_difference(TorchArchive(saved), archive) is None
    )


def test_a_module_takes_it_as_its_state_dict() -> None:
    model, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    data = packed({name: tensor.numpy() for name, tensor in model.state_dict().items()})
    other.load_state_dict(torch.load(io.BytesIO(data), weights_only=True))
    assert torch.equal(other(torch.ones(3)), model(torch.ones(3)))


class Described:
    """Tensors that are only described; nothing of them may be read before they are refused."""

    def __init__(self, *specs: TensorSpec) -> None:
        self.specs = specs

    def read(self, place: int, start: int, stop: int) -> Array:
        raise AssertionError("read")


@pytest.mark.parametrize("spec", [TensorSpec("a", "complex64", (2,)), TensorSpec("a", "float32", (1 << 30,))])
def test_what_archives_do_not_have_is_refused(spec: TensorSpec) -> None:
    with pytest.raises(WireError):
        next(pack_archive(Described(spec)))
