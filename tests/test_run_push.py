"""What a Run says of push participants: their tests, what they were told and what they answered, who left."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.lines import Line2D

from gridkit.errors import RunError, UsageError, WorkersFailed
from gridkit.run import AsyncRun, Run
from gridkit.widgets.snapshot import WORKER_COLUMNS
from tests.runs import CLINICS, Source, made
from tests.support import wait_for
from tests.widgets.test_html import EVIL, Reader

matplotlib.use("Agg")

EITHER = pytest.mark.parametrize("kind", [Run, AsyncRun])


def test_who_left_in_a_test_and_is_missing_in_the_next_round_is_named_with_advice() -> None:
    source = Source()
    run = made(source)
    source.round(1)
    source.left(1, 1, "answered 500 to MODEL_TEST_ROUND 1")
    reason = "round 2: 1 of 2 clients have left (south: answered 500 to MODEL_TEST_ROUND 1), 2 reports are needed"
    source.finish("failed", reason)
    with pytest.raises(RunError, match="south: answered 500 to MODEL_TEST_ROUND 1") as missing:
        run.wait()
    assert missing.value.hint is not None and "run.notifications" in missing.value.hint


def test_a_failure_by_silence_says_where_the_reason_stands() -> None:
    source = Source()
    run = made(source, rounds=1)
    source.open(1, clients=1)
    source.told(0, "UPDATE_ROUND_START", 0)
    source.row("expired", cycle=1, slot=0, worker="client 0")
    source.finish("failed", "round 1: …")
    with pytest.raises(WorkersFailed, match="north: NOT_ANSWERED") as silent:
        run.wait()
    assert silent.value.hint is not None and "logged" in silent.value.hint and "round_timeout=" in silent.value.hint


# ---- run.metrics


@EITHER
def test_means_of_the_tests_stand_between_what_evaluate_returned_and_the_loss(kind: Any) -> None:
    source = Source()
    run = made(source, kind, evaluate=lambda model: {"recall": 0.5})
    source.round(1)
    source.test(1, {0: {"accuracy": 0.9, "auroc": 0.6}, 1: {"accuracy": 0.5, "auroc": 0.7}}, north=30, south=10)
    wait_for(lambda: "recall" in run.metrics, what="the evaluation")
    metrics = run.metrics
    assert list(metrics.columns) == [
        *("recall", "test_accuracy", "test_accuracy_plain", "test_auroc", "test_auroc_plain"),
        *("loss", "accepted", "refused", "samples", "seconds", "bytes"),
    ]
    assert metrics.loc[1, "test_accuracy"] == pytest.approx((30 * 0.9 + 10 * 0.5) / 40)
    assert metrics.loc[1, "test_accuracy_plain"] == pytest.approx(0.7)
    assert metrics["test_auroc"].tolist() == [pytest.approx(0.625)]
    assert (metrics.dtypes.iloc[:5] == "float64").all()


def test_a_round_without_tests_is_nan_and_one_under_way_is_of_those_who_have_answered() -> None:
    source = Source()
    run = made(source)
    for number in (1, 2, 3):
        source.round(number)
        if number != 2:
            source.tested(number, 0, {"accuracy": 0.5 + number / 10})
    assert run.metrics["test_accuracy"].isna().tolist() == [False, True, False]
    source.tested(3, 1, {"accuracy": 0.0, "f1": 0.25})
    assert run.metrics["test_accuracy"].tolist()[2] == pytest.approx(0.4)
    assert run.metrics["test_f1"].isna().tolist() == [True, True, False]


def test_without_tests_the_columns_are_as_they_were() -> None:
    source = Source()
    run = made(source)
    source.round(1)
    source.test(1, {0: {}, 1: {"report": "see the attachment"}})  # nothing, and nothing that has a mean
    assert list(run.metrics.columns) == ["loss", "accepted", "refused", "samples", "seconds", "bytes"]
    assert list(run.tests["text"]) == ["see the attachment"]


def test_who_wasnt_drawn_weighs_as_in_its_newest_round() -> None:
    source = Source()
    run = made(source)
    source.round(1), source.test(1, {0: {"a": 0.0}, 1: {"a": 1.0}}, north=30, south=10)
    source.round(2), source.test(2, {0: {"a": 0.0}, 1: {"a": 1.0}}, north=10, south=None)
    assert run.metrics["test_a"].tolist() == [pytest.approx(0.25), pytest.approx(0.5)]
    assert run.tests["samples"].isna().tolist() == [False, False, False, True]  # the table says what was said


def test_where_one_weight_isnt_known_all_weigh_the_same() -> None:
    source = Source()
    run = made(source)
    source.round(1), source.test(1, {0: {"a": 0.0}, 1: {"a": 1.0}}, north=30, south=None)
    assert run.metrics["test_a"].tolist() == run.metrics["test_a_plain"].tolist() == [0.5]


def test_only_numbers_have_a_mean() -> None:
    source = Source()
    run = made(source)
    source.round(1)
    source.test(1, {0: {"a": "nan", "b": 1.0}, 1: {"a": 0.25, "b": "high"}, 2: {"a": "inf"}})
    assert run.metrics["test_a"].tolist() == [0.25] and run.metrics["test_b"].tolist() == [1.0]


def test_values_that_are_nearly_too_large_have_a_mean() -> None:
    source = Source()
    run = made(source)
    source.round(1), source.test(1, {0: {"a": 1.7e308}, 1: {"a": 1.7e308}, 2: {"a": -1.7e308}})
    assert run.metrics["test_a_plain"].iloc[0] == pytest.approx(1.7e308 / 3)
    source.round(2), source.test(2, {0: {"a": 0.25}, 1: {"a": -9.9e299}})
    run.plot().figure.canvas.draw()  # which matplotlib can't do with such an axis
    north = next(line for line in run.plot(metrics=["test_a"]).lines if line.get_label() == "test_a: north")
    assert np.isnan(north.get_ydata()[0]) and north.get_ydata()[1] == 0.25


# ---- names that are taken


def test_what_evaluate_returns_keeps_its_name() -> None:
    """Its author wrote that name into the notebook; participants' metrics are named by others."""
    source = Source()
    run = made(source, evaluate=lambda model: {"test_accuracy": 0.125, "test_f1_plain": 0.5, "loss": 3.0})
    source.round(1)
    source.test(1, {0: {"accuracy": 1.0, "f1": 1.0, "loss": 0.75}})
    source.finish()
    metrics = run.wait(30).metrics
    assert metrics.columns.is_unique
    assert list(metrics.columns[:9]) == [
        *("test_accuracy", "test_f1_plain", "evaluate_loss", "test_accuracy_2", "test_accuracy_2_plain"),
        *("test_f1_2", "test_f1_2_plain", "test_loss", "test_loss_plain"),
    ]
    assert metrics.loc[1, ["test_accuracy", "test_f1_plain", "test_accuracy_2", "test_f1_2"]].tolist() == [
        *(0.125, 0.5, 1.0, 1.0)
    ]
    assert metrics.loc[1, ["test_loss", "loss", "evaluate_loss"]].tolist() == [0.75, 0.5, 3.0]


def test_metrics_whose_columns_would_be_the_same_stand_beside_each_other() -> None:
    source = Source()
    run = made(source)
    source.round(1)
    source.test(1, {0: {"a": 1.0, "a_plain": 2.0, "a_2": 3.0, "a_plain_2": 4.0, "": 5.0}})
    metrics = run.metrics
    assert metrics.columns.is_unique
    weighted = {name: metrics[name].iloc[0] for name in run.snapshot().by_worker}
    assert weighted == {"test_a": 1.0, "test_a_plain_2": 2.0, "test_a_2": 3.0, "test_a_plain_2_2": 4.0, "test_": 5.0}
    assert all(metrics[f"{name}_plain"].iloc[0] == value for name, value in weighted.items())


def test_two_workers_of_the_same_name_are_two() -> None:
    """An account may be called as a client is whose data is here."""
    source = Source()
    run = made(source)
    source.round(1)
    for slot, value in ((0, 0.0), (1, 1.0)):
        source.row("tested", cycle=1, slot=slot, worker="client 0", metrics={"a": value}, samples=5, seconds=0.1)
    assert run.metrics["test_a"].iloc[0] == 0.5
    assert [values.tolist() for _, values in run.snapshot().by_worker["test_a"]] == [[0.0], [1.0]]
    assert len(run.plot(metrics=["test_a"]).lines) == 3


# ---- run.tests, run.notifications


@EITHER
def test_a_row_a_metric_worker_and_round(kind: Any) -> None:
    source = Source()
    run = made(source, kind)
    source.round(1)
    source.test(1, {0: {"accuracy": 0.9, "note": "<b>"}, 1: {"accuracy": 0.5}}, south=None)
    tests = run.tests
    assert list(tests.columns) == ["round", "worker", "metric", "value", "text", "samples"]
    assert tests[["round", "worker", "metric", "text"]].to_numpy().tolist() == [
        [1, "north", "accuracy", ""],
        [1, "north", "note", "<b>"],
        [1, "south", "accuracy", ""],
    ]
    assert tests["value"].tolist()[::2] == [0.9, 0.5] and math.isnan(tests["value"].iloc[1])
    assert tests["samples"].tolist()[:2] == [5, 5] and tests["samples"].isna().tolist() == [False, False, True]


@EITHER
def test_each_call_is_a_row(kind: Any) -> None:
    source = Source()
    run = made(source, kind)
    source.told(0, "TRAINING_START", None, 200)
    source.told(1, "UPDATE_ROUND_START", 0, None, attempt=2, seconds=5.0, message="timed out")
    source.told(None, "TRAINING_FINISHED", None, 200, cycle=3)
    calls = run.notifications
    assert list(calls.columns) == [
        *("time", "worker", "notification", "round", "attempt", "answer", "seconds", "message")
    ]
    assert calls["time"].tolist() == [pd.Timestamp(second, unit="s", tz="UTC") for second in (1, 2, 3)]
    assert calls["worker"].tolist() == ["north", "south", "the owner"] and calls["round"].tolist() == [1, 1, 3]
    assert calls["answer"].isna().tolist() == [False, True, False] and calls["answer"].iloc[0] == 200
    assert calls.loc[1, ["attempt", "seconds", "message"]].tolist() == [2, 5.0, "timed out"]


def test_the_tables_have_their_columns_and_dtypes_before_anything_happened() -> None:
    source = Source()
    empty, run = made(Source()), made(source)
    source.round(1), source.test(1, {0: {"a": 0.5}}), source.told(0, "TRAINING_START", None)
    for nothing, something in ((empty.tests, run.tests), (empty.notifications, run.notifications)):
        assert len(nothing) == 0 and len(something) == 1
        assert nothing.dtypes.to_dict() == something.dtypes.to_dict()


# ---- what the panel shows


def told_something() -> tuple[Source, Any]:
    source = Source()
    run = made(source)
    source.open()
    source.told(0, "UPDATE_ROUND_START", 0, 202)
    source.told(1, "UPDATE_ROUND_START", 0, None, attempt=2, seconds=5.0, message="timed out")
    return source, run


def test_who_answered_what_when_at_which_attempt() -> None:
    source, run = told_something()
    north, south = run.snapshot().workers
    for worker, second in ((north, 2), (south, 3)):
        assert worker.told.startswith(time.strftime("%H:%M:%S ", time.localtime(second)))
    assert north.told.endswith(" UPDATE_ROUND_START 0: 202 at attempt 1, 0.1 s")
    assert "attempt 2, 5.0 s" in south.told and "timed out" in south.told
    source.told(1, "UPDATE_ROUND_START", 0, 202, attempt=3)
    assert "202 at attempt 3" in run.snapshot().workers[1].told, "only the newest is shown"


def test_the_column_is_there_once_somebody_was_told_something() -> None:
    _, run = told_something()
    snapshot = run.snapshot()
    assert "told" in Reader(snapshot.worker_table()).text and "message" not in Reader(snapshot.worker_table()).text
    assert snapshot.text().splitlines()[1].split() == list(WORKER_COLUMNS)
    for worker in snapshot.workers:
        assert worker.told in snapshot.text() and worker.told in Reader(snapshot.worker_table()).text
    other = made(Source())
    other._source.open()
    assert "told" not in other.snapshot().worker_table() and "told" not in other.snapshot().text()


def test_seconds_run_on_while_a_worker_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    source = Source()
    run = made(source)
    source.seq = 999
    source.open()
    now[0] = 1001.0
    source.row("testing", cycle=1, deadline=None, slots=[0, 1])
    now[0] = 1008.0
    source.tested(1, 1, {"a": 0.5})
    north, south = run.snapshot().workers
    assert (north.state, north.seconds, south.state, south.seconds) == ("testing", pytest.approx(7.0), "tested", 0.2)
    assert run.snapshot().standing == "round 1: 1 testing, 1 tested"


def test_who_left_is_shown_with_the_reason_and_named_by_the_error() -> None:
    source = Source()
    run = made(source)
    source.open()
    source.row("assigned", cycle=1, slot=1, worker="south")
    source.told(1, "UPDATE_ROUND_START", 0, 500, gone=True)
    source.left(1, 1, "answered 500 to UPDATE_ROUND_START 0")
    south = run.snapshot().workers[1]
    assert (south.state, south.verdict) == ("left", "WORKER_LEFT") and "answered 500" in south.message
    assert run.reports[["worker", "verdict"]].to_numpy().tolist() == [["south", "WORKER_LEFT"]]
    source.finish("failed")
    with pytest.raises(WorkersFailed, match="south: WORKER_LEFT: answered 500 to UPDATE_ROUND_START 0") as raised:
        run.wait()
    assert raised.value.hint == "run.notifications has what its service answered; tolerate=k lets k fail"


def test_line_and_card_give_the_newest_of_the_tests_and_no_plain_means() -> None:
    source = Source()
    run = made(source, evaluate=lambda model: {f"e{place}": float(place) for place in range(5)})
    source.round(1)
    source.test(1, {0: {f"t{place}": place / 4 for place in range(5)}})
    source.finish()
    run.wait(30)
    values = {"loss": 0.5, "e0": 0.0, "e1": 1.0, "e2": 2.0, "test_t0": 0.0, "test_t1": 0.25, "test_t2": 0.5}
    assert run.snapshot().newest == values
    assert all(f"{name} {value:.4g}" in repr(run) for name, value in values.items())
    assert all(name in Reader(run._repr_html_()).text for name in values) and "plain" not in run._repr_html_()


# ---- the picture


def four_clinics(rounds: int = 3, workers: int = 4, **about: Any) -> Any:
    source = Source()
    run = made(source, **about)
    for number in range(1, rounds + 1):
        source.round(number)
        source.test(number, {slot: {"accuracy": number / 10 + slot / 100} for slot in range(workers)})
    return run


def legend(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def thin(ax: Any) -> list[Line2D]:
    return [line for line in ax.lines if line.get_gid() == "workers"]


def test_a_mean_is_a_line_and_each_participant_a_thin_one() -> None:
    ax = four_clinics().plot()
    assert legend(ax) == ["test_accuracy", "loss", *CLINICS[:4]]
    mean, *_ = ax.lines
    assert mean.get_ydata().tolist() == pytest.approx([0.115, 0.215, 0.315])
    assert len(thin(ax)) == 4 and len(ax.lines) == 6
    for slot, line in enumerate(thin(ax)):
        assert line.get_ydata().tolist() == pytest.approx([n / 10 + slot / 100 for n in (1, 2, 3)])
        assert line.get_linewidth() < mean.get_linewidth() and line.get_zorder() < mean.get_zorder()
    assert len({line.get_color() for line in ax.lines}) == 6


def test_a_participant_has_one_colour_and_a_metric_one_way_of_dashes() -> None:
    source = Source()
    run = made(source)
    for number in (1, 2):
        source.round(number)
        source.test(number, {slot: {"accuracy": 0.5 + slot / 10, "f1": 0.1} for slot in (0, 1)})
    ax = run.plot()
    assert legend(ax) == ["test_accuracy", "test_f1", "loss", "north", "south"]
    accuracy, f1 = thin(ax)[:2], thin(ax)[2:]
    assert [a.get_color() for a in accuracy] == [b.get_color() for b in f1]
    styles = [{line.get_linestyle() for line in lines} for lines in (accuracy, f1)]
    assert styles == [{ax.lines[0].get_linestyle()}, {ax.lines[1].get_linestyle()}] and styles[0] != styles[1]


@pytest.mark.parametrize(("workers", "named"), [(8, True), (9, False), (100, False)])
def test_more_than_eight_participants_are_thin_lines_without_names(workers: int, named: bool) -> None:
    ax = four_clinics(workers=workers).plot()
    assert legend(ax)[2:] == (list(CLINICS[:workers]) if named else [])
    drawn = np.concatenate([line.get_ydata() for line in thin(ax)])
    assert np.isfinite(drawn).sum() == 3 * workers
    if not named:
        (bundle,) = thin(ax)
        assert bundle.get_color() == ax.lines[0].get_color() and bundle.get_alpha() < 1
        assert np.isnan(bundle.get_xdata()).sum() == workers, "lines of two workers are joined"


def test_what_is_asked_for_is_drawn_and_only_weighted_means_have_thin_lines() -> None:
    run = four_clinics()
    assert legend(run.plot(metrics=["test_accuracy"])) == ["test_accuracy", *CLINICS[:4]]
    plain = run.plot(metrics=["test_accuracy_plain", "loss"])
    assert legend(plain) == ["test_accuracy_plain", "loss"] and not thin(plain)
    with pytest.raises(UsageError, match="'test_acuracy'"):
        run.plot(metrics=["test_acuracy"])


def test_strangers_cant_fill_the_picture_with_metrics() -> None:
    source = Source()
    run = made(source)
    source.round(1)
    source.test(1, {0: {f"m{place}": 0.5 for place in range(300)}})
    assert legend(run.plot()) == [*(f"test_m{place}" for place in range(5)), "loss", "north"]
    assert "test_m299" in run.metrics and legend(run.plot(metrics=["test_m299"])) == ["test_m299", "north"]


def test_a_loss_that_nobody_reports_has_no_line_beside_the_tests() -> None:
    source = Source()
    run = made(source)
    source.open(), source.aggregated(1, loss=None)
    assert legend(run.plot()) == ["loss"]
    source.test(1, {0: {"accuracy": 0.5}})
    assert legend(run.plot()) == ["test_accuracy", "north"]


def test_the_picture_of_many_participants_and_rounds_stays_small() -> None:
    from gridkit.widgets.plot import live_picture

    snapshot = four_clinics(rounds=2).snapshot()
    rounds, workers = 500, 100
    index = pd.RangeIndex(1, rounds + 1, name="round")
    noise = np.random.default_rng(0).random((workers, rounds))
    frame = pd.DataFrame({"test_a": noise.mean(0), "test_a_plain": noise.mean(0), "loss": noise[0]}, index)
    many = {"test_a": [(CLINICS[slot], noise[slot]) for slot in range(workers)]}
    snapshot = dataclasses.replace(snapshot, metrics=frame, by_worker=many)
    assert len(live_picture(snapshot.metrics, "t", snapshot.by_worker)) < 120_000
    assert live_picture(frame, "t", many).count("<path") < 40


def test_a_screen_reader_is_told_the_means() -> None:
    figure = four_clinics().plot().figure
    assert figure.described() == "digits 1.0, 3 rounds: test_accuracy 0.315, loss 0.5"


# ---- what others wrote


def test_hostile_names_and_texts_are_inert_and_shown() -> None:
    source = Source()
    run = made(source)
    run.name = EVIL
    source.open()
    source.row("assigned", cycle=1, slot=0, worker=EVIL)
    source.report(1, 0, worker=EVIL)
    source.aggregated(1)
    source.row("testing", cycle=1, deadline=None, slots=[0])
    source.row("tested", cycle=1, slot=0, worker=EVIL, metrics={EVIL: 0.5, "note": EVIL}, samples=5, seconds=0.1)
    source.row(
        "notified",
        **{"cycle": 1, "slot": 0, "worker": EVIL, "notification": EVIL, "round": 1, "attempt": 1, "answer": None},
        **{"seconds": 0.1, "message": EVIL, "gone": True},
    )
    source.row("left", cycle=1, slot=0, worker=EVIL, reason=EVIL)
    snapshot, figure = run.snapshot(), run.plot().figure
    for shown in (snapshot.worker_table(), snapshot.card(), snapshot.status_line(), figure.to_svg()):
        read = Reader(shown)
        assert "img" not in read.tags and not [name for name, _ in read.attributes if name.startswith("on")]
    assert Reader(snapshot.worker_table()).text.count(EVIL) >= 3  # the name, what was told, the reason
    assert f"test_{EVIL}" in Reader(snapshot.card()).text and f"test_{EVIL}" in Reader(figure.to_svg()).text
    assert run.tests["text"].tolist() == ["", EVIL] and run.notifications["message"].tolist() == [EVIL]


def test_a_time_that_no_calendar_has_is_shown_as_it_is() -> None:
    source = Source()
    run = made(source)
    source.open()
    source.seq = 10**18
    source.told(0, "TRAINING_START", None)
    assert "TRAINING_START" in run.snapshot().workers[0].told
    assert run.notifications["time"].isna().tolist() == [True]


def test_thousands_of_calls_are_all_in_the_table_and_one_each_in_the_panel() -> None:
    source = Source()
    run = made(source)
    source.open(clients=4)
    for place in range(5000):
        source.told(place % 4, "UPDATE_ROUND_START", place, attempt=1)
    assert len(run.notifications) == 5000
    html = run.snapshot().worker_table()
    assert [f"UPDATE_ROUND_START {place}:" in html for place in (4995, 4996, 4999)] == [False, True, True]
    assert len(html) < 3000
