"""What a panel shows: made by a Run, without I/O, and the same facts in text, table and card."""

from __future__ import annotations

import dataclasses
import re
import threading
import time
from typing import Any

import pytest

from gridkit.widgets.snapshot import WORKER_COLUMNS, TextWatch
from tests.runs import Source, made
from tests.support import wait_for
from tests.widgets.test_html import EVIL, Reader


def test_a_run_from_its_start_to_its_end() -> None:
    source = Source()
    run = made(source)
    start = run.snapshot()
    assert (start.title, start.status, start.done, start.line) == (
        "digits 1.0",
        "running",
        False,
        "running, 0 of 2 rounds",
    )
    assert start.workers == () and len(start.metrics) == 0
    source.open()
    assert [worker.state for worker in run.snapshot().workers] == ["waiting", "waiting"]
    source.row("assigned", cycle=1, slot=1, worker="client 1")
    source.report(1, 0)
    halfway = run.snapshot()
    assert [(w.name, w.state, w.samples, w.verdict) for w in halfway.workers] == [
        ("client 0", "reported", 5, "accepted"),
        ("client 1", "training", None, ""),
    ]
    assert halfway.standing == "round 1: 1 reported, 1 training"
    source.report(1, 1)
    source.aggregated(1)
    source.finish("stopped")
    end = run.snapshot()
    assert (end.status, end.done, end.line) == ("stopped", True, "stopped, 1 of 2 rounds, loss 0.5")
    assert start.line == "running, 0 of 2 rounds"  # a snapshot stays what it was
    with pytest.raises(dataclasses.FrozenInstanceError):
        end.status = "running"  # type: ignore[misc]


def test_a_training_that_waits_says_for_what() -> None:
    source = Source()
    run = made(source)
    source.open()
    source.row("waiting", cycle=1, function=EVIL)
    waiting = run.snapshot()
    assert waiting.waits == run.history.waits == f"round 1 waits for {EVIL} of the notebook"
    assert waiting.line.endswith(f"; {waiting.waits}") and waiting.status == "running"
    for shown in (Reader(waiting.card()).text, Reader(waiting.status_line()).text):
        assert EVIL in shown
    for goes_on in ("calling", "aggregated"):
        source.row("waiting", cycle=1, function="median")
        assert run.snapshot().waits
        source.row("calling", cycle=1, function="median") if goes_on == "calling" else source.aggregated(1)
        assert run.snapshot().waits == ""
    source.row("waiting", cycle=2, function="median")
    source.finish("stopped")
    assert run.snapshot().waits == "" and "median" not in repr(run)


def test_a_failed_run_says_why() -> None:
    source = Source()
    run = made(source)
    source.open()
    source.report(1, 0, "NOT_FINITE", "tensor 'w' has 1 values that are not finite")
    source.finish("failed", "the quorum can't be met")
    snapshot = run.snapshot()
    assert snapshot.status == "failed" and "NOT_FINITE" in snapshot.error
    for shown in (snapshot.text(), Reader(snapshot.card()).text, Reader(snapshot.status_line()).text):
        assert snapshot.error.splitlines()[0] in shown


def test_seconds_run_on_while_a_worker_trains_whatever_the_nodes_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    source = Source()
    run = made(source)
    source.seq = 500  # the rows' clock is 499 s behind, and every row says so
    source.open(clients=1)
    now[0] += 1
    source.row("assigned", cycle=1, slot=0, worker="client 0")
    assert run.snapshot().workers[0].seconds == pytest.approx(0.0)
    now[0] += 7
    assert run.snapshot().workers[0].seconds == pytest.approx(7.0)
    source.report(1, 0, seconds=7.5)
    now[0] += 100
    assert run.snapshot().workers[0].seconds == 7.5


def test_a_training_without_end_counts_its_rounds() -> None:
    source = Source()
    run = made(source, rounds=None)
    source.round(1)
    assert run.snapshot().line == "running, 1 round, loss 0.5"


# ---- subscribe


def test_each_change_is_told_until_unsubscribed() -> None:
    source = Source()
    told: list[str] = []
    run = made(source, evaluate=lambda model: {"accuracy": 0.5})
    unsubscribe = run.subscribe(lambda: told.append(run.status))
    source.open()
    assert told == ["running"]
    source.row("stopping", now=False)
    assert told == ["running", "stopping"]
    source.aggregated(1)
    wait_for(lambda: len(run.metrics.dropna()) == 1 and len(told) == 4, what="the evaluation")
    source.seq -= 1
    source.row("stopping", now=False)  # an old row changes nothing
    assert len(told) == 4
    unsubscribe(), unsubscribe()
    source.finish()
    run.wait(5)
    assert len(told) == 4


def test_the_end_is_told_when_it_is_over_and_not_before() -> None:
    source = Source()
    run = made(source)
    done: list[bool] = []
    run.subscribe(lambda: done.append(run.done))
    source.finish()
    assert done[-1] is True
    lost = made(Source())
    lost.subscribe(lambda: done.append(lost.done))
    lost._source.fail(RuntimeError("cut off"))
    assert done[-1] is True and lost.snapshot().error == "cut off"


def test_listeners_come_and_go_on_other_threads() -> None:
    source = Source()
    run = made(source, rounds=None)
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            run.subscribe(lambda: None)()

    workers = [threading.Thread(target=churn) for _ in range(2)]
    for worker in workers:
        worker.start()
    for cycle in range(1, 300):
        source.open(cycle)
    stop.set()
    for worker in workers:
        worker.join()
    assert run.snapshot().round == 299


# ---- words, tables, cards


def test_text_and_card_say_the_same() -> None:
    source = Source()
    run = made(source)
    source.round(1)
    assert repr(run) == "<Run 'digits' 1.0: running, 1 of 2 rounds, loss 0.5>"
    card = Reader(run._repr_html_())
    for fact in ("digits 1.0", "running", "1 of 2 rounds", "loss", "0.5"):
        assert fact in card.text and fact.replace("digits 1.0", "'digits' 1.0") in repr(run)
    first, header, *rows = run.snapshot().text().splitlines()
    assert first == "digits 1.0: running, 1 of 2 rounds, loss 0.5"
    assert header.split() == [column for column in WORKER_COLUMNS if column != "told"]  # nobody was told anything
    assert [row.split()[:4] for row in rows] == [["client", "0", "reported", "5"], ["client", "1", "reported", "5"]]


def test_hostile_names_are_inert_and_shown() -> None:
    source = Source()
    run = made(source)
    run.name = EVIL
    source.open()
    source.row("assigned", cycle=1, slot=0, worker=EVIL)
    source.report(1, 0, "WORKER_ERROR", EVIL, worker=EVIL, error={"type": EVIL, "message": EVIL, "traceback": EVIL})
    source.finish("failed")
    snapshot = run.snapshot()
    for made_of_it in (run._repr_html_(), snapshot.worker_table(), snapshot.status_line(EVIL), snapshot.card()):
        read = Reader(made_of_it)
        assert "img" not in read.tags and EVIL in read.text
        assert not [name for name, _ in read.attributes if name.startswith("on")]


def test_notes_and_the_end_are_announced_and_the_numbers_between_are_not() -> None:
    running = made(Source()).snapshot()
    read = Reader(running.status_line("asked to stop"))
    assert dict(read.attributes) == {"role": "status", "aria-live": "polite"}
    assert ("aria-live", "off") in Reader(running.status_line()).attributes
    assert ("aria-live", "polite") in Reader(dataclasses.replace(running, done=True).status_line()).attributes
    assert read.text == "digits 1.0: running, 0 of 2 roundsasked to stop" and read.tags == ["div", "br"]


def test_messages_have_a_column_when_there_are_some() -> None:
    source = Source()
    run = made(source)
    source.open()
    source.report(1, 0)
    assert "message" not in run.snapshot().worker_table()
    source.report(1, 1, "TOO_LARGE", "its norm is 12")
    assert {"message", "its norm is 12"} <= set(re.findall(r">([^<>]+)<", run.snapshot().worker_table()))


def test_many_workers_are_counted_not_listed() -> None:
    source = Source()
    run = made(source)
    source.open(clients=1000)
    html = run.snapshot().worker_table()
    assert "and 980 more" in html and "1000 waiting" in html and len(html) < 20_000


def test_long_messages_are_cut() -> None:
    source = Source()
    run = made(source)
    source.open()
    source.report(1, 0, "WORKER_ERROR", "x" * 5000, error={"type": "E", "message": "x" * 5000, "traceback": ""})
    assert len(run.snapshot().worker_table()) < 3000


# ---- without a notebook


def test_in_a_script_a_watch_is_text_that_is_quiet_until_it_is_shown(capsys: Any) -> None:
    source = Source()
    run = made(source)
    watch = run.watch()
    source.round(1)
    assert capsys.readouterr() == ("", "")
    assert isinstance(watch, TextWatch)
    assert repr(watch).splitlines()[0] == "digits 1.0: running, 1 of 2 rounds, loss 0.5"
    assert repr(watch).splitlines()[-1] == "(in a notebook this is a live panel)"
