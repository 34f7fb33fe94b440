"""A model goes to bytes and comes back: the same names and values, the same bits, gradients that flow."""

from __future__ import annotations

import copy
import dataclasses
import io
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gridkit as gk
from gridkit.errors import PlanError, UsageError, WireError
from gridkit.plans.model import Model, PlanModule, model_plan, pack, unpack
from gridkit.plans.model_form import check_model, smallest_batch
from gridkit.wire.model import ModelFile, pack_model
from gridkit.wire.safetensors import Packed
from tests.plans.layers import ATTENTION, BATCH_NORM, DROPOUT, EMBEDDING
from tests.plans.layers_more import ARRANGING, RECURRENT

LAYERS = {**DROPOUT, **BATCH_NORM, **EMBEDDING, **ATTENTION, **RECURRENT, **ARRANGING}

pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def again(model: Model, example: Any = None) -> PlanModule:
    return opened(pack(model, example))


def opened(packed: Packed) -> PlanModule:
    data = bytearray(packed.tobytes())
    return unpack(ModelFile(io.BytesIO(data)), data)


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


# Not the same for everybody: they draw random numbers, or keep something, in eval mode too
RESTLESS = ("dropout of weights", "dropout, batch second", "dropout in scaled_dot_product", "a buffer of one's own")


@pytest.mark.parametrize("name", RESTLESS)
def test_layers_that_change_in_eval_mode_are_refused(name: str) -> None:
    with pytest.raises(PlanError, match="in eval mode"):
        pack(LAYERS[name].make(), LAYERS[name].inputs(3))


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in RESTLESS])
def test_every_layer_predicts_bit_equal_and_learns_the_same(name: str) -> None:
    layer = LAYERS[name]
    torch.manual_seed(1)
    model = layer.make().eval()
    back = again(model, layer.inputs(max(3, layer.smallest)))
    assert list(back.state_dict()) == list(model.state_dict())
    x = layer.inputs(max(5, layer.exact))
    # LSTM in float32: oneDNN's kernel has other bits than torch's own, which the plan has
    with torch.backends.mkldnn.flags(enabled=False) if "lstm" in name else nullcontext():
        want = model(x)
        got = back(x)
        assert torch.equal(got, want)
        with torch.no_grad():
            assert torch.equal(back(x), got)
        want.square().sum().backward()
        got.square().sum().backward()
    grads = dict(back.named_parameters())
    for key, param in model.named_parameters():
        if param.grad is not None:
            torch.testing.assert_close(grads[key].grad, param.grad, rtol=1e-4, atol=1e-5)


def test_it_is_a_module_like_the_original() -> None:
    model = mlp()
    back = again(model, torch.randn(2, 6))
    assert [n for n, _ in back.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert [n for n, _ in back.named_buffers()] == [n for n, _ in model.named_buffers()]
    fresh = mlp()
    nn.init.zeros_(fresh[0].weight)
    fresh.load_state_dict(back.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), model.state_dict().values(), strict=True))
    assert "Plan 'Sequential'" in repr(back)
    twin = copy.deepcopy(back)
    twin.get_parameter("0.weight").data.zero_()
    assert back.get_parameter("0.weight").any()


def test_the_original_keeps_its_mode_and_its_random_numbers() -> None:
    model = mlp().train()
    state = torch.get_rng_state()
    pack(model, torch.randn(2, 6))
    torch.set_rng_state(state)
    before = torch.rand(1)
    torch.set_rng_state(state)
    model_plan(model, torch.ones(2, 6))
    assert torch.equal(torch.rand(1), before)
    assert model.training and all(part.training for part in model)


def test_a_downloaded_model_can_be_trained_further() -> None:
    back = again(mlp(), torch.randn(2, 6))
    x, y = torch.randn(32, 6), torch.randint(0, 3, (32,))
    optimizer = torch.optim.Adam(back.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.cross_entropy(back(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_and_served_again_without_an_example() -> None:
    back = again(mlp(), torch.randn(2, 6))
    back.get_parameter("4.bias").data.fill_(7.0)
    x = torch.randn(4, 6)
    assert torch.equal(again(back)(x), back(x))
    plan = gk.training_plan(back, F.cross_entropy, gk.SGD(lr=0.1), (x, torch.randint(0, 3, (4,))))
    assert [p.name for p in plan.state] == list(back.state_dict())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 6, bias=False), nn.Linear(6, 4)
        self.again = self.encoder

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.decoder(self.again(x) + self.encoder(x))
        return out


def test_tied_weights_stay_one() -> None:
    model = Tied()
    back = again(model, torch.randn(2, 4))
    assert list(back.state_dict()) == list(model.state_dict())
    assert back.get_parameter("again.weight") is back.get_parameter("encoder.weight")
    assert len(list(back.parameters())) == len(list(model.parameters()))
    x = torch.randn(3, 4)
    want, got = model(x), back(x)
    assert torch.equal(want, got)
    want.sum().backward()
    got.sum().backward()
    torch.testing.assert_close(back.get_parameter("encoder.weight").grad, model.encoder.weight.grad)


def test_ties_that_lie_are_refused() -> None:
    plan = model_plan(Tied(), torch.randn(2, 4))
    state = {k: t.numpy().copy() for k, t in Tied().state_dict().items()}
    state["again.weight"] = state["again.weight"] + 1
    with pytest.raises(WireError, match=r"'again.weight' is said to be its 'encoder.weight', but differs"):
        opened(pack_model(plan.to_bytes(), state, {"again.weight": "encoder.weight"}))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plan = nn.Linear(3, 2)  # a name that PlanModule's own attributes could have

    def forward(self, x: torch.Tensor, y: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.plan(x) + self.plan(y), (x * scale).sum(1)


def test_several_arguments_and_results() -> None:
    model = Two()
    back = again(model, (torch.randn(2, 3), torch.randn(2, 3), torch.randn(3)))
    plan = model_plan(model, (torch.randn(2, 3), torch.randn(2, 3), torch.randn(3)))
    assert [(i.name, i.shape) for i in plan.inputs[2:]] == [("x", ("B", 3)), ("y", ("B", 3)), ("scale", (3,))]
    given = torch.randn(7, 3), torch.randn(7, 3), torch.randn(3)
    assert all(torch.equal(a, b) for a, b in zip(model(*given), back(*given), strict=True))
    with pytest.raises(UsageError, match=r"takes 3 tensors \(x, y, scale\), got 1"):
        back(given[0])
    with pytest.raises(PlanError, match="input 'y'"):
        back(given[0], given[1][:, :2], given[2])
    with pytest.raises(PlanError, match="float64"):
        back(given[0].double(), given[1], given[2])


def test_plans_of_functions_are_models_too() -> None:
    @gk.plan(args=(gk.spec("B", 3), gk.spec("B")))
    def weighted(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return (x * w[:, None]).sum(0) / w.sum()

    back = again(weighted)
    x, w = torch.randn(5, 3), torch.rand(5)
    assert torch.equal(back(x, w), weighted(x, w)) and not back.state_dict()


class Remembers(nn.Module):
    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.in_place:
            self.seen += x.sum(0)
        else:
            self.seen = self.seen + x.sum(0)
        return x + self.seen


class Reads(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class Dict(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"x": x}


class Noise(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, 0.5, training=True)


class Sorts(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.qr(x).Q


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Remembers(True), "in place"),
        (Remembers(False), "gives its buffer 'seen' a new value"),
        (Reads(), r"reads a tensor's value.*test_model.py:\d+: return x if x.sum\(\) > 0"),
        (Dict(), "gave dict, expected a tensor"),
        (Noise(), "random numbers"),
        (Sorts(), r"can't hold the operation aten.linalg_qr.*test_model.py:\d+: return torch.linalg.qr"),
        (nn.Linear(2, 2), "same reduction dim"),
        (nn.LazyLinear(2), "lazy module"),
    ],
)
def test_what_cannot_be_a_plan_is_told_with_its_line(model: nn.Module, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        pack(model, torch.ones(2, 3))


def test_tracing_copies_no_tensor() -> None:
    model = nn.Sequential(nn.Linear(2000, 2000), nn.BatchNorm1d(2000), nn.Linear(2000, 3))
    mine = {t.data_ptr() for t in model.state_dict().values()}
    packed = pack(model, torch.ones(2, 2000))
    lying = {np.frombuffer(part, np.uint8).ctypes.data for part in packed._parts}
    assert mine <= lying
    assert all(t.data_ptr() in mine for t in model.state_dict().values())


@pytest.mark.parametrize("example", ["text", None, (), torch.zeros(0, 6), [torch.ones(2, 6), object()]])
def test_examples_that_are_none(example: Any) -> None:
    with pytest.raises(UsageError, match="example"):
        pack(mlp(), example)


def test_models_that_are_none() -> None:
    with pytest.raises(UsageError, match="model is dict"):
        pack({}, torch.ones(1))  # type: ignore[arg-type]
    for plan in (model_plan(mlp(), torch.ones(2, 6)), training()):
        with pytest.raises(UsageError, match=r"serve the model itself|which it doesn't hold"):
            pack(plan)


def training() -> gk.Plan:
    return gk.training_plan(mlp(), F.cross_entropy, gk.SGD(lr=0.1), (torch.ones(2, 6), torch.zeros(2).long()))


# ---- what comes from elsewhere


def parts() -> tuple[gk.Plan, dict[str, np.ndarray]]:
    model = mlp()
    return model_plan(model, torch.ones(2, 6)), {k: t.numpy() for k, t in model.state_dict().items()}


def checked(plan: gk.Plan, state: dict[str, np.ndarray]) -> gk.Plan:
    return check_model(ModelFile(io.BytesIO(pack_model(plan.to_bytes(), state).tobytes())))


def test_a_model_passes_the_nodes_check() -> None:
    plan, state = parts()
    assert checked(plan, state).to_bytes() == plan.to_bytes()


def test_plan_and_tensors_must_fit() -> None:
    plan, state = parts()
    name = "0.weight"
    turned = {k: state[k] for k in (*list(state)[1:], name)}
    for wrong in (
        {k: v for k, v in state.items() if k != name},
        {**state, "more": state[name]},
        {**state, name: state[name].astype(np.float64)},
        {**state, name: state[name].T},
        turned,
        {},
    ):
        with pytest.raises(PlanError, match="the plan takes"):
            checked(plan, wrong)


def test_training_plans_and_plans_without_arguments_are_no_models() -> None:
    with pytest.raises(PlanError, match="no model's"):
        checked(training(), {})
    plan, state = parts()
    alone = gk.Plan("alone", plan.inputs[:1], (), ())
    with pytest.raises(PlanError, match="takes no tensor"):
        checked(alone, state)


def test_a_plan_that_asks_for_too_much_is_refused_before_it_runs() -> None:
    plan, state = parts()
    file = ModelFile(io.BytesIO(pack_model(plan.to_bytes(), state).tobytes()))
    check_model(file, budget=1000)
    with pytest.raises(PlanError, match="100 are allowed"):
        check_model(file, budget=100)


@pytest.mark.parametrize(
    ("guard", "size"), [(("ge", "B", 100), 100), (("gt", "B", 100), 101), (("eq", ("mod", "B", 70), 0), 70), ("B", 1)]
)
def test_a_model_is_tried_with_a_batch_that_it_takes(guard: Any, size: int) -> None:
    plan, state = parts()
    picky = dataclasses.replace(plan, guards=(guard,))
    assert smallest_batch(picky) == size
    checked(picky, state)


@pytest.mark.parametrize("name", ["forward", "_parameters", "a..b", "__class__", "training", ".", "a.forward.b"])
def test_names_that_no_module_can_have(name: str) -> None:
    plan, _ = parts()
    inputs = (gk_input(plan, name), *plan.inputs[-1:])
    odd = gk.Plan("odd", inputs, (), ())
    with pytest.raises(WireError, match="no module can hold"):
        PlanModule(odd, {name: torch.zeros(8, 6)})


def gk_input(plan: gk.Plan, name: str) -> Any:
    first = plan.inputs[0]
    return type(first)(first.id, name, first.role, first.dtype, first.shape)
