"""Guests: an invitation opened in Chromium, at a phone's size, with the unmodified syft.js and TensorFlow.js."""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, Page, expect
from torch import nn

import gridkit as gk
from gridkit.invitation import Invitation
from tests.browser.contrast import drawn_in, too_pale
from tests.browser.lab import CHROMIUM, chromium
from tests.joining import libraries
from tests.support import wait_for
from tests.training import mlp, plan_of

pytestmark = [pytest.mark.browser, pytest.mark.interop]

PHONE: Any = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
CONFIG = {"batch_size": 8, "max_epochs": 4, "lr": 0.2}


@pytest.fixture(scope="module")
def grid() -> Iterator[gk.Session]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRIDKIT_JOIN", str(libraries()))
        with gk.launch(workers=0) as grid:
            yield grid


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM} (Debian: apt-get install chromium fonts-dejavu-core)")
    with chromium() as browser:
        expect.set_options(timeout=20_000)
        yield browser


@pytest.fixture
def trouble() -> Iterator[list[str]]:
    """What went wrong in pages, and whom they asked; a test that expects some takes it out."""
    found: list[str] = []
    yield found
    assert found == []


@pytest.fixture
def open_page(browser: Browser, grid: gk.Session, trouble: list[str]) -> Iterator[Any]:
    contexts = []

    def open(invitation: Invitation, **options: Any) -> Page:
        context = browser.new_context(**{**PHONE, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda request: check(request.url, request.headers.get("referer", "")))

        def check(url: str, referer: str) -> None:
            token = invitation.url.partition("token=")[2]
            if not url.startswith(grid.url) or token in url + referer:
                trouble.append(url)

        page.goto(invitation.url)
        return page

    yield open
    for context in contexts:
        context.close()


def hosted(grid: gk.Session, name: str, width: int, **server: Any) -> Any:
    model = mlp(width)
    data = [(torch.zeros(4, width), torch.zeros(4, dtype=torch.int64))]
    rules = {"num_cycles": 1, "min_diffs": 1, "max_diffs": 1, **server}
    return grid.host_training(model, plan_of(model, data), name=name, client_config=CONFIG, server_config=rules)


def draw(page: Page, kind: int) -> None:
    """A bar, upright or flat, by touch-like pointer events, and its class."""
    pad = page.locator("#pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    assert box is not None
    ends = ((0.5, 0.2), (0.5, 0.8)) if kind else ((0.2, 0.5), (0.8, 0.5))
    start, end = ([box["x"] + x * box["width"], box["y"] + y * box["height"]] for x, y in ends)
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=6)
    page.mouse.up()
    page.get_by_role("button", name=str(kind), exact=True).click()


def test_a_guest_draws_trains_and_is_seen(grid: gk.Session, open_page: Any, tmp_path: Path) -> None:
    process = hosted(grid, "drawn", 64, num_cycles=2)
    watch = process.run.watch()
    page = open_page(grid.invite("drawn"))
    assert page.url == f"{grid.url}/join"  # the invitation is out of the address bar
    assert page.evaluate("history.length") <= 2
    go = page.get_by_role("button", name="Take part")
    expect(go).to_be_disabled()
    for kind in (0, 1, 0, 1, 1):
        draw(page, kind)
    expect(page.locator("#count")).to_have_text("5 examples: 2 of 0, 3 of 1.")
    page.get_by_role("button", name="Take the last one back").click()
    expect(page.locator("#count")).to_have_text("4 examples: 2 of 0, 2 of 1.")
    go.click()
    status = page.get_by_role("status").last
    expect(status).to_have_text("The training is over. Thank you for taking part!")
    assert process.run.wait(30).status == "completed"
    reports = process.run.reports
    assert list(reports["worker"]) == ["guest 1", "guest 1"] and set(reports["verdict"]) == {"accepted"}
    assert "guest 1" in repr(watch)
    before, loss = re.fullmatch(r"([\d.]+) → ([\d.]+)", page.locator("#loss").inner_text()).groups()  # type: ignore[union-attr]
    assert float(loss) < float(before)  # of the second round, in which the model knows something
    moved = sum(
        float((a - b).abs().sum())
        for a, b in zip(process.run.model.state_dict().values(), mlp(64).state_dict().values(), strict=True)
    )
    assert moved > 0.1
    values = sum(tensor.numel() for tensor in mlp(64).state_dict().values())
    said = page.locator("#sent").inner_text()
    assert f"{values:,} numbers" in said and "2 times" in said
    assert page.locator("#reported").inner_text() == "2"


def test_a_csv_gives_what_the_plan_gives(grid: gk.Session, open_page: Any, tmp_path: Path) -> None:
    """One step on the whole file: the same model as the plan's own step."""
    process, local = from_csv(grid, open_page, tmp_path, "table", mlp(10), 10, before=refuses_another)
    assert list(process.run.reports["worker"]) == ["Ada <b>"]
    same(process.run.model, local)


def test_a_large_model_does_too(grid: gk.Session, open_page: Any, tmp_path: Path) -> None:
    """It has as many values as are trained on the graphics card, where that computes in float32."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 130), nn.ReLU(), nn.Linear(130, 4))
    process, local = from_csv(grid, open_page, tmp_path, "large", model, 784)
    same(process.run.model, local)


def from_csv(
    grid: gk.Session, open_page: Any, folder: Path, name: str, model: nn.Module, features: int, before: Any = None
) -> tuple[Any, nn.Module]:
    """A training by a guest with a file, and the same by the simulator: the process, and the simulator's model."""
    draw_from = np.random.default_rng(3)
    x, y = draw_from.standard_normal((8, features)).astype(np.float32), draw_from.integers(0, 4, 8)
    rows = [",".join([*(str(value) for value in row), str(label)]) for row, label in zip(x, y, strict=True)]
    file = folder / "mine.csv"
    file.write_text("\n".join([",".join([*(f"f{n}" for n in range(features)), "label"]), *rows]))
    start = copy.deepcopy(model)
    plan = plan_of(model, [(x, y)])
    server = {"num_cycles": 1, "min_diffs": 1, "max_diffs": 1}
    config = {"batch_size": 8, "max_epochs": 1}
    process = grid.host_training(model, plan, name=name, client_config=config, server_config=server)
    page = open_page(grid.invite(name))
    if before is not None:
        before(page, folder)
    page.get_by_label("rom a CSV file").set_input_files(file)
    expect(page.locator("#count")).to_contain_text("8 examples")
    page.get_by_label("Your name, if you like").fill("Ada <b>")
    page.get_by_role("button", name="Take part").click()
    expect(page.get_by_role("status").last).to_contain_text("The training is over")
    assert page.evaluate("tf.memory().numTensors") == 0
    process.run.wait(30)
    local = gk.simulate(start, plan, clients=[(x, y)], rounds=1, batch_size=8, lr=0.1).wait()
    return process, local.model


def refuses_another(page: Page, folder: Path) -> None:
    assert page.locator("#draw").is_hidden()  # 10 features are no square image
    bad = folder / "bad.csv"
    bad.write_text("1,2,3\n")
    page.get_by_label("From a CSV file").set_input_files(bad)
    expect(page.get_by_role("alert")).to_have_text(
        "bad.csv: line 1 has 3 values, 11 (10 features and the label) are wanted. Nothing was taken from it."
    )


def same(one: nn.Module, other: nn.Module) -> None:
    for (name, tensor), wanted in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.allclose(tensor, wanted, atol=1e-5), name


def test_an_invitation_that_was_used_says_so(grid: gk.Session, open_page: Any) -> None:
    hosted(grid, "once", 64, num_cycles=9)
    invitation = grid.invite("once")
    first = open_page(invitation)
    draw(first, 0)
    first.get_by_role("button", name="Take part").click()
    expect(first.locator("#reported")).not_to_have_text("0")
    second = open_page(invitation)
    draw(second, 1)
    second.get_by_role("button", name="Take part").click()
    expect(second.get_by_role("status").last).to_contain_text("This invitation was used before, or has ended.")


def test_a_reload_is_the_same_guest_and_a_bare_address_is_none(grid: gk.Session, open_page: Any) -> None:
    process = hosted(grid, "again", 64, num_cycles=2, do_not_reuse_workers_until_cycle=1)
    page = open_page(grid.invite("again"))
    draw(page, 0)
    page.get_by_role("button", name="Take part").click()
    wait_for(lambda: len(process.run.reports) >= 1, what="a report")
    page.get_by_role("button", name="Leave").click()
    expect(page.get_by_role("status").last).to_have_text(re.compile("You left|The training is over"))
    page.reload()
    expect(page.get_by_label("Your name, if you like")).to_be_hidden()  # it has one
    draw(page, 1)
    page.get_by_role("button", name="Take part").click()
    expect(page.get_by_role("status").last).to_contain_text("The training is over")
    assert set(process.run.reports["worker"]) == {"guest 1"}
    page.evaluate("sessionStorage.clear()")
    page.goto(f"{grid.url}/join")
    expect(page.get_by_role("status").last).to_contain_text("This page needs an invitation")


def test_it_is_drawn_with_the_keyboard_alone(grid: gk.Session, open_page: Any) -> None:
    process = hosted(grid, "keys", 64)
    page = open_page(grid.invite("keys"), has_touch=False, is_mobile=False)
    page.locator("#pad").focus()
    for key in ("Space", *["ArrowDown"] * 6, "Space"):
        page.keyboard.press(key)
    page.keyboard.press("1")
    expect(page.locator("#count")).to_have_text("1 example: 1 of 1.")
    page.get_by_role("button", name="Take part").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").last).to_contain_text("The training is over")
    assert list(process.run.reports["verdict"]) == ["accepted"]


def test_it_can_be_read_everywhere(grid: gk.Session, open_page: Any) -> None:
    hosted(grid, "looks", 64)
    page = open_page(grid.invite("looks"))
    draw(page, 1)
    page.get_by_label("Or from a CSV file").set_input_files({"name": "a.csv", "mimeType": "text/csv", "buffer": b"1,2"})
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_role("button", name="Take part").click()
    expect(page.get_by_role("status").last).to_contain_text("The training is over")
    for scheme, width in itertools.product(("light", "dark"), (320, 390, 1280)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        drawn = drawn_in(page.locator("main"))
        assert len(drawn) > 20 and too_pale(drawn) == [], (scheme, width)
        small = page.evaluate(
            """() => [...document.querySelectorAll('button, input:not([type=file])')]
                .filter((each) => each.offsetParent).map((each) => each.getBoundingClientRect())
                .filter(({width, height}) => width < 44 || height < 44).length"""
        )
        assert small == 0, (scheme, width)  # WCAG 2.5.5
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, canvas, progress')].filter((each) =>
            !(each.textContent.trim() || each.getAttribute('aria-label') || each.labels?.length)).length"""
    )
    assert nameless == 0


def test_a_node_that_goes_away_is_waited_for(grid: gk.Session, open_page: Any, trouble: list[str]) -> None:
    process = hosted(grid, "gone", 64, num_cycles=2)
    page = open_page(grid.invite("gone"))
    draw(page, 1)
    page.route("**/model-centric/cycle-request", lambda route: route.abort())
    page.get_by_role("button", name="Take part").click()
    expect(page.get_by_role("status").last).to_contain_text("The node doesn't answer. Trying again")
    page.unroute("**/model-centric/cycle-request")
    expect(page.get_by_role("status").last).to_contain_text("The training is over")
    assert process.run.wait(30).status == "completed"


def test_what_a_guest_sends_is_what_the_page_says(grid: gk.Session, open_page: Any) -> None:
    """No request holds an example: the bodies of all of them are looked through."""
    hosted(grid, "looked at", 64)
    page = open_page(grid.invite("looked at"))
    sent: list[dict[str, Any]] = []
    page.on("request", lambda request: request.post_data and sent.append(json.loads(request.post_data)))
    draw(page, 1)
    page.get_by_role("button", name="Take part").click()
    expect(page.get_by_role("status").last).to_contain_text("The training is over")
    assert {key for body in sent for key in body} == {
        *("model_name", "model_version", "auth_token"),
        *("worker_id", "model", "version", "ping", "download", "upload"),
        *("request_key", "diff"),
    }
