"""C10: computations that never end, take all memory or kill their process: the child dies of it, the node doesn't."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch

from gridkit.errors import ErrorCode, GridkitError
from gridkit.node.runner import Runner
from gridkit.node.settings import MIB, Limits
from gridkit.plans.plan import Input, Node, Output, Plan, Ref
from gridkit.wire.model import pack_model
from tests.models import Hosted, digits, endless, hosted, packed, unpacked
from tests.support import NodeUnderTest, wait_for

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc, which only Linux has"),
]

X = torch.randn(2, 64)


@pytest.fixture(scope="module")
def model() -> Hosted:
    return hosted(digits(), torch.zeros(1, 64))


def running(scenario: Callable[[Runner], Awaitable[Any]], limits: Limits) -> None:
    async def main() -> None:
        runner = Runner(limits)
        try:
            await scenario(runner)
        finally:
            await runner.close()

    asyncio.run(main())


async def infer(runner: Runner, model: Hosted, x: torch.Tensor = X) -> torch.Tensor:
    return unpacked(await runner.infer(model.digest, model.open, packed(x)))[0]


def slow_model() -> Hosted:
    """A model that takes minutes for one kind of input: each product is of the size of the batch."""
    nodes = [Node("aten.t.default", (Ref(0),), (), (1,)), Node("aten.mm.default", (Ref(0), Ref(1)), (), (2,))]
    nodes += [Node("aten.mm.default", (Ref(i), Ref(i)), (), (i + 1,)) for i in range(2, 3_000)]
    plan = Plan(
        "slow", (Input(0, "x", "arg", "float32", ("B", 2)),), (Output(3_000, "result", "result"),), tuple(nodes)
    )
    return Hosted(pack_model(plan.to_bytes(), {}).tobytes(), "slow")


def test_c10_an_endless_plan_is_ended_and_others_go_on(model: Hosted) -> None:
    """While it runs, models answer, and this process has time for everything else."""

    async def scenario(runner: Runner) -> None:
        await infer(runner, model)
        plan = asyncio.ensure_future(runner.run_plan(endless().to_bytes(), io.BytesIO(packed(torch.zeros(1500, 1500)))))
        second = asyncio.ensure_future(runner.run_plan(endless(2).to_bytes(), io.BytesIO(packed(torch.ones(2, 2)))))
        while len(runner.pids) < 2 and not plan.done():
            assert (await infer(runner, model)).shape == (2, 10)
            await asyncio.sleep(0.01)
        for _ in range(20):
            assert (await infer(runner, model)).shape == (2, 10)
        assert not plan.done() and not second.done()  # plans never take the last place
        with pytest.raises(GridkitError) as caught:
            await plan
        assert (caught.value.code, getattr(caught.value, "status", 0)) == (ErrorCode.TIMED_OUT, 504)
        assert unpacked(await second)[0].shape == (2, 2)  # and its turn comes
        assert (await infer(runner, model)).shape == (2, 10)

    running(scenario, Limits(run_seconds=3))


def test_c10_who_shared_the_child_is_answered(model: Hosted) -> None:
    """Of many that were handed over together, only the one that takes for ever fails."""
    slow = slow_model()

    async def scenario(runner: Runner) -> None:
        sizes = (1, 1500, 3)
        xs = [torch.full((size, 2), 0.5) for size in sizes]
        results = await asyncio.gather(*(infer(runner, slow, x) for x in xs), return_exceptions=True)
        failed = [getattr(r, "code", None) for r in results]
        assert failed == [None, ErrorCode.TIMED_OUT, None]
        assert [tuple(r.shape) for r in results if isinstance(r, torch.Tensor)] == [(n, n) for n in (1, 3)]

    running(scenario, Limits(run_seconds=2))


def test_c10_a_child_that_dies_is_replaced(model: Hosted) -> None:
    """As by os._exit, a kernel's fault, or the system's killer for want of memory."""

    async def scenario(runner: Runner) -> None:
        before = await infer(runner, model)
        (pid,) = runner.pids
        os.kill(pid, signal.SIGKILL)  # idle: nobody learns of it
        assert torch.equal(await infer(runner, model), before)
        assert runner.pids != [pid]
        data = io.BytesIO(packed(torch.zeros(1500, 1500)))
        plan = asyncio.ensure_future(runner.run_plan(endless().to_bytes(), data))
        killed = set()
        while not plan.done():  # busy: it is tried a second time, and no third one
            for lane in runner._lanes:
                if lane.busy and lane.child:
                    killed.add(lane.child.pid)
                    os.kill(lane.child.pid, signal.SIGSEGV)
            await asyncio.sleep(0.01)
        assert plan.exception().code is ErrorCode.RUN_FAILED and len(killed) == 2  # type: ignore[union-attr]
        assert torch.equal(await infer(runner, model), before)

    running(scenario, Limits())


def test_c10_memory_is_limited_by_the_system_too(model: Hosted) -> None:
    """What the dry run can't foresee ends at the address space; the next computation is all right."""
    limits = Limits(run_memory=96 * MIB)
    plan = Plan("same", (Input(0, "x", "arg", "float32", ("B",)),), (Output(0, "result", "result"),), ())
    same = Hosted(pack_model(plan.to_bytes(), {}).tobytes(), "same")
    large = torch.zeros(47 * MIB // 4)  # within the half that a run may have; but it is there as a frame, a tensor, …

    async def scenario(runner: Runner) -> None:
        await infer(runner, model)
        (pid,) = runner.pids
        row = next(line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "address space" in line)
        used = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmSize"))
        allowed = int(row.split()[3])
        assert 0 < allowed - int(used.split()[1]) * 1024 <= limits.run_memory
        with pytest.raises(GridkitError) as caught:
            await infer(runner, same, large)
        assert caught.value.code in (ErrorCode.OUT_OF_MEMORY, ErrorCode.RUN_FAILED)
        assert (await infer(runner, model)).shape == (2, 10)

    running(scenario, limits)


def test_c10_what_asks_for_too_much_is_refused_before(model: Hosted) -> None:
    nodes = (Node("aten.t.default", (Ref(0),), (), (1,)), Node("aten.mm.default", (Ref(0), Ref(1)), (), (2,)))
    plan = Plan("square", (Input(0, "x", "arg", "float32", ("B", 1)),), (Output(2, "result", "result"),), nodes)

    async def scenario(runner: Runner) -> None:
        await infer(runner, model)
        pids = runner.pids
        with pytest.raises(GridkitError, match="are allowed") as caught:
            await runner.run_plan(plan.to_bytes(), io.BytesIO(packed(torch.ones(100_000, 1))))
        assert (caught.value.code, getattr(caught.value, "status", 0)) == (ErrorCode.OUT_OF_MEMORY, 507)
        with pytest.raises(GridkitError, match="results") as caught:
            await runner.run_plan(plan.to_bytes(), io.BytesIO(packed(torch.ones(1000, 1))))
        assert (caught.value.code, getattr(caught.value, "status", 0)) == (ErrorCode.TOO_LARGE, 413)
        assert runner.pids == pids

    running(scenario, Limits(run_results=MIB))


NODE = """
    import asyncio, io, os, sys
    from gridkit.node.runner import Runner
    from gridkit.node.settings import Limits

    async def main():
        runner = Runner(Limits())
        data = os.fdopen(int(sys.argv[1]), "rb")
        task = asyncio.ensure_future(runner.run_plan(sys.stdin.buffer.read(), data))
        while not runner.pids:
            await asyncio.sleep(0.01)
        print(runner.pids[0], flush=True)
        await task

    asyncio.run(main())
"""


def test_c10_no_child_outlives_its_node(tmp_path: Path) -> None:
    """Killed in the middle of a computation."""
    (tmp_path / "data").write_bytes(packed(torch.zeros(1500, 1500)))
    with open(tmp_path / "data", "rb") as file:
        node = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(NODE), str(file.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[file.fileno()],
        )
        assert node.stdin is not None and node.stdout is not None
        node.stdin.write(endless().to_bytes())
        node.stdin.close()
        pid = int(node.stdout.readline())
    stat = Path(f"/proc/{pid}/stat")

    def seconds_of_computing() -> float:
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    start = seconds_of_computing()
    wait_for(lambda: seconds_of_computing() > start + 0.3, what="the child's computation")
    node.kill()
    node.wait(10)
    node.stdout.close()
    wait_for(lambda: not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z", what="the child's end")


def test_c10_the_node_itself_has_no_torch() -> None:
    """Nor any way to it: importing the runner's side of the node loads none."""
    code = "import sys, gridkit.node.runner; sys.exit('torch' in sys.modules or 'gridkit.runner' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_c10_the_node_answers_meanwhile(tmp_path: Path, model: Hosted) -> None:
    """A real node, over HTTP: an endless inference until its time is over."""
    node = NodeUnderTest(tmp_path / "data", "--limit", "run_seconds=5")
    try:
        with node.http() as http, ThreadPoolExecutor(1) as pool:
            for name, hosted_model in (("digits", model), ("slow", slow_model())):
                form = {"model_id": name, "allow_download": "True", "allow_remote_inference": "True"}
                files = {"model": (name, hosted_model.data)}
                http.post("/serve-model/", data=form, files=files).raise_for_status()
            assert psutil.Process(node.process.pid).children() == []  # hosting runs nothing
            before = http.post("/run-inference/digits", content=packed(X)).raise_for_status().content
            large = packed(torch.ones(1500, 2))
            slow = pool.submit(httpx.Client.post, http, "/run-inference/slow", content=large, timeout=60)
            seen = 0
            while not slow.done():
                assert http.get("/status/").status_code == 200
                assert http.post("/run-inference/digits", content=packed(X)).raise_for_status().content == before
                seen += not slow.done()
            assert seen
            failed = slow.result(60)
            assert (failed.status_code, failed.json()["code"]) == (504, "TIMED_OUT")
            assert http.get("/status/").status_code == 200
            assert http.post("/run-inference/digits", content=packed(X)).raise_for_status().content == before
    finally:
        node.terminate()
