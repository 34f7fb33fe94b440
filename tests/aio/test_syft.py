"""`gk.aio.Syft`: the order of requests, awaited handlers, the built-in loop next to gridkit's own workers."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gridkit as gk
from gridkit.client import job
from gridkit.errors import GridkitError, PlanError, UsageError
from gridkit.wire.state import read_state
from gridkit.workers.local import train_client
from tests.support import TOKEN, NodeUnderTest
from tests.training import mlp, plan_of, shards

DATA = shards(3)
X, Y = DATA[0]
MODEL = mlp()
MOMENTUM = plan_of(MODEL, DATA, momentum=0.9)
CONFIG = {"batch_size": 8, "lr": 0.1, "seed": 3, "max_epochs": 2}
STATE = {name: value.numpy() for name, value in MODEL.state_dict().items()}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data")
    yield node
    node.terminate()


@pytest.fixture(params=["http", "ws"])
def url(node: NodeUnderTest, request: pytest.FixtureRequest) -> str:
    return node.url.replace("http", request.param)


async def hosted(node: NodeUnderTest, name: str, plan: Any = MOMENTUM, config: Any = None, **server: Any) -> Any:
    rules = {"num_cycles": 1, "min_diffs": 1, "max_diffs": 1, **server}
    async with await gk.aio.connect(node.url, token=TOKEN) as grid:
        return await grid.host_training(MODEL, plan, name=name, client_config=config or CONFIG, server_config=rules)


async def accepted(client: gk.aio.Syft, process: Any) -> gk.aio.Job:
    job = await client.new_job(process.name, process.version, process.worker_token)
    await job.start()
    assert job.model is not None
    return job


def expected(**changes: Any) -> Any:
    options = {"batch_size": 8, "lr": 0.1, "seed": 3, "epochs": 2, "round": 1, "slot": 0, **changes}
    return train_client(MOMENTUM, STATE, X, Y, **options)


def test_the_order_of_requests_is_the_originals(node: NodeUnderTest, url: str, monkeypatch: Any) -> None:
    from gridkit.client.job_socket import JobSocket
    from gridkit.client.link import Link

    asked: list[str] = []
    send, ask = Link.send, JobSocket.ask

    async def sent(self: Link, method: str, path: str, **kwargs: Any) -> Any:
        asked.append(f"{method} {path.removeprefix('/model-centric/')}")
        return await send(self, method, path, **kwargs)

    async def told(self: JobSocket, type: str, data: dict[str, Any]) -> dict[str, Any]:
        asked.append(f"POST {type.removeprefix('model-centric/')}")
        return await ask(self, type, data)

    async def main() -> None:
        process = await hosted(node, f"order {url}")
        monkeypatch.setattr(Link, "send", sent)
        monkeypatch.setattr(JobSocket, "ask", told)
        async with gk.aio.Syft(url) as client:
            job = await client.newJob(process.name, process.version, process.worker_token)
            assert asked == ["POST authenticate"]
            await job.start()
            await job.report(await job.train(X, Y))

    asyncio.run(main())
    assert asked[1:] == ["POST cycle-request", "GET get-model", "GET get-plan", "POST report"]


def test_the_loop_of_the_seed_awaits_everything(node: NodeUnderTest, url: str) -> None:
    one_hot = np.eye(4, dtype=np.float32)[Y]

    async def main() -> tuple[list[str], list[str]]:
        process = await hosted(node, f"seed {url}", plan_of(MODEL, DATA))
        done: list[str] = []
        async with gk.aio.Syft(url, auth_token=process.worker_token) as client:
            job = await client.new_job(process.name, process.version)

            @job.on("accepted")
            async def work(payload: Any) -> None:
                plan = payload.job.plans["training_plan"]
                _, _, *params = await plan.execute(job.worker, X, one_hot, len(X), 0.1, *payload.model.params)
                await job.report(await payload.model.createSerializedDiff(params))
                done.append("reported")

            @job.on("accepted")
            def after(payload: Any) -> None:
                done.append("second")

            await job.start()
            return done, [row["outcome"] for row in await rows(node, process)]

    assert asyncio.run(main())[0] == ["reported", "second"]


async def rows(node: NodeUnderTest, process: Any) -> list[dict[str, Any]]:
    async with await gk.aio.connect(node.url, token=TOKEN) as grid:
        return [row for row in await grid.processes() if row["name"] == process.name]


def test_train_has_the_bits_of_gridkits_own_workers(node: NodeUnderTest, url: str) -> None:
    async def main() -> None:
        process = await hosted(node, f"bits {url}")
        async with gk.aio.Syft(url) as client:
            job = await accepted(client, process)
            trained = await job.train(torch.tensor(X), torch.tensor(Y))
            want = expected()
            assert trained.finished and trained.samples == 21 and trained.step == trained.steps == want.updates == 6
            assert trained.metrics == want.metrics
            got = read_state(trained.diff)
            assert list(got) == list(want.diff) and all(np.array_equal(got[k], want.diff[k]) for k in got)
            assert trained.diff == await job.model.create_serialized_diff(trained.params)
            other = await job.train(X, Y, epochs=1, batch_size=5, lr=0.01, seed=9)
            want = expected(epochs=1, batch_size=5, lr=0.01, seed=9)
            assert all(np.array_equal(a, want.diff[k]) for k, a in read_state(other.diff).items())
            assert (await job.train(X, Y, steps=5)).steps == 5  # as many epochs as they take
            assert (await job.train(X, Y, steps=50)).steps == 50
            await job.report(trained)
        (row,) = await rows(node, process)
        assert row["name"] == process.name

    asyncio.run(main())


@pytest.mark.parametrize("limit", [job.TEXT_LIMIT, 1000], ids=["text", "octets"])
def test_a_report_finds_its_way_through_a_new_socket(
    node: NodeUnderTest, url: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node takes only small messages from a socket that hasn't said who it is; a worker is no socket."""
    monkeypatch.setattr(job, "TEXT_LIMIT", limit)
    model = torch.nn.Sequential(torch.nn.Linear(12, 3000), torch.nn.ReLU(), torch.nn.Linear(3000, 4))
    plan = plan_of(model, DATA)

    async def main() -> None:
        name = f"large {url} {limit}"
        async with await gk.aio.connect(node.url, token=TOKEN) as grid:
            rules = {"num_cycles": 1, "min_diffs": 1, "max_diffs": 1}
            process = await grid.host_training(model, plan, name=name, client_config=CONFIG, server_config=rules)
            async with gk.aio.Syft(url) as client:
                work = await accepted(client, process)
                trained = await work.train(X, Y)
                assert len(trained.diff) > 64 * 1024
                if client._socket is not None:
                    await client._socket.close()
                    while client._socket.is_open:
                        await asyncio.sleep(0.01)
                await work.report(trained)
            await process.run
            (row,) = process.run.reports.to_dict("records")
            assert row["samples"] == 21 and row["loss"] == pytest.approx(trained.metrics["loss"])

    asyncio.run(main())


# ---- stop, progress, resume


def test_progress_comes_in_the_callers_context_and_its_errors_are_raised(node: NodeUnderTest) -> None:
    where = contextvars.ContextVar("where", default="elsewhere")

    async def main() -> None:
        process = await hosted(node, "progress")
        async with gk.aio.Syft(node.url) as client:
            job = await accepted(client, process)
            where.set("here")
            seen: list[tuple[Any, str, bool]] = []
            here = threading.current_thread()
            await job.train(
                X, Y, on_progress=lambda p: seen.append((p, where.get(), threading.current_thread() is here))
            )
            assert [p.step for p, *_ in seen] == [1, 2, 3, 4, 5, 6] and {p.steps for p, *_ in seen} == {6}
            assert {(place, same) for _, place, same in seen} == {("here", False)}
            assert all(0 < p.loss < 5 for p, *_ in seen)
            with pytest.raises(ZeroDivisionError):
                await job.train(X, Y, on_progress=lambda p: 1 // 0)

            async def wrong(progress: Any) -> None: ...

            with pytest.raises(UsageError, match="coroutine"):
                await job.train(X, Y, on_progress=wrong)
            for bad in ({"epochs": 0}, {"batch_size": 0}, {"lr": -1.0}, {"plan": "no such"}, {"steps": 0}):
                with pytest.raises(GridkitError):
                    await job.train(X, Y, **bad)
            with pytest.raises(UsageError):
                await job.train(X, Y[:-1])
            with pytest.raises(UsageError, match="label 9"):
                await job.train(X, np.full(len(Y), 9))

    asyncio.run(main())


def test_a_stopped_training_goes_on_from_its_checkpoint(node: NodeUnderTest, url: str, tmp_path: Path) -> None:
    path = tmp_path / "left.safetensors"

    async def main() -> None:
        process = await hosted(node, f"stop {url}")
        async with gk.aio.Syft(url) as client:
            job = await accepted(client, process)
            for until in (2, 5):
                half = await job.train(
                    X, Y, checkpoint=path, on_progress=lambda p, until=until: p.step == until and job.stop()
                )
                assert (half.step, half.finished) == (until, False)
                with pytest.raises(UsageError, match=f"stopped after {until} of 6"):
                    await job.report(half)
            assert path.stat().st_mode & 0o777 == 0o600 and list(tmp_path.iterdir()) == [path]
            seen: list[int] = []
            whole = await job.train(X, Y, checkpoint=path, on_progress=lambda p: seen.append(p.step))
            assert seen == [6]
            undisturbed = await job.train(X, Y)
            assert whole.diff == undisturbed.diff and whole.metrics == undisturbed.metrics
            again = await job.train(X, Y, checkpoint=path, on_progress=lambda p: seen.append(p.step))
            assert seen == [6] and again.diff == whole.diff  # it had ended
            with pytest.raises(UsageError, match="differs in batch_size"):
                await job.train(X, Y, batch_size=4, checkpoint=path)
            with pytest.raises(UsageError, match="differs in data"):
                await job.train(X + 1, Y, checkpoint=path)
            await job.report(whole)
            assert not path.exists()

    asyncio.run(main())


def test_a_checkpoint_of_an_earlier_cycle_is_replaced(node: NodeUnderTest, tmp_path: Path) -> None:
    path = tmp_path / "left"

    async def main() -> None:
        process = await hosted(node, "earlier", num_cycles=2)
        async with gk.aio.Syft(node.url) as client:
            job = await accepted(client, process)
            await job.train(X, Y, checkpoint=path, on_progress=lambda p: p.step == 4 and job.stop())
            old = await job.train(X, Y)
            await job.report(old)
            while job._cycle.sequence == 1:  # type: ignore[union-attr]
                await job.start()
            seen: list[int] = []
            new = await job.train(X, Y, checkpoint=path, on_progress=lambda p: seen.append(p.step))
            assert seen == [1, 2, 3, 4, 5, 6] and new.cycle == 2
            with pytest.raises(UsageError, match="another cycle"):
                await job.report(old)
            await job.report(new)
        other = await hosted(node, "another training")
        async with gk.aio.Syft(node.url) as client:
            job = await accepted(client, other)
            path.write_bytes(b"\x80\x04no pickle is ever read")
            with pytest.raises(UsageError, match="no checkpoint"):
                await job.train(X, Y, checkpoint=path)

    asyncio.run(main())


KILLED = """
import asyncio, os, signal, sys
sys.path.insert(0, {root!r})
import gridkit as gk
from tests.aio.test_syft import X, Y
async def main():
    async with gk.aio.Syft({url!r}) as client:
        job = await client.new_job("killed", "1.0", {token!r})
        print(job.worker_id, flush=True)
        await job.start()
        def die(progress):
            if progress.step == 5:
                os.kill(os.getpid(), signal.SIGKILL)
        await job.train(X, Y, checkpoint={path!r}, save_every=0.0, on_progress=die)
asyncio.run(main())
"""


def test_a_killed_worker_is_the_same_again_and_gives_the_same_diff(node: NodeUnderTest, tmp_path: Path) -> None:
    path = tmp_path / "left"

    async def main() -> None:
        process = await hosted(node, "killed")
        root = str(Path(__file__).resolve().parents[2])
        code = KILLED.format(root=root, url=node.url, token=process.worker_token, path=str(path))
        died = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True)
        assert died.returncode == -9, died.stderr
        async with gk.aio.Syft(node.url, auth_token=process.worker_token) as client:
            job = await client.new_job("killed", "1.0", worker_id=died.stdout.strip())
            await job.start()
            seen: list[int] = []
            trained = await job.train(X, Y, checkpoint=path, on_progress=lambda p: seen.append(p.step))
            assert seen == [5, 6]
            want = expected().diff
            assert all(np.array_equal(a, want[k]) for k, a in read_state(trained.diff).items())
            await job.report(trained)

    asyncio.run(main())


def test_a_cancelled_training_ends_after_its_step(node: NodeUnderTest, tmp_path: Path) -> None:
    path = tmp_path / "left"

    async def main() -> None:
        process = await hosted(node, "cancelled", config={**CONFIG, "max_epochs": 10_000})
        async with gk.aio.Syft(node.url) as client:
            job = await accepted(client, process)
            steps: list[int] = []
            task = asyncio.create_task(
                job.train(X, Y, checkpoint=path, on_progress=lambda p: (steps.append(p.step), time.sleep(0.001)))
            )
            while len(steps) < 3:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # The next one waits for the thread of the one before, which has left its checkpoint
            more = await job.train(X, Y, checkpoint=path, on_progress=lambda p: job.stop())
            assert more.step == steps[-1] + 1

    asyncio.run(main())


def test_a_plan_with_optimiser_state_says_so_when_executed(node: NodeUnderTest) -> None:
    async def main() -> None:
        process = await hosted(node, "momentum")
        async with gk.aio.Syft(node.url) as client:
            job = await accepted(client, process)
            with pytest.raises(PlanError, match="keeps"):
                await job.plans["training_plan"].execute(job.worker, X, X, 8, 0.1, *job.model.params)

    asyncio.run(main())
