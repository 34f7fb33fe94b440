"""What answers look like to the clients of the model-centric protocol, and under which addresses they find it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets

from gridkit.errors import UsageError
from gridkit.node.settings import NodeSettings
from gridkit.wire.state import pack_state
from tests.node.grid import serve, talk
from tests.support import DIFF, MODEL, TOKEN, NodeUnderTest, RawWorker, host_files

Host = Callable[..., dict[str, Any]]

WRONG: list[tuple[str, dict[str, Any], int, str]] = [
    ("authenticate", {"model_name": "nothing", "auth_token": TOKEN}, 404, "NOT_FOUND"),
    ("authenticate", {"model_name": "nothing", "auth_token": "x"}, 401, "UNAUTHENTICATED"),
    ("authenticate", {}, 400, "BAD_REQUEST"),
    ("cycle-request", {"worker_id": "undefined", "model": "digits"}, 401, "BAD_KEY"),
    ("cycle-request", {"model": "digits"}, 400, "BAD_REQUEST"),
    ("report", {"worker_id": "undefined", "request_key": "undefined", "diff": ""}, 401, "BAD_KEY"),
    ("report", {"worker_id": 5}, 400, "BAD_REQUEST"),
]


@pytest.mark.parametrize(("what", "data", "status", "code"), WRONG)
def test_errors_have_both_families_shapes(
    node: NodeUnderTest, what: str, data: dict[str, Any], status: int, code: str
) -> None:
    """syft.js reads `error` at the top over HTTP, PySyft in `data`; over a socket both look into `data`."""
    kind = f"model-centric/{what}"
    with node.http(None) as http:
        answer = http.post(f"/{kind}", json=data)
    told = answer.json()
    assert (answer.status_code, told["code"], told["type"]) == (status, code, kind)
    assert told["error"] and told["data"]["error"] == told["error"] and told["data"]["status"] == "error"
    assert "Traceback" not in answer.text
    (message,) = talk(node, {"type": kind, "data": data, "request_id": "abc"})
    assert message == {"type": kind, "data": told["data"], "request_id": "abc"}


def test_no_answer_but_an_error_has_an_error(node: NodeUnderTest, host: Host) -> None:
    hosted = host(num_cycles=1, min_diffs=2, max_diffs=2)
    first, second, third = (RawWorker(node, hosted["worker_token"], hosted["name"]) for _ in range(3))
    enrolled = first.post("authenticate", {"model_name": hosted["name"], "auth_token": hosted["worker_token"]})
    answers = [enrolled.json(), first.ask(), second.ask(), first.report(DIFF).json(), second.report(DIFF).json()]
    rejected = third.ask()
    for answer in (*answers, rejected):
        assert "error" not in answer and "error" not in answer["data"]
        assert {**answer["data"], "type": answer["type"], "data": answer["data"]} == answer
    assert rejected["status"] == "rejected" and rejected["reason"]
    assert isinstance(rejected.get("timeout", 0), int | float)


def test_bad_json_and_untyped_messages(node: NodeUnderTest) -> None:
    with node.http(None) as http:
        told = http.post("/model-centric/report", content=b"{").json()
    assert told["code"] == told["data"]["code"] == "BAD_JSON"
    answers = talk(node, {"type": "model-centric/authenticate", "data": [], "request_id": 7}, {"type": "x"}, "[]")
    assert [answer["data"]["code"] for answer in answers] == ["BAD_REQUEST", "UNKNOWN_TYPE", "BAD_JSON"]
    assert answers[0]["type"] == "model-centric/authenticate" and answers[0]["request_id"] == 7


def test_a_training_has_no_protocols(node: NodeUnderTest, host: Host, plan_bytes: bytes) -> None:
    hosted = host(num_cycles=1)
    worker = RawWorker(node, hosted["worker_token"], hosted["name"])
    assert worker.ask()["protocols"] == {}
    for ids, status, code in ((worker.ids(), 404, "NOT_FOUND"), ({**worker.ids(), "request_key": "x"}, 401, "BAD_KEY")):
        answer = worker.http.get("/model-centric/get-protocol", params={**ids, "protocol_id": "1"})
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    data: dict[str, Any] = {"model": pack_state(MODEL).hex(), "plans": {"training_plan": plan_bytes.hex()}}
    data |= {"client_config": {"name": "with protocols", "version": "1"}, "server_config": {"num_cycles": 1}}
    messages = [
        {"type": "model-centric/host-training", "data": {**data, "protocols": p}} for p in ({"a": "00"}, {}, None)
    ]
    refused, *others = talk(node, *messages, token=TOKEN)
    assert refused["data"]["code"] == "BAD_CONFIG" and "protocols" in refused["data"]["error"]
    assert others[0]["data"]["status"] == "success" and others[1]["data"]["code"] == "ALREADY_EXISTS"


# -- addresses


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    """A node behind a proxy that passes paths on as they came."""
    node = NodeUnderTest(tmp_path_factory.mktemp("behind") / "data", "--prefix", "/lab/grid/")
    yield node
    node.terminate()


def test_a_node_under_a_path(behind: NodeUnderTest, plan_bytes: bytes) -> None:
    with behind.http() as http:
        for base in ("/lab/grid", "//lab//grid/", "", "/"):
            assert http.get(f"{behind.url}{base}/status/").status_code == 200, base
            name = f"under {base}"
            hosted = http.post(
                f"{behind.url}{base}/model-centric/host-training", files=host_files(plan_bytes, {"num_cycles": 1}, name)
            )
            assert hosted.status_code == 200
            refused = http.post(f"{behind.url}{base}/model-centric/cycle-request", json={})
            assert refused.json()["type"] == "model-centric/cycle-request"
        for other in ("/lab", "/lab/gridkit/status/", "/grid/status/", "/lab/grid/lab/grid/status/", "/lab/grid%2fx"):
            assert http.get(behind.url + other).status_code == 404
        assert serve(http, "a//b").status_code == 200  # an id keeps its slashes
        assert http.get("/lab/grid/models/a%2F%2Fb").json()["id"] == "a//b"


def test_sockets_under_a_path_and_with_doubled_slashes(behind: NodeUnderTest) -> None:
    async def ask(path: str) -> dict[str, Any]:
        async with websockets.connect(behind.url.replace("http", "ws") + path) as socket:
            await socket.send(json.dumps({"type": "model-centric/report", "data": {}, "request_id": 1}))
            return dict(json.loads(await socket.recv()))

    for path in ("/lab/grid", "/lab/grid/", "//lab/grid//", "/", "//"):
        assert asyncio.run(ask(path))["request_id"] == 1
    for path in ("/lab", "/grid", "/lab/grid/x"):
        with pytest.raises(websockets.InvalidStatus):
            asyncio.run(ask(path))


def test_what_no_path_can_be(tmp_path: Path) -> None:
    for prefix in ("grid", "/grid/", "/", "/a b", "//", "/%2f", "/a?b"):
        with pytest.raises(UsageError, match="--prefix"):
            NodeSettings(data=tmp_path, prefix=prefix)
