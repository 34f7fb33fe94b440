"""Who gets work on a running node, over each transport. The rules themselves: tests/federated/test_selection.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import DIFF, NodeUnderTest, host_files, rows, tiny_plan, wait_for
from tests.transports import TRANSPORTS, Caller

Call = Callable[..., Caller]


@pytest.fixture(params=TRANSPORTS[1:], ids=["http", "socket"])
def call(request: pytest.FixtureRequest, node: NodeUnderTest) -> Iterator[Call]:
    made: list[Caller] = []

    def call(hosted: dict[str, Any]) -> Caller:
        made.append(Caller(node, request.param, hosted))
        return made[-1]

    yield call
    for caller in made:
        caller.close()


def test_a_rejection_says_whom_why_and_when_to_come_back(host: Any, call: Call) -> None:
    hosted = host(max_workers=1)
    first, second = call(hosted), call(hosted)
    first.ask()
    answer = second.ask()
    told = {name: answer[name] for name in ("status", "code", "reason", "model", "version", "cycle", "timeout")}
    assert told == {
        "status": "rejected",
        "code": "CYCLE_FULL",
        "reason": "1 worker is at work already",
        "model": hosted["name"],
        "version": "1.0",
        "cycle": 1,
        "timeout": 1.0,
    }
    assert "error" not in answer, "the clients of the original would raise it"


def test_min_workers(host: Any, call: Call) -> None:
    hosted = host(min_workers=3)
    one, two, three = call(hosted), call(hosted), call(hosted)
    assert one.ask()["reason"] == one.ask()["reason"] == "1 of 3 workers are here"
    refused = two.ask()
    assert (refused["code"], refused["reason"]) == ("TOO_FEW_WORKERS", "2 of 3 workers are here")
    assert refused["timeout"] > 0
    assert [worker.ask()["status"] for worker in (three, one, two)] == ["accepted"] * 3


@pytest.mark.parametrize("name", ["download", "upload"])
def test_minimum_speeds(host: Any, call: Call, name: str) -> None:
    hosted = host(**{f"minimum_{name}_speed": 2})
    worker = call(hosted)
    wish = {"model_name": hosted["name"], "auth_token": hosted["worker_token"]}
    assert worker.call("authenticate", **wish)["requires_speed_test"] is True
    slow = worker.ask(**{name: 1.5})
    assert (slow["code"], slow["timeout"]) == ("TOO_SLOW", 60.0)
    assert "1.5 Mbit/s" in slow["reason"] and "2 or more" in slow["reason"]
    for bad in (-1, "fast", [2]):
        assert worker.ask(**{name: bad})["code"] == "BAD_REQUEST"
    assert worker.ask(**{name: "1.5"})["code"] == "TOO_SLOW", "some clients send text"
    for unknown in (0, None):
        assert call(hosted).ask(**{name: unknown})["status"] == "accepted"
    assert worker.ask(**{name: 2})["status"] == "accepted"


def test_without_a_minimum_nobody_needs_a_speed_test(host: Any, call: Call) -> None:
    hosted = host()
    worker = call(hosted)
    wish = {"model_name": hosted["name"], "auth_token": hosted["worker_token"]}
    assert worker.call("authenticate", **wish)["requires_speed_test"] is False
    assert worker.ask(download=0.001, upload=0.001)["status"] == "accepted"


def test_do_not_reuse_workers_until_cycle(node: NodeUnderTest, host: Any, call: Call) -> None:
    hosted = host(num_cycles=3, do_not_reuse_workers_until_cycle=2)
    one, two = call(hosted), call(hosted)
    for worker in (one, two, one):
        wait_for(lambda worker=worker: worker.ask()["status"] == "accepted", what="work")
        worker.report(DIFF)
        resting = wait_for(lambda worker=worker: (a := worker.ask())["code"] != "CYCLE_CHANGING" and a, what="a reason")
        if worker is two or resting["code"] == "TRAINING_OVER":
            continue
        assert resting["code"] == "COOLING_DOWN" and "from cycle 3 on" in resting["reason"] and resting["timeout"] > 0
    assert [row["accepted"] for row in rows(node, hosted["process"]) if row["kind"] == "aggregated"] == [1, 1, 1]


def test_who_cant_be_taken_again_isnt_told_to_come_back(host: Any, call: Call) -> None:
    hosted = host(num_cycles=2, do_not_reuse_workers_until_cycle=5)
    worker = call(hosted)
    worker.ask()
    worker.report(DIFF)
    resting = wait_for(lambda: (a := worker.ask())["code"] != "CYCLE_CHANGING" and a, what="a reason")
    assert resting["code"] == "COOLING_DOWN" and "timeout" not in resting


def test_a_random_pool_is_drawn_by_the_timer(node: NodeUnderTest, host: Any, call: Call) -> None:
    hosted = host(
        num_cycles=1, pool_selection="random", selection_length=0.3, max_workers=2, min_diffs=2, max_diffs=2, seed=1
    )
    workers = [call(hosted) for _ in range(5)]
    for worker in workers:
        waiting = worker.ask()
        assert (waiting["status"], waiting["code"]) == ("rejected", "IN_DRAW") and 0 < waiting["timeout"] <= 0.3
    (draw,) = [row for row in rows(node, hosted["process"], "drawn") if row["kind"] == "drawn"]
    assert (draw["draw"], draw["candidates"], len(draw["slots"])) == (1, 5, 2), "nobody asked meanwhile"
    answers = [worker.ask() for worker in workers]
    assert [answer.get("slot") for answer in answers if answer["status"] == "accepted"] == draw["slots"]
    for worker, answer in zip(workers, answers, strict=True):
        if answer["status"] == "accepted":
            assert worker.report(DIFF)["code"] is None
        else:
            assert answer["code"] == "IN_DRAW" and answer["timeout"] > 0
    assert rows(node, hosted["process"])[-1]["outcome"] == "completed"


def test_a_draw_that_was_set_is_held_after_a_restart(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "data")
    try:
        rules = {"pool_selection": "random", "selection_length": 1.0}
        with node.http() as http:
            answer = http.post("/model-centric/host-training", files=host_files(tiny_plan(), rules, "lots")).json()
        worker = Caller(node, "json", {**answer, "name": "lots"})
        assert worker.ask()["code"] == "IN_DRAW"
        node.kill()
        node.start()
        assert any(row["kind"] == "drawn" for row in rows(node, answer["process"], "drawn"))
        assert worker.ask()["status"] == "accepted"
        worker.close()
    finally:
        node.terminate()
