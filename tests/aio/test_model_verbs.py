"""Models as people use them: served, listed, run, downloaded, trained further, served again, deleted."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gridkit as gk
from gridkit import aio
from gridkit.errors import AccessError, ConflictError, ErrorCode, NodeError, NotFoundError, PlanError, UsageError
from gridkit.listings import Models
from gridkit.origin import Origin, note, origin_of
from tests.models import digits

X = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def grids() -> Iterator[SimpleNamespace]:
    """`owner`: the node's own session; `ada` and `bob`, data scientists on it."""
    with gk.launch(workers=2) as owner:
        held = SimpleNamespace(owner=owner)
        for name in ("ada", "bob"):
            owner.add_user(name, password=f"{name}'s long password")
            session = gk.connect(owner.url, token=owner._core._embedded.token)
            session.authenticate({"username": name, "password": f"{name}'s long password"})
            setattr(held, name, session)
        yield held
        held.ada.close()
        held.bob.close()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_model_goes_round(grids: SimpleNamespace) -> None:
    model = digits()
    served = grids.ada.serve_model(model, "round", example=X, allow_download=True, allow_remote_inference=True)
    assert served == "round" and "round" in grids.bob.models
    assert torch.equal(grids.bob.run_remote_inference("round", X), model(X))
    assert torch.equal(grids.bob.run_remote_inference("round", X.numpy()[:2]), model(X[:2]))
    copied = grids.bob.download_model("round")
    assert isinstance(copied, nn.Module) and list(copied.state_dict()) == list(model.state_dict())
    assert torch.equal(copied(X), model(X))

    optimizer = torch.optim.SGD(copied.parameters(), lr=0.1)
    F.cross_entropy(copied(X), torch.zeros(5, dtype=torch.int64)).backward()
    optimizer.step()
    assert not torch.equal(copied(X), model(X))
    assert torch.equal(grids.bob.download_model("round")(X), model(X))

    grids.bob.serve_model(copied, "round, further", allow_remote_inference=True)
    assert torch.equal(grids.ada.run_remote_inference("round, further", X), copied(X))
    assert grids.ada.delete_model("round") is True and "round" not in grids.bob.models
    with pytest.raises(NotFoundError):
        grids.bob.run_remote_inference("round", X)


def test_the_list_shows_what_is_known(grids: SimpleNamespace) -> None:
    grids.ada.serve_model(digits(), "<b>listed</b>", example=X, allow_remote_inference=True)
    grids.bob.run_remote_inference("<b>listed</b>", X)
    listed = grids.owner.models
    assert isinstance(listed, Models) and "<b>listed</b>" in listed._ipython_key_completions_()
    row = listed["<b>listed</b>"]
    assert (row["owner"], row["version"], row["kind"], row["uses"]) == ("ada", 1, "plan", 1)
    assert row["allow_remote_inference"] and not row["allow_download"] and row["origin"] is None
    assert row["inputs"] == [{"name": "input", "dtype": "float32", "shape": ["B", 64]}]
    frame = listed.to_frame().set_index("id")
    assert frame.loc["<b>listed</b>", "size"] > 4 * 64 * 32
    assert isinstance(frame.loc["<b>listed</b>", "created_at"], pd.Timestamp)
    assert "<b>listed" not in listed._repr_html_() and "&lt;b&gt;listed" in listed._repr_html_()


def test_what_is_not_allowed_is_not_done_for_the_owner_either(grids: SimpleNamespace) -> None:
    grids.ada.serve_model(digits(), "closed", example=X)
    for session in (grids.ada, grids.bob, grids.owner):
        with pytest.raises(AccessError, match="not allowed to download") as refused:
            session.download_model("closed")
        assert refused.value.code is ErrorCode.NOT_ALLOWED
        with pytest.raises(AccessError, match="not allowed to run inference"):
            session.run_remote_inference("closed", X)
    with pytest.raises(AccessError):
        grids.bob.delete_model("closed")
    assert grids.owner.delete_model("closed")


def test_an_id_that_exists_needs_new_version(grids: SimpleNamespace) -> None:
    first, second = digits(), nn.Linear(64, 10)
    options = {"example": X, "allow_download": True, "allow_remote_inference": True}
    grids.ada.serve_model(first, "versions", **options)
    with pytest.raises(ConflictError, match="already exists") as refused:
        grids.ada.serve_model(second, "versions", **options)
    assert "new_version=True" in str(refused.value)
    with pytest.raises(AccessError):
        grids.bob.serve_model(second, "versions", new_version=True, **options)
    grids.ada.serve_model(second, "versions", new_version=True, **options)
    assert grids.bob.models["versions"]["version"] == 2
    assert torch.equal(grids.bob.run_remote_inference("versions", X), second(X))
    assert torch.equal(grids.bob.run_remote_inference("versions", X, version=1), first(X))
    assert torch.equal(grids.bob.download_model("versions", version=1)(X), first(X))
    with pytest.raises(NotFoundError):
        grids.bob.download_model("versions", version=3)


@pytest.mark.parametrize(
    "model_id", ["a/b", "a//b", "..", ".", "../../etc/passwd", "%2f", "a?b#c", "ü x", "a\\b", "'--"]
)
def test_w8_ids_are_opaque(grids: SimpleNamespace, model_id: str) -> None:
    model = nn.Linear(3, 2)
    grids.ada.serve_model(model, model_id, example=X[:, :3], allow_download=True, allow_remote_inference=True)
    assert model_id in grids.bob.models
    assert torch.equal(grids.bob.download_model(model_id)(X[:, :3]), model(X[:, :3]))
    assert torch.equal(grids.bob.run_remote_inference(model_id, X[:, :3]), model(X[:, :3]))
    assert grids.ada.delete_model(model_id)
    assert model_id not in grids.bob.models


def test_plans_and_scripts_and_several_results(grids: SimpleNamespace) -> None:
    @gk.plan(args=[gk.spec("B", 3), gk.spec("B")])
    def weighted(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (x * w[:, None]).sum(0), w.sum()

    assert grids.ada.serve_model(weighted, allow_download=True, allow_remote_inference=True) == "weighted"
    given = X[:, :3], X[:, 5].abs()
    remote, local = grids.bob.run_remote_inference("weighted", given), grids.bob.download_model("weighted")(*given)
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(remote, local, weighted(*given), strict=True))
    traced = torch.jit.trace(digits(), X)
    grids.ada.serve_model(traced, "script", example=X, allow_remote_inference=True)
    assert torch.equal(grids.bob.run_remote_inference("script", X), digits()(X))


@pytest.mark.parametrize(
    ("model", "options", "kind", "message"),
    [
        (nn.Linear(2, 2), {"example": torch.ones(1, 2)}, UsageError, "has no id"),
        (nn.Linear(2, 2), {"model_id": "x"}, UsageError, "traced"),
        ({}, {"model_id": "x"}, UsageError, "model is dict"),
        (nn.Linear(2, 2), {"model_id": "x", "example": torch.ones(1, 3)}, PlanError, "same reduction dim"),
        (nn.Linear(2, 2), {"model_id": "x" * 201, "example": torch.ones(1, 2)}, NodeError, "model_id"),
    ],
)
def test_bad_input_changes_nothing(
    grids: SimpleNamespace, model: Any, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    before = list(grids.owner.models)
    with pytest.raises(kind, match=message):
        grids.ada.serve_model(model, **options)
    assert list(grids.owner.models) == before


@pytest.mark.parametrize("data", [X[:, :3], X.double(), (X, X), X[:0], X.long(), [[1.0]]])
def test_data_that_does_not_fit_is_told(grids: SimpleNamespace, data: Any) -> None:
    if "fits" not in grids.owner.models:
        grids.ada.serve_model(digits(), "fits", example=X, allow_remote_inference=True)
    with pytest.raises((NodeError, UsageError)) as refused:
        grids.bob.run_remote_inference("fits", data)
    assert getattr(refused.value, "status", 400) in (400, 422)
    assert torch.equal(grids.bob.run_remote_inference("fits", X), digits()(X))


def test_a_models_origin_is_told_as_long_as_it_is_true(grids: SimpleNamespace) -> None:
    model, y = digits(), torch.arange(5) % 10
    plan = gk.training_plan(model, F.cross_entropy, gk.SGD(lr=0.1), (X, y))
    run = grids.owner.train(model, plan, name="trained", clients=[(X, y), (X, y)], rounds=2, batch_size=5).wait()
    origin = {"name": "trained", "version": run.version, "round": 2}
    assert grids.owner.serve_model(run, allow_download=True) == "trained"
    assert grids.bob.models["trained"]["origin"] == origin
    assert grids.bob.models.to_frame().set_index("id").loc["trained", "origin"] == f"trained {run.version}, round 2"
    assert torch.equal(grids.bob.download_model("trained")(X), run.model(X))

    trained = run.model
    grids.owner.serve_model(trained, "same", example=X, allow_download=True)
    assert grids.bob.models["same"]["origin"] == origin
    grids.bob.serve_model(grids.bob.download_model("same"), "same again")
    assert grids.bob.models["same again"]["origin"] == origin
    with torch.no_grad():
        next(trained.parameters()).add_(1e-3)
    grids.owner.serve_model(trained, "changed", example=X)
    assert grids.bob.models["changed"]["origin"] is None


def test_an_origin_is_of_one_module_and_its_values() -> None:
    module = nn.Linear(2, 2)
    note(module, Origin("a", "1.0", 3))
    assert origin_of(module) == Origin("a", "1.0", 3)
    assert origin_of(copy.deepcopy(module)) is None and origin_of(nn.Linear(2, 2)) is None
    before = module.weight.detach().clone()
    module.weight.data += 1
    assert origin_of(module) is None
    module.weight.data.copy_(before)
    assert origin_of(module) == Origin("a", "1.0", 3)


async def _all_verbs(url: str, token: str) -> None:
    async with await aio.connect(url, token=token) as grid:
        model = digits()
        await grid.serve_model(model, "async", example=X, allow_download=True, allow_remote_inference=True)
        assert "async" in await grid.models()
        assert torch.equal(await grid.run_remote_inference("async", X), model(X))
        assert torch.equal((await grid.download_model("async"))(X), model(X))
        assert await grid.delete_model("async")


def test_every_verb_is_async_too(grids: SimpleNamespace) -> None:
    import asyncio

    asyncio.run(_all_verbs(grids.owner.url, grids.owner._core._embedded.token))


def test_a_model_of_some_size_comes_back_whole(grids: SimpleNamespace) -> None:
    model = nn.Sequential(nn.Linear(1500, 1500), nn.Linear(1500, 7))
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 1500), np.float32))
    grids.ada.serve_model(model, "large", example=x, allow_download=True)
    back = grids.bob.download_model("large")
    assert all(torch.equal(a, b) for a, b in zip(back.state_dict().values(), model.state_dict().values(), strict=True))
    assert torch.equal(back(x), model(x))
