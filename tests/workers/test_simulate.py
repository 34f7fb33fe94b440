from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
import torch

import gridkit as gk
from gridkit.errors import ErrorCode, NotFoundError, PlanError, RunError, UsageError, WorkersFailed
from gridkit.federated.cycle import CycleRules, CycleState, cohort
from gridkit.run import Run
from gridkit.workers.local import train_client
from gridkit.workers.settings import start_state
from gridkit.workers.simulate import simulate
from tests.plans.rules import mean, running, trimmed
from tests.training import cnn, mlp, plan_of, shards

DATA = shards(4)
MODEL = mlp()
PLAN = plan_of(MODEL, DATA, momentum=0.9)


def run(**arguments: Any) -> Run:
    settings: dict[str, Any] = {"clients": DATA, "rounds": 2, "batch_size": 8}
    return simulate(MODEL, PLAN, **{**settings, **arguments})


def by_hand(
    model: torch.nn.Module, plan: Any, data: list[Any], rounds: int, seed: int, weights: Any, fraction: float = 1.0
) -> dict[str, np.ndarray]:
    """Federated averaging as a plain loop."""
    state = start_state(model, plan)
    rules = CycleRules(clients=len(data), fraction=fraction, seed=seed)
    for number in range(1, rounds + 1):
        total = {name: np.zeros(array.shape) for name, array in state.items()}
        weight = 0.0
        for slot in cohort(CycleState(rules, sequence=number)):
            x, y = data[slot]
            local = train_client(plan, state, x, y, batch_size=8, seed=seed, round=number, slot=slot)
            for name, diff in local.diff.items():
                total[name] += diff.astype(np.float64) * weights(len(y))
            weight += weights(len(y))
        for name, summed in total.items():
            state[name] = (state[name].astype(np.float64) - summed / weight).astype(np.float32)
    return state


def assert_same(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert list(got) == list(want)
    for name, array in want.items():
        assert got[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize(
    ("arguments", "weights"),
    [
        ({}, lambda n: n),
        ({"weighting": "equal"}, lambda n: 1),
        ({"max_samples": 22}, lambda n: min(n, 22)),
        ({"fraction": 0.5, "rounds": 4}, lambda n: n),
    ],
    ids=["samples", "equal", "capped", "half of the clients"],
)
def test_it_is_federated_averaging(arguments: dict[str, Any], weights: Any) -> None:
    want = by_hand(MODEL, PLAN, DATA, arguments.get("rounds", 2), 5, weights, arguments.get("fraction", 1.0))
    assert_same(run(seed=5, **arguments).wait().state, want)


def test_a_convolutional_net_too() -> None:
    data = shards(3, image=True)
    model = cnn()
    plan = plan_of(model, data)
    got = simulate(model, plan, clients=data, rounds=2, batch_size=8, seed=1).wait().state
    assert_same(got, by_hand(model, plan, data, 2, 1, lambda n: n))


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    one, two, other = (run(seed=seed).wait() for seed in (3, 3, 4))
    assert gk.verify(one, two)
    difference = gk.verify(one, other)
    assert not difference and "'0.weight'" in repr(difference)


def test_trainings_at_the_same_time_keep_their_bits_and_the_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        alone = run(rounds=3).wait().state
        together = [run(rounds=3) for _ in range(4)]
        for one in together:
            assert_same(one.wait().state, alone)
        assert torch.get_num_threads() == 2
        seen: list[int] = []
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert seen == [2]
    finally:
        torch.set_num_threads(before)


def test_shards_may_be_tensors_or_arrays_of_any_layout() -> None:
    turned = [(np.asfortranarray(x), y[::-1][::-1]) for x, y in DATA]
    tensors = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in DATA]
    wanted = run().wait()
    assert gk.verify(wanted, run(clients=turned).wait())
    assert gk.verify(wanted, run(clients=tensors).wait())


def test_nothing_of_the_callers_is_changed() -> None:
    before = start_state(MODEL, PLAN)
    data = [(x.copy(), y.copy()) for x, y in DATA]
    threads, mode, random = torch.get_num_threads(), MODEL.training, torch.random.get_rng_state()
    run(clients=data).wait()
    assert_same(start_state(MODEL, PLAN), before)
    assert all(
        np.array_equal(a, b) for mine, theirs in zip(data, DATA, strict=True) for a, b in zip(mine, theirs, strict=True)
    )
    assert (torch.get_num_threads(), MODEL.training) == (threads, mode)
    assert torch.equal(torch.random.get_rng_state(), random)


def test_metrics_and_reports() -> None:
    done = run(rounds=3, fraction=0.5, seed=2, evaluate=lambda model: {"norm": model[0].weight.norm().item()}).wait()
    assert done.status == "completed" and done.done
    metrics = done.metrics
    assert metrics.index.tolist() == [1, 2, 3] and metrics["accepted"].tolist() == [2, 2, 2]
    assert metrics["loss"].iloc[-1] < metrics["loss"].iloc[0]
    assert metrics["norm"].notna().all() and metrics["norm"].iloc[-1] == done.model[0].weight.norm().item()
    rules = CycleRules(clients=4, fraction=0.5, seed=2)
    for number in (1, 2, 3):
        members = [f"client {slot}" for slot in cohort(CycleState(rules, sequence=number))]
        assert done.reports.query("round == @number")["worker"].tolist() == members
    sizes = done.reports.groupby("round")["samples"].sum()
    assert metrics["samples"].tolist() == sizes.tolist()


def broken(place: int, how: str) -> list[Any]:
    data = [(x.copy(), y.copy()) for x, y in DATA]
    x, y = data[place]
    if how == "label":
        y[3] = 99
    elif how == "nan":
        x[0, 0] = np.nan
    else:
        data[place] = (x[:, :-1], y)
    return data


@pytest.mark.parametrize(("how", "word"), [("label", "99"), ("nan", "finite"), ("width", "11")])
def test_a_client_that_fails_is_named_with_its_cause(how: str, word: str) -> None:
    with pytest.raises(WorkersFailed) as raised:
        run(clients=broken(2, how)).wait()
    assert "client 2" in str(raised.value) and word in str(raised.value)
    assert "client 1" not in str(raised.value) and raised.value.code is ErrorCode.WORKER_ERROR


def test_tolerated_failures_leave_the_others_to_train() -> None:
    done = run(clients=broken(2, "label"), tolerate=1).wait()
    assert done.status == "completed"
    assert done.metrics["refused"].tolist() == [1, 1] and done.metrics["accepted"].tolist() == [3, 3]
    mine = done.reports.query("worker == 'client 2'")
    assert mine["verdict"].tolist() == ["WORKER_ERROR", "WORKER_ERROR"]


def test_equal_failures_are_one_group() -> None:
    data = shards(5)
    for place in (1, 3, 4):
        data[place][1][0] = 77
    with pytest.raises(WorkersFailed) as raised:
        run(clients=data, tolerate=2).wait()
    ((workers, cause),) = raised.value.groups
    assert workers == ("client 1", "client 3", "client 4") and "77" in cause


def test_a_training_that_diverges_says_so() -> None:
    with pytest.raises(WorkersFailed, match=r"NOT_FINITE: tensor '.*' has"):
        run(lr=1e18).wait()


def test_max_norm_refuses() -> None:
    with pytest.raises(WorkersFailed, match="NORM_TOO_LARGE"):
        run(max_norm=1e-6).wait()


def test_lr_overrides_the_plans() -> None:
    assert gk.verify(run().wait(), run(lr=0.1).wait())
    still = run(lr=0.0).wait()
    assert_same(still.state, start_state(MODEL, PLAN))


class Gate:
    """An `evaluate` that waits: the training behind it goes on."""

    def __init__(self) -> None:
        self.reached, self.go = threading.Event(), threading.Event()

    def __call__(self, model: Any) -> dict[str, float]:
        self.reached.set()
        assert self.go.wait(30)
        return {}


def test_stop_ends_after_the_round() -> None:
    gate = Gate()
    under_way = run(rounds=100_000, evaluate=gate)
    assert gate.reached.wait(30)
    under_way.stop()
    gate.go.set()
    under_way.wait(60)
    assert under_way.status == "stopped"
    counts = under_way.reports.groupby("round").size()
    assert 1 <= len(under_way.metrics) < 100_000 and (counts == 4).all()
    assert len(counts) == len(under_way.metrics)


def test_stop_twice_ends_at_once() -> None:
    gate = Gate()
    under_way = run(rounds=100_000, evaluate=gate)
    assert gate.reached.wait(30)
    under_way.stop()
    under_way.stop(now=True)
    gate.go.set()
    under_way.wait(60)
    assert under_way.status == "stopped"


def test_only_the_last_models_are_kept() -> None:
    done = run(rounds=7, keep_last=2, keep_every=3).wait()
    assert sorted(done._source._models) == [1, 3, 6, 7, 8]  # type: ignore[attr-defined]
    with pytest.raises(NotFoundError):
        done.debug(0, round=2)


def test_debug_trains_a_clients_round_again() -> None:
    done = run().wait()
    x, y = DATA[1]
    want = train_client(PLAN, start_state(MODEL, PLAN), x, y, batch_size=8, seed=0, round=1, slot=1)
    assert_same(done.debug("client 1", round=1).diff, want.diff)
    failing = run(clients=broken(2, "label"), tolerate=1).wait()
    with pytest.raises(gk.GridkitError, match="99"):
        failing.debug("client 2")


def test_a_round_timeout_counts_the_slow_as_failed() -> None:
    with pytest.raises(WorkersFailed, match="NOT_ANSWERED"):
        run(round_timeout=1e-9).wait()


@pytest.mark.parametrize(
    "arguments",
    [
        {"clients": []},
        {"clients": [1]},
        {"clients": [(np.zeros((3, 12), np.float32), np.zeros(2, np.int64))]},
        {"clients": [(np.zeros((0, 12), np.float32), np.zeros(0, np.int64))]},
        {"rounds": 0},
        {"rounds": 1.5},
        {"batch_size": 0},
        {"local_epochs": 0},
        {"lr": -0.1},
        {"lr": float("nan")},
        {"fraction": 0.0},
        {"tolerate": 4},
        {"weighting": "loss"},
        {"strategy": "median"},
        {"seed": -1},
        {"engine": "pool"},
        {"keep_last": 0},
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_before_anything_starts(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        run(**arguments)


def test_a_plan_of_another_model_is_refused() -> None:
    with pytest.raises(gk.GridkitError, match=r"0\.weight"):
        simulate(mlp(13), PLAN, clients=DATA, rounds=1)


def test_training_loads_no_pandas_matplotlib_or_network() -> None:
    """They would delay the first round by more than it takes."""
    code = (
        "import sys; from tests.training import *; import gridkit as gk; data = shards(2); model = mlp();"
        "gk.simulate(model, plan_of(model, data), clients=data, rounds=1).wait();"
        "print(sorted({'pandas', 'matplotlib', 'httpx', 'sqlalchemy', 'starlette'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize("rule", [mean, trimmed, running])
def test_a_rule_of_ones_own(rule: Any) -> None:
    """The mean is federated averaging but for rounding, another rule isn't; the same plan gives the same bits."""
    iterative = rule is running
    plan = gk.averaging_plan(rule, MODEL, iterative=iterative)
    weighting = {"weighting": "equal"} if iterative else {}
    one, two = (run(strategy=plan, rounds=3, **weighting).wait() for _ in range(2))
    assert gk.verify(one, two)
    plain = run(rounds=3, **weighting).wait()
    apart = max(np.abs(one.state[name] - plain.state[name]).max() for name in plain.state)
    assert apart > 1e-3 if rule is trimmed else 0 < apart < 1e-6


def test_a_rule_that_does_not_fit_is_told_before_the_start() -> None:
    for plan, says in (
        (gk.averaging_plan(mean, torch.nn.Linear(2, 2)), "for this model of 276 averaged values"),
        (gk.averaging_plan(trimmed, MODEL), "a round of this training may have 2"),
    ):
        with pytest.raises(PlanError, match=says):
            run(strategy=plan, tolerate=2)
    with pytest.raises(UsageError, match="isn't told of weights"):
        run(strategy=gk.averaging_plan(running, MODEL, iterative=True))


def test_a_rule_that_fails_ends_the_training() -> None:
    plan = gk.averaging_plan(lambda updates, n: updates.mean(0) / 0, MODEL)
    with pytest.raises(
        RunError, match=r"round 1: the averaging plan failed: it makes values of '0\.weight' that are not"
    ):
        run(strategy=plan).wait()
