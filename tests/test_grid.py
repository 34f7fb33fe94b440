"""Several nodes as one: asked at the same time, replicas, and who fails is named."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import gridkit as gk
from gridkit.errors import AccessError, ConflictError, NodeUnreachable, NotFoundError, UsageError

X = torch.arange(12.0).reshape(4, 3)


@pytest.fixture(scope="module")
def sessions() -> Iterator[list[gk.Session]]:
    made = [gk.launch(workers=0) for _ in range(3)]
    yield made
    for session in made:
        session.close()


@pytest.fixture
def grid(sessions: list[gk.Session]) -> Iterator[gk.Grid]:
    yield gk.Grid(sessions)
    for session in sessions:
        for model_id in session.models:
            session.delete_model(model_id)
        for dataset in session.datasets:
            session.delete_dataset(dataset)


@pytest.fixture
def silent() -> Iterator[gk.Session]:
    """A session whose node has just been killed, and stays so."""
    session = gk.launch(workers=0)
    node = session._core._embedded
    assert node is not None
    node._closing.set()  # nobody starts it again
    os.kill(node.pid, signal.SIGKILL)
    node._child.wait(10)
    yield session
    session.close()


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def test_a_search_asks_all_nodes_and_names_the_one_that_fails(
    sessions: list[gk.Session], grid: gk.Grid, silent: gk.Session
) -> None:
    sessions[0].publish(X, id="chest", tags=["#xray"])
    sessions[2].publish(X, id="hand", tags=["#xray", "#hand"])
    found = grid.search("#xray")
    assert {address: list(rows) for address, rows in found.items()} == {
        sessions[0].url: ["chest"],
        sessions[1].url: [],
        sessions[2].url: ["hand"],
    }
    assert found.failures == {}
    frame = found.to_frame()
    assert dict(zip(frame["id"], frame["node"], strict=True)) == {"chest": sessions[0].url, "hand": sessions[2].url}
    found = gk.Grid([silent, sessions[2]]).search("#hand")
    assert list(found) == [sessions[2].url]
    assert isinstance(found.failures[silent.url], NodeUnreachable)
    assert f"{silent.url} failed: no answer" in repr(found) and "failed" in found._repr_html_()
    assert grid.dataset_tags[sessions[2].url] == ["#hand", "#xray"]


def test_replicas_go_where_there_are_fewest_and_another_one_answers_for_the_dead(
    sessions: list[gk.Session], silent: gk.Session
) -> None:
    model = net()
    sessions[0].serve_model(model, "first", example=X)
    grid = gk.Grid([*sessions, silent])
    places = grid.serve_model(model, "net", replicas=2, example=X, allow_download=True, allow_remote_inference=True)
    assert sorted(places) == sorted(session.url for session in sessions[1:])
    with pytest.raises(ConflictError, match="hosted already on"):
        grid.serve_model(model, "net", example=X)
    expected = model(X)
    assert torch.equal(grid.run_remote_inference("net", X), expected)
    sessions[1].delete_model("net")
    assert torch.equal(grid.run_remote_inference("net", X), expected)
    assert torch.equal(grid.download_model("net")(X), expected)
    with pytest.raises(NodeUnreachable, match="not everywhere") as caught:
        grid.delete_model("net")
    assert silent.url in str(caught.value) and "net" not in sessions[2].models
    sessions[0].delete_model("first")


def test_too_few_nodes_leave_nothing_behind(sessions: list[gk.Session], silent: gk.Session) -> None:
    with pytest.raises(NodeUnreachable, match="1 of 2 nodes took the model") as caught:
        gk.Grid([sessions[0], silent]).serve_model(net(), "net", replicas=2, example=X)
    assert silent.url in str(caught.value)
    assert "net" not in sessions[0].models


def test_a_refusal_is_an_answer(grid: gk.Grid) -> None:
    grid.serve_model(net(), "closed", example=X)
    with pytest.raises(AccessError, match="not allowed to download"):
        grid.download_model("closed")
    with pytest.raises(NotFoundError, match="no node has a model 'nowhere'"):
        grid.run_remote_inference("nowhere", X)


def test_what_makes_no_grid(sessions: list[gk.Session]) -> None:
    with pytest.raises(UsageError):
        gk.Grid([])
    with pytest.raises(UsageError, match="a list of sessions"):
        gk.Grid(sessions[0])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="2 sessions with 1 different"):
        gk.Grid([sessions[0], sessions[0]])
    with pytest.raises(UsageError, match="5 replicas on 3 nodes"):
        gk.Grid(sessions).serve_model(net(), "net", replicas=5, example=X)
