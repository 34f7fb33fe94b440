"""Names and messages that are markup, of a training, a worker, a metric, an error: shown as text, never obeyed."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open

pytestmark = pytest.mark.browser

MARKUP = '<img src=x onerror="document.body.dataset.xss=1">'

SETUP = f"""
import httpx, numpy as np, torch
import gridkit as gk
torch.set_num_threads(1)
MARKUP = {MARKUP!r}
rng = np.random.default_rng(0)
shards = [(rng.normal(size=(16, 4)).astype("float32"), rng.integers(0, 2, 16)) for _ in range(2)]
model = torch.nn.Linear(4, 2)
plan = gk.training_plan(model, loss=torch.nn.functional.cross_entropy, optimizer=gk.SGD(lr=0.1), example=shards[0])
grid = gk.launch()
"""

# Somebody with nothing but a worker's token: calls itself so, and fails with such a message.
WORKER = """
def ask(what, **body):
    answer = httpx.post(f"{grid.url}/model-centric/{what}", json=body, trust_env=False)
    answer.raise_for_status()
    return answer.json()

hosted = grid.host_training(model, plan, name=MARKUP, version="1.0", client_config={"batch_size": 8},
                            server_config={"num_cycles": 2, "min_diffs": 2, "max_diffs": 2})
worker = ask("authenticate", model_name=MARKUP, model_version="1.0", auth_token=hosted.worker_token, worker=MARKUP)
mine = {"worker_id": worker["worker_id"]}
asked = ask("cycle-request", **mine, model=MARKUP, version="1.0", ping=0, download=0, upload=0)
error = {"type": MARKUP, "message": MARKUP, "traceback": MARKUP}
ask("report", **mine, request_key=asked["request_key"], error=error)["status"]
"""


def marks_of(page: Page) -> tuple[str | None, int]:
    """What an obeyed one would leave: the mark of its script, elements of its making."""
    found = page.evaluate("[document.body.dataset.xss ?? null, document.querySelectorAll('[onerror]').length]")
    return found[0], found[1]


def test_such_markup_would_be_obeyed_where_it_is_not_escaped(open_notebook: Open, page: Page) -> None:
    """The tests below can fail."""
    notebook = open_notebook([f"from IPython.display import HTML\nHTML({MARKUP!r})"])
    assert notebook.run_all()
    page.wait_for_function("() => document.body.dataset.xss === '1'")
    assert marks_of(page) == ("1", 1)


def test_reprs_tables_plots_and_errors_show_it_as_text(open_notebook: Open, page: Page) -> None:
    shown = [
        "hosted",
        "hosted.run",
        "hosted.run.reports",
        "again = dict(name=MARKUP, clients=shards, rounds=2)\n"
        "seen = gk.simulate(model, plan, evaluate=lambda net: {MARKUP: 1.0}, **again).wait()",
        "seen",
        "seen.metrics",
        "seen.plot();",
        "def evaluate(model):\n    raise ValueError(MARKUP)",
        "gk.simulate(model, plan, evaluate=evaluate, **again).wait()",
    ]
    notebook = open_notebook([SETUP, WORKER, *shown])
    assert not notebook.run_all()  # the last one fails, as it should
    assert [MARKUP in error for error in notebook.errors()] == [True], notebook.errors()
    for index in range(2, len(shown) + 2):
        if notebook.outputs(index):
            text = notebook.cell(index).inner_text()
            assert MARKUP in text, shown[index - 2]
    page.wait_for_timeout(500)  # what is to run has run by then
    assert marks_of(page) == (None, 0)


def test_widgets_and_the_saved_page_show_it_as_text(open_notebook: Open, page: Page) -> None:
    given = "grid.launcher(model=model, plan=plan, clients=shards)"
    notebook = open_notebook([SETUP, WORKER, "hosted.run.watch()", given, "grid.panel()", "hosted.run.stop(now=True)"])
    assert all(notebook.run(index) for index in range(5)), notebook.errors()
    watch, launcher, panel = (notebook.cell(index) for index in (2, 3, 4))
    expect(watch.get_by_role("row", name=f"{MARKUP} failed")).to_contain_text(f"{MARKUP}: {MARKUP}")
    expect(watch.get_by_role("status")).to_contain_text(f"{MARKUP} 1.0")
    expect(panel.get_by_role("row", name=f"{MARKUP} 1.0")).to_be_visible()

    launcher.get_by_label("Name").fill(MARKUP)
    launcher.get_by_label("Rounds").fill("2")
    launcher.get_by_label("Rounds").press("Enter")
    launcher.get_by_role("button", name="Launch").click()
    expect(launcher.get_by_role("status").last).to_contain_text(f"{MARKUP} 2.0: completed", timeout=60_000)
    launcher.get_by_role("button", name="A hosted training").click()
    assert marks_of(page) == (None, 0)

    assert notebook.run(5)
    expect(watch.get_by_role("button")).to_have_count(0)  # what was live is HTML for the file now
    expect(watch.get_by_role("status")).to_contain_text(f"{MARKUP} 1.0: stopped")
    assert marks_of(page) == (None, 0)
    notebook.show_exported()
    for text in (f"{MARKUP} 1.0: stopped", f"{MARKUP}: {MARKUP}"):
        assert text in page.locator("body").inner_text()
    page.wait_for_timeout(500)
    assert marks_of(page) == (None, 0)
