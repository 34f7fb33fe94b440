"""`strategy=fn` through a session: the notebook's function averages on the node, whatever becomes of either."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gridkit as gk
from gridkit.errors import ConflictError, EvaluationFailed, GridkitError, PrivacyError, RunError, UsageError
from tests.support import TOKEN, NodeUnderTest, wait_for
from tests.training import mlp, plan_of, shards

DATA, NET = shards(3), mlp()
PLAN = plan_of(NET, DATA)
LOCAL = {"batch_size": 8, "seed": 0}
"""what `train` tells the workers"""


def median(diffs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return diffs.median(dim=0).values


def trimmed(diffs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """With sorting, masks, loops and numbers made here."""
    share = weights / weights.sum()
    low, high = diffs.amin(0), diffs.amax(0)
    total = torch.zeros_like(low)
    for place in range(diffs.shape[0]):
        total += torch.where((diffs[place] > low) & (diffs[place] < high), diffs[place], 0.0) * share[place]
    return total + 0.1 * diffs.sort(dim=0).values[1]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("rule") / "data")
    yield node
    assert node.terminate() == 0
    assert "Traceback" not in "".join(node.said), "".join(node.said)


@pytest.fixture(scope="module")
def grid(node: NodeUnderTest) -> Iterator[gk.Session]:
    with gk.connect(node.url, token=TOKEN) as grid:
        yield grid


def train(grid: gk.Session, strategy: Any, name: str, **options: Any) -> gk.Run:
    return grid.train(NET, PLAN, name=name, clients=DATA, strategy=strategy, **{"rounds": 2, "processes": 1, **options})


def test_the_same_function_gives_the_same_bits(grid: gk.Session) -> None:
    """On tensors that the node has, and on ordinary ones in a simulation."""
    for rule in (median, trimmed):
        run = train(grid, rule, rule.__name__).wait(60)
        local = gk.simulate(NET, PLAN, clients=DATA, rounds=2, strategy=rule).wait()
        assert gk.verify(run, local)
        (entry,) = [entry for entry in grid._core._seen if entry[0] == rule.__name__]
        assert entry == (rule.__name__, "1.0")
    assert list(run.metrics["accepted"]) == [3, 3]


def hosted(grid: gk.Session, name: str, rounds: int = 2, **rules: Any) -> gk.Run:
    """The Run of a training with workers of this session's, for which somebody else may have the functions."""
    rules = {"num_cycles": rounds, "min_diffs": 3, "max_diffs": 3, "strategy": "notebook function median", **rules}
    run = grid.host_training(NET, PLAN, name=name, client_config={"lr": 0.1, **LOCAL}, server_config=rules).run
    grid.join(name, clients=DATA, processes=1)
    return run


def test_coroutine_functions_and_the_async_session(grid: gk.Session, node: NodeUnderTest) -> None:
    async def rule(diffs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return median(diffs, weights)

    async def main() -> None:
        async with await gk.aio.connect(node.url, token=TOKEN) as session:
            theirs = await session.run("async")
            await theirs.offer(rule)
            await theirs.wait(60)

    local = gk.simulate(NET, PLAN, clients=DATA, rounds=2, strategy=rule).wait()
    assert gk.verify(train(grid, rule, "sync of async").wait(60), local)
    run = hosted(grid, "async")
    asyncio.run(main())
    assert gk.verify(run.wait(20), local)


def test_what_left_the_notebook_is_listed(grid: gk.Session) -> None:
    before = len(grid.rpc.called)
    train(grid, median, "listed", rounds=1).wait(60)
    (call,) = grid.rpc.called[before:]
    assert (call.function, call.args) == ("median", "(remote float32[3, 276], remote float32[3])")
    assert call.result == "remote float32[276]" and call.left < 100
    del call
    wait_for(lambda: not [id for id in grid.rpc.mirror.variables if id.startswith(("reports", "weights"))])


@pytest.mark.parametrize(
    ("rule", "says", "cause"),
    [
        (lambda d, w: d.get(), "raised PrivacyError: ", PrivacyError),
        (lambda d, w: float(d.sum()), "raised ", GridkitError),
        (lambda d, w: d.mean(0) if d.norm() > 1 else d[0], "raised UsageError: '__bool__' needs the ", UsageError),
        (lambda d, w: [][0], "raised IndexError: list index out of range (test_training_rule.py, line ", IndexError),
        (lambda d, w: d.mean(1), "gave float32[3], expected float32[276]", type(None)),
        (lambda d, w: d.mean(0) / 0, "gave values that are not finite", type(None)),
        (lambda d, w: torch.zeros(276), None, type(None)),
    ],
)
def test_what_a_rule_may_not_do(grid: gk.Session, rule: Any, says: str | None, cause: type) -> None:
    run = train(grid, rule, "wrong", rounds=1)
    if says is None:
        assert gk.verify(run.wait(60), gk.simulate(NET, PLAN, clients=DATA, rounds=1, strategy=rule).wait())
        return
    with pytest.raises(RunError) as caught:
        run.wait(60)
    assert f"failed: round 1: the strategy <lambda> {says}" in caught.value.message
    assert caught.value.hint is not None and ("diffs.mean(dim=0)" in caught.value.hint) is (cause is type(None))
    assert isinstance(caught.value.__cause__, cause)


def test_hosted_for_whoever_comes(grid: gk.Session) -> None:
    run = hosted(grid, "hosted", strategy=median)
    local = gk.simulate(NET, PLAN, clients=DATA, rounds=2, strategy=median, lr=0.1).wait()
    assert gk.verify(run.wait(60), local)
    with pytest.raises(UsageError, match="strategy is 3"):
        grid.host_training(NET, PLAN, name="wrong one", server_config={"strategy": 3})


def test_what_is_no_strategy_and_no_evaluate_is_said_at_once(grid: gk.Session) -> None:
    for wrong in ({"strategy": "medain"}, {"strategy": grid.expose(median)}, {"evaluate": "accuracy"}):
        ((name, _),) = wrong.items()
        with pytest.raises(UsageError, match=f"^{name} is ") as caught:
            train(grid, **{"strategy": "fedavg", "name": "never begun", **wrong})
        assert "function of" in str(caught.value.hint)
        with pytest.raises(UsageError, match=f"^{name} is "):
            gk.simulate(NET, PLAN, clients=DATA, rounds=1, **wrong)
    assert "never begun" not in str(list(grid.runs))


def test_what_cannot_be_offered(grid: gk.Session) -> None:
    plain = train(grid, "fedavg", "plain").wait(60)
    with pytest.raises(UsageError, match="averages by 'fedavg'"):
        plain.offer(median)
    over = train(grid, median, "over").wait(60)
    with pytest.raises(ConflictError, match="is over: completed"):
        over.offer(median)
    for nothing in (3, "median"):
        with pytest.raises(UsageError, match="can't be called"):
            plain.offer(nothing)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="nothing is offered"):
        plain.offer()
    local = gk.simulate(NET, PLAN, clients=DATA, rounds=1, strategy=median).wait()
    with pytest.raises(UsageError, match="runs in this process"):
        local.offer(median)


LEAVES = """
import os, sys, gridkit as gk
from tests.test_training_rule import median
rounds = []
def leave(diffs, weights):
    rounds.append(1)
    return median(diffs, weights) if len(rounds) == 1 else os._exit(0)
with gk.connect(sys.argv[1]) as grid:
    run = grid.runs["left", "1.0"]
    run.offer(leave)
    run.wait()
"""


def test_a_notebook_that_ends_in_a_round_is_waited_for(node: NodeUnderTest, grid: gk.Session) -> None:
    """The training says what it waits for, and goes on with a function of the next kernel."""
    run = hosted(grid, "left")
    environment = {**os.environ, "GRIDKIT_TOKEN": TOKEN, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", LEAVES, node.url], env=environment, timeout=100, check=True)
    wait_for(lambda: run.history.waits, what="the wait")
    assert run.history.waits == "round 2 waits for median of the notebook"
    assert run.history.waits in repr(run) and run.status == "running" and run.snapshot().waits
    run.offer(median)
    local = gk.simulate(NET, PLAN, clients=DATA, rounds=2, strategy=median).wait()
    assert gk.verify(run.wait(60), local) and run.history.waits == ""


def test_r9_a_node_that_is_killed_in_a_call_asks_again(tmp_path: Path) -> None:
    """The session offers the function to the restarted node by itself, and the round is averaged once."""
    node = NodeUnderTest(tmp_path / "data")
    seen: list[int] = []

    def rule(diffs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        seen.append(len(seen))
        if len(seen) == 2:
            node.kill()
            node.start()
        return median(diffs, weights)

    try:
        with gk.connect(node.url, token=TOKEN) as grid:
            run = train(grid, rule, "killed", rounds=3).wait(90)
            local = gk.simulate(NET, PLAN, clients=DATA, rounds=3, strategy=median).wait()
            assert gk.verify(run, local)
        assert len(seen) == 4
        assert [row["round"] for row in run.history.rounds] == [1, 2, 3]
    finally:
        assert node.terminate() == 0


def test_stop_now_ends_a_wait(grid: gk.Session) -> None:
    run = hosted(grid, "stopped")
    wait_for(lambda: run.history.waits)
    with pytest.raises(TimeoutError, match="is still running after 0 s; round 1 waits for median of the notebook"):
        run.wait(0)
    run.stop()
    wait_for(lambda: run.status == "stopping")
    assert run.history.waits  # after this round, which waits
    run.stop(now=True)
    assert run.wait(20).status == "stopped"


def test_an_exposed_evaluate_scores_on_the_node(grid: gk.Session) -> None:
    """By value or by reference; its calls are listed, and "stop" makes the round the last."""

    def accuracy(state: dict[str, torch.Tensor]) -> dict[str, Any]:
        net = mlp()
        net.load_state_dict(state)
        x, y = map(torch.from_numpy, DATA[0])
        return {"accuracy": (net(x).argmax(1) == y).float().mean()}

    def far(state: dict[str, torch.Tensor]) -> dict[str, Any]:
        assert isinstance(state["0.weight"], gk.RemoteTensor)
        return {"norm": float(sum((t * t).sum() for t in state.values()).get()), "stop": True}  # type: ignore[union-attr]

    local = gk.simulate(
        NET, PLAN, clients=DATA, rounds=2, strategy=median, evaluate=lambda net: accuracy(net.state_dict())
    )
    with grid.expose(accuracy, arguments="value") as exposed:
        run = train(grid, median, "scored", evaluate=exposed).wait(60)
        assert [call.function for call in exposed.calls] == ["accuracy"] * 2
    assert run.metrics["accuracy"].tolist() == local.wait().metrics["accuracy"].tolist()
    assert grid.runs["scored", "1.0"].wait(20).metrics["accuracy"].tolist() == run.metrics["accuracy"].tolist()
    with grid.expose(far) as exposed:
        run = train(grid, "fedavg", "far", evaluate=exposed).wait(60)
    assert run.status == "stopped" and run.metrics["norm"].tolist() == pytest.approx(
        [sum(float((a.astype("f8") ** 2).sum()) for a in run.state.values())]
    )


def test_an_exposed_evaluate_that_raises_or_is_not_there(grid: gk.Session) -> None:
    def score(state: Any) -> Any:
        raise KeyError("w")

    with grid.expose(score) as exposed:
        run = train(grid, "fedavg", "unscored", evaluate=exposed)
        with pytest.raises(EvaluationFailed, match="round 1: evaluate=score raised KeyError: 'w'"):
            run.wait(60)
    run = hosted(grid, "nobody's", 1, strategy="fedavg", evaluate="zero")
    wait_for(lambda: run.history.waits == "round 1 waits for zero of the notebook")
    with grid.expose(lambda state: {"zero": 0}) as exposed:
        run.offer(evaluate=exposed)
        assert run.wait(60).metrics["zero"].tolist() == [0.0]
    with pytest.raises(UsageError, match="the node can't call <lambda>: it is closed"):
        train(grid, "fedavg", "never begun", evaluate=exposed)
    assert "never begun" not in str(list(grid.runs))
    with pytest.raises(UsageError, match="it is closed"):
        run.offer(evaluate=exposed)


def test_stop_may_be_what_a_comparison_gives(grid: gk.Session) -> None:
    """`{"stop": accuracy > 0.9}` with a tensor or a number of NumPy is True or False too."""
    for asked in (torch.tensor(0.5) > 0.4, np.float32(0.5) > 0.4):
        with grid.expose(lambda state, asked=asked: {"stop": asked}) as exposed:
            run = train(grid, "fedavg", "compared", rounds=9, evaluate=exposed).wait(60)
        assert run.status == "stopped" and len(run.metrics) == 1 and "stop" not in run.metrics
