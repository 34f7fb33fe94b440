"""C6: a node that has no file descriptor left says so, and goes on when there are some again."""

from __future__ import annotations

import resource
from pathlib import Path

from tests.node.grid import refused, serve
from tests.support import NodeUnderTest


def test_c6_without_descriptors_it_is_503_and_passes(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "data")
    with node.http() as http:
        assert serve(http, "m").status_code == 200
        usual = resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE)
        # Below the standard streams' three: one that the node closes meanwhile makes no room.
        resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE, (3, usual[1]))
        refused(http.get("/get_model/m"), 503, "BUSY")
        refused(serve(http, "n"), 503, "BUSY")
        assert http.get("/status").status_code == 200
        resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE, usual)
        assert http.get("/get_model/m").status_code == 200
        assert serve(http, "n").status_code == 200
    assert node.terminate() == 0
