"""`gk.Syft` from a notebook's cells: handlers that wait, prints under their own cell, interrupts, cells that await."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel.driver import Kernel

pytestmark = pytest.mark.kernel

SETUP = """
import asyncio, os, tempfile, time
import numpy as np
import torch
import gridkit as gk

rng = np.random.default_rng(0)
x, y = rng.normal(size=(32, 8)).astype("float32"), rng.integers(0, 3, 32)
model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
plan = gk.training_plan(model, loss=torch.nn.functional.cross_entropy, optimizer=gk.SGD(lr=0.1), example=(x, y))
grid = gk.launch(workers=0)

def hosted(name, **config):
    return grid.host_training(model, plan, name=name, client_config={"batch_size": 8, **config},
                              server_config={"num_cycles": 1, "min_diffs": 1, "max_diffs": 1})
"""


@pytest.fixture(scope="module", params=[7, pytest.param(6, marks=pytest.mark.soak)], ids="ipykernel {}".format)
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    started = Kernel(request.param)
    try:
        started.run(SETUP, seconds=60)
        yield started
        started.run("grid.close()")
        said = "".join(cell.text for cell in started.cells.values())
        assert "never retrieved" not in said and "Task was destroyed" not in said and "Unclosed" not in said, said
    finally:
        started.close()


def test_handlers_call_what_waits_and_print_under_their_cell(kernel: Kernel) -> None:
    kernel.run("p = hosted('handlers'); client = gk.Syft(grid.url.replace('http', 'ws'), auth_token=p.worker_token)")
    made = """
job = client.new_job('handlers', '1.0')
@job.on('accepted')
def work(accepted):
    one_hot = np.eye(3, dtype='float32')[y]
    step = job.plans['training_plan']
    loss, accuracy, *params = step.execute(job.worker, x, one_hot, 32, 0.1, *accepted.model.params)
    job.report(accepted.model.create_serialized_diff(params))
    print('reported', accepted.cycle)
@job.on('accepted')
async def later(accepted):
    await asyncio.sleep(0.01)
    print('awaited')
job.on('rejected', lambda rejected: print('rejected:', rejected.reason))
"""
    cells = kernel.finish([kernel.send(code) for code in (made, "job.start()", "p.run.wait(); job.start()", "job.x")])
    assert [cell.reply for cell in cells] == ["ok", "ok", "ok", "error"], cells
    assert [cell.text for cell in cells[:3]] == ["", "reported 1\nawaited\n", "rejected: the training is over\n"]
    again = kernel.run("client = gk.Syft(grid.url); client").result
    assert again is not None and again.startswith("Syft('http://127.0.0.1")


def test_an_error_is_two_lines_in_its_own_cell(kernel: Kernel) -> None:
    (cell,) = kernel.finish([kernel.send("client = gk.Syft(grid.url); client.new_job('without a token', '1.0')")])
    assert cell.error == "AccessError" and cell.traceback.count("\n") <= 1, cell
    kernel.run("p = hosted('wrong'); job = client.new_job('wrong', '1.0', p.worker_token)")
    kernel.run("job.on('accepted', lambda accepted: job.report(b'no diff'))\nNone")
    (cell,) = kernel.finish([kernel.send("job.start()")])
    assert cell.error == "NodeError" and cell.traceback.count("\n") <= 1, cell
    assert kernel.run("1 + 1").result == "2"


def test_an_interrupted_training_goes_on_from_its_checkpoint(kernel: Kernel) -> None:
    kernel.run("path = os.path.join(tempfile.mkdtemp(), 'left'); p = hosted('interrupted', max_epochs=10**6)")
    kernel.run("client = gk.Syft(grid.url); job = client.new_job('interrupted', '1.0', p.worker_token); job.start()")
    name = kernel.send("job.train(x, y, checkpoint=path, on_progress=lambda p: p.step % 50 or print('step', p.step))")
    kernel.until_printed(name, "step 50\n")
    kernel.interrupt()
    (cell,) = kernel.finish([name])
    assert cell.error == "KeyboardInterrupt", cell
    cell = kernel.run("half = job.train(x, y, checkpoint=path, on_progress=lambda p: job.stop()); half.step > 50")
    assert cell.result == "True", cell
    assert kernel.run("os.path.exists(path)").result == "True"


def test_cells_that_await(kernel: Kernel) -> None:
    kernel.run("p = hosted('await')")
    code = """
async with gk.aio.Syft(grid.url, auth_token=p.worker_token) as client:
    job = await client.new_job('await', '1.0')
    @job.on('accepted')
    async def work(accepted):
        await job.report(await job.train(x, y, on_progress=lambda p: print(p.step, end=' ')))
    await job.start()
"""
    assert kernel.run(code).text == "1 2 3 4 "
    kernel.run("p.run.wait()")
