"""Browse ten thousand models of a real node by clicks and by keys."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import SIZE, Open
from tests.browser.contrast import drawn_in, too_pale
from tests.browser.lab import Notebook, Traffic, use_theme
from tests.browser.test_hostile_names import MARKUP, marks_of
from tests.browser.test_launcher import button
from tests.browser.test_panel import NAMES, SCREENSHOTS, THEMES
from tests.shelf import serve_many
from tests.support import TOKEN, NodeUnderTest

pytestmark = pytest.mark.browser

MANY = 10_000
SHOW = "browser = grid.browse()\nbrowser"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    running = NodeUnderTest(tmp_path_factory.mktemp("node"))
    serve_many(running, MANY)
    yield running
    running.terminate()


def setup_of(node: NodeUnderTest) -> str:
    return f"""
import numpy as np, torch
import gridkit as gk
torch.set_num_threads(1)
rng = np.random.default_rng(0)
x = rng.normal(size=(2, 4)).astype("float32")
grid = gk.connect({node.url!r}, token={TOKEN!r})
"""


def opened(open_notebook: Open, node: NodeUnderTest, *cells: str) -> tuple[Notebook, Locator]:
    """A notebook whose cell 1 shows the browser."""
    notebook = open_notebook([setup_of(node), SHOW, *cells])
    assert notebook.run(0) and notebook.run(1), notebook.errors()
    area = notebook.cell(1)
    expect(rows(area)).to_have_count(20)
    return notebook, area


def rows(area: Locator) -> Locator:
    return area.get_by_title("Rows of this page").locator("option")


def choose(area: Locator, name: str) -> None:
    area.get_by_title("Rows of this page").select_option(label=rows(area).filter(has_text=name[:20]).first.inner_text())
    expect(area.locator(".gridkit strong").first).to_have_text(name)


def test_of_ten_thousand_models_only_a_page_travels_and_keys_alone_delete_one(
    open_notebook: Open, page: Page, node: NodeUnderTest
) -> None:
    traffic = Traffic(page)
    notebook, area = opened(open_notebook, node)
    expect(area).to_have_text(re.compile("1 to 20 of 10,000 models"))
    expect(rows(area).first).to_contain_text("model 00000")
    before = traffic.bytes
    assert 0 < before < 300_000
    button(area, "Next").click()
    expect(rows(area).first).to_contain_text("model 00020")
    area.get_by_label("Page").fill("500")
    area.get_by_label("Page").press("Enter")
    expect(area).to_have_text(re.compile("9,981 to 10,000 of 10,000 models"))
    expect(button(area, "Next")).to_be_disabled()
    area.get_by_label("Sort").select_option("most used first")
    expect(rows(area).first).to_contain_text("model 09999")
    area.get_by_label("Filter").press_sequentially("rare 00", delay=20)
    expect(area).to_have_text(re.compile("1 to 9 of 9 models"))
    expect(rows(area).first).to_contain_text("rare 00900")
    assert traffic.bytes - before < 150_000  # some 8 kB a page

    area.get_by_label("Filter").focus()
    page.keyboard.press("End")
    page.keyboard.type("700")
    expect(area).to_have_text(re.compile("1 to 1 of 1 model"))
    area.get_by_label("Row").focus()
    page.keyboard.press("ArrowUp")
    expect(area.locator(".gridkit strong").first).to_have_text("rare 00700")
    button(area, "Delete …").focus()
    page.keyboard.press("Enter")
    expect(area.get_by_role("alert")).to_have_text(re.compile("Delete the model 'rare 00700' from the node.*bob"))
    expect(button(area, "Keep it")).to_be_focused()
    page.keyboard.press("Enter")
    expect(area.get_by_role("alert")).to_be_hidden()
    expect(button(area, "Delete …")).to_be_focused()
    page.keyboard.press("Enter")
    expect(button(area, "Keep it")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(area).to_have_text(re.compile("rare 00700 is deleted"))
    expect(area).to_have_text(re.compile("Nothing has 'rare 00700' in it"))
    with node.http() as http:
        assert http.get("/models/rare 00700").status_code == 404
    assert notebook.errors() == []


def test_a_model_is_tried_and_downloaded_and_all_can_be_read_and_heard_on_light_and_dark_pages(
    open_notebook: Open, page: Page, node: NodeUnderTest
) -> None:
    """Leaves screenshots behind, to be looked at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    after = """
wanted = x.sum(1, keepdims=True).repeat(2, 1)
type(browser.result).__name__, np.allclose(browser.result(torch.from_numpy(x)).detach(), wanted)
"""
    notebook, area = opened(open_notebook, node, after)
    choose(area, "model 00003")
    expect(area.get_by_label("Input")).to_have_value("x")  # the notebook's array that fits
    area.get_by_label("Input").fill("y")
    button(area, "Run").click()
    expect(area).to_have_text(re.compile("'y' is neither JSON nor a variable"))
    button(area, "Download").click()
    expect(area).to_have_text(re.compile("model 00003 is here: browser.result"))
    assert notebook.run(2), notebook.errors()
    assert notebook.outputs(2)[0]["data"]["text/plain"] == "('PlanModule', True)"
    area.get_by_label("Input").fill("[[1, 2, 3, 4]]")
    button(area, "Run").click()
    expect(area.locator("pre")).to_contain_text("tensor([[10., 10.]])")
    button(area, "Delete …").click()
    expect(area.get_by_role("alert")).to_be_visible()

    names = area.evaluate(NAMES)
    assert len(names) > 12
    assert [html for html, name in names if not name] == []
    try:
        page.set_viewport_size({**SIZE, "height": 1800})  # a screenshot shows no more than the window
        for theme in THEMES:
            use_theme(page, theme)
            shown = area.locator(".jp-OutputArea-output").first
            shown.screenshot(path=SCREENSHOTS / f"browser-{theme.lower()}.png")
            drawn = drawn_in(shown)
            assert len(drawn) > 20 and too_pale(drawn) == [], theme
    finally:
        use_theme(page, "Light")
        page.set_viewport_size(SIZE)


def test_w11_names_that_are_markup_are_text_here_and_in_the_saved_page(
    open_notebook: Open, page: Page, node: NodeUnderTest
) -> None:
    hostile = f"""
MARKUP = {MARKUP!r}
grid.serve_model(torch.nn.Linear(4, 2), MARKUP, example=x, allow_download=True, allow_remote_inference=True)
grid.publish(torch.zeros(3), id=MARKUP, tags=[MARKUP], description=MARKUP, mock=torch.zeros(1))
"""
    notebook = open_notebook([setup_of(node), hostile, SHOW, "grid.delete_model(MARKUP), grid.close()"])
    assert all(notebook.run(index) for index in range(3)), notebook.errors()
    area = notebook.cell(2)
    choose(area, MARKUP)
    expect(area.get_by_label("Input")).to_have_value("x")
    area.get_by_label("Input").fill(MARKUP)
    button(area, "Run").click()
    expect(area.get_by_text("UsageError")).to_contain_text(MARKUP)
    button(area, "Delete …").click()
    expect(area.get_by_role("alert")).to_contain_text(MARKUP)
    button(area, "Datasets").click()
    expect(rows(area)).to_have_count(1)
    choose(area, MARKUP)
    area.get_by_label("Filter").fill(MARKUP * 2)
    expect(area).to_have_text(re.compile("Nothing has"))
    page.wait_for_timeout(500)  # what is to run has run by then
    assert marks_of(page) == (None, 0)
    area.get_by_label("Filter").fill("")
    expect(rows(area)).to_have_count(1)
    assert notebook.run(3), notebook.errors()
    expect(area.get_by_role("cell", name=MARKUP).first).to_be_visible()  # closed: the twin alone
    expect(area.get_by_role("button")).to_have_count(0)
    notebook.show_exported()
    page.wait_for_timeout(500)
    assert MARKUP in page.inner_text("body")
    assert marks_of(page) == (None, 0)
