"""Open JupyterLab on gridkit's notebooks.

From a checkout they are opened where they are. An installed gridkit carries copies of them, which are put into a folder
of yours first; what already stands there stays as it is.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from gridkit.errors import UsageError

FIRST = "01_quickstart.ipynb"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``gridkit lab``."""
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("gridkit-notebooks"),
        help="where an installed gridkit puts the notebooks (default: %(default)s; a checkout has its own)",
    )
    parser.add_argument("jupyter", nargs="*", help="options for JupyterLab, after --, such as -- --no-browser")


def run(args: argparse.Namespace) -> int:
    """Run ``gridkit lab`` until JupyterLab ends; its exit status.

    Raises:
        UsageError: JupyterLab isn't installed, or this installation has no notebooks.
    """
    need("jupyterlab")
    folder = notebooks()
    if not _is_checkout(folder):
        copy(folder, args.folder)
        folder = args.folder
    command = [sys.executable, "-m", "jupyterlab", str(folder / FIRST), *args.jupyter]
    if os.name == "posix":
        os.execv(command[0], command)  # so that signals reach JupyterLab itself, which asks before it ends
    return subprocess.call(command)


def need(*modules: str) -> None:
    """Check that parts of the extra "lab" are installed, without importing them.

    Raises:
        UsageError: one is missing; names the extra.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise UsageError(
                f"{module} isn't installed", 'pip install "gridkit[lab]" (in a checkout: pip install -e ".[lab]")'
            )


def notebooks() -> Path:
    """The folder of the shipped notebooks: the checkout's, else the one that came with the wheel.

    Raises:
        UsageError: there is none.
    """
    checkout = Path(__file__).resolve().parents[1] / "notebooks"
    installed = Path(sysconfig.get_path("data")) / "share" / "gridkit" / "notebooks"
    for folder in (checkout, installed):
        if (folder / FIRST).is_file():
            return folder
    raise UsageError(f"this installation has no notebooks: neither {checkout} nor {installed}", "reinstall gridkit")


def copy(source: Path, target: Path) -> None:
    """Copy notebooks and their pictures; files that are already there stay as they are."""
    for file in sorted(source.rglob("*")):
        place = target / file.relative_to(source)
        if file.is_file() and ".ipynb_checkpoints" not in file.parts and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)


def _is_checkout(folder: Path) -> bool:
    return (folder.parent / "pyproject.toml").is_file()
