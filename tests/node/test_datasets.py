"""Datasets on a real node: the original's two routes, lists, and what can and can't be published."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from gridkit.client.paths import path_of
from gridkit.policy import plan_digest
from gridkit.wire.safetensors import pack_tensors, read_tensors
from tests.datasets import MOCK, SUM, Clients, X, code, publish, run
from tests.support import NodeUnderTest

# -- the original's routes


@pytest.mark.parametrize("prefix", ["", "/data-centric", "/data_centric"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_tags_are_a_bare_list(clients: Clients, published: Callable[..., str], prefix: str, slash: str) -> None:
    published(tags=["#xray", "#chest"])
    published(tags=["#xray"])
    published(tags=["#secret"], policy={"see": "nobody"})
    for path in ("/dataset-tags", "/dataset_tags"):
        assert clients.bob.get(f"{prefix}{path}{slash}").json() == ["#chest", "#xray"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("#xray", True),
        (["#xray"], True),
        (["#xray", "#chest"], True),
        (["#xray", "of 40 patients"], True),
        (["#xray", "#hand"], False),
        ("#xra", False),
        ("of 40 patients", True),
        ("OF 40 PATIENTS", False),
        ("is this it?", False),
    ],
)
def test_search_tells_whether_all_items_match(
    clients: Clients, published: Callable[..., str], query: Any, found: bool
) -> None:
    """An item is the id, a tag, or a part of the description."""
    id = published(tags=["#xray", "#chest"], description="Pictures of 40 patients\n100% real")
    answer = clients.bob.post("/search", json={"query": query}).json()
    assert answer["content"] is found
    assert [row["id"] for row in answer["datasets"]] == ([id] if found else [])
    assert clients.bob.post("/search", json={"query": [query, id] if isinstance(query, str) else id}).json()[
        "content"
    ] is (found or not isinstance(query, str))


def test_search_looks_at_no_media_type(clients: Clients, published: Callable[..., str]) -> None:
    published(tags=["#xray"])
    answer = clients.bob.post("/search", content=b'{"query": "#xray"}', headers={"content-type": "text/plain"})
    assert answer.json()["content"] is True


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b'"#xray"', b'{"query": 5}', b'{"query": []}', b'{"query": ""}', b'{"query": ["a", 1]}',
     b'{"query": "a\\u0000"}', b'{"query": null}', b"{", b'{"query": "a", "query": "b"}', b"\xff",
     json.dumps({"query": ["a"] * 101}).encode()],
)  # fmt: skip
def test_search_without_a_query_is_400(clients: Clients, body: bytes) -> None:
    assert clients.bob.post("/search", content=body).status_code == 400


def test_search_without_the_member_query_is_answered_as_documented(clients: Clients) -> None:
    answer = clients.bob.post("/search", json={"tag": "#xray"})
    assert (answer.status_code, answer.json()) == (400, {})


@pytest.mark.parametrize(
    "item", ["%", "_", "%xray%", "#xra_", "' OR 1=1 --", '" OR ""="', "\\", "#xray' --", "x' UNION SELECT 1 --", "1"]
)
def test_w9_items_are_text_and_nothing_else(clients: Clients, published: Callable[..., str], item: str) -> None:
    published(tags=["#xray"], description="nothing in here")
    assert clients.bob.post("/search", json={"query": item}).json()["content"] is False
    same = published(tags=[item], description="")
    told = published(description=f"about {item}.")
    answer = clients.bob.post("/search", json={"query": item}).json()
    assert [row["id"] for row in answer["datasets"]] == [same, told]
    filtered = clients.bob.get("/datasets", params={"filter": item, "sort": "id"}).json()
    assert [row["id"] for row in filtered["datasets"] if row["id"] in (same, told)] == sorted([same, told])
    assert item in ("1",) or filtered["total"] == 2


@pytest.mark.parametrize("sort", ["policy", "id; DROP TABLE dataset", "1", "", "id desc", "dataset.id"])
def test_w9_lists_are_sorted_by_columns_that_there_are(clients: Clients, sort: str) -> None:
    assert clients.bob.get("/datasets", params={"sort": sort}).status_code == 400


def test_pages(clients: Clients, published: Callable[..., str]) -> None:
    ids = [published(tags=["#p"], data=np.zeros((n, 2), np.float32)) for n in (3, 1, 2)]
    query: dict[str, Any] = {"filter": "#P", "sort": "rows", "descending": "True", "limit": 2}
    first = clients.bob.get("/datasets/", params=query).json()
    rest = clients.bob.get("/datasets/", params={**query, "offset": 2}).json()
    assert [row["id"] for row in first["datasets"] + rest["datasets"]] == [ids[0], ids[2], ids[1]]
    assert (first["total"], rest["total"]) == (3, 3)
    for wrong in ({"limit": 0}, {"limit": 1001}, {"offset": -1}, {"descending": "yes"}):
        assert clients.bob.get("/datasets", params=wrong).status_code == 400


def test_a_row_tells_what_may_be_done(clients: Clients, published: Callable[..., str]) -> None:
    policy = {"run": {plan_digest(SUM): ["bob"]}, "max_values": 7}
    id = published(mock=MOCK, tags=["#b", "#a", "#b"], description="d", policy=policy)
    row = clients.bob.get(path_of("datasets", id)).json()
    assert row.pop("created_at") > 1.7e9
    assert row == {
        "id": id,
        "owner": "alice",
        "tags": ["#a", "#b"],
        "description": "d",
        "kind": "tensor",
        "tensors": [{"name": "0", "dtype": "float32", "shape": [4, 3]}],
        "shape": [4, 3],
        "dtype": "float32",
        "rows": 4,
        "size": len(pack_tensors([X]).tobytes()),
        "mock": True,
        "may_fetch": False,
        "may_run": True,
        "plans": [plan_digest(SUM)],
    }
    own = clients.alice.get(path_of("datasets", id)).json()
    assert (own["may_fetch"], own["plans"]) == (True, ["any"])
    assert own["policy"] == {"see": "everyone", "fetch": "nobody", "results": None, **policy}


# -- publishing


def test_frames_have_columns(clients: Clients) -> None:
    columns = [np.arange(3, dtype=np.int64), np.array([True, False, True]), np.ones(3)]
    raw = pack_tensors(columns).tobytes()
    answer = publish(clients.alice, "table", raw, kind="frame", columns=["id", "sick", "größe"])
    assert answer.status_code == 201, answer.text
    assert (answer.json()["columns"], answer.json()["rows"]) == (["id", "sick", "größe"], 3)
    assert "shape" not in answer.json()
    for wrong in (["a", "b"], ["a", "a", "b"], ["a", "b", "c\n"], None):
        assert publish(clients.alice, "table 2", raw, kind="frame", columns=wrong).status_code == 400
    uneven = pack_tensors([np.ones(3), np.ones(2)]).tobytes()
    assert publish(clients.alice, "table 2", uneven, kind="frame", columns=["a", "b"]).status_code == 400
    square = pack_tensors([np.ones((3, 3))]).tobytes()
    assert publish(clients.alice, "table 2", square, kind="frame", columns=["a"]).status_code == 400
    assert clients.alice.delete(path_of("datasets", "table")).status_code == 200


def test_an_id_is_given_once(clients: Clients, node: NodeUnderTest, published: Callable[..., str]) -> None:
    id = published(policy={"see": "nobody"})
    before = node.files()
    for http in (clients.alice, clients.bob):
        assert code(publish(http, id, np.full((3, 3), 5, np.float32))) == (409, "ALREADY_EXISTS")
    assert node.files() == before
    assert read_tensors(clients.alice.get(path_of("dataset-data", id)).content)[0].shape == (4, 3)


@pytest.mark.parametrize(
    "wish",
    [
        {"policy": {"see": "Everyone"}},
        {"policy": {"sea": "everyone"}},
        {"policy": []},
        {"tags": "#xray"},
        {"tags": [""]},
        {"tags": ["a"] * 101},
        {"tags": ["a\x00"]},
        {"description": "x" * 10_001},
        {"description": "\x1b[31m"},
        {"kind": "tensors", "columns": ["a"]},
        {"kind": "model"},
        {"id": ""},
        {"id": "x" * 201},
        {"id": "a\nb"},
        {"mock": np.zeros((2, 4), np.float32)},
        {"mock": np.zeros((2, 3), np.float64)},
        {"mock": np.zeros((2, 3, 1), np.float32)},
        {"mock": pack_tensors([MOCK, MOCK]).tobytes()},
        {"mock_upload_id": "no such upload"},
    ],
)
def test_bad_publications_change_nothing(clients: Clients, node: NodeUnderTest, wish: dict[str, Any]) -> None:
    before = node.files()
    total = clients.owner.get("/datasets").json()["total"]
    answer = publish(clients.alice, **{"id": "bad", **wish})
    assert answer.status_code in (400, 404), answer.text
    assert answer.json()["error"]
    assert clients.owner.get("/datasets").json()["total"] == total
    assert node.files() == before


def test_s1_pickles_and_archives_are_refused_by_name(clients: Clients, node: NodeUnderTest) -> None:
    before = node.files()
    bombs = (b"\x80\x04\x95", b"PK\x03\x04" + bytes(600), b"\x93NUMPY\x01\x00", b"\x1f\x8b\x08", b"cposix\nsystem\n(")
    for bomb in bombs:
        for wish in ({"data": bomb}, {"mock": bomb}):
            assert code(publish(clients.alice, **{"id": "bomb", **wish})) == (400, "UNSAFE_FORMAT")
    assert node.files() == before


def test_s4_lies_in_the_header_are_refused(clients: Clients, node: NodeUnderTest) -> None:
    good = pack_tensors([X]).tobytes()
    for raw in (good[:-1], good + b"\x00", b"\xff" * 8 + good[8:], good.replace(b'"F32"', b'"F99"'), b"{}", bytes(10)):
        assert code(publish(clients.alice, "lies", raw)) == (400, "MALFORMED")


@pytest.mark.parametrize(
    "id",
    [
        "../../etc/passwd",
        "a/b",
        "a//b",
        "..%2f..",
        "%2e%2e",
        "C:\\x",
        "\\\\host\\x",
        "ａ",
        "a b?c#d",
        "data/",
        ".",
        "..",
    ],
)
def test_w8_ids_are_opaque(clients: Clients, id: str) -> None:
    assert publish(clients.alice, id, mock=MOCK).status_code == 201
    try:
        assert clients.bob.get(path_of("datasets", id)).json()["id"] == id
        assert clients.alice.get(path_of("dataset-data", id)).content == pack_tensors([X]).tobytes()
        assert clients.bob.get(path_of("dataset-mock", id)).content == pack_tensors([MOCK]).tobytes()
    finally:
        assert clients.alice.delete(path_of("datasets", id)).status_code == 200


def test_s3_a_plan_is_bounded(clients: Clients, published: Callable[..., str]) -> None:
    """In chunks, without a size that is told beforehand."""
    id = published(policy={"run": {"any": "everyone"}})
    try:
        answer = clients.bob.post(path_of("run-plan", id), content=(bytes(1 << 20) for _ in range(80)))
    except httpx.TransportError:  # it hung up before all was sent
        pass
    else:
        assert code(answer) == (413, "TOO_LARGE")
    assert clients.bob.get("/status").status_code == 200


def test_data_sets_outlive_the_node(clients: Clients, node: NodeUnderTest, published: Callable[..., str]) -> None:
    id = published(mock=MOCK, tags=["#kept"], policy={"run": {"any": ["bob"]}})
    row = clients.alice.get(path_of("datasets", id)).json()
    assert node.terminate() == 0
    node.start()
    assert clients.alice.get(path_of("datasets", id)).json() == row
    assert clients.alice.get(path_of("dataset-data", id)).content == pack_tensors([X]).tobytes()
    assert clients.bob.get("/dataset-tags").json() == ["#kept"]
    assert read_tensors(run(clients.bob, id, SUM).content)[0] == X.sum()
