"""Training of one client: its bits depend on its arguments alone, and bad data is named."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gridkit.errors import PlanError, UsageError
from gridkit.plans.check import dry_run
from gridkit.plans.engines.pytorch import program
from gridkit.plans.optim import SGD, Adam, AdamW
from gridkit.plans.plan import Plan
from gridkit.plans.training import training_plan
from gridkit.workers.local import LocalResult, _uniform, one_thread, train_client


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(12, 9), nn.Linear(9, 5)
        self.register_buffer("scale", torch.ones(12))
        self.register_buffer("count", torch.tensor(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(F.relu(self.hidden(x * self.scale)))


torch.manual_seed(0)
MODEL = Model()
STATE = {k: v.numpy() for k, v in MODEL.state_dict().items()}
X = np.random.default_rng(0).standard_normal((21, 12)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 5, 21)
PLAN = training_plan(MODEL, F.cross_entropy, SGD(0.1, momentum=0.9), (X, Y))


def train(x: Any = X, y: Any = Y, plan: Plan = PLAN, state: Any = STATE, **options: Any) -> LocalResult:
    return train_client(plan, state, x, y, **{"batch_size": 8, "seed": 0, "round": 1, "slot": 0, **options})


def same(one: LocalResult, two: LocalResult) -> bool:
    return one.diff.keys() == two.diff.keys() and all(np.array_equal(one.diff[k], two.diff[k]) for k in one.diff)


def by_hand(batches: list[np.ndarray], lr: float = 0.1) -> tuple[dict[str, np.ndarray], float]:
    """Plain torch over those batches: the diff and the mean loss."""
    model = Model()
    model.load_state_dict({k: torch.tensor(v) for k, v in STATE.items()})
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    losses = []
    for chosen in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(torch.tensor(X[chosen])), torch.tensor(Y[chosen]))
        loss.backward()
        optimizer.step()
        losses.append(loss.item() * len(chosen))
    new = {k: v.numpy() for k, v in model.state_dict().items()}
    return {k: STATE[k] - new[k] for k in new if k != "count"}, sum(losses) / sum(map(len, batches))


def order(seed: int = 0, round: int = 1, slot: int = 0, epoch: int = 0) -> np.ndarray:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, round, slot, epoch)))).permutation(21)


def test_is_plain_training_bit_for_bit() -> None:
    chosen = [order(epoch=e)[i : i + 8] for e in range(2) for i in (0, 8, 16)]
    with one_thread():
        expected, loss = by_hand(chosen)
    result = train(epochs=2)
    assert list(result.diff) == [s.name for s in PLAN.averaged] == ["scale", *[k for k in expected if k != "scale"]]
    for name, diff in result.diff.items():
        assert diff.dtype == np.float32 and np.array_equal(diff, expected[name]), name
    assert result.samples == 21 and result.updates == 6
    assert result.metrics["loss"] == pytest.approx(loss, rel=1e-6)


def test_options() -> None:
    with one_thread():
        in_order, _ = by_hand([np.arange(21)[i : i + 10] for i in (0, 10, 20)], lr=0.02)
        first_two, _ = by_hand([order()[0:8], order()[8:16]])
    result = train(batch_size=10, shuffle=False, lr=0.02)
    assert all(np.array_equal(result.diff[k], in_order[k]) for k in in_order)
    result = train(max_updates=2, epochs=9)
    assert result.updates == 2 and all(np.array_equal(result.diff[k], first_two[k]) for k in first_two)
    assert train(batch_size=100).updates == 1


def test_every_key_of_the_order_counts() -> None:
    base = train()
    assert same(base, train())
    for other in ({"seed": 1}, {"round": 2}, {"slot": 1}):
        assert not same(base, train(**other))


@settings(max_examples=25)
@given(
    shift=st.integers(0, 15), threads=st.integers(1, 2), form=st.sampled_from(["array", "fortran", "tensor", "list"])
)
def test_bits_do_not_depend_on_where_the_data_lies(shift: int, threads: int, form: str) -> None:
    room = np.zeros(X.size + 16, np.float32)
    x: Any = room[shift : shift + X.size].reshape(X.shape)
    x[:] = X
    x = {"array": x, "fortran": np.asfortranarray(x), "tensor": torch.from_numpy(x), "list": x.tolist()}[form]
    if form == "list":
        x = np.array(x, np.float32)
    state = {k: np.lib.stride_tricks.as_strided(v, v.shape, v.strides, writeable=False) for k, v in STATE.items()}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        result = train(x, state=state)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert same(result, train())


def test_nothing_of_the_caller_changes() -> None:
    x, y, state = X.copy(), Y.copy(), {k: v.copy() for k, v in STATE.items()}
    train(x, y, state=state)
    assert np.array_equal(x, X) and np.array_equal(y, Y) and all(np.array_equal(state[k], STATE[k]) for k in state)
    assert torch.is_inference_mode_enabled() is False


def test_data_is_cast_where_that_is_safe() -> None:
    assert same(train(X.astype(np.float64)), train())
    assert same(train(y=Y.astype(np.int32)), train())
    assert train((X * 10).astype(np.int8)).updates == 3
    with pytest.raises(UsageError, match="y is float64, and the plan takes int64"):
        train(y=Y.astype(np.float64))
    with pytest.raises(UsageError, match="x is <U1, and the plan takes float32"):
        train(np.full((21, 12), "a"))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"x": X[:, :11]}, r"x is \[21, 11\], and the plan takes \[B, 12\]"),
        ({"x": X[0]}, r"x is \[12\], and the plan takes"),
        ({"x": X[:5]}, "5 inputs but 21 targets"),
        ({"x": X[:0], "y": Y[:0]}, "the data has no samples"),
        ({"y": Y + 1}, "label 5 in y: the model knows the classes 0 to 4"),
        ({"y": Y - 1}, "label -1 in y"),
        ({"y": np.where(Y == 0, -100, Y)}, "label -100 in y"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"epochs": 0}, "epochs=0"),
        ({"max_updates": 0}, "max_updates=0"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"lr": -0.1}, "lr=-0.1"),
        ({"seed": -1}, "seed, round and slot"),
    ],
)
def test_bad_data_and_arguments_are_named(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        train(**changes)


def test_ignored_labels_are_no_mistake() -> None:
    plan = training_plan(MODEL, nn.CrossEntropyLoss(ignore_index=-1), SGD(0.1), (X, Y))
    train(y=np.where(Y == 0, -1, Y), plan=plan)
    with pytest.raises(UsageError, match="label -2"):
        train(y=np.where(Y == 0, -2, Y), plan=plan)


def test_a_wrong_state_is_named() -> None:
    with pytest.raises(PlanError, match=r"no tensor 'out.bias'"):
        train(state={k: v for k, v in STATE.items() if k != "out.bias"})
    with pytest.raises(PlanError, match=r"tensor 'out.bias' of the model is float32\[4\]"):
        train(state={**STATE, "out.bias": np.zeros(4, np.float32)})
    with pytest.raises(PlanError, match=r"tensor 'out.bias' of the model is float64\[5\]"):
        train(state={**STATE, "out.bias": np.zeros(5)})


def test_a_plan_that_is_no_training_plan_is_refused() -> None:
    with pytest.raises(PlanError, match="no training plan: it has no input of role x"):
        train(plan=Plan("empty", (), (), ()))


def test_a_plan_with_its_inputs_in_another_order_gives_the_same() -> None:
    from dataclasses import replace

    turned = replace(PLAN, inputs=(*PLAN.inputs[-4:], *PLAN.inputs[:-4]))
    assert same(train(plan=Plan.from_bytes(turned.to_bytes())), train())


def test_the_dry_run_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    import gridkit.workers.local as local

    checked: list[int] = []
    monkeypatch.setattr(local, "dry_run", lambda plan, batch: checked.append(batch) or dry_run(plan, batch))
    train()
    assert checked == [8, 5]
    train(batch_size=7)
    assert checked == [8, 5, 7]


@pytest.mark.parametrize("optimizer", [SGD(0.1, 0.9), Adam(0.01), AdamW(0.01)], ids=str)
def test_steps_write_over_each_other_but_not_over_the_rounds_model(optimizer: Any) -> None:
    """Nor over the data: the second training starts where the first one did."""
    plan = training_plan(MODEL, F.cross_entropy, optimizer, (X, Y))
    state, x = {k: v.copy() for k, v in STATE.items()}, X.copy()
    for array in (*state.values(), x):
        array.setflags(write=False)
    one, two = (train(x, plan=plan, state=state, epochs=3) for _ in range(2))
    assert same(one, two) and all(np.array_equal(state[k], STATE[k]) for k in STATE)
    with one_thread(), torch.no_grad():
        current = [torch.tensor(STATE[s.name]) for s in plan.state]
        current += [torch.zeros(s.shape, dtype=getattr(torch, s.dtype)) for s in plan.optimizer_state]
        for chosen in (order(epoch=e)[i : i + 8] for e in range(3) for i in (0, 8, 16)):
            data = torch.tensor(X[chosen]), torch.tensor(Y[chosen])
            _, *current = program(plan, "interpreter")([*current, *data, torch.ones(len(chosen)), plan.lr])
    for spec, new in zip(plan.state, current, strict=False):
        if spec.name in one.diff:
            assert np.array_equal(one.diff[spec.name], STATE[spec.name] - new.numpy()), spec.name


def test_every_tensor_that_enters_the_plan_is_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    import gridkit.workers.local as local

    seen: list[int] = []
    real = local.program

    def watched(plan: Plan, **options: Any) -> Any:
        step = real(plan, **options)

        def call(values: list[Any]) -> list[Any]:
            seen.extend(v.data_ptr() % 64 for v in values if isinstance(v, torch.Tensor))
            return step(values)

        return call

    monkeypatch.setattr(local, "program", watched)
    train(batch_size=5)
    assert seen and set(seen) == {0}


def test_a_worker_needs_nothing_of_the_tracer() -> None:
    """Tracing loads sympy and torch._dynamo, over a second; training a plan that came as bytes must not."""
    code = (
        "import sys, numpy as np\n"
        "from gridkit.plans.plan import Plan\n"
        "from gridkit.workers.local import train_client\n"
        "plan = Plan.from_bytes(sys.stdin.buffer.read())\n"
        "state = {s.name: np.ones(s.shape, s.dtype) for s in plan.state}\n"
        "x, y = np.ones((5, 12), np.float32), np.zeros(5, np.int64)\n"
        "result = train_client(plan, state, x, y, batch_size=2, seed=0, round=1, slot=0)\n"
        "print(result.updates, *sorted({'sympy', 'torch._dynamo'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], input=PLAN.to_bytes(), capture_output=True, check=True)
    assert done.stdout.split() == [b"3"]


# ---- what layers add: chance, running statistics, tables


def dropout(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 9), nn.BatchNorm1d(9), nn.Dropout(0.5), nn.Linear(9, 5))


NOISY = dropout()
NOISY_STATE = {k: v.numpy() for k, v in NOISY.state_dict().items()}
NOISY_PLAN = training_plan(NOISY, F.cross_entropy, SGD(0.1), (X, Y))


def test_dropout_depends_on_seed_round_slot_and_step_alone() -> None:
    noisy = {"plan": NOISY_PLAN, "state": NOISY_STATE, "shuffle": False, "batch_size": 21}
    first = train(**noisy)
    torch.manual_seed(99)
    assert same(first, train(**noisy))
    for key in ("seed", "round", "slot"):
        assert not same(first, train(**noisy, **{key: 7}))
    once, twice = train(**noisy, epochs=1), train(**noisy, epochs=2)
    after = {k: v - once.diff[k] if k in once.diff else v for k, v in NOISY_STATE.items()}
    first_masks_again = train(**{**noisy, "state": after})
    second_step = twice.diff["0.weight"] - once.diff["0.weight"]
    assert np.abs(first_masks_again.diff["0.weight"] - second_step).max() > 1e-4


def test_running_statistics_are_part_of_the_diff_and_the_count_is_not() -> None:
    result = train(plan=NOISY_PLAN, state=NOISY_STATE, batch_size=21, shuffle=False)
    assert set(NOISY_STATE) - set(result.diff) == {"1.num_batches_tracked"}
    hidden = NOISY[0](torch.tensor(X)).detach()
    np.testing.assert_allclose(result.diff["1.running_mean"], -0.1 * hidden.mean(0), rtol=1e-4, atol=1e-6)


def test_masks_keep_the_share_that_dropout_asks_for() -> None:
    values = [v for step in range(40) for v in _uniform(NOISY_PLAN, 64, (0, 1, 2, step))]
    assert all(v.shape == (64, 9) and v.dtype == torch.float32 for v in values)
    together = torch.stack(values)
    assert together.min() >= 0 and together.max() < 1 and abs(float((together < 0.5).double().mean()) - 0.5) < 0.02


def test_a_token_outside_of_the_table_is_named() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 5))
    x = np.arange(21 * 3).reshape(21, 3) % 10
    plan = training_plan(model, F.cross_entropy, SGD(0.1), (x, Y))
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    train(x, plan=plan, state=state)
    for wrong in (10, -1):
        x[4, 1] = wrong
        with pytest.raises(UsageError, match=f"token {wrong} in x: the model knows the tokens 0 to 9"):
            train(x, plan=plan, state=state)


def test_a_short_last_batch_of_one_is_refused_before_training_where_batch_norm_needs_two() -> None:
    with pytest.raises(PlanError, match="B > 1; this batch has 1"):
        train(plan=NOISY_PLAN, state=NOISY_STATE, batch_size=20)
