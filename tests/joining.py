"""The libraries of the page `/join`, built once a machine, outside of what git sees."""

from __future__ import annotations

import fcntl
import hashlib
from functools import cache
from pathlib import Path

from gridkit.node.join import is_built
from gridkit.node.join.build import FILES, build
from tests.interop.npm import node

_CACHE = Path(__file__).resolve().parents[1] / ".cache" / "join"


@cache
def libraries() -> Path:
    """The folder to set `GRIDKIT_JOIN` to. The test is skipped where there is no npm."""
    node()
    folder = _CACHE / hashlib.sha256(repr(FILES).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests of several processes may come at once
        if not is_built(folder):
            build(folder)
    return folder
