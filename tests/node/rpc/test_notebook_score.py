"""A notebook's function that scores each new model, as the messages have it: see `test_notebook_rule`."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from gridkit.wire.rpc.messages import Reply
from gridkit.wire.rpc.values import Callable, Variable, encode
from tests.node.rpc.tensors import Notebook, shared
from tests.node.rpc.test_notebook_rule import Training, called, fail, give, offer
from tests.support import MODEL, host_files, tiny_plan

SCORED = {"strategy": "fedavg", "evaluate": "score"}


def aggregated(training: Training) -> list[dict[str, Any]]:
    return [row for row in training.rows() if row["kind"] == "aggregated"]


@shared
async def test_it_gets_the_new_model_by_name(book: Notebook) -> None:
    """Before the round is over; what it says is in the round's row."""
    training = Training(book.node, **SCORED, num_cycles=2, reports=1)
    asked = await offer(book, training, role="evaluate")
    for value in (1, 2):
        training.report()
        question = await called(book)
        (state,) = question.params["args"]
        assert list(state) == list(MODEL)
        for name, form in state.items():
            array = await book.read(form["variable_id"])
            assert array.shape == MODEL[name].shape and (array == -value).all()
        metrics = {"accuracy": 0.5, "count": 3, "array": np.float32([7]), "odd": float("nan"), "stop": False}
        await give(book, question, metrics)
    await book.reply(asked)
    assert [row["metrics"] for row in aggregated(training)] == [
        {"accuracy": 0.5, "count": 3.0, "array": 7.0, "odd": None}
    ] * 2


@shared
async def test_stop_makes_the_round_the_last(book: Notebook) -> None:
    training = Training(book.node, **SCORED, num_cycles=9)
    asked = await offer(book, training, role="evaluate")
    training.report()
    await give(book, await called(book), {"stop": True})
    reply = await book.reply(asked)
    assert isinstance(reply, Reply) and reply.result == {"outcome": "stopped"}
    assert len(aggregated(training)) == 1 and "metrics" not in aggregated(training)[0]
    assert (training.model()["b"] == -2).all()


@shared
async def test_what_is_no_score_fails_the_training(book: Notebook) -> None:
    for answer, says in (
        ([0.5], "gave a list, expected a dict of up to 200 metrics"),
        ({"a": "much"}, "gave 'a' as a str, expected a number"),
        ({"a": Variable("x")}, "gave 'a' as a remote tensor, expected a number"),
        (KeyError, "raised KeyError: no"),
    ):
        training = Training(book.node, **SCORED)
        asked = await offer(book, training, role="evaluate")
        training.report()
        question = await called(book)
        if answer is KeyError:
            await fail(book, question, type="KeyError", exception="no", code="RUN_FAILED")
        else:
            await give(book, question, answer)
        await book.reply(asked)
        last = training.rows()[-1]
        assert (last["reason"], last["code"]) == (f"round 1: evaluate=score {says}", "EVALUATION_FAILED")
        assert (training.model()["b"] == -2).all()  # it is kept: only its score is missing


@shared
async def test_both_parts_and_a_wait_for_each(book: Notebook) -> None:
    """The reports are averaged once, however long the score takes."""
    training = Training(book.node, evaluate="score")
    training.report()
    assert training.rows("waiting")[-1]["function"] == "mine"
    await offer(book, training, "f")
    await give(book, await called(book), np.ones(8, np.float32))
    assert _up_to_the_second_wait(training)[-1]["function"] == "score"
    asked = await offer(book, training, "g", role="evaluate")
    question = await called(book)
    assert question.params["callable_id"] == "g"
    await give(book, question, {"a": 1})
    await book.reply(asked)
    assert training.kinds() == ["waiting", "calling", "waiting", "calling", "aggregated", "finished"]
    assert (training.model()["b"] == -1).all()


def _up_to_the_second_wait(training: Training) -> list[dict[str, Any]]:
    got: list[dict[str, Any]] = []
    with training.node.http() as http:
        query = {"after": 0, "run": training.process}
        with http.stream("GET", "/events", params=query, timeout=30) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    got.append(json.loads(line[6:]))
                    if [row["kind"] for row in got].count("waiting") == 2:
                        return got
    raise AssertionError(got)


@shared
async def test_who_has_no_such_part(book: Notebook) -> None:
    training = Training(book.node, strategy="fedavg")
    form = {"name": training.name, "version": "1.0", "role": "evaluate", "function": encode(Callable("f"), [])}
    assert "has no evaluate" in (await book.refused(await book.send("offer_function", form)))["exception"]
    training.stop()
    with book.node.http() as http:
        files = host_files(tiny_plan(), {"evaluate": 3}, "wrong part")
        refused = http.post("/model-centric/host-training", files=files)
    assert (refused.status_code, refused.json()["code"]) == (400, "BAD_CONFIG")
