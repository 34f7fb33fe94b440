"""Datasets as people use them: two accounts on one node, over the session's verbs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

import gridkit as gk
from gridkit.errors import AccessError, ConflictError, ErrorCode, NotFoundError, UsageError
from gridkit.listings import Datasets
from gridkit.policy import plan_digest

X = torch.arange(12.0).reshape(4, 3)
FRAME = pd.DataFrame({"age": [40.0, 50.0, 60.0], "sick": [True, False, True]})


@gk.plan(args=[gk.spec("B", 3)])
def mean(x: torch.Tensor) -> torch.Tensor:
    return x.mean(0)


@gk.plan(args=[gk.spec("B", dtype="float64"), gk.spec("B", dtype="bool")])
def by_group(age: torch.Tensor, sick: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (age * sick).sum() / sick.sum(), age.mean()


@pytest.fixture(scope="module")
def grids() -> Iterator[SimpleNamespace]:
    """`owner`: the node's own session; `ada` and `bob`, data scientists on it."""
    with gk.launch(workers=0) as owner:
        held = SimpleNamespace(owner=owner)
        for name in ("ada", "bob"):
            owner.add_user(name, password=f"{name}'s long password")
            session = gk.connect(owner.url, token=owner._core._embedded.token)
            session.authenticate({"username": name, "password": f"{name}'s long password"})
            setattr(held, name, session)
        yield held
        held.ada.close()
        held.bob.close()


def test_a_private_tensor_is_found_and_computed_on(grids: SimpleNamespace) -> None:
    policy = gk.Policy(run={mean: "everyone"}, max_values=3)
    id = grids.ada.publish(X, tags=["#xray"], description="4 patients", policy=policy, mock=torch.zeros(2, 3))
    assert id in grids.bob.datasets and grids.bob.dataset_tags == ["#xray"]
    found = grids.bob.search(["#xray", "patients"])
    assert isinstance(found, Datasets) and found == [id] and found[id]["owner"] == "ada"
    assert not grids.bob.search("#hand")
    with pytest.raises(UsageError, match="query is int"):
        grids.bob.search(5)
    assert torch.equal(grids.bob.run_plan(mean, id), X.mean(0))
    with pytest.raises(AccessError, match="doesn't let you fetch") as refused:
        grids.bob.fetch_dataset(id)
    assert refused.value.code is ErrorCode.NOT_ALLOWED and "mock=True" in str(refused.value)
    assert torch.equal(grids.bob.fetch_dataset(id, mock=True), torch.zeros(2, 3))
    assert torch.equal(grids.ada.fetch_dataset(id), X)
    assert torch.equal(grids.owner.fetch_dataset(id), X)
    with pytest.raises(AccessError):
        grids.bob.delete_dataset(id)
    assert grids.ada.delete_dataset(id) is True
    with pytest.raises(NotFoundError):
        grids.ada.delete_dataset(id)
    assert id not in grids.bob.datasets


def test_a_plan_that_the_policy_does_not_name_is_refused(grids: SimpleNamespace) -> None:
    @gk.plan(args=[gk.spec("B", 3)], name="mean")
    def everything(x: torch.Tensor) -> torch.Tensor:
        return x * 1.0

    id = grids.ada.publish(X, policy=gk.Policy(run={mean: "everyone"}))
    with pytest.raises(AccessError, match="doesn't let you run this plan"):
        grids.bob.run_plan(everything, id)
    assert torch.equal(grids.ada.run_plan(everything, id), X)
    grids.ada.delete_dataset(id)


def test_who_writes_the_same_plan_has_the_same_plan() -> None:
    """Its bytes hold no place and no time: what ada allowed, bob can write himself."""
    program = """
import gridkit as gk
from gridkit.policy import plan_digest
@gk.plan(args=[gk.spec("B", 3)])
def mean(x):
    # written by somebody else
    return x.mean(0)
print(plan_digest(mean))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == plan_digest(mean), done.stderr


def test_a_frame_is_columns(grids: SimpleNamespace) -> None:
    policy = gk.Policy(fetch=["bob"], run={"any": "everyone"}, max_values=2)
    id = grids.ada.publish(FRAME, id="a/b ü", policy=policy, mock=FRAME.iloc[:1])
    assert id == "a/b ü"
    assert grids.bob.datasets[id]["columns"] == ["age", "sick"]
    assert [float(value) for value in grids.bob.run_plan(by_group, id)] == [50.0, 50.0]
    pd.testing.assert_frame_equal(grids.bob.fetch_dataset(id), FRAME)
    pd.testing.assert_frame_equal(grids.bob.fetch_dataset(id, mock=True), FRAME.iloc[:1])
    grids.owner.delete_dataset(id)


def test_several_tensors_are_a_tuple(grids: SimpleNamespace) -> None:
    id = grids.ada.publish((X, torch.tensor([1, 2])))
    x, y = grids.ada.fetch_dataset(id)
    assert torch.equal(x, X) and torch.equal(y, torch.tensor([1, 2]))
    x += 1  # its own memory
    with pytest.raises(NotFoundError, match="no mock sample"):
        grids.ada.fetch_dataset(id, mock=True)
    grids.ada.delete_dataset(id)


def test_what_cannot_be_published_is_told_before_anything_is_sent(grids: SimpleNamespace) -> None:
    before = list(grids.ada.datasets)
    for wrong in (
        lambda: grids.ada.publish(pd.DataFrame({"name": ["x"]})),
        lambda: grids.ada.publish(X, tags="#xray"),
        lambda: grids.ada.publish(X, policy={"fetch": "everyone"}),
        lambda: grids.ada.publish(FRAME, mock=FRAME[["age"]]),
        lambda: grids.ada.publish(X, mock=(X, X)),
        lambda: grids.ada.run_plan("mean", "x"),
    ):
        with pytest.raises(UsageError) as error:
            wrong()
        assert error.value.hint
    assert list(grids.ada.datasets) == before


def test_an_id_is_given_once(grids: SimpleNamespace) -> None:
    grids.ada.publish(X, id="once")
    with pytest.raises(ConflictError):
        grids.bob.publish(X, id="once")
    assert grids.ada.delete_dataset("once")


def test_the_list_is_a_frame_and_a_table(grids: SimpleNamespace) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    id = grids.ada.publish(X, id=hostile, tags=[hostile], description=hostile)
    listed = grids.bob.datasets
    frame = listed.to_frame().set_index("id")
    assert frame.loc[id, "rows"] == 4 and not frame.loc[id, "may_fetch"]
    assert str(frame["created_at"].dt.tz) == "UTC"
    assert "<img" not in listed._repr_html_() and "&lt;img" in listed._repr_html_()
    grids.ada.delete_dataset(id)
