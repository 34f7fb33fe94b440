"""`gk.serve_participant` in a notebook: its cell is free at once, prints come under it, and it can run again."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.kernel.driver import Kernel
from tests.push_node import SECRET, PushNode, packed, unpacked
from tests.support import wait_for

pytestmark = pytest.mark.kernel

CELL = """
def train(state, task):
    print('training', task.round)
    while not os.path.exists(gate):
        time.sleep(0.01)
    return {name: tensor + STEP for name, tensor in state.items()}, 5, {'loss': 1.0}

gk.serve_participant(train=train, test=lambda state, task: {}, **where).url
"""


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    started = Kernel(7)
    try:
        started.run("import os, time\nimport gridkit as gk; gk.serve_participant", seconds=60)
        yield started
    finally:
        started.close()


def test_the_cell_is_free_while_it_trains_and_running_it_again_renews(kernel: Kernel, tmp_path: Path) -> None:
    gate = tmp_path / "open"
    with PushNode(packed({"w": np.zeros(2, np.float32)}), {"one": "1"}).running() as node:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        where = {"node": node.url, "user": "one", "password": "1", "secret": SECRET, "port": port}
        kernel.run(f"where, gate, STEP = {where}, {str(gate)!r}, 1")
        first = kernel.send(CELL)
        url = (kernel.finish([first])[0].result or "").strip("'")
        assert node.notify(url, "UPDATE_ROUND_START", 0) == 202
        kernel.until_printed(first, "training 0\n")
        assert kernel.run("1 + 1").result == "2"  # while the training waits
        assert node.uploads == []
        gate.touch()
        wait_for(lambda: node.uploads)
        kernel.run("STEP = 2")
        again = kernel.send(CELL)
        assert kernel.finish([again])[0].result == f"'{url}'"
        assert node.notify(url, "UPDATE_ROUND_START", 0) == 202  # it is another participant
        kernel.until_printed(again, "training 0\n")
        wait_for(lambda: len(node.uploads) == 2)
        assert [unpacked(upload["model"])["w"][0] for upload in node.uploads] == [1, 2]
        assert kernel.cells[first].text == "training 0\n"
