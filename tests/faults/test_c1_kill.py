"""C1: `kill -9` of the node at every failpoint and of workers at any time; the training goes on by itself and ends with
the very same model as an undisturbed one."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import gridkit as gk
from gridkit.node.failpoint import NAMES
from tests.support import TOKEN, NodeUnderTest, wait_for
from tests.training import mlp, plan_of, shards

pytestmark = pytest.mark.faults

ROUNDS = 4


class Scene:
    """A node that can be killed, a session on it, and the undisturbed result."""

    def __init__(self, data: Path) -> None:
        self.node = NodeUnderTest(data)
        self.shards = shards()
        self.model = mlp()
        self.plan = plan_of(self.model, self.shards, momentum=0.9)
        self.grid = gk.connect(self.node.url, token=TOKEN)
        self.arguments = {"clients": self.shards, "rounds": ROUNDS, "batch_size": 4, "fraction": 0.7, "seed": 7}
        self.undisturbed = gk.simulate(self.model, self.plan, **self.arguments).wait()

    def train(self, name: str, **more: object) -> gk.Run:
        return self.grid.train(self.model, self.plan, name=name, version="1", **{**self.arguments, **more})

    def check(self, run: gk.Run) -> None:
        run.wait(60)
        assert gk.verify(run, self.undisturbed), gk.verify(run, self.undisturbed)
        assert list(run.metrics["accepted"]) == list(self.undisturbed.metrics["accepted"])
        assert len(run.reports) == len(self.undisturbed.reports)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    scene = Scene(tmp_path_factory.mktemp("c1") / "data")
    yield scene
    scene.grid.close()
    scene.node.terminate()


@pytest.mark.parametrize("name", [n for n in NAMES if n != "hosted" and not n.startswith("push")])
def test_the_node_dies_at(scene: Scene, name: str) -> None:
    scene.node.terminate()
    scene.node.start(failpoint=f"{name}:{6 if name.startswith('report') else 2}")
    run = scene.train(f"dies at {name}")
    assert scene.node.process.wait(60) == -signal.SIGKILL
    scene.node.start()
    scene.check(run)


def test_the_node_dies_right_after_hosting(scene: Scene) -> None:
    """The caller never got an answer; the training is there all the same, whole, and can be asked for."""
    scene.node.terminate()
    scene.node.start(failpoint="hosted")
    scene.grid._core._link.patience = 0.0
    with pytest.raises(gk.errors.NodeUnreachable):
        scene.train("dies after hosting")
    scene.grid._core._link.patience = 30.0
    scene.node.start()
    assert ("dies after hosting", "1") in list(scene.grid.runs)


def test_the_node_dies_between_rounds_and_again(scene: Scene) -> None:
    run = scene.train("dies between", rounds=ROUNDS)
    for _ in range(3):
        rounds = len(run.history.rounds)
        scene.node.kill()
        scene.node.start()
        wait_for(lambda: run.done or len(run.history.rounds) > rounds, what="another round")  # noqa: B023
    scene.check(run)


def test_workers_die_at_any_time(scene: Scene) -> None:
    run = scene.train("workers die")
    for place in (0, 1, 0):
        before = scene.grid.pids["workers"]
        os.kill(before[place], signal.SIGKILL)
        wait_for(lambda: scene.grid.pids["workers"][place] != before[place], what="a new process")  # noqa: B023
    scene.check(run)


def test_node_and_worker_die_together(scene: Scene) -> None:
    run = scene.train("both die")
    wait_for(lambda: len(run.history.reports) >= 3, what="reports")
    os.kill(scene.grid.pids["workers"][0], signal.SIGKILL)
    scene.node.kill()
    scene.node.start()
    scene.check(run)


def test_a_worker_process_that_always_dies_is_named(scene: Scene) -> None:
    """R4, C10: its clients are reported as failed; the others go on; wait() says who and why."""
    run = scene.train("always dies", tolerate=0, fraction=1.0, rounds=200)
    with pytest.raises(gk.errors.WorkersFailed) as caught:
        while not run.done:
            pids = scene.grid.pids["workers"]
            if len(pids) > 1:
                os.kill(pids[1], signal.SIGKILL)
            time.sleep(0.05)
        run.wait()
    # the second process holds clients 1, 3 and 5; whichever is reported first ends the training
    assert re.search(r"client [135]: WorkerLost: its worker process ended \d+ times.*signal 9", str(caught.value))
    assert scene.grid.runs["always dies", "1"].status in ("failed", "running")


def test_the_database_is_whole_after_all_that(scene: Scene) -> None:
    scene.node.terminate()
    with sqlite3.connect(scene.node.data / "grid.db") as base:
        assert base.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert base.execute("SELECT count(*) FROM report").fetchone() == (0,)
    scene.node.start()
    drafts = [p for p in (scene.node.data / "blobs").rglob("*") if p.is_file() and p.name.startswith(".draft-")]
    assert not drafts


def test_an_embedded_node_that_dies_is_started_again() -> None:
    data = shards()
    model = mlp()
    plan = plan_of(model, data)
    undisturbed = gk.simulate(model, plan, clients=data, rounds=6, seed=1).wait()
    with gk.launch() as grid:
        run = grid.train(model, plan, name="embedded", clients=data, rounds=6, seed=1)
        wait_for(lambda: run.history.rounds, what="a round")
        os.kill(grid.pids["node"], signal.SIGKILL)
        run.wait(60)
        assert gk.verify(run, undisturbed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(40))
def test_random_kills(scene: Scene, seed: int) -> None:
    """Five kills each, of the node or a worker, at random moments of one training."""
    draw = random.Random(seed)
    run = scene.train(f"random {seed}")
    for _ in range(5):
        time.sleep(draw.uniform(0.0, 0.6))
        if draw.random() < 0.6:
            scene.node.kill()
            scene.node.start()
        else:
            with contextlib.suppress(ProcessLookupError):  # the kill before hit the same, which isn't replaced yet
                os.kill(draw.choice(scene.grid.pids["workers"]), signal.SIGKILL)
    scene.check(run)
