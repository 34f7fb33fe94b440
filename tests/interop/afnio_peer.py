"""afnio's client in an environment of its own, driven line by line (tests/interop/afnio_client.py).

It is under the AGPL: it is installed for these tests only, by its users' own means, and nothing here is of it.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from tests.cached import ROOT
from tests.support import TOKEN, NodeUnderTest

REQUIREMENT = "afnio==0.3.7"
_FOLDER = ROOT / ".cache" / REQUIREMENT.replace("==", "-")


@cache
def afnio_python() -> Path:
    """The Python of an environment with `REQUIREMENT` from PyPI; made once a machine."""
    python = _FOLDER / "bin" / "python"
    _FOLDER.parent.mkdir(exist_ok=True)
    with open(_FOLDER.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests of several processes may come at once
        if not (_FOLDER / "installed").exists():
            shutil.rmtree(_FOLDER, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(_FOLDER)], check=True)
            subprocess.run([python, "-m", "pip", "install", "-q", REQUIREMENT], check=True)
            (_FOLDER / "installed").touch()
    return python


class Raised(Exception):
    """The client raised; `kind` is the type's name."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Afnio:
    """One process with afnio in it, which talks to this node."""

    def __init__(self, node: NodeUnderTest, key: str = TOKEN) -> None:
        command = [afnio_python(), Path(__file__).with_name("afnio_client.py"), f"127.0.0.1:{node.port}", key]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._next()

    def __call__(self, verb: str, **arguments: Any) -> Any:
        """What came of it.

        Raises:
            Raised: what the client raised.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([verb, arguments]) + "\n")
        self._process.stdin.flush()
        return self._next()

    def _next(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the client's process ended"
        came = json.loads(line)
        if "raised" in came:
            raise Raised(*came["raised"])
        return came["result"]

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)
