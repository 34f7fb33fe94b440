"""One cycle of workers of three kinds: syft.js, jobs in Python, and gridkit's own worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import gridkit as gk
from tests.interop.syftjs import LR, ROWS, STEPS, batch, flat, host, new_model, start_of, works

pytestmark = pytest.mark.interop

SIX = {"min_diffs": 6, "max_diffs": 6, "weighting": "equal"}


@pytest.fixture(scope="module")
def grid() -> Iterator[gk.Session]:
    with gk.launch() as grid:
        yield grid


def by_hand(job: gk.Job, kind: str, seed: int) -> None:
    """The accepted job's work, a step at a time as in the syft family's examples."""
    x, y = map(torch.tensor, flat(kind, seed))
    params = job.model.params
    for _ in range(STEPS):
        _, _, *params = job.plans["training_plan"].execute(job.worker, x, y, ROWS, LR, *params)
    job.report(job.model.create_serialized_diff(params))


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_a_mixed_cycle_gives_the_model_of_six_python_workers(kind: str, grid: gk.Session) -> None:
    alike, mixed = (host(grid, f"{kind}-{name}", kind, **SIX) for name in ("alike", "mixed"))
    grid.join(alike.name, clients=[batch(kind, seed) for seed in range(6)])

    grid.join(mixed.name, clients=[batch(kind, seed) for seed in range(2)])
    with ThreadPoolExecutor(2) as pool, gk.Syft(grid.url, auth_token=mixed.worker_token) as client:
        theirs = [pool.submit(works, mixed, kind, 2 + place, scheme) for place, scheme in enumerate(("http", "ws"))]
        built_in = client.new_job(mixed.name, mixed.version)
        built_in.on("accepted", lambda _: built_in.report(built_in.train(*batch(kind, 4))))
        built_in.start()
        with gk.Syft(grid.url.replace("http", "ws"), auth_token=mixed.worker_token) as other:
            plain = other.new_job(mixed.name, mixed.version)
            plain.on("accepted", lambda _: by_hand(plain, kind, 5))
            plain.start()
        told = [future.result() for future in theirs]
    assert [one["outcome"] for one in told] == ["reported"] * 2, told

    ours, both = new_model(alike), new_model(mixed)
    assert list(mixed.run.metrics.accepted) == list(alike.run.metrics.accepted) == [6]
    for before, of_alike, of_mixed in zip(start_of(kind), ours, both, strict=True):
        np.testing.assert_allclose(of_mixed, of_alike, atol=1e-5)
        assert np.abs(of_mixed - before).max() > 1e-3  # they have learned something
