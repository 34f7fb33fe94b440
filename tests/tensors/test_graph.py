"""The graph behind a remote tensor, and its picture."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
import torch

from gridkit.errors import RunError
from gridkit.session import Session


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
    assert sorted(filter(None, titles)) == sorted(["Sum", "Add", "Mul", "Exp", "x"])
    _, _, width, height = map(float, svg.attrib["viewBox"].split())
    for rect in svg.iter("rect"):
        assert float(rect.attrib["x"]) >= 0 and float(rect.attrib["x"]) + float(rect.attrib["width"]) <= width
        assert 0 <= float(rect.attrib["y"]) <= height


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
