"""W8: ids of every kind on every route and in every message are names. None becomes a path, and none another's."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import pytest

from gridkit.client.paths import path_of
from gridkit.node.routes.socket import HANDLERS
from gridkit.wire.safetensors import pack_tensors
from tests.datasets import X, publish
from tests.faults.routes import place_of, routes_of
from tests.node.grid import OCTETS, refused, serve, talk
from tests.raw import exchange, head, statuses
from tests.support import TOKEN, NodeUnderTest, host_files, tiny_model, tiny_plan

ALL = ("GET", "POST", "PUT", "PATCH", "DELETE")
OUTSIDE = [
    "../secret",
    "../../../../../../etc/passwd",
    "..\\..\\secret",
    "..%2fsecret",
    "%2e%2e%2fsecret",
    "%252e%252e%252fsecret",
    "....//secret",
    "/etc/passwd",
    "//host/share",
    "\\\\host\\share",
    "\\\\?\\C:\\secret",
    "C:\\secret",
    "file:///etc/passwd",
    "link",
    "../link",
    ".",
    "..",
    "~",
    "~root/.ssh/id_rsa",
    "$HOME",
    "secret",
    "token",
    "../token",
    "blobs",
    "grid.db",
    "audit.jsonl",
    "CON",
    "secret.",
    "x" * 200,
]
"""names of files, some of which the data folder has"""
NONE = ["x" * 201, "x" * 20_000, "a\0b", "../secret\0.safetensors", "a\nb", "a\x1b[31mb", "\x85"]
"""no ids of anything"""
ALIKE = ["a", "A", "a ", "ａ", "\u0430", "é", "e\u0301", "1", "01", "1.0", "+1", "１", "true", "True", "a\u200b"]
"""ids that look alike, or would be one as numbers or flags, and are each another"""
KEPT = re.compile(
    r"(secret|token|identity|lock|link|audit\.jsonl|grid\.db(-wal|-shm)?|blobs|blobs/[0-9a-f]{2}(/[0-9a-f]{64})?)"
)
"""what may lie in the data folder"""
INSIDE = b"what stands in the file that a link leads to"


@pytest.fixture(scope="module", autouse=True)
def nothing_strays(node: NodeUnderTest) -> object:
    """Beside the data folder lies a file to which a link in it leads; afterwards nothing else has come to lie there,
    and in the folder are only files that a node makes."""
    around = node.data.parent
    (around / "outside").write_bytes(INSIDE)
    (node.data / "link").symlink_to(around / "outside")
    yield None
    strange = [str(path) for path in _below(node.data) if not KEPT.fullmatch(str(path))]
    assert strange == []
    assert sorted(path.name for path in around.iterdir()) == [node.data.name, "outside"]
    assert (around / "outside").read_bytes() == INSIDE


def _below(folder: Path) -> list[Path]:
    return [path.relative_to(folder) for path in sorted(folder.rglob("*"))]


def secrets_of(node: NodeUnderTest) -> list[bytes]:
    return [INSIDE, (node.data / "secret").read_bytes().strip(), TOKEN.encode(), b"root:", b"SQLite format"]


def holes(folder: Path) -> list[tuple[str, str]]:
    """The routes with an id in their path."""
    return [(method, path) for method, path in routes_of(folder, *ALL) if "{" in path]


@pytest.mark.parametrize("id", OUTSIDE)
def test_w8_a_path_for_an_id_finds_nothing(node: NodeUnderTest, http: httpx.Client, tmp_path: Path, id: str) -> None:
    """Escaped once and twice; as a client wouldn't: see the test of paths that are not walked."""
    once = quote(id, safe="").replace(".", "%2E")
    for method, path in holes(tmp_path):
        for spelled in (once, quote(once, safe="")):
            before, _, rest = path.partition("{")
            answer = http.request(method, before + spelled + rest.partition("}")[2], content=b"{}")
            found = answer.is_success and answer.json().get("success", True)  # some tell it in a 200, as the original
            assert not found and answer.status_code < 500, (method, path, spelled, answer.text)
            assert not [secret for secret in secrets_of(node) if secret in answer.content], (method, path, spelled)


@pytest.mark.parametrize("id", NONE)
def test_w8_what_is_no_id_is_refused_everywhere(
    node: NodeUnderTest, http: httpx.Client, tmp_path: Path, id: str
) -> None:
    for method, path in holes(tmp_path):
        answer = http.request(method, place_of(path, id), content=b"{}")
        assert answer.status_code in (400, 404), (method, path, answer.text)
        assert len(answer.content) < 2000, (method, path)


def test_w8_paths_are_not_walked(node: NodeUnderTest) -> None:
    """As they stand in the request line; libraries of clients would resolve these. None leads to another route."""
    for path in (
        "/models/../users",
        "/models/../../secret",
        "/status/../users",
        "/models/..;/users",
        "/models/%2e%2e/users",
        "/models/..%2fusers",
        "/models/%2e%2e%2f%2e%2e%2fsecret",
        "/./users",
        "/%75sers/../tokens",
        "//../users",
        "\\users",
        "/..\\users",
        "/models\\..\\users",
        "/get_model/../../../secret",
        "/datasets/../../audit",
    ):
        for token in (TOKEN, None):
            answer = exchange(node, head(node, f"GET {path} HTTP/1.1", token=token))
            assert statuses(answer)[0] in (400, 401, 404), (path, answer[:300])
            assert not [secret for secret in secrets_of(node) if secret in answer], path


@pytest.mark.parametrize("id", [*OUTSIDE, *NONE])
def test_w8_in_messages(node: NodeUnderTest, id: str) -> None:
    """Every member that names something, in every message, at the top and in `data`."""
    names = ("model_id", "model_name", "name", "id", "upload_id", "worker_id", "request_key", "username", "model")
    members = {**dict.fromkeys(names, id), "version": id, "plan_id": id, "checkpoint": id, "address": id}
    kinds = [kind for kind in HANDLERS if HANDLERS[kind][0] not in ("login", "host-model")]
    sent = [{"type": kind, **members, "data": members} for kind in kinds]
    for kind, answer in zip(kinds, talk(node, *sent, token=TOKEN), strict=True):
        text = json.dumps(answer)
        assert '"code": "' in text or HANDLERS[kind][0] in ("status", "list-models"), (kind, answer)
        assert "INTERNAL" not in text and len(text) < 4000, (kind, answer)
        assert not [secret for secret in secrets_of(node) if secret.decode() in text]


@pytest.mark.parametrize("version", ["../1", "1/../2", "1.0", "01x", "-1", "0", "\u0661", "9" * 17, "", "latest", " 1"])
def test_w8_versions_are_numbers(node: NodeUnderTest, http: httpx.Client, version: str) -> None:
    for place in ("/models/good", "/get_model/good", "/run-inference/good"):
        method = "POST" if "run" in place else "GET"
        refused(http.request(method, place, params={"version": version}, content=b""), 400, "BAD_REQUEST")
    told = talk(
        node, {"type": "download-model", "model_id": "good", "version": version}, {"type": "socket-ping"}, token=TOKEN
    )
    assert [told[0]["code"], told[1]["alive"]] == ["BAD_REQUEST", "True"]


def test_w8_objects_with_such_names_lie_where_all_lie(node: NodeUnderTest, http: httpx.Client) -> None:
    """A model over HTTP and one by a message, a dataset with a tag and a column, a training, a token's label."""
    data, column = tiny_model(7.0), pack_tensors([np.arange(4, dtype=np.float32)]).tobytes()
    for number, id in enumerate(OUTSIDE):
        assert serve(http, id, data).json()["id"] == id
        assert http.delete(path_of("models", id)).is_success
        host = {"type": "host-model", "model_id": id, "model": data.decode("latin-1"), "allow_download": "True"}
        rest = [{"type": kind, "model_id": id} for kind in ("download-model", "delete-model")]
        told = talk(node, host, *rest, token=TOKEN)
        assert told[1]["serialized_model"].encode("latin-1") == data and told[2]["success"] is True
        made = publish(http, id, column, kind="frame", columns=[id], tags=[id])
        assert (made.status_code, made.json()["columns"], made.json()["tags"]) == (201, [id], [id])
        assert http.get(path_of("dataset-data", id)).content == column
        if number % 6 == 0:
            files = host_files(tiny_plan(), {"num_cycles": 1}, id, id)
            assert http.post("/model-centric/host-training", files=files).status_code == 200
            assert http.post("/tokens", json={"label": id}).json()["label"] == id
    assert f"/{hashlib.sha256(column).hexdigest()}" in "".join(node.files())
    for id in OUTSIDE:
        assert http.delete(path_of("datasets", id)).is_success


def test_w8_the_name_of_a_file_is_not_looked_at(node: NodeUnderTest, http: httpx.Client) -> None:
    for name in ("../../evil", "/etc/cron.d/evil", "C:\\evil", "evil\0.py", "x" * 3000, "model.safetensors", "m.pt"):
        form = {"model_id": "named", "allow_download": "True"}
        answer = http.post("/serve-model/", data=form, files={"model": (name, tiny_model(), "application/x-evil")})
        assert answer.status_code == 200, answer.text
        assert http.get("/get_model/named", headers=OCTETS).content == tiny_model()
        assert "content-disposition" not in http.get("/get_model/named", headers=OCTETS).headers
        assert http.delete("/models/named").is_success


def test_w8_ids_that_look_alike_are_each_another(node: NodeUnderTest, http: httpx.Client) -> None:
    """Of models and of datasets; deleting one leaves the others (CVE-2023-28635 was a name that is a number, too)."""
    for number, id in enumerate(ALIKE):
        assert serve(http, id, tiny_model(float(number))).status_code == 200, id
        assert publish(http, id, X + number).status_code == 201, id
    for number, id in enumerate(ALIKE):
        assert http.get(path_of("get_model", id), headers=OCTETS).content == tiny_model(float(number)), id
        assert http.get(path_of("dataset-data", id)).content == pack_tensors([X + number]).tobytes(), id
    for gone, id in enumerate(ALIKE, 1):
        assert http.delete(path_of("models", id)).is_success and http.delete(path_of("datasets", id)).is_success
        left = [model for model in http.get("/models/").json()["models"] if model != "good"]
        assert left == ALIKE[gone:]
