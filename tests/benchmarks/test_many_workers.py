"""1,000 workers in one cycle: reports a second, and what they cost the node."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridkit.wire.state import read_state
from tests.benchmarks import swarm
from tests.benchmarks.test_node_memory import memory
from tests.support import NodeUnderTest, host_files, rows, tiny_plan

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc, which only Linux has"),
]

KIB = 1024
FEW, MANY = 250, 1000


def crowd(tmp_path: Path, count: int) -> dict[str, Any]:
    """One cycle of so many workers, each on its socket, from another process.

    Returns:
        What they were told (see `swarm`), `kinds` (of the node's events: how many), the new `model`, and `peak` (the
        most memory that the node held, bytes).
    """
    node = NodeUnderTest(tmp_path / f"node-{count}")
    try:
        files = host_files(tiny_plan(), {"num_cycles": 1, "min_diffs": count, "max_diffs": count}, "crowd")
        with node.http() as http:
            hosted = http.post("/model-centric/host-training", files=files).json()
        command = [sys.executable, swarm.__file__, node.url, "crowd", "1.0", str(count)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(hosted["worker_token"] + "\n")
            process.stdin.flush()
            told: dict[str, Any] = json.loads(process.stdout.readline())
            rows(node, hosted["process"])
            told["peak"] = memory(node, "VmHWM")
            process.stdin.close()
        with node.http() as http:
            query = {"name": "crowd", "version": "1.0"}
            told["model"] = read_state(http.get("/model-centric/retrieve-model", params=query).content)
    finally:
        node.terminate()
    with closing(sqlite3.connect(node.data / "grid.db")) as database:
        told["kinds"] = dict(database.execute("SELECT kind, count(*) FROM event GROUP BY kind"))
    return told


def test_1000_workers_report_once_each_and_their_cycle_closes_once(tmp_path: Path) -> None:
    few, many = crowd(tmp_path, FEW), crowd(tmp_path, MANY)
    for count, told in ((FEW, few), (MANY, many)):
        assert told["offers"] == {"accepted": count} and told["workers"] == count
        assert told["reports"] == {"success": count}
        assert told["kinds"] == {"opened": 1, "assigned": count, "reported": count, "aggregated": 1, "finished": 1}
        mean = (count - 1) / 2 / count
        assert all(np.allclose(value, -mean, atol=1e-6) for value in told["model"].values())
    each = (many["peak"] - few["peak"]) / (MANY - FEW)
    print(
        f"\n{MANY} workers: {MANY / many['report_seconds']:.0f} reports a second (of {FEW}: "
        f"{FEW / few['report_seconds']:.0f}), {MANY / many['arrival_seconds']:.0f} arrivals a second; the node's peak "
        f"{many['peak'] / KIB / KIB:.0f} MiB (of {FEW}: {few['peak'] / KIB / KIB:.0f}), {each / KIB:.0f} KiB a worker"
    )
    assert each <= 128 * KIB
