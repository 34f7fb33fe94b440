"""`gk.Syft`, `gk.Job`, `gk.SyftModel`: names, events, errors and reports, on a real node, over both transports."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gridkit as gk
from gridkit.errors import AccessError, ConflictError, ErrorCode, NodeError, NodeUnreachable, NotFoundError, UsageError
from gridkit.wire.state import pack_state, read_state
from tests.support import TOKEN, NodeUnderTest, wait_for
from tests.training import CLASSES, mlp, plan_of, shards

DATA = shards(3)
X, Y = DATA[0]
ONE_HOT = np.eye(CLASSES, dtype=np.float32)[Y]
MODEL = mlp()
PLAN = plan_of(MODEL, DATA)
CONFIG = {"batch_size": 8, "lr": 0.1, "seed": 3}

Host = Callable[..., Any]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data")
    yield node
    node.terminate()


@pytest.fixture(scope="module")
def grid(node: NodeUnderTest) -> Iterator[gk.Session]:
    with gk.connect(node.url, token=TOKEN) as grid:
        yield grid


@pytest.fixture
def host(grid: gk.Session, request: pytest.FixtureRequest) -> Host:
    """`host(**server_config)`: a training named after the test, and `name`."""

    def host(*, name: str = "", **server: Any) -> Any:
        rules = {"num_cycles": 1, "min_diffs": 1, "max_diffs": 1, **server}
        name = request.node.name[:150] + name
        return grid.host_training(MODEL, PLAN, name=name, client_config=CONFIG, server_config=rules)

    return host


@pytest.fixture(params=["http", "ws"])
def client(node: NodeUnderTest, request: pytest.FixtureRequest) -> Iterator[gk.Syft]:
    with gk.Syft(node.url.replace("http", request.param)) as client:
        yield client


def job_of(client: gk.Syft, process: Any, **options: Any) -> gk.Job:
    return client.new_job(process.name, process.version, process.worker_token, **options)


def events_of(job: gk.Job) -> list[tuple[str, Any]]:
    seen: list[tuple[str, Any]] = []
    for event in ("accepted", "rejected", "error"):
        job.on(event, lambda payload, event=event: seen.append((event, payload)))
    return seen


def by_hand(state: dict[str, np.ndarray], lr: float, batch: slice) -> dict[str, np.ndarray]:
    """One step of plain torch: the parameters after it."""
    model = mlp()
    model.load_state_dict({name: torch.tensor(array) for name, array in state.items()})
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    torch.nn.functional.cross_entropy(model(torch.tensor(X[batch])), torch.tensor(Y[batch])).backward()
    optimizer.step()
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def test_it_has_the_seeds_names_and_arguments() -> None:
    for face in (gk, gk.aio):
        wanted = {
            face.Syft: "url verbose auth_token peer_config",
            face.Syft.newJob: "modelName modelVersion",
            face.Job.on: "event handler",
            face.Job.start: "",
            face.Job.report: "diff",
            face.SyftModel.createSerializedDiff: "updated_model_params",
        }
        for function, names in wanted.items():
            found = [name for name in inspect.signature(function).parameters if name != "self"]
            assert found[: len(names.split())] == names.split(), function
        for owner, old, new in (
            (face.Job, "modelName", "model_name"),
            (face.Job, "modelVersion", "model_version"),
            (face.SyftModel, "createSerializedDiff", "create_serialized_diff"),
            (face.Syft, "newJob", "new_job"),
        ):
            assert hasattr(owner, old) and hasattr(owner, new)
    assert list(inspect.signature(gk.Plan.execute).parameters) == ["self", "worker", "data"]


def test_the_loop_of_the_seed(client: gk.Syft, host: Host, grid: gk.Session) -> None:
    process = host(num_cycles=2)
    job = client.newJob(modelName=process.name, modelVersion=process.version, authToken=process.worker_token)
    assert (job.modelName, job.modelVersion, job.model, job.plans, job.protocols) == (process.name, "1.0", None, {}, {})
    seen = []

    def accepted(payload: Any) -> None:
        model, config = payload.model, payload.clientConfig
        assert payload.job is job and job.model is model and job.worker is client
        assert config == job.clientConfig and config["batch_size"] == 8
        params = model.params
        for start in range(0, 16, 8):
            batch = slice(start, start + 8)
            loss, accuracy, *params = job.plans["training_plan"].execute(
                job.worker, X[batch], ONE_HOT[batch], config["batch_size"], config["lr"], *params
            )
        assert loss.shape == accuracy.shape == () and 0 <= float(accuracy) <= 1
        seen.append((payload.cycle, [p.numpy().copy() for p in params]))
        job.report(model.createSerializedDiff(params))

    job.on("accepted", accepted)
    expected = {name: value.numpy() for name, value in MODEL.state_dict().items()}
    for cycle in (1, 2):
        wait_for(
            lambda cycle=cycle: job.start() or len(seen) == cycle, what="the cycle"
        )  # the one before may be closing
        for start in range(0, 16, 8):
            expected = by_hand(expected, 0.1, slice(start, start + 8))
        assert seen[-1][0] == cycle
        for got, want in zip(seen[-1][1], expected.values(), strict=True):
            np.testing.assert_allclose(got, want, atol=1e-6)
    process.run.wait()
    for name, tensor in process.run.model.state_dict().items():
        np.testing.assert_allclose(tensor, expected[name], atol=1e-6)


def test_a_mixed_cycle_is_that_of_gridkits_own_workers(node: NodeUnderTest, host: Host, grid: gk.Session) -> None:
    """Two jobs, one a transport, and two workers of `grid.join` in one cycle: bit for bit what simulate gives."""
    data = shards(4)
    process = host(num_cycles=1, min_diffs=4, max_diffs=4, weighting="equal")
    with gk.Syft(node.url) as one, gk.Syft(node.url.replace("http", "ws")) as two:
        jobs = [job_of(one, process), job_of(two, process)]
        run = grid.join(process.name, clients=data[2:], processes=1)
        for job, (x, y) in zip(jobs, data, strict=False):
            job.start()
            job.report(job.train(x, y))
        process.run.wait()
    settings = {"rounds": 1, "batch_size": 8, "lr": 0.1, "seed": 3, "weighting": "equal"}
    wanted = gk.simulate(MODEL, PLAN, clients=data, **settings)
    wanted.wait()
    for got, want in zip(process.run.model.state_dict().values(), wanted.model.state_dict().values(), strict=True):
        assert torch.equal(got, want)
    assert len(run.reports) == 4


def test_a_rejection_says_why_and_when_to_come_back(client: gk.Syft, host: Host) -> None:
    process = host(max_workers=1)
    first = job_of(client, process)
    seen = events_of(first)
    first.start()
    with gk.Syft(client.url, auth_token=process.worker_token) as other:
        second = other.new_job(process.name, process.version)
        told = events_of(second)
        second.start()
        first.report(first.train(X, Y))
        wait_for(lambda: second.start() or told[-1][1].timeout is None, what="the end of the training")
    assert [event for event, _ in seen] == ["accepted"]
    assert {event for event, _ in told} == {"rejected"}
    full, over = told[0][1], told[-1][1]
    assert full.code == ErrorCode.CYCLE_FULL and full.reason and full.timeout > 0 and full.job is second
    assert (over.code, over.timeout, over.reason) == (ErrorCode.TRAINING_OVER, None, "the training is over")


def test_every_rule_of_the_node_reaches_a_job(client: gk.Syft, host: Host) -> None:
    def turn(job: gk.Job) -> tuple[str, Any]:
        told: list[tuple[str, Any]] = []
        for event in ("accepted", "rejected"):
            job._core._handlers[event] = [lambda payload, event=event: told.append((event, payload))]
        job.start()
        (one,) = told
        return one

    def work(job: gk.Job) -> None:
        wait_for(lambda: turn(job)[0] == "accepted", what="the work")
        job.report(job.train(X, Y))

    process = host(min_workers=2, max_diffs=2, min_diffs=2)
    with gk.Syft(client.url, auth_token=process.worker_token) as other:
        one, two = job_of(client, process), other.new_job(process.name, process.version)
        event, few = turn(one)
        assert (event, few.code) == ("rejected", ErrorCode.TOO_FEW_WORKERS) and "1 of 2" in few.reason
        assert few.timeout > 0 and turn(two)[0] == turn(one)[0] == "accepted"

    process = host(name=" drawn", pool_selection="random", selection_length=0.2)
    job = job_of(client, process)
    event, drawn = turn(job)
    assert (event, drawn.code) == ("rejected", ErrorCode.IN_DRAW) and 0 < drawn.timeout <= 0.21
    time.sleep(drawn.timeout)
    work(job)

    process = host(name=" cooled", num_cycles=3, do_not_reuse_workers_until_cycle=2)
    job = job_of(client, process)
    work(job)
    cooling = wait_for(lambda: (told := turn(job)[1]).code == ErrorCode.COOLING_DOWN and told, what="the second cycle")
    assert "cycle 3" in cooling.reason and cooling.timeout > 0


def test_a_client_that_nobody_holds_is_closed(node: NodeUnderTest, host: Host) -> None:
    process = host()
    client = gk.Syft(node.url.replace("http", "ws"), auth_token=process.worker_token)
    job = client.new_job(process.name, process.version)
    job.on("accepted", lambda accepted: accepted.job.report(accepted.job.train(X, Y)))
    socket = client._core._socket
    assert socket is not None and socket.is_open
    del client
    job.start()  # a job holds its client
    del job
    gc.collect()
    wait_for(lambda: not socket.is_open, what="the end of the socket")


def test_a_failing_handler_becomes_an_error_event(client: gk.Syft, host: Host) -> None:
    job = job_of(client, host())

    async def later(payload: Any) -> None:
        raise ValueError("my own mistake")

    job.on("accepted", later)
    with pytest.raises(ValueError, match="my own mistake"):
        job.start()  # nobody listens: never lost
    seen: list[Any] = []
    job.on("error", seen.append)
    job.start()
    assert [str(error) for error in seen] == ["my own mistake"]
    job.on("error", lambda error: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        job.start()
    assert len(seen) == 2


def test_handlers_run_in_order_on_the_callers_thread_and_are_awaited(client: gk.Syft, host: Host) -> None:
    job = job_of(client, host())
    order: list[Any] = []

    @job.on("accepted")
    async def first(payload: Any) -> None:
        await asyncio.sleep(0.02)
        order.append(("first", threading.current_thread()))
        job.report(pack_state({name: np.zeros_like(p.numpy()) for name, p in MODEL.state_dict().items()}))

    @job.on("accepted")
    def second(payload: Any) -> None:
        order.append(("second", threading.current_thread()))

    with ThreadPoolExecutor(1) as pool:  # as a script's own thread: no one waits on the main thread meanwhile
        pool.submit(job.start).result(30)
        (worker,) = pool._threads
    assert order == [("first", worker), ("second", worker)]
    assert first.__name__ == "first"
    with pytest.raises(UsageError, match="no event 'accept'"):
        job.on("accept", print)  # type: ignore[arg-type]


def test_an_interrupt_ends_start_and_is_no_error_event(
    client: gk.Syft, host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    job = job_of(client, host())
    seen: list[Any] = []
    job.on("error", seen.append)

    def interrupted(payload: Any) -> None:
        raise KeyboardInterrupt

    async def waiting(payload: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("cleaned up")

    for handler in (interrupted, waiting):
        job._core._handlers["accepted"] = [handler]
        with pytest.raises(KeyboardInterrupt):
            job.start()
        gc.collect()
    assert seen in ([], ["cleaned up"]) and "never retrieved" not in caplog.text and "destroyed" not in caplog.text
    job._core._handlers["accepted"] = [lambda accepted: job.report(job.train(X, Y))]
    job.start()


def test_a_rejected_handler_may_start_again(client: gk.Syft, host: Host) -> None:
    process = host(max_workers=1, cycle_length=60)
    with gk.Syft(client.url, auth_token=process.worker_token) as other:
        busy = other.new_job(process.name, process.version)
        busy.start()
        job, asked = job_of(client, process), []

        def again(rejected: Any) -> None:
            asked.append(rejected)
            if len(asked) == 30:  # deeper than waits may nest
                busy.report(busy.train(X, Y))
            if rejected.timeout is not None:
                rejected.job.start()

        job.on("rejected", again)
        job.start()
    assert len(asked) > 30 and asked[-1].code == ErrorCode.TRAINING_OVER


def test_each_job_has_a_token_of_its_own(client: gk.Syft, host: Host, grid: gk.Session) -> None:
    one = host()
    other = grid.host_training(MODEL, PLAN, name=f"{one.name} other", client_config=CONFIG, server_config={})
    first, second = job_of(client, one), job_of(client, other)
    assert first.worker_id != second.worker_id == client.worker_id
    assert job_of(client, one).worker_id == first.worker_id  # the same worker, without another request
    with pytest.raises(AccessError):
        client.new_job(one.name, one.version, other.worker_token)
    with pytest.raises(AccessError):
        client.new_job(one.name, one.version)
    with pytest.raises(NotFoundError):
        client.new_job("no such training", "1.0", TOKEN)
    with gk.Syft(client.url) as later:  # another process takes the identity up
        assert job_of(later, one, worker_id=first.worker_id).worker_id == first.worker_id
    first.start()
    second.start()
    assert first.model is not None and second.model is not None
    for text in (repr(first), repr(client), str(vars(first._core)), repr(first._core._cycle)):
        assert one.worker_token not in text and first.worker_id not in text


def test_nothing_is_lost_without_a_node(node: NodeUnderTest, client: gk.Syft, host: Host) -> None:
    with gk.Syft("http://127.0.0.1:1") as nowhere, pytest.raises(NodeUnreachable):
        nowhere.new_job("a", "b")
    with gk.Syft("ws://127.0.0.1:1") as nowhere, pytest.raises(NodeUnreachable):
        nowhere.new_job("a", "b")
    for wrong in ("ftp://a", "127.0.0.1:5000", ""):
        with pytest.raises(UsageError):
            gk.Syft(wrong)
    job = job_of(client, host())
    for early in (lambda: job.report(b""), lambda: job.train(X, Y)):
        with pytest.raises(UsageError, match="no cycle"):
            early()
    client.close()
    seen: list[Any] = []
    job.on("error", seen.append)
    job.start() if client.url.startswith("http") else None
    assert all(isinstance(error, NodeUnreachable) for error in seen)


def test_verbose_says_each_step_and_no_secret(
    node: NodeUnderTest, host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    process = host()
    with gk.Syft(node.url, verbose=True, authToken=process.worker_token) as client:
        job = client.new_job(process.name, process.version)
        job.start()
        wait_for(lambda: (job.worker.requires_speed_test, time.sleep(0.05)), what="a wait")
        client.new_job(process.name, process.version)  # a wait of the main thread: what was said is printed
    said = capsys.readouterr().out
    assert f"{process.name}: accepted into cycle 1" in said
    assert process.worker_token not in said and job.worker_id not in said


def test_tls_is_verified(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    more = ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *more], check=True, capture_output=True)
    node = NodeUnderTest(tmp_path / "data", "--certfile", str(certificate), "--keyfile", str(key))
    try:
        urls = [node.url, node.url.replace("https", "wss")]
        for url in urls:
            with gk.Syft(url) as client, pytest.raises(NodeUnreachable, match="certificate verify failed"):
                client.new_job("any", "1.0", TOKEN)
        script = (
            "import gridkit as gk\n"
            f"for url in {urls!r}:\n"
            "    try:\n"
            f"        gk.Syft(url).new_job('any', '1.0', {TOKEN!r})\n"
            "    except gk.errors.NotFoundError as error:\n"
            "        print(error.status)\n"
        )
        environment = {**os.environ, "SSL_CERT_FILE": str(certificate)}
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
        assert done.stdout == "404\n404\n", done.stderr
    finally:
        node.terminate()


# ---- reports that a node refuses: R1, R2, M1, M2 as a job sees them


def refused(job: gk.Job, diff: bytes) -> NodeError:
    with pytest.raises(NodeError) as caught:
        job.report(diff)
    return caught.value


def changed(**arrays: np.ndarray) -> bytes:
    zeros = {name: np.zeros_like(value.numpy()) for name, value in MODEL.state_dict().items()}
    return pack_state({**zeros, **arrays})


def test_r1_the_same_report_again_counts_once_another_is_refused(client: gk.Syft, host: Host) -> None:
    process = host(min_diffs=2, max_diffs=2)
    job = job_of(client, process)
    job.start()
    job.report(changed())
    job.report(changed())
    error = refused(job, changed(**{"0.bias": np.ones(16, np.float32)}))
    assert (error.code, type(error)) == (ErrorCode.ALREADY_REPORTED, ConflictError)
    assert len(process.run.history.rounds) == 0


def test_r2_a_report_after_the_cycle_is_refused(client: gk.Syft, host: Host) -> None:
    process = host(min_diffs=1, max_diffs=1, max_workers=2, num_cycles=2)
    job = job_of(client, process)
    job.start()
    with gk.Syft(client.url, auth_token=process.worker_token) as other:
        quick = other.new_job(process.name, process.version)
        quick.start()
        quick.report(changed())
    error = refused(job, changed())
    assert (error.code, type(error)) == (ErrorCode.CYCLE_CLOSED, ConflictError)


@pytest.mark.parametrize(
    ("diff", "code"),
    [
        (changed(**{"0.bias": np.zeros(1, np.float32)}), ErrorCode.SHAPE_MISMATCH),
        (changed(more=np.zeros(1, np.float32)), ErrorCode.COUNT_MISMATCH),
        (changed(**{"0.bias": np.zeros(16, np.float64)}), ErrorCode.DTYPE_MISMATCH),
        (changed(**{"0.bias": np.full(16, np.nan, np.float32)}), ErrorCode.NOT_FINITE),
        (b"not a state", ErrorCode.MALFORMED),
        (b"\x80\x04\x95", ErrorCode.UNSAFE_FORMAT),
    ],
    ids=lambda value: str(value) if isinstance(value, ErrorCode) else "",
)
def test_m1_m2_what_no_model_can_take_is_refused(client: gk.Syft, host: Host, diff: bytes, code: ErrorCode) -> None:
    job = job_of(client, host())
    job.start()
    error = refused(job, diff)
    assert error.code == code and error.hint


def test_a_diff_is_checked_before_it_is_sent(client: gk.Syft, host: Host) -> None:
    job = job_of(client, host())
    job.start()
    model = job.model
    assert model is not None and model.names == list(MODEL.state_dict())
    for wrong in (
        [],
        model.params[:-1],
        [p[:1] for p in model.params],
        [p.numpy().astype(complex) for p in model.params],
    ):
        with pytest.raises(UsageError):
            model.create_serialized_diff(wrong)
    model.params[0].add_(1.0)  # what was downloaded stays
    moved = [p.double().requires_grad_() for p in model.params]
    diff = read_state(model.create_serialized_diff(moved))
    assert [float(array.mean()) for array in diff.values()] == pytest.approx([-1.0, 0.0, 0.0, 0.0], abs=1e-6)
    assert list(diff) == model.names
