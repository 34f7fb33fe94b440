"""The unmodified syft.js 0.1.4 in Node.js, in trainings on a real node, over HTTP and WebSocket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import gridkit as gk
from tests.interop.syftjs import MODELS, check_alone, host, new_model, plan_of, start_of, trained, works

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def grid() -> Iterator[gk.Session]:
    with gk.launch() as grid:
        yield grid


Open = Callable[..., Any]


@pytest.fixture
def open_to(grid: gk.Session, request: pytest.FixtureRequest) -> Open:
    """`open_to(kind, **server_config)`: a training named after the test."""
    return lambda kind, plan=None, **server: host(grid, request.node.name, kind, plan, **server)


@pytest.mark.parametrize("scheme", ["http", "ws"])
@pytest.mark.parametrize("kind", MODELS)
def test_it_trains_and_its_diff_is_ours(kind: str, scheme: str, open_to: Open) -> None:
    process = open_to(kind)
    told = works(process, kind, scheme=scheme)
    assert told["speed_test"] is False
    check_alone(process, kind, told)


def test_with_the_speed_test(open_to: Open) -> None:
    process = open_to("mlp", minimum_download_speed=0.001, minimum_upload_speed=0.001)
    told = works(process, "mlp")
    assert told["speed_test"] is True
    check_alone(process, "mlp", told)


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_whoever_reports_twice_counts_once(scheme: str, open_to: Open) -> None:
    process = open_to("mlp", min_diffs=2, max_diffs=2)
    told = works(process, "mlp", 0, scheme, insist=True)
    assert told["outcome"] == "reported" and told["again"]["same"] == "taken"
    assert "the first report counts" in told["again"]["other"]
    assert told["again"]["next"]["outcome"] == "rejected" and told["again"]["next"]["timeout"] > 0
    assert works(process, "mlp", 1, scheme)["outcome"] == "reported"
    one, two = trained("mlp", 0)[0], trained("mlp", 1)[0]
    for before, a, b, after in zip(start_of("mlp"), one, two, new_model(process), strict=True):
        np.testing.assert_allclose(after, before - (a + b) / 2, atol=1e-6)
    assert list(process.run.metrics.accepted) == [2]


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_a_full_cycle_is_a_rejection_with_seconds(scheme: str, open_to: Open) -> None:
    process = open_to("mlp", max_workers=1, min_diffs=2, max_diffs=2, cycle_length=60)
    with gk.Syft(process._url, auth_token=process.worker_token) as client:
        job = client.new_job(process.name, process.version)
        job.on("accepted", lambda _: None)
        job.start()
        told = works(process, "mlp", scheme=scheme)
    assert told["outcome"] == "rejected" and told["timeout"] > 0


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_a_wrong_token_is_an_error(scheme: str, open_to: Open) -> None:
    told = works(open_to("mlp"), "mlp", scheme=scheme, token="not a token")
    assert told["outcome"] == "error" and "token" in told["error"]


def test_a_plan_that_it_cannot_run_is_an_error_that_says_why(open_to: Open) -> None:
    told = works(open_to("mlp", plan_of("mlp", momentum=0.9)), "mlp")
    assert told["outcome"] == "error"
    assert "has no TensorFlow.js form" in told["error"] and "SGD without momentum" in told["error"]
