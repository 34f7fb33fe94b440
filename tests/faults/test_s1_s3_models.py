"""S1, S2, S3, S4, S6 on the routes and messages that take models and inputs: refused by name, nothing kept."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import pickle
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.node.grid import OCTETS, infer, refused, serve, talk
from tests.support import TOKEN, NodeUnderTest, tiny_model

MIB = 1 << 20


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data")
    with node.http() as http:
        serve(http, "good")
    yield node
    with node.http() as http:  # after everything it is well
        assert http.get("/models/").json()["models"] == ["good"]
        assert infer(http, "good", np.ones((1, 4), np.float32))[0].shape == (1, 2)
    assert len(node.files()) == 1
    node.terminate()


@pytest.fixture
def http(node: NodeUnderTest) -> Iterator[httpx.Client]:
    with node.http() as http:
        yield http


class Bomb:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self):
        return (open, (str(self.sentinel), "w"))


def bombs(sentinel: Path) -> dict[str, bytes]:
    pickled = pickle.dumps(Bomb(sentinel))
    archive, array = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("model/data.pkl", pickled)
        file.writestr("model.safetensors", pickled)
    np.save(array, np.array([Bomb(sentinel)], dtype=object), allow_pickle=True)
    kinds = {f"protocol {p}": pickle.dumps(Bomb(sentinel), protocol=p) for p in range(6)}
    return {**kinds, "zip": archive.getvalue(), "npy": array.getvalue(), "gzip": gzip.compress(pickled)}


def test_s1_pickles_as_models_and_as_inputs(node: NodeUnderTest, http: httpx.Client, tmp_path: Path) -> None:
    sentinel = tmp_path / "loaded"
    for why, data in bombs(sentinel).items():
        text = data.decode("latin-1")
        answers = [
            serve(http, "bad.safetensors", data),
            http.post("/serve-model/", data={"model_id": "bad", "model": text}),
            http.post("/serve-model/", json={"model_id": "bad", "model": text}),
            http.post("/run-inference/good", content=data),
            http.post("/models/good", data={"data": text}),
        ]
        for answer in answers:
            assert refused(answer, 400, "UNSAFE_FORMAT")["hint"], why
        told = talk(
            node,
            {"type": "host-model", "model_id": "bad", "model": text},
            {"type": "run-inference", "model_id": "good", "data": text},
            token=TOKEN,
        )
        assert [answer["code"] for answer in told] == ["UNSAFE_FORMAT"] * 2, why
        refused(serve(http, "bad", base64.b64encode(data)), 400, "MALFORMED")
    assert not sentinel.exists()


def test_s1_a_pickle_inside_pysyfts_envelope_is_kept_and_never_read(
    node: NodeUnderTest, http: httpx.Client, tmp_path: Path
) -> None:
    sentinel = tmp_path / "loaded"
    data = b"\x28\x92" + pickle.dumps(Bomb(sentinel))
    assert serve(http, "opaque", data).json()["kind"] == "opaque"
    assert http.get("/get_model/opaque", headers=OCTETS).content == data
    refused(http.post("/run-inference/opaque", content=b""), 400, "BAD_PLAN")
    refused(http.post("/run-inference/good", content=data), 400, "MALFORMED")
    assert http.delete("/models/opaque").is_success and not sentinel.exists()


def test_s2_compressed_bodies_are_refused_unread(http: httpx.Client) -> None:
    body = gzip.compress(json.dumps({"model_id": "bad", "model": "x" * (10 * MIB)}).encode())
    for where in ("/serve-model/", "/run-inference/good"):
        answer = http.post(where, content=body, headers={"content-encoding": "gzip"})
        assert answer.status_code == 415 and answer.json()["code"] == "TOO_LARGE"


def _begin(node: NodeUnderTest, head: str, body: bytes = b"") -> str:
    """The status line that comes when only so much has been sent."""
    with socket.create_connection(("127.0.0.1", node.port), timeout=20) as connection:
        head = f"{head}\r\nHost: 127.0.0.1:{node.port}\r\nAuthorization: Bearer {TOKEN}\r\n"
        with contextlib.suppress(ConnectionError):  # it answered and closed before all was sent
            connection.sendall(head.encode() + body)
        return connection.recv(4096).split(b"\r\n")[0].decode()


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", "text/plain"])
def test_s3_a_text_that_says_it_is_too_large_is_refused_before_it_comes(node: NodeUnderTest, kind: str) -> None:
    for where in ("/serve-model/", "/delete_model/", "/models/good"):
        head = f"POST {where} HTTP/1.1\r\nContent-Type: {kind}\r\nContent-Length: {64 * MIB + 1}"
        assert " 413 " in _begin(node, head, b"\r\n")


def test_s3_a_body_larger_than_anything_is_refused_before_it_comes(node: NodeUnderTest) -> None:
    for where, kind in (("/serve-model/", "multipart/form-data; boundary=x"), ("/run-inference/good", "")):
        for length in (4096 * MIB, 10**30):
            head = f"POST {where} HTTP/1.1\r\nContent-Type: {kind}\r\nContent-Length: {length}"
            assert _begin(node, head, b"\r\n").split()[1] in ("413", "400")


def test_s3_a_text_that_goes_on_and_on_is_cut_off(node: NodeUnderTest) -> None:
    piece = b"100000\r\n" + b" " * MIB + b"\r\n"
    head = "POST /serve-model/ HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked"
    assert " 413 " in _begin(node, head, b"\r\n" + piece * 66)


def test_s3_a_field_of_a_form_that_goes_on_and_on_is_cut_off(http: httpx.Client) -> None:
    answer = http.post("/serve-model/", files={"model_id": (None, "x" * (2 * MIB)), "model": ("m", tiny_model())})
    assert refused(answer, 400, "BAD_REQUEST")["error"].startswith("the form can't be read")


def test_s4_lies_about_sizes(http: httpx.Client) -> None:
    data = tiny_model()
    plan = int.from_bytes(data[4:8], "little")
    start = 8 + plan
    lies = {
        "the plan's length": data[:4] + b"\xff\xff\xff\xff" + data[8:],
        "the header's length": data[:start] + b"\xff" * 7 + b"\x7f" + data[start + 8 :],
        "an offset": data.replace(b"[0,32]", b"[0,99]"),
        "a shape": data.replace(b'"shape":[4,2]', b'"shape":[9,9]'),
        "a huge shape": data.replace(b'"shape":[4,2]', b'"shape":[4611686018427387904,2]'),
        "a dtype": data.replace(b'"F32"', b'"X32"'),
        "cut": data[:-1],
        "longer": data + b"\0",
    }
    for why, lie in lies.items():
        assert lie != data, why
        refused(serve(http, "bad", lie), 400, "MALFORMED")


def test_s6_json_that_is_hard_to_read(node: NodeUnderTest, http: httpx.Client) -> None:
    bodies = [
        b"[" * 100_000,
        b'{"model_id": "a", "model_id": "b", "model": "x"}',
        b'{"model_id": NaN}',
        b'{"model_id": ' + b"9" * 100_000 + b"}",
        b'\xef\xbb\xbf{"model_id": "a"}',
        b'{"model_id": "\xff"}',
    ]
    for body in bodies:
        refused(http.post("/serve-model/", content=body), 400, "BAD_JSON")
    refused(http.post("/serve-model/", content=b'{"model_id": "\\ud800", "model": "x"}'), 400, "BAD_JSON")
    told = talk(
        node,
        '{"type": "delete-model", "model_id": "\\ud800"}',
        '{"type": "\\ud800"}',
        '{"type": "socket-ping", "request_id": "\\ud800"}',
        {"type": "socket-ping"},
        token=TOKEN,
    )
    assert [answer.get("code") for answer in told] == ["BAD_JSON"] * 3 + [None]
