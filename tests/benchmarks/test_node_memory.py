"""What a node's process holds: idle, and while it averages many large reports. Read from the kernel's own figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import gridkit as gk
from gridkit.wire.state import pack_state, read_state
from tests.plans.rules import mean, running
from tests.support import NodeUnderTest, RawWorker, plan_of, rows

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc, which only Linux has"),
]

MB = 1_000_000
SHAPES = {"body.weight": (2500, 2000), "body.bias": (2000,), "head.weight": (624, 2000)}  # 25 MB of float32


def memory(node: NodeUnderTest, field: str) -> int:
    """Bytes: "VmRSS" now, "VmHWM" the highest so far."""
    lines = Path(f"/proc/{node.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path / "data")
    yield node
    node.terminate()


def test_an_idle_node_stays_within_120_mb(node: NodeUnderTest) -> None:
    with node.http() as http:
        for _ in range(20):
            assert http.get("/status/").status_code == 200
    print(f"\nidle node: {memory(node, 'VmRSS') / MB:.0f} MB, at most {memory(node, 'VmHWM') / MB:.0f} MB")
    assert memory(node, "VmHWM") <= 120 * MB


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("reports", "rule"),
    [
        (10, None),
        (10, mean),  # a hundred at once are more than the runner may hold
        (10, running),
        pytest.param(100, None, marks=pytest.mark.soak),
        pytest.param(100, running, marks=pytest.mark.soak),
    ],
)
def test_averaging_reports_of_25_mb_adds_less_than_4_models(node: NodeUnderTest, reports: int, rule: Any) -> None:
    """From the idle node to the end: receiving the model and the reports counts too. With an averaging plan they go to
    the runner through a file."""
    one = sum(int(np.prod(shape)) for shape in SHAPES.values()) * 4
    assert one > 25 * MB - 100_000
    idle = memory(node, "VmRSS")
    config = {"num_cycles": 1, "min_diffs": reports, "max_diffs": reports}
    with node.http() as http:
        hosted = http.post("/model-centric/host-training", files=parts(config, rule), timeout=60)
    assert hosted.status_code == 200, hosted.text
    workers = [RawWorker(node, hosted.json()["worker_token"], "large") for _ in range(reports)]
    for worker in workers:
        assert worker.ask()["status"] == "accepted"
    before = memory(node, "VmHWM")
    for place, worker in enumerate(workers):  # each report is another, so that none is stored once for two
        diff = {name: np.full(shape, place / reports, np.float32) for name, shape in SHAPES.items()}
        assert worker.report(diff).status_code == 200
    done = rows(node, hosted.json()["process"], seconds=300)
    peak = memory(node, "VmHWM")
    with node.http() as http:
        new = read_state(http.get("/model-centric/retrieve-model", params={"name": "large", "version": "1.0"}).content)
    wanted = np.float32(1 - np.mean(np.arange(reports) / reports))
    assert all(np.allclose(value, wanted, atol=1e-6) and value.shape == SHAPES[name] for name, value in new.items())
    seconds = next(row["seconds"] for row in done if row["kind"] == "aggregated")
    print(
        f"\n{reports} reports of {one / MB:.0f} MB ({rule.__name__ if rule else 'no plan'}): idle {idle / MB:.0f} MB, "
        f"hosted {before / MB:.0f} MB, peak {peak / MB:.0f} MB: {(peak - idle) / one:.2f} models more; "
        f"round {seconds:.1f} s"
    )
    assert peak - idle < 4 * one


def parts(server_config: dict[str, Any], rule: Any) -> dict[str, tuple[str, bytes, str]]:
    """The multipart body that hosts the large model, perhaps with a rule that averages it."""
    iterative = rule is running
    own = {}
    if rule is not None:
        size = sum(int(np.prod(shape)) for shape in SHAPES.values())
        plan = gk.averaging_plan(rule, nn.Linear(size, 1, bias=False), iterative=iterative)
        own = {"averaging_plan": ("averaging_plan", plan.to_bytes(), "application/octet-stream")}
    model = pack_state({name: np.ones(shape, np.float32) for name, shape in SHAPES.items()})
    about = {"name": "large", "version": "1.0"}
    config = {
        "client_config": about,
        "server_config": {**server_config, "iterative_plan": iterative},
        "plans": ["training_plan"],
    }
    return {
        "config": ("config", json.dumps(config).encode(), "application/json"),
        "model": ("model", model, "application/octet-stream"),
        "plan0": ("plan0", plan_of(SHAPES), "application/octet-stream"),
        **own,
    }
