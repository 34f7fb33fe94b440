"""What tests of a running node share: a real node process, and a hand-made worker that speaks the raw protocol."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from gridkit.plans.plan import Input, Node, Output, Plan, Ref
from gridkit.wire.model import pack_model
from gridkit.wire.state import pack_state

MODEL = {"w": np.zeros((3, 2), np.float32), "b": np.zeros(2, np.float32)}
DIFF = {"w": np.full((3, 2), 0.5, np.float32), "b": np.full(2, -1.0, np.float32)}


def tiny_plan() -> bytes:
    """A valid training plan for `MODEL`; a node checks its form and never runs it."""
    return plan_of({name: array.shape for name, array in MODEL.items()})


def plan_of(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """A valid training plan (a sum for a loss, one multiplication for an update) of these parameters."""
    inputs = [Input(i, name, "param", "float32", shape) for i, (name, shape) in enumerate(shapes.items())]
    count = len(inputs)
    inputs += [Input(count + i, n, n, "float32", ("B",)) for i, n in enumerate(("x", "y", "weight"))]  # type: ignore[arg-type]
    inputs.append(Input(count + 3, "lr", "lr", "float64", ()))
    loss, updated = count + 4, count + 5
    nodes = (
        Node("aten.sum.default", (Ref(count),), (), (loss,)),
        Node("aten.mul.Tensor", (Ref(0), Ref(0)), (), (updated,)),
    )
    kept = (Output(i, name, "param") for i, name in enumerate(shapes) if i)
    outputs = (Output(loss, "loss", "loss"), Output(updated, next(iter(shapes)), "param"), *kept)
    return Plan("tiny", tuple(inputs), outputs, nodes).to_bytes()


def tiny_model(scale: float = 1.0, columns: int = 2) -> bytes:
    """A model's bytes (GKM1), made without torch: ``x @ w``, x float32[B, 4], w float32[4, columns] of `scale`."""
    inputs = (Input(0, "w", "param", "float32", (4, columns)), Input(1, "x", "arg", "float32", ("B", 4)))
    product = Node("aten.mm.default", (Ref(1), Ref(0)), (), (2,))
    plan = Plan("tiny", inputs, (Output(2, "y", "result"),), (product,))
    return pack_model(plan.to_bytes(), {"w": np.full((4, columns), scale, np.float32)}).tobytes()


def host_files(plan: bytes, server: dict[str, Any], name: str, version: str = "1.0", model: Any = None) -> Any:
    """The parts of a host-training form."""
    config = {"client_config": {"name": name, "version": version}, "server_config": server, "plans": ["training_plan"]}
    return {
        "config": ("config", json.dumps(config).encode(), "application/json"),
        "model": ("model", pack_state(MODEL if model is None else model), "application/octet-stream"),
        "plan0": ("plan0", plan, "application/octet-stream"),
    }


TOKEN = "owner-token-of-the-tests"
READY = "gridkit node ready at "


class NodeUnderTest:
    """`gridkit node` on a folder; can be killed and started again on the same port."""

    def __init__(self, data: Path, *arguments: str, failpoint: str = "", port: int = 0) -> None:
        self.data, self.arguments, self.port = data, arguments, port
        self.start(failpoint)

    def start(self, failpoint: str = "") -> None:
        command = [sys.executable, "-m", "gridkit", "node", "--port", str(self.port), "--data", str(self.data)]
        self.process = subprocess.Popen(
            [*command, *self.arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "GRIDKIT_TOKEN": TOKEN, "GRIDKIT_FAILPOINT": failpoint},
        )
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        if not line.startswith(READY):
            raise RuntimeError(f"no node: {line!r} {self.process.stderr.read()}")
        self.url = line.removeprefix(READY).strip()
        self.port = int(self.url.rpartition(":")[2])
        self.said: list[str] = []
        threading.Thread(target=lambda pipe: self.said.extend(pipe), args=(self.process.stderr,), daemon=True).start()

    def http(self, token: str | None = TOKEN, **kwargs: Any) -> httpx.Client:
        headers = {**kwargs.pop("headers", {}), **({"authorization": f"Bearer {token}"} if token else {})}
        return httpx.Client(base_url=self.url, headers=headers, timeout=20, trust_env=False, **kwargs)

    def add_user(self, name: str, role: str = "data scientist", **wish: Any) -> str:
        """Make an account; a token of it. `wish` may hold `scopes`, `expires`, `label` of the token."""
        with self.http() as http:
            made = http.post("/users", json={"name": name, "role": role})
            assert made.status_code == 200, made.text
            token = http.post("/tokens", json={"user": name, **wish})
            assert token.status_code == 200, token.text
        return str(token.json()["token"])

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def terminate(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def files(self) -> dict[str, bytes]:
        """The blobs, for 'nothing changed'."""
        return {str(p): p.read_bytes() for p in sorted((self.data / "blobs").rglob("*")) if p.is_file()}


def wait_for(condition: Any, seconds: float = 20.0, what: str = "the condition") -> Any:
    """Poll until `condition()` is true; its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{what} didn't come true within {seconds} s")
        time.sleep(0.02)
    return value


class RawWorker:
    """A worker by hand: every request as the protocol has it, over HTTP."""

    def __init__(self, node: NodeUnderTest, token: str, name: str = "digits", version: str = "1.0") -> None:
        self.node, self.name, self.version = node, name, version
        self.http = node.http(None)
        wish = {"model_name": name, "model_version": version, "auth_token": token}
        self.worker_id = self.post("authenticate", wish).json()["worker_id"]
        self.cycle: dict[str, Any] = {}

    def post(self, what: str, body: dict[str, Any], **kwargs: Any) -> httpx.Response:
        return self.http.post(f"/model-centric/{what}", json=body, **kwargs)

    def ask(self, wait: float = 0.0) -> dict[str, Any]:
        wish = {"worker_id": self.worker_id, "model": self.name, "version": self.version, "wait": wait}
        self.cycle = self.post("cycle-request", {**wish, "ping": 0, "download": 0, "upload": 0}).json()
        return self.cycle

    def ids(self) -> dict[str, str]:
        return {"worker_id": self.worker_id, "request_key": self.cycle["request_key"]}

    def report(self, diff: dict[str, np.ndarray] | bytes, samples: int = 1, **ids: str) -> httpx.Response:
        data = diff if isinstance(diff, bytes) else pack_state(diff)
        query = {**self.ids(), "samples": str(samples), **ids}
        headers = {"content-type": "application/octet-stream"}
        return self.http.post("/model-centric/report", params=query, content=data, headers=headers)


def rows(node: NodeUnderTest, run: str, until: str = "finished", seconds: float = 30) -> list[dict[str, Any]]:
    """The run's published rows, up to the first of the kind `until`."""
    got = []
    with node.http() as http, http.stream("GET", "/events", params={"after": 0, "run": run}, timeout=seconds) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                got.append(json.loads(line[6:]))
                if got[-1]["kind"] == until:
                    return got
    raise AssertionError(f"the stream ended before {until!r}: {got}")
