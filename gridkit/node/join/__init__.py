"""The page `/join`: whoever opens it takes part in a training, with a browser that has nothing else of gridkit.

The page is in `static/`, and ours. The two libraries that it works with come from npm, as they are: syft.js, the
worker, and TensorFlow.js, which computes. They are no part of gridkit; whoever runs the node fetches them once:

    python -m gridkit.node.join build
"""

from __future__ import annotations

import os
from pathlib import Path

COMMAND = "python -m gridkit.node.join build"
STATIC = Path(__file__).parent / "static"
LIBRARIES = ("syft.js", "tf-core.min.js")
LICENSES = "LICENSES.txt"


def libraries() -> Path:
    """The folder of what `build` fetches: beside this file, or `GRIDKIT_JOIN` where the package can't be written."""
    return Path(os.environ.get("GRIDKIT_JOIN") or Path(__file__).parent / "vendor")


def is_built(folder: Path | None = None) -> bool:
    """Whether the libraries are there, in this folder or where `/join` takes them from."""
    return all(((folder or libraries()) / name).is_file() for name in LIBRARIES)
