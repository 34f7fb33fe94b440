"""The mirror of what lives on a node: graph, variables, and reads that wait for their passes."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import numpy as np
import pytest

from gridkit.client.rpc import RpcClient
from gridkit.client.rpc_mirror import KEPT_GRADIENTS, MAX_EARLY, Mirror
from gridkit.errors import ErrorCode, NodeUnreachable, NotFoundError, RunError
from gridkit.wire.rpc.messages import Notification, batched
from gridkit.wire.rpc.v1 import Tensor
from tests.client.rpc_peer import Asked, Peer, awaited
from tests.client.test_rpc import until

FACTS: dict[str, Any] = {
    "data": Tensor(dtype="float32", shape=[2]),
    "requires_grad": True,
    "is_leaf": False,
    "parameter": False,
    "retains_grad": False,
    "output_nr": 0,
    "has_grad": False,
    "version": 0,
}
WIRE = {**FACTS, "data": {"dtype": "float32", "shape": [2]}}


def product(mirror: Mirror) -> None:
    """``y = x * x``, told in the order of the protocol."""
    mirror.create_variable("x", grad_fn=None, **{**FACTS, "is_leaf": True})
    mirror.create_node(1, "AccumulateGrad", variable_id="x")
    mirror.create_node(2, "MulBackward0")
    mirror.create_edge(2, 1, 0, 0)
    mirror.create_edge(2, 1, 0, 1)
    mirror.create_variable("y", grad_fn=2, **FACTS)
    mirror.settle()


def test_the_graph_is_as_it_was_told() -> None:
    mirror = Mirror()
    product(mirror)
    fn = mirror.variable("y").grad_fn
    assert fn is not None and fn.name == "MulBackward0"
    assert [(edge and edge[0].name, edge and edge[1]) for edge in fn.next_functions] == [("AccumulateGrad", 0)] * 2
    assert mirror.variable("x").grad_fn is None and repr(mirror) == "<Mirror of 2 variables and 2 nodes>"
    mirror.create_edge(2, None, 0, 3)
    assert fn.next_functions[2:] == [None, None]
    mirror.free_nodes([2, 99])
    mirror.node_fired("p", 2)
    mirror.node_fired("p", 99)
    assert fn.freed and fn.fired == "p" and repr(fn) == "<MulBackward0 2, freed>"


def test_a_pass_may_be_told_of_before_the_nodes_that_it_went_through() -> None:
    """Its messages wait for nothing; those that make the nodes wait for room."""
    mirror = Mirror()
    mirror.create_node(1, "AccumulateGrad")
    mirror.node_fired("p", 3)
    mirror.node_fired("p", 2)
    mirror.create_node(2, "MulBackward0")
    mirror.create_node(3, "SumBackward0")
    assert [mirror.node(id).fired for id in (1, 2, 3)] == [None, "p", "p"]
    assert mirror.node(3).order < mirror.node(2).order
    mirror.settle()
    for id in (1, 2):
        mirror.node_fired("q", id)  # these are gone: nothing led to them
    assert not mirror._early
    for id in range(10, 10 + 2 * MAX_EARLY):
        mirror.node_fired("q", id)
    assert len(mirror._early) == MAX_EARLY
    mirror.lose(RunError("over"))
    assert not mirror._early


def test_weak_spot_13_nodes_go_with_the_variables_that_lead_to_them() -> None:
    """Nothing was ever removed."""
    mirror = Mirror()
    product(mirror)
    mirror.create_node(3, "AddBackward0")
    mirror.create_edge(3, 2, 0, 0)
    mirror.create_variable("z", grad_fn=3, **FACTS)
    mirror.settle()
    mirror.forget(["y", "unknown"])
    gc.collect()
    assert sorted(mirror.nodes) == [1, 2, 3]
    mirror.forget(["z"])
    gc.collect()
    assert sorted(mirror.nodes) == [] and list(mirror.variables) == ["x"]


def test_registries_are_flat_over_many_operations() -> None:
    mirror = Mirror()
    mirror.create_variable("w", grad_fn=None, **FACTS)
    for step in range(2000):
        mirror.create_node(2 * step, "MulBackward0")
        mirror.create_node(2 * step + 1, "SumBackward0")
        mirror.create_edge(2 * step + 1, 2 * step, 0, 0)
        mirror.create_variable("loss", grad_fn=2 * step + 1, **FACTS)
        mirror.settle()
        mirror.begin(f"p{step}", "backward")
        mirror.append_grad("w", FACTS["data"], f"p{step}", None)
        mirror.end(f"p{step}", ["w"], None)
    assert len(mirror.nodes) == 2 and not mirror._passes and not mirror._failed and not mirror._new
    assert len(mirror.variable("w").gradients) == KEPT_GRADIENTS


def test_what_is_not_known_is_said_and_changes_nothing() -> None:
    mirror = Mirror()
    product(mirror)
    for wrong in (
        lambda: mirror.create_edge(2, 9, 0, 0),
        lambda: mirror.create_edge(9, 2, 0, 0),
        lambda: mirror.create_variable("z", grad_fn=9, **FACTS),
        lambda: mirror.update_variable("z", "version", 1, 1),
        lambda: mirror.update_variable("y", "grad_fn", 9, 1),
        lambda: mirror.append_grad("z", FACTS["data"], None, None),
    ):
        with pytest.raises(NotFoundError):
            wrong()
    assert list(mirror.variables) == ["x", "y"] and mirror.variable("y").version == 0
    fn = mirror.variable("y").grad_fn
    assert fn is not None and len(fn.next_functions) == 2


def test_updates_and_gradients() -> None:
    mirror = Mirror()
    product(mirror)
    y = mirror.variable("y")
    mirror.create_node(3, "AddBackward0")
    mirror.update_variable("y", "grad_fn", 3, version=1)
    assert y.grad_fn is not None and y.grad_fn.name == "AddBackward0" and y.version == 1
    mirror.append_grad("y", FACTS["data"], "p1", "g1")
    assert y.has_grad and y.gradients[-1].pass_id == "p1"
    mirror.update_variable("y", "has_grad", False, version=1)
    assert not y.has_grad and not y.gradients
    mirror.update_model("m", "calls", 3)
    assert mirror.models == {"m": {"calls": 3}}


async def is_waiting(reading: asyncio.Task[Any]) -> bool:
    for _ in range(5):
        await asyncio.sleep(0)
    return not reading.done()


@awaited
async def test_weak_spot_6_a_read_waits_for_its_own_pass_and_no_other() -> None:
    """A clear for the first pass released readers while the second one ran."""
    mirror = Mirror()
    product(mirror)
    mirror.begin("p1", "backward", ["x"])
    reading = asyncio.create_task(mirror.ready("x", "backward"))
    assert await is_waiting(reading)
    mirror.begin("p2", "backward", ["x"])
    second = asyncio.create_task(mirror.ready("x", "backward"))
    mirror.begin("s", "step", ["x"])
    mirror.end("p1", ["x"], None)
    assert await reading is mirror.variable("x") and await is_waiting(second)
    assert (await mirror.ready("y", "backward")).id == "y", "nothing pending touches it"
    newest = mirror.pending("x", "backward")
    assert newest is not None and newest.id == "p2" and mirror.pending("x", "step") is not None
    mirror.end("p2", ["x"], None)
    assert await second is mirror.variable("x")


@awaited
async def test_weak_spot_6_passes_may_end_in_any_order_and_before_anyone_asks() -> None:
    """The flag could be set after its clear had come."""
    mirror = Mirror()
    product(mirror)
    mirror.begin("p1", "backward")  # may touch anything
    mirror.begin("p2", "backward", ["x"])
    mirror.end("p2", ["x"], None)
    reading = asyncio.create_task(mirror.ready("x", "backward"))
    assert await is_waiting(reading)
    mirror.end("p1", ["y"], None)
    await reading
    mirror.end("p1", ["y"], None)
    mirror.end("never", ["x"], RunError("?"))
    await mirror.ready("x", "backward")


@awaited
async def test_weak_spot_6_a_pass_that_fails_ends_reads_with_the_reason() -> None:
    mirror = Mirror()
    product(mirror)
    for known in (["x"], None):
        mirror.begin("p1", "backward", known)
        reading = asyncio.create_task(mirror.ready("x", "backward"))
        assert await is_waiting(reading)
        mirror.end("p1", known, RunError("a second time through a freed graph", code=ErrorCode.BAD_INPUT))
        for late in (reading, mirror.ready("x", "backward")):
            with pytest.raises(RunError, match=r"x: a second time") as found:
                await late
            assert found.value.code is ErrorCode.BAD_INPUT
        await mirror.ready("x", "step")
        mirror.begin("p2", "backward", ["x"])
        mirror.end("p2", ["x"], None)
        await mirror.ready("x", "backward")


@awaited
async def test_an_older_pass_that_fails_late_does_not_hide_a_newer_one() -> None:
    mirror = Mirror()
    product(mirror)
    mirror.begin("p1", "backward", ["x"])
    mirror.begin("p2", "backward", ["x"])
    mirror.end("p2", ["x"], RunError("newer"))
    mirror.end("p1", ["x"], None)
    with pytest.raises(RunError, match="newer"):
        await mirror.ready("x", "backward")


@awaited
async def test_a_lost_session_ends_all_reads() -> None:
    mirror = Mirror()
    product(mirror)
    mirror.begin("p1", "backward")
    reading = asyncio.create_task(mirror.ready("x", "backward"))
    assert await is_waiting(reading)
    mirror.lose(NodeUnreachable("gone"))
    for late in (reading, mirror.ready("x", "step")):
        with pytest.raises(NotFoundError, match=r"'x'.*lost: gone") as found:
            await late
        assert found.value.code is ErrorCode.SESSION_LOST
    gc.collect()
    assert not mirror.nodes and "lost: gone" in repr(mirror)


@awaited
async def test_weak_spot_7_everything_of_a_call_is_there_when_it_returns() -> None:
    """A node of the graph that raced with the reply. One frame, or one message each; no answer is sent."""

    def build(asked: Asked) -> str:
        events = [
            Notification("create_node", {"node_id": 1, "name": "AccumulateGrad", "variable_id": "x"}),
            Notification("create_node", {"node_id": 2, "name": "AddBackward0", "saved": [{"name": "o", "shape": [2]}]}),
            Notification("create_edge", {"from_node_id": 2, "to_node_id": 1, "output_nr": 0, "input_nr": 0}),
            Notification("create_variable", {"variable_id": "y", "grad_fn": 2, **WIRE}),
            Notification("append_grad", {"variable_id": "y", "gradient": {"dtype": "int64", "shape": []}}),
            Notification("free_nodes", {"node_ids": [2]}),
            Notification("update_model", {"model_id": "m", "field": "calls", "value": 1}),
        ]
        for message in [batched(events)] if asked.params["together"] else events:
            asked.session.put(message)
        return "built"

    async with Peer().running() as peer, RpcClient(peer.url) as client:
        peer.methods["build"] = build
        for together in (True, False):
            client.mirror.forget(["y"])
            assert await client.call("build", {"together": together}) == "built"
            y = client.mirror.variable("y")
            assert y.grad_fn is not None and y.grad_fn.freed and y.grad_fn.saved[0].shape == [2] and y.has_grad
            assert y.grad_fn.next_functions == [(client.mirror.node(1), 0)] and client.mirror.models["m"]["calls"] == 1


@awaited
async def test_weak_spot_12_two_thousand_items_of_a_graph_are_not_awaited_one_by_one() -> None:
    """One awaited message an item."""

    def build(asked: Asked) -> str:
        nodes = [Notification("create_node", {"node_id": n, "name": "AddBackward0"}) for n in range(1000)]
        edges = [
            Notification("create_edge", {"from_node_id": n, "to_node_id": n - 1, "output_nr": 0, "input_nr": 0})
            for n in range(1, 1000)
        ]
        asked.session.put(batched([*nodes, *edges]))
        asked.session.tell("create_variable", variable_id="y", grad_fn=999, **WIRE)
        return "built"

    async with Peer().running() as peer, RpcClient(peer.url) as client:
        peer.methods["build"] = build
        await client.call("echo")
        before = peer.moved
        await client.call("build")
        assert len(client.mirror.nodes) == 1000 and peer.moved - before <= 6


@awaited
async def test_weak_spot_5_what_the_node_says_and_what_the_user_does_dont_meet() -> None:
    """A process-global flag hid a user's write while an update of the node's was applied."""
    async with Peer().running() as peer, RpcClient(peer.url) as client:
        loop = asyncio.get_running_loop()
        await client.connect()
        peer.session.tell("create_variable", variable_id="x", grad_fn=None, **WIRE)
        came: list[int] = []
        peer.methods["update_variable"] = lambda asked: came.append(asked.params["value"])

        def write(first: int) -> None:
            for n in range(first, first + 50):
                call = client.call("update_variable", {"variable_id": "x", "field": "data", "value": n})
                asyncio.run_coroutine_threadsafe(call, loop).result(10)

        threads = [threading.Thread(target=write, args=(first,)) for first in (0, 50)]
        for thread in threads:
            thread.start()
        for version in range(200):
            peer.session.tell("update_variable", variable_id="x", field="requires_grad", value=False, version=version)
            await asyncio.sleep(0)
        for thread in threads:
            await asyncio.to_thread(thread.join)
        await until(lambda: client.mirror.variable("x").version == 199)
        assert sorted(came) == list(range(100))


@awaited
async def test_weak_spot_14_a_node_writes_no_attribute_but_those_of_the_list() -> None:
    """And nothing is half applied."""
    async with Peer().running() as peer, RpcClient(peer.url) as client:
        peer.session.tell("create_variable", variable_id="x", grad_fn=None, **WIRE)
        await client.call("echo")
        for field, value in (
            ("id", "y"),
            ("__class__", "int"),
            ("gradients", []),
            ("requires_grad", "yes"),
            ("data", 1),
        ):
            answer = await peer.session.ask("update_variable", variable_id="x", field=field, value=value, version=7)
            assert answer.code == -32602
        unknown = await peer.session.ask("update_variable", variable_id="z", field="has_grad", value=True, version=7)
        assert unknown.data["code"] == "NOT_FOUND"
        x = client.mirror.variable("x")
        assert x.version == 0 and x.id == "x" and x.requires_grad is True


@awaited
async def test_passes_end_by_what_the_node_tells() -> None:
    async with Peer().running() as peer, RpcClient(peer.url) as client:
        mirror, tell = client.mirror, peer.session.tell
        tell("create_variable", variable_id="x", grad_fn=None, **WIRE)
        await client.call("echo")
        mirror.begin("p1", "backward")
        mirror.begin("s1", "step", ["x"])
        reads = [asyncio.create_task(mirror.ready("x", kind)) for kind in ("backward", "step")]  # type: ignore[arg-type]
        tell("append_grad", variable_id="x", gradient={"dtype": "float32", "shape": [2], "values": np.ones(2, "f4")})
        tell("node_fired", pass_id="p1", node_id=5, gradients=[None])
        tell("clear_backward", pass_id="p1", variable_ids=["x"], status="failed", reason="no graph")
        tell("clear_step", step_id="s1", variable_ids=["x"], status="cancelled")
        with pytest.raises(RunError, match="no graph"):
            await reads[0]
        with pytest.raises(RunError, match="s1 was cancelled"):
            await reads[1]
        gradient = mirror.variable("x").gradients[-1].tensor
        assert gradient.values is not None and gradient.values.tolist() == [1, 1]
