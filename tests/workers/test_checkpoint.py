"""Checkpoints: what was written is read, a half of one is never seen, and no other file is taken for one."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from gridkit.errors import UsageError
from gridkit.workers import checkpoint
from gridkit.workers.checkpoint import load_checkpoint, save_checkpoint

ARRAYS = {
    "state/w": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "state/n": np.asarray(3),
    "losses": np.zeros(0, np.float32),
}
ABOUT = {"name": "diğits ☃", "round": 3, "lr": None}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "left"
    assert load_checkpoint(path) is None
    for about in (ABOUT, {**ABOUT, "round": 4}):
        save_checkpoint(path, about, ARRAYS)
        found = load_checkpoint(path)
        assert found is not None and found[0] == about and found[1].keys() == ARRAYS.keys()
        for name, array in found[1].items():
            assert array.dtype == ARRAYS[name].dtype and np.array_equal(array, ARRAYS[name])
    assert list(tmp_path.iterdir()) == [path] and path.stat().st_mode & 0o777 == 0o600


def test_a_write_that_fails_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "left"
    save_checkpoint(path, ABOUT, ARRAYS)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, {"round": 9}, ARRAYS)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError):
        save_checkpoint(tmp_path / "no such folder" / "left", ABOUT, ARRAYS)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch bombed",)


def other_files() -> dict[str, bytes]:
    npy = io.BytesIO()
    np.save(npy, np.array([Bomb()], dtype=object), allow_pickle=True)
    good = save({"a": np.ones(3, np.float32)}, metadata={"gridkit-training": "{}"})
    return {
        "empty": b"",
        "pickle": pickle.dumps(Bomb()),
        "npy": npy.getvalue(),
        "safetensors of others": save({"a": np.ones(3, np.float32)}),
        "no JSON": save({"a": np.ones(3, np.float32)}, metadata={"gridkit-training": "{"}),
        "no object": save({"a": np.ones(3, np.float32)}, metadata={"gridkit-training": "7"}),
        "cut": good[:-1],
        "huge header": b"\xff" * 8 + good[8:],
    }


@pytest.mark.parametrize("name", other_files())
def test_no_other_file_is_taken_for_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "left"
    path.write_bytes(other_files()[name])
    with pytest.raises(UsageError, match="no checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "bombed").exists()
