"""S6, S7: JSON and messages that are none, on every route and for every message: an error with a code, never a failure
of the node, and the connection stays."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from gridkit.node.routes.socket import HANDLERS
from tests.faults.routes import json_routes, place_of
from tests.node.grid import refused, serve, talk
from tests.support import MODEL, TOKEN, NodeUnderTest, pack_state, tiny_plan

SURROGATE = b'"\\ud800"'
BROKEN = {
    "depth 60k": b"[" * 60_000,
    "depth 10k, of objects": b'{"a":' * 10_000,
    "depth 101": b'{"a":' + b"[" * 100 + b"]" * 100 + b"}",
    "depth 900, closed": b'{"a":' + b"[" * 900 + b"]" * 900 + b"}",
    "a name twice": b'{"model_id": "a", "model_id": "b"}',
    "a name twice, escaped": b'{"a": 1, "\\u0061": 2}',
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": -Infinity}',
    "a number beyond float64": b'{"a": 1e999}',
    "a number of 60k digits": b'{"a": ' + b"9" * 60_000 + b"}",
    "not UTF-8": b'{"a": "\xff"}',
    "a surrogate in UTF-8": b'{"a": "\xed\xa0\x80"}',
    "a lone surrogate": b'{"a": ' + SURROGATE + b"}",
    "a lone surrogate for a name": b"{" + SURROGATE + b": 1}",
    "a lone surrogate, deep inside": b'{"policy": {"see": [{"a": ' + SURROGATE + b"}]}}",
    "surrogates in the wrong order": b'{"a": "\\uDC00\\uD800"}',
    "a BOM": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a control character": b'{"a": "\n"}',
    "an unknown escape": b'{"a": "\\x41"}',
    "single quotes": b"{'a': 1}",
    "a comment": b'{"a": 1} // x',
    "a comma too many": b'{"a": 1,}',
    "two objects": b"{}{}",
    "a list": b"[]",
    "a batch": b'[{"type": "socket-ping"}]',
    "null": b"null",
    "a number": b"1",
    "nothing": b"",
    "a NUL": b"\0",
}


@pytest.mark.parametrize("why", BROKEN)
def test_s6_on_every_route(node: NodeUnderTest, http: httpx.Client, tmp_path: Path, why: str) -> None:
    for method, path in json_routes(tmp_path):
        answer = http.request(method, place_of(path), content=BROKEN[why])
        body = answer.json()
        told = "BAD_REQUEST" if path.startswith("/search-encrypted") else "BAD_JSON"  # the original's text there
        assert (answer.status_code, body["code"]) == (400, told), (path, body)
        assert len(answer.content) < 2000 and "Traceback" not in answer.text


def test_s6_on_the_socket(node: NodeUnderTest) -> None:
    """What isn't UTF-8 ends a socket (W16); everything else is answered, in the order in which it came."""
    texts = [text.decode() for text in BROKEN.values() if text and _is_utf8(text)]
    told = talk(node, *(part for text in texts for part in (text, {"type": "socket-ping"})), token=TOKEN)
    assert [answer["code"] for answer in told[::2]] == ["BAD_JSON"] * len(texts)
    assert told[1::2] == [{"alive": "True"}] * len(texts)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_s6_letters_beyond_the_first_plane_are_letters(node: NodeUnderTest, http: httpx.Client) -> None:
    wish = b'{"model_id": "\\ud83d\\ude00", "model": %s}'
    assert http.post("/delete_model/", content=wish % b'"x"').json()["code"] == "NOT_FOUND"
    assert serve(http, "😀").status_code == 200
    assert http.post("/delete_model/", content=wish % b'"x"').status_code == 200


def test_s6_what_is_taken_can_be_shown(node: NodeUnderTest, http: httpx.Client) -> None:
    """Members that a node keeps without knowing them come back in lists: one that can't be written would break them."""

    def hosting(name: str, member: bytes) -> str:
        data = {"model": pack_state(MODEL).hex(), "plans": {"training_plan": tiny_plan().hex()}, "server_config": {}}
        text = json.dumps({"type": "model-centric/host-training", "data": {**data, "client_config": {"name": name}}})
        return text.replace(f'"{name}"', f'"{name}", "version": "1", "odd": {member.decode()}')

    odd = [SURROGATE, b"1e999", b"-1e999", b"NaN", b"[" * 100 + b"]" * 100, b"{" + SURROGATE + b": 1}"]
    told = talk(node, *(hosting(f"odd {n}", member) for n, member in enumerate(odd)), token=TOKEN)
    assert [answer["code"] for answer in told] == ["BAD_JSON"] * len(odd)
    fine = [b"[" * 90 + b"]" * 90, b"9" * 4000, b'"\\u0000\\ud83d\\ude00"', b"1e308", b"5e-324", b"-0.0"]
    told = talk(node, *(hosting(f"fine {n}", member) for n, member in enumerate(fine)), token=TOKEN)
    assert [answer["data"]["status"] for answer in told] == ["success"] * len(fine), told
    names = {process["name"] for process in http.get("/model-centric/processes").json()["processes"]}
    assert names == {f"fine {n}" for n in range(len(fine))}


ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    2**53,
    10**400,
    "",
    "x" * 300,
    "\0",
    "\u202e\x1b[31m",
    "True",
    [],
    [[]],
    {},
    {"a": {"b": None}},
    ["x"] * 200,
]
MEMBERS = {
    **dict.fromkeys(
        ("model_id", "name", "model_name", "id", "username", "worker_id", "label", "user", "role"), "nobody"
    ),
    **dict.fromkeys(("allow_download", "allow_remote_inference", "mpc", "new_version"), "True"),
    **dict.fromkeys(("model", "data", "password", "sha256", "upload_id", "mock_upload_id", "request_key"), "x" * 12),
    **dict.fromkeys(("size", "offset", "length", "version", "slot", "expires", "samples", "wait"), 1),
    **{"parties": {}, "origin": {}, "policy": {}, "metrics": {}, "plans": {}, "client_config": {}, "server_config": {}},
    **{"scopes": ["run"], "tags": [], "columns": [], "query": "x", "kind": "tensor", "description": ""},
    **{"encoding": "latin-1", "address": "http://127.0.0.1:1", "plan_id": 1, "receive_operations_as": "list"},
}
WISHES = [{**MEMBERS, member: value} for member in MEMBERS for value in ODD]
SLOW = {"/users/login", "/users/{name}/password", "authentication"}
"""each password takes its time"""


@pytest.mark.parametrize("number", [60, pytest.param(len(WISHES), marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_s6_members_of_every_kind_on_every_route(
    node: NodeUnderTest, http: httpx.Client, tmp_path: Path, number: int
) -> None:
    chance = random.Random(6)
    for method, path in json_routes(tmp_path):
        for wish in [{}, MEMBERS, *chance.sample(WISHES, number if path not in SLOW else 5)]:
            answer = http.request(method, place_of(path, "nobody"), json=wish)
            assert answer.status_code < 500, (path, wish, answer.text)
            assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("number", [60, pytest.param(len(WISHES), marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_s7_members_of_every_kind_in_every_message(node: NodeUnderTest, number: int) -> None:
    """One socket for each type; nothing closes it."""
    chance = random.Random(7)
    for kind in HANDLERS:
        wishes = [{}, MEMBERS, *chance.sample(WISHES, number if kind not in SLOW else 5)]
        flat = [{"type": kind, **wish} for wish in wishes]
        told = talk(node, *flat, *({"type": kind, "data": wish} for wish in wishes), token=TOKEN)
        assert "INTERNAL" not in {answer.get("code") for answer in told if isinstance(answer, dict)}, kind


STRANGE = {
    "no type": {},
    "no type, but an id": {"request_id": 1},
    "a type that is null": {"type": None},
    "a type that is a number": {"type": 5},
    "a type that is a list": {"type": ["socket-ping"]},
    "a type that is none": {"type": "__class__"},
    "a type that is too long": {"type": "x" * 300},
    "a method of Python's": {"type": "model-centric/__init__"},
    "another case": {"type": "Socket-Ping"},
    "an id that is a list": {"type": "socket-ping", "request_id": []},
    "an id that is an object": {"type": "socket-ping", "request_id": {}},
    "an id that is a truth": {"type": "socket-ping", "request_id": True},
    "an id that is too long": {"type": "socket-ping", "request_id": "x" * 300},
    "data that is a list": {"type": "model-centric/report", "data": []},
    "data that is text": {"type": "model-centric/report", "data": "x"},
    "JSON-RPC": {"jsonrpc": "2.0", "method": "socket-ping", "id": 1},
}


def test_s7_messages_that_are_none_are_answered_and_nothing_else_happens(node: NodeUnderTest) -> None:
    sent = [part for wish in STRANGE.values() for part in (wish, {"type": "socket-ping", "request_id": "after"})]
    told = talk(node, *sent, token=TOKEN)
    codes = dict(zip(STRANGE, ({**answer, **answer.get("data", {})}["code"] for answer in told[::2]), strict=True))
    assert set(codes.values()) <= {"BAD_REQUEST", "UNKNOWN_TYPE"}, codes
    assert told[1::2] == [{"alive": "True", "request_id": "after"}] * len(STRANGE)


def test_s7_a_flood_is_answered_in_order_and_one_by_one(node: NodeUnderTest) -> None:
    """Bad ones and good ones, all sent before the first answer is read, some with an id that is in use."""

    async def flood() -> list[Any]:
        headers = {"authorization": f"Bearer {TOKEN}"}
        async with websockets.connect(node.url.replace("http", "ws") + "/", additional_headers=headers) as socket:

            async def send() -> None:
                for number in range(2000):
                    text = {"type": "socket-ping" if number % 2 else "nothing", "request_id": number // 4}
                    await socket.send(json.dumps(text))

            sending = asyncio.create_task(send())
            told = [json.loads(await socket.recv()) for _ in range(2000)]
            await sending
            return told

    told = asyncio.run(flood())
    assert [answer["request_id"] for answer in told] == [number // 4 for number in range(2000)]
    assert [answer.get("alive") for answer in told] == [None, "True"] * 1000


def test_s7_a_batch_is_no_message(node: NodeUnderTest) -> None:
    batch = json.dumps([{"type": "socket-ping", "request_id": n} for n in range(10_000)])
    told = talk(node, batch, {"type": "socket-ping"}, token=TOKEN)
    assert told[0]["code"] == "BAD_JSON" and told[1] == {"alive": "True"}


def test_s7_bad_bodies_leave_a_connection_open(http: httpx.Client) -> None:
    """As a client sees it: the same connection answers what comes next."""
    used = set()
    for body in [*BROKEN.values()] * 3:
        if len(body) < 60_000:
            answer = http.post("/uploads", content=body)
            refused(answer, 400, "BAD_JSON")
            used.add(answer.extensions["network_stream"].get_extra_info("client_addr"))
    assert len(used) == 1
