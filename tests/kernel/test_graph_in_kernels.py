"""Live graphs of remote tensors in a real kernel: painted while cells run, and a picture in the file afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel.test_watch_in_kernels import VIEW, Front

pytestmark = pytest.mark.kernel

SETUP = """
import threading
import torch
import gridkit as gk
import gridkit.widgets.graph_watch

torch.set_num_threads(1)
grid = gk.launch(workers=0)
x = grid.tensor([1.0, 2.0], requires_grad=True)

def made():
    return (x * x).sum()
"""
PAINTING = "sum(thread.name == 'gridkit-paint' for thread in threading.enumerate())"


@pytest.fixture(scope="module")
def kernel() -> Iterator[Front]:
    started = Front(7)
    try:
        started.run(SETUP, seconds=60)
        yield started
        said = "".join(cell.text for cell in started.cells.values())
        assert "failed here" not in said and "Traceback" not in said, said
    finally:
        started.close()


def test_it_is_painted_while_a_cell_runs_and_then_becomes_its_picture(kernel: Front) -> None:
    shown = kernel.run("y = made(); view = y.graph(live=True); view").shown
    (name,) = shown
    assert VIEW in kernel.outputs[name]
    assert shown[name] == [
        "graph of y: 3 nodes, no pass has gone through it yet\n"
        + kernel.run("print(y.graph())").text.rstrip()  # the same words
    ]
    picture, before = kernel.widget("view.picture"), len(kernel.paints)
    kernel.run("y.backward(); import time; time.sleep(1.5)")
    kernel.until(lambda: VIEW not in kernel.outputs[name])
    painted = [state for _, widget, state in kernel.paints[before:] if widget == picture]
    assert len(painted) == 3, "a step each, and nothing that hasn't changed"
    twin = kernel.outputs[name]
    assert "grad [2, 4]" in twin["text/plain"] and "pass 1 went through 3" in twin["text/html"]


def test_a_cell_that_runs_again_closes_what_it_showed(kernel: Front) -> None:
    cell = "made().graph(live=True) if again else y.graph(live=True)"
    kernel.run("again = False; y = made()")
    kernel.run(cell)
    open_before = set(kernel.members)
    kernel.run("again = True")
    kernel.run(cell)
    assert not open_before <= set(kernel.members)
    closed = kernel.run("view = y.graph(live=True); view.close(); view").shown
    assert all(VIEW not in kernel.outputs[name] for name in closed) and len(closed) == 1


def test_pictures_of_tensors_that_are_gone_stop_painting(kernel: Front) -> None:
    kernel.run("for _ in range(10):\n    made().graph(live=True)")
    kernel.run("y = z = made()")
    cell = kernel.run("kept = y.graph(live=True); kept")
    kernel.run(
        f"import time\nend = time.monotonic() + 20\nwhile {PAINTING} > 1 and time.monotonic() < end: time.sleep(0.1)"
    )
    assert kernel.run(PAINTING).result == "1"
    (name,) = cell.shown
    assert VIEW in kernel.outputs[name]
    kernel.run("grid.close()")
    kernel.until(lambda: VIEW not in kernel.outputs[name])
    assert "no pass has gone through it yet" in kernel.outputs[name]["text/plain"]
    kernel.run(f"kept.painted.result(10); {PAINTING}")
    assert kernel.run(PAINTING).result == "0"
