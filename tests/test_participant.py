"""`gk.serve_participant` against a push node in this process, over real sockets."""

from __future__ import annotations

import asyncio
import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gridkit as gk
from gridkit.cli import main
from gridkit.errors import UsageError
from gridkit.participant import PushTask
from gridkit.wire.notifications import signed
from gridkit.wire.state import pack_state, read_state
from tests.push_node import SECRET, PushNode, packed, post, unpacked
from tests.support import wait_for

MODEL = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "steps": np.array(3, np.int64)}
USERS = {"one": "1 password", "two": "2 password"}
State = dict[str, torch.Tensor]


class Hospital:
    """What a participant's functions see; `gate` holds them up."""

    def __init__(self, samples: int = 10, step: float = 1.0) -> None:
        self.samples, self.step = samples, step
        self.calls: list[tuple[str, int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.threads: set[str] = set()
        self.stopped: list[bool] = []
        self.fail: BaseException | None = None

    def train(self, state: State, task: PushTask) -> Any:
        self._called("train", task)
        return {**state, "w": state["w"] + self.step}, self.samples, {"loss": 0.5}

    def test(self, state: State, task: PushTask) -> dict[str, float]:
        self._called("test", task)
        return {"mean": float(state["w"].mean()), "accuracy": 0.25}

    def _called(self, name: str, task: PushTask) -> None:
        self.calls.append((name, task.round))
        self.threads.add(threading.current_thread().name)
        while not self.gate.wait(0.01) and not task.stopped:
            pass
        self.stopped.append(task.stopped)
        if self.fail is not None:
            raise self.fail


@pytest.fixture(scope="module")
def running() -> Iterator[PushNode]:
    with PushNode(packed(MODEL), USERS).running() as node:
        yield node


@pytest.fixture
def node(running: PushNode) -> PushNode:
    running.begin(packed(MODEL))
    return running


Serve = Callable[..., Any]


@pytest.fixture
def serve(node: PushNode) -> Iterator[Serve]:
    made = []

    def serve(hospital: Hospital, user: str = "one", **arguments: Any) -> Any:
        given = {"user": user, "password": USERS[user], "secret": SECRET, "port": 0, **arguments}
        made.append(gk.serve_participant(train=hospital.train, test=hospital.test, node=node.url, **given))
        return made[-1]

    yield serve
    for participant in made:
        participant.close()


def done(participant: Any, what: str) -> bool:
    return any(what in row.what for row in participant.history)


def test_a_training_of_two_participants(node: PushNode, serve: Serve) -> None:
    hospitals = [Hospital(10, 1.0), Hospital(30, 3.0)]
    participants = [serve(h, user) for h, user in zip(hospitals, USERS, strict=True)]
    endpoints = [p.url for p in participants]
    assert [node.notify(e, "TRAINING_START") for e in endpoints] == [200, 200]
    for round in range(2):
        node.open_round = round
        before = unpacked(node.model)
        assert [node.notify(e, "UPDATE_ROUND_START", round) for e in endpoints] == [202, 202]
        wait_for(lambda r=round: len(node.uploads) == 2 * (r + 1), what="the updates")
        latest = node.uploads[-2:]
        assert {(u["user"], u["samples"]) for u in latest} == {("one", 10), ("two", 30)}
        assert all(u["metrics"] == {"loss": "0.5"} and u["round"] == round for u in latest)
        mean = sum(u["samples"] * unpacked(u["model"])["w"] for u in latest) / 40
        np.testing.assert_allclose(mean, before["w"] + 2.5)
        assert all(unpacked(u["model"])["steps"] == 3 for u in latest)
        node.model = packed({"w": mean.astype(np.float32), "steps": before["steps"]})
        # A numeric string is a round too.
        assert [node.notify(e, "MODEL_TEST_ROUND", str(round + 1)) for e in endpoints] == [202, 202]
        wait_for(lambda r=round: len(node.metrics) == 2 * (r + 1), what="the metrics")
        assert dict(node.metrics[-2:])["one"] == {"mean": str(float(mean.mean())), "accuracy": "0.25"}
    assert [node.notify(e, "TRAINING_FINISHED") for e in endpoints] == [200, 200]
    for hospital, participant in zip(hospitals, participants, strict=True):
        assert hospital.calls == [("train", 0), ("test", 1), ("train", 1), ("test", 2)]
        assert hospital.threads == {"gridkit-participant"}
        wait_for(lambda p=participant: done(p, "finished"))
        assert "finished" in repr(participant) and USERS["one"] not in repr(participant)


def test_the_cell_and_the_listener_are_free_while_it_trains(node: PushNode, serve: Serve) -> None:
    hospital = Hospital()
    hospital.gate.clear()
    participant = serve(hospital)  # returns though nothing has happened
    assert node.notify(participant.url, "UPDATE_ROUND_START", 0) == 202  # before the start, as nodes may send them
    wait_for(lambda: hospital.calls)
    assert node.notify(participant.url, "TRAINING_START") == 200
    assert node.notify(participant.url, "MODEL_TEST_ROUND", 1) == 202
    assert hospital.calls == [("train", 0)] and node.uploads == []
    hospital.gate.set()
    wait_for(lambda: node.metrics)
    assert hospital.calls == [("train", 0), ("test", 1)]


def test_r1_a_round_that_is_told_again_is_trained_once(node: PushNode, serve: Serve) -> None:
    hospital = Hospital()
    hospital.gate.clear()
    url = serve(hospital).url
    again = [threading.Thread(target=node.notify, args=(url, "UPDATE_ROUND_START", 0)) for _ in range(8)]
    for thread in again:
        thread.start()
    for thread in again:
        thread.join()
    for round in (1, 0, 1, 2, 2):  # in order, once; what is older than what came isn't news
        assert node.notify(url, "UPDATE_ROUND_START", round) == 202
        assert node.notify(url, "MODEL_TEST_ROUND", round + 1) == 202
    hospital.gate.set()
    wait_for(lambda: len(node.uploads) == 3 and len(node.metrics) == 2)
    assert node.notify(url, "UPDATE_ROUND_START", 2) == 202  # long after it was done
    assert node.notify(url, "TRAINING_FINISHED") == 200
    assert node.notify(url, "UPDATE_ROUND_START", 7) == 202  # after the end
    assert hospital.calls == [("train", 0), ("train", 1), ("test", 2), ("train", 2), ("test", 3)]
    assert [u["round"] for u in node.uploads] == [0, 1, 2]


def test_the_end_stops_what_runs_and_what_waits(node: PushNode, serve: Serve) -> None:
    hospital = Hospital()
    hospital.gate.clear()
    participant = serve(hospital)
    node.notify(participant.url, "UPDATE_ROUND_START", 0)
    node.notify(participant.url, "MODEL_TEST_ROUND", 1)
    wait_for(lambda: hospital.calls)
    assert [node.notify(participant.url, "TRAINING_FINISHED") for _ in range(2)] == [200, 200]
    wait_for(lambda: done(participant, "given up"))
    assert hospital.stopped == [True] and hospital.calls == [("train", 0)] and node.uploads == []
    assert sum(row.what == "finished" for row in participant.history) == 1
    hospital.gate.set()
    node.training = uuid.uuid4()  # another training, of the same participant
    node.notify(participant.url, "UPDATE_ROUND_START", 0)
    wait_for(lambda: node.uploads)


def test_the_end_may_be_told_before_the_last_metrics_are_answered(node: PushNode, serve: Serve) -> None:
    participant = serve(Hospital())
    said: list[int] = []
    node.before_metrics = lambda: said.append(node.notify(participant.url, "TRAINING_FINISHED"))
    node.notify(participant.url, "MODEL_TEST_ROUND", 1)
    wait_for(lambda: done(participant, "done"))
    assert said == [200] and len(node.metrics) == 1 and not done(participant, "given up")


def test_the_end_that_comes_before_a_refusal_hides_no_reason(node: PushNode, serve: Serve) -> None:
    """An update that was refused may end its training, and then the end is told first."""
    participant = serve(Hospital())
    node.refusals, node.before_refusal = [400], lambda: node.notify(participant.url, "TRAINING_FINISHED")
    node.notify(participant.url, "UPDATE_ROUND_START", 0)
    wait_for(lambda: done(participant, "given up: not now"))


@pytest.mark.parametrize("failure", [RuntimeError("the\nscanner is off"), SystemExit(3), KeyboardInterrupt("no")])
def test_a_round_that_fails_is_logged_and_told_when_asked_again(
    node: PushNode, serve: Serve, caplog: pytest.LogCaptureFixture, failure: BaseException
) -> None:
    hospital = Hospital()
    hospital.fail = failure
    participant = serve(hospital)
    assert node.notify(participant.url, "UPDATE_ROUND_START", 0) == 202
    wait_for(lambda: done(participant, "failed"))
    assert f"in {hospital._called.__name__}" in caplog.text and str(failure) in caplog.text  # the traceback
    assert node.notify(participant.url, "UPDATE_ROUND_START", 0) == 500
    assert "failed here" in caplog.text and len(hospital.calls) == 1
    hospital.fail = None
    assert node.notify(participant.url, "UPDATE_ROUND_START", 1) == 202  # the next goes well
    wait_for(lambda: node.uploads)


def test_what_is_no_update_is_not_sent(node: PushNode, serve: Serve) -> None:
    tensors = {name: torch.tensor(array) for name, array in MODEL.items()}
    wrong = [
        None,
        (tensors, 3),
        (torch.nn.Linear(2, 3), 3, {}),
        ({}, 3, {}),
        ({**tensors, "w": torch.zeros(2, 3, dtype=torch.bfloat16)}, 3, {}),
        ({**tensors, "w": torch.zeros(3, 2)}, 3, {}),
        ({**tensors, "w": torch.zeros(2, 3, dtype=torch.float64)}, 3, {}),
        ({**tensors, "w": "zeros"}, 3, {}),
        ({**tensors, 7: torch.zeros(1)}, 3, {}),
        (tensors, 0, {}),
        (tensors, True, {}),
        (tensors, 3, {"loss": "low"}),
        (tensors, 3, {3: 0.5}),
        (tensors, 3, 0.5),
    ]
    hospital = Hospital()
    hospital.train = lambda state, task: [*wrong, (tensors, 3, {})][task.round]  # type: ignore[method-assign]
    participant = serve(hospital)
    for round in range(len(wrong) + 1):
        assert node.notify(participant.url, "UPDATE_ROUND_START", round) == 202
    wait_for(lambda: node.uploads)
    assert [upload["round"] for upload in node.uploads] == [len(wrong)]
    assert sum("failed: " in row.what for row in participant.history) == len(wrong)
    for said in ("a NoneType", "2 values", "a Linear for the model", "tensor 'w' in a form that can't travel"):
        assert done(participant, f"UsageError: train returned {said}")


def test_a_late_update_is_refused_and_an_unready_node_is_waited_for(node: PushNode, serve: Serve) -> None:
    hospital = Hospital()
    participant = serve(hospital)
    node.open_round, node.refusals = 1, [503, 503]
    node.notify(participant.url, "UPDATE_ROUND_START", 0)
    wait_for(lambda: done(participant, "failed: NodeError: this round is over"))
    node.notify(participant.url, "UPDATE_ROUND_START", 1)
    wait_for(lambda: node.uploads)
    assert hospital.calls == [("train", 0), ("train", 1)] and node.refusals == []


def saved(thing: Any) -> bytes:
    file = io.BytesIO()
    torch.save(thing, file)
    return file.getvalue()


def scripted() -> bytes:
    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor(MODEL["w"]))
            self.register_buffer("steps", torch.tensor(MODEL["steps"]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.w

    file = io.BytesIO()
    torch.jit.save(torch.jit.script(Tiny()), file)
    return file.getvalue()


FORMATS: dict[str, tuple[Callable[[], bytes], Callable[[bytes], Any]]] = {
    "state dict": (
        lambda: saved({name: torch.tensor(array) for name, array in MODEL.items()}),
        lambda data: torch.load(io.BytesIO(data), weights_only=True),
    ),
    "TorchScript": (scripted, lambda data: torch.jit.load(io.BytesIO(data)).state_dict()),
    "safetensors": (lambda: packed(MODEL), unpacked),
    "State": (lambda: pack_state(MODEL), read_state),
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_format_that_came_goes_back(node: PushNode, serve: Serve, name: str) -> None:
    make, read = FORMATS[name]
    node.model = make()
    hospital = Hospital()
    url = serve(hospital).url
    node.notify(url, "UPDATE_ROUND_START", 0)
    wait_for(lambda: node.uploads)
    back = read(node.uploads[0]["model"])
    np.testing.assert_array_equal(np.asarray(back["w"]), MODEL["w"] + 1)
    assert list(back) == list(MODEL) and int(back["steps"]) == 3
    node.notify(url, "MODEL_TEST_ROUND", 1)
    wait_for(lambda: node.metrics)


def test_s1_a_bomb_that_comes_down_does_nothing(node: PushNode, serve: Serve, tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"

    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(sentinel),)

    path = tmp_path / "bomb.pt"
    for protocol in (0, 2, 4):
        path.write_bytes(pickle.dumps(Bomb(), protocol))
        _refused(node, serve, path.read_bytes())
    for zipped in (True, False):
        torch.save({"w": Bomb()}, path, _use_new_zipfile_serialization=zipped)
        _refused(node, serve, path.read_bytes())
    assert not sentinel.exists()


def _refused(node: PushNode, serve: Serve, model: bytes) -> None:
    hospital = Hospital()
    participant = serve(hospital)
    node.model = model
    node.notify(participant.url, "UPDATE_ROUND_START", 0)
    wait_for(lambda: done(participant, "failed: WireError"))
    assert hospital.calls == [] and node.uploads == []
    participant.close()


def test_r3_who_has_not_the_secret_starts_nothing(
    node: PushNode, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    hospital = Hospital()
    url = serve(hospital).url
    assert node.notify(url, "UPDATE_ROUND_START", 0, secret=None) == 401
    assert node.notify(url, "UPDATE_ROUND_START", 0, secret="guessed, but not right") == 401
    body = node.body("TRAINING_START")
    headers = signed(SECRET, body)
    assert [post(url, body, None, headers) for _ in range(2)] == [200, 401]  # said again by somebody
    assert hospital.calls == [] and node.downloads == 0
    assert "isn't signed" in caplog.text and SECRET not in caplog.text


def test_without_a_secret_there_is_a_warning_and_pages_are_refused(node: PushNode, serve: Serve) -> None:
    with pytest.warns(UserWarning, match="believes everybody") as warned:
        url = serve(Hospital(), secret=None).url
    assert warned[0].filename == __file__
    assert post(url, node.body("TRAINING_START"), None, {"Origin": "http://evil.example"}) == 403
    assert node.notify(url, "TRAINING_START", secret=None) == 200


def test_a_communication_of_ones_own(node: PushNode, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Any] = []

    class Watched(gk.Communication):
        @classmethod
        def end_training(cls, training_id: uuid.UUID, model_id: uuid.UUID) -> None:
            seen.append((training_id, model_id))
            super().end_training(training_id, model_id)

        @classmethod
        def unknown_message(cls, message_type: str, training_id: uuid.UUID, data: Any) -> int:
            seen.append((message_type, training_id, data))
            return 418

    participant = serve(Hospital(), communication=Watched)
    assert post(participant.url, node.body("LUNCH", data={"at": 12})) == 418
    assert node.notify(participant.url, "TRAINING_FINISHED") == 200
    assert seen == [("LUNCH", node.training, {"at": 12}), (node.training, node.model_id)]
    assert done(participant, "finished") and Watched.receiver is None


def test_bad_arguments_change_nothing(node: PushNode, serve: Serve) -> None:
    taken = serve(Hospital())
    for wrong in (
        {"port": int(taken.url.rstrip("/").rpartition(":")[2])},
        {"port": 70000},
        {"secret": "short"},
        {"train": 3},
        {"test": None},
        {"node": "ftp://node"},
        {"password": None},
        {"token": "as well"},
    ):
        hospital = Hospital()
        given: dict[str, Any] = {"train": hospital.train, "test": hospital.test, "node": node.url, "port": 0}
        given |= {"user": "one", "password": "p", "secret": SECRET, **wrong}
        with pytest.raises(UsageError):
            gk.serve_participant(**given)
    taken.close()
    taken.close()
    ours = {"gridkit-participant", "gridkit-listen"}
    wait_for(lambda: not ours & {thread.name for thread in threading.enumerate()}, what="the end of their threads")
    with pytest.raises(ConnectionError):
        node.notify(taken.url, "TRAINING_START")


def test_where_nobody_can_listen(serve: Serve) -> None:
    port = int(serve(Hospital()).url.rstrip("/").rpartition(":")[2])
    for where, hint in (({"port": port}, "close the participant"), ({"host": "192.0.2.1"}, "an address of this")):
        with pytest.raises(UsageError, match=hint):  # 192.0.2.1 is of TEST-NET-1: nobody's
            serve(Hospital(), **where)


def test_the_async_one(node: PushNode) -> None:
    async def serving() -> None:
        hospital = Hospital()
        given: dict[str, Any] = {"node": node.url, "port": 0, "user": "one", "password": USERS["one"], "secret": SECRET}
        async with await gk.aio.serve_participant(train=hospital.train, test=hospital.test, **given) as participant:
            assert await asyncio.to_thread(node.notify, participant.url, "UPDATE_ROUND_START", 0) == 202
            while not node.uploads:
                await asyncio.sleep(0.01)

    asyncio.run(serving())


SCRIPT = """
import sys
STEP = 2

def train(state, task):
    print("training", task.round, file=sys.stdout, flush=True)
    state["w"] += STEP
    return state, 4, {"loss": 0.1}

def test(state, task):
    return {"accuracy": 1.0}
"""


def test_what_is_wrong_with_a_command_is_said_in_two_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "train.py"
    (tmp_path / "there").write_text("a token")
    (tmp_path / "there").chmod(0o644)
    (tmp_path / "empty").touch(0o600)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRIDKIT_SECRET", SECRET)
    monkeypatch.setenv("GRIDKIT_TOKEN", "a token")
    command = ["participant", "--node", "http://127.0.0.1:9/push", "--script", str(script), "--port", "0"]
    for text, more, reason in (
        (None, [], "no script"),
        ("def train(state, task): ...", [], "no function test"),
        ("train = test = 3", [], "train is a int"),
        (SCRIPT, ["--port", "70000"], "can't listen"),
        (SCRIPT, ["--token-file", "there"], "chmod 600 there"),
        (SCRIPT, ["--token-file", "nowhere"], "nowhere can't be read"),
        (SCRIPT, ["--token-file", "empty"], "empty is empty"),
        (SCRIPT, ["--secret-file", "nowhere"], "or set GRIDKIT_SECRET"),
    ):
        if text is not None:
            script.write_text(text)
        assert main([*command, *more]) == 1
        said = capsys.readouterr().err
        assert reason in said and said.count("\n") == 2 and SECRET not in said
    monkeypatch.delenv("GRIDKIT_TOKEN")
    for more, reason in (([], "no token"), (["--user", "two"], "no password for two")):
        assert main([*command, *more]) == 1
        assert reason in capsys.readouterr().err


@pytest.mark.faults
def test_the_command_killed_in_its_training_and_started_again(node: PushNode, tmp_path: Path) -> None:
    script, sign, secret = tmp_path / "train.py", tmp_path / "sign", tmp_path / "secret"
    script.write_text(SCRIPT)
    endless = SCRIPT.replace("state[", f"open({str(sign)!r}, 'w'); __import__('time').sleep(600); state[", 1)
    (tmp_path / "endless.py").write_text(endless)
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    environment = {**os.environ, "GRIDKIT_TOKEN": USERS["two"]}
    command = [sys.executable, "-m", "gridkit", "participant", "--node", node.url, "--user", "two"]
    command += ["--secret-file", str(secret), "--port"]

    def start(name: str, port: str) -> tuple[subprocess.Popen[str], str]:
        given = [*command, port, "--script", str(tmp_path / name)]
        process = subprocess.Popen(given, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        return process, process.stdout.readline().rpartition(" ")[2].strip()

    process, url = start("endless.py", "0")
    try:
        assert node.notify(url, "UPDATE_ROUND_START", 4) == 202
        wait_for(sign.exists)
    finally:
        process.kill()
        process.wait()
    assert node.uploads == []
    process, again = start("train.py", url.rstrip("/").rpartition(":")[2])
    try:
        assert again == url and process.stdout is not None
        assert node.notify(url, "UPDATE_ROUND_START", 4) == 202
        assert process.stdout.readline() == "training 4\n"
        wait_for(lambda: node.uploads)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    finally:
        process.kill()
        process.wait()
    assert [upload["round"] for upload in node.uploads] == [4]
    np.testing.assert_array_equal(unpacked(node.uploads[0]["model"])["w"], MODEL["w"] + 2)
