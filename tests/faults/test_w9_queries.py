"""W9: whatever stands in a filter, an order, a search, a tag or an id is a value. No text becomes SQL or a pattern, and
no number is taken for a name (CVE-2023-28635)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gridkit.client.paths import path_of
from tests.datasets import X, publish
from tests.faults.routes import json_routes, place_of, routes_of
from tests.node.grid import refused, serve, talk
from tests.support import TOKEN, NodeUnderTest, host_files, tiny_plan

INJECTIONS = [
    "'",
    "' OR '1'='1",
    "' OR 1=1 --",
    "x'; DROP TABLE model; --",
    "x' UNION SELECT name, password, role, 1, 2, 3 FROM account --",
    "(SELECT digest FROM token)",
    "id' COLLATE NOCASE --",
    "good' || '",
    "%",
    "g__d",
    "goo_",
    "g*",
    "GOOD",
    "\\",
    "%' ESCAPE '%",
    ":name",
    "%(name)s",
    "NULL",
]
"""none of them is the id, the name or the tag of anything"""
COLUMNS = [
    "policy",
    "digest",
    "password",
    "rowid",
    "id desc",
    "id, password",
    "model.id",
    "1",
    "__class__",
    "key",
    "ID",
]


@pytest.fixture(scope="module", autouse=True)
def kept(node: NodeUnderTest) -> Iterator[None]:
    """An account, a dataset and a training beside the model; all is the same afterwards."""

    def told() -> list[Any]:
        names = ("/users", "/models/", "/datasets", "/dataset-tags", "/model-centric/processes")
        return [http.get(name).json() for name in names]

    with node.http() as http:
        node.add_user("good")
        publish(http, "good", X, tags=["good"], description="a good one")
        assert http.post("/model-centric/host-training", files=host_files(tiny_plan(), {}, "good")).status_code == 200
        before = told()
        yield
        assert told() == before


@pytest.mark.parametrize("text", INJECTIONS)
def test_w9_in_every_place_of_every_route(node: NodeUnderTest, http: httpx.Client, tmp_path: Path, text: str) -> None:
    """In paths, in each member of queries and of bodies: nothing is found, and nothing fails."""
    query = {name: text for name in ("filter", "name", "version", "checkpoint", "worker_id", "request_key", "model_id")}
    for method, path in routes_of(tmp_path, "GET", "DELETE"):
        if path == "/events":
            continue
        answer = http.request(method, place_of(path, text), params=query)
        unbuilt = path.startswith("/join") and '"NOT_BUILT"' in answer.text
        assert answer.status_code < 500 or unbuilt, (method, path, answer.text)
        found = answer.json() if "json" in answer.headers["content-type"] else {}
        assert "{" not in path or answer.is_error or found.get("success") is False, (method, path, answer.text)
    for listing in ("/detailed_models_list/", "/datasets"):
        assert http.get(listing, params={"filter": text}).json()["total"] == (text == "GOOD"), listing
    names = ("model_id", "name", "user", "username", "query", "worker_id", "request_key", "model", "model_name", "role")
    members: dict[str, Any] = {**dict.fromkeys(names, text), "password": "long enough", "size": text, "address": text}
    for method, path in json_routes(tmp_path):
        answer = http.request(method, place_of(path, text), json=members)
        assert answer.is_error or answer.json().get("content") is False, (method, path, answer.text)
        assert answer.status_code < 500, (method, path, answer.text)
    for wish in ({"name": text, "version": text}, {"name": "good", "version": text}):
        told = talk(
            node,
            *({"type": f"model-centric/{what}", "data": wish} for what in ("stop", "retrieve-model", "worker-token")),
            *({"type": what, "model_id": text} for what in ("delete-model", "download-model", "model-chunk")),
            token=TOKEN,
        )
        assert all('"code"' in json.dumps(answer) and "INTERNAL" not in json.dumps(answer) for answer in told), told


@pytest.mark.parametrize("column", COLUMNS)
def test_w9_lists_are_ordered_by_what_they_show(http: httpx.Client, column: str) -> None:
    for listing in ("/detailed_models_list/", "/detailed-models-list", "/datasets"):
        refused(http.get(listing, params={"sort": column}), 400, "BAD_REQUEST")
    for direction in ("desc", "1", "True; --", ""):
        refused(http.get("/datasets", params={"sort": "id", "descending": direction}), 400, "BAD_REQUEST")


def test_w9_a_search_of_many_items_is_bounded(http: httpx.Client) -> None:
    """As many as there may be, each an injection; more are refused before they are a query."""
    many = [f"' OR {number}={number} --" for number in range(100)]
    assert http.post("/search", json={"query": many}).json()["content"] is False
    refused(http.post("/search", json={"query": [*many, "x"]}), 400, "BAD_REQUEST")
    assert http.post("/search", json={"query": ["good", "a good"]}).json()["content"] is True
    for wish in (5, True, None, {"$gt": ""}, [["good"]], [1], [None], [], ""):
        refused(http.post("/search", json={"query": wish}), 400, "BAD_REQUEST")


def test_w9_a_number_is_no_name(node: NodeUnderTest, http: httpx.Client) -> None:
    """The first account, model and token have the number 1 at most: nobody is called that."""
    with node.http(None) as nobody:
        for name in (1, "1", True, None, ["good"], {"name": "good"}, 0):
            assert nobody.post("/users/login", json={"username": name, "password": "x" * 9}).status_code in (400, 401)
            assert http.post("/users", json={"name": name, "role": 1}).status_code == 400
            if name is not None:
                assert http.post("/tokens", json={"user": name}).status_code in (400, 404)
    for route in ("/users", "/tokens", "/workers", "/models", "/datasets", "/uploads"):
        for number in ("1", "0", "-1", "1.0", "%31"):
            assert http.delete(f"{route}/{number}").status_code == 404, (route, number)
    plan = {"worker_id": "1", "request_key": "1", "plan_id": "1"}
    assert http.get("/model-centric/get-plan", params=plan).status_code == 401
    assert http.get("/model-centric/retrieve-model", params={"name": "1"}).status_code == 404


def test_w9_the_originals_ids_that_are_numbers_are_their_text(node: NodeUnderTest, http: httpx.Client) -> None:
    """`model_id` 1 and "1" are one model, and no other that is equal as a number (the specification's type traps)."""
    assert serve(http, "1").status_code == 200 and serve(http, "01").status_code == 200
    shown = {"success": True}
    for id in (1, "1"):
        told = talk(node, {"type": "download-model", "model_id": id}, token=TOKEN)
        assert "serialized_model" in told[0], told
    for odd in (True, 1.0, None, [1], {"id": 1}):
        told = talk(node, {"type": "delete-model", "model_id": odd}, token=TOKEN)
        assert told[0]["code"] == "BAD_REQUEST", (odd, told)
        refused(http.post("/delete-model", json={"model_id": odd}), 400, "BAD_REQUEST")
    assert http.post("/delete-model", json={"model_id": 1}).is_success
    assert http.get(path_of("is_model_copy_allowed", "01")).json() == shown
    assert http.delete("/models/01").is_success
