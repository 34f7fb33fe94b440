"""The process of one session of remote tensors, started by a node only:
``python -m gridkit.runner.tensors CHANNEL FILES MEMORY SECONDS COUNT PREVIEW RESULTS FRAME``.

CHANNEL is the descriptor of the socket over which all goes (FILES, that of files, isn't needed here). Tensors get half
of MEMORY, bytes; the rest is for what operations need in between. See `serve`.
"""

from __future__ import annotations

import os
import socket
import sys

from gridkit.runner.process import follow_node, limit
from gridkit.wire.frames import pack_frame


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    os.close(int(sys.argv[2]))
    memory, seconds, count, preview, results, frame = map(float, sys.argv[3:9])
    follow_node()
    from gridkit.runner.serve import warm_up
    from gridkit.runner.tensors.serve import Server, rehearse
    from gridkit.runner.tensors.session import TensorSession

    warm_up()
    rehearse()
    limit(int(memory))
    channel.sendall(pack_frame({"ready": True}))
    session = TensorSession(int(memory) // 2, seconds, int(count), int(preview))
    Server(channel, session, int(results), int(frame)).serve()
    os._exit(0)


if __name__ == "__main__":
    main()
