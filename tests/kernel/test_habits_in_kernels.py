"""What people expect of a notebook: short errors, completion, and cells that can be run again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import gridkit as gk
from tests.kernel.driver import Cell, Kernel

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


@pytest.fixture(scope="module", params=[7, pytest.param(6, marks=pytest.mark.soak)], ids="ipykernel {}".format)
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


def test_an_error_of_the_tracer_names_the_cell_and_the_line(kernel: Kernel) -> None:
    code = (
        "class Net(torch.nn.Linear):\n    def forward(self, x):\n        return x if x.sum() > 9 else x @ self.weight\n"
    )
    code += "gk.training_plan(Net(8, 8), torch.nn.functional.mse_loss, gk.SGD(lr=0.1), example=(x, x))"
    number = int(kernel.run("x = torch.zeros(8, 8); len(In)").result or 0)
    first, second = failed(kernel, code)
    assert first.endswith(f"(In[{number}]:3: return x if x.sum() > 9 else x @ self.weight)"), first
    assert second.startswith("Try: ")


def test_the_whole_traceback_is_one_option_away(kernel: Kernel) -> None:
    kernel.run("gk.options.full_tracebacks = True; run = train('all of it', evaluate=lambda trained: {'x': 1 / 0})")
    shown = "\n".join(failed(kernel, "run.wait()"))
    kernel.run("gk.options.full_tracebacks = False")
    assert "ZeroDivisionError" in shown and "direct cause" in shown and "EvaluationFailed" in shown


def test_other_errors_stay_as_they_are(kernel: Kernel) -> None:
    shown = "\n".join(failed(kernel, "def f():\n    1 / 0\nf()"))
    assert "ZeroDivisionError" in shown and "Traceback" in shown


# -- completion


def completed(kernel: Kernel, code: str) -> list[str]:
    """What the front-end offers after `code`."""
    name = kernel.client.complete(code, len(code))
    while True:
        reply = kernel.client.get_shell_msg(timeout=20)
        if reply["parent_header"].get("msg_id") == name:
            matches: list[str] = reply["content"]["matches"]
            return matches


def test_names_of_runs_are_completed_without_a_call(kernel: Kernel) -> None:
    kernel.run("train('alpha').wait(); train('beta').wait(); list(grid.runs)")
    offered = completed(kernel, "grid.runs['")
    assert any("alpha" in match for match in offered) and any("beta" in match for match in offered)
    assert any("1.0" in match for match in completed(kernel, "grid.runs['alpha', '"))
    kernel.run("calls = []; link = grid._core._link; request = link.request")
    kernel.run("link.request = lambda *a, **k: (calls.append(a), request(*a, **k))[1]")
    assert completed(kernel, "grid.runs['") == offered
    assert kernel.run("del link.request; calls").result == "[]"


def test_arguments_and_members_are_completed(kernel: Kernel) -> None:
    assert {"clients=", "rounds=", "strategy=", "evaluate="} <= set(completed(kernel, "grid.train(model, plan, "))
    assert {"clients=", "processes="} <= set(completed(kernel, "grid.join('x', "))
    assert {"model=", "plan=", "clients="} <= set(completed(kernel, "grid.launcher("))
    members = {match.rpartition(".")[2] for match in completed(kernel, "grid.")}
    public = {name for name in dir(gk.Session) if not name.startswith("_")} | {"runs"}
    assert members == public and {"serve_model", "train", "join", "browse"} <= public


# -- reprs ask nobody


def test_reprs_make_no_call(kernel: Kernel) -> None:
    code = """
    hosted = grid.host_training(model, plan, name='reprs', server_config={'num_cycles': 3})
    run = train('shown').wait()
    calls = []
    link.request = lambda *a, **k: (calls.append(a), request(*a, **k))[1]
    shown = [grid, grid.runs, hosted, hosted.run, run, plan]
    texts = [repr(each) for each in shown]
    cards = [each._repr_html_() for each in shown]
    del link.request
    print(all(len(text.splitlines()) == 1 for text in texts), max(map(len, cards)) < 50_000, calls)
    print(repr(grid)); print(repr(hosted))
    """
    kernel.run("link = grid._core._link; request = link.request")
    said = kernel.run(code.replace("\n    ", "\n")).text.splitlines()
    assert said[0] == "True True []"
    assert "open, embedded, 2 worker processes" in said[1] and "running, 0 of 3 rounds" in said[2]


# -- cells that run again

COUNT = """
def held():
    "(child processes, threads, open files and sockets)"
    gc.collect()
    me = psutil.Process()
    children = [p for p in me.children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    # The I/O loop keeps up to six threads for what blocks, and starts them one by one.
    mine = [thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]
    return len(children), len(mine), me.num_fds()

def settled(limit, seconds=15):
    end = time.monotonic() + seconds
    now = held()
    while any(a > b for a, b in zip(now, limit)) and time.monotonic() < end:
        time.sleep(0.1)
        now = held()
    return now
"""


def test_launching_again_and_again_leaks_nothing(kernel: Kernel) -> None:
    kernel.run(COUNT)
    again = "other = gk.launch(workers=1); kept = other; kept"  # `Out` holds it too
    follow = "run = other.train(model, plan, name='x', clients=shards, rounds=100_000, processes=1); run"
    for _ in range(2):  # the first ones start what stays: threads of the pool of the I/O loop
        kernel.run(again)
        kernel.run(follow)
    kernel.run("before = held()")
    for _ in range(3):
        kernel.run(again)
        kernel.run(follow)
    assert (
        kernel.run("now = settled(before); all(a <= b for a, b in zip(now, before)) or (before, now)").result == "True"
    )
    assert kernel.run("other.close(); run.done").result == "True"


def test_connecting_again_and_again_leaks_nothing(kernel: Kernel) -> None:
    kernel.run(COUNT)
    again = "remote = gk.connect(grid.url, token=grid._core._embedded.token); followed = remote.runs['alpha']; remote"
    for _ in range(2):
        kernel.run(again)
    kernel.run("before = held(); first = remote")
    for _ in range(5):
        kernel.run(again)
    assert (
        kernel.run("now = settled(before); all(a <= b for a, b in zip(now, before)) or (before, now)").result == "True"
    )
    shown = failed(kernel, "list(first.runs)")
    assert shown == [
        f"NodeUnreachable: the session to {kernel.run('print(grid.url)').text.strip()} is closed",
        "Try: gk.connect, gk.launch or gk.Syft opens another",
    ]


def test_several_sessions_of_one_cell_live_side_by_side(kernel: Kernel) -> None:
    again = "both = [gk.connect(grid.url, token=grid._core._embedded.token) for _ in range(2)]"
    kernel.run(again)
    assert kernel.run("[len(list(each.runs)) > 0 for each in both]").result == "[True, True]"
    kernel.run("former = both")
    kernel.run(again)
    assert kernel.run("[repr(each).count('closed') for each in [*former, *both]]").result == "[1, 1, 0, 0]"


def run_in(kernel: Kernel, cell: str, code: str) -> None:
    """As JupyterLab and VS Code send a cell: with its name."""
    content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
    message = kernel.client.session.msg("execute_request", content, metadata={"cellId": cell})
    name = message["header"]["msg_id"]
    kernel.cells[name] = Cell()
    kernel.client.shell_channel.send(message)
    (ran,) = kernel.finish([name])
    assert ran.reply == "ok", ran.traceback


def test_a_cell_that_was_edited_is_the_same_cell_and_its_twin_another_one(kernel: Kernel) -> None:
    code = "{} = gk.connect(grid.url, token=grid._core._embedded.token)"
    run_in(kernel, "one", code.format("first"))
    run_in(kernel, "two", code.format("first") + "; second = first")  # the former `first` is held by nobody
    run_in(kernel, "one", code.format("third"))
    assert kernel.run("[repr(each).count('closed') for each in (second, third)]").result == "[0, 0]"
    run_in(kernel, "two", "held = second; " + code.format("fourth"))
    assert kernel.run("[repr(each).count('closed') for each in (held, third, fourth)]").result == "[1, 0, 0]"


def test_a_session_that_nobody_holds_is_closed_but_not_while_it_trains(kernel: Kernel) -> None:
    kernel.run(COUNT)
    kernel.run("before = held()")
    kernel.run("one = gk.launch(workers=1); run = one.train(model, plan, name='held', clients=shards, rounds=30)")
    kernel.run("del one; gc.collect()")
    assert kernel.run("run.wait().status, len(run.state)").result == "('completed', 4)"
    kernel.run("del run; gc.collect()")
    wait = "now = settled(before); now[0] <= before[0] or (before, now)"
    assert kernel.run(wait).result == "True"
