"""The runner's process: ``python -m gridkit.runner CHANNEL FILES MEMORY RESULTS FRAME``, started by a node only.

CHANNEL and FILES are the descriptors of two sockets, the rest are bytes; see `gridkit.runner.serve`. It ends when its
standard input closes, which happens when the node ends in any way, also in the middle of a computation.
"""

from __future__ import annotations

import os
import socket
import sys

from gridkit.runner.process import follow_node, limit
from gridkit.wire.frames import pack_frame


def main() -> None:
    channel, files = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    memory, results, frame = map(int, sys.argv[3:6])
    follow_node()
    from gridkit.runner.serve import Server, warm_up

    warm_up()
    limit(memory)
    channel.sendall(pack_frame({"ready": True}))
    Server(channel, files, memory, results, frame).serve()
    os._exit(0)


if __name__ == "__main__":
    main()
