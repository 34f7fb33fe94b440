"""`kill -9` of the node or of a push participant in the middle of any step: the training ends with the right model, or
with an error that says who is missing; it never stays open."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import httpx
import numpy as np
import pytest

from gridkit.node.failpoint import NAMES
from tests.push_world import FAST, PushTraining, PushWorld, push_world
from tests.support import wait_for

pytestmark = pytest.mark.faults

ROUNDS = 2
HOSPITALS = 3
TOLD = HOSPITALS * (2 * ROUNDS + 2)
"""notifications of an undisturbed training"""


class Scene:
    """A node that can be killed, three hospitals that wait for it, and the model of an undisturbed training."""

    def __init__(self, world: PushWorld) -> None:
        self.world, self.node = world, world.node
        self.hospitals = world.hospitals(HOSPITALS)
        training = self.train()
        training.ends("C")
        training.is_shifted(*[self.hospitals] * ROUNDS)
        self.undisturbed = training.weights()
        for hospital in self.hospitals:
            hospital.waits_for("TRAINING_FINISHED")

    def train(self) -> PushTraining:
        for hospital in self.hospitals:
            hospital.again(self.world, hospital.delta, hospital.samples)
        training = self.world.training(self.hospitals, rounds=ROUNDS, start=False)
        with suppress(httpx.TransportError):  # the node died before it answered
            training.start()
        return training

    def check(self, training: PushTraining, kills: int) -> None:
        """It ends as if nothing had happened; a notification came again once a kill at most."""
        training.ends("C")
        for name, array in training.weights().items():
            assert np.array_equal(array, self.undisturbed[name])
        order = ["TRAINING_START"]
        for round in range(ROUNDS):
            order += [f"UPDATE_ROUND_START {round}", f"MODEL_TEST_ROUND {round + 1}"]
        for hospital in self.hospitals:
            hospital.waits_for("TRAINING_FINISHED")
        wait_for(training.is_told, what="the end of telling")
        again = 0
        for hospital in self.hospitals:
            heard = hospital.kinds()
            assert list(dict.fromkeys(heard)) == [*order, "TRAINING_FINISHED"]
            assert heard == sorted(heard, key=[*order, "TRAINING_FINISHED"].index)
            again += len(heard) - len(order) - 1
            first = dict(reversed(hospital.done))  # who is told again works again, and may come too late with that
            assert {first[told] for told in order if told in first} == {201} and len(first) == 2 * ROUNDS
            assert {status for _, status in hospital.done} <= {201, 400, 409}
            assert hospital.trouble == []
        assert again <= kills * HOSPITALS
        rows = training.rows("reported", "tested", "aggregated", "left")
        assert [row["kind"] for row in rows].count("reported") == HOSPITALS * ROUNDS
        assert [row["kind"] for row in rows].count("tested") == HOSPITALS * ROUNDS
        assert [row["kind"] for row in rows].count("aggregated") == ROUNDS
        assert "left" not in [row["kind"] for row in rows]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with push_world(tmp_path_factory.mktemp("push") / "data", *FAST) as world:
        yield Scene(world)


def dies(scene: Scene, failpoint: str) -> None:
    scene.node.terminate()
    scene.node.start(failpoint)
    training = scene.train()
    assert scene.node.process.wait(60) == -signal.SIGKILL
    scene.node.start()
    scene.check(training, kills=1)


@pytest.mark.parametrize(
    ("name", "passing"),
    [
        ("push-assigned", 2),
        ("push-sent", 1),  # a start
        ("push-sent", 5),  # an update
        ("aggregate-committed", 1),
        ("push-told", 8),  # a test
        ("push-sent", TOLD),  # the end
    ],
)
def test_the_node_dies_at(scene: Scene, name: str, passing: int) -> None:
    dies(scene, f"{name}:{passing}")


def test_the_node_dies_again_and_again_at_random(scene: Scene) -> None:
    random_kills(scene, random.Random(6), 3)


def random_kills(scene: Scene, draw: random.Random, kills: int) -> None:
    training = scene.train()
    for _ in range(kills):
        time.sleep(draw.uniform(0.0, 0.4))
        scene.node.kill()
        scene.node.start()
    scene.check(training, kills)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith(("push", "report", "aggregate", "collected"))])
def test_the_node_dies_at_every_passing(scene: Scene, name: str) -> None:
    passings = {"push-sent": TOLD, "push-told": TOLD, "aggregate": ROUNDS, "collected": ROUNDS}
    for passing in range(1, passings.get(name, passings.get(name.partition("-")[0], HOSPITALS * ROUNDS)) + 1):
        dies(scene, f"{name}:{passing}")


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(40))
def test_random_kills(scene: Scene, seed: int) -> None:
    random_kills(scene, random.Random(seed), 5)
