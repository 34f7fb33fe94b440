"""GKM1: a model's bytes, and what else a node may be given for a model."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest

from gridkit.errors import ErrorCode, WireError
from gridkit.wire.model import ModelFile, model_kind, pack_model

STATE = {"fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "fc.bias": np.ones(2, np.float32)}
TWINS = {"a": np.ones(2), "b": np.ones(2), "c": np.ones(3)}


def test_plan_and_state_come_back_in_order() -> None:
    data = pack_model(b"GKP1 and so on", STATE).tobytes()
    file = ModelFile(io.BytesIO(data))
    assert file.plan == b"GKP1 and so on" and file.tied == {}
    views = file.tensors.views(data)
    assert list(views) == list(STATE) and all(np.array_equal(views[k], STATE[k]) for k in STATE)
    assert all(a.flags.aligned for a in views.values())


def test_tied_entries_say_so() -> None:
    data = pack_model(b"", TWINS, {"b": "a"}).tobytes()
    assert ModelFile(io.BytesIO(data)).tied == {"b": "a"}


@pytest.mark.parametrize("tied", [{"x": "a"}, {"b": "x"}, {"a": "a"}, {"a": "b"}, {"c": "a"}, {"a": "b", "b": "a"}])
def test_ties_that_cannot_be_are_refused(tied: dict[str, str]) -> None:
    with pytest.raises(WireError, match="tied"):
        ModelFile(io.BytesIO(pack_model(b"", TWINS, tied).tobytes()))


def test_s4_every_cut_of_a_model_is_refused() -> None:
    data = pack_model(b"GKP1", STATE).tobytes()
    for end in range(len(data)):
        with pytest.raises(WireError):
            ModelFile(io.BytesIO(data[:end]))


def test_s4_a_plan_longer_than_the_file_or_the_limit_is_refused() -> None:
    for length, message in ((100, "cut short"), (1 << 31, "at most")):
        with pytest.raises(WireError, match=message):
            ModelFile(io.BytesIO(b"GKM1" + struct.pack("<I", length) + b"{}"))


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(STATE))
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model"))
    return file.getvalue()


def saved(**options: bool) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{}], object), **options)
    return file.getvalue()


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("went off",)


UNSAFE = {
    **{f"pickle {p}": pickle.dumps([1, 2], protocol=p) for p in range(6)},
    **{f"bomb {p}": pickle.dumps(Bomb(), protocol=p) for p in range(6)},
    **{f"bomb in a dict {p}": pickle.dumps({"w": Bomb()}, protocol=p) for p in range(6)},
    "zip, as torch.save": zipped(),
    "empty zip": zipped()[-22:],
    "npy": saved(allow_pickle=True),
    "gzip": gzip.compress(b"x"),
    "tar": tarred(),
}


@pytest.mark.parametrize("case", UNSAFE)
def test_s1_pickles_and_archives_are_unsafe(case: str) -> None:
    with pytest.raises(WireError) as error:
        model_kind(UNSAFE[case][:512])
    assert error.value.code == ErrorCode.UNSAFE_FORMAT


OPAQUE = {
    "no compression": b"(" + b"\x95\x01\x02",
    "no compression, long": b"(" + b"\xdc\x00\x10",
    "LZ4": b")" + b"\x04\x22\x4d\x18d@",
    "zstd": b"*" + b"\x28\xb5\x2f\xfd\x24",
    "zlib": b"*" + zlib.compress(b"\x92\x01\x02"),
}


@pytest.mark.parametrize("case", OPAQUE)
def test_the_originals_envelope_is_opaque(case: str) -> None:
    assert model_kind(OPAQUE[case]) == "opaque"


@pytest.mark.parametrize(
    "data",
    [b"", b"G", b"GKM2", b"GKP1\0\0", b"{}", b"hello", b"(", b"(x", b")LZ4", b"*abc", b"\x28\xb5\x2f\xfd", b"\x80"],
)
def test_anything_else_is_malformed(data: bytes) -> None:
    with pytest.raises(WireError) as error:
        model_kind(data)
    assert error.value.code == ErrorCode.MALFORMED


def test_our_own_is_a_plan() -> None:
    assert model_kind(pack_model(b"", STATE).tobytes()[:512]) == "plan"
