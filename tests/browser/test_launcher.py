"""Launch, watch and stop a training by clicks."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Open
from tests.support import wait_for

pytestmark = pytest.mark.browser

SETUP = """
import numpy as np, torch
import gridkit as gk
torch.set_num_threads(1)
rng = np.random.default_rng(0)
x = rng.normal(size=(6000, 64)).astype("float32")
y = (x @ rng.normal(size=(64, 4))).argmax(1)
shards = [(x[part], y[part]) for part in np.array_split(np.arange(6000), 4)]
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
loss = torch.nn.functional.cross_entropy
plan = gk.training_plan(model, loss, gk.SGD(lr=0.05), example=(x[:8], y[:8]))

def evaluate(model):
    with torch.no_grad():
        return {"accuracy": (model(torch.from_numpy(x[:500])).argmax(1).numpy() == y[:500]).mean()}

grid = gk.launch()
"""


def button(area: Locator, name: str) -> Locator:
    """By its whole name; before it stands the glyph of its icon."""
    return area.get_by_role("button", name=re.compile(rf"^\W*{name}$"))


def rounds_done(area: Locator) -> int:
    found = re.search(r"(\d+) of \d+ rounds", area.inner_text())
    return int(found[1]) if found else 0


def curve(area: Locator) -> str:
    """The newest values as a screen reader has them."""
    return area.get_by_role("img").last.get_attribute("aria-label") or ""


def until_round(area: Locator, rounds: int) -> None:
    wait_for(lambda: rounds_done(area) >= rounds, seconds=60, what=f"round {rounds}")


def test_launch_trains_the_plot_moves_and_stop_stops_within_a_round(open_notebook: Open, page: Page) -> None:
    """And a double click starts one training."""
    notes = """
(run,) = grid.runs.values()
noted = []
forget = run.subscribe(lambda: noted.append((run.status, run.history.cycle)))
"""
    after = """
run.wait()
len(grid.runs), run.status, len(run.metrics), next(cycle for status, cycle in noted if status == "stopping")
"""
    notebook = open_notebook([SETUP, "grid.launcher()", notes, after])
    assert notebook.run(0) and notebook.run(1)
    area = notebook.cell(1)
    area.get_by_label("Rounds").fill("400")
    area.get_by_label("Batch size").fill("2")  # slow rounds: that a click can fall into one
    area.get_by_label("Batch size").press("Enter")
    expect(button(area, "Stop").first).to_be_disabled()
    button(area, "Launch").dblclick()

    until_round(area, 2)
    first, picture = curve(area), area.get_by_role("img").last.inner_html()
    assert "loss" in first and "accuracy" in first
    assert notebook.run(2)  # the kernel is free meanwhile
    until_round(area, 5)
    assert curve(area) != first and area.get_by_role("img").last.inner_html() != picture
    assert int(area.get_by_role("progressbar").get_attribute("value") or 0) >= 5

    at_click = rounds_done(area)
    button(area, "Stop").first.click()
    expect(area).to_have_text(re.compile(r"stopped, \d+ of 400 rounds"))
    assert notebook.run(3)
    runs, status, done, asked_in = notebook.outputs(3)[0]["data"]["text/plain"].strip("()").split(", ")
    assert (runs, status) == ("1", "'stopped'")
    assert int(done) == int(asked_in)  # that round was finished, and none begun
    assert int(done) <= at_click + 2  # the panel may be a paint behind
    expect(button(area, "Launch")).to_be_enabled()
    expect(button(area, "Stop").first).to_be_disabled()


def test_watch_stops_now_at_the_second_click(open_notebook: Open, page: Page) -> None:
    slow = "batch_size=1, local_epochs=200"  # half a minute a round: nobody would wait for its end
    train = f'run = grid.train(model, plan, name="watched", clients=shards, rounds=400, {slow})\nrun.watch()'
    notebook = open_notebook([SETUP, train, "run.wait()"])
    assert notebook.run(0) and notebook.run(1)
    area = notebook.cell(1)
    expect(area).to_have_text(re.compile("round 1: .*training"))
    button(area, "Stop").click()
    expect(area.get_by_role("status")).to_have_text(re.compile("stopping, 0 of 400 rounds.*it stops after this round"))
    button(area, "Stop now").click()
    expect(area.get_by_role("status")).to_have_text(re.compile("stopped, 0 of 400 rounds"))
    expect(area.get_by_role("button")).to_have_count(0)  # it is over: a table and a picture are left
    assert notebook.run(2) and notebook.errors() == []


def test_a_hosted_training_is_joined_with_its_own_rounds(open_notebook: Open, page: Page) -> None:
    host = """
hosted = grid.host_training(model, plan, name="open", version="1.0", client_config={"batch_size": 8, "lr": 0.05},
                            server_config={"num_cycles": 3, "min_diffs": 4, "max_diffs": 4})
"""
    notebook = open_notebook([SETUP, host, "grid.launcher()", "hosted.run.wait()\nlen(hosted.run.metrics)"])
    assert all(notebook.run(index) for index in range(3))
    area = notebook.cell(2)
    area.get_by_role("button", name="A hosted training").click()
    expect(area.get_by_label("Rounds")).to_be_disabled()
    expect(area.get_by_label("Rounds")).to_have_value("3")
    button(area, "Launch").click()
    expect(area).to_have_text(re.compile("completed, 3 of 3 rounds"), timeout=60_000)
    assert notebook.run(3)
    assert notebook.outputs(3)[0]["data"]["text/plain"] == "3"
