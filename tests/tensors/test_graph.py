"""The graph behind a remote tensor, and its picture."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from gridkit import aio
from gridkit.client.link import Link
from gridkit.errors import PlanError, RunError
from gridkit.session import Session
from gridkit.tensors.walk import Walk
from gridkit.wire.rpc.v1 import Tensor
from tests.tensors.tensor_peer import TensorPeer


def test_the_graph_is_torchs(grid: Session) -> None:
    x = grid.tensor([1.0, 2.0], requires_grad=True)
    w = grid.tensor([3.0, 4.0], requires_grad=True)
    y = (x + x) * w
    graph = y.graph()
    names = {node.id: node.name for node in graph.nodes.values()}
    assert graph.first is not None and names[graph.first] == "MulBackward0"
    assert sorted(names.values()) == ["AccumulateGrad", "AccumulateGrad", "AddBackward0", "MulBackward0"]
    edges = sorted((names[a], names[b]) for a, b in graph.edges)
    assert edges == [
        *[("AddBackward0", "AccumulateGrad")] * 2,
        ("MulBackward0", "AccumulateGrad"),
        ("MulBackward0", "AddBackward0"),
    ]
    assert [len(row) for row in graph.layers()] == [1, 2, 1]
    assert {node.variable for node in graph.nodes.values()} == {None, x._core.id, w._core.id}
    assert repr(graph) == "<graph of y: 4 nodes>"
    assert str(graph).startswith("MulBackward0") and len(str(graph).splitlines()) == 4
    y.backward([1.0, 1.0]).wait()
    assert [node.name for node in y.graph().nodes.values() if node.freed] == ["MulBackward0"], "which kept something"


def test_the_picture(grid: Session) -> None:
    x = grid.tensor(torch.ones(2), requires_grad=True)
    graph = (x.exp() * 2 + x).sum().graph()
    root = ElementTree.fromstring(graph._repr_html_())
    svg = root.find("svg")
    assert svg is not None and len(svg.findall("g")) == len(graph.nodes) and len(svg.findall("path")) == 5
    titles = [text.text for text in svg.iter("text")]
    assert sorted(filter(None, titles)) == sorted(["Sum", "Add", "Mul", "Exp", "x", "float32[2]"])
    _, _, width, height = map(float, svg.attrib["viewBox"].split())
    for rect in svg.iter("rect"):
        assert float(rect.attrib["x"]) >= 0 and float(rect.attrib["x"]) + float(rect.attrib["width"]) <= width
        assert 0 <= float(rect.attrib["y"]) <= height


def test_leaves_have_the_names_of_the_notebook(grid: Session) -> None:
    net = grid.module(torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Tanh()))
    out = net(grid.tensor(torch.ones(1, 2)))
    _ = out  # IPython's names for what was shown last
    graph = out.graph()
    leaves = [node.variable for node in graph.nodes.values() if node.variable is not None]
    assert sorted(graph.names[id] for id in leaves) == ["net.0.bias", "net.0.weight"]
    assert repr(graph).startswith("<graph of out: ") and "AccumulateGrad(net.0.bias)" in str(graph)


def walked(grid: Session, y: Any, fired: Sequence[str], gradients: Sequence[Any]) -> list[str]:
    """The names of the nodes that a pass went through, of which only some were told."""
    mirror = grid.rpc.mirror
    nodes = {node.name if node.variable is None else node.variable: node.id for node in y.graph().nodes.values()}
    for name in fired:
        mirror.node_fired("p", nodes[name])
    for leaf in gradients:
        mirror.append_grad(leaf._core.id, Tensor(dtype="float32", shape=[2]), "p", None)
    graph = y.graph()
    assert graph.last_pass == "p" and graph.steps == len(graph.walked)
    return [graph.nodes[id].name for id in graph.walked]


def test_nodes_whose_message_was_lost(grid: Session) -> None:
    """No leaf gets its gradient before all on the way to it have theirs; of others nothing is claimed."""
    x, w = (grid.tensor(torch.ones(2), requires_grad=True) for _ in range(2))
    y = (x.exp() * w.sin()).sum()
    told = walked(grid, y, ["SumBackward0"], [])
    assert told == ["SumBackward0"]
    told = walked(grid, y, [], [x])
    assert told[0] == "SumBackward0" and sorted(told[1:]) == ["AccumulateGrad", "ExpBackward0", "MulBackward0"]
    told = walked(grid, y, ["SinBackward0"], [w])
    assert told[:2] == ["SumBackward0", "SinBackward0"] and len(told) == 6
    assert "  -  " not in str(y.graph()) and str(y.graph()).splitlines()[0].split()[0] == "1"


def test_a_pass_through_another_graph_of_the_same_leaf_is_none_of_this_one(grid: Session) -> None:
    x = grid.tensor(torch.ones(2), requires_grad=True)
    y, other = x.exp().sum(), x.sin().sum()
    assert len(walked(grid, other, ["SumBackward0", x._core.id], [x])) == 3
    assert y.graph().last_pass is None and "went through" not in repr(y.graph())


def test_a_script_has_its_text(grid: Session) -> None:
    x = grid.tensor([1.0, 2.0], requires_grad=True)
    y = (x * x).sum()
    shown = y.graph(live=True)
    assert repr(shown).startswith("no pass has gone through it yet\nSumBackward0")
    y.backward().wait()
    assert repr(shown).startswith("pass 1, done\n") and "in a notebook" in repr(shown)
    again = y.backward()
    with pytest.raises(PlanError, match="second time"):
        again.wait()
    assert repr(shown).startswith("pass 1, done\n"), "what it was when it could be walked through"


def test_coroutines_have_the_same(peer: TensorPeer) -> None:
    async def main() -> None:
        async with aio.Session(Link(peer.url, "key")) as session:
            x = session.tensor([1.0, 2.0], requires_grad=True)
            y = (x * x).sum()
            graph = await y.graph()
            assert repr(graph) == "<graph of y: 3 nodes>" and "AccumulateGrad(x)" in str(graph)
            shown = await y.graph(live=True)
            assert repr(shown).startswith("no pass has gone through it yet\n")
            await y.backward()
            assert repr(shown).startswith("pass 1, done\n")

    asyncio.run(main())


def test_what_is_followed_ends_with_the_graph_the_tensor_or_the_session(grid: Session) -> None:
    x = grid.tensor([1.0, 2.0], requires_grad=True)

    def follow(y: Any) -> Walk:
        walk: Walk = y._core.world.wait(y._core.walk({}))
        return walk

    kept, added, dropped = (x * x).sum(), (x + x).sum(), (x * 2).sum()
    walks = [follow(kept), follow(added), follow(dropped)]
    assert [walk.over for walk in walks] == [False] * 3
    del dropped
    assert [walk.over for walk in walks] == [False, False, True]
    kept.backward(retain_graph=True).wait()
    added.backward().wait()
    assert [walk.over for walk in walks] == [False, False, True], "it may go through them again"
    kept.backward().wait()
    assert [walk.over for walk in walks] == [True, False, True]
    grid.close()
    assert walks[1].over
    mirror = grid._core._world.client.rpc.mirror  # type: ignore[union-attr]
    for walk in walks:
        walk.close()
    assert not mirror._listeners


def test_a_long_graph_is_told_in_words(grid: Session) -> None:
    y = grid.tensor(1.0, requires_grad=True)
    for _ in range(100):
        y = y * 1.5
    html = y.graph()._repr_html_()
    assert "too many" in html and "<svg" not in html
    assert len(y.graph().layers()) == 101


def test_what_has_no_graph(grid: Session) -> None:
    with pytest.raises(RunError, match="no graph"):
        grid.tensor(1.0).graph()
    assert len(grid.tensor(1.0, requires_grad=True).graph().nodes) == 0
