"""A hosted plan in the form of syft.js: to whom it is given, and what is said where there is none."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gridkit.errors import NodeError
from gridkit.node import forms
from gridkit.node.forms import Forms
from gridkit.node.store.blobs import Blobs
from gridkit.plans.optim import SGD
from gridkit.plans.plan import Plan
from gridkit.plans.training import training_plan
from tests.support import NodeUnderTest, RawWorker, host_files, tiny_plan


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return nn.Linear(4, 3)


@pytest.fixture(scope="module")
def plan(model: nn.Module) -> Plan:
    return training_plan(model, F.cross_entropy, SGD(0.1), (torch.randn(4, 4), torch.zeros(4, dtype=torch.int64)))


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(str(tmp_path))


def hosted(node: NodeUnderTest, plan: bytes, state: Any, name: str) -> RawWorker:
    with node.http() as http:
        files = host_files(plan, {"num_cycles": 1}, name, model=state)
        answer = http.post("/model-centric/host-training", files=files).json()
    worker = RawWorker(node, answer["worker_token"], name)
    worker.ask()
    return worker


def fetched(worker: RawWorker, form: str) -> httpx.Response:
    query = {**worker.ids(), "plan_id": worker.cycle["plans"]["training_plan"], "receive_operations_as": form}
    return worker.http.get("/model-centric/get-plan", params=query)


def state_of(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def test_a_worker_gets_the_plan_in_the_form_that_it_asks_for(node: NodeUnderTest, plan: Plan, model: nn.Module) -> None:
    worker = hosted(node, plan.to_bytes(), state_of(model), "both forms")
    for _ in range(2):
        assert fetched(worker, "tfjs").content == plan.to_tfjs()
    assert fetched(worker, "gridkit").content == plan.to_bytes()


def test_a_plan_without_the_form_says_what_it_lacks(node: NodeUnderTest, model: nn.Module) -> None:
    example = torch.randn(4, 4), torch.zeros(4, dtype=torch.int64)
    kept = training_plan(model, F.cross_entropy, SGD(0.1, momentum=0.9), example)
    worker = hosted(node, kept.to_bytes(), state_of(model), "momentum")
    for _ in range(2):
        refused = fetched(worker, "tfjs")
        assert refused.status_code == 400 and refused.json()["code"] == "BAD_PLAN"
        assert "plan 'training_plan'" in refused.json()["error"]
        assert "keeps 'momentum.weight' and 1 other between steps" in refused.json()["error"]
    assert fetched(worker, "gridkit").status_code == 200


def test_a_stranger_gets_neither(node: NodeUnderTest, plan: Plan, model: nn.Module) -> None:
    worker = hosted(node, plan.to_bytes(), state_of(model), "strangers")
    worker.cycle["request_key"] = "0" * 64
    assert fetched(worker, "tfjs").status_code == 401


def test_a_model_in_another_order_is_refused(blobs: Blobs, plan: Plan) -> None:
    """Such a client gives its tensors to the plan by their place alone."""

    async def ask() -> None:
        made, (digest, _) = Forms(blobs), blobs.put([plan.to_bytes()])
        assert await made.tfjs("plan", digest, plan.state) == plan.to_tfjs()
        with pytest.raises(NodeError, match="its state in another order"):
            await made.tfjs("plan", digest, plan.state[::-1])

    asyncio.run(ask())


def test_a_plan_is_translated_once(blobs: Blobs, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    read = blobs.read
    monkeypatch.setattr(blobs, "read", lambda digest: (reads.append(digest), read(digest))[1])

    async def ask() -> None:
        made, (good, _), (bad, _) = Forms(blobs), blobs.put([plan.to_bytes()]), blobs.put([tiny_plan()])
        await asyncio.gather(*(made.tfjs("plan", good, plan.state) for _ in range(20)))
        for _ in range(3):
            with pytest.raises(NodeError, match="has no TensorFlow"):
                await made.tfjs("plan", bad, ())
        assert reads == [good, bad]

    asyncio.run(ask())


def test_what_is_kept_is_bounded(blobs: Blobs, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        made, (good, _), (bad, _) = Forms(blobs), blobs.put([plan.to_bytes()]), blobs.put([tiny_plan()])
        monkeypatch.setattr(forms, "MAX_KEPT", 1)
        with pytest.raises(NodeError):
            await made.tfjs("plan", bad, ())
        await made.tfjs("plan", good, plan.state)
        assert list(made._kept) == [good]
        monkeypatch.setattr(forms, "MAX_KEPT_SIZE", 10)
        fresh = Forms(blobs)
        assert await fresh.tfjs("plan", good, plan.state) == plan.to_tfjs()
        assert not fresh._kept

    asyncio.run(ask())
