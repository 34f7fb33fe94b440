"""The benchmark's task with gridkit: ``python gridkit_digits.py simulate|train``.

Timed like its rival, but from further back: from the call of `gk.simulate` or `grid.train` to the moment in which the
first round stands in the run.
"""

from __future__ import annotations

import time

START = time.perf_counter()

import json  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402


def main(how: str) -> None:
    import gridkit as gk

    grid = gk.launch() if how == "train" else None  # first, as in a notebook: its workers start while the rest loads
    import digits_task as task
    import torch

    clients, test = task.shards()
    model = task.make_model()
    example = torch.from_numpy(test[0][:8]), torch.from_numpy(test[1][:8])
    plan = gk.training_plan(model, torch.nn.functional.cross_entropy, gk.SGD(lr=task.LR), example=example)
    settings: dict[str, Any] = {"clients": clients, "rounds": task.ROUNDS, "batch_size": task.BATCH, "name": "digits"}
    if grid is not None:
        assert grid._core._pool.wait_ready(60)  # as when a person reads what they type

    called = time.perf_counter()
    run = gk.simulate(model, plan, **settings) if grid is None else grid.train(model, plan, **settings)
    rows = run.history.rounds
    while not rows and not run.done:
        time.sleep(0.001)
    first = time.perf_counter()
    run.wait()
    assert [row["accepted"] for row in rows] == [task.CLIENTS] * task.ROUNDS
    rounds = [row["seconds"] for row in rows[1:]]
    figures = task.figures(how, first - START, first - called, rounds, task.accuracy(run.model, test))
    if grid is not None:
        grid.close()
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1])
