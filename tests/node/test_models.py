"""Models on a node: versions, pages, owners, counts, what is kept and what goes."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.node.grid import OCTETS, infer, path, refused, serve
from tests.support import NodeUnderTest, tiny_model

ONE = np.ones((1, 4), np.float32)


@pytest.fixture
def http(node: NodeUnderTest) -> Iterator[httpx.Client]:
    with node.http() as http:
        yield http
        for model_id in http.get("/models/").json()["models"]:
            http.delete(path("models", model_id))


@pytest.fixture(scope="module")
def scientists(node: NodeUnderTest) -> Iterator[dict[str, httpx.Client]]:
    clients = {}
    with node.http() as owner:
        for name in ("alice", "bob"):
            wish = {"name": name, "role": "data scientist", "password": f"{name}'s long password"}
            assert owner.post("/users", json=wish).is_success
            login = owner.post("/users/login", json={"username": name, "password": wish["password"]}).json()
            clients[name] = node.http(login["token"])
    yield clients
    for client in clients.values():
        client.close()


def page(http: httpx.Client, **query: Any) -> tuple[list[str], int]:
    answer = http.get("/detailed_models_list/", params=query)
    assert answer.status_code == 200, answer.text
    return [row["id"] for row in answer.json()["models"]], answer.json()["total"]


# ---- versions


def test_a_new_version_is_explicit_and_the_old_ones_stay(http: httpx.Client) -> None:
    serve(http, "a", tiny_model(1.0))
    refused(serve(http, "a", tiny_model(2.0)), 409, "ALREADY_EXISTS")
    refused(serve(http, "a", tiny_model(2.0), new_version="False"), 409, "ALREADY_EXISTS")
    assert serve(http, "a", tiny_model(2.0), new_version="True", allow_download="False").json()["version"] == 2
    assert infer(http, "a", ONE)[0][0, 0] == 8.0 and infer(http, "a", ONE, version=1)[0][0, 0] == 4.0
    row = http.get("/models/a").json()
    assert (row["version"], row["versions"], row["allow_download"]) == (2, 2, False)
    old = http.get("/models/a", params={"version": 1}).json()
    assert (old["version"], old["versions"], old["allow_download"]) == (1, 2, True)
    refused(http.get("/get_model/a", headers=OCTETS), 403, "NOT_ALLOWED")
    answer = http.get("/get_model/a", params={"version": 1}, headers=OCTETS)
    assert answer.content == tiny_model(1.0) and answer.headers["x-gridkit-version"] == "1"
    refused(http.get("/get_model/a", params={"version": 3}, headers=OCTETS), 404, "NOT_FOUND")
    assert page(http) == (["a"], 1)
    http.delete("/models/a")
    refused(http.get("/models/a", params={"version": 1}), 404, "NOT_FOUND")
    assert serve(http, "a").json()["version"] == 1


def test_a_new_version_of_what_is_not_there_is_the_first(http: httpx.Client) -> None:
    assert serve(http, "a", new_version="True").json()["version"] == 1


def test_inference_follows_what_is_hosted_now(http: httpx.Client) -> None:
    """The rows that inference remembers are forgotten with every change."""
    serve(http, "a", tiny_model(1.0))
    assert infer(http, "a", ONE)[0][0, 0] == 4.0
    serve(http, "a", tiny_model(2.0), new_version="True")
    assert infer(http, "a", ONE)[0][0, 0] == 8.0
    http.delete("/models/a")
    refused(http.post("/run-inference/a"), 404, "NOT_FOUND")
    serve(http, "a", tiny_model(3.0), allow_remote_inference="False")
    refused(http.post("/run-inference/a"), 403, "NOT_ALLOWED")


def test_of_many_that_host_one_id_one_does(node: NodeUnderTest, http: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda k: serve(http, "a", tiny_model(k)).status_code, range(8)))
    assert sorted(answers) == [200, *[409] * 7]
    digest = http.get("/models/a").json()["digest"]
    assert [Path(name).name for name in node.files()] == [digest]


# ---- owners


def test_w12_only_who_owns_a_model_replaces_or_deletes_it(
    http: httpx.Client, scientists: dict[str, httpx.Client]
) -> None:
    alice, bob = scientists["alice"], scientists["bob"]
    assert serve(alice, "hers").json()["owner"] == "alice"
    assert serve(http, "the node's").json()["owner"] == "owner"
    for other in ("hers", "the node's"):
        assert infer(bob, other, ONE)[0].shape == (1, 2)
        refused(serve(bob, other, new_version="True"), 403, "FORBIDDEN")
        refused(bob.delete(path("models", other)), 403, "FORBIDDEN")
        refused(bob.post("/delete_model/", data={"model_id": other}), 403, "FORBIDDEN")
    assert serve(alice, "hers", tiny_model(2.0), new_version="True").json()["version"] == 2
    assert serve(http, "hers", new_version="True").json() | {"owner": "alice", "version": 3} == http.get(
        "/models/hers"
    ).json() | {"message": "Model saved with id: hers"}
    assert alice.delete("/models/hers").is_success
    serve(bob, "hers")
    assert http.delete("/models/hers").is_success


def test_the_flags_hold_for_the_owner_too(http: httpx.Client) -> None:
    serve(http, "a", allow_download="False", allow_remote_inference="False")
    refused(http.get("/get_model/a"), 403, "NOT_ALLOWED")
    refused(http.post("/run-inference/a"), 403, "NOT_ALLOWED")


def test_nobody_without_a_token(node: NodeUnderTest, http: httpx.Client) -> None:
    serve(http, "a")
    before = node.files()
    with node.http(None) as nobody:
        calls = [("GET", w) for w in ("/models/", "/models/a", "/detailed_models_list/", "/is_model_copy_allowed/a")]
        calls += [
            ("GET", "/get_model/a"),
            ("POST", "/serve-model/"),
            ("POST", "/delete_model/"),
            ("DELETE", "/models/a"),
        ]
        calls += [("POST", "/run-inference/a"), ("POST", "/models/a"), ("POST", "/model/a")]
        for method, where in calls:
            refused(nobody.request(method, where), 401, "UNAUTHENTICATED")
    assert node.files() == before and page(http) == (["a"], 1)


# ---- pages


def test_pages(http: httpx.Client, scientists: dict[str, httpx.Client]) -> None:
    for number in range(5):
        serve(http, f"model {number}", tiny_model(columns=5 - number))
    serve(scientists["alice"], "Other")
    names = [f"model {number}" for number in range(5)]
    assert page(http) == ([*names, "Other"], 6)
    assert page(http, sort="id") == (["Other", *names], 6)
    assert page(http, sort="id", descending="True", limit=2) == (["model 4", "model 3"], 6)
    assert page(http, offset=4, limit=10) == (["model 4", "Other"], 6)
    assert page(http, offset=6) == ([], 6)
    assert page(http, sort="size", filter="MODEL", limit=3) == (names[:1:-1], 5)
    assert page(http, filter="alice") == (["Other"], 1)
    infer(http, "model 3", ONE)
    assert page(http, sort="uses", descending="True", limit=1) == (["model 3"], 6)
    assert page(http, sort="last_used", limit=1) == (["model 3"], 6)


@pytest.mark.parametrize(
    "query",
    [
        {"sort": "digest"},
        {"sort": "id; DROP TABLE model"},
        {"sort": ""},
        {"limit": "0"},
        {"limit": "1001"},
        {"limit": "-1"},
        {"limit": "x"},
        {"offset": "-1"},
        {"offset": "1e3"},
        {"offset": "9" * 30},
        {"offset": "\u0663"},
        {"descending": "true"},
        {"filter": "x" * 201},
    ],
)
def test_w9_a_query_that_is_none_is_refused(http: httpx.Client, query: dict[str, str]) -> None:
    refused(http.get("/detailed_models_list/", params=query), 400, "BAD_REQUEST")


def test_w9_a_filter_is_a_text_and_no_pattern(http: httpx.Client) -> None:
    names = ["100%", "a_b", "a/b", "axb", "'; DROP TABLE model --", '"', "\\"]
    for name in names:
        assert serve(http, name).is_success
    for name in names:
        assert page(http, filter=name) == ([name], 1), name
    for pattern in ("%%", "a_x", "' OR 1=1", "*", "a?b"):
        assert page(http, filter=pattern) == ([], 0)
    assert page(http, filter="a") == (["a_b", "a/b", "axb", names[4]], 4)
    refused(http.delete(path("models", "' OR '1'='1")), 404, "NOT_FOUND")
    refused(http.delete(path("models", "%")), 404, "NOT_FOUND")
    assert page(http)[1] == len(names)


# ---- ids


@pytest.mark.parametrize(
    "model_id",
    [
        "../../etc/passwd",
        "a/b",
        "a//b",
        "/",
        "//",
        "a/",
        "..%2f..",
        "%2e%2e",
        "%00",
        "C:\\x",
        "\\\\host\\x",
        "ａ",
        "a b?c#d",
        "…",
    ],
)
def test_w8_ids_are_opaque(node: NodeUnderTest, http: httpx.Client, model_id: str) -> None:
    data = tiny_model(float(len(model_id)))
    assert serve(http, model_id, data).json()["id"] == model_id
    assert http.get("/models/").json()["models"] == [model_id]
    assert http.get(path("models", model_id)).json()["id"] == model_id
    assert http.get(path("is_model_copy_allowed", model_id)).json() == {"success": True}
    assert http.get(path("get_model", model_id), headers=OCTETS).content == data
    assert infer(http, model_id, ONE)[0].shape == (1, 2)
    assert [Path(name).name for name in node.files()] == [hashlib.sha256(data).hexdigest()]
    assert http.delete(path("models", model_id)).is_success


@pytest.mark.parametrize("model_id", ["", "a\0b", "a\nb", "\x7f", "\u0085", "x" * 201])
def test_w8_ids_that_are_none(node: NodeUnderTest, http: httpx.Client, model_id: str) -> None:
    refused(serve(http, model_id), 400, "BAD_REQUEST")
    if model_id:
        refused(http.get(path("get_model", model_id)), 400, "BAD_REQUEST")
    refused(http.post("/delete_model/", json={"model_id": model_id}), 400, "BAD_REQUEST")
    assert page(http) == ([], 0) and node.files() == {}


# ---- what is kept


def test_bytes_go_with_the_last_model_that_has_them(node: NodeUnderTest, http: httpx.Client) -> None:
    one, two = tiny_model(1.0), tiny_model(2.0)
    serve(http, "a", one)
    serve(http, "b", one)
    serve(http, "b", two, new_version="True")
    refused(serve(http, "b", tiny_model(3.0)), 409, "ALREADY_EXISTS")
    refused(serve(http, "b", one), 409, "ALREADY_EXISTS")
    refused(serve(http, "c", one[:-1]), 400, "MALFORMED")

    def kept() -> set[str]:
        return {Path(name).name for name in node.files()}

    digests = [hashlib.sha256(data).hexdigest() for data in (one, two)]
    assert kept() == set(digests)
    http.delete("/models/b")
    assert kept() == {digests[0]} and http.get("/get_model/a", headers=OCTETS).content == one
    http.delete("/models/a")
    assert kept() == set()


def test_uses_and_downloads_are_counted_and_kept(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "data")
    try:
        with node.http() as http:
            serve(http, "a")
            serve(http, "b")
            for _ in range(3):
                infer(http, "a", ONE)
            http.get("/get_model/a")
            http.get("/get_model/a", headers=OCTETS)
            for part in ("bytes=0-9", "bytes=10-19", "bytes=20-"):  # one download
                http.get("/get_model/a", headers={**OCTETS, "range": part})
            http.get("/is_model_copy_allowed/a")
            refused(http.post("/run-inference/a", content=b""), 400, "MALFORMED")
            row = http.get("/models/a").json()
            assert (row["uses"], row["downloads"]) == (3, 3) and row["last_used"] > row["created_at"]
            infer(http, "a", ONE)
        assert node.terminate() == 0
        node.start()
        with node.http() as http:
            again = http.get("/models/a").json()
            assert again["last_used"] >= row["last_used"]
            assert again | {"last_used": 0} == row | {"last_used": 0, "uses": 4}
            assert http.get("/models/b").json()["last_used"] is None
            assert infer(http, "a", ONE)[0].shape == (1, 2)
    finally:
        node.terminate()


def test_c1_a_model_that_was_answered_for_survives_a_kill(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "data")
    try:
        with node.http() as http:
            assert serve(http, "a").is_success
            node.kill()
        node.start()
        with node.http() as http:
            assert http.get("/get_model/a", headers=OCTETS).content == tiny_model()
    finally:
        node.terminate()


def test_a_list_of_many(http: httpx.Client) -> None:
    data = tiny_model()
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda k: serve(http, f"m{k:03}", data).is_success, range(120)))
    shown = itertools.chain.from_iterable(page(http, sort="id", offset=at, limit=50)[0] for at in range(0, 150, 50))
    assert list(shown) == [f"m{k:03}" for k in range(120)]
    assert len(http.get("/detailed_models_list/").json()["models"]) == 120
