"""Functions that stay in the notebook, called by a real node with tensors that stay there."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gridkit as gk
from gridkit import aio
from gridkit.errors import EvaluationFailed, GridkitError, NodeUnreachable, PlanError, RunError, UsageError
from gridkit.exposed import Exposed
from gridkit.session import Session
from gridkit.tensors.remote import AsyncRemoteTensor, RemoteTensor
from tests.support import TOKEN, NodeUnderTest


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data")
    yield node
    node.terminate()


@pytest.fixture(scope="module")
def grid(node: NodeUnderTest) -> Iterator[Session]:
    with gk.connect(node.url, token=TOKEN) as grid:
        yield grid


def until_gone(grid: Session, id: str) -> None:
    """The node was told that nobody has this any more."""
    deadline = time.monotonic() + 20
    while id in grid.rpc.mirror.variables:
        assert time.monotonic() < deadline
        gc.collect()
        time.sleep(0.02)


def accuracy(scores: torch.Tensor, labels: torch.Tensor, percent: bool = False) -> float:
    return float((scores.argmax(1) == labels).double().mean()) * (100 if percent else 1)


def test_a_private_metric_on_predictions_of_the_node(grid: Session) -> None:
    net = nn.Linear(4, 3)
    x, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    remote = grid.module(net)
    with grid.expose(accuracy, arguments="value") as metric:
        assert grid.evaluate(metric, remote(grid.tensor(x)), labels) == accuracy(net(x), labels)
        assert grid.evaluate(metric, remote(grid.tensor(x)), labels, percent=True) == 100 * accuracy(net(x), labels)
    first, second = metric.calls
    assert first.args == "(float32[6, 3], int64[6])" and second.args == "(float32[6, 3], int64[6], {percent=True})"
    assert first.came == 6 * 3 * 4 + 6 * 8 and first.result == repr(accuracy(net(x), labels))
    assert first.left == len(first.result) and first.error is None and first.function == "accuracy"


def test_by_reference_come_the_tensors_themselves(grid: Session) -> None:
    x, w = grid.tensor([1.0, 2.0], requires_grad=True), grid.tensor([3.0, 4.0])
    seen: list[Any] = []

    def loss(a: torch.Tensor, more: dict[str, Any]) -> torch.Tensor:
        seen.extend((a, more["w"], more["n"]))
        return (a * more["w"] * more["n"]).sum()

    with grid.expose(loss) as exposed:
        result = grid.evaluate(exposed, x, {"w": w, "n": 2})
    assert seen[0] is x and seen[1] is w and seen[2] == 2
    assert isinstance(result, RemoteTensor) and result.requires_grad
    result.backward()
    assert torch.equal(x.grad.get(), torch.tensor([6.0, 8.0]))
    (call,) = exposed.calls
    assert (call.args, call.result) == ("(remote float32[2], {w=remote float32[2], n=2})", "remote float32[]")


def test_a_result_by_reference_lives_as_long_as_it_is_held(grid: Session) -> None:
    x = grid.tensor([1.0, 2.0])
    with grid.expose(lambda a: [a + 1, {"twice": a * 2}]) as exposed:
        plus, rest = grid.evaluate(exposed, x)
    gc.collect()
    time.sleep(0.2)  # ids that nobody holds are told of by then
    assert torch.equal(plus.get(), torch.tensor([2.0, 3.0])) and torch.equal(
        rest["twice"].get(), torch.tensor([2, 4.0])
    )
    id = plus._core.id
    del plus
    until_gone(grid, id)
    assert torch.equal(rest["twice"].get(), torch.tensor([2.0, 4.0])) and torch.equal(x.get(), torch.tensor([1, 2.0]))


def test_what_goes_by_value_and_comes_by_value(grid: Session) -> None:
    given = [torch.arange(3), np.ones((2, 0)), torch.tensor(2.5), [True, None, "é"], torch.ones(2, requires_grad=True)]
    with grid.expose(lambda *args: (*args, {"half": torch.tensor([0.5]), "np": np.float32(1.5)})) as exposed:
        back = grid.evaluate(exposed, *given)
    assert isinstance(back, tuple) and torch.equal(back[0], given[0]) and back[0].dtype == torch.int64
    assert back[1].shape == (2, 0) and back[1].dtype == torch.float64 and back[2] == 2.5 and back[3] == given[3]
    assert back[4].tolist() == [1, 1] and back[5]["half"].tolist() == [0.5] and back[5]["np"] == 1.5


def test_what_it_raises_comes_with_its_type_and_is_the_cause(grid: Session) -> None:
    def fails(x: torch.Tensor) -> None:
        raise KeyError("no such label")

    with grid.expose(fails) as exposed:
        with pytest.raises(EvaluationFailed, match=r"^fails, .* raised KeyError: 'no such label' \(") as caught:
            grid.evaluate(exposed, grid.tensor([1.0]))
    assert isinstance(caught.value.__cause__, KeyError) and caught.value.__cause__.__traceback__ is not None
    (call,) = exposed.calls
    assert (call.result, call.error) == (None, "KeyError: 'no such label'")
    assert call.left > 2 * len("KeyError: 'no such label'"), "its own lines left, too"
    with grid.expose(lambda x: x @ x) as exposed, pytest.raises(EvaluationFailed, match="raised RuntimeError: "):
        grid.evaluate(exposed, grid.tensor([[1.0, 2.0]]))
    with grid.expose(lambda x: {1, 2}) as exposed, pytest.raises(RunError, match="a set can't be sent"):
        grid.evaluate(exposed, 1)


def test_a_function_may_use_the_session_and_be_called_again(grid: Session) -> None:
    with grid.expose(lambda a: float(a.get().sum()), name="inner") as inner:

        def outer(a: torch.Tensor) -> float:
            made = grid.tensor([10.0]) + a
            return 1 + float(grid.evaluate(inner, made))

        with grid.expose(outer) as exposed:
            assert grid.evaluate(exposed, grid.tensor([5.0])) == 16.0
    assert [call.function for call in (*inner.calls, *exposed.calls)] == ["inner", "outer"]


def test_a_slow_function_stops_nothing(grid: Session) -> None:
    free = threading.Event()
    with grid.expose(lambda: free.wait(20)) as exposed:
        done: list[Any] = []
        thread = threading.Thread(target=lambda: done.append(grid.evaluate(exposed)))
        thread.start()
        assert torch.equal((grid.tensor([1.0]) * 2).get(), torch.tensor([2.0])) and not done
        free.set()
        thread.join()
    assert done == [True]


def test_a_coroutine_function_runs_to_its_end(grid: Session) -> None:
    async def later(x: torch.Tensor) -> torch.Tensor:
        await asyncio.sleep(0.01)
        return x * 3

    with grid.expose(later) as exposed:
        assert grid.evaluate(exposed, grid.tensor([2.0])).get().item() == 6
    assert exposed.name == "later" and exposed.fn is later


def test_the_same_for_coroutines(node: NodeUnderTest) -> None:
    async def script() -> None:
        async with await aio.connect(node.url, token=TOKEN) as grid:
            x = grid.tensor([1.0, 2.0])

            async def fetches(a: AsyncRemoteTensor) -> float:
                return float((await (a + 1).get()).sum())

            def sums(a: torch.Tensor) -> float:
                return float(a.sum())

            with grid.expose(fetches) as by_reference, grid.expose(sums, arguments="value") as by_value:
                assert await grid.evaluate(by_reference, x) == 5.0
                assert await grid.evaluate(by_value, x) == 3.0
            with grid.expose(lambda a: a * 2) as twice:
                assert torch.equal(await (await grid.evaluate(twice, x)).get(), torch.tensor([2.0, 4.0]))
            assert by_value.calls[0].args == "(float32[2])"

    asyncio.run(script())


def test_whoever_stops_waiting_stops_the_function(node: NodeUnderTest) -> None:
    async def script() -> None:
        async with await aio.connect(node.url, token=TOKEN) as grid:
            begun, ended = asyncio.Event(), asyncio.Event()

            async def endless(x: AsyncRemoteTensor) -> None:
                begun.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    ended.set()

            with grid.expose(endless) as exposed:
                waiting = asyncio.create_task(grid.evaluate(exposed, grid.tensor([1.0])))
                await begun.wait()
                waiting.cancel()
                await asyncio.wait_for(ended.wait(), 20)
            assert torch.equal(await (grid.tensor([1.0]) + 1).get(), torch.tensor([2.0]))

    asyncio.run(script())


def test_results_leave_nothing_behind(grid: Session) -> None:
    x = grid.tensor([1.0, 2.0])
    with grid.expose(lambda a: a * 2) as exposed:
        ids = [grid.evaluate(exposed, x)._core.id for _ in range(30)]
    for id in ids:
        until_gone(grid, id)
    core = grid._core._tensors()
    assert not set(ids) & set(core.handles) and not grid.rpc._core._callables.runs


def test_how_long_it_is_exposed(grid: Session) -> None:
    exposed = grid.expose(len)
    assert grid.evaluate(exposed, [1, 2, 3]) == 3
    assert not exposed.closed
    exposed.close()
    assert exposed.closed and "closed" in repr(exposed)
    with pytest.raises(UsageError, match="the node can't call len: it is closed"):
        grid.evaluate(exposed, [1])
    assert len(exposed.calls) == 1
    count = len(grid.rpc._core._callables)
    held = grid.expose(len)
    assert len(grid.rpc._core._callables) == count + 1
    del held
    gc.collect()
    assert len(grid.rpc._core._callables) == count


def test_mistakes(grid: Session, node: NodeUnderTest) -> None:
    with pytest.raises(UsageError, match="isn't exposed"):
        grid.evaluate(accuracy, 1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="can't be called"):
        grid.expose(3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="can't be called"):
        grid.rpc.expose("accuracy")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="name=3"):
        grid.expose(accuracy, name=3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="arguments='copy'"):
        grid.expose(accuracy, arguments="copy")  # type: ignore[arg-type]
    with gk.connect(node.url, token=TOKEN) as other, grid.expose(lambda x: foreign) as exposed:
        foreign = other.tensor([1.0])
        with pytest.raises(UsageError, match="another session"):
            grid.evaluate(exposed, foreign)
        with pytest.raises(RunError, match="another session"):
            grid.evaluate(exposed, 1)
        with pytest.raises(UsageError, match="another session"):
            grid.rpc.call("echo", {"x": foreign})
        with pytest.raises(UsageError, match="the node can't call <lambda>: it was exposed by another session"):
            other.evaluate(exposed, 1)
        theirs = other.expose(accuracy)
    with pytest.raises(NodeUnreachable, match="closed"):
        other.evaluate(theirs, 1)
    for args, out_ids in (([1], []), ([], []), ([1, exposed], ["v"])):
        params = {"function_name": "Evaluate", "args": args, "kwargs": {}, "out_ids": out_ids, "grad_enabled": True}
        with pytest.raises(GridkitError, match="Evaluate"):
            grid.rpc.call("run_function", params)


def test_what_cant_be_sent_has_not_left(grid: Session) -> None:
    def labels() -> set[int]:
        return {1, 2}

    with grid.expose(labels) as exposed:
        with pytest.raises(RunError, match="what labels gave can't leave the notebook: a set can't be sent") as caught:
            grid.evaluate(exposed)
        (call,) = exposed.calls
    assert caught.value.hint is not None and "lists, tuples" in caught.value.hint
    assert call.result is None and call.error is not None and "a set can't be sent" in call.error


def test_the_list_of_what_left(grid: Session) -> None:
    with grid.expose(lambda x: x.get() * 2, name="<b>double</b>") as exposed:
        grid.evaluate(exposed, grid.tensor([123456.0, 2.0]))
        grid.evaluate(exposed, grid.tensor([1.0]))
    calls = exposed.calls
    assert isinstance(exposed, Exposed) and len(calls) == 2 and calls[1:][0] == calls[-1]
    assert calls == list(calls) and calls != []
    assert repr(calls).splitlines() == [
        "2 calls of <b>double</b> by the node; 12 bytes left the notebook",
        "  <b>double</b>(remote float32[2]) -> float32[2]",
        "  <b>double</b>(remote float32[1]) -> float32[1]",
    ]
    for html in (calls._repr_html_(), exposed._repr_html_()):
        assert "<b>" not in html and "&lt;b&gt;double" in html and "123456" not in html
    frame = calls.to_frame()
    assert list(frame.columns) == ["at", "function", "args", "came", "result", "error", "left", "seconds"]
    assert frame["left"].tolist() == [8, 4] and str(frame["at"].dt.tz) == "UTC"
    assert list(grid.rpc.called)[-2:] == list(calls) and "of this notebook's functions" in repr(grid.rpc.called)
    assert repr(grid.expose(len).calls) == "0 calls of len by the node; 0 bytes left the notebook"
    assert len(grid.expose(len).calls.to_frame()) == 0


def test_tensors_in_calls_of_ones_own(grid: Session) -> None:
    x = grid.tensor([1.0, 2.0]) * 2
    back = grid.rpc.call("echo", {"a": torch.arange(3), "b": torch.tensor([1.5], dtype=torch.bfloat16), "x": [x]})
    assert back["a"].tolist() == [0, 1, 2] and back["b"].dtype == np.float32 and back["x"] == [x.reference]
    params = {"function_name": "torch.add", "kwargs": {"alpha": 10}, "out_ids": ["mine"], "grad_enabled": False}
    grid.rpc.call("run_function", {**params, "args": [x, torch.ones(2)]})
    assert grid.rpc.call("get_variable", {"variable_id": "mine"})["data"].tolist() == [12, 14]
    params |= {"function_name": "torch.stack", "kwargs": {}, "out_ids": ["other"]}
    grid.rpc.call("run_function", {**params, "args": [[torch.zeros(2), torch.ones(2)], 0]})
    assert grid.rpc.call("get_variable", {"variable_id": "other"})["data"].tolist() == [[0, 0], [1, 1]]
    grid.rpc.call("delete_variables", {"variable_ids": ["mine", "other"]})
    with pytest.raises(PlanError, match="no tensor"):
        grid.rpc.call("get_variable", {"variable_id": "mine"})
