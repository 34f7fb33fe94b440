"""The live panel, without a front-end: what it shows, what it sends, what its button does, what it leaves behind."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import comm
import pytest
from comm.base_comm import BaseComm

from gridkit import options
from gridkit.run import AsyncRun, Run
from gridkit.widgets import watch as module
from gridkit.widgets.snapshot import RunSnapshot
from gridkit.widgets.watch import RunWatch
from tests.runs import Source, made
from tests.support import wait_for
from tests.widgets.test_html import EVIL, Reader

VIEW = "application/vnd.jupyter.widget-view+json"


class Wire:
    """What goes to the front-end."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str, Any]] = []

    def open(self, *args: Any, **kwargs: Any) -> BaseComm:
        wire = self

        class Recorded(BaseComm):
            def publish_msg(
                self, msg_type: str, data: Any = None, metadata: Any = None, buffers: Any = None, **keys: Any
            ):  # type: ignore[no-untyped-def]
                wire.messages.append((msg_type, self.comm_id, data))

        return Recorded(*args, **kwargs)

    def updates(self, widget: Any) -> list[dict[str, Any]]:
        return [d["state"] for kind, name, d in self.messages if kind == "comm_msg" and name == widget.model_id]

    @property
    def size(self) -> int:
        return sum(len(json.dumps(data or {})) for _, _, data in self.messages)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    made = Wire()
    monkeypatch.setattr(comm, "create_comm", made.open)
    return made


class Panel:
    """A run, its source, its panel."""

    def __init__(self, **about: Any) -> None:
        self.source = Source()
        self.run: Run = made(self.source, **about)
        self.stops: list[bool] = []
        self.trouble: Exception | None = None
        self.watch = RunWatch(self.run, self.stop)

    def stop(self, now: bool) -> None:
        self.stops.append(now)
        if self.trouble is not None:
            raise self.trouble
        self.source.row("stopping", now=now)

    def status(self) -> str:
        return Reader(self.watch.status.value).text

    def until(self, words: str) -> None:
        wait_for(lambda: words in self.status(), what=f"{words!r} in the status line")


@pytest.fixture
def panel(wire: Wire) -> Iterator[Panel]:
    made = Panel()
    yield made
    made.watch.close()
    made.watch.painted.result(5)


def test_it_shows_the_training_from_its_start_to_its_end(panel: Panel) -> None:
    watch, source = panel.watch, panel.source
    assert panel.status() == "digits 1.0: running, 0 of 2 rounds"
    source.open()
    source.row("assigned", cycle=1, slot=0, worker="client 0")
    wait_for(lambda: "client 0training" in Reader(watch.workers.value).text, what="a worker that trains")
    assert "client 1waiting" in Reader(watch.workers.value).text
    source.report(1, 0), source.report(1, 1)
    source.aggregated(1)
    panel.until("1 of 2 rounds, loss 0.5")
    assert "1 rounds: loss 0.5" in watch.curves.value
    assert dict(Reader(watch.progress.value).attributes)["value"] == "1"
    source.round(2)
    source.finish()
    watch.painted.result(5)
    assert panel.status() == "digits 1.0: completed, 2 of 2 rounds, loss 0.5"
    assert "2 rounds: loss 0.5" in watch.curves.value and watch.stop_button.disabled
    assert not panel.run._listeners


def test_what_happened_before_and_while_it_was_made_is_shown(wire: Wire) -> None:
    source = Source()
    run = made(source)
    source.round(1), source.round(2), source.finish()
    watch = RunWatch(run, lambda now: None)
    watch.painted.result(5)
    assert "completed, 2 of 2 rounds" in Reader(watch.status.value).text
    assert watch.stop_button.disabled
    watch.close()


def test_evaluated_values_come_into_the_curves(wire: Wire) -> None:
    panel = Panel(evaluate=lambda model: {"accuracy": 0.25})
    panel.source.round(1)
    panel.until("accuracy 0.25")
    assert "accuracy 0.25" in panel.watch.curves.value
    panel.watch.close()


def test_a_test_that_changes_no_mean_comes_into_the_curves(panel: Panel) -> None:
    panel.source.round(1)
    for slot, name in ((0, "north"), (1, "south")):
        panel.source.tested(1, slot, {"accuracy": 0.25})
        wait_for(lambda name=name: name in Reader(panel.watch.curves.value).text, what=f"the line of {name}")
    assert "test_accuracy 0.25" in panel.status()


def test_who_was_told_what_is_in_the_panel_and_in_its_twin(panel: Panel) -> None:
    panel.source.open()
    panel.source.told(1, "UPDATE_ROUND_START", 0, None, attempt=2, message="timed out")
    panel.source.left(1, 1, "not reached in 2 attempts")
    wait_for(lambda: "not reached in 2" in panel.watch.workers.value, what="one that has left")
    bundle = panel.watch._repr_mimebundle_()
    for shown in (Reader(panel.watch.workers.value).text, Reader(bundle["text/html"]).text, bundle["text/plain"]):
        assert "UPDATE_ROUND_START 0: timed out at attempt 2" in shown and "WORKER_LEFT" in shown


def test_only_what_changed_is_sent(panel: Panel, wire: Wire) -> None:
    panel.source.round(1)
    panel.until("1 of 2")
    time.sleep(0.5)
    curves = len(wire.updates(panel.watch.curves))
    status = len(wire.updates(panel.watch.status))
    sent = len(wire.messages)
    panel.source.open(2)
    wait_for(lambda: "round 2: 2 waiting" in panel.watch.workers.value, what="the next round")
    assert len(wire.updates(panel.watch.curves)) == curves
    assert len(wire.updates(panel.watch.status)) == status
    assert len(wire.messages) == sent + 1  # the table
    time.sleep(1.3)  # a tick without a change
    assert len(wire.messages) == sent + 1


@pytest.mark.timeout(60)
@pytest.mark.soak  # tests/browser has the same with a real front-end
def test_300_updates_a_second_for_10_s_are_few_paints_and_less_than_a_megabyte(
    wire: Wire, record_property: Any
) -> None:
    panel = Panel(rounds=500)
    wire.messages.clear()
    began = time.monotonic()
    number = 0
    for cycle in range(1, 501):
        steps = [lambda c=cycle: panel.source.open(c)]
        for slot in (0, 1):
            about = {"cycle": cycle, "slot": slot, "worker": f"client {slot}"}
            steps.append(lambda a=about: panel.source.row("assigned", **a))
            steps.append(lambda c=cycle, s=slot: panel.source.report(c, s, samples=c))
        steps.append(lambda c=cycle: panel.source.aggregated(c, 2 * 0.99**c))
        for step in steps:
            number += 1
            time.sleep(max(0.0, began + number / 300 - time.monotonic()))
            step()
    panel.source.finish()
    panel.watch.painted.result(5)
    paints = max(len(wire.updates(w)) for w in (panel.watch.curves, panel.watch.workers, panel.watch.status))
    record_property("paints", paints)
    record_property("bytes", wire.size)
    print(f"\n{paints} paints, {wire.size:,} bytes, {len(wire.messages)} messages")
    assert 10 < paints <= 60 and wire.size <= 1_000_000
    assert f"500 of 500 rounds, loss {2 * 0.99**500:.4g}" in panel.status()
    assert "500 rounds: " in panel.watch.curves.value
    assert Reader(panel.watch.workers.value).text.count("500") == 3  # the caption, and each worker's samples
    panel.watch.close()


# ---- Stop


def test_stop_stops_after_the_round_and_a_second_time_now(panel: Panel) -> None:
    panel.source.open()
    panel.watch.stop_button.click()
    panel.until("it stops after this round")
    assert panel.stops == [False] and panel.watch.stop_button.description == "Stop now"
    panel.watch.stop_button.click()
    panel.until("it stops at once")
    assert panel.stops == [False, True]
    wait_for(lambda: panel.watch.stop_button.disabled, what="a button that is used up")
    panel.source.finish("stopped")
    panel.watch.painted.result(5)
    assert panel.status() == "digits 1.0: stopped, 0 of 2 rounds"


def test_a_click_returns_at_once_however_long_the_node_takes(panel: Panel) -> None:
    answer = threading.Event()
    panel.watch._ask = lambda now: answer.wait(20) and None
    began = time.monotonic()
    panel.watch.stop_button.click()
    assert time.monotonic() - began < 1
    panel.until("asking it to stop after this round")
    answer.set()
    panel.until("it stops after this round")


def test_a_stop_that_fails_says_so_and_can_be_tried_again(panel: Panel) -> None:
    panel.trouble = ConnectionError(f"no answer from {EVIL}")
    panel.watch.stop_button.click()
    panel.until("it couldn't be stopped: no answer from <img")
    assert "img" not in Reader(panel.watch.status.value).tags
    wait_for(lambda: panel.watch.stop_button.description == "Stop", what="the button as before")
    panel.trouble = None
    panel.watch.stop_button.click()
    panel.until("it stops after this round")
    assert panel.stops == [False, False]


# ---- when things go wrong


def test_an_error_in_painting_is_shown_and_goes_away(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: RunSnapshot) -> Any:
        raise ValueError(EVIL)

    with monkeypatch.context() as patch:
        patch.setattr(RunSnapshot, "worker_table", broken)
        panel.source.open()
        panel.until("couldn't be painted: ValueError: <img")
        assert "img" not in Reader(panel.watch.status.value).tags
    panel.source.aggregated(1)
    panel.until("1 of 2 rounds")


def test_hostile_names_are_inert_and_shown(wire: Wire) -> None:
    source = Source()
    run = made(source)
    run.name = EVIL
    source.open()
    source.row("assigned", cycle=1, slot=0, worker=EVIL)
    watch = RunWatch(run, lambda now: None)
    html = watch._repr_mimebundle_()["text/html"]
    for value in (watch.status.value, watch.curves.value, watch.workers.value, watch.progress.value, html):
        read = Reader(value)
        assert "img" not in read.tags and not [name for name, _ in read.attributes if name.startswith("on")]
    assert EVIL in Reader(watch.workers.value).text and EVIL in Reader(watch.status.value).text
    watch.close()


# ---- the twin


def test_the_twin_says_what_the_panel_shows(panel: Panel) -> None:
    panel.source.round(1)
    bundle = panel.watch._repr_mimebundle_()
    assert bundle[VIEW]["model_id"] == panel.watch.model_id
    read = Reader(bundle["text/html"])
    for fact in ("digits 1.0: running, 1 of 2 rounds, loss 0.5", "client 1", "reported"):
        assert fact in read.text and fact in bundle["text/plain"]
    assert {"progress", "svg", "table"} <= set(read.tags) and len(bundle["text/html"]) < 50_000
    assert repr(panel.watch) == bundle["text/plain"]


def test_without_a_twin_it_is_a_widget_alone(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "static_twin", False)
    assert set(panel.watch._repr_mimebundle_()) == {VIEW, "text/plain"}
    panel.source.finish()
    panel.watch.painted.result(5)
    assert set(panel.watch._repr_mimebundle_()) == {VIEW, "text/plain"}


class Shell:
    """What there is of IPython's shell for displays."""

    def __init__(self) -> None:
        self.display_pub = self
        self.shown: list[tuple[str, bool, dict[str, Any]]] = []

    def publish(self, data: dict[str, Any], *, transient: dict[str, str], update: bool) -> None:
        self.shown.append((transient["display_id"], update, data))


def test_when_it_is_over_its_outputs_become_the_twin(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = Shell()
    monkeypatch.setattr("gridkit.cells.shell", lambda: shell)
    panel.watch._ipython_display_(), panel.watch._ipython_display_()
    panel.source.round(1), panel.source.round(2)
    panel.source.finish()
    panel.watch.painted.result(5)
    panel.watch._ipython_display_()
    assert [update for _, update, _ in shell.shown] == [False, False, True, True, False]
    assert [VIEW in data for _, _, data in shell.shown] == [True, True, False, False, False]
    first, second, again, and_again, late = [name for name, _, _ in shell.shown]
    assert (again, and_again) == (first, second) and len({first, second, late}) == 3
    for _, _, data in shell.shown[2:]:
        assert "completed, 2 of 2 rounds" in data["text/html"] and "completed, 2 of 2" in data["text/plain"]


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    """As in a notebook."""
    made = Shell()
    made.kernel = True  # type: ignore[attr-defined]
    monkeypatch.setattr("gridkit.cells.shell", lambda: made)
    monkeypatch.setattr("gridkit.cells.remember", lambda thing: None)
    return made


@pytest.mark.parametrize("kind", [Run, AsyncRun])
def test_the_panel_of_either_kind_of_run_stops_it(kind: Any, wire: Wire, shell: Shell) -> None:
    source = Source()
    watch = made(source, kind).watch()
    assert isinstance(watch, RunWatch)
    watch.stop_button.click()
    wait_for(lambda: source.stops == [False], what="the stop")
    watch.stop()
    wait_for(lambda: source.stops == [False, True], what="the second stop")
    source.finish("stopped")
    watch.painted.result(5)
    watch.close()


def test_wait_returns_when_the_end_is_painted(wire: Wire, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook that is saved when the waiting cell is over has the end in it."""
    draw = module.live_picture

    def slow(*args: Any) -> Any:
        time.sleep(0.5)
        return draw(*args)

    source = Source()
    run = made(source)
    source.round(1)
    watch = run.watch()
    assert isinstance(watch, RunWatch)
    watch._ipython_display_()
    monkeypatch.setattr(module, "live_picture", slow)
    source.round(2), source.finish()
    run.wait(10)
    assert [update for _, update, _ in shell.shown] == [False, True]
    assert "completed, 2 of 2" in shell.shown[-1][2]["text/plain"]


def test_wait_does_not_wait_long_for_a_panel_that_hangs(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridkit.run._PAINT_SECONDS", 0.2)
    panel = Panel()
    panel.run._painting = [panel.watch.painted]
    go_on = threading.Event()
    monkeypatch.setattr(module, "live_picture", lambda *_: go_on.wait(10) and "")
    panel.source.round(1), panel.source.finish()
    began = time.monotonic()
    panel.run.wait(5)
    assert time.monotonic() - began < 2
    go_on.set()
    panel.watch.painted.result(5)
    panel.watch.close()


# ---- nothing is left


def test_closed_it_leaves_no_thread_no_listener_and_no_widget(wire: Wire) -> None:
    threads = set(threading.enumerate())
    panel = Panel()
    panel.watch.close(), panel.watch.close()
    panel.watch.painted.result(5)
    wait_for(lambda: set(threading.enumerate()) <= threads, what="the thread's end")
    assert not panel.run._listeners
    opened = {name for kind, name, _ in wire.messages if kind == "comm_open"}
    closed = {name for kind, name, _ in wire.messages if kind == "comm_close"}
    assert opened and opened == closed
    panel.source.round(1)  # and the training goes on
