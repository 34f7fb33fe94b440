"""S2, S3: more than a node wants to hold, on every route that takes a body and on the socket."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridkit.wire.safetensors import pack_tensors
from tests.datasets import X, upload
from tests.faults.routes import FORMS, NO_BODY, place_of, routes_of
from tests.node.grid import OCTETS, refused, serve
from tests.raw import RawSocket, exchange, frame, head, resident, statuses
from tests.support import NodeUnderTest, wait_for

MIB = 1 << 20
SMALL = {"message": MIB, "upload": 4 * MIB, "plan": MIB, "run_inputs": MIB, "decoding": 8 * MIB}
SLACK = 40 * MIB
"""what a node may grow by while it refuses: a connection's buffers, and what Python keeps"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(
        tmp_path_factory.mktemp("node") / "data", *(f"--limit={name}={size}" for name, size in SMALL.items())
    )
    with node.http() as http:
        serve(http, "good")
    yield node
    with node.http() as http:
        assert http.get("/models/").json()["models"] == ["good"]
        assert http.get("/datasets").json()["total"] == 0
    assert len(node.files()) == 1
    node.terminate()
    assert "Traceback" not in "".join(node.said)


def test_s2_no_route_takes_compressed_bodies(node: NodeUnderTest, tmp_path: Path) -> None:
    bomb = gzip.compress(b"{" + b" " * (50 * MIB))
    before = resident(node)
    with node.http() as http:
        for method, path in routes_of(tmp_path, "POST", "PUT", "PATCH"):
            for coding in ("gzip", "deflate", "br", "zstd", "GZIP", "identity, gzip", "x-gzip"):
                answer = http.request(method, place_of(path), content=bomb, headers={"content-encoding": coding})
                refused(answer, 415, "TOO_LARGE")
    assert resident(node) - before < SLACK


def test_s2_a_transfer_encoding_is_not_undone(node: NodeUnderTest) -> None:
    body = gzip.compress(b'{"size": 5}')
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    start = head(node, "POST /uploads HTTP/1.1", "Transfer-Encoding: gzip, chunked")
    assert set(statuses(exchange(node, start + chunk))) == {400}


def test_s2_the_socket_inflates_nothing(node: NodeUnderTest) -> None:
    raw = RawSocket(node, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
    assert raw.handshake.startswith(b"HTTP/1.1 101 ") and b"deflate" not in raw.handshake
    deflate = zlib.compressobj(wbits=-15)
    before = resident(node)
    raw.send_bytes(frame(0x80 | 0x40 | 0x1, deflate.compress(b" " * (100 * MIB)) + deflate.flush(zlib.Z_SYNC_FLUSH)))
    assert raw.close_code() == 1002
    assert resident(node) - before < SLACK
    raw.close()


def test_s2_what_is_compressed_inside_a_model_stays_so(node: NodeUnderTest) -> None:
    zeros = b"\0" * (200 * MIB)
    packed = zlib.compress(zeros)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model.safetensors", zeros)
    before = resident(node)
    with node.http() as http:
        for data in (archive.getvalue(), gzip.compress(zeros)):
            refused(serve(http, "bomb", data), 400, "UNSAFE_FORMAT")
            wish = {"model_id": "bomb", "upload_id": upload(http, data)}
            refused(http.post("/serve-model/", json=wish), 400, "UNSAFE_FORMAT")
            wish = {"kind": "tensor", "upload_id": upload(http, data)}
            refused(http.put("/datasets/bomb", json=wish), 400, "UNSAFE_FORMAT")
        opaque = b"\x2a" + packed  # PySyft's, with zlib: kept as it is
        assert serve(http, "bomb", opaque).json()["kind"] == "opaque"
        assert http.get("/get_model/bomb", headers=OCTETS).content == opaque
        refused(http.post("/run-inference/bomb", content=pack_tensors([X]).tobytes()), 400, "BAD_PLAN")
        assert http.delete("/models/bomb").is_success
    assert resident(node) - before < SLACK


def test_s3_more_than_anything_is_refused_before_it_comes(node: NodeUnderTest, tmp_path: Path) -> None:
    for method, path in routes_of(tmp_path, "POST", "PUT", "PATCH", "DELETE", "GET"):
        for length in (SMALL["upload"] + 1, 1 << 62):
            start = head(node, f"{method} {place_of(path)} HTTP/1.1", f"Content-Length: {length}")
            assert statuses(exchange(node, start)) == [413], (method, path)


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", "text/plain", ""])
def test_s3_a_body_that_goes_on_and_on_is_cut_off(node: NodeUnderTest, tmp_path: Path, kind: str) -> None:
    """Chunked, so that nothing says how long it will be."""
    before = resident(node)
    chunk = b"%x\r\n%s\r\n" % (MIB // 2, b" " * (MIB // 2))
    for method, path in routes_of(tmp_path, "POST", "PUT", "PATCH"):
        lines = ("Transfer-Encoding: chunked", *([f"Content-Type: {kind}"] if kind else []))
        place = place_of(path) + ("?offset=0" if method == "PATCH" else "")
        answer = exchange(node, head(node, f"{method} {place} HTTP/1.1", *lines), *([chunk] * 12))
        if path.startswith("/uploads/") or path in NO_BODY:
            assert statuses(answer) == [404]  # there is none to which this could be added
        elif path in FORMS:
            assert statuses(answer) == [400]  # no form
        elif path == "/model-centric/speed-test":
            assert statuses(answer) == [400]  # nobody's: see tests/node/test_speed_test.py
        else:
            assert statuses(answer) == [413], (method, path, answer[:200])
    assert resident(node) - before < SLACK


def test_s3_a_form_that_goes_on_and_on_is_cut_off(node: NodeUnderTest) -> None:
    lines = ("Transfer-Encoding: chunked", "Content-Type: multipart/form-data; boundary=x")
    chunk = b"%x\r\n%s\r\n" % (MIB // 2, b" " * (MIB // 2))
    for route in ("/serve-model/", *FORMS):
        name = b"model_file" if route.startswith("/push/") else b"model"
        part = b'--x\r\nContent-Disposition: form-data; name="%s"; filename="m"\r\n\r\n' % name
        start = head(node, f"POST {route} HTTP/1.1", *lines) + b"%x\r\n%s\r\n" % (len(part), part)
        assert statuses(exchange(node, start, *([chunk] * 12))) == [413], route


def test_s3_a_body_shorter_than_it_says_changes_nothing(node: NodeUnderTest, tmp_path: Path) -> None:
    """The sender is gone, so there is nobody to answer."""
    for method, path in routes_of(tmp_path, "POST", "PUT", "PATCH"):
        start = head(node, f"{method} {place_of(path)} HTTP/1.1", "Content-Length: 100")
        assert 200 not in statuses(exchange(node, start + b'{"size": 1, "model_id": "x", "name": "x"}', end=True))
    with node.http() as http:
        assert [user["name"] for user in http.get("/users").json()["users"]] == []


@pytest.mark.parametrize("kind", [0x1, 0x2])
def test_s3_a_message_that_is_too_long_is_ended_before_it_comes(node: NodeUnderTest, kind: int) -> None:
    for frames in (
        [frame(0x80 | kind, declared=MIB + 1)],
        [frame(0x80 | kind, declared=1 << 62)],
        [frame(kind, b"x" * 600_000), frame(0x80, declared=600_000)],
        [frame(kind, b""), *[frame(0, b"x" * 60_000)] * 20],
    ):
        raw = RawSocket(node)
        raw.send_bytes(b"".join(frames))
        assert raw.close_code() == 1009
        raw.close()
    raw = RawSocket(node, token=None)  # less before it has authenticated
    raw.send_bytes(frame(0x80 | kind, declared=64 * 1024 + 1))
    assert raw.close_code() == 1009
    raw.close()


def test_s3_w18_a_message_that_is_too_long_leaves_a_row(node: NodeUnderTest) -> None:
    with node.http(node.add_user("mia")) as http:
        token = http.headers["authorization"].removeprefix("Bearer ")
    raw = RawSocket(node, token=token)
    raw.send(0x81, b'{"type": "delete-model", "model_id": "of before"}')
    assert json.loads(raw.receive()[1])["code"] == "NOT_FOUND"
    raw.send(0x81, declared=MIB + 1)
    assert raw.close_code() == 1009
    raw.close()

    def rows() -> list[tuple[str, str, str]]:
        with node.http() as http:
            listed = http.get("/audit").json()["rows"]
        return [(row["operation"], row["object"], row["verdict"]) for row in listed if row["who"] == "mia"]

    wait_for(lambda: ("message", "", "TOO_LARGE") in rows())
    assert rows() == [("delete-model", "of before", "NOT_FOUND"), ("message", "", "TOO_LARGE")]
    with node.http() as http:
        assert http.delete("/users/mia").is_success
