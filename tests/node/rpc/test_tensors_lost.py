"""The process of a session's tensors ends: by a signal, by its limits, or because its place is needed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridkit.wire.rpc.messages import Failure
from tests.node.rpc.ends import live
from tests.node.rpc.tensors import Notebook
from tests.support import NodeUnderTest

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    """A node with one process for tensors, and little patience."""
    limits = ("rpc_runners=1", "run_seconds=1", "rpc_tensors=60")
    node = NodeUnderTest(tmp_path_factory.mktemp("small") / "data", *(f"--limit={limit}" for limit in limits))
    yield node
    assert node.terminate() == 0
    assert "Traceback" not in "".join(node.said), "".join(node.said)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


@live
async def test_w2_all_is_lost_and_that_is_said(small: NodeUnderTest) -> None:
    """It is killed while a pass and others wait: each is answered, the notebook is told, and the next one begins
    anew. A second session has to wait for the place, gets it when nothing is in there, and all ends with the node."""
    book, other = await Notebook(small).open(), await Notebook(small).open()
    await book.reply(await book.tensor("x", [1.0, 2.0], requires_grad=True))
    assert (await other.refused(await other.tensor("x", [1.0])))["code"] == "TOO_MANY"
    (pid,) = children(small.process.pid)
    os.kill(pid, signal.SIGSTOP)  # so that it can't be done in time
    await book.run("torch.Tensor.prod", ["x"], "y")
    asked = [await book.backward("y"), await book.run("torch.Tensor.add", ["x", 1], "z")]
    os.kill(pid, signal.SIGKILL)
    for each in asked:
        assert (await book.refused(each))["code"] == "RUN_FAILED"
    log, over = (next(params for method, params in book.said if method == name) for name in ("log", "clear_backward"))
    assert log["level"] == "warning" and "lost" in log["text"]
    assert over["status"] == "failed" and "ended" in over["reason"]
    refusal = await book.refused(await book.ask("get_variable", variable_id="x"))
    assert refusal["code"] == "NOT_FOUND" and "lost" in refusal["hint"]

    assert (await other.do("seed", seed=1)) == {}  # the process had nothing
    (later,) = children(small.process.pid)
    await other.reply(await other.tensor("x", [1.0, 2.0], requires_grad=True))
    # S7: more than a session may have
    refusal = {}
    for number in range(60):
        reply = await other.reply(await other.run("torch.Tensor.add", ["x", 1], f"y{number}"))
        if isinstance(reply, Failure):
            refusal = reply.data
            break
    assert refusal["code"] == "TOO_MANY"
    await slow(other)
    while not gone(later):
        await asyncio.sleep(0.05)


async def slow(book: Notebook) -> None:
    """R10: a single operation that takes too long is ended with its process."""
    await book.do("delete_variables", variable_ids=[f"y{number}" for number in range(60)])
    await book.reply(await book.run("torch.rand", [6000, 6000], "a"))
    refusal = await book.refused(await book.run("torch.linalg.svdvals", ["a"], "u"))
    assert refusal["code"] == "TIMED_OUT"
