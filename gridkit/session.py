"""The sync face of `gridkit.aio`: the same session for plain cells. Every method is made of its async one."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gridkit import aio
from gridkit.bridge import BRIDGE, sync
from gridkit.errors import UsageError
from gridkit.run import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Runs", "Session", "connect", "launch"]


class _Core(aio.SessionCore[Run]):
    """The async session whose runs have a sync face."""

    _run_class = Run


class Runs(Mapping[tuple[str, str], Run]):
    """The trainings on a node: ``grid.runs["digits", "1.0"]`` is a Run, also after a kernel restart."""

    def __init__(self, core: _Core) -> None:
        self._core = core
        self._names: list[tuple[str, str]] = []

    def __getitem__(self, key: tuple[str, str] | str) -> Run:
        if isinstance(key, str):
            return BRIDGE.sync(self._core.run(key))
        if not (isinstance(key, tuple) and len(key) == 2):
            raise UsageError(f"{key!r} isn't a training", 'use grid.runs["name", "version"]')
        return BRIDGE.sync(self._core.run(*key))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        self._names = [(entry["name"], entry["version"]) for entry in BRIDGE.sync(self._core.processes())]
        return iter(self._names)

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return f"Runs on {self._core.url}"

    def _ipython_key_completions_(self) -> list[tuple[str, str]]:
        return self._names  # those seen last: completion makes no call

    def to_frame(self) -> pd.DataFrame:
        """A row a training: name, version, phase, cycle, outcome."""
        import pandas as pd

        columns = ["name", "version", "phase", "cycle", "outcome", "reason"]
        entries = BRIDGE.sync(self._core.processes())
        return pd.DataFrame([{key: entry[key] for key in columns} for entry in entries], columns=columns)


class Session:
    """What a person holds in a notebook. Made by `launch` or `connect`; a context manager."""

    def __init__(self, core: _Core) -> None:
        self._core = core

    def __repr__(self) -> str:
        return repr(self._core)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The node's address."""
        return self._core.url

    @property
    def pids(self) -> dict[str, Any]:
        """Process ids: ``{"node": pid or None, "workers": [pid, …]}``."""
        return self._core.pids

    @property
    def runs(self) -> Runs:
        """The trainings on the node, by name and version."""
        return Runs(self._core)

    close = sync(_Core.close)
    host_training = sync(_Core.host_training)
    join = sync(_Core.join)
    train = sync(_Core.train)
    worker_token = sync(_Core.worker_token)


def launch(*, data: str | os.PathLike[str] | None = None, host: str = "127.0.0.1", workers: int = 2) -> Session:
    """Start a node of this session's own and worker processes ahead of the first training. See `gridkit.aio.launch`.

    Example:
        >>> grid = gk.launch()                                                      # doctest: +SKIP
    """
    return Session(BRIDGE.sync(aio.open_launched(_Core, data, host, workers)))


def connect(url: str, *, token: str | None = None) -> Session:
    """Open a session on a node that runs already. See `gridkit.aio.connect`; without a token you are asked for it.

    Example:
        >>> grid = gk.connect("http://127.0.0.1:5000")                              # doctest: +SKIP
    """
    known = token or os.environ.get("GRIDKIT_TOKEN") or aio.stored_token(url)
    if known is None and ((sys.stdin is not None and sys.stdin.isatty()) or "ipykernel" in sys.modules):
        known = getpass.getpass(f"token for {url}: ") or None
    return Session(BRIDGE.sync(aio.open_connected(_Core, url, known)))
