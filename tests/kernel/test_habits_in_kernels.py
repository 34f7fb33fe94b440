"""What people expect of a notebook: short errors, completion, and cells that can be run again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel.driver import Kernel

pytestmark = pytest.mark.kernel

SETUP = """
import gc, threading, time
import numpy as np
import psutil
import torch
import gridkit as gk

def shard(seed):
    draw = np.random.default_rng(seed)
    return draw.normal(size=(32, 8)).astype("float32"), draw.integers(0, 3, 32)

shards = [shard(seed) for seed in range(4)]
model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
plan = gk.training_plan(model, loss=torch.nn.functional.cross_entropy, optimizer=gk.SGD(lr=0.1), example=shards[0])
grid = gk.launch()

def train(name, rounds=2, **more):
    return grid.train(model, plan, name=name, clients=shards, rounds=rounds, **more)
"""


@pytest.fixture(scope="module", params=[7, 6], ids="ipykernel {}".format)
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    started = Kernel(request.param)
    try:
        started.run(SETUP, seconds=60)
        yield started
    finally:
        started.close()


def failed(kernel: Kernel, code: str) -> list[str]:
    """The lines that the front-end shows of a cell's error."""
    (cell,) = kernel.finish([kernel.send(code)])
    assert cell.reply == "error", cell
    return cell.traceback.split("\n")


# -- errors


def test_an_error_is_two_lines(kernel: Kernel) -> None:
    shown = failed(kernel, "grid.train(model, plan, name='bad', clients=shards, rounds=0)")
    assert shown == ["UsageError: rounds is 0", "Try: use a whole number of 1 or more"]


def test_an_error_of_evaluate_names_the_cell_and_the_line(kernel: Kernel) -> None:
    kernel.run("def evaluate(trained):\n    return {'x': 1 / 0}\nrun = train('bad evaluate', evaluate=evaluate)")
    number = int(kernel.run("len(In) - 2").result or 0)
    first, second = failed(kernel, "run.wait()")
    assert first == (
        "EvaluationFailed: evaluate raised ZeroDivisionError after round 1 of 'bad evaluate' 1.0: "
        f"division by zero (In[{number}], line 2)"
    )
    assert second.startswith("Try: ")
    assert kernel.run("try: run.wait()\nexcept gk.errors.EvaluationFailed as e: print(repr(e.__cause__))").text == (
        "ZeroDivisionError('division by zero')\n"
    )


def test_the_whole_traceback_is_one_option_away(kernel: Kernel) -> None:
    kernel.run("gk.options.full_tracebacks = True; run = train('all of it', evaluate=lambda trained: {'x': 1 / 0})")
    shown = "\n".join(failed(kernel, "run.wait()"))
    kernel.run("gk.options.full_tracebacks = False")
    assert "ZeroDivisionError" in shown and "direct cause" in shown and "EvaluationFailed" in shown


def test_other_errors_stay_as_they_are(kernel: Kernel) -> None:
    shown = "\n".join(failed(kernel, "def f():\n    1 / 0\nf()"))
    assert "ZeroDivisionError" in shown and "Traceback" in shown
