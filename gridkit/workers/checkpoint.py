"""A training that was left, in a file: a safetensors file whose metadata say, as JSON, what it belongs to.

A half-written one is never seen: the file is written beside, synced and renamed. Its mode is 0600, for it holds what a
model learned from private data.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gridkit.errors import UsageError

_KEY = "gridkit-training"


def save_checkpoint(path: Path, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays and what they belong to; replaces the file at once, or not at all.

    Raises:
        OSError: the file can't be written; the one before stands as it was.
    """
    from safetensors.numpy import save

    plain = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    data = save(plain, metadata={_KEY: json.dumps(about, sort_keys=True)})
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".new")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """What it belongs to, and the arrays; None where there is no file. Nothing in it is ever executed.

    Raises:
        UsageError: the file is no checkpoint.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, "np") as file:
            about = json.loads((file.metadata() or {})[_KEY])
            return dict(about), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise UsageError(
            f"{path} is no checkpoint of a training: {error or type(error).__name__}",
            "give the training a file of its own",
        ) from None
