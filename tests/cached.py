"""Packages that a test needs beside, or in another version than, the installed ones: fetched once into .cache/."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def package_folder(requirement: str, name: str) -> Path:
    """The folder ``.cache/<name>`` that holds `requirement` alone (no dependencies): to be put on PYTHONPATH."""
    folder = ROOT / ".cache" / name
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            target = Path(scratch) / name
            command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), requirement]
            subprocess.run(command, check=True)
            os.rename(target, folder)  # all or nothing: an interrupted install leaves no half of a package
    return folder
