"""The quickstart in a real JupyterLab, as a person sees it who opens it and says Run All."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Open

pytestmark = pytest.mark.browser


def test_the_quickstart_runs_to_its_end_and_shows_the_training_live(open_notebook: Open) -> None:
    notebook = open_notebook("01_quickstart.ipynb")
    notebook.start_all()
    panel = notebook.cell(notebook.find("run.watch()"))
    expect(panel).to_have_text(
        re.compile(r"running, \d+ of 20 rounds"), timeout=60_000
    )  # while a cell waits for its end
    expect(panel.get_by_role("button")).to_be_visible()
    assert notebook.all_ran(), notebook.errors()
    assert notebook.errors() == []

    panel = notebook.cell(notebook.find("run.watch()"))
    expect(panel.get_by_role("status")).to_have_text(re.compile("completed, 20 of 20 rounds"))
    expect(panel.get_by_role("row").filter(has_text="client")).to_have_count(10)
    plot = notebook.cell(notebook.find("run.plot();"))
    for area in (panel, plot):
        picture = area.get_by_role("img")
        expect(picture).to_have_attribute("aria-label", re.compile(r"20 rounds: .*accuracy 0\.9"))
        size = picture.bounding_box()
        assert size is not None and size["width"] > 400 and size["height"] > 200
