"""Private tensors of a session: computed with, never shown."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch

from gridkit.errors import ErrorCode, PlanError, PrivacyError
from gridkit.runner.tensors.session import TensorSession
from gridkit.runner.tensors.variables import Told

SECRET = np.array([[1.5, -2.0, 3.25], [0.5, 7.0, -1.0]], np.float32)


def ref(id: str) -> dict[str, Any]:
    return {"__variable__": True, "variable_id": id}


@pytest.fixture
def session() -> TensorSession:
    made = TensorSession(64 << 20, 30.0, 10_000, preview=16)
    made.create("p", SECRET.copy(), private=True)
    made.create("x", np.ones((2, 3), np.float32), requires_grad=True)
    return made


def is_private(session: TensorSession, id: str) -> bool:
    variable = session._variables.told([id]).variables[0]
    assert (variable.data.values is None) == variable.private
    if variable.private:
        with pytest.raises(PrivacyError, match="private") as caught:
            session.read(id)
        assert caught.value.code is ErrorCode.PRIVATE
    else:
        session.read(id)
    return variable.private


def test_a_private_tensor_shows_its_shape_and_dtype_only(session: TensorSession) -> None:
    variable = session._variables.told(["p"]).variables[0]
    assert (variable.data.dtype, variable.data.shape, variable.data.values) == ("float32", (2, 3), None)
    assert is_private(session, "p")
    assert not is_private(session, "x")


def test_results_views_and_what_is_changed_in_place_are_private(session: TensorSession) -> None:
    session.call("torch.median", [ref("p"), 0], {}, ["values", "places"])
    session.call("torch.stack", [[ref("x"), ref("p")]], {}, ["stacked"])
    session.call("torch.Tensor.detach", [ref("x")], {}, ["view"])
    assert not is_private(session, "view")
    session.call("torch.Tensor.data.__get__", [ref("x")], {}, ["data"])
    session.call("torch.Tensor.copy_", [ref("data"), ref("p")], {}, ["data"])
    for id in ("values", "places", "stacked", "data", "view", "x"):
        assert is_private(session, id), id
    session.call("torch.zeros", [3], {}, ["zeros"])
    assert not is_private(session, "zeros")


def test_running_statistics_of_private_tensors_are_private(session: TensorSession) -> None:
    """torch doesn't count their change as a new version."""
    session.create("mean", np.zeros(3, np.float32))
    session.create("var", np.ones(3, np.float32))
    session.call("torch.nn.functional.batch_norm", [ref("p"), ref("mean"), ref("var")], {"training": True}, ["y"])
    assert is_private(session, "mean")
    assert is_private(session, "var")


def test_gradients_and_optimizers_are_private(session: TensorSession) -> None:
    seen: list[Any] = []
    session.call("torch.Tensor.mul", [ref("x"), ref("p")], {}, ["y"])
    session.call("torch.sum", [ref("y")], {}, ["z"])
    session.backward(["z"], emit=seen.append)
    shown = [g for event in seen for g in getattr(event, "gradients", ()) or (getattr(event, "gradient", None),)]
    assert shown and all(gradient is None or gradient.values is None for gradient in shown)
    session.name_grad("x", "g")
    assert is_private(session, "g")
    assert not is_private(session, "x")
    session.create_optimizer("o", "Adam", [{"params": ["x"]}], {"lr": 0.1})
    session.step("o")
    assert is_private(session, "x")
    state = session.state("o").kept["x"]
    assert [value.values for value in state.values()] == [None] * 3
    session.name_state("o", "x", "exp_avg", "m")
    assert is_private(session, "m")


def test_a_pass_through_what_became_private_later_is_private(session: TensorSession) -> None:
    """`x * w` keeps w, whose memory gets private values without torch's noticing."""
    session.create("w", np.ones((2, 3), np.float32))
    session.call("torch.Tensor.mul", [ref("x"), ref("w")], {}, ["y"])
    session.call("torch.sum", [ref("y")], {}, ["z"])
    session.call("torch.Tensor.data.__get__", [ref("w")], {}, ["w2"])
    session.call("torch.Tensor.copy_", [ref("w2"), ref("p")], {}, ["w2"])
    assert not is_private(session, "z")
    session.grad(["z"], ["x"], ["g"], retain_graph=True)
    assert is_private(session, "g")
    session.backward(["z"])
    session.name_grad("x", "g2")
    assert is_private(session, "g2")


def test_gradients_of_parameters_that_have_no_id_are_private(session: TensorSession) -> None:
    session.call("torch.Tensor.detach", [ref("x")], {}, ["view"])
    session.create_optimizer("o", "SGD", [{"params": ["x"]}], {"lr": 1.0})
    session.call("torch.Tensor.mul", [ref("x"), ref("p")], {}, ["y"])
    session.call("torch.sum", [ref("y")], {}, ["z"])
    session.delete(["x"])
    session.backward(["z"])
    session.step("o")
    assert is_private(session, "view")


def test_a_private_gradient_stays_so_when_others_are_added(session: TensorSession) -> None:
    session.call("torch.sum", [ref("x")], {}, ["s"])
    session.update("x", "grad", ref("p"))
    session.backward(["s"])
    session.name_grad("x", "g")
    assert is_private(session, "g")
    session.create("w", np.ones((2, 3), np.float32), requires_grad=True)
    session.append_grad("w", "p")
    session.name_grad("w", "h")
    assert is_private(session, "h")


@pytest.mark.parametrize(
    ("function", "args", "outs"),
    [
        ("torch.nonzero", [ref("p")], ["y"]),
        ("torch.unique", [ref("p")], ["y"]),
        ("torch.masked_select", [ref("x"), ref("mask")], ["y"]),
        ("torch.Tensor.__getitem__", [ref("x"), ref("mask")], ["y"]),
        ("torch.Tensor.__getitem__", [ref("x"), ref("place")], ["y"]),
        ("torch.bincount", [ref("places")], ["y"]),
        ("torch.arange", [ref("place")], ["y"]),
        ("torch.nn.functional.one_hot", [ref("places")], ["y"]),
        ("torch.full", [[2], ref("place")], ["y"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_hangs_on_values_is_refused_beforehand(
    session: TensorSession, function: str, args: list[Any], outs: list[str]
) -> None:
    session.call("torch.gt", [ref("p"), 0], {}, ["mask"])
    session.call("torch.argmax", [ref("p")], {}, ["place"])
    session.call("torch.argmax", [ref("p"), 1], {}, ["places"])
    with pytest.raises(PrivacyError, match="size depends on values"):
        session.call(function, args, {}, outs)
    session.call("torch.where", [ref("mask"), ref("p"), 0], {}, ["kept"])  # all is as it was
    assert is_private(session, "kept")


def test_the_first_failure_because_of_values_is_the_last(session: TensorSession) -> None:
    session.call("torch.argmax", [ref("p"), 1], {}, ["places"])
    with pytest.raises(PlanError, match="Number of dimensions") as caught:  # about shapes: told as it is
        session.call("torch.cat", [[ref("p"), ref("places")]], {}, ["y"])
    assert not isinstance(caught.value, PrivacyError)
    session.call("torch.index_select", [ref("x"), 1, ref("places")], {}, ["found"])
    assert is_private(session, "found")
    with pytest.raises(PrivacyError) as spoiled:
        session.call("torch.nn.functional.one_hot", [ref("places"), 2], {}, ["y"])  # place 2 is out of 2
    assert "index" not in str(spoiled.value)
    assert spoiled.value.__cause__ is None
    with pytest.raises(PrivacyError, match="can't be used any more"):
        session.call("torch.neg", [ref("p")], {}, ["y"])
    session.call("torch.neg", [ref("x")], {}, ["y"])
    assert not is_private(session, "y")
    session.create("next", SECRET.copy(), private=True)  # of the next round, say, when the function was mended
    session.call("torch.neg", [ref("next")], {}, ["z"])
    assert is_private(session, "z")


def test_a_graph_that_was_freed_is_told(session: TensorSession) -> None:
    session.call("torch.Tensor.mul", [ref("x"), ref("p")], {}, ["y"])
    session.call("torch.sum", [ref("y")], {}, ["z"])
    session.backward(["z"])
    with pytest.raises(PlanError, match="second time"):
        session.backward(["z"])
    with pytest.raises(PrivacyError, match="can't create a graph"):
        session.backward(["z"], create_graph=True)
    with pytest.raises(PlanError, match="scalar"):
        session.backward(["y"])
    with pytest.raises(PlanError, match="in-place"):
        session.call("torch.Tensor.add_", [ref("x"), ref("p")], {}, ["x"])
    session.call("torch.neg", [ref("p")], {}, ["n"])


def test_private_draws_leave_the_others_as_they_are(session: TensorSession) -> None:
    session.seed(3)
    session.call("torch.rand", [4], {}, ["a"])
    session.seed(3)
    session.call("torch.Tensor.abs", [ref("p")], {}, ["rates"])
    session.call("torch.poisson", [ref("rates")], {}, ["counts"])
    session.call("torch.rand", [4], {}, ["b"])
    assert np.array_equal(session.read("a"), session.read("b"))


def test_the_mark_goes_with_the_memory_and_not_before(session: TensorSession) -> None:
    for _ in range(5):
        session.create("q", SECRET.copy(), private=True)
        session.delete(["q"])
        gc.collect()
        told: Told = session.create("r", SECRET.copy())
        assert not told.variables[0].private
        session.delete(["r"])
    session.delete(["p"])
    assert not session._ledger._private


def test_torch_isnt_told_by_what_is_private(session: TensorSession) -> None:
    """Results are torch's own all the same: shown by a session in which they aren't private."""
    other = TensorSession(64 << 20, 30.0, 10_000, preview=16)
    other.create("p", SECRET)
    for each in (session, other):
        each.call("torch.median", [ref("p"), 0], {}, ["m", "i"])
        each.call("torch.Tensor.mul", [ref("m"), 2.0], {}, ["y"])
    expected = torch.from_numpy(SECRET).median(dim=0).values * 2
    assert np.array_equal(other.read("y"), expected.numpy())
    assert np.array_equal(session._variables.find("y").numpy(), expected.numpy())
