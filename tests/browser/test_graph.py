"""The graph of a remote tensor in JupyterLab: a backward pass walks through it, and what is left can be read."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import SIZE, Open
from tests.browser.contrast import drawn_in, too_pale
from tests.browser.lab import use_theme
from tests.browser.test_panel import SCREENSHOTS, THEMES

pytestmark = pytest.mark.browser

MADE = """
import torch
import gridkit as gk

grid = gk.launch(workers=0)
net = grid.module(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)))
x = grid.tensor([[1.0, 2.0, 3.0]])
loss = (net(x) ** 2).sum()
grid
"""

# Notes each picture that comes: the functions that the pass has reached, in the order of their numbers.
NOTE_PICTURES = """area => {
    window.walks = [];
    const look = () => {
        const lit = [...area.querySelectorAll('svg g')].flatMap(box => {
            const [title, number] = box.querySelectorAll('text');
            return /^[0-9]+$/.test(number?.textContent ?? '') ? [[+number.textContent, title.textContent]] : [];
        });
        window.walks.push(lit.sort((a, b) => a[0] - b[0]).map(([, title]) => title));
    };
    new MutationObserver(look).observe(area, { subtree: true, childList: true });
    look();
}"""


def test_a_pass_walks_through_the_graph_and_the_picture_stays(open_notebook: Open, page: Page) -> None:
    """Leaves screenshots behind, to be looked at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    notebook = open_notebook([MADE, "loss.graph(live=True)", "loss.backward()", "loss.graph()"])
    for index in (0, 1):
        assert notebook.run(index), notebook.errors()
    area = notebook.cell(1)
    expect(area.get_by_role("status")).to_have_text("no pass has gone through it yet")
    expect(area.get_by_role("img")).to_have_attribute("aria-label", re.compile(r"^graph of loss: \d+ nodes: Sum, Pow"))
    area.evaluate(NOTE_PICTURES)
    assert notebook.run(2), notebook.errors()
    page.wait_for_function("() => window.walks.at(-1).length > 3")
    area.screenshot(path=SCREENSHOTS / "graph-live.png")
    expect(area.get_by_role("status")).to_have_text("pass 1, done")
    expect(area.locator(".jp-OutputArea-output svg")).to_have_count(1)
    expect(area.locator(".jupyter-widgets")).to_have_count(0)  # it is its own picture now
    walks: list[list[str]] = page.evaluate("window.walks")
    last = walks[-1]
    assert last[:2] == ["Sum", "Pow"] and sorted(last) == sorted(
        ["Sum", "Pow", "Addmm", "net.2.bias", "T", "net.2.weight", "Tanh", "Addmm", "net.0.bias", "T", "net.0.weight"]
    )
    assert all(walk == last[: len(walk)] for walk in walks if walk)
    assert len({len(walk) for walk in walks}) > 5  # one after the other
    assert notebook.run(3), notebook.errors()
    try:
        page.set_viewport_size({**SIZE, "height": 1800})  # a screenshot shows no more than the window
        for theme in THEMES:
            use_theme(page, theme)
            for index, name in ((1, "graph-walked"), (3, "graph")):
                shown = notebook.cell(index).locator(".jp-OutputArea-output").first
                shown.screenshot(path=SCREENSHOTS / f"{name}-{theme.lower()}.png")
                drawn = drawn_in(shown)
                assert {"Sum", "Pow", "Tanh", "net.0.weight", "grad float32[4, 3]"} <= {one.what for one in drawn}
                assert too_pale(drawn) == [], (name, theme)
    finally:
        use_theme(page, "Light")
        page.set_viewport_size(SIZE)
    notebook.show_exported()
    expect(page.get_by_role("img", name=re.compile("pass 1 went through 11"))).to_have_count(2)
    page.screenshot(path=SCREENSHOTS / "graph-exported.png", full_page=True)
