"""Archives that are bombs, lies or merely something else: nothing of them is run, and they are refused by name."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gridkit.errors import ErrorCode, WireError
from gridkit.wire import torch_views
from gridkit.wire.tensors import Arrays
from gridkit.wire.torch_archive import TorchArchive, rewrite
from gridkit.wire.torch_views import CALLS
from tests.wire.archives import FORMATS, Mlp, archive_of, entries_of, opened, saved, scripted, values_of, zipped

# ---- what must never be run


class Bomb:
    """Unpickled by Python, it makes the file that the test looks for."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = str(sentinel)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.sentinel,)


def bombed_zip(data: bytes, entry: str, content: bytes) -> bytes:
    return zipped({name: content if name.endswith(entry) else old for name, old in entries_of(data).items()})


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


def repacked(data: bytes, **other: bytes | None) -> dict[str, bytes]:
    """The archive's entries, with some left out (None) or of other content; ``data_0`` is data/0."""
    changed = {"archive/" + name.replace("_", "/"): content for name, content in other.items()}
    kept = {name: content for name, content in entries_of(data).items() if name not in changed}
    return kept | {name: content for name, content in changed.items() if content is not None}


KEY = saved({"a": torch.arange(4.0)})


def test_archives_of_older_torch_and_of_a_gpu_are_read() -> None:
    older = {name: content for name, content in repacked(KEY, byteorder=None).items() if "/." not in name}
    pickled = older["archive/data.pkl"].replace(b"X\3\0\0\0cpu", b"X\6\0\0\0cuda:0")
    for entries in (older, older | {"archive/data.pkl": pickled}):
        assert values_of(opened(zipped(entries)))["a"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (repacked(KEY, data_0=None), "no storage 0"),
        (repacked(KEY, data_0=bytes(12)), "has 12 bytes, not 4 elements"),
        (repacked(KEY, byteorder=b"middle"), "little- or big-endian"),
        (repacked(KEY, byteorder=b" " * 21), "at most 20"),
        (repacked(KEY) | {"other/data/0": b""}, "one folder"),
        ({name: content for name, content in repacked(KEY).items() if "pkl" not in name}, "no entry data.pkl"),
    ],
)
def test_entries_that_do_not_fit_are_refused(entries: dict[str, bytes], message: str) -> None:
    with pytest.raises(WireError, match=message):
        opened(zipped(entries))


def test_s2_zip_bombs_are_not_opened() -> None:
    bomb = zipped(repacked(KEY, data_0=bytes(64 << 20)), zipfile.ZIP_DEFLATED)
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    with pytest.raises(WireError, match="compressed"):
        opened(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20
    with pytest.raises(WireError, match=r"no entry (byteorder|data.pkl), or a compressed one"):
        opened(zipped(entries_of(KEY), zipfile.ZIP_DEFLATED))


def test_a_storage_that_has_to_be_read_whole_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_views, "MAX_STRIDED", 400)
    assert opened(saved({"a": torch.zeros(10, 10).T, "b": torch.zeros(1000)})).specs
    with pytest.raises(WireError, match="doesn't lie in order"):
        opened(saved({"a": torch.zeros(10, 11).T}))


def test_a_file_that_gets_shorter_is_an_error() -> None:
    file = io.BytesIO(saved({"a": torch.zeros(100), "b": torch.zeros(10, 10).T}))
    archive = TorchArchive(file)
    file.truncate(archive.entry(archive.views[0]).start + 8)
    for place in (0, 1):
        with pytest.raises(WireError, match="cut short"):
            archive.read(place, 0, 100)


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
