"""The speed test: for whom it is, what it sends and takes, as syft.js and PySyft ask for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gridkit.node.routes import speed_test
from gridkit.node.settings import MIB
from tests.raw import exchange, head, resident, statuses
from tests.support import NodeUnderTest, RawWorker, host_files, tiny_plan, wait_for

PATH = "/model-centric/speed-test"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    limits = ("wrong_rate=100000", f"speed_test={3 * MIB + 5}")
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data", *(f"--limit={limit}" for limit in limits))
    yield node
    node.terminate()
    assert "Traceback" not in "".join(node.said)


@pytest.fixture
def worker(node: NodeUnderTest, request: pytest.FixtureRequest) -> RawWorker:
    return _worker(node, request.node.name, minimum_download_speed=1.0)


def _worker(node: NodeUnderTest, name: str, **server: Any) -> RawWorker:
    with node.http() as http:
        files = host_files(tiny_plan(), {"num_cycles": 1, **server}, name)
        hosted = http.post("/model-centric/host-training", files=files)
    return RawWorker(node, hosted.json()["worker_token"], name)


def query(worker: RawWorker, **more: str) -> dict[str, str]:
    return {"worker_id": worker.worker_id, "random": "0.1", **more}


def test_it_is_said_who_needs_one(node: NodeUnderTest) -> None:
    for server, needed in (({}, False), ({"minimum_upload_speed": 0.5}, True), ({"minimum_download_speed": 0}, False)):
        worker = _worker(node, str(server), **server)
        with node.http() as http:
            told = http.post("/model-centric/authenticate", json={"model_name": worker.name}).json()
        assert told["requires_speed_test"] is needed


def test_it_is_off_for_everybody_else(node: NodeUnderTest, worker: RawWorker) -> None:
    unmeasured = _worker(node, "unmeasured")
    with node.http(None) as nobody:
        for ids, status, code in (
            ({"worker_id": unmeasured.worker_id}, 403, "FORBIDDEN"),
            ({"worker_id": "0" * 32}, 401, "BAD_KEY"),
            ({"worker_id": "undefined"}, 401, "BAD_KEY"),
            ({}, 400, "BAD_REQUEST"),
        ):
            for more in ({}, {"is_ping": "1"}):
                answer = nobody.get(PATH, params={**ids, "random": "1", **more})
                assert (answer.status_code, answer.json()["code"]) == (status, code)
            answer = nobody.post(PATH, params=ids, content=b"x" * 100_000)
            assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_ping_is_held(node: NodeUnderTest, worker: RawWorker) -> None:
    """As syft.js sends it, with a second question mark."""
    asked = f"{PATH}?is_ping=1&worker_id={worker.worker_id}&random=0.12?0.34"
    started = time.monotonic()
    answers = [worker.http.get(asked) for _ in range(5)]
    assert time.monotonic() - started >= 5 * speed_test.PING_SECONDS
    assert [answer.json() for answer in answers] == [{}] * 5
    assert answers[0].headers["cache-control"] == "no-store"


def test_a_download_is_random_bytes_of_the_configured_size(node: NodeUnderTest, worker: RawWorker) -> None:
    answer = worker.http.get(f"{PATH}?worker_id={worker.worker_id}&random=0.12?0.34")
    assert len(answer.content) == 3 * MIB + 5 and answer.headers["content-length"] == str(3 * MIB + 5)
    assert answer.content[:MIB] == answer.content[MIB : 2 * MIB] and len(set(answer.content[:4096])) == 256
    assert "content-encoding" not in answer.headers and answer.headers["cache-control"] == "no-store"


def test_an_upload_is_drained_and_never_held(node: NodeUnderTest, worker: RawWorker) -> None:
    worker.http.get(PATH, params=query(worker))
    before = resident(node)
    block = bytes(MIB)

    def pieces() -> Iterator[bytes]:
        for place in range(64):
            yield block
            if place > 32:
                seen.append(resident(node))

    seen: list[int] = []
    for _ in range(2):
        answer = worker.http.post(PATH, params=query(worker), content=pieces())
        assert (answer.status_code, answer.json()) == (200, {})
    assert max(seen) - before < 24 * MIB


def test_an_upload_has_a_bound(node: NodeUnderTest, worker: RawWorker) -> None:
    place = f"POST {PATH}?worker_id={worker.worker_id} HTTP/1.1"
    declared = exchange(node, head(node, place, f"Content-Length: {speed_test.UPLOAD + 1}", token=None))
    assert statuses(declared) == [413]
    chunk = b"%x\r\n%s\r\n" % (MIB, bytes(MIB))
    sent = exchange(node, head(node, place, "Transfer-Encoding: chunked", token=None), *[chunk] * 67)
    assert statuses(sent) in ([413], [])  # the answer may be lost with the rest of the body
    assert worker.http.get(PATH, params=query(worker, is_ping="1")).status_code == 200


def test_who_goes_away_in_the_middle_is_no_failure_and_takes_no_place(node: NodeUnderTest) -> None:
    for number in range(8):
        goer = _worker(node, f"goer {number}", minimum_upload_speed=1)
        for _ in range(speed_test.TOGETHER // 4):
            with goer.http.stream("GET", PATH, params=query(goer)) as answer:
                assert answer.status_code == 200
                next(answer.iter_raw(1000))
        place = f"POST {PATH}?worker_id={goer.worker_id} HTTP/1.1"
        exchange(node, head(node, place, "Content-Length: 1000000", token=None) + b"x" * 1000, end=True)
    fresh = _worker(node, "fresh", minimum_upload_speed=1)
    wait_for(lambda: fresh.http.get(PATH, params=query(fresh)).status_code == 200)


def test_one_worker_measures_a_few_times(node: NodeUnderTest, worker: RawWorker) -> None:
    codes = [worker.http.post(PATH, params=query(worker), content=b"1").status_code for _ in range(20)]
    assert codes.count(200) >= 9 and codes[-1] == 429  # syft.js has two a start, PySyft four
    refused = worker.http.get(PATH, params=query(worker))
    assert refused.json()["code"] == "TOO_MANY" and refused.json()["retry_after"] > 0
    assert worker.http.get(PATH, params=query(worker, is_ping="1")).status_code == 200
    another = _worker(node, "another", minimum_upload_speed=1)
    assert another.http.get(PATH, params=query(another)).status_code == 200


def test_so_many_measure_at_a_time(node: NodeUnderTest) -> None:
    workers = [_worker(node, f"many {place}", minimum_upload_speed=1) for place in range(4)]

    async def hold() -> None:
        never = asyncio.Event()

        async def slow() -> Any:
            yield b"x"
            await never.wait()
            yield b"x"

        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=node.url, timeout=30, trust_env=False, limits=limits) as http:
            calls = [
                asyncio.create_task(http.post(PATH, params=query(workers[place % 4]), content=slow()))
                for place in range(speed_test.TOGETHER)
            ]
            for number in range(30):  # until all of them are there
                fresh = await asyncio.to_thread(_worker, node, f"one more {number}", minimum_upload_speed=1)
                refused = await http.get(PATH, params=query(fresh))
                if refused.status_code == 429:
                    break
            assert refused.json()["error"] == "too many workers are measuring"
            never.set()
            assert [(await call).status_code for call in calls] == [200] * speed_test.TOGETHER
            assert (await http.get(PATH, params=query(fresh))).status_code == 200

    asyncio.run(hold())
