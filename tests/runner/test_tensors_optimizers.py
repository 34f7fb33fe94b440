"""Optimizers of a session give the bits of torch's own, and show what they keep."""

from __future__ import annotations

from inspect import signature
from typing import Any

import numpy as np
import pytest
import torch

from gridkit.errors import ErrorCode, PlanError
from gridkit.runner.tensors.optimizers import _KEEPS, KINDS
from gridkit.runner.tensors.session import TensorSession
from gridkit.runner.tensors.variables import Values, array_of
from tests.runner.tensors_peer import MIB, ref, same, session

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "SGD": [
        {"lr": 0.1},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        {"lr": 0.1, "momentum": 0.5, "dampening": 0.1, "maximize": True, "foreach": True},
    ],
    "Adam": [{}, {"lr": 0.01, "betas": [0.8, 0.9], "amsgrad": True}, {"fused": True}],
    "AdamW": [{"weight_decay": 0.1}],
    "RMSprop": [{"centered": True, "momentum": 0.9}],
    "Adagrad": [{"lr_decay": 0.1}],
}


def gradient(step: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return np.random.default_rng(step).normal(size=shape).astype(np.float32)


class Pair:
    """Two parameters, here and in a session, with an optimizer on each side."""

    def __init__(self, kind: str, options: dict[str, Any], groups: list[dict[str, Any]] | None = None) -> None:
        torch.set_num_threads(1)
        self.remote: TensorSession = session(preview=64)
        self.params: dict[str, torch.nn.Parameter] = {}
        for place, name in enumerate(("w", "b")):
            array = gradient(100 + place, ((4, 3), (3,))[place])
            self.params[name] = torch.nn.Parameter(torch.tensor(array))
            self.remote.create(name, array, True, True)
        groups = groups or [{"params": ["w", "b"]}]
        self.remote.create_optimizer("o", kind, groups, options)
        self.local = KINDS[kind](
            [{**group, "params": [self.params[name] for name in group["params"]]} for group in groups], **options
        )

    def step(self, number: int) -> None:
        for name, param in self.params.items():
            array = gradient(number, tuple(param.shape))
            self.remote.create("g", array)
            self.remote.update(name, "grad", ref("g"))
            self.remote.delete(["g"])
            param.grad = torch.tensor(array)
        told = self.remote.step("o")
        self.local.step()
        assert [variable.id for variable in told.variables] == list(self.params)

    def check(self) -> None:
        state = self.remote.state("o")
        for name, param in self.params.items():
            assert same(self.remote.read(name), array_of(param))
            for key, value in self.local.state[param].items():
                if value is None:
                    continue
                shown = state.kept[name][key]
                if isinstance(shown, Values):
                    assert shown.values is not None and same(shown.values, array_of(value)), (name, key)
                else:
                    assert shown == float(value), (name, key)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_those_of_torch(kind: str) -> None:
    for options in OPTIONS.get(kind, [{}]):
        pair = Pair(kind, options)
        for number in range(3):
            pair.step(number)
            pair.check()


def test_groups_have_options_of_their_own_and_a_schedule_may_change_them() -> None:
    pair = Pair("SGD", {"lr": 0.1}, [{"params": ["w"], "lr": 0.5}, {"params": ["b"]}])
    pair.step(0)
    state = pair.remote.set_options("o", 0, {"lr": 0.25, "momentum": 0.5})
    pair.local.param_groups[0].update(lr=0.25, momentum=0.5)
    assert [group["lr"] for group in state.groups] == [0.25, 0.1]
    assert [group["params"] for group in state.groups] == [["w"], ["b"]]
    for number in (1, 2):
        pair.step(number)
    pair.check()


def test_a_group_that_is_added_later() -> None:
    pair = Pair("Adam", {"lr": 0.1}, [{"params": ["w"]}])
    del pair.params["b"]
    pair.step(0)
    pair.remote.create("c", np.ones(2, np.float32), True, True)
    pair.params["c"] = torch.nn.Parameter(torch.ones(2))
    pair.local.add_param_group({"params": [pair.params["c"]], "lr": 0.3})
    assert pair.remote.add_group("o", {"params": ["c"], "lr": 0.3}).groups[1]["lr"] == 0.3
    pair.step(1)
    pair.check()
    with pytest.raises(PlanError, match="more than one parameter group"):
        pair.remote.add_group("o", {"params": ["c"]})


def test_gradients_are_cleared_to_none_or_to_zero() -> None:
    pair = Pair("SGD", {"lr": 0.1})
    pair.step(0)
    pair.remote.name_grad("w", "g")
    told = pair.remote.zero_grad("o", set_to_none=False)
    assert [v.id for v in told.variables] == ["w", "b"] and [v.id for v in told.changed] == ["g"]
    assert all(v.has_grad for v in told.variables) and not pair.remote.read("g").any()
    told = pair.remote.zero_grad("o")
    assert not any(v.has_grad for v in told.variables)
    assert pair.remote.step("o").variables == ()  # nothing to step


def test_what_an_optimizer_keeps_can_be_given_a_name() -> None:
    pair = Pair("SGD", {"lr": 0.1, "momentum": 0.9})
    with pytest.raises(PlanError, match="keeps no 'momentum_buffer'"):
        pair.remote.name_state("o", "w", "momentum_buffer", "m")
    pair.step(0)
    told = pair.remote.name_state("o", "w", "momentum_buffer", "m")
    assert told.variables[0].id == "m"
    for param in pair.params.values():
        param.grad = None
    pair.step(1)
    assert same(pair.remote.read("m"), array_of(pair.local.state[pair.params["w"]]["momentum_buffer"]))


def test_parameters_outlive_their_names_in_an_optimizer() -> None:
    pair = Pair("SGD", {"lr": 0.1, "momentum": 0.9})
    pair.step(0)
    held = pair.remote.held
    pair.remote.delete(["w"])
    assert pair.remote.held == held - 48  # its gradient went; parameter and momentum stay
    assert pair.remote.state("o").groups[0]["params"] == [None, "b"]
    pair.remote.step("o")
    pair.remote.delete(["o", "b"])
    assert (pair.remote.held, len(pair.remote)) == (0, 0)


def test_what_an_optimizer_will_keep_is_known_before() -> None:
    remote = session(memory=2 * MIB)
    remote.create("w", np.zeros(MIB // 4 // 2, np.float32), True)  # half a MiB, and as much for its gradient
    remote.create("g", np.zeros(MIB // 4 // 2, np.float32))
    remote.update("w", "grad", ref("g"))
    remote.delete(["g"])
    assert remote.held == MIB
    with pytest.raises(PlanError) as caught:  # three times half a MiB
        remote.create_optimizer("adam", "Adam", [{"params": ["w"]}], {"amsgrad": True})
    assert caught.value.code is ErrorCode.OUT_OF_MEMORY
    remote.create_optimizer("adam", "Adam", [{"params": ["w"]}], {})
    remote.create("more", np.zeros(1, np.float32))
    with pytest.raises(PlanError, match="what Adam keeps") as caught:
        remote.step("adam")
    assert caught.value.code is ErrorCode.OUT_OF_MEMORY
    assert remote.held == MIB + 4 and remote.state("adam").kept == {}
    remote.create_optimizer("sgd", "SGD", [{"params": ["w"]}], {"lr": 0.1})
    remote.step("sgd")


@pytest.mark.parametrize("kind", KINDS)
def test_no_optimizer_keeps_more_than_was_foreseen(kind: str) -> None:
    every = {"momentum": 0.9, "centered": True, "amsgrad": True}
    known = {name: value for name, value in every.items() if name in signature(KINDS[kind]).parameters}
    size = 64 * 64 * 4
    for options in ({}, known):
        remote = session(preview=64)
        remote.create("w", np.ones((64, 64), np.float32), True)
        remote.create_optimizer("o", kind, [{"params": ["w"]}], options)
        remote.call("torch.Tensor.sum", [ref("w")], {}, ["y"])
        remote.backward(["y"])
        remote.delete(["y"])
        remote.step("o")
        always, by_option = _KEEPS[kind]
        foreseen = always + sum(option in options for option in by_option)
        assert (remote.held - 2 * size) / size <= foreseen + 0.05


BAD = {
    "a name that isn't listed": ("create_optimizer", "p", "LBFGS", [{"params": ["w"]}], {}),
    "a name from elsewhere": ("create_optimizer", "p", "__class__", [{"params": ["w"]}], {}),
    "an option that it hasn't": ("create_optimizer", "p", "SGD", [{"params": ["w"]}], {"speed": 1}),
    "an option that a group hasn't": ("create_optimizer", "p", "SGD", [{"params": ["w"], "speed": 1}], {"lr": 1.0}),
    "a value that torch refuses": ("create_optimizer", "p", "SGD", [{"params": ["w"]}], {"lr": -1.0}),
    "a tensor for a number": ("create_optimizer", "p", "SGD", [{"params": ["w"]}], {"lr": ref("b")}),
    "no parameters": ("create_optimizer", "p", "SGD", [], {"lr": 0.1}),
    "a group without parameters": ("create_optimizer", "p", "SGD", [{"lr": 1.0}], {"lr": 0.1}),
    "a parameter that isn't there": ("create_optimizer", "p", "SGD", [{"params": ["q"]}], {"lr": 0.1}),
    "a variable's id": ("create_optimizer", "w", "SGD", [{"params": ["w"]}], {"lr": 0.1}),
    "an optimizer's id for a variable": ("create", "o", np.zeros(1, np.float32)),
    "a step of nothing": ("step", "p"),
    "a group that isn't there": ("set_options", "o", 1, {"lr": 0.1}),
    "other parameters": ("set_options", "o", 0, {"params": ["b"]}),
    "a value that torch refuses, later": ("set_options", "o", 0, {"lr": -1.0}),
    "an option that it hasn't, later": ("set_options", "o", 0, {"speed": 1.0}),
    "an option of an added group": ("add_group", "o", {"params": ["w"], "speed": 1.0}),
    "a step that isn't there": ("name_state", "o", "w", "step", "s"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_mistake_changes_nothing(what: str) -> None:
    pair = Pair("SGD", {"lr": 0.1})
    before = pair.remote.held, len(pair.remote), pair.remote.state("o")
    method, *args = BAD[what]
    with pytest.raises(PlanError) as caught:
        getattr(pair.remote, method)(*args)
    assert caught.value.hint and "\n" not in caught.value.message
    assert (pair.remote.held, len(pair.remote), pair.remote.state("o")) == before
