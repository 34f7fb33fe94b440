"""The grid's own API, row by row of the protocol's tables: both transports, good and bad input, no token (``--open``),
as the original's client comes."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import websockets

from gridkit.wire.safetensors import pack_tensors
from tests.node.grid import BOTH, OCTETS, infer, path, refused, serve, talk
from tests.support import NodeUnderTest, tiny_model

X = np.arange(8, dtype=np.float32).reshape(2, 4)
OPAQUE = b"\x28\x92\x01\x02" + bytes(range(256))  # PySyft's envelope without compression
NOT_FOUND = "Model not found."
PREFIXES = ("", "/data-centric", "/data_centric")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("open") / "data", "--open")
    yield node
    node.terminate()


@pytest.fixture
def http(node: NodeUnderTest) -> Iterator[httpx.Client]:
    with node.http(None) as http:
        yield http
        for model_id in http.get("/models/").json()["models"]:
            assert http.delete(path("models", model_id)).json()["success"] is True


def spellings(name: str, *ends: str) -> list[str]:
    names = dict.fromkeys((name, name.replace("-", "_")))
    return [f"{prefix}/{n}{end}" for prefix, n, end in itertools.product(PREFIXES, names, ends or ("", "/"))]


# ---- list, details


def test_list(node: NodeUnderTest, http: httpx.Client) -> None:
    assert http.get("/models/").json() == {"success": True, "models": []}
    for model_id in ("b", "a"):
        serve(http, model_id)
    for where in spellings("models"):
        assert http.get(where).json() == {"success": True, "models": ["b", "a"]}
    assert talk(node, {"type": "list-models"}) == [{"success": True, "models": ["b", "a"]}]


def test_details(http: httpx.Client) -> None:
    data = tiny_model()
    origin = {"name": "digits", "version": "1.0", "round": 3}
    serve(http, "a", data, allow_download="False", mpc="True", origin=json.dumps(origin))
    row = http.get("/models/a").json()
    expected = {"id": "a", "allow_download": False, "allow_remote_inference": True, "mpc": True}
    expected |= {"model_size": f"{len(data) / 1000}KB", "size": len(data), "kind": "plan", "owner": "", "version": 1}
    expected |= {"versions": 1, "origin": origin, "uses": 0, "downloads": 0, "last_used": None}
    expected |= {"inputs": [{"name": "x", "dtype": "float32", "shape": ["B", 4]}]}
    assert {name: row[name] for name in expected} == expected
    for where in spellings("detailed-models-list"):
        answer = http.get(where).json()
        assert answer == {"success": True, "total": 1, "models": [{k: v for k, v in row.items() if k != "success"}]}
    assert refused(http.get("/models/none"), 404, "NOT_FOUND")["error"] == NOT_FOUND
    refused(http.get("/models/a", params={"version": "2"}), 404, "NOT_FOUND")
    refused(http.get("/models/a", params={"version": "x"}), 400, "BAD_REQUEST")


def test_search_for_encrypted_models(http: httpx.Client) -> None:
    parties = {"workers": [["a", "http://a:5000"], ["b", "http://b:5000"]], "crypto_provider": ["c", "http://c:5000"]}
    serve(http, "shared", OPAQUE, mpc="True", parties=json.dumps(parties))
    serve(http, "unnamed", OPAQUE, mpc="True")
    serve(http, "clear")
    for where in spellings("search-encrypted-models"):
        answer = http.post(where, json={"model_id": "shared"})
        assert (answer.status_code, answer.json()) == (200, parties)
        for name in ("unnamed", "clear", "none"):
            assert (
                refused(http.post(where, json={"model_id": name}), 404, "NOT_FOUND")["error"] == "Model ID not found!"
            )
        for bad in (b"", b"{", b"[]", b'{"model": "shared"}', b'{"model_id": null}'):
            assert refused(http.post(where, content=bad), 400, "BAD_REQUEST")["error"] == "Invalid payload format"
    for lack in ({"workers": []}, {**parties, "workers": parties["workers"][:1]}, {**parties, "crypto_provider": "c"}):
        refused(serve(http, "bad", OPAQUE, mpc="True", parties=json.dumps(lack)), 400, "BAD_REQUEST")


# ---- host


@pytest.mark.parametrize("where", spellings("serve-model"))
def test_host_in_every_spelling(http: httpx.Client, where: str) -> None:
    answer = http.post(where, data={"model_id": "a", **BOTH}, files={"model": ("a", tiny_model())})
    body = answer.json()
    assert (answer.status_code, body["success"], body["message"]) == (200, True, "Model saved with id: a")


def test_host_in_every_form_keeps_every_byte(node: NodeUnderTest, http: httpx.Client) -> None:
    text = OPAQUE.decode("latin-1")
    fields = {"encoding": "ISO-8859-1", "allow_download": "True", "allow_remote_inference": "False"}
    parts = {name: (None, value) for name, value in {**fields, "model_id": "part", "model": text}.items()}
    answers = [
        serve(http, "file").json(),
        http.post("/serve-model/", data={**fields, "model_id": "bytes"}, files={"model": ("x", OPAQUE)}).json(),
        http.post("/serve-model/", files=parts),
        http.post("/serve-model/", data={**fields, "model_id": "form", "model": text}),
        http.post("/serve-model/", json={**fields, "model_id": "json", "model": text}),
        *talk(node, {"type": "host-model", **fields, "model_id": "message", "model": text}),
    ]
    told = [answer.json() if isinstance(answer, httpx.Response) else answer for answer in answers]
    names = ["file", "bytes", "part", "form", "json", "message"]
    assert [answer.get("message") for answer in told] == [f"Model saved with id: {name}" for name in names]
    for name in names[1:]:
        assert http.get(path("get_model", name), headers=OCTETS).content == OPAQUE
        assert http.get(path("models", name)).json()["kind"] == "opaque"


def test_ids_are_texts_and_numbers_too(node: NodeUnderTest, http: httpx.Client) -> None:
    text = tiny_model().decode("latin-1")
    http.post("/serve-model/", json={"model_id": 5, "model": text, "allow_download": True})
    told = talk(
        node,
        {"type": "host-model", "model_id": 6, "model": text, "allow_download": True},
        {"type": "download-model", "model_id": 5},
        {"type": "delete-model", "model_id": 6},
    )
    assert told[0]["message"] == "Model saved with id: 6" and told[1] == {"serialized_model": text}
    assert told[2]["success"] is True and http.get("/models/").json()["models"] == ["5"]


@pytest.mark.parametrize("flag", ["true", "TRUE", "yes", "", "1", 1, 0, None, [], {}])
def test_a_flag_that_is_neither(node: NodeUnderTest, http: httpx.Client, flag: object) -> None:
    members = {"model_id": "a", "model": tiny_model().decode("latin-1"), "allow_download": flag}
    refused(http.post("/serve-model/", json=members), 400, "BAD_REQUEST")
    (told,) = talk(node, {"type": "host-model", **members})
    assert (told["success"], told["code"]) == (False, "BAD_REQUEST") and "allow_download" in told["error"]
    if isinstance(flag, str):
        refused(serve(http, "a", allow_download=flag), 400, "BAD_REQUEST")
    assert http.get("/models/").json()["models"] == []


def test_what_is_missing_or_wrong_in_a_hosting(node: NodeUnderTest, http: httpx.Client) -> None:
    text = tiny_model().decode("latin-1")
    good = {"model_id": "a", "model": text}
    bad = [
        {"model": text},
        {"model_id": "a"},
        {**good, "model": ""},
        {**good, "model_id": ""},
        {**good, "model_id": True},
        {**good, "model_id": 1.5},
        {**good, "model_id": ["a"]},
        {**good, "encoding": "utf-8"},
        {**good, "encoding": "zip"},
        {**good, "origin": {"name": "a"}},
        {**good, "origin": "nothing"},
        {**good, "model": text + "\u0100"},
        {**good, "model": text[:50]},
        {**good, "model": "just a text"},
    ]
    for members in bad:
        answer = http.post("/serve-model/", json=members)
        assert answer.status_code == 400 and answer.json()["success"] is False, members
        (told,) = talk(node, {"type": "host-model", **members})
        assert told["success"] is False and told["error"] == answer.json()["error"]
    refused(http.post("/serve-model/", content=b"[]"), 400, "BAD_JSON")
    refused(http.post("/serve-model/", content=b"{"), 400, "BAD_JSON")
    assert http.get("/models/").json()["models"] == []


def test_an_id_that_exists_is_refused(node: NodeUnderTest, http: httpx.Client) -> None:
    serve(http, "a", tiny_model(1.0))
    body = refused(serve(http, "a", tiny_model(2.0)), 409, "ALREADY_EXISTS")
    assert body["error"] == "Model id already exists."
    (told,) = talk(node, {"type": "host-model", "model_id": "a", "model": tiny_model(2.0).decode("latin-1")})
    assert (told["success"], told["error"]) == (False, body["error"])
    assert http.get("/get_model/a", headers=OCTETS).content == tiny_model(1.0)


def upload(http: httpx.Client, data: bytes) -> str:
    upload_id = http.post("/uploads", json={"size": len(data)}).json()["upload_id"]
    half = len(data) // 2
    for at, piece in ((0, data[:half]), (half, data[half:])):
        assert http.patch(f"/uploads/{upload_id}", params={"offset": at}, content=piece).is_success
    return str(upload_id)


def test_host_what_was_uploaded_before(node: NodeUnderTest, http: httpx.Client) -> None:
    """An upload is used up by a hosting, but not by one that is refused for its id."""
    data = tiny_model(3.0)
    serve(http, "a")
    upload_id = upload(http, data)
    for members in ({"model_id": "a"}, {}):
        assert http.post("/serve-model/", json={"upload_id": upload_id, **members}).is_error
    members = {"upload_id": upload_id, "model_id": "b", "allow_download": True}
    assert http.post("/serve-model/", json=members).json()["message"] == "Model saved with id: b"
    assert http.get("/get_model/b", headers=OCTETS).content == data
    refused(http.post("/serve-model/", json={**members, "model_id": "c"}), 404, "NOT_FOUND")
    message = {"type": "host-model", "model_id": "c", "upload_id": upload(http, data[:-1])}
    told = talk(node, message, message)
    assert [answer["code"] for answer in told] == ["MALFORMED", "NOT_FOUND"]


# ---- download


def test_copy_allowed(http: httpx.Client) -> None:
    serve(http, "open")
    serve(http, "closed", allow_download="False")
    closed = {"success": False, "error": "You're not allowed to download this model."}
    for name, expected in (
        ("open", {"success": True}),
        ("closed", closed),
        ("none", {"success": False, "error": NOT_FOUND}),
    ):
        for where in spellings("is-model-copy-allowed", f"/{name}"):
            answer = http.get(where)
            assert (answer.status_code, answer.json()) == (200, expected)


def test_download(node: NodeUnderTest, http: httpx.Client) -> None:
    data = tiny_model()
    serve(http, "a", data)
    for where in spellings("get-model", "/a"):
        answer = http.get(where)
        assert answer.content.isascii() and answer.json()["serialized_model"].encode("latin-1") == data
    octets = http.get("/get_model/a", headers=OCTETS)
    assert octets.content == data and octets.headers["x-gridkit-version"] == "1"
    digest = http.get("/models/a").json()["digest"]
    assert octets.headers["etag"] == f'"{digest}"'
    part = http.get("/get_model/a", headers={**OCTETS, "range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, data[10:20])
    assert talk(node, {"type": "download-model", "model_id": "a"}) == [{"serialized_model": data.decode("latin-1")}]


def test_a_download_that_is_not_allowed_or_not_there(node: NodeUnderTest, http: httpx.Client) -> None:
    serve(http, "a", allow_download="False")
    for headers in ({}, OCTETS):
        body = refused(http.get("/get_model/a", headers=headers), 403, "NOT_ALLOWED")
        assert body["error"] == "You're not allowed to download this model."
        assert refused(http.get("/get_model/none", headers=headers), 404, "NOT_FOUND")["error"] == NOT_FOUND
    told = talk(
        node, *({"type": "download-model", "model_id": name} for name in ("a", "none")), {"type": "download-model"}
    )
    assert [(t["success"], t["code"]) for t in told] == [
        (False, c) for c in ("NOT_ALLOWED", "NOT_FOUND", "BAD_REQUEST")
    ]
    assert [t["error"] for t in told[:2]] == [body["error"], NOT_FOUND]


def test_a_large_model_comes_as_a_form(node: NodeUnderTest, http: httpx.Client) -> None:
    data = OPAQUE + bytes(range(100, 200)) * (1 << 20) + bytes(5 << 20)
    assert len(data) > 100 << 20
    serve(http, "large", data)
    assert talk(node, {"type": "download-model", "model_id": "large"}) == [{"success": False}]
    answer = http.get("/get_model/large")
    kind, _, boundary = answer.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/form-data"
    head, _, rest = answer.content.partition(b"\r\n\r\n")
    assert head == f'--{boundary}\r\nContent-Disposition: form-data; name="serialized_model"'.encode()
    assert rest.removesuffix(f"\r\n--{boundary}--\r\n".encode()).decode().encode("latin-1") == data


# ---- delete


def test_delete(node: NodeUnderTest, http: httpx.Client) -> None:
    done = {"success": True, "message": "Model deleted with success!"}
    wheres = spellings("delete-model")
    for where in wheres:
        for how in ({"data": {"model_id": "a"}}, {"json": {"model_id": "a"}}):
            serve(http, "a")
            assert http.post(where, **how).json() == done  # type: ignore[arg-type]
            assert refused(http.post(where, **how), 404, "NOT_FOUND")["error"] == NOT_FOUND  # type: ignore[arg-type]
    for where in spellings("models", "/a"):
        serve(http, "a")
        assert http.delete(where).json() == done
        refused(http.delete(where), 404, "NOT_FOUND")
    serve(http, "a")
    message = {"type": "delete-model", "model_id": "a"}
    told = talk(node, message, message, {"type": "delete-model"})
    assert told[0] == done and (told[1]["success"], told[1]["error"]) == (False, NOT_FOUND)
    assert told[2]["code"] == "BAD_REQUEST"
    refused(http.post("/delete_model/", data={}), 400, "BAD_JSON")


# ---- inference


def test_inference(node: NodeUnderTest, http: httpx.Client) -> None:
    serve(http, "a", tiny_model(0.5))
    expected = X @ np.full((4, 2), 0.5, np.float32)
    (result,) = infer(http, "a", X)
    assert result.dtype == np.float32 and np.array_equal(result, expected)
    text = pack_tensors([X]).tobytes().decode("latin-1")
    answer = {"success": True, "prediction": expected.tolist(), "dtype": "float32", "shape": list(expected.shape)}
    for where in (*spellings("models", "/a"), *spellings("model", "/a")):
        for how in ({"data": {"data": text, "encoding": "ISO-8859-1"}}, {"json": {"data": text}}):
            assert http.post(where, **how).json() == answer  # type: ignore[arg-type]
    message = {"type": "run-inference", "model_id": "a", "data": text, "encoding": "ISO-8859-1"}
    assert talk(node, message) == [answer]
    for where in spellings("run-inference", "/a"):
        assert http.post(where, content=pack_tensors([X]).tobytes()).status_code == 200


def test_an_inference_that_is_not_allowed_or_not_there(node: NodeUnderTest, http: httpx.Client) -> None:
    serve(http, "a", allow_remote_inference="False")
    text = pack_tensors([X]).tobytes().decode("latin-1")
    for name, status, code, error in (
        ("a", 403, "NOT_ALLOWED", "You're not allowed to run inference on this model."),
        ("none", 404, "NOT_FOUND", NOT_FOUND),
    ):
        (told,) = talk(node, {"type": "run-inference", "model_id": name, "data": text})
        bodies = [
            refused(http.post(f"/run-inference/{name}", content=text.encode("latin-1")), status, code),
            refused(http.post(f"/models/{name}", data={"data": text}), status, code),
            told,
        ]
        for body in bodies:
            assert (body["success"], body["error"], body.get("not_allowed", False)) == (False, error, status == 403)


def test_numbers_that_are_not_finite_come_back(node: NodeUnderTest, http: httpx.Client) -> None:
    serve(http, "a")
    x = np.full((1, 4), np.inf, np.float32)
    assert np.isinf(infer(http, "a", x)[0]).all()
    text = pack_tensors([x]).tobytes().decode("latin-1")
    (told,) = talk(node, {"type": "run-inference", "model_id": "a", "data": text})
    assert told["prediction"] == [[np.inf, np.inf]] == http.post("/models/a", json={"data": text}).json()["prediction"]


def test_inputs_that_do_not_fit(node: NodeUnderTest, http: httpx.Client) -> None:
    serve(http, "a")
    serve(http, "opaque", OPAQUE)
    good = pack_tensors([X]).tobytes()
    bad = {
        "nothing": b"",
        "cut": good[:-1],
        "text": b"[[1, 2, 3, 4]]",
        "none": pack_tensors([]).tobytes(),
        "two": pack_tensors([X, X]).tobytes(),
        "dtype": pack_tensors([X.astype(np.float64)]).tobytes(),
        "shape": pack_tensors([X[:, :3]]).tobytes(),
    }
    for why, data in bad.items():
        answer = http.post("/run-inference/a", content=data)
        assert answer.status_code == 400 and answer.json()["success"] is False, why
        (told,) = talk(node, {"type": "run-inference", "model_id": "a", "data": data.decode("latin-1")})
        assert told["error"] == answer.json()["error"]
    refused(http.post("/run-inference/opaque", content=good), 400, "BAD_PLAN")
    refused(http.post("/models/a", data={"data": good.decode("latin-1"), "encoding": "utf-8"}), 400, "BAD_REQUEST")
    refused(http.post("/models/a", json={}), 400, "BAD_REQUEST")
    assert infer(http, "a", X)[0].shape == (2, 2)


# ---- the socket itself


def test_the_small_messages(node: NodeUnderTest, http: httpx.Client) -> None:
    identity = http.get("/identity/").json()["identity"]
    told = talk(
        node, {"type": "get-id"}, {"type": "socket-ping"}, {"type": "syft-command", "msg_type": 1, "content": []}
    )
    assert told[:2] == [{"id": identity}, {"alive": "True"}]
    assert told[2]["success"] is False and told[2]["code"] == "UNKNOWN_TYPE"


def test_what_a_node_says_of_itself(node: NodeUnderTest, http: httpx.Client) -> None:
    (told,) = talk(node, {"type": "get-id"})
    for where in spellings("identity"):
        assert http.get(where).json() == {"success": True, "identity": told["id"]}
    for where in spellings("status"):
        answer = http.get(where).json()
        assert (answer["success"], answer["status"]) == (True, "ok")
    for where in spellings("workers"):
        assert http.get(where).json()["workers"] == []
    page = http.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/plain")


def test_login_is_for_the_socket(node: NodeUnderTest, http: httpx.Client) -> None:
    wish = {"name": "alice", "role": "data scientist", "password": "a long password"}
    with node.http() as owner:
        assert owner.post("/users", json=wish).is_success
    login = {"type": "authentication", "username": "alice", "password": "a long password"}
    model = {"type": "host-model", "model_id": "hers", "model": tiny_model().decode("latin-1")}
    before, wrong, missing, right, hosted, after = talk(
        node,
        {"type": "get-id"},
        {**login, "password": "wrong"},
        {"type": "authentication"},
        login,
        model,
        {"type": "get-id"},
    )
    assert (wrong["success"], wrong["error"]) == (False, "Invalid username/password!")
    assert missing["code"] == "BAD_REQUEST"
    assert right == {"success": "True", "id": f"alice_{before['id']}"}
    assert hosted["owner"] == "alice" and before == after
    refused(http.delete("/models/hers"), 403, "FORBIDDEN")
    (told,) = talk(node, {"type": "delete-model", "model_id": "hers"})
    assert told["success"] is False
    with node.http() as owner:
        assert owner.delete("/models/hers").is_success


def test_connect_node(node: NodeUnderTest, tmp_path: Path) -> None:
    other = NodeUnderTest(tmp_path / "other")
    try:
        with other.http() as http:
            identity = http.get("/identity/").json()["identity"]
        connect = {"type": "connect-node", "address": other.url, "id": identity}
        done, wrong, nobody, itself, missing = talk(
            node,
            {**connect, "auth": {"username": "alice", "password": "never sent"}},
            {**connect, "id": "another"},
            {**connect, "address": "http://127.0.0.1:1"},
            {**connect, "address": node.url},
            {"type": "connect-node"},
        )
        assert done == {"status": "Succesfully connected."}
        assert [answer["success"] for answer in (wrong, nobody, itself, missing)] == [False] * 4
        with node.http(None) as http:
            assert http.get("/workers/").json()["workers"] == [identity]
    finally:
        other.terminate()


def test_a_request_id_comes_back_with_results_and_errors(node: NodeUnderTest, http: httpx.Client) -> None:
    told = talk(
        node,
        {"type": "socket-ping", "request_id": "7"},
        {"type": "socket-ping", "request_id": 7},
        {"type": "download-model", "model_id": "none", "request_id": "8"},
        {"type": "nonsense", "request_id": "9"},
        {"type": "socket-ping", "request_id": {"a": 1}},
    )
    assert [answer.get("request_id") for answer in told] == ["7", 7, "8", "9", None]
    assert told[4]["code"] == "BAD_REQUEST"


@pytest.mark.parametrize("text", ["not json", "[]", "1", "{}", '{"type": 1}', '{"type": "nonsense"}', '{"type": NaN}'])
def test_a_bad_message_is_answered_in_both_shapes_and_the_socket_lives(node: NodeUnderTest, text: str) -> None:
    told, ping = talk(node, text, {"type": "socket-ping"})
    assert told["success"] is False and told["type"] == "error" and told["data"]["error"] == told["error"]
    assert ping == {"alive": "True"}


def test_a_binary_message_is_answered_by_a_binary_one_and_the_socket_lives(node: NodeUnderTest) -> None:
    told, ping = talk(node, OPAQUE, {"type": "socket-ping"})
    assert json.loads(told)["success"] is False and ping == {"alive": "True"}


def test_empty_messages_are_not_answered(node: NodeUnderTest) -> None:

    async def run() -> object:
        async with websockets.connect(node.url.replace("http", "ws") + "/") as socket:
            for message in ("", b"", json.dumps({"type": "socket-ping"})):
                await socket.send(message)
            return json.loads(await socket.recv())

    assert asyncio.run(run()) == {"alive": "True"}


def test_doubled_slashes_are_one(node: NodeUnderTest, http: httpx.Client) -> None:
    serve(http, "a")
    assert http.get(node.url + "//models//a").json()["id"] == "a"
    assert http.get(node.url + "///detailed_models_list//").json()["total"] == 1
