"""Averaging plans on a running node: hosted over both transports, run in the runner, and when they fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import websockets
from torch import nn

import gridkit as gk
from gridkit.errors import ErrorCode, NodeError, RunError
from gridkit.federated.rules import CycleRules
from gridkit.node import rounds
from gridkit.plans.plan import Plan
from gridkit.wire.state import pack_state, read_state
from tests.plans.rules import mean, median, running, trimmed
from tests.support import MODEL, TOKEN, NodeUnderTest, RawWorker, host_files, rows, tiny_plan
from tests.training import mlp, plan_of, shards

LIKE_MODEL = nn.Linear(3, 2)  # as many values as the tests' `MODEL`
MEAN, RUNNING = gk.averaging_plan(mean, LIKE_MODEL), gk.averaging_plan(running, LIKE_MODEL, iterative=True)

Host = Callable[..., dict[str, Any]]


def form(plan: Plan | bytes, server: dict[str, Any], name: str) -> dict[str, Any]:
    data = plan if isinstance(plan, bytes) else plan.to_bytes()
    files = dict(host_files(tiny_plan(), server, name))
    return files | {"averaging_plan": ("averaging_plan", data, "application/octet-stream")}


@pytest.fixture
def host_with(node: NodeUnderTest, request: pytest.FixtureRequest) -> Host:
    """`host_with(plan, transport="http", **server_config)`: the node's answer, and the training's name."""

    def host_with(plan: Plan, transport: str = "http", **server: Any) -> dict[str, Any]:
        name = request.node.name[:150]
        if transport == "http":
            with node.http() as http:
                answer = http.post("/model-centric/host-training", files=form(plan, server, name)).json()
        else:
            answer = asyncio.run(_host_by_socket(node, plan, server, name))
        assert answer["status"] == "success", answer
        return {**answer, "name": name}

    return host_with


async def _host_by_socket(node: NodeUnderTest, plan: Plan, server: dict[str, Any], name: str) -> dict[str, Any]:
    owner = {"Authorization": f"Bearer {TOKEN}"}
    async with websockets.connect(node.url.replace("http", "ws") + "/", additional_headers=owner) as socket:
        data = {
            "model": pack_state(MODEL).hex(),
            "plans": {"training_plan": tiny_plan().hex()},
            "averaging_plan": plan.to_bytes().hex(),
            "client_config": {"name": name, "version": "1.0"},
            "server_config": server,
        }
        await socket.send(json.dumps({"type": "model-centric/host-training", "data": data}))
        return dict(json.loads(await socket.recv())["data"])


def reported(node: NodeUnderTest, hosted: dict[str, Any], *values: float, samples: tuple[int, ...] = ()) -> None:
    """A worker each that reports a diff of that value everywhere."""
    workers = [RawWorker(node, hosted["worker_token"], hosted["name"]) for _ in values]
    assert [worker.ask()["status"] for worker in workers] == ["accepted"] * len(values)
    for place, (worker, value) in enumerate(zip(workers, values, strict=True)):
        diff = {name: np.full_like(array, value) for name, array in MODEL.items()}
        answer = worker.report(diff, samples[place] if samples else 1)
        assert answer.status_code == 200, answer.text


def model(node: NodeUnderTest, name: str) -> dict[str, np.ndarray]:
    with node.http() as http:
        return read_state(http.get("/model-centric/retrieve-model", params={"name": name}).content)


@pytest.mark.parametrize("transport", ["http", "socket"])
@pytest.mark.parametrize(("plan", "iterative"), [(MEAN, False), (RUNNING, True)])
def test_pygrids_numbers(node: NodeUnderTest, host_with: Host, transport: str, plan: Plan, iterative: bool) -> None:
    """Diffs 1 and 3: parameters 0 become -2."""
    server = {"num_cycles": 1, "min_diffs": 2, "max_diffs": 2, "iterative_plan": iterative}
    hosted = host_with(plan, transport, **server)
    reported(node, hosted, 1.0, 3.0)
    assert rows(node, hosted["process"])[-1]["outcome"] == "completed"
    assert all((array == -2).all() for array in model(node, hosted["name"]).values())


def test_weights_are_those_of_the_training(node: NodeUnderTest, host_with: Host) -> None:
    hosted = host_with(MEAN, num_cycles=1, min_diffs=2, max_diffs=2, weighting="samples", max_samples=3)
    reported(node, hosted, 1.0, 5.0, samples=(1, 100))
    rows(node, hosted["process"])
    assert all((array == -4).all() for array in model(node, hosted["name"]).values())  # (1 * 1 + 3 * 5) / 4


def test_m3_a_robust_rule_on_the_node(node: NodeUnderTest, host_with: Host) -> None:
    for place, rule in enumerate((median, trimmed)):
        server = {"min_diffs": 5, "max_diffs": 5, "num_cycles": place + 1}
        plan = gk.averaging_plan(rule, LIKE_MODEL)
        with node.http() as http:
            http.post("/model-centric/host-training", files=form(plan, server, rule.__name__)).raise_for_status()
            token = http.post("/model-centric/worker-token", json={"name": rule.__name__}).json()["worker_token"]
        for _ in range(place + 1):
            reported(node, {"worker_token": token, "name": rule.__name__}, 1.0, 1.25, 1e30, 1.5, -1e30)
    got = {name: model(node, name)["b"].tolist() for name in ("median", "trimmed")}
    assert got == {"median": [-1.25] * 2, "trimmed": [-2.5] * 2}


def test_who_may_read_it(node: NodeUnderTest, host_with: Host) -> None:
    """It is the owner's to read, and no plan for workers."""
    hosted = host_with(MEAN, num_cycles=1)
    assert list(hosted["plans"]) == ["training_plan"]
    with node.http() as http:
        entries = http.get("/model-centric/processes").json()["processes"]
        entry = next(e for e in entries if e["name"] == hosted["name"])
        assert list(entry["plans"]) == ["training_plan"]
        wish = {"plan_id": entry["averaging_plan"], "receive_operations_as": "gridkit"}
        assert http.get("/model-centric/get-plan", params=wish).content == MEAN.to_bytes()
    worker = RawWorker(node, hosted["worker_token"], hosted["name"])
    assert list(worker.ask()["plans"]) == ["training_plan"]
    refused = worker.http.get("/model-centric/get-plan", params={**wish, **worker.ids()})
    assert (refused.status_code, refused.json()["code"]) == (404, "NOT_FOUND")


LARGE = gk.averaging_plan(mean, nn.Linear(100, 1000))
CONFIG = {"num_cycles": 1, "min_diffs": 3, "max_diffs": 5}


@pytest.mark.parametrize(
    ("plan", "server", "says"),
    [
        (b"no plan", CONFIG, "plan"),
        (tiny_plan(), CONFIG, "the averaging plan 'tiny' takes"),
        (LARGE, CONFIG, "for this model of 8 averaged values it must take"),
        (gk.averaging_plan(trimmed, LIKE_MODEL), {**CONFIG, "min_diffs": 2}, "a round of this training may have 2"),
        (MEAN, {**CONFIG, "iterative_plan": True}, "takes all reports at once"),
        (RUNNING, CONFIG, "takes one report after the other"),
        (RUNNING, {**CONFIG, "iterative_plan": True, "weighting": "samples"}, "isn't told of weights"),
        (MEAN, {**CONFIG, "strategy": "fedavg"}, "an averaging plan takes its place"),
    ],
)
def test_what_cannot_be_hosted_leaves_nothing(node: NodeUnderTest, plan: Any, server: dict, says: str) -> None:
    before = node.files()
    with node.http() as http:
        refused = http.post("/model-centric/host-training", files=form(plan, server, "refused"))
        assert refused.status_code == 400 and says in refused.json()["error"], refused.text
        assert refused.json()["code"] in ("BAD_PLAN", "BAD_CONFIG")
        assert http.get("/model-centric/retrieve-model", params={"name": "refused"}).status_code == 404
    assert node.files() == before


def test_an_iterative_plan_needs_a_plan(node: NodeUnderTest) -> None:
    with node.http() as http:
        files = host_files(tiny_plan(), {**CONFIG, "iterative_plan": True}, "none")
        refused = http.post("/model-centric/host-training", files=files)
    assert refused.status_code == 400 and "there is no averaging_plan" in refused.json()["error"]


# ---- through the session


@pytest.fixture(scope="module")
def grid(node: NodeUnderTest) -> Iterator[gk.Session]:
    with gk.connect(node.url, token=TOKEN) as grid:
        yield grid


@pytest.mark.parametrize("rule", [mean, trimmed, running])
def test_node_and_simulator_have_the_same_bits(grid: gk.Session, rule: Any) -> None:
    data, network = shards(5), mlp()
    plan = plan_of(network, data, momentum=0.9)
    strategy = gk.averaging_plan(rule, plan, iterative=rule is running)
    weighting = "equal" if rule is running else "samples"
    arguments = {"clients": data, "rounds": 3, "strategy": strategy, "weighting": weighting, "tolerate": 2}
    run = grid.train(network, plan, name=f"bits of {rule.__name__}", **arguments).wait()
    assert gk.verify(run, gk.simulate(network, plan, **arguments).wait())


def test_a_plan_on_a_deeper_model_with_buffers(grid: gk.Session) -> None:
    """Integer buffers stay; floating ones are averaged with the rest."""
    torch.manual_seed(0)
    data = shards(4)
    network = nn.Sequential(nn.Linear(12, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4))
    plan = plan_of(network, data)
    arguments = {"clients": data, "rounds": 2, "strategy": gk.averaging_plan(median, network)}
    run = grid.train(network, plan, name="buffers", **arguments).wait()
    assert gk.verify(run, gk.simulate(network, plan, **arguments).wait())
    assert run.state["1.num_batches_tracked"] == 0


def test_hosted_for_whoever_comes(grid: gk.Session) -> None:
    data, network = shards(3), mlp()
    plan = plan_of(network, data)
    process = grid.host_training(
        network,
        plan,
        name="iterative for all",
        averaging_plan=gk.averaging_plan(running, network, iterative=True),  # which the node is told of by itself
        client_config={"batch_size": 8, "seed": 0},
        server_config={"num_cycles": 2, "min_diffs": 3, "max_diffs": 3},
    )
    grid.join("iterative for all", clients=data).wait()
    wanted = gk.simulate(network, plan, clients=data, rounds=2, weighting="equal").wait()
    for name, array in wanted.state.items():
        np.testing.assert_allclose(process.run.state[name], array, atol=1e-6)


# ---- plans that fail


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gk.Session]:
    """A session on a node whose runner has little time and memory."""
    limits = ("--limit", "run_seconds=3", "--limit", f"run_memory={512 << 20}")
    node = NodeUnderTest(tmp_path_factory.mktemp("tight") / "data", *limits)
    with gk.connect(node.url, token=TOKEN) as grid:
        yield grid
    node.terminate()


WIDE = nn.Linear(60, 20)


def endless(updates: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    square = updates[0][:, None] * updates[0][None]
    for _ in range(1000):  # 3.6 billion operations each
        square = square @ square
    return square[0]


def greedy(updates: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    """200 MB for each report."""
    return updates.mean(0) * updates.new_ones([updates.shape[0], 50_000_000]).mean()


def elsewhere(updates: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    """Looks up the place that the first value names."""
    return updates.mean(0) + torch.index_select(n, 0, (updates[0, :1] * 0 + 1000).long())


def divided(updates: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    return updates.mean(0) / 0


ROUND = {"min_diffs": 3, "max_diffs": 3}
OPEN = {"cycle_length": 2}  # nobody knows at hosting how many reports a round will have


@pytest.mark.parametrize(
    ("rule", "rules", "says"),
    [
        (endless, ROUND, r"the computation took longer than 3 s \(start the node with a larger --limit run_seconds"),
        (
            greedy,
            OPEN,
            r"node \d+ \(aten\.new_ones\.default\).* needs .* \(an iterative plan takes one report at a time",
        ),
        (elsewhere, ROUND, r"node \d+ \(aten\.index_select\.default\) of plan 'elsewhere' failed: index out of range"),
        (divided, ROUND, r"it makes values of '\w+' that are not finite \(max_norm refuses"),
    ],
)
def test_c10_a_plan_that_fails_ends_its_training_and_no_other(
    tight: gk.Session, rule: Any, rules: dict[str, Any], says: str
) -> None:
    """Who watches is told why; the node goes on."""
    data = [(np.eye(60, dtype=np.float32)[:8] * (n + 1), np.arange(8) % 20) for n in range(3)]
    plan, name = plan_of(WIDE, data), rule.__name__
    own = gk.averaging_plan(rule, WIDE)
    tight.host_training(WIDE, plan, name=name, averaging_plan=own, server_config={"num_cycles": 9, **rules})
    run = tight.join(name, clients=data)
    mean_plan = gk.averaging_plan(mean, WIDE)
    other = tight.train(WIDE, plan, name=f"beside {name}", clients=data, rounds=2, strategy=mean_plan)
    with pytest.raises(RunError, match=rf"round \d: the averaging plan failed: {says}") as caught:
        run.wait()
    assert type(caught.value) is RunError and run.status == "failed"
    assert other.wait().status == "completed"


def test_a_round_too_large_for_the_memory_is_refused_at_hosting(tight: gk.Session) -> None:
    plan, own = plan_of(WIDE, [(np.eye(60, dtype=np.float32), np.arange(60) % 20)]), gk.averaging_plan(greedy, WIDE)
    with pytest.raises(NodeError, match=r"node \d+ \(aten\.new_ones\.default\).* needs") as caught:
        tight.host_training(WIDE, plan, name="too large", averaging_plan=own, server_config={"max_diffs": 3})
    assert caught.value.code is ErrorCode.OUT_OF_MEMORY


def test_a_runner_that_is_busy_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What will pass ends no training: the round is averaged when there is room again."""
    tried: list[int] = []
    shell = rounds.Rounds(None, None, None)  # type: ignore[arg-type]  only the loop around an aggregation runs

    async def busy(*_: Any) -> None:
        tried.append(len(tried))
        if len(tried) < 4:
            raise NodeError("too many computations wait on this node", code=ErrorCode.BUSY, status=503)

    async def no_time(seconds: float) -> None:
        tried[-1] += int(seconds)

    async def due(*_: Any) -> bool:
        return True

    complaints: list[dict[str, Any]] = []
    process = SimpleNamespace(title="'t' 1.0", state=SimpleNamespace(rules=CycleRules()))

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        monkeypatch.setattr(shell, "_aggregate_once", busy)
        monkeypatch.setattr(shell, "is_due", due)
        monkeypatch.setattr(rounds.asyncio, "sleep", no_time)
        await shell._aggregate(process, SimpleNamespace(sequence=3))  # type: ignore[arg-type]

    asyncio.run(run())
    assert tried == [0 + 1, 1 + 2, 2 + 4, 3]
    assert [c["message"] for c in complaints] == ["'t' 1.0: cycle 3 can't be averaged yet"] * 3
