"""Run, fed by a source of our own: rows by hand, models from a dict."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from torch import nn

import gridkit as gk
from gridkit import run as runs
from gridkit.bridge import BRIDGE
from gridkit.errors import (
    ErrorCode,
    EvaluationFailed,
    NodeUnreachable,
    RunError,
    UsageError,
    WorkersFailed,
)
from gridkit.run import AsyncRun, Run
from tests.runs import Source, made
from tests.support import wait_for

matplotlib.use("Agg")


# ---- tables


def test_tables_have_their_columns_and_dtypes_before_anything_happened() -> None:
    run = made(Source())
    full_source = Source()
    full = made(full_source)
    full_source.round(1)
    for empty, filled in ((run.metrics, full.metrics), (run.reports, full.reports)):
        assert len(empty) == 0 and len(filled) > 0
        assert list(empty.columns) == list(filled.columns)
        assert empty.dtypes.to_dict() == filled.dtypes.to_dict()
    assert run.metrics.index.name == "round"


def test_a_row_a_round_and_a_row_a_report() -> None:
    source = Source()
    run = made(source)
    source.round(1), source.round(2)
    metrics = run.metrics
    assert metrics.index.tolist() == [1, 2]
    assert metrics.loc[2].to_dict() == {
        "loss": 0.5, "accepted": 2, "refused": 0, "samples": 10, "seconds": 1.5, "bytes": 18,
    }  # fmt: skip
    assert all(metrics[name].dtype == "int64" for name in ("accepted", "refused", "samples", "bytes"))
    assert run.reports[["round", "worker", "verdict"]].to_numpy().tolist() == [
        [number, f"client {slot}", "accepted"] for number in (1, 2) for slot in (0, 1)
    ]


def test_a_failed_report_without_samples_leaves_the_others_integers() -> None:
    source = Source()
    run = made(source)
    source.open()
    source.report(1, 0)
    source.report(1, 1, "WORKER_ERROR", "ValueError: no", samples=None, metrics={})
    reports = run.reports
    assert str(reports["samples"].dtype) == "Int64" and reports["samples"].iloc[0] == 5
    assert reports["samples"].isna().tolist() == [False, True] and np.isnan(reports["loss"].iloc[1])


def test_rows_that_come_twice_count_once() -> None:
    source = Source()
    run = made(source)
    source.round(1)
    source.seq = 0
    source.round(1)
    assert len(run.metrics) == 1 and len(run.reports) == 2


def test_a_round_without_a_loss_is_nan() -> None:
    source = Source()
    run = made(source)
    source.open()
    source.aggregated(1, loss=None)
    assert np.isnan(run.metrics["loss"].iloc[0]) and "loss" not in repr(run)


# ---- status, repr


def test_status_and_repr() -> None:
    source = Source()
    run = made(source)
    assert run.status == "running" and not run.done
    assert repr(run) == "<Run 'digits' 1.0: running, 0 of 2 rounds>"
    source.round(1)
    assert "1 of 2 rounds, loss 0.5" in repr(run)
    run.stop()
    assert run.status == "stopping" and source.stops == [False]
    source.finish("stopped")
    assert run.status == "stopped" and run.done
    assert run.wait() is run
    run.stop()
    assert source.stops == [False], "asked to stop what is over"


# ---- waiting


def test_wait_returns_the_run_when_it_is_over() -> None:
    source = Source()
    run = made(source)
    source.round(1)
    with pytest.raises(TimeoutError, match=r"'digits' 1\.0"):
        run.wait(timeout=0.02)
    threading.Timer(0.05, source.finish).start()
    assert run.wait(timeout=30) is run and run.status == "completed"


def test_await_works_in_any_loop() -> None:
    source = Source()
    run = made(source)

    async def here() -> Any:
        asyncio.get_running_loop().call_later(0.02, source.finish)
        return await run

    assert asyncio.run(here()) is run
    assert asyncio.run(here_again(run)) is run


async def here_again(run: Run) -> Any:
    return await run


def test_a_cancelled_wait_does_not_end_the_run() -> None:
    source = Source()
    run = made(source, AsyncRun)

    async def impatient() -> None:
        for _ in range(2):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(run.wait(), 0.02)
        source.finish()
        assert await run.wait() is run

    asyncio.run(impatient())
    assert run.done and run.status == "completed"


def test_waits_that_were_given_up_leave_no_errors_behind(caplog: pytest.LogCaptureFixture) -> None:
    source = Source()
    run = made(source, AsyncRun)

    async def impatient() -> None:
        with pytest.raises(TimeoutError):
            await run.wait(timeout=0.01)

    asyncio.run(impatient())
    with pytest.raises(TimeoutError):
        made(Source()).wait(timeout=0.01)
    source.fail(RunError("no"))
    gc.collect()
    with pytest.raises(RunError):
        asyncio.run(impatient())
    gc.collect()
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


def test_an_interrupt_stops_waiting_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    source = Source()
    run = made(source)

    def interrupted(coro: Any, timeout: float | None = None) -> None:
        coro.close()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BRIDGE, "sync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.wait()
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "goes on" in said and "run.stop()" in said and "'digits' 1.0" in said
    assert run.status == "running" and source.stops == []
    source.finish()
    run.wait()


def test_rows_that_cant_be_had_raise_in_wait() -> None:
    source = Source()
    run = made(source)
    source.fail(NodeUnreachable("no answer from http://n"))
    assert run.status == "failed"
    for _ in range(2):
        with pytest.raises(NodeUnreachable, match="no answer"):
            run.wait()


def test_an_error_raised_twice_does_not_gather_tracebacks() -> None:
    source = Source()
    run = made(source)
    source.fail(RunError("no"))

    def depth() -> int:
        with pytest.raises(RunError) as raised:
            run.wait()
        return len(raised.traceback)

    assert depth() == depth() == depth()


# ---- failures


TRACEBACK = 'Traceback (most recent call last):\n  File "a.py", line 3, in f\n    <object at 0x7f{0}>\nValueError: no'


def fail_with(source: Source, slots: tuple[int, ...], message: str = "no") -> None:
    for slot in slots:
        error = {"type": "ValueError", "message": message, "traceback": TRACEBACK.replace("{0}", f"{slot}a")}
        source.report(2, slot, "WORKER_ERROR", f"ValueError: {message}", error=error)


def test_failures_are_grouped_by_cause_and_name_the_workers() -> None:
    source = Source()
    run = made(source, clients=[(1, 2)] * 10)
    source.round(1)
    source.open(2, clients=10)
    fail_with(source, (7, 1))
    source.report(2, 4, "NOT_FINITE", "tensor 'fc1.weight' has 3 values that are not finite", tensor="fc1.weight")
    source.finish("failed", "round 2: …")
    with pytest.raises(WorkersFailed) as raised:
        run.wait()
    error = raised.value
    assert [set(workers) for workers, _ in error.groups] == [{"client 1", "client 7"}, {"client 4"}]
    first = error.message
    assert "\n" not in first and first.startswith("3 of 10 workers failed in round 2 of 'digits' 1.0: ")
    assert "ValueError: no" in first and "NOT_FINITE: tensor 'fc1.weight'" in first
    assert error.hint is not None and "run.debug(" in error.hint
    assert error.code is ErrorCode.WORKER_ERROR and run.status == "failed"


def test_tracebacks_that_differ_are_groups_of_their_own() -> None:
    source = Source()
    run = made(source)
    source.round(1)
    source.open(2, clients=3)
    fail_with(source, (0,), "no")
    fail_with(source, (1,), "other")
    source.report(
        2, 2, "WORKER_ERROR", "ValueError: no", error={"type": "ValueError", "message": "no", "traceback": "b"}
    )
    source.finish("failed")
    with pytest.raises(WorkersFailed) as raised:
        run.wait()
    assert len(raised.value.groups) == 3
    assert raised.value.hint == "tolerate=k lets k fail"  # the data isn't here: nothing to debug


def test_a_failure_without_failed_workers_gives_the_reason() -> None:
    source = Source()
    run = made(source)
    source.open()
    source.finish("failed", "round 1: no report has any samples")
    with pytest.raises(RunError, match="no report has any samples"):
        run.wait()


# ---- evaluate


def test_evaluate_gets_each_rounds_model_and_its_metrics_join() -> None:
    source = Source()
    seen: list[Any] = []

    def evaluate(model: nn.Module) -> dict[str, Any]:
        seen.append((model.training, next(model.parameters())[0].tolist()))
        return {"accuracy": torch.tensor(0.25 * len(seen)), "count": len(seen)}

    run = made(source, evaluate=evaluate)
    source.round(1), source.round(2)
    source.finish()
    run.wait(30)
    assert seen == [(False, [1.0, 1.0]), (False, [3.0, 3.0])]
    assert run.metrics["accuracy"].tolist() == [0.25, 0.5] and run.metrics["count"].tolist() == [1, 2]
    assert "accuracy 0.5" in repr(run)


def test_evaluate_runs_on_a_thread_of_its_own_in_the_launching_context() -> None:
    cell: contextvars.ContextVar[str] = contextvars.ContextVar("cell", default="none")
    source, seen = Source(), []

    def evaluate(model: nn.Module) -> dict[str, float]:
        seen.append((cell.get(), threading.current_thread() is threading.main_thread()))
        return {}

    cell.set("launching")
    run = made(source, evaluate=evaluate)
    cell.set("later")
    source.round(1)
    source.finish()
    run.wait(30)
    assert seen == [("launching", False)]


def test_an_evaluate_that_raises_ends_the_waiting_with_the_original_as_cause() -> None:
    source = Source()
    original = ZeroDivisionError("my bug")

    def evaluate(model: nn.Module) -> dict[str, float]:
        raise original

    run = made(source, evaluate=evaluate)
    source.round(1)
    with pytest.raises(EvaluationFailed) as raised:
        run.wait(30)
    assert raised.value.__cause__ is original
    wait_for(lambda: source.stops == [False], what="a stop after the round")
    assert "round 1" in raised.value.message and "my bug" in raised.value.message
    with pytest.raises(EvaluationFailed) as again:
        run.wait(30)
    assert again.value.__cause__ is original


@pytest.mark.parametrize("values", [3, {"accuracy": "high"}, ["accuracy"]])
def test_an_evaluate_that_returns_no_metrics_is_told_so(values: Any) -> None:
    source = Source()
    run = made(source, evaluate=lambda model: values)
    source.round(1)
    with pytest.raises(EvaluationFailed):
        run.wait(30)


def test_an_evaluate_that_returns_nothing_adds_nothing() -> None:
    source = Source()
    run = made(source, evaluate=lambda model: None)
    source.round(1)
    source.finish()
    assert list(run.wait(30).metrics.columns) == list(made(Source()).metrics.columns)


def test_a_metric_with_the_name_of_a_column_stands_beside_it() -> None:
    source = Source()
    run = made(source, evaluate=lambda model: {"loss": 9.0, "samples": 3.0})
    source.round(1)
    source.finish()
    metrics = run.wait(30).metrics
    assert metrics.columns.is_unique
    assert metrics["loss"].tolist() == [0.5] and metrics["samples"].tolist() == [10]
    assert metrics["evaluate_loss"].tolist() == [9.0]


def test_rounds_whose_model_is_gone_before_it_is_evaluated_stay_empty() -> None:
    source = Source()
    gate = threading.Event()

    def evaluate(model: nn.Module) -> dict[str, float]:
        gate.wait(30)
        return {"accuracy": 1.0}

    run = made(source, evaluate=evaluate)
    for number in (1, 2, 3):
        source.round(number)
    del source.models[3]
    gate.set()
    source.finish()
    accuracy = run.wait(30).metrics["accuracy"]
    assert accuracy.isna().tolist() == [False, True, False]


def test_metrics_are_shown_before_they_are_evaluated() -> None:
    source = Source()
    gate = threading.Event()
    run = made(source, evaluate=lambda model: gate.wait(30) and {"accuracy": 1.0})
    source.round(1)
    assert run.metrics.index.tolist() == [1]
    source.finish()
    assert run.status == "completed" and not run.done
    gate.set()
    assert run.wait(30).metrics["accuracy"].tolist() == [1.0]


# ---- models


def test_the_model_is_a_copy_with_the_newest_weights() -> None:
    source, mine = Source(), nn.Linear(2, 1)
    before = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    run = made(source, model=mine)
    assert run.model.weight.tolist() == [[0.0, 0.0]]
    source.round(1)
    got = run.model
    assert isinstance(got, nn.Linear) and not got.training and got is not mine and got is not run.model
    assert got.weight.tolist() == [[1.0, 1.0]] and got.weight.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in mine.state_dict().items())
    with torch.no_grad():
        got.weight += 5
    assert run.model.weight.tolist() == [[1.0, 1.0]], "the source's arrays are shared"


def test_an_async_run_has_the_same() -> None:
    source = Source()

    async def use() -> None:
        run = made(source, AsyncRun)
        source.round(1)
        assert (await run.fetch_model()).bias.tolist() == [1.0]
        assert (await run.fetch_state())["bias"].tolist() == [1.0]
        await run.stop()
        await run.stop(now=True)
        assert source.stops == [False, True]
        source.finish("stopped")
        assert await run is run

    asyncio.run(use())


def test_a_run_taken_up_by_name_has_weights_but_no_module() -> None:
    source = Source()
    run = made(source, model=None)
    with pytest.raises(UsageError) as raised:
        _ = run.model
    assert "run.state" in (raised.value.hint or "")
    assert run.state["weight"].tolist() == [[0.0, 0.0]]


def test_debug_needs_the_data() -> None:
    with pytest.raises(UsageError, match="data"):
        made(Source()).debug("client 0")


@pytest.mark.parametrize("client", [5, "client 5", "somebody", "client x", -1])
def test_debug_of_nobody(client: Any) -> None:
    plan = gk.training_plan(
        nn.Linear(2, 1),
        nn.functional.mse_loss,
        gk.SGD(lr=0.1),
        (np.zeros((2, 2), np.float32), np.zeros((2, 1), np.float32)),
    )
    run = made(Source(), plan=plan, clients=[(1, 2)] * 2)
    with pytest.raises(UsageError):
        run.debug(client)


@pytest.mark.parametrize("client", [1, "north", 2, "south"])
def test_debug_of_a_push_participant_says_that_its_data_is_elsewhere(client: Any) -> None:
    run = made(Source(), clients=[(1, 2), "north", "south"])
    with pytest.raises(UsageError, match="participant") as raised:
        run.debug(client)
    assert {1: "'north'", 2: "'south'"}.get(client, repr(client)) in raised.value.message
    assert raised.value.hint is not None and "run.notifications" in raised.value.hint


def test_debug_of_nobody_where_all_are_participants_names_one_of_them() -> None:
    with pytest.raises(UsageError, match="no client 'east'") as raised:
        made(Source(), clients=["north", "south"]).debug("east")
    assert "'north'" in (raised.value.hint or "")


def test_only_clients_whose_data_is_here_are_offered_to_debug() -> None:
    for bad, offered in (((0,), "tolerate=k lets k fail"), ((0, 1), "run.debug('client 1')")):
        source = Source()
        run = made(source, clients=["north", (1, 2)])
        source.open(2)
        for slot in bad:
            source.report(2, slot, "NOT_FINITE", "tensor 'w'", worker=("north", "client 1")[slot])
        source.finish("failed")
        with pytest.raises(WorkersFailed, match="north") as raised:
            run.wait()
        assert (raised.value.hint or "").partition(" runs")[0] == offered


# ---- plot


def test_plot_draws_what_is_there() -> None:
    source = Source()
    run = made(source, evaluate=lambda model: {"accuracy": 0.5})
    source.round(1), source.round(2)
    source.finish()
    run.wait(30)
    axes = run.plot()
    assert {line.get_label() for line in axes.lines} == {"accuracy", "loss"}
    assert axes.lines[0].get_xdata().tolist() == [1, 2] and axes.get_xlabel() == "round"
    only = run.plot(ax=axes.figure.add_subplot(), metrics=["bytes"])
    assert only.figure is axes.figure and [line.get_label() for line in only.lines] == ["bytes"]
    with pytest.raises(UsageError, match="'acuracy'"):
        run.plot(metrics=["acuracy"])


def test_plot_of_nothing_is_an_empty_picture() -> None:
    axes = made(Source()).plot()
    axes.figure.canvas.draw()


# ---- verify


def models(**changes: Any) -> Run:
    base: dict[str, Any] = {"a": np.array([1.0, -2.0], np.float32), "n": np.array(3)}
    return made(Source({name: array for name, array in {**base, **changes}.items() if array is not None}))


def test_verify_equal() -> None:
    same = runs.verify(models(), models())
    assert same and same.equal and repr(same).startswith("equal") and "\n" not in repr(same)
    nan = np.array([np.nan, 1.0], np.float32)
    assert runs.verify(models(a=nan), models(a=nan.copy()))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"a": np.array([1.0, -2.5], np.float32)}, ["'a'", "1 of 2", "0.5"]),
        ({"a": np.array([1.0, -2.0])}, ["'a'", "float64"]),
        ({"a": np.array([[1.0, -2.0]], np.float32)}, ["'a'", "[1, 2]"]),
        ({"a": None}, ["'a'"]),
        ({"z": np.zeros(1)}, ["'z'"]),
        ({"n": np.array(4)}, ["'n'", "1 of 1"]),
    ],
)
def test_verify_names_what_differs(changes: dict[str, Any], words: list[str]) -> None:
    for pair in ((models(), models(**changes)), (models(**changes), models())):
        verification = runs.verify(*pair)
        assert not verification
        assert all(word in repr(verification) for word in words), verification


def test_verify_sees_the_sign_of_zero() -> None:
    verification = runs.verify(models(a=np.float32([0.0, 1.0])), models(a=np.float32([-0.0, 1.0])))
    assert not verification and "1 of 2" in repr(verification)
