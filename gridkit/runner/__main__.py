"""The runner's process: ``python -m gridkit.runner CHANNEL FILES MEMORY RESULTS FRAME``, started by a node only.

CHANNEL and FILES are the descriptors of two sockets, the rest are bytes; see `gridkit.runner.serve`. It ends when its
standard input closes, which happens when the node ends in any way, also in the middle of a computation.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
import threading
from pathlib import Path

from gridkit.wire.frames import pack_frame

_LOG_BYTES = 1 << 20


def main() -> None:
    channel, files = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    memory, results, frame = map(int, sys.argv[3:6])
    threading.Thread(target=_end_with_node, daemon=True).start()
    from gridkit.runner.serve import Server, warm_up

    warm_up()
    _limit(memory)
    channel.sendall(pack_frame({"ready": True}))
    Server(channel, files, memory, results, frame).serve()
    os._exit(0)


def _end_with_node() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


def _limit(memory: int) -> None:
    """No core file, no file larger than a log, and so much address space beyond what torch has taken by now.

    Only Linux holds a process to its address space; elsewhere the dry run before each computation is what there is.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LOG_BYTES, _LOG_BYTES))
    statm = Path("/proc/self/statm")
    if statm.exists():
        base = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (base + memory, base + memory))


if __name__ == "__main__":
    main()
