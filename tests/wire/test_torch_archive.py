"""torch archives: their tensors are read and replaced, and the rest stays."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from gridkit.errors import WireError
from gridkit.federated.aggregate import aggregate
from gridkit.wire.tensors import Arrays
from gridkit.wire.torch_archive import layout_difference, rewrite
from tests.wire.archives import (
    CASES,
    Cnn,
    Mlp,
    Tied,
    archive_of,
    entries_of,
    loaded_state,
    model_of,
    opened,
    saved,
    scripted,
    values_of,
    zipped,
)


@pytest.mark.parametrize(("name", "form"), CASES)
def test_tensors_are_those_of_the_state_dict(name: str, form: str) -> None:
    archive = opened(archive_of(name, form))
    expected = {k: v for k, v in model_of(name).state_dict().items() if k != "scratch"}
    values = values_of(archive)
    if name == "mlp" and archive.kind == "torchscript":  # plain attributes and buffers look the same there
        for key in {"plain", "scratch"} & set(values):
            assert np.array_equal(values.pop(key), getattr(model_of(name), key).numpy())
    assert archive.kind == form.replace("traced", "torchscript")
    assert list(values) == list(expected)
    for key, tensor in expected.items():
        assert values[key].dtype == tensor.numpy().dtype and np.array_equal(values[key], tensor.numpy())
    for place, spec in enumerate(archive.specs):
        assert np.array_equal(archive.read(place, 1, spec.size), values_of(archive)[spec.name].reshape(-1)[1:])


@pytest.mark.parametrize(("name", "form"), CASES)
def test_only_floating_storages_change_and_torch_reads_the_average(name: str, form: str) -> None:
    base, *reports = (opened(archive_of(name, form, seed)) for seed in range(3))
    assert all(layout_difference(base, report) is None for report in reports)
    differences = [
        Arrays({k: v - values_of(report)[k] for k, v in values_of(base).items() if v.dtype.kind == "f"})
        for report in reports
    ]
    flat = np.concatenate(
        [c.reshape(-1) for c in aggregate("fedavg", base, list(zip([1.0, 3.0], differences, strict=True)))]
    )
    ends = np.cumsum([spec.size for spec in base.specs])[:-1]
    average = {
        spec.name: part.astype(spec.dtype).reshape(spec.shape)
        for spec, part in zip(base.specs, np.split(flat, ends), strict=True)
    }
    before = archive_of(name, form)
    after = b"".join(rewrite(opened(before), Arrays(average)))
    assert len(after) == len(before)
    old, new = entries_of(before), entries_of(after)
    floats = {f"data/{view.storage}" for view in base.views if view.spec.averaged}
    assert list(old) == list(new) and {k.partition("/")[2] for k in old if old[k] != new[k]} <= floats
    state = loaded_state(after, form)
    one, two = (model_of(name, seed).state_dict() for seed in (1, 2))
    for key, tensor in model_of(name).state_dict().items():
        if key in state:
            mean = (one[key] + 3 * two[key]) / 4 if tensor.is_floating_point() else tensor
            torch.testing.assert_close(state[key], mean)
    assert {k: v.tolist() for k, v in values_of(opened(after)).items()} == {k: v.tolist() for k, v in average.items()}


@pytest.mark.parametrize(("name", "form"), CASES)
def test_the_same_values_give_the_same_bytes(name: str, form: str) -> None:
    data = archive_of(name, form)
    assert b"".join(rewrite(opened(data), Arrays(values_of(opened(data))))) == data


def views_of_one_storage() -> dict[str, torch.Tensor]:
    flat = torch.arange(30, dtype=torch.float32)
    grid = torch.arange(24, dtype=torch.float64).reshape(2, 3, 4)
    return {
        "first": flat[:10].view(2, 5),
        "second": flat[12:],
        "turned": grid.permute(2, 0, 1),
        "slices": torch.arange(40, dtype=torch.float16)[3::4],
        "pixels": torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "one": torch.tensor(2.5),
        "none": torch.zeros(0, 3),
        "whole": torch.arange(5),
        "flags": torch.tensor([True, False]),
    }


def test_views_and_strides_are_read_and_written_in_place() -> None:
    state = views_of_one_storage()
    data = saved(state)
    archive = opened(data)
    for place, (name, tensor) in enumerate(state.items()):
        flat = tensor.contiguous().reshape(-1).numpy()
        assert archive.specs[place].name == name
        assert np.array_equal(archive.read(place, 0, len(flat)), flat)
        assert np.array_equal(archive.read(place, 1, len(flat) - 1), flat[1 : len(flat) - 1])
    assert archive.views[0].storage == archive.views[1].storage and archive.views[1].offset == 12
    assert archive.views[2].stride == (1, 12, 4)
    changed = {k: v + 1 if v.is_floating_point() else v for k, v in state.items()}
    after = b"".join(rewrite(archive, Arrays({k: v.contiguous().numpy() for k, v in changed.items()})))
    found = torch.load(io.BytesIO(after), weights_only=True)
    for name, tensor in changed.items():
        assert torch.equal(found[name], tensor) and found[name].stride() == state[name].stride()
    # Elements 10 and 11, which belong to no tensor, are as they were.
    assert found["first"].untyped_storage().size() == 120
    assert torch.as_strided(found["first"], (2,), (1,), 10).tolist() == [10.0, 11.0]


def test_big_endian_archives_are_read_and_written_in_their_order() -> None:
    state = {"a": torch.arange(6.0).reshape(2, 3), "n": torch.tensor([258])}
    entries = entries_of(saved(state)) | {"archive/byteorder": b"big"}
    for name, dtype in (("archive/data/0", "f4"), ("archive/data/1", "i8")):
        entries[name] = np.frombuffer(entries[name], dtype).byteswap().tobytes()
    big = zipped(entries)
    archive = opened(big)
    assert values_of(archive)["a"].tolist() == state["a"].tolist() and archive.read(1, 0, 1).tolist() == [258]
    after = b"".join(rewrite(archive, Arrays({"a": np.full((2, 3), 1.5, np.float32), "n": np.array([258])})))
    assert entries_of(after)["archive/data/0"] == np.full(6, 1.5, ">f4").tobytes()
    assert torch.load(io.BytesIO(after), weights_only=True)["a"].tolist() == [[1.5] * 3] * 2


def test_values_of_other_tensors_are_refused() -> None:
    archive = opened(saved({"a": torch.zeros(2)}))
    for other in ({"b": np.zeros(2, np.float32)}, {"a": np.zeros(1, np.float32)}, {"a": np.zeros(2)}, {}):
        with pytest.raises(WireError):
            list(rewrite(archive, Arrays(other)))


def test_memory_of_a_rewrite_is_a_piece() -> None:
    data = saved({"a": torch.zeros(3 << 20), "b": torch.zeros(5)})
    values = Arrays({"a": np.arange(3 << 20, dtype=np.float32), "b": np.ones(5, np.float32)})
    pieces = list(rewrite(opened(data), values))
    assert max(map(len, pieces)) <= 1 << 20
    assert np.array_equal(opened(b"".join(pieces)).read(0, 0, 3 << 20), values.read(0, 0, 3 << 20))


# ---- which can be averaged


def test_layouts_that_differ_say_how() -> None:
    def difference(one: object, two: object) -> str | None:
        return layout_difference(opened(saved(one)), opened(saved(two)))

    a, shared = torch.zeros(2), torch.zeros(3)
    assert difference({"a": a}, Mlp()) == "it is a module, expected a state_dict"
    assert "Mlp" in (difference(Tied(), Mlp()) or "")
    assert difference({"a": a}, {"a": a, "b": a.clone()}) == "it has 2 tensors, expected 1"
    assert difference({"a": a}, {"b": a}) == "it has tensor 'b', float32 [2], expected 'a', float32 [2]"
    assert difference({"a": a}, {"a": a.double()}) == "it has tensor 'a', float64 [2], expected 'a', float32 [2]"
    assert "[1]" in (difference({"a": a}, {"a": torch.zeros(1)}) or "")
    tied, apart = {"a": shared, "b": shared}, {"a": shared, "b": shared.clone()}
    assert difference(tied, apart) == difference(apart, tied) == "other tensors of it share their memory"
    assert difference({"a": torch.zeros(2, 3)}, {"a": torch.zeros(3, 2).T}) is None


def test_a_participant_that_saves_anew_has_the_same_layout() -> None:
    hosted = scripted(torch.jit.script(Cnn()))
    back = torch.jit.load(io.BytesIO(hosted))
    back.train()
    again = [opened(scripted(torch.jit.script(Cnn()))), opened(scripted(back))]
    assert all(layout_difference(opened(hosted), other) is None for other in again)
    trained = Cnn().eval()
    trained(torch.zeros(1, 1, 6, 6)).sum().backward()
    assert layout_difference(opened(saved(Cnn())), opened(saved(trained))) is None
