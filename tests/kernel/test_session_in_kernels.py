"""A session in real kernels, ipykernel 6 and 7: what a person sees who trains from a notebook."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator

import pytest

from tests.kernel.driver import Kernel

pytestmark = pytest.mark.kernel

SETUP = """
import asyncio, time
import numpy as np
import torch
import gridkit as gk

rng = np.random.default_rng(0)
shards = [(rng.normal(size=(32, 8)).astype("float32"), rng.integers(0, 3, 32)) for _ in range(4)]
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
        started.run("grid.close()")
        started.run("import gc; gc.collect(); time.sleep(0.3)")
        said = "".join(cell.text for cell in started.cells.values())
        assert "never retrieved" not in said and "Task was destroyed" not in said and "Unclosed" not in said, said
    finally:
        started.close()


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_run_all_with_a_wait_loses_no_cell(kernel: Kernel) -> None:
    codes = [
        "run = train('run all', rounds=20)",
        "run.wait()",
        "print('after')",
        "len(run.metrics)",
        "await asyncio.sleep(0, 5)",
    ]
    cells = kernel.finish([kernel.send(code) for code in codes], seconds=60)
    assert [cell.reply for cell in cells] == ["ok"] * 5, cells
    assert "completed, 20 of 20 rounds" in (cells[1].result or "")
    assert (cells[2].text, cells[3].result, cells[4].result) == ("after\n", "20", "5")


def test_a_run_can_be_awaited_and_the_kernels_own_tasks_go_on_meanwhile(kernel: Kernel) -> None:
    code = """
    async def count():
        for ticks in range(10**9):
            await asyncio.sleep(0.001)
            if run.done: return ticks
    run = train('await', rounds=10)
    counting = asyncio.create_task(count())
    (await run) is run, run.status, await counting > 3
    """
    assert kernel.run(code).result == "(True, 'completed', True)"


def test_the_training_goes_on_while_a_cell_is_busy(kernel: Kernel) -> None:
    kernel.run("run = train('busy')")
    # Nothing of gridkit is called meanwhile, and nothing after the sleep makes a request.
    assert kernel.run("time.sleep(3); run.status, len(run.metrics)").result == "('completed', 2)"


def test_an_interrupt_ends_the_wait_but_neither_training_nor_session(kernel: Kernel) -> None:
    kernel.run("run = train('interrupted', rounds=100_000)")
    name = kernel.send("print('waiting', flush=True); run.wait()")
    kernel.until_printed(name, "waiting")
    time.sleep(0.3)
    kernel.interrupt()
    (cell,) = kernel.finish([name], seconds=10)
    assert (cell.reply, cell.error) == ("error", "KeyboardInterrupt")
    assert "goes on" in cell.text and "run.stop()" in cell.text
    shown = without_colours(cell.traceback)
    assert not [name for name in ("nest_asyncio", "selectors", "/asyncio/") if name in shown], shown
    rounds = "before = len(run.metrics); time.sleep(1); run.status, len(run.metrics) > before"
    assert kernel.run(rounds).result == "('running', True)"
    assert kernel.run("run.stop(); run.wait().status", seconds=30).result == "'stopped'"
    assert kernel.run("train('after the interrupt').wait().status").result == "'completed'"


def test_an_interrupt_of_an_awaited_run_leaves_it_going(kernel: Kernel) -> None:
    kernel.run("run = train('interrupted await', rounds=100_000)")
    name = kernel.send("print('waiting', flush=True); await run")
    kernel.until_printed(name, "waiting")
    time.sleep(0.3)
    kernel.interrupt()
    (cell,) = kernel.finish([name], seconds=10)
    assert cell.reply == "error"
    assert kernel.run("run.status").result == "'running'"
    assert kernel.run("run.stop(); run.stop(); (await run).status").result == "'stopped'"


def test_what_evaluate_prints_lands_in_the_cell_that_launched(kernel: Kernel) -> None:
    code = """
    def evaluate(trained):
        print('evaluating', type(trained).__name__, trained.training)
        return {'runs': len(grid.runs)}  # a blocking call: evaluate has a thread of its own
    run = train('prints', evaluate=evaluate)
    print('launched')
    """
    launching, waiting = kernel.send(code), kernel.send("run.wait(); print(run.metrics['runs'].tolist())")
    first, second = kernel.finish([launching, waiting])
    kernel.run("time.sleep(0.3)")
    assert sorted(first.text.splitlines()) == ["evaluating Sequential False"] * 2 + ["launched"]
    assert re.fullmatch(r"\[(\d+)\.0, \1\.0\]\n|\[(\d+), \2\]\n", second.text), second.text


def test_an_error_in_evaluate_is_raised_by_wait_in_its_cell(kernel: Kernel) -> None:
    kernel.run("run = train('bad evaluate', evaluate=lambda trained: {'x': 1 / 0})")
    (cell,) = kernel.finish([kernel.send("run.wait()")])
    assert cell.error == "EvaluationFailed"
    assert "ZeroDivisionError after round 1" in cell.traceback and "division by zero (In[" in cell.traceback
    assert kernel.run("2 + 2").result == "4"


def test_failing_workers_are_named_in_the_cell_that_waits_and_nowhere_else(kernel: Kernel) -> None:
    code = """
    bad = [(x.copy(), y) for x, y in shards]
    bad[2][0][:] = np.nan
    run = grid.train(model, plan, name='bad data', clients=bad, rounds=100_000)
    """
    starting = kernel.send(code)
    impatient = kernel.send("try: run.wait(timeout=0.001)\nexcept TimeoutError: print('not yet')")
    waiting = kernel.send("run.wait()")
    first, second, third = kernel.finish([starting, impatient, waiting])
    assert third.error == "WorkersFailed"
    shown = without_colours(third.traceback)
    assert "client 2" in shown and "NOT_FINITE" in shown and "run.debug(" in shown
    assert (first.text, second.text) == ("", "not yet\n")


def test_what_a_killed_kernel_launched_ends_with_it() -> None:
    kernel = Kernel(7)
    try:
        kernel.run("import gridkit as gk; grid = gk.launch()", seconds=60)
        pids = [int(pid) for pid in re.findall(r"\d+", kernel.run("print(grid.pids)").text)]
        assert len(pids) >= 3 and all(alive(pid) for pid in pids)
    finally:
        kernel.close()
    end = time.monotonic() + 20
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < end, f"still there: {[pid for pid in pids if alive(pid)]}"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
