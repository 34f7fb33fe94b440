"""`kill -9` of the node or of a push participant in the middle of any step: the training ends with the right model, or
with an error that says who is missing; it never stays open."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest

from gridkit.node.failpoint import NAMES
from tests.endpoints import Arrival
from tests.push_world import FAST, Hospital, PushTraining, PushWorld, push_world
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
            # the end may be told before the last metrics are answered
            wait_for(lambda of=hospital: len(dict(of.done)) >= 2 * ROUNDS, what="the last answer")  # type: ignore[misc]
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
        ("hosted", 1),
        ("push-assigned", 2),
        ("push-sent", 5),  # an update
        ("push-told", 8),  # a test
        ("push-sent", TOLD),  # the end
    ],
)
def test_the_node_dies_at(scene: Scene, name: str, passing: int) -> None:
    dies(scene, f"{name}:{passing}")


def test_the_node_dies_again_and_again_at_random(scene: Scene) -> None:
    random_kills(scene, random.Random(6), 2)


def random_kills(scene: Scene, draw: random.Random, kills: int) -> None:
    training = scene.train()
    for _ in range(kills):
        time.sleep(draw.uniform(0.0, 0.4))
        scene.node.kill()
        scene.node.start()
    scene.check(training, kills)


SCRIPT = """
import os, pathlib, time

folder = pathlib.Path(os.environ["STEPS"])

def step(name):
    (folder / name).touch()
    while (folder / f"hold {name}").exists():
        time.sleep(0.01)
    if (folder / f"fail {name}").exists():
        raise RuntimeError("out of memory")

def train(state, task):
    step(f"train {task.round}")
    return {name: tensor + 0.5 for name, tensor in state.items()}, 5, {}

def test(state, task):
    step(f"test {task.round}")
    return {"accuracy": 0.5}
"""


class Service(Hospital):
    """`gridkit participant` as a process of its own; `folder` has a file for each step that it came to, and it stays in
    a step as long as there is a file "hold …"."""

    def __init__(self, world: PushWorld, folder: Path) -> None:
        super().__init__(world, f"service {folder.name}", 0.5, 5)
        self.close()  # from here on its port is the process's
        world.add(self)
        self.folder = folder
        (folder / "train.py").write_text(SCRIPT)
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "gridkit", "participant", "--node", f"{self.world.node.url}/push"]
        command += ["--port", str(self.port), "--script", str(self.folder / "train.py")]
        if self.secret is not None:
            (self.folder / "secret").write_text(self.secret)
            (self.folder / "secret").chmod(0o600)
            command += ["--secret-file", str(self.folder / "secret")]
        environment = {**os.environ, "GRIDKIT_TOKEN": self.token, "STEPS": str(self.folder)}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("gridkit participant ready")

    def hold(self, step: str) -> Path:
        path = self.folder / f"hold {step}"
        path.touch()
        return path

    def comes_to(self, step: str) -> None:
        wait_for((self.folder / step).exists, what=step)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def close(self) -> None:
        super().close()
        if hasattr(self, "process"):
            self.kill()


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PushWorld]:
    """A node that soon tells again what isn't answered."""
    arguments = (*FAST, "--limit", "push_again=1")
    with push_world(tmp_path_factory.mktemp("push") / "data", *arguments) as world:
        yield world


@pytest.mark.parametrize(
    "steps", [["train 0"], pytest.param(["train 0", "test 1", "train 1", "test 2"], marks=pytest.mark.soak)]
)
def test_a_participant_dies_at_a_step_and_comes_back(tmp_path: Path, steps: list[str]) -> None:
    """It is told again, works again, and nobody waits for the end of the round."""
    with push_world(tmp_path / "data", "--limit", "push_again=1", "--limit", "push_attempts=10") as world:
        others = world.hospitals(2)
        service = Service(world, tmp_path)
        for step in steps:
            service.hold(step)
        training = world.training([*others, service], rounds=2)
        for step in steps:
            service.comes_to(step)
            service.kill()
            (tmp_path / f"hold {step}").unlink()
            service.start()
        training.ends("C")
        training.is_shifted(*[[*others, service]] * 2)
        assert training.rows("left", "expired", "untested") == []


def test_a_participant_fails_after_its_202_and_dies_for_good_in_another_training(
    impatient: PushWorld, tmp_path: Path
) -> None:
    """Both are known before the round's time is up."""
    others = impatient.hospitals(2)
    service = Service(impatient, tmp_path)
    (tmp_path / "fail train 1").touch()
    fails = impatient.training([*others, service], rounds=2)
    fails.ends("C")
    assert [row["reason"] for row in fails.rows("left")] == ["answered 500 to UPDATE_ROUND_START 1"]
    fails.is_shifted([*others, service], others)
    service.hold("train 2")
    dies = impatient.training([*others, service], rounds=3, quorum=3)
    (tmp_path / "fail train 1").unlink()
    service.comes_to("train 2")
    service.kill()
    details = dies.ends("E")
    assert service.id not in details["participants"]
    assert f"{service.name}: WORKER_LEFT: not reached in 2 attempts: " in details["reason"]
    dies.is_shifted([*others, service], [*others, service])  # what was made stays


def test_a_participant_dies_for_good_while_it_tests(impatient: PushWorld) -> None:
    first, second, dies = impatient.hospitals(3)

    def works(arrival: Arrival) -> None:
        if arrival.kind == "UPDATE_ROUND_START":
            dies.work(arrival)
        else:
            wait_for(lambda: not dies.busy, what="its answer")
            dies.close()

    dies.works = works
    training = impatient.training([first, second, dies], rounds=2, round_timeout=3)
    training.ends("C")
    assert [row["worker"] for row in training.rows("untested")] == [dies.name]
    assert [row["worker"] for row in training.rows("left")] == [dies.name]
    training.is_shifted([first, second, dies], [first, second])


def test_a_participant_dies_in_the_middle_of_its_upload(impatient: PushWorld) -> None:
    """Half of a body comes, then nothing: nothing of it counts, and none of it stays."""
    first, second, dies = impatient.hospitals(3)

    def half(arrival: Arrival) -> None:
        body = b'--edge\r\nContent-Disposition: form-data; name="model_file"; filename="model_file"\r\n\r\nPK'
        head = f"POST /push/api/models/{arrival.model}/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3000\r\n"
        head += f"Authorization: Token {dies.token}\r\nContent-Type: multipart/form-data; boundary=edge\r\n\r\n"
        dies.close()
        with socket.create_connection(("127.0.0.1", impatient.node.port)) as connection:
            connection.sendall(head.encode() + body + bytes(1000))

    dies.works = half
    training = impatient.training([first, second, dies], rounds=2, round_timeout=3)
    training.ends("C")
    assert [row["worker"] for row in training.rows("left")] == [dies.name]
    training.is_shifted([first, second], [first, second])
    assert dies.trouble == []
    drafts = [path for path in (impatient.node.data / "blobs").rglob(".draft-*") if path.is_file()]
    assert drafts == []


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
