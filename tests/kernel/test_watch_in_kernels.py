"""The live panel in real kernels: it is painted while a cell waits, its button works, and what a notebook saves."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.kernel.driver import Kernel

pytestmark = pytest.mark.kernel

VIEW = "application/vnd.jupyter.widget-view+json"

SETUP = """
import time
import numpy as np
import torch
import gridkit as gk
import gridkit.widgets.watch  # takes a second: not within a test that counts

draw = np.random.default_rng(0)
shards = [(draw.normal(size=(32, 8)).astype("float32"), draw.integers(0, 3, 32)) for _ in range(4)]
model = torch.nn.Linear(8, 3)
plan = gk.training_plan(model, loss=torch.nn.functional.cross_entropy, optimizer=gk.SGD(lr=0.1), example=shards[0])

def slowly(trained):
    time.sleep(0.15)
    return {"accuracy": 0.75}

def train(rounds, **more):
    return gk.simulate(model, plan, clients=shards, rounds=rounds, name="digits <b>", **more)
"""


class Front(Kernel):
    """A front-end that also looks at widgets."""

    def __post_init__(self) -> None:
        self.members: dict[str, dict[str, Any]] = {}  # of each widget: what it was last told
        self.paints: list[tuple[float, str, set[str]]] = []
        self.outputs: dict[str, dict[str, Any]] = {}  # by display id
        super().__post_init__()

    def _note(self, message: dict[str, Any]) -> None:
        super()._note(message)
        content, kind = message["content"], message["msg_type"]
        if kind in ("comm_open", "comm_msg"):
            state = content["data"].get("state", {})
            self.members.setdefault(content["comm_id"], {}).update(state)
            self.paints.append((time.monotonic(), content["comm_id"], set(state)))
        elif kind == "comm_close":
            self.members.pop(content["comm_id"], None)
        elif kind in ("display_data", "update_display_data") and content["transient"].get("display_id"):
            self.outputs[content["transient"]["display_id"]] = content["data"]

    def widget(self, expression: str) -> str:
        return self.run(f"print({expression}.model_id)").text.strip()

    def click(self, button: str) -> None:
        content = {"comm_id": button, "data": {"method": "custom", "content": {"event": "click"}}}
        self.client.shell_channel.send(self.client.session.msg("comm_msg", content))

    def until(self, condition: Any, seconds: float = 30) -> None:
        """Read what the kernel sends, and send it nothing, so that it is as idle as it can be."""
        self._read(condition, seconds)


@pytest.fixture(scope="module", params=[7, 6], ids="ipykernel {}".format)
def kernel(request: pytest.FixtureRequest) -> Iterator[Front]:
    started = Front(request.param)
    try:
        started.run(SETUP, seconds=60)
        yield started
    finally:
        started.close()


def test_it_is_painted_while_a_cell_waits_and_ends_with_the_last_state(kernel: Front) -> None:
    kernel.run("run = train(20, evaluate=slowly); panel = run.watch(); panel")
    status, curves = kernel.widget("panel.status"), kernel.widget("panel.curves")
    before = len(kernel.paints)
    kernel.run("run.wait()")
    paints = [members for _, name, members in kernel.paints[before:] if name == curves]
    assert len(paints) >= 3  # 20 rounds take 3 s
    assert "completed, 20 of 20 rounds" in kernel.members[status]["value"]
    assert "20 rounds: accuracy 0.75" in kernel.members[curves]["value"]
    (shown,) = kernel.outputs.values()
    assert "completed, 20 of 20 rounds" in shown["text/plain"] and VIEW not in shown
    assert "&lt;b&gt;" in shown["text/html"] and "<b>" not in shown["text/html"]


def test_stop_works_while_the_kernel_is_idle(kernel: Front) -> None:
    kernel.run("run = train(100_000); panel = run.watch(); panel")
    button, status = kernel.widget("panel.stop_button"), kernel.widget("panel.status")
    kernel.until(lambda: re.search(r"running, [1-9]", kernel.members[status]["value"]))
    kernel.click(button)
    kernel.until(lambda: "stopped, " in kernel.members[status]["value"])
    kernel.until(lambda: kernel.members[button]["disabled"])
    assert kernel.run("print(run.status, run.done)").text == "stopped True\n"


@pytest.mark.parametrize("kernel", [7], indirect=True)  # ipykernel 6 keeps clicks back until the cell is over
def test_stop_works_while_a_cell_awaits(kernel: Front) -> None:
    kernel.run("run = train(100_000); panel = run.watch(); panel")
    button = kernel.widget("panel.stop_button")
    waiting = kernel.send("await run; print(run.status)")
    time.sleep(0.5)
    kernel.click(button)
    (cell,) = kernel.finish([waiting])
    assert cell.text == "stopped\n", cell


def test_running_the_cell_again_leaves_no_thread_and_no_widget(kernel: Front) -> None:
    kernel.run("import threading; run = train(100_000)")
    counts = [
        kernel.run(
            "panel = run.watch(); panel._ipython_display_()\n"
            "time.sleep(0.3)\n"
            "print(sum(t.name == 'gridkit-paint' for t in threading.enumerate()), len(run._listeners))"
        ).text
        for _ in range(3)
    ]
    assert counts == ["1 1\n"] * 3
    widgets = len(kernel.members)
    kernel.run("panel.close()")
    kernel.until(lambda: len(kernel.members) < widgets)
    kernel.run("run.stop(now=True); run.wait()")


def test_a_saved_notebook_shows_the_end_and_can_be_read_without_a_kernel(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        nbformat.v4.new_code_cell(text)
        for text in (
            SETUP,
            "run = train(5, evaluate=slowly)\nrun.watch()",
            "run.wait()",
            "run.plot();",
            "endless = train(100_000)\nendless.watch()",  # nobody waits for its end
        )
    ]
    folder = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=60, resources=folder, store_widget_state=False).execute()

    (panel,) = notebook.cells[1].outputs
    assert "completed, 5 of 5 rounds" in panel.data["text/plain"]
    assert "5 rounds: accuracy 0.75" in panel.data["text/html"] and VIEW not in panel.data
    assert len(panel.data["text/html"]) < 50_000
    assert [sorted(output.data) for output in notebook.cells[3].outputs] == [["image/png", "text/html", "text/plain"]]
    (half_way,) = notebook.cells[4].outputs
    assert VIEW in half_way.data
    assert "running, " in half_way.data["text/plain"] and "running, " in half_way.data["text/html"]

    from nbconvert import HTMLExporter

    page, _ = HTMLExporter().from_notebook_node(notebook)
    assert page.count('role="img"') == 3  # the curves of two panels, and the plot
    assert "digits &lt;b&gt; 1.0: completed, 5 of 5 rounds" in page
    assert "VBox" not in page and "digits &lt;b&gt; 1.0: running, " in page


def test_without_ipywidgets_it_is_text_with_a_hint(kernel: Front) -> None:
    cell = kernel.run(
        "import importlib.util, unittest.mock as mock\n"
        "with mock.patch.object(importlib.util, 'find_spec', lambda name: None):\n"
        "    shown = repr(train(2).wait().watch())\n"
        "print(shown)"
    )
    lines = cell.text.splitlines()
    assert lines[0].startswith("digits <b> 1.0: completed, 2 of 2 rounds")
    assert lines[-1] == "(a live panel needs ipywidgets: pip install ipywidgets)"


def test_plots_show_under_inline_and_leave_the_users_settings(kernel: Front) -> None:
    kernel.run("%matplotlib inline\nimport matplotlib\nbefore = dict(matplotlib.rcParams)\nrun = train(2).wait()")
    kernel.run("panel = run.watch(); ax = run.plot()")
    assert (
        kernel.run("print(dict(matplotlib.rcParams) == before, len(matplotlib.pyplot.get_fignums()))").text
        == "True 0\n"
    )
