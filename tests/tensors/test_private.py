"""Private tensors of the node's in a notebook: a function computes with them, and nobody here sees their values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gridkit.errors import PrivacyError, UsageError
from gridkit.session import Session
from gridkit.wire.rpc.messages import Failure
from gridkit.wire.rpc.values import Variable
from tests.client.rpc_peer import Asked
from tests.tensors.tensor_peer import TensorPeer

DIFFS = np.array([[1.0, 2.0], [3.0, 40.0], [5.0, 6.0]], np.float32)


@pytest.fixture
def grid(peer: TensorPeer, grid: Session) -> Session:
    """Its node has a method "lend": a function is called with private tensors of the node's."""

    async def lend(asked: Asked) -> Any:
        peer.tell(asked.session, peer.tensors.create("n1", DIFFS.copy(), private=True))
        function = asked.params["function"].id
        said = await asked.session.ask("run_callable", callable_id=function, args=[Variable("n1")], kwargs={})
        if isinstance(said, Failure):
            return {"error": said.message}
        result = said.result["data"]
        if isinstance(result, Variable):
            result = peer.tensors._variables.find(result.id).tolist()
        peer.tensors.delete(["n1"])
        return {"result": result}

    peer.methods["lend"] = lend
    return grid


def test_a_function_computes_with_what_it_cant_read(grid: Session) -> None:
    seen: list[Any] = []

    def median(diffs: torch.Tensor) -> torch.Tensor:
        middle = diffs.median(dim=0).values
        for read in (diffs.get, middle.get, (middle * 0 + 1)[:1].get):  # type: ignore[attr-defined]
            with pytest.raises(PrivacyError, match="private") as caught:
                read()
            seen.append(str(caught.value))
        for asked in (bool, float, torch.Tensor.tolist, torch.Tensor.numpy):
            with pytest.raises(UsageError) as refused:
                asked(middle[0])
            assert "private ones" in str(refused.value.hint)
        seen.append((repr(diffs), diffs.shape, diffs.dtype))
        return middle

    with grid.expose(median) as exposed:
        assert grid.rpc.call("lend", {"function": exposed}) == {"result": [3.0, 6.0]}
    *errors, (shown, shape, dtype) = seen
    assert shown == "<remote tensor n1: float32[3, 2], private>" and (shape, dtype) == ((3, 2), torch.float32)
    assert len(errors) == 3 and all("3.0" not in error and "compute with it there" in error for error in errors)
    assert exposed.calls[0].args == "(remote float32[3, 2])" and exposed.calls[0].result == "remote float32[2]"


def test_private_arguments_cant_come_by_value(grid: Session) -> None:
    with grid.expose(lambda diffs: diffs.sum(), arguments="value") as exposed:
        answer = grid.rpc.call("lend", {"function": exposed})
    assert "private" in answer["error"]
    (call,) = exposed.calls
    assert call.error is not None and call.error.startswith("PrivacyError")


def test_sizes_that_hang_on_private_values_are_refused(grid: Session) -> None:
    seen: list[str] = []

    def picks(diffs: torch.Tensor) -> int:
        for pick in (lambda: diffs[diffs > 2], lambda: diffs.nonzero(), lambda: diffs.unique()):
            with pytest.raises(PrivacyError, match="size depends on values"):
                pick()
            seen.append("refused")
        return len(seen)

    with grid.expose(picks) as exposed:
        assert grid.rpc.call("lend", {"function": exposed}) == {"result": 3}
