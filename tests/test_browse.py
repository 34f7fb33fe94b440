"""The browser over a real session: what the buttons do arrives at the node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest
import torch

import gridkit as gk
from gridkit.bridge import BRIDGE
from gridkit.errors import UsageError
from gridkit.session import _Shelf
from gridkit.widgets.browser import Browser
from gridkit.widgets.shelf import Order
from gridkit.widgets.snapshot import TextWatch
from tests.support import wait_for


@pytest.fixture(scope="module")
def grid() -> Iterator[gk.Session]:
    with gk.launch(workers=0) as session:
        yield session


@pytest.fixture
def browser(grid: gk.Session) -> Iterator[Browser]:
    shelf = _Shelf(grid._core)
    made = Browser(shelf, BRIDGE.sync(shelf.newest_models()))
    yield made
    made.close()


def until(holds: Callable[[], Any], what: str) -> None:
    wait_for(holds, seconds=20, what=what)


def until_said(browser: Browser, words: str) -> None:
    until(lambda: words in browser.said, words)


def until_shown(browser: Browser, kind: str, order: Order) -> None:
    until(lambda: (browser._shown.kind, browser._shown.order) == (kind, order) or browser.said, f"{kind} {order.label}")


def names(browser: Browser) -> list[str]:
    return [id for _, id in browser.list.options]


def test_a_model_is_read_about_tried_downloaded_and_deleted(grid: gk.Session, browser: Browser) -> None:
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2).eval()
    for id in ("one", "two/../%2f"):
        grid.serve_model(net, id, example=torch.zeros(4, 3), allow_download=True, allow_remote_inference=True)
    browser.refresh_button.click()
    until(lambda: names(browser) == ["two/../%2f", "one"], "both models")
    browser.list.value = "two/../%2f"
    for fact in ("two/../%2f", "a plan with its tensors", "float32[B, 3]", "owner"):
        assert fact in browser.details.value
    browser.input.value = "[[1, 2, 3], [0.5, 0, -1]]"
    browser.run_button.click()
    until(lambda: browser.result is not None, "the answer")
    assert torch.equal(browser.result, net(torch.tensor([[1, 2, 3], [0.5, 0, -1]])).detach())
    until(lambda: "Tensor [2, 2]" in browser.output.value, "the shown answer")

    browser.download_button.click()
    until(lambda: isinstance(browser.result, torch.nn.Module), "the download")
    assert torch.equal(browser.result(torch.ones(1, 3)), net(torch.ones(1, 3)))
    browser.refresh_button.click()
    until(lambda: ">1<" in browser.details.value.partition("downloads")[2][:60], "the counted download")

    browser.delete_button.click()
    browser.confirm_button.click()
    until(lambda: names(browser) == ["one"], "the page without it")
    assert grid.models == ["one"]


def test_a_bad_input_is_told(grid: gk.Session, browser: Browser) -> None:
    grid.serve_model(torch.nn.Linear(3, 2), "narrow", example=torch.zeros(1, 3), allow_remote_inference=True)
    browser.filter.value = "NARROW"  # upper and lower case are one
    until(lambda: names(browser) == ["narrow"], "the model")
    browser.list.value = "narrow"
    for text, words in (
        ("[[1, 2], [3]]", UsageError.__name__),
        ('[["a"]]', UsageError.__name__),
        ("[[1, 2]]", "float32"),
    ):
        browser.input.value = text
        browser.run_button.click()
        until_said(browser, words)
    assert browser.result is None


def test_a_dataset_is_found_by_its_tag_fetched_and_deleted(grid: gk.Session, browser: Browser) -> None:
    frame = pd.DataFrame({"age": [40, 50], "bmi": [21.5, 30.0]})
    grid.publish(frame, id="patients", tags=["#clinic"], description="two people\nof a clinic", mock=frame.head(1))
    grid.publish(torch.zeros(3), id="other")
    browser.kind.value = "datasets"
    until(lambda: names(browser) == ["other", "patients"], "both")
    browser.filter.value = "#clinic"
    until(lambda: names(browser) == ["patients"], "the tagged one")
    browser.list.value = "patients"
    for fact in ("age int64, bmi float64", "#clinic", "two people<br>of a clinic", "fetch it"):
        assert fact in browser.details.value
    browser.download_button.click()
    until(lambda: browser.result is not None, "the data")
    pd.testing.assert_frame_equal(browser.result, frame)
    browser.delete_button.click()
    browser.confirm_button.click()
    until(lambda: browser.list.options == (), "nothing of that tag")
    assert grid.datasets == ["other"]


def test_orders_are_those_that_the_node_knows(browser: Browser) -> None:
    for kind in ("models", "datasets"):
        browser.kind.value = kind
        for order in [order for _, order in browser.order.options]:
            browser.order.value = order
            until_shown(browser, kind, order)
    assert browser.said == ""


def test_where_there_are_no_widgets_it_is_text(grid: gk.Session) -> None:
    text = grid.browse()
    assert isinstance(text, TextWatch)
    lines = repr(text).splitlines()
    assert lines[0] == f"{len(grid.models)} models on {grid.url}"
    assert lines[1].split() == ["model", "version", "size", "owner", "allows", "served", "uses"]
    assert "live panel" in lines[-1]
