"""Typical mistakes with jobs and hosting: the error names what was wrong, and what to try."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import gridkit as gk
from gridkit.errors import UsageError
from tests.training import mlp, plan_of, shards

DATA = shards(1)
X, Y = DATA[0]
MODEL = mlp()
PLAN = plan_of(MODEL, DATA)


@pytest.fixture(scope="module")
def grid() -> Iterator[gk.Session]:
    with gk.launch(workers=0) as grid:
        yield grid


@pytest.fixture
def job(grid: gk.Session, request: pytest.FixtureRequest) -> Iterator[gk.Job]:
    process = grid.host_training(MODEL, PLAN, name=request.node.name, server_config={"num_cycles": 1, "max_diffs": 1})
    with gk.Syft(grid.url, auth_token=process.worker_token) as client:
        yield client.new_job(process.name, process.version)


def test_who_was_rejected_is_told_why_again(grid: gk.Session, job: gk.Job) -> None:
    """Without a handler of "rejected" nothing else says it."""
    with pytest.raises(UsageError, match=r"has accepted this job \(not accepted yet\)"):
        job.train(X, Y)
    job.start()
    job.report(job.train(X, Y))
    with gk.Syft(grid.url, auth_token=grid.worker_token(job.model_name, "1.0")) as late:
        second = late.new_job(job.model_name)
        second.start()
        assert "rejected: the training is over" in repr(second)
        with pytest.raises(UsageError, match=r"has accepted this job \(rejected: the training is over\)"):
            second.train(X, Y)


@pytest.mark.parametrize("diff", ["AAAA", [np.zeros(3)], None], ids=["text", "tensors", "nothing"])
def test_a_report_is_a_diff_or_a_training(job: gk.Job, diff: Any) -> None:
    job.start()
    with pytest.raises(UsageError, match=f"this is a {type(diff).__name__}\nTry: .*create_serialized_diff"):
        job.report(diff)


def test_a_jobs_mistakes_are_told_as_the_workers(job: gk.Job) -> None:
    with pytest.raises(UsageError, match="handler of 'accepted' is no function: int"):
        job.on("accepted", 5)  # type: ignore[arg-type]
    job.start()
    for x, y, message in ((X, Y[:3], "the worker has x of shape"), (X[:0], Y[:0], "the worker has no samples")):
        with pytest.raises(UsageError, match=message):
            job.train(x, y)


@pytest.mark.parametrize(
    ("model", "plan", "more", "message"),
    [
        (PLAN, MODEL, {}, "these are a Plan and a "),
        (MODEL, PLAN, {"client_config": {"batch_size": "8"}}, "batch_size is '8'\nTry: use a whole number"),
        (MODEL, PLAN, {"server_config": {"authentication": {"secrets": "s"}}}, "secrets: there is no.*\nTry: .*secret"),
        (MODEL, PLAN, {"averaging_plan": max}, "averaging_plan is a builtin_function.*\nTry: .*gk.averaging_plan"),
        (MODEL, PLAN, {"server_config": {"strategy": "luck"}}, "strategy is 'luck': use one of: fedavg"),
        (MODEL, PLAN, {"server_config": {"min_diffs": 3, "max_diffs": 2}}, "min_diffs is 3: max_diffs is only 2"),
    ],
    ids=["swapped", "batch size", "authentication", "a function", "strategy", "min above max"],
)
def test_what_cant_be_hosted_is_told_apart(
    grid: gk.Session, model: Any, plan: Any, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(gk.GridkitError, match=message):
        grid.host_training(model, plan, name="mistakes", **more)
    assert ("mistakes", "1.0") not in list(grid.runs)
