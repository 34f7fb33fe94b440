"""How the widgets look: light and dark pages, contrast, names for screen readers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import SIZE, Open
from tests.browser.contrast import drawn_in, too_pale
from tests.browser.lab import use_theme
from tests.browser.test_launcher import SETUP

pytestmark = pytest.mark.browser

SCREENSHOTS = Path(__file__).resolve().parents[2] / ".cache" / "screenshots"
THEMES: tuple[Literal["Light", "Dark"], ...] = ("Light", "Dark")

TRAINED = """
run = grid.train(model, plan, name="digits", clients=shards, rounds=6, evaluate=evaluate)
run.wait()
"""

# Every control that one can reach, and what a screen reader would call it.
NAMES = """area => [...area.querySelectorAll('button, input, select, textarea, progress')]
    .filter(element => element.getClientRects().length)
    .map(element => [element.outerHTML.slice(0, 120),
                     (element.getAttribute('aria-label') || element.getAttribute('aria-labelledby') || ''
                      + [...(element.labels ?? [])].map(label => label.innerText).join(' ')
                      + (element.matches('button') ? element.innerText : '') + element.title).trim()])"""


def test_panel_and_plot_can_be_read_and_heard_on_light_and_dark_pages(open_notebook: Open, page: Page) -> None:
    """Leaves screenshots behind, to be looked at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    notebook = open_notebook([SETUP, TRAINED, "grid.panel()", "run.plot();", "plan", "grid", "run"])
    assert notebook.run_all(), notebook.errors()
    panel = notebook.cell(2)
    expect(panel).to_have_text(re.compile("completed, 6 of 6 rounds"))
    expect(panel.get_by_role("img")).to_have_attribute("aria-label", re.compile(r"6 rounds: .*accuracy 0\.\d+"))
    names = panel.evaluate(NAMES)
    assert len(names) > 8
    assert [html for html, name in names if not name] == []
    try:
        page.set_viewport_size({**SIZE, "height": 1800})  # a screenshot shows no more than the window
        for theme in THEMES:
            use_theme(page, theme)
            for index, name in ((2, "panel"), (3, "plot"), (4, "plan"), (5, "session"), (6, "run")):
                area = notebook.cell(index).locator(".jp-OutputArea-output").first  # without JupyterLab's "[3]:"
                area.screenshot(path=SCREENSHOTS / f"{name}-{theme.lower()}.png")
                drawn = drawn_in(area)
                assert drawn and too_pale(drawn) == [], (name, theme)
                if index in (2, 3):
                    assert {"loss", "accuracy", "round"} <= {one.what for one in drawn if one.kind == "text"}
                    assert sum(one.kind == "graphics" for one in drawn) > 2
    finally:
        use_theme(page, "Light")
        page.set_viewport_size(SIZE)
