"""torch archives: their tensors are read and replaced, and nothing of them is ever run."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gridkit.errors import ErrorCode, WireError
from gridkit.federated.aggregate import aggregate
from gridkit.wire.tensors import Array, Arrays
from gridkit.wire.torch_archive import TorchArchive, layout_difference, rewrite, same_layout
from gridkit.wire.torch_views import CALLS


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(6, 5)
        self.out = nn.Linear(5, 3, bias=False)
        self.register_buffer("scratch", torch.ones(4), persistent=False)
        self.plain = torch.full((3,), 7.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.hidden(x)))


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4 * 4 * 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).flatten(1))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 4, bias=False)
        self.decoder = nn.Linear(4, 4, bias=False)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(x))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (Mlp, (2, 6)),
    "cnn": (Cnn, (2, 1, 6, 6)),
    "tied": (Tied, (2, 4)),
}


def saved(value: object, **options: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def scripted(model: torch.jit.ScriptModule) -> bytes:
    file = io.BytesIO()
    torch.jit.save(model, file)
    return file.getvalue()


FORMATS: dict[str, Callable[[nn.Module, tuple[int, ...]], bytes]] = {
    "state_dict": lambda model, shape: saved(model.state_dict()),
    "module": lambda model, shape: saved(model),
    "torchscript": lambda model, shape: scripted(torch.jit.script(model)),
    "traced": lambda model, shape: scripted(torch.jit.trace(model.eval(), torch.zeros(shape))),
}
CASES = [(name, form) for name in MODELS for form in FORMATS]


def model_of(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = MODELS[name][0]()
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2.0)
    return model


def archive_of(name: str, form: str, seed: int = 0) -> bytes:
    return FORMATS[form](model_of(name, seed), MODELS[name][1])


def opened(data: bytes) -> TorchArchive:
    return TorchArchive(io.BytesIO(data))


def values_of(archive: TorchArchive) -> dict[str, Array]:
    return {
        spec.name: archive.read(place, 0, spec.size).reshape(spec.shape) for place, spec in enumerate(archive.specs)
    }


def entries_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert file.testzip() is None  # every CRC is right
        return {name: file.read(name) for name in file.namelist()}


def loaded_state(data: bytes, form: str) -> dict[str, torch.Tensor]:
    """What torch reads; only ever of archives that these tests made."""
    if form == "state_dict":
        return torch.load(io.BytesIO(data), weights_only=True)
    if form == "module":
        ours = [Mlp, Cnn, Tied, nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Sequential, set]
        with torch.serialization.safe_globals(ours):
            return torch.load(io.BytesIO(data), weights_only=True).state_dict()
    return torch.jit.load(io.BytesIO(data)).state_dict()


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
    assert all(same_layout(base, report) for report in reports)
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
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as copy:
            for name, data in entries_of(saved(state)).items():
                dtype = {"archive/data/0": "f4", "archive/data/1": "i8"}.get(name)
                data = np.frombuffer(data, dtype).byteswap().tobytes() if dtype else data
                copy.writestr(name, b"big" if name.endswith("byteorder") else data)
        big = file.getvalue()
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
    assert difference(tied, {k: v + 1 for k, v in [("a", shared)]} | {"b": shared}) is not None
    assert difference({"a": torch.zeros(2, 3)}, {"a": torch.zeros(3, 2).T}) is None


def test_a_participant_that_saves_anew_has_the_same_layout() -> None:
    hosted = scripted(torch.jit.script(Cnn()))
    back = torch.jit.load(io.BytesIO(hosted))
    back.train()
    again = [opened(scripted(torch.jit.script(Cnn()))), opened(scripted(back))]
    assert all(same_layout(opened(hosted), other) for other in again)
    trained = Cnn().eval()
    trained(torch.zeros(1, 1, 6, 6)).sum().backward()
    assert same_layout(opened(saved(Cnn())), opened(saved(trained)))


# ---- what must never be run


class Bomb:
    """Unpickled by Python, it makes the file that the test looks for."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = str(sentinel)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.sentinel,)


def bombed_zip(data: bytes, entry: str, content: bytes) -> bytes:
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as copy:
            for name, old in entries_of(data).items():
                copy.writestr(name, content if name.endswith(entry) else old)
        return file.getvalue()


def bombs(sentinel: Path) -> dict[str, bytes]:
    bomb, module, holder = Bomb(sentinel), Mlp(), nn.ParameterDict({"a": torch.zeros(2)})
    module.trap = bomb
    module.hidden.register_forward_hook(bomb)  # type: ignore[arg-type]
    key = {"a": torch.zeros(2)}
    ordered = Mlp().state_dict()
    ordered._metadata["trap"] = bomb  # type: ignore[attr-defined]
    holder.trap = [{"deep": (bomb,)}]
    script = scripted(torch.jit.script(Mlp()))
    return {
        "legacy": saved(bomb, _use_new_zipfile_serialization=False),
        "legacy module": saved(module, _use_new_zipfile_serialization=False),
        "bare": saved(bomb),
        "state dict's value": saved({**key, "trap": bomb}),
        "state dict's metadata": saved(ordered),
        "module": saved(module),
        "nested in a module": saved(holder),
        "TorchScript's data": bombed_zip(script, "data.pkl", pickle.dumps(bomb, 2)),
        **{f"pickle {p}": pickle.dumps(bomb, p) for p in range(6)},
        **{f"zipped pickle {p}": bombed_zip(saved(key), "data.pkl", pickle.dumps(bomb, p)) for p in range(6)},
    }


@pytest.mark.parametrize("case", bombs(Path("unused")))
def test_s1_pickle_bombs_do_nothing(case: str, tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    with pytest.raises(WireError) as error:
        opened(bombs(sentinel)[case])
    assert error.value.code == ErrorCode.UNSAFE_FORMAT or "protocol" in error.value.message
    assert not sentinel.exists()


@pytest.mark.parametrize("entry", ["constants.pkl", ".py", ".debug_pkl", "version", "serialization_id"])
def test_s1_bombs_in_entries_that_are_not_read_stay_what_they_are(entry: str, tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "sentinel"), 2)
    data = bombed_zip(scripted(torch.jit.script(Mlp())), entry, bomb)
    archive = opened(data)
    assert b"".join(rewrite(archive, Arrays(values_of(archive)))) == data
    assert not (tmp_path / "sentinel").exists()


def test_the_bomb_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "sentinel"), 2))
    assert (tmp_path / "sentinel").exists()


def test_what_may_be_called_only_makes_values() -> None:
    assert {name.rpartition(".")[0] for name in CALLS} == {
        "__builtin__",
        "collections",
        "torch",
        "torch._utils",
        "torch.jit._pickle",
    }


def test_no_torch_is_imported() -> None:
    code = "import sys, gridkit.wire.torch_archive; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"False\n"


# ---- what can't be averaged


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "nothing": (dict, "no tensors"),
    "one tensor": (lambda: torch.zeros(2), "no state dict"),
    "a list": (lambda: [torch.zeros(2)], "no state dict"),
    "a checkpoint": (lambda: {"model": Mlp().state_dict(), "epoch": 3}, "'model' in the archive is no tensor"),
    "a name of control characters": (lambda: {"a\n": torch.zeros(2)}, "printable"),
    "a long name": (lambda: {"a" * 201: torch.zeros(2)}, "printable"),
    "an expanded tensor": (lambda: {"a": torch.zeros(1).expand(1000)}, "share their memory"),
    "bfloat16": (lambda: {"a": torch.zeros(2, dtype=torch.bfloat16)}, "BFloat16Storage"),
    "complex": (lambda: {"a": torch.zeros(2, dtype=torch.complex64)}, "ComplexFloatStorage"),
    "a dtype without storage": (lambda: {"a": torch.zeros(2, dtype=torch.uint16)}, "dtype or kind"),
    "negated": (lambda: {"a": torch.zeros(2, dtype=torch.complex64).conj().imag}, "marks|ComplexFloat"),
    "sparse": (lambda: {"a": torch.eye(2).to_sparse()}, "would call torch.serialization._get_layout"),
    "an optimizer": (lambda: torch.optim.SGD([torch.zeros(2)], lr=1.0), "would call collections.defaultdict"),
    "many dimensions": (lambda: {"a": torch.zeros([1] * 9)}, "9 dimensions"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_averaged_is_refused_by_name(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(WireError, match=message):
        opened(saved(make()))


@pytest.mark.parametrize("data", [b"", b"PK", b"not a model", b"PK\x03\x04", b"PK\x03\x04" + bytes(100)])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        opened(data)


def test_tensors_that_share_a_storage_too_often_are_refused() -> None:
    one = torch.zeros(8)
    assert opened(saved({str(n): one for n in range(32)})).specs
    with pytest.raises(WireError, match="too many times"):
        opened(saved({str(n): one for n in range(33)}))


def test_modules_that_hold_each_other_come_to_an_end() -> None:
    for bottom, message in ((nn.Linear(1, 1), "more than 10,000 tensors"), (nn.ReLU(), "too many times over")):
        top: nn.Module = bottom
        for _ in range(40):
            top = nn.Sequential(top, top)
        with pytest.raises(WireError, match=message):
            opened(saved(top))
    loop = nn.Sequential()
    loop._modules["0"] = loop
    with pytest.raises(WireError, match="nested too deep"):
        opened(saved(loop))


# ---- mutations

SEEDS = {form: archive_of("cnn", form) for form in FORMATS}


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=80, deadline=None)
@given(st.data())
def test_mutated_archives_are_read_or_refused(form: str, data: st.DataObject) -> None:
    changed = bytearray(SEEDS[form])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed)))
        kind = data.draw(st.sampled_from(["set", "cut", "insert", "end"]))
        if kind == "set":
            changed[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
        elif kind == "cut":
            del changed[at : at + data.draw(st.integers(1, 40))]
        elif kind == "insert":
            changed[at:at] = data.draw(st.binary(min_size=1, max_size=20))
        else:
            del changed[at:]
    read_whole(bytes(changed))


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_archives_of_a_mutated_pickle_are_read_or_refused(form: str, data: st.DataObject) -> None:
    with zipfile.ZipFile(io.BytesIO(SEEDS[form])) as file:
        changed = bytearray(file.read("archive/data.pkl"))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(2, len(changed) - 1))
        if data.draw(st.booleans()):
            changed[at] = data.draw(st.integers(0, 255))
        else:
            changed[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    read_whole(bombed_zip(SEEDS[form], "data.pkl", bytes(changed)))


def read_whole(data: bytes) -> None:
    try:
        archive = opened(data)
    except WireError:
        return
    values = values_of(archive)
    assert len(b"".join(rewrite(archive, Arrays(values)))) == len(data)
