"""This machine's workers in a training that was hosted for whoever comes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

import gridkit as gk
from tests.support import wait_for
from tests.training import mlp, plan_of, shards


@pytest.fixture(scope="module")
def grid() -> Iterator[gk.Session]:
    with gk.launch() as grid:
        yield grid


def hosted(grid: gk.Session, name: str, clients: int, rounds: int = 3, **client_config: Any) -> Any:
    server = {"num_cycles": rounds, "min_diffs": clients, "max_diffs": clients, "weighting": "samples"}
    model = mlp()
    return grid.host_training(
        model, plan_of(model, shards()), name=name, client_config=client_config, server_config=server
    )


def test_clients_that_join_train_the_hosted_model(grid: gk.Session) -> None:
    data = shards(4)
    process = hosted(grid, "joined", 4, batch_size=4, seed=5)
    run = grid.join("joined", clients=data, processes=3)
    assert (run.name, run.version, run.rounds) == ("joined", "1.0", 3)
    assert run.wait(30).status == "completed"
    process.run.wait(30)
    assert set(process.run.reports["worker"]) == {f"client {place}" for place in range(4)}
    inline = gk.simulate(mlp(), plan_of(mlp(), data), clients=data, rounds=3, batch_size=4, seed=5).wait()
    assert gk.verify(process.run, inline)


def test_two_sessions_join_the_same_training(grid: gk.Session) -> None:
    data = shards(4)
    process = hosted(grid, "from two sides", 4)
    token = grid._core._embedded.token
    with gk.connect(grid.url, token=token) as other:
        ours = grid.join("from two sides", "1.0", clients=data[:2], processes=1)
        assert not ours.done
        other.join("from two sides", clients=data[2:], processes=1).wait(30)
        process.run.wait(30)
    assert process.run.reports.groupby("round")["worker"].nunique().eq(4).all()


def test_a_worker_process_that_dies_comes_back_as_the_same_workers(grid: gk.Session) -> None:
    process = hosted(grid, "dies", 2, rounds=40)
    run = grid.join("dies", clients=shards(2), processes=1)
    wait_for(lambda: len(run.history.rounds) >= 2, what="two rounds")
    os.kill(grid.pids["workers"][0], signal.SIGKILL)
    assert run.wait(60).status == "completed"
    assert set(process.run.reports["worker"]) == {"client 0", "client 1"}


def test_each_client_has_a_token_of_its_own_for_that_training_only(grid: gk.Session, monkeypatch: Any) -> None:
    given = []
    ask = grid._core._node.worker_token

    async def watched(*about: Any) -> str:
        given.append(await ask(*about))
        return given[-1]

    monkeypatch.setattr(grid._core._node, "worker_token", watched)
    hosted(grid, "tokens", 3, rounds=1)
    grid.join("tokens", clients=shards(3)).wait(30)
    assert len(set(given)) == 3
    for token in given:
        with pytest.raises(gk.errors.AccessError, match="worker's token doesn't allow"):
            gk.connect(grid.url, token=token)


def test_what_can_not_be_joined_says_why_and_changes_nothing(grid: gk.Session) -> None:
    data, model = shards(2), mlp()
    grid.train(model, plan_of(model, data), name="roster", clients=data, rounds=1).wait(30)
    running = grid.train(model, plan_of(model, data), name="running roster", clients=data, rounds=10_000)
    hosted(grid, "over", 2, rounds=1)
    grid.join("over", clients=data).wait(30)
    before = grid.runs.to_frame()
    with pytest.raises(gk.errors.ConflictError, match=r"'running roster' 1\.0 has a fixed roster of 2 clients"):
        grid.join("running roster", clients=data)
    with pytest.raises(gk.errors.ConflictError, match=r"'over' 1\.0 is over: completed") as caught:
        grid.join("over", clients=data)
    assert caught.value.code is gk.errors.ErrorCode.TRAINING_OVER
    with pytest.raises(gk.errors.NotFoundError, match="no training 'nothing'"):
        grid.join("nothing", clients=data)
    with pytest.raises(gk.errors.UsageError, match="client 0 isn't a pair"):
        grid.join("over", clients=[3])  # type: ignore[list-item]
    with pytest.raises(gk.errors.UsageError, match="processes is 0"):
        grid.join("over", clients=data, processes=0)
    running.stop(now=True)
    running.wait(30)
    assert list(grid.runs.to_frame()["name"]) == list(before["name"])


def test_clients_of_one_process_come_to_a_pool_that_is_drawn(grid: gk.Session) -> None:
    """They are told to wait for others and for their lot, and go on by themselves."""
    data = shards(5)
    server = {"num_cycles": 3, "min_diffs": 2, "max_diffs": 2, "max_workers": 2, "min_workers": 3, "seed": 4}
    pool = {"pool_selection": "random", "selection_length": 0.2, "do_not_reuse_workers_until_cycle": 2}
    process = grid.host_training(mlp(), plan_of(mlp(), data), name="drawn", server_config={**server, **pool})
    grid.join("drawn", clients=data, processes=2)
    process.run.wait(60)
    told = process.run.reports
    assert told.groupby("round")["worker"].nunique().to_dict() == {1: 2, 2: 2, 3: 2}
    rounds = [set(told[told["round"] == number]["worker"]) for number in (1, 2, 3)]
    assert not rounds[0] & rounds[1] and not rounds[1] & rounds[2], "who reported rests for a cycle"
