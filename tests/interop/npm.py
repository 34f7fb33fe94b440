"""The npm packages that foreign clients of these tests are: exact versions, installed once a machine."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

PACKAGES = {"@openmined/syft.js": "0.1.4", "@tensorflow/tfjs-core": "1.7.4", "ws": "8.23.0"}
"""tfjs-core is the version that syft.js's peer dependency resolves to; ws gives Node 20 its WebSocket."""

_CACHE = Path(__file__).resolve().parents[2] / ".cache" / "npm"


@cache
def node() -> str:
    """The Node.js binary; the test is skipped where there is none."""
    found = shutil.which("node")
    if found is None or shutil.which("npm") is None:
        pytest.skip("Node.js and npm aren't installed")
    return found


@cache
def modules() -> Path:
    """A folder with `node_modules` in it, outside of what git sees. Scripts of the packages aren't run."""
    node()
    wanted = {"private": True, "dependencies": PACKAGES}
    text = json.dumps(wanted, sort_keys=True)
    folder = _CACHE / hashlib.sha256(text.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests of several processes may come at once
        if not (folder / "installed").exists():
            (folder / "package.json").write_text(text)
            command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
            if done.returncode:
                raise RuntimeError(f"npm install failed: {done.stderr[-2000:]}")
            (folder / "installed").touch()
    return folder
