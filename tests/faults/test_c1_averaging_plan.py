"""C1 with an averaging plan: `kill -9` of node or runner while a round is averaged changes nothing of the result."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import torch

import gridkit as gk
from gridkit.node.failpoint import NAMES
from tests.plans.rules import running, trimmed
from tests.support import TOKEN, NodeUnderTest, wait_for
from tests.training import mlp, plan_of, shards

pytestmark = pytest.mark.faults

DATA = shards(4)
MODEL = mlp()
PLAN = plan_of(MODEL, DATA)
"""each rule, and which weights go with it"""
RULES = {
    "at once": (gk.averaging_plan(trimmed, MODEL), "samples"),
    "iterative": (gk.averaging_plan(running, MODEL, iterative=True), "equal"),
}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("c1") / "data")
    yield node
    node.terminate()


@pytest.fixture(scope="module")
def grid(node: NodeUnderTest) -> Iterator[gk.Session]:
    with gk.connect(node.url, token=TOKEN) as grid:
        yield grid


def settings(rule: str) -> dict[str, Any]:
    strategy, weighting = RULES[rule]
    return {"clients": DATA, "rounds": 3, "seed": 3, "strategy": strategy, "weighting": weighting}


@pytest.mark.parametrize(
    ("name", "rule"),
    [*((name, "at once") for name in NAMES if name.startswith("aggregate")), ("aggregate-stored", "iterative")],
)
def test_c1_the_node_dies_at(node: NodeUnderTest, grid: gk.Session, name: str, rule: str) -> None:
    undisturbed = gk.simulate(MODEL, PLAN, **settings(rule)).wait()
    node.terminate()
    node.start(failpoint=f"{name}:2")
    run = grid.train(MODEL, PLAN, name=f"{rule} at {name}", **settings(rule))
    assert node.process.wait(60) == -signal.SIGKILL
    node.start()
    assert gk.verify(run.wait(60), undisturbed)
    assert list(run.metrics["accepted"]) == [4, 4, 4]


def slow(updates: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    """The mean, after about a second."""
    idle = updates.new_ones([700, 700])
    for _ in range(60):
        idle = (idle @ idle) * 0.0
    return updates.mean(0) + idle[0, 0]


def test_c10_the_runner_dies_in_the_middle(node: NodeUnderTest, grid: gk.Session) -> None:
    """It is another one that averages; the training doesn't notice."""
    arguments = {**settings("at once"), "strategy": gk.averaging_plan(slow, MODEL)}
    undisturbed = gk.simulate(MODEL, PLAN, **arguments).wait()
    run = grid.train(MODEL, PLAN, name="the runner dies", **arguments)

    def runners() -> list[int]:
        return [
            child.pid for child in psutil.Process(node.process.pid).children() if "gridkit.runner" in child.cmdline()
        ]

    (pid,) = wait_for(runners, what="a runner")
    wait_for(lambda: len(run.history.rounds) == 1, what="a round")
    os.kill(pid, signal.SIGKILL)
    assert gk.verify(run.wait(60), undisturbed)
    assert pid not in runners()
