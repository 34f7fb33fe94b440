"""Averaging by a notebook's function, as the messages have it: a notebook by hand, real reports, a real node."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import psutil
import pytest

from gridkit.wire.rpc.messages import Failure, Reply, Request
from gridkit.wire.rpc.values import Callable, Variable, encode
from gridkit.wire.state import read_state
from tests.node.rpc.ends import V1, live
from tests.node.rpc.tensors import Notebook, shared
from tests.support import MODEL, NodeUnderTest, RawWorker, host_files, rows, tiny_plan

_numbers = itertools.count(1)
SIZE = 8
"""values of `MODEL`"""


class Training:
    """One that averages by `mine`, with as many workers as it has reports in a round."""

    def __init__(self, node: NodeUnderTest, token: str | None = None, reports: int = 3, **server: Any) -> None:
        self.node, self.name = node, f"rule {next(_numbers)}"
        server = {"strategy": "notebook function mine", "num_cycles": 1, **server}
        server |= {"min_diffs": reports, "max_diffs": reports}
        with node.http(*([token] if token else [])) as http:
            answer = http.post("/model-centric/host-training", files=host_files(tiny_plan(), server, self.name))
        assert answer.status_code == 200, answer.text
        self.process = answer.json()["process"]
        self.workers = [RawWorker(node, answer.json()["worker_token"], self.name) for _ in range(reports)]

    def report(self) -> None:
        """Reports 1, 2, 3, … everywhere, in the order of the workers."""
        for value, worker in enumerate(self.workers, 1):
            assert worker.ask(5.0)["status"] == "accepted"
            diff = {name: np.full_like(array, value) for name, array in MODEL.items()}
            assert worker.report(diff, samples=value).status_code == 200

    def rows(self, until: str = "finished") -> list[dict[str, Any]]:
        return rows(self.node, self.process, until)

    def kinds(self, until: str = "finished") -> list[str]:
        return [row["kind"] for row in self.rows(until) if row["kind"] in ("waiting", "calling", "aggregated", until)]

    def model(self) -> dict[str, np.ndarray]:
        with self.node.http() as http:
            return read_state(http.get("/model-centric/retrieve-model", params={"name": self.name}).content)

    def stop(self) -> None:
        with self.node.http() as http:
            wish = {"name": self.name, "version": "1.0", "now": True}
            assert http.post("/model-centric/stop", json=wish).status_code == 200


async def offer(book: V1, training: Training, function: str = "f", role: str = "strategy") -> int:
    form = {"name": training.name, "version": "1.0", "role": role, "function": encode(Callable(function), [])}
    asked = await book.send("offer_function", form)
    while not any(beat.get("phase") == "offered" for beat in book.beats):
        await book.step()
    book.beats.clear()
    return asked


async def called(book: V1) -> Request:
    while True:
        question = await book.question()
        if isinstance(question, Request):
            assert question.method == "run_callable", question
            return question


async def give(book: V1, question: Request, value: Any) -> None:
    bodies: list[Any] = []
    form = encode(value, bodies)
    await book.say(Reply(question.id, {"message": "Ok", "data": form}), [bytes(body) for body in bodies])


async def fail(book: V1, question: Request, **data: str) -> None:
    await book.say(Failure(question.id, -32603, "failed", data))


@shared
async def test_the_reports_are_tensors_of_the_session(book: Notebook) -> None:
    """Private, in slot order, with their weights; what is made of them becomes the update, and nobody saw it."""
    training = Training(book.node, weighting="samples", max_samples=2)
    asked = await offer(book, training)
    training.report()
    question = await called(book)
    assert question.params["callable_id"] == "f"
    diffs, weights = (form["variable_id"] for form in question.params["args"])
    told = book.mirror.variable(diffs)
    assert (tuple(told.data.shape), told.data.dtype, told.data.values) == ((3, SIZE), "float32", None)
    assert (await book.read(weights)).tolist() == [1.0, 2.0, 2.0]
    assert (await book.refused(await book.ask("get_variable", variable_id=diffs)))["code"] == "PRIVATE"
    assert isinstance(await book.reply(await book.run("torch.sum", [diffs, 0], "total")), Reply)
    assert (await book.refused(await book.ask("get_variable", variable_id="total")))["code"] == "PRIVATE"
    await give(book, question, Variable("total"))
    await book.ask("delete_variables", variable_ids=[diffs, weights, "total"])  # as who has nothing more to say
    assert (await book.reply(asked)).result == {"outcome": "completed"}  # type: ignore[union-attr]
    assert {float(value) for array in training.model().values() for value in array.flat} == {-6.0}
    assert training.kinds() == ["aggregated", "finished"]


@shared
async def test_an_update_may_come_from_the_notebook(book: Notebook) -> None:
    training = Training(book.node)
    asked = await offer(book, training)
    training.report()
    await give(book, await called(book), np.arange(SIZE, dtype=np.float32))
    await book.reply(asked)
    assert [-float(v) for array in training.model().values() for v in array.flat] == list(range(SIZE))


WRONG: tuple[tuple[Any, str], ...] = (
    (np.zeros(SIZE), "gave float64[8], expected float32[8]: a value for each of the model's"),
    (np.zeros((1, SIZE), np.float32), "gave float32[1, 8], expected float32[8]"),
    (np.full(SIZE, np.nan, np.float32), "gave values that are not finite"),
    (None, "gave a NoneType, expected"),
    (0.5, "gave a float, expected"),
    (Variable("nothing"), "gave a tensor that can't be read: there is no tensor 'nothing'"),
    ("its reports", "gave float32[3, 8], expected float32[8]"),
    (Variable("brain"), "gave bfloat16[8], expected float32[8]"),
    ({"data": 1}, "gave a dict, expected"),
)


@shared
async def test_what_makes_no_update_fails_the_training(book: Notebook) -> None:
    await book.tensor("zeros", [0.0] * SIZE)
    await book.run("torch.Tensor.bfloat16", ["zeros"], "brain")
    for answer, says in WRONG:
        training = Training(book.node)
        asked = await offer(book, training)
        training.report()
        question = await called(book)
        if isinstance(answer, str):
            answer = Variable(question.params["args"][0]["variable_id"])
        await give(book, question, answer)
        reply = await book.reply(asked)
        assert isinstance(reply, Reply) and reply.result == {"outcome": "failed"}
        last = training.rows()[-1]
        assert last["reason"].startswith(f"round 1: the strategy mine {says}"), last
        assert last["code"] == "AVERAGING_FAILED"


@shared
async def test_what_the_function_raises_is_the_reason(book: Notebook) -> None:
    training = Training(book.node)
    asked = await offer(book, training)
    training.report()
    question = await called(book)
    await fail(book, question, type="ValueError", exception="no\nway", code="RUN_FAILED")
    await book.reply(asked)
    assert training.rows()[-1]["reason"] == "round 1: the strategy mine raised ValueError: no way"
    for form in question.params["args"]:  # nobody holds these any more
        assert (await book.refused(await book.ask("get_variable", variable_id=form["variable_id"])))["code"] == (
            "NOT_FOUND"
        )


@shared
async def test_a_notebook_that_is_not_there_is_waited_for(book: Notebook) -> None:
    """The rows say so, and that it goes on; what it had asked for before counts no more."""
    training = Training(book.node)
    training.report()
    assert training.kinds("waiting") == ["waiting"]
    assert training.rows("waiting")[-1] | {"seq": 0, "at": 0} == {
        "seq": 0,
        "at": 0,
        "run": training.process,
        "kind": "waiting",
        "cycle": 1,
        "function": "mine",
    }
    first = Notebook(book.node)
    await first.open()
    await offer(first, training)
    question = await called(first)
    await first.cut()  # and comes back as another session, as a restarted kernel does
    asked = await offer(book, training, "g")
    again = await called(book)
    assert again.params["callable_id"] == "g" and again.params["args"] != question.params["args"]
    await first.open()
    while ("cancel", {"id": question.id}) not in first.said:
        await first.step()
    await give(first, question, np.zeros(SIZE, np.float32))
    await give(book, again, np.ones(SIZE, np.float32))
    await book.reply(asked)
    assert training.kinds() == ["waiting", "calling", "aggregated", "finished"]
    assert (training.model()["b"] == -1).all()
    await first.cut()


@shared
async def test_a_cut_link_loses_nothing(book: Notebook) -> None:
    """The function runs once, and its answer comes over the next link."""
    training = Training(book.node)
    asked = await offer(book, training)
    training.report()
    question = await called(book)
    await book.cut()
    assert training.kinds("waiting") == ["waiting"]  # as long as nobody knows whether it comes back
    await book.open()
    await give(book, question, np.ones(SIZE, np.float32))
    assert (await book.reply(asked)).result == {"outcome": "completed"}  # type: ignore[union-attr]
    assert [told for told in book.asked if isinstance(told, Request)] == []


@shared
async def test_a_function_that_is_gone_is_waited_for(book: Notebook) -> None:
    training = Training(book.node)
    await offer(book, training, "old")
    training.report()
    question = await called(book)
    await fail(book, question, type="NotFoundError", exception="the notebook has no function 'old'", code="NOT_FOUND")
    assert training.kinds("waiting") == ["waiting"]
    asked = await offer(book, training, "new")
    question = await called(book)
    assert question.params["callable_id"] == "new"
    await give(book, question, np.zeros(SIZE, np.float32))
    await book.reply(asked)


def end_processes(node: NodeUnderTest) -> None:
    """Those of the node's sessions with tensors."""
    for child in psutil.Process(node.process.pid).children():
        if "gridkit.runner.tensors" in child.cmdline():
            child.kill()


async def lose(book: Notebook, number: int = 1) -> None:
    """The process ends under a function, which therefore fails."""
    question = await called(book)
    end_processes(book.node)
    while not any(method == "log" for method, _ in book.said):
        await book.ask("get_variable", variable_id="nothing")
        await book.step()
    book.said.clear()
    await fail(book, question, type="PlanError", exception=f"there is no tensor {number}", code="NOT_FOUND")


@shared
async def test_reports_that_were_lost_are_given_again(book: Notebook) -> None:
    training = Training(book.node)
    asked = await offer(book, training)
    training.report()
    await lose(book)
    await give(book, await called(book), np.ones(SIZE, np.float32))
    reply = await book.reply(asked)
    assert isinstance(reply, Reply) and reply.result == {"outcome": "completed"}


@pytest.mark.soak
@shared
async def test_a_function_whose_reports_are_lost_again_and_again_fails(book: Notebook) -> None:
    training = Training(book.node)
    asked = await offer(book, training)
    training.report()
    for number in range(3):
        await lose(book, number)
    await book.reply(asked)
    assert training.rows()[-1]["reason"] == "round 1: the strategy mine raised PlanError: there is no tensor 2"


@shared
async def test_stop_ends_the_wait(book: Notebook) -> None:
    training, waiting = Training(book.node), Training(book.node)
    asked = await offer(book, training)
    for each in (training, waiting):
        each.report()
    question = await called(book)
    waiting.rows("waiting")
    for each in (training, waiting):
        each.stop()
        assert each.rows()[-1]["outcome"] == "stopped"
    reply = await book.reply(asked)
    assert isinstance(reply, Reply) and reply.result == {"outcome": "stopped"}
    while ("cancel", {"id": question.id}) not in book.said:
        await book.step()
    assert "can't be averaged" not in "".join(book.node.said)


@shared
async def test_the_next_round_calls_it_again(book: Notebook) -> None:
    training = Training(book.node, reports=1, num_cycles=3)
    asked = await offer(book, training)
    for _ in range(3):
        training.report()
        await give(book, await called(book), np.ones(SIZE, np.float32))
    await book.reply(asked)
    assert (training.model()["w"] == -3).all()


@live
async def test_w12_offers_are_the_owners(node: NodeUnderTest) -> None:
    """Of the training, and of the node; a token needs its scopes."""
    ada, bob = node.add_user("ada of rules"), node.add_user("bob of rules")
    training = Training(node, ada)
    narrow = node.add_user("eve of rules", scopes=["run"])
    form = {"name": training.name, "version": "1.0", "role": "strategy", "function": encode(Callable("f"), [])}
    for token, code in ((bob, "FORBIDDEN"), (narrow, "FORBIDDEN")):
        book = Notebook(node, authorization=f"Bearer {token}")
        await book.open()
        assert (await book.refused(await book.send("offer_function", form)))["code"] == code
        await book.cut()
    for token in (ada, None):
        book = Notebook(node, **({"authorization": f"Bearer {token}"} if token else {}))
        await book.open()
        await offer(book, training)
        await book.cut()
    training.stop()


@live
async def test_what_cannot_be_offered(node: NodeUnderTest) -> None:
    book = Notebook(node)
    await book.open()

    async def refused(**wish: Any) -> dict[str, Any]:
        form = {"name": "x", "version": "1.0", "role": "strategy", "function": encode(Callable("f"), []), **wish}
        return await book.refused(await book.send("offer_function", form))

    plain, over = Training(node, strategy="fedavg"), Training(node)
    over.stop()
    assert (await refused(name="nothing"))["code"] == "NOT_FOUND"
    said = await refused(name=plain.name)
    assert said["code"] == "BAD_CONFIG" and "averages by 'fedavg'" in said["exception"]
    assert (await refused(name=over.name))["code"] == "TRAINING_OVER"
    assert (await refused(function="f"))["code"] == "BAD_REQUEST"
    plain.stop()
    await book.cut()


@pytest.mark.parametrize("limit", ["run_memory=200", "run_results=31"])
def test_reports_that_are_too_large_are_refused_beforehand(tmp_path: Any, limit: str) -> None:
    node = NodeUnderTest(tmp_path / "data", f"--limit={limit}")
    server = {"strategy": "notebook function mine", "num_cycles": 1, "min_diffs": 2, "max_diffs": 2}
    with node.http() as http:
        refused = http.post("/model-centric/host-training", files=host_files(tiny_plan(), server, "large"))
        assert (refused.status_code, refused.json()["code"]) == (413, "TOO_LARGE"), refused.text
        assert "strategy=gk.averaging_plan(" in refused.text
        assert http.get("/model-centric/processes").json()["processes"] == []
    assert node.files() == {} and node.terminate() == 0
