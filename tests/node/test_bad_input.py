"""Bad input, each with a typed error and nothing changed. Names carry the ids of the faults list where there is one."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import pickle
import socket
import sqlite3
import struct
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
import websockets

from gridkit.wire.state import pack_state
from tests.support import DIFF, MODEL, NodeUnderTest, RawWorker, host_files, rows


def everything(node: NodeUnderTest) -> tuple[list[tuple], dict[str, bytes]]:
    """All rows of the database and all blobs: equal before and after means that nothing changed."""
    with sqlite3.connect(f"file:{node.data / 'grid.db'}?mode=ro", uri=True) as base:
        return list(base.iterdump()), node.files()


class Bomb:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self):
        return (open, (str(self.sentinel), "w"))


def _zip_of(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", data)
    return file.getvalue()


@pytest.fixture
def worker(node: NodeUnderTest, host) -> RawWorker:
    hosted = host(min_diffs=5)
    worker = RawWorker(node, hosted["worker_token"], hosted["name"])
    worker.ask()
    worker.hosted = hosted
    return worker


# -- access


def test_no_token_and_wrong_tokens(node: NodeUnderTest, plan_bytes: bytes) -> None:
    before = everything(node)
    calls = [
        ("POST", "/model-centric/host-training", {"files": host_files(plan_bytes, {}, "x")}),
        ("GET", "/model-centric/processes", {}),
        ("GET", "/events", {}),
        ("POST", "/model-centric/stop", {"json": {"name": "x"}}),
        ("POST", "/model-centric/worker-token", {"json": {"name": "x"}}),
    ]
    for token in (None, "wrong-token-of-some-length", "é"):
        with node.http(None) as http:
            for method, path, body in calls:
                headers = {} if token is None else {"authorization": f"Bearer {token}".encode()}
                answer = http.request(method, path, headers=headers, **body)
                assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED"), path
    with node.http(None) as http:
        assert http.get("/status/").json()["status"] == "ok"
    assert everything(node) == before


def test_a_workers_token_on_the_owners_routes(node: NodeUnderTest, worker: RawWorker, plan_bytes: bytes) -> None:
    before = everything(node)
    with node.http(worker.hosted["worker_token"]) as http:
        for answer in (
            http.post("/model-centric/host-training", files=host_files(plan_bytes, {}, "x")),
            http.get("/model-centric/processes"),
            http.get("/events"),
            http.post("/model-centric/stop", json={"name": worker.name}),
            http.post("/model-centric/worker-token", json={"name": worker.name}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN")
    assert everything(node) == before


def test_a_workers_token_is_good_for_one_training(node: NodeUnderTest, worker: RawWorker, plan_bytes: bytes) -> None:
    with node.http() as http:
        http.post("/model-centric/host-training", files=host_files(plan_bytes, {}, "another of the two"))
    wish = {"model_name": "another of the two", "auth_token": worker.hosted["worker_token"]}
    refused = worker.post("authenticate", wish)
    assert (refused.status_code, refused.json()["code"]) == (403, "FORBIDDEN")
    with node.http(worker.hosted["worker_token"]) as http:
        assert http.get("/model-centric/retrieve-model", params={"name": worker.name}).status_code == 200
        assert http.get("/model-centric/retrieve-model", params={"name": "another of the two"}).status_code == 403


def test_r3_another_workers_key(node: NodeUnderTest, worker: RawWorker) -> None:
    other = RawWorker(node, worker.hosted["worker_token"], worker.name)
    other.ask()
    before = everything(node)
    for ids in (
        {"request_key": worker.cycle["request_key"]},
        {"worker_id": worker.worker_id},
        {"request_key": "0" * 64},
        {"worker_id": "nobody"},
    ):
        refused = other.report(DIFF, **ids)
        assert (refused.status_code, refused.json()["code"]) == (401, "BAD_KEY"), ids
    stolen = {"worker_id": other.worker_id, "request_key": worker.cycle["request_key"]}
    query = {**stolen, "model_id": worker.cycle["model_id"]}
    assert other.http.get("/model-centric/get-model", params=query).status_code == 401
    assert everything(node) == before


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1.evil.example",
        "http://127.0.0.1:1",
        "https://127.0.0.1",
        "http://",
    ],
)
def test_w1_foreign_origins(node: NodeUnderTest, origin: str) -> None:
    with node.http() as http:
        refused = http.get("/status/", headers={"origin": origin})
        assert (refused.status_code, refused.json()["code"]) == (403, "FOREIGN_ORIGIN")

    async def connect(origin: str | None) -> int:
        try:
            async with websockets.connect(node.url.replace("http", "ws") + "/", origin=origin):
                return 101
        except websockets.InvalidStatus as error:
            return error.response.status_code

    assert asyncio.run(connect(origin)) == 403
    assert asyncio.run(connect(node.url)) == 101
    assert asyncio.run(connect(None)) == 101


@pytest.mark.parametrize("host", ["attacker.example", "127.0.0.1.attacker.example", "10.0.0.1", ""])
def test_w2_foreign_hosts(node: NodeUnderTest, host: str) -> None:
    with node.http() as http:
        refused = http.get("/status/", headers={"host": host})
        assert refused.status_code in (400, 403)
        for own in ("localhost", f"127.0.0.1:{node.port}", "[::1]:80"):
            assert http.get("/status/", headers={"host": own}).status_code == 200


# -- sizes and syntax


def _raw(node: NodeUnderTest, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as connection:
        connection.sendall(data)
        return connection.recv(65536)


def test_s3_oversize_bodies(node: NodeUnderTest, worker: RawWorker) -> None:
    before = everything(node)
    large = b"x" * 3_000_000
    assert worker.report(large).status_code == 413

    def chunks():
        for _ in range(30):
            yield b"x" * 100_000

    query = {**worker.ids()}
    headers = {"content-type": "application/octet-stream"}
    chunked = worker.http.post("/model-centric/report", params=query, content=chunks(), headers=headers)
    assert (chunked.status_code, chunked.json()["code"]) == (413, "TOO_LARGE")
    assert worker.http.post("/model-centric/authenticate", content=b" " * 100_000).status_code == 413
    head = f"POST /model-centric/report HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\nContent-Length: 99999999999\r\n\r\n"
    assert b" 413 " in _raw(node, head.encode()).split(b"\r\n")[0]
    assert everything(node) == before


def test_s3_oversize_frame_before_authentication(node: NodeUnderTest) -> None:
    async def send() -> int:
        async with websockets.connect(node.url.replace("http", "ws") + "/") as socket:
            await socket.send("x" * 65_537)
            await socket.wait_closed()
            return socket.close_code

    assert asyncio.run(send()) == 1009


def test_w13_large_headers(node: NodeUnderTest) -> None:
    start = f"GET /status/ HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\n"
    large = _raw(node, (start + "X-A: " + "a" * 100_000 + "\r\n\r\n").encode())
    many = _raw(node, (start + "X-A: a\r\n" * 500 + "\r\n").encode())
    assert b" 431 " in large.split(b"\r\n")[0] or b" 400 " in large.split(b"\r\n")[0]
    assert b" 431 " in many.split(b"\r\n")[0]
    with node.http() as http:
        assert http.get("/status/", headers={"content-encoding": "gzip"}).status_code == 415


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"a": NaN}', b"\xff", b"[" * 60_000])
def test_malformed_json(node: NodeUnderTest, body: bytes) -> None:
    before = everything(node)
    with node.http() as http:
        for path in ("authenticate", "cycle-request", "report", "stop"):
            refused = http.post(f"/model-centric/{path}", content=body)
            assert (refused.status_code, refused.json()["code"]) == (400, "BAD_JSON")
            assert "Traceback" not in refused.text
    assert everything(node) == before


def test_s1_a_pickle_where_a_diff_belongs(node: NodeUnderTest, worker: RawWorker, tmp_path: Path) -> None:
    sentinel = tmp_path / "ran"
    bomb = pickle.dumps(Bomb(sentinel))
    packed = pack_state(DIFF)
    payloads = {
        "pickle": bomb,
        "torch archive": _zip_of(bomb),
        "contents_bin": packed.replace(b"", b"", 0)[:0] + _state_with_contents_bin(bomb),
        "npy": b"\x93NUMPY\x01\x00" + bomb,
    }
    for name, payload in payloads.items():
        other = RawWorker(node, worker.hosted["worker_token"], worker.name)
        other.ask()
        refused = other.report(payload)
        assert refused.status_code == 400, name
        assert refused.json()["code"] in ("UNSAFE_FORMAT", "MALFORMED"), name
        text = RawWorker(node, worker.hosted["worker_token"], worker.name)
        text.ask()
        refused = text.post("report", {**text.ids(), "diff": base64.b64encode(payload).decode()})
        assert refused.status_code == 400 and refused.json()["code"] in ("UNSAFE_FORMAT", "MALFORMED"), name
    assert not sentinel.exists()
    assert node.files() == {k: v for k, v in node.files().items() if b"NUMPY" not in v}


def _field(number: int, data: bytes) -> bytes:
    assert len(data) < 2**14
    size = bytes([len(data) & 0x7F | 0x80, len(data) >> 7])
    return bytes([number << 3 | 2]) + size + data


def _state_with_contents_bin(data: bytes) -> bytes:
    return _field(2, _field(1, _field(3, data) + bytes([8 << 3, 1])))


BAD_DIFFS = {
    "nan": ({**DIFF, "b": np.array([0, np.nan], np.float32)}, "NOT_FINITE", "'b'"),
    "infinite": ({**DIFF, "w": np.full((3, 2), np.inf, np.float32)}, "NOT_FINITE", "'w'"),
    "shape": ({**DIFF, "b": np.zeros(3, np.float32)}, "SHAPE_MISMATCH", "'b'"),
    "broadcastable": ({**DIFF, "b": np.zeros(1, np.float32)}, "SHAPE_MISMATCH", "'b'"),
    "transposed": ({**DIFF, "w": np.zeros((2, 3), np.float32)}, "SHAPE_MISMATCH", "'w'"),
    "dtype": ({**DIFF, "b": np.zeros(2, np.float64)}, "DTYPE_MISMATCH", "'b'"),
    "integers": ({**DIFF, "b": np.zeros(2, np.int64)}, "DTYPE_MISMATCH", "'b'"),
    "fewer": ({"w": DIFF["w"]}, "COUNT_MISMATCH", ""),
    "more": ({**DIFF, "c": np.zeros(1, np.float32)}, "COUNT_MISMATCH", ""),
    "none": ({}, "COUNT_MISMATCH", ""),
    "order": ({"b": DIFF["b"], "w": DIFF["w"]}, "NAME_MISMATCH", ""),
    "norm": ({**DIFF, "b": np.full(2, 1e30, np.float32)}, "NORM_TOO_LARGE", ""),
}


def test_m1_m2_m3_bad_diffs_are_named_and_the_cycle_goes_on(node: NodeUnderTest, host) -> None:
    hosted = host(num_cycles=1, min_diffs=2, max_diffs=2, max_norm=100.0)
    good = [RawWorker(node, hosted["worker_token"], hosted["name"]) for _ in range(2)]
    good[0].ask()
    assert good[0].report(DIFF).status_code == 200
    for name, (diff, code, tensor) in BAD_DIFFS.items():
        bad = RawWorker(node, hosted["worker_token"], hosted["name"])
        bad.ask()
        refused = bad.report(diff)
        assert (refused.status_code, refused.json()["code"]) == (400, code), name
        assert tensor in refused.json()["error"], name
    good[1].ask()
    assert good[1].report(DIFF).status_code == 200
    got = rows(node, hosted["process"])
    closed = next(row for row in got if row["kind"] == "aggregated")
    assert (closed["accepted"], closed["refused"]) == (2, len(BAD_DIFFS))


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_malformed_protobuf(node: NodeUnderTest, worker: RawWorker, cut: int) -> None:
    refused = worker.report(pack_state(DIFF)[:-cut])
    assert (refused.status_code, refused.json()["code"]) == (400, "MALFORMED")


def test_r1_r2_repeated_and_late_reports(node: NodeUnderTest, host) -> None:
    hosted = host(num_cycles=1, min_diffs=2, max_diffs=2)
    one, two, three = (RawWorker(node, hosted["worker_token"], hosted["name"]) for _ in range(3))
    one.ask(), two.ask(), three.ask()
    assert one.report(DIFF).status_code == 200
    assert one.report(DIFF).status_code == 200  # the same bytes again: success
    other = one.report({**DIFF, "b": np.ones(2, np.float32)})
    assert (other.status_code, other.json()["code"]) == (409, "ALREADY_REPORTED")
    assert two.report(DIFF).status_code == 200
    closed = next(row for row in rows(node, hosted["process"]) if row["kind"] == "aggregated")
    assert closed["accepted"] == 2
    late = three.report(DIFF)
    assert (late.status_code, late.json()["code"]) == (409, "CYCLE_CLOSED")


# -- hosting


def _plan_with(plan_bytes: bytes, change) -> bytes:
    size = struct.unpack("<I", plan_bytes[4:8])[0]
    header = json.loads(plan_bytes[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    return plan_bytes[:4] + struct.pack("<I", len(text)) + text + plan_bytes[8 + size :]


def _unknown_op(header: dict) -> None:
    header["nodes"][0][0] = "os.system"


def _huge_constant(header: dict) -> None:
    header["nodes"][0] = ["aten.full.default", [[1 << 40], 1.0], {}, header["nodes"][0][3]]


def _forward_reference(header: dict) -> None:
    header["nodes"][0][1][0] = {"ref": header["nodes"][0][3][0]}


def _without_loss(header: dict) -> None:
    header["outputs"] = header["outputs"][1:]


def test_bad_plans_are_refused_at_hosting(node: NodeUnderTest, plan_bytes: bytes, tmp_path: Path) -> None:
    before = everything(node)
    bad = {
        "unknown op": _plan_with(plan_bytes, _unknown_op),
        "huge constant": _plan_with(plan_bytes, _huge_constant),
        "forward reference": _plan_with(plan_bytes, _forward_reference),
        "pickle": pickle.dumps(Bomb(tmp_path / "ran")),
        "torchscript": _zip_of(b"code"),
        "no training plan": _plan_with(plan_bytes, _without_loss),
        "empty": b"",
        "cut": plan_bytes[:50],
    }
    with node.http() as http:
        for name, data in bad.items():
            refused = http.post("/model-centric/host-training", files=host_files(data, {"num_cycles": 1}, "bad"))
            code = "OUT_OF_MEMORY" if name == "huge constant" else "BAD_PLAN"
            assert (refused.status_code, refused.json()["code"]) == (400, code), (name, refused.text)
    assert not (tmp_path / "ran").exists()
    assert everything(node) == before


@pytest.mark.parametrize(
    "server",
    [
        {"num_cycles": -1},
        {"num_cycles": "3"},
        {"cycle_length": -5},
        {"min_diffs": 3, "max_diffs": 2},
        {"weighting": "luck"},
        {"strategy": "os.system"},
        {"fraction": 2.0, "clients": 3},
        {"no_such_key": 1},
        {"max_norm": "big"},
    ],
    ids=str,
)
def test_bad_configurations_are_refused_by_name(node: NodeUnderTest, plan_bytes: bytes, server: dict) -> None:
    before = everything(node)
    with node.http() as http:
        refused = http.post("/model-centric/host-training", files=host_files(plan_bytes, server, "bad"))
    assert (refused.status_code, refused.json()["code"]) == (400, "BAD_CONFIG"), refused.text
    assert any(key in refused.json()["error"] for key in server)
    assert everything(node) == before


def test_a_form_without_its_parts(node: NodeUnderTest, plan_bytes: bytes) -> None:
    files = host_files(plan_bytes, {"num_cycles": 1}, "parts")
    with node.http() as http:
        for missing in files:
            rest = {name: part for name, part in files.items() if name != missing}
            refused = http.post("/model-centric/host-training", files=rest)
            assert refused.status_code == 400, missing
        plain = http.post("/model-centric/host-training", json={})
        assert plain.status_code == 400
        broken = http.post(
            "/model-centric/host-training",
            content=b"--x\r\nnothing",
            headers={"content-type": "multipart/form-data; boundary=x"},
        )
        assert broken.status_code == 400


def test_unknown_trainings_plans_and_checkpoints(node: NodeUnderTest, worker: RawWorker) -> None:
    with node.http() as http:
        for path, query in (
            ("retrieve-model", {"name": "no such"}),
            ("retrieve-model", {"name": worker.name, "checkpoint": "99"}),
        ):
            refused = http.get(f"/model-centric/{path}", params=query)
            assert (refused.status_code, refused.json()["code"]) == (404, "NOT_FOUND")
        for checkpoint in ("-1", "1.5", "newest", "9" * 30):
            query = {"name": worker.name, "checkpoint": checkpoint}
            assert http.get("/model-centric/retrieve-model", params=query).status_code == 400
        assert http.post("/model-centric/authenticate", json={"model_name": "no such"}).status_code == 404
    for plan in ("999999", "-1", "x", "1; DROP TABLE plan"):
        query = {**worker.ids(), "plan_id": plan, "receive_operations_as": "gridkit"}
        assert worker.http.get("/model-centric/get-plan", params=query).status_code == 404


def test_methods_and_paths_that_are_not_there(node: NodeUnderTest) -> None:
    with node.http() as http:
        assert http.get("/model-centric/report").status_code == 405
        assert http.get("/etc/passwd").status_code == 404
        assert http.post("/").status_code == 405


def test_the_node_is_well_after_all_that(node: NodeUnderTest, host) -> None:
    hosted = host(num_cycles=1)
    worker = RawWorker(node, hosted["worker_token"], hosted["name"])
    worker.ask()
    assert worker.report(DIFF).status_code == 200
    assert not any("Traceback" in line for line in node.said)


def test_a_second_node_on_the_same_folder_is_refused(node: NodeUnderTest) -> None:
    with pytest.raises(RuntimeError, match="another node is running"):
        NodeUnderTest(node.data)


def test_open_beyond_loopback_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"--open on 0\.0\.0\.0"):
        NodeUnderTest(tmp_path / "data", "--open", "--host", "0.0.0.0")


def test_w7_secrets_are_private_files(node: NodeUnderTest) -> None:
    for name in ("secret", "token"):
        assert (node.data / name).stat().st_mode & 0o777 == 0o600
    assert node.data.stat().st_mode & 0o777 == 0o700
    assert len((node.data / "secret").read_text().strip()) >= 40


def test_open_lets_anonymous_clients_in(tmp_path: Path, plan_bytes: bytes) -> None:
    node = NodeUnderTest(tmp_path / "data", "--open")
    try:
        with httpx.Client(base_url=node.url, trust_env=False) as http:
            files = host_files(plan_bytes, {"num_cycles": 1}, "open")
            assert http.post("/model-centric/host-training", files=files).status_code == 200
            assert http.post("/model-centric/authenticate", json={"model_name": "open"}).status_code == 200
            assert http.get("/model-centric/retrieve-model", params={"name": "open"}).status_code == 200
            assert http.get("/model-centric/processes").status_code == 401
            near = {"origin": "http://localhost:8888"}
            assert http.get("/status/", headers=near).status_code == 200
            assert http.get("/status/", headers={"origin": "http://evil.example"}).status_code == 403
        assert MODEL
    finally:
        node.terminate()
