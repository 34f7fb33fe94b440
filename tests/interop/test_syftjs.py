"""The unmodified syft.js 0.1.4 in Node.js, in trainings on a real node, over HTTP and WebSocket."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gridkit as gk
from gridkit.plans.plan import Plan
from gridkit.plans.syft_form import syft_step
from gridkit.wire.state import read_state
from tests.interop.npm import modules, node

pytestmark = pytest.mark.interop

WORKER = Path(__file__).with_name("syft_worker.mjs")
CLASSES, STEPS, LR = 4, 3, 0.2
CONFIG = {"max_updates": STEPS, "lr": LR, "batch_size": 6}


def models() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    torch.manual_seed(5)
    mlp = nn.Sequential(nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    cnn = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, CLASSES))
    return {"mlp": (mlp, (7,)), "cnn": (cnn, (1, 8, 8))}


MODELS = models()


def plan_of(kind: str, **options: Any) -> Plan:
    model, shape = MODELS[kind]
    example = torch.randn(4, *shape), torch.randint(0, CLASSES, (4,))
    return gk.training_plan(model, F.cross_entropy, gk.SGD(0.1, **options), example)


@pytest.fixture(scope="module")
def grid() -> Iterator[gk.Session]:
    with gk.launch() as grid:
        yield grid


Host = Callable[..., Any]


@pytest.fixture
def host(grid: gk.Session, request: pytest.FixtureRequest) -> Host:
    """`host(kind, **server_config)`: a training named after the test."""

    def host(kind: str, plan: Plan | None = None, **server: Any) -> Any:
        rules = {"num_cycles": 1, "min_diffs": 1, "max_diffs": 1, **server}
        return grid.host_training(
            MODELS[kind][0],
            plan or plan_of(kind),
            name=request.node.name,
            client_config={**CONFIG, "features": int(np.prod(MODELS[kind][1]))},
            server_config=rules,
        )

    return host


def batch(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(6, int(np.prod(MODELS[kind][1])))).astype(np.float32)
    return x, np.eye(CLASSES, dtype=np.float32)[draw.integers(0, CLASSES, 6)]


def works(process: Any, kind: str, seed: int = 0, scheme: str = "http", token: str | None = None) -> dict[str, Any]:
    """What a syft.js worker says that takes part."""
    x, y = batch(kind, seed)
    order = {
        "url": process._url.replace("http", scheme, 1),
        "name": process.name,
        "version": process.version,
        "token": token or process.worker_token,
        "X": x.tolist(),
        "y": y.tolist(),
    }
    command = [node(), str(WORKER), str(modules())]
    done = subprocess.run(command, input=json.dumps(order), capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def trained(kind: str, seed: int = 0) -> tuple[list[np.ndarray], list[list[float]]]:
    """The diff that our own engine gives for that batch, and loss and accuracy of each step."""
    step, (x, y) = syft_step(plan_of(kind)), map(torch.tensor, batch(kind, seed))
    before = [v.detach() for v in MODELS[kind][0].state_dict().values()]
    state, metrics = before, []
    for _ in range(STEPS):
        loss, accuracy, *state = step.run([x, y, torch.tensor(6.0), LR, *state])
        metrics.append([float(loss), float(accuracy)])
    return [(a - b).numpy() for a, b in zip(before, state, strict=True)], metrics


def new_model(process: Any) -> list[np.ndarray]:
    process.run.wait(60)
    return [v.detach().numpy() for v in process.run.model.state_dict().values()]


@pytest.mark.parametrize("scheme", ["http", "ws"])
@pytest.mark.parametrize("kind", MODELS)
def test_it_trains_and_its_diff_is_ours(kind: str, scheme: str, host: Host) -> None:
    process = host(kind)
    told = works(process, kind, scheme=scheme)
    assert told["outcome"] == "reported", told
    want, metrics = trained(kind)
    got = list(read_state(base64.b64decode(told["diff"])).values())
    for mine, theirs in zip(want, got, strict=True):
        np.testing.assert_allclose(theirs, mine, atol=1e-6)
    steps = [[m["loss"], m["accuracy"]] for m in told["metrics"]]
    np.testing.assert_allclose(steps, metrics, atol=1e-5)
    old = [v.detach().numpy() for v in MODELS[kind][0].state_dict().values()]
    for start, diff, end in zip(old, got, new_model(process), strict=True):
        np.testing.assert_allclose(end, start - diff, atol=1e-6)


def test_two_of_them_and_a_job_in_python_in_one_cycle(host: Host) -> None:
    process = host("mlp", min_diffs=3, max_diffs=3)
    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(lambda n: works(process, "mlp", n, ("http", "ws")[n]), range(2)))
    assert [t["outcome"] for t in told] == ["reported"] * 2
    assert len({t["worker_id"] for t in told}) == 2

    def accepted(work: Any) -> None:
        x, y = map(torch.tensor, batch("mlp", 2))
        params = work.model.params
        for _ in range(STEPS):
            _, _, *params = work.job.plans["training_plan"].execute(work.job.worker, x, y, 6, LR, *params)
        work.job.report(work.model.create_serialized_diff(params))

    with gk.Syft(process._url, auth_token=process.worker_token) as client:
        job = client.new_job(process.name, process.version)
        job.on("accepted", accepted)
        job.start()
    diffs = [trained("mlp", n)[0] for n in range(3)]
    old = [v.detach().numpy() for v in MODELS["mlp"][0].state_dict().values()]
    for start, end, *each in zip(old, new_model(process), *diffs, strict=True):
        np.testing.assert_allclose(end, start - sum(each) / 3, atol=1e-6)


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_a_full_cycle_is_a_rejection_with_seconds(scheme: str, host: Host) -> None:
    process = host("mlp", max_workers=1, min_diffs=2, max_diffs=2, cycle_length=60)
    with gk.Syft(process._url, auth_token=process.worker_token) as client:
        job = client.new_job(process.name, process.version)
        job.on("accepted", lambda _: None)
        job.start()
        told = works(process, "mlp", scheme=scheme)
    assert told["outcome"] == "rejected" and told["timeout"] > 0


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_a_wrong_token_is_an_error(scheme: str, host: Host) -> None:
    told = works(host("mlp"), "mlp", scheme=scheme, token="not a token")
    assert told["outcome"] == "error" and "token" in told["error"]


def test_a_plan_that_it_cannot_run_is_an_error_that_says_why(host: Host) -> None:
    told = works(host("mlp", plan_of("mlp", momentum=0.9)), "mlp")
    assert told["outcome"] == "error"
    assert "has no TensorFlow.js form" in told["error"] and "SGD without momentum" in told["error"]
