"""What every runner's process does first: it ends with its node, and holds itself to its limits."""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path

_LOG_BYTES = 1 << 20


def follow_node() -> None:
    """End when standard input closes, which happens when the node ends in any way, also in the middle of a
    computation."""
    threading.Thread(target=_end_with_node, daemon=True).start()


def _end_with_node() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


def limit(memory: int) -> None:
    """No core file, no file larger than a log, and so much address space beyond what torch has taken by now.

    Only Linux holds a process to its address space; elsewhere the dry run before each computation is what there is.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LOG_BYTES, _LOG_BYTES))
    statm = Path("/proc/self/statm")
    if statm.exists():
        base = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (base + memory, base + memory))
