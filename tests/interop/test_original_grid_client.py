"""Each method of PyGrid's own client against a node that welcomes it (``--open``): what it sends, what it gets."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridkit.wire.safetensors import pack_tensors
from tests.interop.original_grid import MODEL_LIMIT_SIZE, OriginalClient
from tests.support import NodeUnderTest, tiny_model

pytestmark = pytest.mark.interop

ENVELOPE = b"\x29\x04\x22\x4d\x18"  # LZ4, as PySyft's messages begin
OPAQUE = ENVELOPE + bytes(range(256)) * 20 + random.Random(0).randbytes(3000)
X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data", "--open")
    with node.http() as http:
        wish = {"name": "ada", "role": "owner", "password": "analytical engine"}
        assert http.post("/users", json=wish).status_code == 200
    yield node
    node.terminate()


@pytest.fixture
def client(node: NodeUnderTest) -> Iterator[OriginalClient]:
    client = OriginalClient(node.url)
    yield client
    for model_id in client.models:
        client.delete_model(model_id)
    client.close()


def test_constructor_and_get_node_id(client: OriginalClient) -> None:
    assert isinstance(client.id, str) and client.id == client.get_node_id()
    status, kind, body = client.http("GET", "identity/")
    assert (status, kind) == (200, "application/json")
    assert json.loads(body) == {"success": True, "identity": client.id}


def test_authenticate(node: NodeUnderTest) -> None:
    user = {"username": "ada", "password": "analytical engine"}
    client = OriginalClient(node.url, auth=user)
    node_id = client.get_node_id()
    assert client.id == f"ada_{node_id}" and client.credentials is user  # the socket still answers the node's id
    for wrong in ({"username": "ada", "password": "no"}, {"username": "nobody", "password": "no"}):
        with pytest.raises(RuntimeError, match=r"^Invalid username/password!$"):
            client.authenticate(dict(wrong))
    client.close()


def test_connect_nodes(node: NodeUnderTest, client: OriginalClient, tmp_path: Path) -> None:
    other = NodeUnderTest(tmp_path / "data", "--open")
    try:
        second = OriginalClient(other.url)
        assert client.connect_nodes(second)["status"] == "Succesfully connected."
        assert second.connect_nodes(client)["status"] == "Succesfully connected."
        listed = json.loads(client.http("GET", "workers/")[2])
        assert listed["success"] is True and second.id in listed["workers"]
        second.credentials = {"username": "ada", "password": "hers on the other node", "type": "authentication"}
        assert client.connect_nodes(second)["status"] == "Succesfully connected."  # what it hands over isn't used
        second.id = "somebody else"
        assert "error" in client.connect_nodes(second)
        second.close()
    finally:
        other.terminate()


@pytest.mark.parametrize("chunk_size", [MODEL_LIMIT_SIZE, 1000], ids=["by message", "by form"])
@pytest.mark.parametrize("payload", [OPAQUE, tiny_model()], ids=["PySyft's bytes", "a plan"])
def test_serve_list_download_delete(node: NodeUnderTest, chunk_size: int, payload: bytes) -> None:
    client = OriginalClient(node.url, chunk_size=min(chunk_size, len(payload)))
    assert client.serve_model(payload, "mnist", allow_download=True) is True
    assert client.models == ["mnist"]
    with pytest.raises(RuntimeError, match=r"^Model id already exists\.$"):
        client.serve_model(payload, "mnist")
    assert client.download_model("mnist") == payload
    assert client.delete_model("mnist") is True
    assert client.models == []
    client.close()


def test_an_int_as_id_is_text(client: OriginalClient) -> None:
    assert client.serve_model(OPAQUE, 5, allow_download=True) is True
    assert client.models == ["5"] and client.download_model("5") == OPAQUE


def test_download_of_what_is_not_there_or_not_allowed(client: OriginalClient) -> None:
    client.serve_model(OPAQUE, "closed")
    with pytest.raises(RuntimeError, match=r"^You're not allowed to download this model\.$"):
        client.download_model("closed")
    with pytest.raises(RuntimeError, match=r"^Model not found\.$"):
        client.download_model("none")
    for name, status in (("closed", 403), ("none", 404)):
        assert client.http("GET", f"get_model/{name}")[0] == status
        answer = client.json({"type": "download-model", "model_id": name})
        assert answer["success"] is False and answer["error"]
    with pytest.raises(RuntimeError, match=r"^Model not found\.$"):
        client.delete_model("none")


def test_what_is_too_large_for_a_message_comes_over_http(client: OriginalClient) -> None:
    payload = ENVELOPE + b"a" * MODEL_LIMIT_SIZE
    assert client.serve_model(payload, "large", allow_download=True) is True
    assert client.json({"type": "download-model", "model_id": "large"}) == {"success": False}
    assert client.download_model("large") == payload


def test_run_remote_inference(client: OriginalClient) -> None:
    client.serve_model(tiny_model(0.5), "tiny", allow_remote_inference=True)
    data = pack_tensors([X]).tobytes()
    assert client.run_remote_inference("tiny", data) == (X @ np.full((4, 2), 0.5, np.float32)).tolist()
    client.serve_model(tiny_model(), "closed")
    with pytest.raises(RuntimeError, match=r"^You're not allowed to run inference on this model\.$"):
        client.run_remote_inference("closed", data)
    with pytest.raises(RuntimeError, match=r"^Model not found\.$"):
        client.run_remote_inference("none", data)


def test_pysyfts_models_and_tensors_are_never_run(client: OriginalClient) -> None:
    client.serve_model(OPAQUE, "opaque", allow_remote_inference=True)
    client.serve_model(tiny_model(), "tiny", allow_remote_inference=True)
    for model_id, data in (("opaque", pack_tensors([X]).tobytes()), ("tiny", OPAQUE)):
        with pytest.raises(RuntimeError):
            client.run_remote_inference(model_id, data)
    assert set(client.models) == {"opaque", "tiny"}


def test_pickles_are_refused_by_name(client: OriginalClient) -> None:
    bomb = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94."
    for size in (MODEL_LIMIT_SIZE, 10):
        client._chunk_size = size
        with pytest.raises(RuntimeError):
            client.serve_model(bomb, "bomb")
    text = bomb.decode("latin-1")
    answer = client.json({"type": "host-model", "encoding": "ISO-8859-1", "model_id": "bomb", "model": text})
    assert answer["code"] == "UNSAFE_FORMAT" and client.models == []


def test_binary_messages_are_answered_in_binary_and_the_socket_stays_open(client: OriginalClient) -> None:
    for message in (ENVELOPE + b"anything", b"\x28\x92\x01\x90", b"\x00"):
        answer = client.binary(message)
        assert isinstance(answer, bytes) and json.loads(answer)["error"]
    assert client.models == []


def test_serve_encrypted_model_stores_its_bytes_only(client: OriginalClient) -> None:
    """The plan goes in a binary message, which isn't understood; what is hosted then is PySyft's own bytes."""
    assert client.serve_encrypted_model(OPAQUE, ENVELOPE + b"plan") is True
    assert client.download_model("secret") == OPAQUE
    body = json.dumps({"model_id": "secret"}).encode()
    assert client.http("POST", "search-encrypted-models", body)[0] == 404


def test_send_http_request_with_its_repeats(client: OriginalClient) -> None:
    listed = {"success": True, "models": []}
    assert json.loads(client._send_http_request("models/", "GET", unhexlify=False)) == listed
    assert json.loads(client._send_http_request("models/", "GET", N=3)) == listed  # no hex: asked again, N times
    assert client.http("GET", "no-such-route")[0] == 404


def test_json_booleans_are_flags_too_and_other_texts_are_none(client: OriginalClient) -> None:
    message: dict[str, Any] = {"type": "host-model", "encoding": "ISO-8859-1", "model": OPAQUE.decode("latin-1")}
    for value, taken in ((True, True), ("True", True), ("true", False), ("yes", False), (1, False)):
        answer = client.json({**message, "model_id": repr(value), "allow_download": value})
        assert bool(answer.get("success")) is taken, (value, answer)
    assert set(client.models) == {"True", "'True'"}


def test_a_request_id_is_echoed_and_a_bad_message_leaves_the_socket_open(client: OriginalClient) -> None:
    assert client.json({"type": "socket-ping", "request_id": 7}) == {"alive": "True", "request_id": 7}
    for message in ({"type": "no-such"}, {"type": "host-model"}, {"no": "type"}, [1]):
        assert client.json(message)["error"]  # type: ignore[arg-type]
    assert client.json({"type": "syft-command", "msg_type": 1, "content": []})["error"]
    assert client.get_node_id() == client.id
