"""Text and cards of what a person holds, in a script: the same facts in both, no call, no secret, nothing obeyed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import jwt
import pytest

import gridkit as gk
from gridkit.errors import AccessError, NodeError
from tests.training import mlp, plan_of, shards

MARKUP = '<img src=x onerror="document.body.dataset.xss=1">'


@pytest.fixture(scope="module")
def grid() -> Iterator[gk.Session]:
    with gk.launch(workers=1) as grid:
        yield grid


class Words(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.tags = "", set[str]()
        self.feed(html)

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)


def test_text_and_card_have_the_same_facts(grid: gk.Session) -> None:
    data, model = shards(2), mlp()
    hosted = grid.host_training(model, plan_of(model, data), name=MARKUP, server_config={"num_cycles": 3})
    run = grid.train(model, plan_of(model, data), name=MARKUP, version="2", clients=data, rounds=2, processes=1).wait()
    facts: list[tuple[Any, list[str]]] = [
        (grid, [grid.url, "open", "embedded", "1 worker process", "2 trainings seen"]),
        (grid.runs, [grid.url, "2 seen"]),
        (hosted, [MARKUP, "1.0", grid.url, "running, 0 of 3 rounds"]),
        (run, [MARKUP, "2", "completed", "2 of 2 rounds"]),
    ]
    for thing, known in facts:
        text, card = repr(thing), Words(thing._repr_html_())
        assert "\n" not in text and "img" not in card.tags
        for fact in known:
            assert fact in text and fact in card.text, (fact, text, card.text)
    secrets = (hosted.worker_token, grid._core._embedded.token)
    assert not any(s in f"{t!r}{t._repr_html_()}" for s in secrets for t, _ in facts)
    assert "gridkit worker" in Words(hosted._repr_html_()).text
    run.stop(now=True)


def test_tokens_of_a_trainings_own_are_shown_nowhere(grid: gk.Session, capfd: pytest.CaptureFixture[str]) -> None:
    data, model, secret = shards(2), mlp(), "the hospital's own secret, which nobody sees"
    door = {"type": "jwt", "secret": [secret], "audience": "grid"}
    rules = {"num_cycles": 1, "authentication": door}
    hosted = grid.host_training(model, plan_of(model, data), name="guarded", server_config=rules)
    token = jwt.encode({"exp": time.time() + 60, "aud": "grid"}, secret, algorithm="HS256")
    job = gk.Syft(grid.url, auth_token=token).new_job("guarded", "1.0")
    with pytest.raises(AccessError) as refused:
        gk.Syft(grid.url, auth_token=token[:-3]).new_job("guarded", "1.0")
    with pytest.raises(NodeError) as short:
        rules["authentication"] = {**door, "secret": secret[:20]}
        grid.host_training(model, plan_of(model, data), name="never", server_config=rules)
    assert "20 bytes" in str(short.value)
    things = (grid, grid.runs, hosted, hosted.run, job)
    shown = [repr(thing) for thing in things] + [t._repr_html_() for t in things if hasattr(t, "_repr_html_")]
    shown += [str(refused.value), str(short.value), *capfd.readouterr()]
    hosted.run.stop(now=True)
    shown += [repr(hosted.run), repr(hosted.run.history)]
    for text in shown:
        assert secret[:20] not in text and token not in text


def test_a_closed_session_shows_that_it_is_and_says_so_when_used() -> None:
    grid = gk.launch(workers=0)
    grid.close()
    assert "closed" in repr(grid) and "closed" in grid._repr_html_()
    with pytest.raises(gk.errors.NodeUnreachable, match="is closed") as caught:
        list(grid.runs)
    assert "gk.launch" in str(caught.value)


def test_dir_is_short(grid: gk.Session) -> None:
    run = gk.simulate(mlp(), plan_of(mlp(), shards(2)), clients=shards(2), rounds=1).wait()
    for thing in (grid, grid._core, grid.runs, run):
        names = dir(thing)
        assert len(names) <= (46 if thing in (grid, grid._core) else 21) and not [
            name for name in names if name.startswith("_")
        ]
    assert {"train", "join", "launcher", "panel", "runs", "models", "serve_model"} <= set(dir(grid))


def test_in_a_script_the_widgets_are_text_and_quiet(grid: gk.Session, capfd: pytest.CaptureFixture[str]) -> None:
    launcher, panel = grid.launcher(), grid.panel()
    assert capfd.readouterr() == ("", "")
    assert repr(launcher).splitlines()[-1] == "(in a notebook this is a live panel)"
    assert grid.url in repr(panel) and "phase" in repr(panel)
