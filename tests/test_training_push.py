"""Trainings whose clients are push participants, alone and together with workers: over a real node and real sockets."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import gridkit as gk
from gridkit.errors import GridkitError, NotFoundError, UsageError, WorkersFailed
from gridkit.participant import PushTask
from gridkit.workers.local import train_client
from tests.support import wait_for
from tests.training import mlp, plan_of, shards

SETTINGS: dict[str, Any] = {"batch_size": 4, "seed": 3}
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def grid() -> Iterator[gk.Session]:
    with gk.launch(allow_targets=["127.0.0.1"], workers=1) as grid:
        yield grid


def endpoint() -> str:
    """Where a participant may listen: nobody does so far."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}/"


class Hospital:
    """Trains its shard as a worker with that slot would, and tests on it."""

    def __init__(self, plan: gk.Plan, data: Any, slot: int) -> None:
        self.plan, self.data, self.slot = plan, data, slot
        self.rounds: list[int] = []
        self.refuse: Callable[[PushTask], None] = lambda task: None

    def train(self, state: State, task: PushTask) -> Any:
        self.refuse(task)
        self.rounds.append(task.round)
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        local = train_client(self.plan, arrays, *self.data, round=task.round + 1, slot=self.slot, **SETTINGS)
        trained = {name: tensor - torch.from_numpy(local.diff[name]) for name, tensor in state.items()}
        return trained, local.samples, local.metrics

    def test(self, state: State, task: PushTask) -> dict[str, float]:
        return {"right": float(self.slot), "size": float(sum(tensor.abs().sum() for tensor in state.values()))}


Enter = Callable[..., Any]


@pytest.fixture
def enter(grid: gk.Session) -> Iterator[Enter]:
    """Enter a participant under this name; with a hospital, serve it in this process."""
    served: dict[str, Any] = {}

    def enter(name: str, hospital: Hospital | None = None, **arguments: Any) -> Any:
        url = endpoint()
        entered = grid.push_participant(name, url)
        served[name] = None
        if hospital is not None:
            given = {**entered.credentials, "port": int(url.rstrip("/").rpartition(":")[2]), **arguments}
            served[name] = gk.serve_participant(train=hospital.train, test=hospital.test, **given)
        return entered

    yield enter
    for name, service in served.items():
        if service is not None:
            service.close()
        grid.remove_participant(name)


SCRIPT = """
import pickle
import torch
from gridkit.workers.local import train_client
from tests.training import mlp, plan_of, shards

data = shards(5)
plan = plan_of(mlp(), data)

def train(state, task):
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    local = train_client(plan, arrays, *data[4], round=task.round + 1, slot=4, batch_size=4, seed=3)
    return {n: t - torch.from_numpy(local.diff[n]) for n, t in state.items()}, local.samples, local.metrics

def test(state, task):
    return {"right": 4.0}
"""


def test_a_mixture_comes_to_the_model_of_workers_alone(grid: gk.Session, enter: Enter, tmp_path: Path) -> None:
    """Two participants in this process, one in a process of its own, and two workers."""
    data, model = shards(5), mlp()
    plan = plan_of(model, data)
    settings = {"rounds": 3, "local_epochs": 1, "processes": 1, **SETTINGS}
    alone = grid.train(model, plan, name="workers alone", clients=data, **settings).wait()

    hospitals = {slot: Hospital(plan, data[slot], slot) for slot in (1, 2)}
    enter("north", hospitals[1])
    enter("south", hospitals[2])
    east = enter("east")
    with served_by_a_script(east, tmp_path, SCRIPT):
        clients = [data[0], "north", "south", data[3], "east"]
        run = grid.train(model, plan, name="a mixture", clients=clients, evaluate=lambda net: {"own": 1.0}, **settings)
        run.wait(60)
    state, wanted = run.state, alone.state
    assert list(state) == list(wanted)
    for name, array in state.items():
        np.testing.assert_allclose(array, wanted[name], rtol=0, atol=1e-6)
    assert hospitals[1].rounds == hospitals[2].rounds == [0, 1, 2]

    same = ["accepted", "refused", "samples"]
    pd.testing.assert_frame_equal(run.metrics[same], alone.metrics[same])
    np.testing.assert_allclose(run.metrics["loss"], alone.metrics["loss"], atol=1e-6)
    assert set(run.reports["worker"]) == {"client 0", "north", "south", "client 3", "east"}
    assert (run.reports["verdict"] == "accepted").all() and len(run.reports) == 15
    sizes = np.array([len(data[slot][1]) for slot in (1, 2, 4)])
    np.testing.assert_allclose(run.metrics["test_right"], [sizes @ [1, 2, 4] / sizes.sum()] * 3)
    np.testing.assert_allclose(run.metrics["test_right_plain"], [7 / 3] * 3)
    assert (run.metrics["own"] == 1.0).all() and run.metrics["test_size"].notna().all()
    told = run.notifications
    assert (told["attempt"] == 1).all() and set(told["worker"]) == {"north", "south", "east"}
    mine = list(told[told["worker"] == "east"]["notification"])
    rounds = 3 * ["UPDATE_ROUND_START", "MODEL_TEST_ROUND"]
    assert [what.split()[0] for what in mine] == ["TRAINING_START", *rounds, "TRAINING_FINISHED"]

    np.testing.assert_array_equal(run.debug(3, round=1).diff["0.bias"], alone.debug(3, round=1).diff["0.bias"])
    for who in ("north", 1):
        with pytest.raises(UsageError, match="'north' is a push participant"):
            run.debug(who)
    with pytest.raises(UsageError, match="no client 'south pole'"):
        run.debug("south pole")


class served_by_a_script:
    """`gridkit participant` in a process of its own."""

    def __init__(self, entered: Any, folder: Path, script: str) -> None:
        (folder / "script.py").write_text(script)
        node, secret = entered.credentials["node"], folder / "secret"
        secret.touch(mode=0o600)
        secret.write_text(entered.secret)
        port = entered.endpoint.rstrip("/").rpartition(":")[2]
        command = [sys.executable, "-m", "gridkit", "participant", "--node", node, "--port", port]
        command += ["--script", str(folder / "script.py"), "--secret-file", str(secret)]
        root = str(Path(__file__).resolve().parents[1])
        environment = {**os.environ, "GRIDKIT_TOKEN": entered.token, "PYTHONPATH": root}
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment)

    def __enter__(self) -> subprocess.Popen[str]:
        assert self.process.stdout is not None
        assert "ready" in self.process.stdout.readline()
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()


def with_counter() -> nn.Module:
    """Buffers of integers travel too, and stay as they are."""
    return nn.Sequential(nn.Linear(12, 6), nn.BatchNorm1d(6), nn.Linear(6, 4))


def test_participants_alone_need_no_plan(grid: gk.Session, enter: Enter) -> None:
    class Adds:
        def __init__(self, step: float, samples: int) -> None:
            self.step, self.samples = step, samples

        def train(self, state: State, task: PushTask) -> Any:
            net = with_counter()
            net.load_state_dict(state)  # all that the model has is there
            with torch.no_grad():
                for weight in net.parameters():
                    weight.add_(self.step)
            return net.state_dict(), self.samples, {}

        def test(self, state: State, task: PushTask) -> dict[str, float]:
            return {}

    enter("north", Adds(1.0, 10))
    enter("south", Adds(4.0, 20))
    model = with_counter()
    next(buffer for name, buffer in model.named_buffers() if "num_batches" in name).fill_(7)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = grid.train(model, None, name="no plan", clients=grid.participants, rounds=2).wait(30)
    learned = dict(model.named_parameters())
    for name, tensor in run.model.state_dict().items():
        torch.testing.assert_close(tensor, before[name] + (6.0 if name in learned else 0))
    assert not [column for column in run.metrics if str(column).startswith("test_")]
    again = grid.runs["no plan", "1.0"]
    assert again.wait(20).metrics.equals(run.metrics) and again.notifications.equals(run.notifications)
    run = grid.train(model, None, name="no plan", clients=["south"], rounds=1).wait(30)
    assert (run.version, list(run.reports["worker"])) == ("2.0", ["south"])


def test_clients_that_cannot_be(grid: gk.Session, enter: Enter) -> None:
    data, model = shards(2), mlp()
    plan, hosted = plan_of(model, data), list(grid.runs)
    enter("north")
    wrong: list[tuple[Any, Any, type[GridkitError], str]] = [
        (plan, ["north", "nroth"], NotFoundError, "'nroth'"),
        (plan, ["north", data[0], "north"], UsageError, "'north' is among the clients twice"),
        (None, ["north", data[0]], UsageError, "client 1 has its data here, and no plan"),
        (None, "north", UsageError, "clients is a text, 'north'"),
        (None, [], UsageError, "no clients"),
        (None, ["north", 3], UsageError, "client 1 isn't a pair"),
    ]
    for given, clients, kind, message in wrong:
        with pytest.raises(kind, match=message):
            grid.train(model, given, name="wrong", clients=clients)
    with pytest.raises(UsageError, match=r"'0\.weight' can't travel"):
        grid.train(mlp().to(torch.bfloat16), None, name="wrong", clients=["north"])
    with pytest.raises(UsageError, match="is no model"):
        grid.train(plan, None, name="wrong", clients=["north"])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="client 0 is a name, 'north'"):
        gk.simulate(model, plan, clients=["north"])  # type: ignore[list-item]
    assert list(grid.runs) == hosted


@pytest.mark.faults
def test_who_isnt_reached_is_named_in_the_cell(grid: gk.Session, enter: Enter) -> None:
    data, model = shards(3), mlp()
    plan = plan_of(model, data)
    enter("north", Hospital(plan, data[0], 0))
    enter("nowhere")  # nobody listens there
    clients = ["north", "nowhere", data[2]]
    given: dict[str, Any] = {"clients": clients, "rounds": 2, "processes": 1, **SETTINGS}
    run = grid.train(model, plan, name="one is away", **given)
    tolerant = grid.train(model, plan, name="one may be away", tolerate=1, **given)
    with pytest.raises(WorkersFailed, match=r"nowhere: .*not reached in 4 attempts") as failed:
        run.wait(60)
    assert "1 of 3 workers failed in round 1 of 'one is away' 1.0" in str(failed.value)
    away = run.notifications[run.notifications["worker"] == "nowhere"]
    assert list(away["attempt"]) == [1, 2, 3, 4] and away["answer"].isna().all()
    assert set(away["notification"]) == {"TRAINING_START"}

    tolerant.wait(60)
    assert list(tolerant.metrics["accepted"]) == [2, 2]
    lost = tolerant.reports[tolerant.reports["worker"] == "nowhere"]
    assert list(lost["round"]) == [1] and list(lost["verdict"]) == ["WORKER_LEFT"]


@pytest.mark.faults
def test_who_says_yes_and_is_silent_is_waited_for_until_the_round_is_over(grid: gk.Session, enter: Enter) -> None:
    data, model = shards(2), mlp()
    plan = plan_of(model, data)
    north, south = (Hospital(plan, data[slot], slot) for slot in (0, 1))

    def crash(task: PushTask) -> None:
        if task.round == 0:
            raise RuntimeError("the scanner is off")

    south.refuse = crash
    enter("north", north)
    enter("south", south)
    run = grid.train(model, None, name="a crash", clients=grid.participants, rounds=2, tolerate=1, round_timeout=2)
    run.wait(60)
    assert (north.rounds, south.rounds) == ([0, 1], [1])
    assert list(run.metrics["accepted"]) == [1, 2]
    assert (run.notifications["answer"] < 300).all()  # it said yes each time


@pytest.mark.faults
def test_who_refuses_is_out(grid: gk.Session, enter: Enter) -> None:
    class Closed(gk.Communication):
        @classmethod
        def start_training(cls, training_id: Any, round: int, model_id: Any) -> None:
            if round == 1:
                raise RuntimeError("closed for the night")
            super().start_training(training_id, round, model_id)

    data, model = shards(3), mlp()
    plan = plan_of(model, data)
    hospitals = [Hospital(plan, data[slot], slot) for slot in range(3)]
    enter("north", hospitals[0])
    enter("south", hospitals[1], communication=Closed)
    run = grid.train(
        model, plan, name="a refusal", clients=["north", "south", data[2]], rounds=3, tolerate=1, **SETTINGS
    ).wait(60)
    assert [hospital.rounds for hospital in hospitals[:2]] == [[0, 1, 2], [0]]
    said = run.notifications[run.notifications["worker"] == "south"]
    assert list(said["answer"]) == [200, 202, 202, 500]
    assert re.search(r"\bleft\b", run.snapshot().text()) and "WORKER_LEFT" in set(run.reports["verdict"])
    with pytest.raises(WorkersFailed, match=r"south: .*answered 500 to UPDATE_ROUND_START 1"):
        grid.train(model, None, name="a refusal", clients=["north", "south"], rounds=3).wait(60)


def test_a_training_of_participants_is_stopped(grid: gk.Session, enter: Enter) -> None:
    data, model = shards(1), mlp()
    hospital = Hospital(plan_of(model, data), data[0], 0)
    enter("north", hospital)
    run = grid.train(model, None, name="stopped", clients=["north"], rounds=10_000)
    wait_for(lambda: len(run.metrics) > 1)
    run.stop()
    run.wait(30)
    assert run.status == "stopped"
    assert list(run.notifications["notification"])[-1] == "TRAINING_FINISHED"
    assert grid.runs["stopped"].wait(30).notifications.equals(run.notifications)


def test_the_async_session() -> None:
    async def train() -> None:
        async with await gk.aio.launch(allow_targets=["127.0.0.1"], workers=0) as grid:
            data, model = shards(1), mlp()
            hospital, url = Hospital(plan_of(model, data), data[0], 0), endpoint()
            entered = await grid.push_participant("north", url)
            port = int(url.rstrip("/").rpartition(":")[2])
            given: dict[str, Any] = {**entered.credentials, "port": port}
            async with await gk.aio.serve_participant(train=hospital.train, test=hospital.test, **given):
                run = await grid.train(model, None, name="digits", clients=await grid.participants(), rounds=2)
                await run.wait(30)
            assert hospital.rounds == [0, 1]

    asyncio.run(train())
