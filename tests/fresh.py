"""What a newcomer has: the files of a clone, and an environment in which gridkit isn't installed yet."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def tracked_files() -> list[str]:
    """Their paths, relative to the repository; without one that is removed and whose removal isn't committed yet."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def copy_of_the_tracked_files(target: Path) -> None:
    """Copy them, with their mode bits: building in the checkout would leave build folders there."""
    for name in tracked_files():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target / name)


def environment(target: Path) -> Path:
    """Make an environment that borrows the packages of this one, but for gridkit itself; its folder of commands.

    A .pth file's own .pth files aren't read, and gridkit is installed here by one (pip install -e).
    """
    venv.create(target, symlinks=True)
    commands = target / "bin"
    (site,) = (target / "lib").glob("python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    # Else pip would take the borrowed gridkit for an old version in its way, and remove it.
    pip = f'#!/bin/sh\nexport PIP_IGNORE_INSTALLED=1 PIP_NO_INDEX=1\nexec "{commands}/python" -m pip "$@"\n'
    (commands / "pip").write_text(pip)
    (commands / "pip").chmod(0o755)
    return commands
