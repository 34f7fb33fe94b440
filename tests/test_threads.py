"""Background threads must not take the process with them when Python ends while they are inside torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

TRAIN = """
import gridkit as gk
from tests.training import mlp, plan_of, shards
data, model = shards(3), mlp()
run = gk.simulate(model, plan_of(model, data), clients=data, rounds=10**6, evaluate={evaluate})
while len(run.history.rounds) < 2:
    pass
"""
SLOW = "lambda model: model(__import__('torch').randn(2000, 12)) is None"


@pytest.mark.parametrize(
    ("evaluate", "ending", "code"),
    [("None", "raise SystemExit(3)", 3), (SLOW, "", 0)],
    ids=["training", "evaluating"],
)
def test_a_script_that_ends_while_it_trains_ends_cleanly(evaluate: str, ending: str, code: int) -> None:
    program = TRAIN.replace("{evaluate}", evaluate) + ending
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert done.returncode == code and "terminate" not in done.stderr, done.stderr


def test_work_is_asked_to_end_and_waited_for() -> None:
    code = """
import threading, time
from gridkit import threads
asked = threading.Event()
def work():
    asked.wait()
    time.sleep(0.05)
    print("ended in order", flush=True)
threads.start(work, name="t", end=asked.set)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "ended in order\n"), done.stderr
