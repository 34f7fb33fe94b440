"""What tests of the unmodified syft.js share: trainings, orders to it, and what our own engine makes of the same."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import gridkit as gk
from gridkit.plans.plan import Plan
from gridkit.plans.syft_form import syft_step
from gridkit.wire.state import read_state
from tests.interop.npm import modules, node

WORKER = Path(__file__).with_name("syft_worker.mjs")
CLASSES, STEPS, LR, ROWS = 4, 3, 0.2, 6
CONFIG = {"max_updates": STEPS, "max_epochs": STEPS, "lr": LR, "batch_size": ROWS}
"""one batch is all data of a worker, so each epoch of gridkit's own loop is one step on all of it"""


def models() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """A model each, and the shape of one of its inputs."""
    torch.manual_seed(5)
    mlp = nn.Sequential(nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    cnn = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, CLASSES))
    return {"mlp": (mlp, (7,)), "cnn": (cnn, (1, 8, 8))}


MODELS = models()


def plan_of(kind: str, **options: Any) -> Plan:
    model, shape = MODELS[kind]
    example = torch.randn(4, *shape), torch.randint(0, CLASSES, (4,))
    return gk.training_plan(model, F.cross_entropy, gk.SGD(0.1, **options), example)


def host(grid: gk.Session, name: str, kind: str, plan: Plan | None = None, **server: Any) -> Any:
    """A hosted training of one cycle, of one report unless `server` says otherwise."""
    return grid.host_training(
        MODELS[kind][0],
        plan or plan_of(kind),
        name=name,
        client_config={**CONFIG, "features": int(np.prod(MODELS[kind][1]))},
        server_config={"num_cycles": 1, "min_diffs": 1, "max_diffs": 1, **server},
    )


def batch(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """x: float32 [ROWS, *shape], y: int64 [ROWS]."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(ROWS, *MODELS[kind][1])).astype(np.float32)
    return x, draw.integers(0, CLASSES, ROWS)


def flat(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same batch as the syft family has it: x float32 [ROWS, features], y float32 [ROWS, CLASSES] one-hot."""
    x, y = batch(kind, seed)
    return x.reshape(ROWS, -1), np.eye(CLASSES, dtype=np.float32)[y]


def order(process: Any, kind: str, seed: int = 0, scheme: str = "http", **more: Any) -> dict[str, Any]:
    """What a worker of syft.js is told; see `syft_cycle.mjs`."""
    x, y = flat(kind, seed)
    known = {"name": process.name, "version": process.version, "token": process.worker_token}
    return {**known, "url": process._url.replace("http", scheme, 1), "X": x.tolist(), "y": y.tolist(), **more}


def works(process: Any, kind: str, seed: int = 0, scheme: str = "http", **more: Any) -> dict[str, Any]:
    """What a worker with syft.js in Node.js says that takes part."""
    asked = json.dumps(order(process, kind, seed, scheme, **more))
    command = [node(), str(WORKER), str(modules())]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def trained(kind: str, seed: int = 0) -> tuple[list[np.ndarray], list[list[float]]]:
    """The diff that our own engine gives for that batch, and loss and accuracy of each step."""
    step, (x, y) = syft_step(plan_of(kind)), map(torch.tensor, flat(kind, seed))
    before = [v.detach() for v in MODELS[kind][0].state_dict().values()]
    state, metrics = before, []
    for _ in range(STEPS):
        loss, accuracy, *state = step.run([x, y, torch.tensor(float(ROWS)), LR, *state])
        metrics.append([float(loss), float(accuracy)])
    return [(a - b).numpy() for a, b in zip(before, state, strict=True)], metrics


def start_of(kind: str) -> list[np.ndarray]:
    return [v.detach().numpy() for v in MODELS[kind][0].state_dict().values()]


def new_model(process: Any) -> list[np.ndarray]:
    process.run.wait(60)
    return [v.detach().numpy() for v in process.run.model.state_dict().values()]


def check_alone(process: Any, kind: str, told: dict[str, Any]) -> None:
    """A worker that was alone in its cycle has reported what our own engine has, and that is in the new model."""
    assert told["outcome"] == "reported", told
    want, metrics = trained(kind)
    got = list(read_state(base64.b64decode(told["diff"])).values())
    for mine, theirs in zip(want, got, strict=True):
        np.testing.assert_allclose(theirs, mine, atol=1e-5)
    np.testing.assert_allclose([[m["loss"], m["accuracy"]] for m in told["metrics"]], metrics, atol=1e-5)
    for before, diff, after in zip(start_of(kind), got, new_model(process), strict=True):
        np.testing.assert_allclose(after, before - diff, atol=1e-6)
