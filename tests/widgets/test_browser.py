"""The browser of models and datasets, on a shelf in memory that computes what a node would."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets as W
import numpy as np
import pytest
import torch

from gridkit.errors import AccessError, NodeUnreachable
from gridkit.policy import Policy
from gridkit.widgets import browser as browsers
from gridkit.widgets import words
from gridkit.widgets.browser import Browser
from gridkit.widgets.shelf import PAGE, Page, row_card
from tests.shelf import MemoryShelf, dataset, model
from tests.support import wait_for

MARKUP = '<img src=x onerror="document.body.dataset.xss=1">'


@pytest.fixture
def shelf() -> Iterator[MemoryShelf]:
    made = MemoryShelf([model(f"model {n:04}", n) for n in range(45)], [dataset(f"set {n}", n) for n in range(3)])
    yield made
    made.gate.set()


def browse(shelf: MemoryShelf) -> Browser:
    return Browser(shelf, shelf.now("models", 0, PAGE, "", "created_at", True))


def names(browser: Browser) -> list[str]:
    return [id for _, id in browser.list.options]


def choose(browser: Browser, id: str) -> None:
    browser.list.value = id


def until(holds: Callable[[], bool], what: str) -> None:
    wait_for(holds, seconds=10, what=what)


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    made: dict[str, Any] = {}
    monkeypatch.setattr(browsers, "namespace", lambda: made)
    return made


def visible(part: W.Widget) -> bool:
    return bool(part.layout.display != "none")


# -- pages


def test_it_opens_on_the_newest_models_and_turns_pages(shelf: MemoryShelf) -> None:
    browser = browse(shelf)
    assert shelf.asked == []  # the first page was given
    assert names(browser) == [f"model {n:04}" for n in range(44, 24, -1)]
    assert "1 to 20 of 45 models" in browser.position.value
    assert (browser.previous_button.disabled, browser.next_button.disabled) == (True, False)
    browser.next_button.click()
    until(lambda: names(browser)[0] == "model 0024", "the second page")
    browser.next_button.click()
    until(lambda: len(names(browser)) == 5, "the last page")
    assert (browser.previous_button.disabled, browser.next_button.disabled) == (False, True)
    assert (browser.number.value, browser.number.max) == (3, 3)
    browser.number.value = 2
    until(lambda: names(browser)[0] == "model 0024", "the page that was typed")
    browser.previous_button.click()
    until(lambda: names(browser)[0] == "model 0044", "the first page")
    assert len(shelf.asked) == 4  # what is filled in asks for nothing


def test_filter_and_order_are_the_nodes_work_and_begin_at_the_first_page(shelf: MemoryShelf) -> None:
    browser = browse(shelf)
    browser.next_button.click()
    until(lambda: "21 to 40" in browser.position.value, "the second page")
    browser.filter.value = "l 004"
    until(lambda: names(browser) == [f"model 004{n}" for n in range(4, -1, -1)], "what was filtered")
    browser.order.label = "by name"
    until(lambda: names(browser) == [f"model 004{n}" for n in range(5)], "the new order")
    assert shelf.asked[-1] == ("page", "models", 0, PAGE, "l 004", "id", False)
    browser.filter.value = "nothing like it"
    until(lambda: "nothing like it" in browser.position.value, "no rows")
    assert browser.list.options == () and browser.next_button.disabled


def test_while_a_page_is_under_way_only_the_newest_wish_is_kept(shelf: MemoryShelf) -> None:
    browser = browse(shelf)
    shelf.gate.clear()
    for text in ("0", "00", "000", "0003"):
        browser.filter.value = text
    assert [asked[4] for asked in shelf.asked] == ["0"]
    shelf.gate.set()
    until(lambda: names(browser) == ["model 0003"], "the last filter")
    assert [asked[4] for asked in shelf.asked] == ["0", "0003"]


def test_an_error_is_shown_and_the_next_wish_is_granted(shelf: MemoryShelf) -> None:
    browser = browse(shelf)
    before = names(browser)
    shelf.error = NodeUnreachable("the node has gone", "start it again")
    browser.refresh_button.click()
    until(lambda: "the node has gone" in browser.said, "the error")
    assert names(browser) == before
    shelf.error = None
    browser.filter.value = "0007"
    until(lambda: names(browser) == ["model 0007"], "the page after")


def test_a_page_that_is_no_more_is_replaced_by_the_last_one(shelf: MemoryShelf) -> None:
    browser = browse(shelf)
    browser.number.value = 3
    until(lambda: "41 to 45" in browser.position.value, "the last page")
    del shelf.rows["models"][20:]
    browser.refresh_button.click()
    until(lambda: "1 to 20 of 20 models" in browser.position.value, "the page that is the last now")
    shelf.rows["models"].clear()
    browser.refresh_button.click()
    until(lambda: "No model is served on this node yet" in browser.position.value, "an empty node")


def test_a_node_that_sends_more_rows_than_asked_for_or_none_of_many_is_shown_as_far_as_it_goes() -> None:
    rows = [model(f"m{n}") for n in range(500)]

    class Liar(MemoryShelf):
        page_of = Page(500, rows)

        def now(self, *_: Any) -> Page:
            return self.page_of

    shelf = Liar()
    browser = Browser(shelf, Page(500, rows[:PAGE]))
    browser.refresh_button.click()
    until(lambda: len(shelf.asked) == 1 and not browser._looking, "the page")
    assert len(browser.list.options) == PAGE
    shelf.page_of = Page(10**12, [])
    browser.next_button.click()
    until(lambda: browser.list.options == (), "an empty page")
    assert len(shelf.asked) == 2  # it isn't asked for ever


def test_datasets_have_columns_orders_and_words_of_their_own(shelf: MemoryShelf) -> None:
    browser = browse(shelf)
    choose(browser, "model 0044")
    browser.order.label = "most used first"
    browser.kind.value = "datasets"
    until(lambda: names(browser) == ["set 2", "set 1", "set 0"], "the datasets")
    assert shelf.asked[-1][5:] == ("created_at", True)
    assert browser.selected is None
    choose(browser, "set 1")
    for fact in ("#xray", "lungs", "float32[10, 2]", "run any plan"):
        assert fact in browser.details.value
    assert browser.download_button.disabled  # `may_fetch` says no, and there is no sample
    assert not visible(browser.trial)
    shelf.rows["datasets"].clear()
    browser.refresh_button.click()
    until(lambda: "No dataset that you may see" in browser.position.value, "no datasets")


# -- the chosen row


def test_what_is_chosen_stays_so_while_it_is_there(shelf: MemoryShelf) -> None:
    browser = browse(shelf)
    assert browser.selected is None and "Choose a model" in browser.details.value
    assert browser.download_button.disabled and browser.delete_button.disabled
    choose(browser, "model 0040")
    assert browser.selected == "model 0040" and "1.04 kB" in browser.details.value
    browser.filter.value = "l 004"
    until(lambda: len(names(browser)) == 5, "the filtered page")
    assert browser.selected == browser.list.value == "model 0040"
    browser.filter.value = "l 003"
    until(lambda: len(names(browser)) == 10, "another page")
    assert browser.selected is None and browser.list.value is None


def test_a_row_is_chosen_by_its_number_too(shelf: MemoryShelf) -> None:
    browser = browse(shelf)
    assert (browser.row.value, browser.row.max) == (0, PAGE)
    browser.row.value = 2
    assert browser.selected == browser.list.value == "model 0043"
    browser.row.value = 3
    assert browser.selected == browser.list.value == "model 0042"
    browser.list.value = "model 0040"
    assert browser.row.value == 5
    browser.row.value = 0
    assert browser.selected is None and browser.list.value is None
    browser.number.value = 3
    until(lambda: "41 to 45" in browser.position.value, "the last page")
    assert (browser.row.value, browser.row.max) == (0, 5)
    assert len(shelf.asked) == 1


@pytest.mark.parametrize(("mock", "may_fetch"), [(True, False), (False, True)])
def test_a_dataset_is_downloaded_whole_or_its_sample(mock: bool, may_fetch: bool) -> None:
    shelf = MemoryShelf([], [dataset("d", mock=mock, may_fetch=may_fetch)])
    browser = browse(shelf)
    browser.kind.value = "datasets"
    until(lambda: names(browser) == ["d"], "the dataset")
    choose(browser, "d")
    browser.download_button.click()
    until(lambda: "d is here" in browser.said, "the data")
    assert shelf.asked[-1] == ("download", "datasets", "d")
    browser.kind.value = "models"
    until(lambda: browser.said == "", "a status that says nothing of the other kind")


def test_a_policy_is_told_in_words() -> None:
    policy = Policy(fetch=["ada", "bob"], run={"ab" * 32: "everyone", "any": ["eve"]}, max_values=64, results=[0])
    card = row_card("datasets", dataset("d", policy=json.loads(json.dumps(policy.to_json()))))
    for told in (
        "everyone may see it; ada, bob may fetch it",
        "everyone may run the plan abababababababab…; eve may run any plan",
        "a run gives 64 values at most; of its results only [0]",
    ):
        assert told in card


@pytest.mark.parametrize("flag", ["allow_download", "allow_remote_inference"])
def test_what_a_model_does_not_allow_is_out_of_reach(flag: str) -> None:
    shelf = MemoryShelf([model("m", **{flag: False})])
    browser = browse(shelf)
    choose(browser, "m")
    assert browser.download_button.disabled == (flag == "allow_download")
    assert visible(browser.trial) == (flag != "allow_remote_inference")


def test_a_download_is_the_result(shelf: MemoryShelf) -> None:
    browser = browse(shelf)
    choose(browser, "model 0040")
    shelf.gate.clear()
    browser.download_button.click()
    assert "downloading model 0040" in browser.said
    browser.delete_button.click()
    browser.confirm_button.click()  # one thing at a time
    assert "still downloading model 0040" in browser.said
    shelf.gate.set()
    until(lambda: "model 0040 is here" in browser.said, "the download")
    assert browser.result is shelf.layer
    assert [asked[0] for asked in shelf.asked] == ["download"]


def test_a_download_can_be_cancelled(shelf: MemoryShelf) -> None:
    browser = browse(shelf)
    choose(browser, "model 0040")
    assert browser.cancel_button.disabled
    shelf.gate.clear()
    browser.download_button.click()
    assert not browser.cancel_button.disabled
    browser.cancel_button.click()
    until(lambda: browser.said == "cancelled", "the end")
    assert browser.result is None and browser.cancel_button.disabled
    shelf.gate.set()
    browser.download_button.click()
    until(lambda: browser.result is shelf.layer, "another download")


def test_an_input_is_tried_as_json_or_by_the_name_of_an_array(shelf: MemoryShelf, variables: dict[str, Any]) -> None:
    browser = browse(shelf)
    choose(browser, "model 0040")
    assert browser.input.value == "[[0.0, 0.0]]"
    browser.input.value = "[[1, 2], [3, 4]]"
    browser.run_button.click()
    until(lambda: "has answered" in browser.said, "the answer")
    assert torch.equal(browser.result, shelf.layer(torch.tensor([[1.0, 2.0], [3.0, 4.0]])))
    assert "Tensor [2, 3]" in browser.output.value

    variables |= {"x": np.ones((5, 2), np.float32), "wide": np.ones((5, 3)), "_x": np.ones((5, 2)), "text": "x"}
    choose(browser, "model 0041")
    assert browser.output.value == ""
    assert (browser.input.value, browser.input.options) == ("x", ("x",))
    browser.run_button.click()
    until(lambda: tuple(browser.result.shape) == (5, 3), "the second answer")
    assert shelf.asked[-1] == ("infer", "model 0041", 1)


@pytest.mark.parametrize("text", ["", "nobody", "[[1,", "__import__('os')", "x, x", "[" * 100_000])
def test_what_is_no_input_is_said_and_not_sent(shelf: MemoryShelf, variables: dict[str, Any], text: str) -> None:
    variables["x"] = np.ones((5, 2))
    browser = browse(shelf)
    choose(browser, "model 0040")
    browser.input.value = text
    browser.run_button.click()
    assert "UsageError" in browser.said
    assert shelf.asked == [] and browser.cancel_button.disabled
    browser.input.value = "x"
    browser.run_button.click()
    until(lambda: browser.result is not None, "the answer to a good one")


def test_an_answer_for_a_model_that_is_no_longer_chosen_is_not_shown_under_another(shelf: MemoryShelf) -> None:
    browser = browse(shelf)
    choose(browser, "model 0040")
    shelf.gate.clear()
    browser.run_button.click()
    choose(browser, "model 0041")
    shelf.gate.set()
    until(lambda: "model 0040 has answered" in browser.said, "the answer")
    assert browser.result is not None and browser.output.value == ""


# -- deletion


def test_nothing_is_deleted_before_it_is_confirmed(shelf: MemoryShelf) -> None:
    shelf.rows["models"][40] = model("model 0040", 40, versions=3, version=3)
    browser = browse(shelf)
    choose(browser, "model 0040")
    assert not visible(browser.confirm)
    browser.delete_button.click()
    assert visible(browser.confirm) and shelf.asked == []
    assert "all its 3 versions" in browser.question.value and "belongs to ada" in browser.question.value
    browser.keep_button.click()
    browser.confirm_button.click()  # nothing is asked about any more
    assert not visible(browser.confirm) and shelf.asked == []
    browser.delete_button.click()
    browser.confirm_button.click()
    until(lambda: "model 0040" not in names(browser) and bool(names(browser)), "the page without it")
    assert shelf.asked[0] == ("delete", "models", "model 0040") and "is deleted" in browser.said
    assert browser.selected is None and not visible(browser.confirm)


@pytest.mark.parametrize("elsewhere", ["another row", "another kind"])
def test_a_question_about_one_thing_never_deletes_another(shelf: MemoryShelf, elsewhere: str) -> None:
    shelf.rows["datasets"].append(dataset("model 0040"))
    browser = browse(shelf)
    choose(browser, "model 0040")
    browser.delete_button.click()
    if elsewhere == "another row":
        choose(browser, "model 0041")
    else:
        browser.kind.value = "datasets"
        until(lambda: "model 0040" in names(browser) and len(names(browser)) == 4, "the datasets")
    assert not visible(browser.confirm)
    browser.confirm_button.click()
    assert all(asked[0] == "page" for asked in shelf.asked)


def test_a_deletion_that_is_refused_is_said_and_the_row_stays(shelf: MemoryShelf) -> None:
    browser = browse(shelf)
    choose(browser, "model 0040")
    browser.delete_button.click()
    shelf.error = AccessError("it belongs to ada", "ask her", status=403)
    browser.confirm_button.click()
    until(lambda: "it belongs to ada" in browser.said, "the refusal")
    assert browser.selected == "model 0040"


# -- how it is shown


def test_w11_what_others_wrote_is_shown_as_text() -> None:
    turned = "safe\u202egnp"
    fields = {key: MARKUP for key in ("owner", "version")} | {"versions": MARKUP, "uses": MARKUP}
    inputs = [{"name": MARKUP, "dtype": MARKUP, "shape": [MARKUP, 2]}]
    origin = {"name": MARKUP, "version": MARKUP, "round": MARKUP}
    hostile = [model(MARKUP, 2, **fields, inputs=inputs, origin=origin), model(turned, 1), model("a\nb", 0)]
    sets = [dataset(MARKUP, owner=MARKUP, tags=[MARKUP], description=MARKUP, kind="frame", policy={MARKUP: MARKUP})]
    sets[0]["tensors"] = [{"name": MARKUP, "dtype": MARKUP}]
    shelf = MemoryShelf(hostile, sets)
    browser = browse(shelf)
    shown = []
    choose(browser, MARKUP)
    browser.delete_button.click()
    browser.input.value = MARKUP
    browser.run_button.click()
    parts = [browser.details, browser.question, browser.status, browser.output, browser.position, browser.head]
    shown += [part.value for part in parts] + [browser.twin()[1]]
    labels = [label for label, _ in browser.list.options]
    browser.kind.value = "datasets"
    until(lambda: names(browser) == [MARKUP] and "1 dataset" in browser.position.value, "the dataset")
    choose(browser, MARKUP)
    browser.filter.value = MARKUP * 2
    until(lambda: "Nothing has" in browser.position.value, "nothing")
    shown += [part.value for part in parts] + [browser.twin()[1]]
    assert all("<img" not in html for html in shown)
    assert sum("&lt;img" in html for html in shown) >= 5
    assert all("\u202e" not in label and "\n" not in label for label in labels)
    assert r"safe\u202egnp" in labels[1] and r"a\nb" in labels[2]


def test_rows_stand_in_columns_however_long_and_wide_they_are() -> None:
    shelf = MemoryShelf([model(id, n) for n, id in enumerate(["m", "x" * 200, "模型" * 30, "נתונים", "e\u0301" * 50])])
    browser = browse(shelf)
    starts = set()
    for label, _ in browser.list.options:
        before = [label[:at].translate({0x2068: None, 0x2069: None}) for at, c in enumerate(label) if c == "\u2068"]
        starts.add(tuple(map(words.width, before)))
        assert " " not in label  # an option of a list shows many spaces as one
    assert len(starts) == 1 and len(min(starts)) == 7


def test_every_control_has_a_name_for_screen_readers(shelf: MemoryShelf) -> None:
    browser = browse(shelf)

    def controls(part: W.Widget) -> Iterator[W.Widget]:
        for child in getattr(part, "children", ()):
            yield from controls(child)
        if not isinstance(part, (W.Box, W.HTML)):
            yield part

    nameless = [c for c in controls(browser) if not (c.description or getattr(c, "tooltip", None) or len(c.options))]
    assert nameless == [] and len(list(controls(browser))) == 16


def test_its_twin_says_the_same_as_text_and_as_a_table(shelf: MemoryShelf) -> None:
    browser = browse(shelf)
    choose(browser, "model 0044")
    text, html = browser.twin()
    assert text.splitlines()[0] == "Models newest first: 1 to 20 of 45 models"
    assert len(text.splitlines()) == 2 + PAGE and "model 0025" in text and "model 0024" not in text
    assert html.count("<tr>") >= 1 + PAGE and "more</td>" not in html
    assert "model 0044" in repr(browser)
    browser.filter.value = "0007"
    until(lambda: names(browser) == ["model 0007"], "one row")
    assert browser.twin()[0].splitlines()[0] == "Models newest first, with '0007': 1 to 1 of 1 model"


def test_a_refresh_while_a_question_is_open_leaves_it_open(shelf: MemoryShelf) -> None:
    browser = browse(shelf)
    choose(browser, "model 0040")
    browser.input.value = "[[7, 7]]"
    browser.delete_button.click()
    browser.refresh_button.click()
    until(lambda: len(shelf.asked) == 1 and not browser._looking, "the page")
    assert visible(browser.confirm) and browser.input.value == "[[7, 7]]"
