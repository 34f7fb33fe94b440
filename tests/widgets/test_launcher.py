"""The form and the panel, on a stand-in for a session whose runs are real (simulated) ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import ipywidgets as W
import pytest

import gridkit as gk
from gridkit.widgets.launcher import Launcher, NewTraining
from gridkit.widgets.panel import Panel
from gridkit.widgets.watch import RunWatch
from tests.support import wait_for
from tests.training import mlp, plan_of, shards

MARKUP = '<img src=x onerror="document.body.dataset.xss=1">'


class Launched:
    """A Run whose `watch` is the live panel, as in a notebook."""

    def __init__(self, run: gk.Run) -> None:
        self.run = run
        self.title, self.subscribe = run.title, run.subscribe

    @property
    def done(self) -> bool:
        return self.run.done

    def watch(self) -> RunWatch:
        return RunWatch(self.run, lambda now: self.run.stop(now))


class Desk:
    """Answers when `gate` is open, on a thread of its own."""

    strategies = ("fedavg",)

    def __init__(self, rows: Sequence[dict[str, Any]] = ()) -> None:
        self.rows = list(rows)
        self.asked: list[Any] = []
        self.started: list[gk.Run] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def facts(self) -> dict[str, object]:
        return {"address": "http://127.0.0.1:1", "state": "open"}

    def trainings(self) -> Future[Any]:
        return self._later(lambda: self.rows)

    def train(self, new: NewTraining) -> Future[Any]:
        self.asked.append(new)
        return self._later(lambda: self._run(new.model, new.plan, new.clients, new.rounds, new.name, new.evaluate))

    def join(self, name: str, version: str, clients: Any) -> Future[Any]:
        self.asked.append((name, version, clients))
        return self._later(lambda: self._run(mlp(), plan_of(mlp(), clients), clients, 1, name, None))

    def _run(self, model: Any, plan: Any, clients: Any, rounds: int, name: str, evaluate: Any) -> Launched:
        run = gk.simulate(model, plan, clients=clients, rounds=rounds, name=name, evaluate=evaluate)
        self.started.append(run)
        return Launched(run)

    def _later(self, make: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()

        def work() -> None:
            self.gate.wait(20)
            try:
                if self.error is not None:
                    raise self.error
                future.set_result(make())
            except Exception as error:  # noqa: BLE001  it is the future's
                future.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        return future


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.gate.set()
    for run in made.started:
        run.stop(now=True)


def row(name: str, **more: Any) -> dict[str, Any]:
    made = {"name": name, "version": "1.0", "outcome": None, "cycle": 2, "phase": "open"}
    config = {"server_config": {"num_cycles": 7, "min_diffs": 2}, "client_config": {"batch_size": 5, "lr": 0.25}}
    return {**made, **config, **more}


def form(desk: Desk, **more: Any) -> Launcher:
    data, model = shards(3), mlp()
    return Launcher(desk, **{"model": model, "plan": plan_of(model, data), "clients": data, **more})


def said(launcher: Launcher) -> str:
    return str(launcher.status.value)


def below(launcher: Launcher) -> RunWatch:
    (watch,) = launcher.below.children
    assert isinstance(watch, RunWatch)
    return watch


def test_launch_returns_at_once_and_shows_the_run_when_it_comes(desk: Desk) -> None:
    launcher = form(desk, name="digits")
    launcher.rounds.value = 3
    desk.gate.clear()
    began = time.monotonic()
    launcher.launch_button.click()
    assert time.monotonic() - began < 0.2
    assert launcher.launch_button.disabled and "starting" in said(launcher) and not launcher.below.children
    launcher.launch_button.click()  # the second half of a double click
    desk.gate.set()
    wait_for(lambda: launcher.below.children, what="the panel beneath")
    desk.started[0].wait(20)
    wait_for(lambda: not launcher.launch_button.disabled, what="the form's being free again")
    (new,) = desk.asked
    assert (new.name, new.rounds, new.batch_size, new.strategy, new.lr) == ("digits", 3, 8, "fedavg", 0.1)
    assert launcher.stop_button.disabled and "launched &#x27;digits&#x27; 1.0" in said(launcher)
    wait_for(lambda: "completed, 3 of 3 rounds" in below(launcher).status.value, what="the panel's end")
    launcher.launch_button.click()  # another one takes the place of the first
    first = below(launcher)
    wait_for(lambda: len(desk.started) == 2 and below(launcher) is not first, what="the second panel")
    assert first.comm is None


def test_stop_stops_after_the_round_and_a_second_time_now(desk: Desk) -> None:
    launcher = form(desk)
    launcher.rounds.value = 100_000
    assert launcher.stop_button.disabled
    launcher.launch_button.click()
    wait_for(lambda: launcher.below.children and desk.started[0].history.rounds, what="a round")
    assert not launcher.stop_button.disabled and launcher.launch_button.disabled
    launcher.launch_button.click()
    launcher.stop_button.click()
    assert desk.started[0].wait(20).status == "stopped" and len(desk.started) == 1
    wait_for(lambda: launcher.stop_button.disabled and not launcher.launch_button.disabled, what="the end")


def test_an_error_is_shown_in_two_lines_and_the_form_is_free_again(desk: Desk) -> None:
    launcher = form(desk)
    desk.error = gk.errors.ConflictError(f"{MARKUP} is hosted already", f"{MARKUP} another name")
    launcher.launch_button.click()
    wait_for(lambda: "ConflictError" in said(launcher), what="the error")
    assert "<img" not in said(launcher) and said(launcher).count("<br>") == 1 and "Try: &lt;img" in said(launcher)
    assert 'role="status"' in said(launcher) and 'aria-live="polite"' in said(launcher)
    wait_for(lambda: not launcher.launch_button.disabled, what="the button")
    desk.error = ZeroDivisionError("not of gridkit")
    launcher.refresh_button.click()
    wait_for(lambda: "ZeroDivisionError: not of gridkit" in said(launcher), what="the other error")


def test_what_is_missing_is_said_and_nothing_is_asked(desk: Desk) -> None:
    launcher = Launcher(desk)
    launcher.launch_button.click()
    assert "there are no clients" in said(launcher) and not launcher.launch_button.disabled
    launcher = Launcher(desk, clients=shards(2))
    launcher.launch_button.click()
    assert "no model with a plan" in said(launcher)
    launcher.what.value = "hosted"
    launcher.launch_button.click()
    assert "no training on this node can be joined" in said(launcher)
    assert desk.asked == []


def test_a_hosted_training_brings_its_own_rounds_and_strategy(desk: Desk) -> None:
    rows = [
        row("roster", server_config={"num_cycles": 3, "clients": 4}),
        row("over", outcome="completed"),
        row("open"),
        row("endless", server_config={"min_diffs": 2}, client_config={}),
        row("foreign", server_config={"strategy": MARKUP}, client_config={"batch_size": MARKUP, "lr": None}),
    ]
    data = shards(2)
    launcher = form(desk, rows=rows, clients=data)
    own = (launcher.rounds, launcher.batch_size, launcher.lr, launcher.strategy)
    launcher.rounds.value = 4
    launcher.what.value = "hosted"
    assert list(dict(launcher.hosted.options)) == ["open 1.0", "endless 1.0", "foreign 1.0"]
    launcher.hosted.label = "endless 1.0"
    assert [part.value for part in own] == [0, 8, 0.1, "fedavg"]
    launcher.hosted.label = "foreign 1.0"
    assert [part.value for part in own] == [0, 8, 0.1, MARKUP]
    launcher.hosted.label = "open 1.0"
    assert all(part.disabled for part in own)
    assert [part.value for part in own] == [7, 5, 0.25, "fedavg"]
    assert (launcher.model.layout.display, launcher.hosted.layout.display) == ("none", "")
    launcher.launch_button.click()
    wait_for(lambda: desk.asked, what="the question")
    assert desk.asked == [("open", "1.0", data)]
    wait_for(lambda: launcher.below.children and not launcher.launch_button.disabled, what="the end")
    launcher.what.value = "model"
    assert not any(part.disabled for part in own)
    assert (launcher.lr.value, launcher.strategy.value) == (0.1, "fedavg")


def test_refresh_finds_new_trainings_and_keeps_what_was_typed(desk: Desk) -> None:
    launcher = form(desk)
    launcher.lr.value, launcher.rounds.value, launcher.name.value = 0.7, 33, "mine"
    desk.rows.append(row("new"))
    launcher.refresh_button.click()
    wait_for(lambda: launcher.hosted.options, what="the new training")
    assert (launcher.lr.value, launcher.rounds.value, launcher.name.value) == (0.7, 33, "mine")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": 3}, "model is of type int"),
        ({"plan": "x"}, "plan is of type str"),
        ({"clients": [1]}, "clients isn't a list"),
        ({"model": mlp(24)}, "doesn't fit the model"),
    ],
    ids=["model", "plan", "clients", "fit"],
)
def test_wrong_arguments_are_refused(desk: Desk, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(gk.errors.UsageError, match=message):
        form(desk, **wrong)


def everything(widget: W.Widget) -> Iterator[W.Widget]:
    yield widget
    for child in getattr(widget, "children", ()):
        yield from everything(child)


def test_names_that_are_markup_are_text_everywhere(desk: Desk) -> None:
    rows = [row(MARKUP), row("over", outcome=MARKUP, server_config={"strategy": MARKUP, "clients": 1})]
    panel = Panel(desk, rows, Launched(gk.simulate(mlp(), plan_of(mlp(), shards()), clients=shards(), name=MARKUP)))
    panel.launcher.name.value = MARKUP
    panel.launcher.say(MARKUP)
    html = [str(each.value) for each in everything(panel) if isinstance(each, W.HTML)]
    html.append(panel.twin()[1])
    assert not any("<img" in part for part in html) and sum("&lt;img" in part for part in html) >= 4
    for each in everything(panel):
        assert not getattr(each, "description_allow_html", False)
        assert MARKUP not in (getattr(each, "description", None) or "")
    panel.close()


def test_the_panel_shows_session_trainings_and_the_newest_run(desk: Desk) -> None:
    run = gk.simulate(mlp(), plan_of(mlp(), shards()), clients=shards(), rounds=2, name="newest").wait()
    desk.rows = [row("first"), row("newest", outcome="completed", server_config={"num_cycles": 2, "clients": 6})]
    panel = Panel(desk, desk.rows, Launched(run))
    table = str(panel.trainings.value)
    assert table.index("newest") < table.index("first")
    for part in ("whoever joins", "6 clients", "2 of 7", "completed", "running", "fedavg"):
        assert part in table
    assert "http://127.0.0.1:1" in panel.facts.value
    assert "completed, 2 of 2 rounds" in below(panel.launcher).status.value
    assert panel.launcher.stop_button.disabled and not panel.launcher.launch_button.disabled
    text, html = panel.twin()
    assert text.splitlines()[0] == "Session: address http://127.0.0.1:1, state open"
    assert "newest 1.0" in text and "completed, 2 of 2 rounds" in text and "<svg" in html
    desk.rows.append(row("third"))
    panel.launcher.refresh_button.click()
    wait_for(lambda: "third" in panel.trainings.value, what="the third row")


def test_what_is_closed_leaves_nothing(desk: Desk) -> None:
    from ipywidgets.widgets.widget import _instances

    before = set(_instances)
    run = gk.simulate(mlp(), plan_of(mlp(), shards()), clients=shards(), rounds=100_000)
    desk.started.append(run)
    panel = Panel(desk, [], Launched(run))
    assert len(set(_instances) - before) > 40
    panel.close()
    panel.close()
    assert set(_instances) <= before and not run._listeners
    wait_for(lambda: not [t for t in threading.enumerate() if t.name == "gridkit-paint"], what="the painter's end")
    assert not run.done
