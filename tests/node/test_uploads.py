"""Uploads in pieces: what they hold, who may touch them, how they end. Over HTTP and as messages of the socket."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from gridkit.errors import LimitError, NotFoundError
from gridkit.node.rights import ANONYMOUS, OWNER, Principal, Role
from gridkit.node.settings import Limits
from gridkit.node.store.blobs import Blobs
from gridkit.node.uploads import Uploads
from tests.support import TOKEN, NodeUnderTest, wait_for

DATA = b"\x28\x92" + bytes(range(256)) * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()
ALICE = Principal(Role.SCIENTIST, "alice")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data")
    yield node
    node.terminate()


@pytest.fixture
def http(node: NodeUnderTest) -> Iterator[httpx.Client]:
    with node.http() as http:
        yield http


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(str(tmp_path / "blobs"))


def begin(http: httpx.Client, size: int = len(DATA), **more: Any) -> str:
    answer = http.post("/uploads", json={"size": size, **more})
    assert (answer.status_code, answer.json()["offset"]) == (201, 0)
    return str(answer.json()["upload_id"])


def send(http: httpx.Client, upload_id: str, offset: int, data: bytes) -> httpx.Response:
    return http.patch(f"/uploads/{upload_id}", params={"offset": offset}, content=data)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def drafts(node: NodeUnderTest) -> set[Path]:
    return set((node.data / "blobs").rglob(".draft-*"))


def test_pieces_of_any_length(node: NodeUnderTest, http: httpx.Client) -> None:
    upload_id = begin(http)
    at = 0
    for length in (1, 100_000, 65_536, 0, len(DATA) - 165_537):
        state = send(http, upload_id, at, DATA[at : at + length]).json()
        at += length
        assert state["offset"] == at
        assert http.get(f"/uploads/{upload_id}").json() == state
    assert state == {"upload_id": upload_id, "offset": len(DATA), "size": len(DATA), "sha256": DIGEST}
    served = http.post("/serve-model/", json={"model_id": "in pieces", "upload_id": upload_id})
    assert (served.status_code, served.json()["digest"]) == (200, DIGEST)
    assert code(http.get(f"/uploads/{upload_id}")) == (404, "NOT_FOUND")


def test_a_wrong_offset_changes_nothing(http: httpx.Client) -> None:
    upload_id = begin(http)
    assert send(http, upload_id, 0, DATA[:1000]).status_code == 200
    for offset in (0, 999, 1001):
        refused = send(http, upload_id, offset, DATA)
        assert code(refused) == (409, "WRONG_OFFSET")
        assert "1000 bytes" in refused.json()["error"]
    for offset in ("-1", "x", "", "1" * 30, "١"):
        refused = http.patch(f"/uploads/{upload_id}", params={"offset": offset}, content=b"x")
        assert code(refused) == (400, "BAD_REQUEST")
    assert http.get(f"/uploads/{upload_id}").json()["offset"] == 1000
    assert http.delete(f"/uploads/{upload_id}").status_code == 200


def test_s3_more_than_was_told_is_not_kept(http: httpx.Client) -> None:
    upload_id = begin(http, 1000)
    assert code(send(http, upload_id, 0, DATA)) == (413, "TOO_LARGE")
    assert http.get(f"/uploads/{upload_id}").json()["offset"] == 0
    assert send(http, upload_id, 0, DATA[:1000]).json()["offset"] == 1000
    assert http.delete(f"/uploads/{upload_id}").status_code == 200
    for size in (1 << 40, 1 << 62):
        assert code(http.post("/uploads", json={"size": size})) == (413, "TOO_LARGE")
    for size in (0, -1, 1.5, "10", None, True, 1 << 70):
        assert code(http.post("/uploads", json={"size": size})) == (400, "BAD_REQUEST")
    for digest in ("", "0" * 63, "G" * 64, 5):
        assert code(http.post("/uploads", json={"size": 5, "sha256": digest})) == (400, "BAD_REQUEST")


def test_incomplete_and_other_bytes_are_not_taken(node: NodeUnderTest, http: httpx.Client) -> None:
    before = drafts(node)
    upload_id = begin(http, sha256="0" * 64)
    wish = {"model_id": "never", "upload_id": upload_id}
    assert send(http, upload_id, 0, DATA[:-1]).status_code == 200
    assert code(http.post("/serve-model/", json=wish)) == (409, "WRONG_OFFSET")
    assert send(http, upload_id, len(DATA) - 1, DATA[-1:]).status_code == 200  # it was still there
    assert code(http.post("/serve-model/", json=wish)) == (400, "DIGEST_MISMATCH")
    assert code(http.post("/serve-model/", json=wish)) == (404, "NOT_FOUND")
    assert "never" not in http.get("/models/").json()["models"]
    assert drafts(node) == before


def test_w12_uploads_are_their_principals_own(node: NodeUnderTest, http: httpx.Client, blobs: Blobs) -> None:
    upload_id = begin(http)
    with node.http(None) as stranger:
        for answer in (
            stranger.get(f"/uploads/{upload_id}"),
            stranger.delete(f"/uploads/{upload_id}"),
            send(stranger, upload_id, 0, DATA),
            stranger.post("/uploads", json={"size": 1}),
        ):
            assert code(answer) == (401, "UNAUTHENTICATED")
    assert http.delete(f"/uploads/{upload_id}").status_code == 200

    async def go() -> None:
        uploads = Uploads(blobs, Limits())
        mine = await uploads.begin(ALICE, 10)
        for other in (OWNER, ANONYMOUS, Principal(Role.SCIENTIST, "bob"), Principal(Role.WORKER, "alice")):
            for touch in (uploads.take, uploads.delete, uploads.resume):
                with pytest.raises(NotFoundError):
                    await touch(other, mine.id)
        await uploads.delete(ALICE, mine.id)

    asyncio.run(go())


def test_number_bytes_and_idle_time_are_bounded(blobs: Blobs, tmp_path: Path) -> None:
    async def go() -> None:
        uploads = Uploads(blobs, Limits(uploads=3, uploads_bytes=100, upload=60, upload_idle=0.3))
        await uploads.begin(ALICE, 60)
        with pytest.raises(LimitError):
            await uploads.begin(ALICE, 41)  # bytes
        await uploads.begin(ALICE, 10)
        last = await uploads.begin(ALICE, 10)
        with pytest.raises(LimitError):
            await uploads.begin(ALICE, 1)  # number
        await uploads.begin(OWNER, 60)  # another's
        for _ in range(4):  # one is written to, and stays
            await asyncio.sleep(0.1)
            upload, turn = await uploads.resume(ALICE, last.id)
            await uploads.append(upload, turn, [b"x"])
        assert uploads.find(ALICE, last.id).offset == 4
        await uploads.begin(ALICE, 60)
        await asyncio.sleep(0.5)
        with pytest.raises(NotFoundError):
            uploads.find(ALICE, last.id)
        await asyncio.to_thread(wait_for, lambda: not list((tmp_path / "blobs").iterdir()), what="no draft")

    asyncio.run(go())


def test_c2_what_came_before_a_cut_stays_and_an_old_connection_adds_nothing(
    node: NodeUnderTest, http: httpx.Client
) -> None:
    upload_id = begin(http)
    head = (
        f"PATCH /uploads/{upload_id}?offset=%d HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\n"
        f"Authorization: Bearer {TOKEN}\r\nContent-Length: %d\r\n\r\n"
    )

    def offset() -> int:
        return int(http.get(f"/uploads/{upload_id}").json()["offset"])

    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as cut:
        cut.sendall((head % (0, len(DATA))).encode() + DATA[:50_000])
    wait_for(lambda: offset() == 50_000)
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as old:
        old.sendall((head % (50_000, len(DATA) - 50_000)).encode() + DATA[50_000:60_000])
        wait_for(lambda: send(http, upload_id, 50_000, DATA[50_000:70_000]).json().get("offset") == 70_000)
        old.sendall(DATA[60_000:])
        assert old.recv(4096).startswith(b"HTTP/1.1 409 ")
    assert offset() == 70_000
    assert send(http, upload_id, 70_000, DATA[70_000:]).json()["sha256"] == DIGEST
    assert http.delete(f"/uploads/{upload_id}").status_code == 200


# -- over the socket


def test_frames_of_the_socket(node: NodeUnderTest) -> None:
    async def go() -> None:
        headers = {"authorization": f"Bearer {TOKEN}"}
        address = node.url.replace("http", "ws") + "/"
        async with websockets.connect(address, additional_headers=headers) as one:

            async def ask(message: dict[str, Any] | bytes, on: Any = one) -> Any:
                await on.send(message if isinstance(message, bytes) else json.dumps(message))
                answer = await on.recv()
                return json.loads(answer)

            foreign = await ask(b"\x28\x92binary")
            assert "binary messages are not understood" in foreign["error"]
            begun = await ask({"type": "upload-model", "size": len(DATA), "sha256": DIGEST, "request_id": 7})
            assert (begun["offset"], begun["request_id"]) == (0, 7)
            assert (await ask(DATA[:1000]))["offset"] == 1000
            assert (await ask(b"x" * ((1 << 20) + 1)))["code"] == "TOO_LARGE"
            assert "binary messages are not understood" in (await ask(DATA[1000:]))["error"]  # that ended it here
            resumed = await ask({"type": "upload-model", "upload_id": begun["upload_id"]})
            assert resumed["offset"] == 1000
            async with websockets.connect(address, additional_headers=headers) as two:
                await ask({"type": "upload-model", "upload_id": begun["upload_id"]}, two)
                assert (await ask(DATA[1000:]))["code"] == "WRONG_OFFSET"
                assert (await ask(DATA[1000:], two))["sha256"] == DIGEST
            hosted = await ask({"type": "host-model", "model_id": "framed", "upload_id": begun["upload_id"]})
            assert hosted["success"] is True
            assert (await ask({"type": "upload-model", "upload_id": begun["upload_id"]}))["code"] == "NOT_FOUND"
            assert (await ask({"type": "model-chunk", "model_id": "framed"}))["code"] == "NOT_ALLOWED"
            wish = {"type": "host-model", "model_id": "framed", "new_version": True, "allow_download": "True"}
            begun = await ask({"type": "upload-model", "size": len(DATA)})
            await ask(DATA)
            assert (await ask({**wish, "upload_id": begun["upload_id"]}))["version"] == 2
            about = await ask({"type": "model-chunk", "model_id": "framed"})
            assert (about["size"], about["sha256"], about["version"]) == (len(DATA), DIGEST, 2)
            chunk = {"type": "model-chunk", "model_id": "framed"}
            await one.send(json.dumps({**chunk, "offset": 10, "length": 20}))
            assert await one.recv() == DATA[10:30]
            await one.send(json.dumps({**chunk, "offset": len(DATA) - 5}))
            assert await one.recv() == DATA[-5:]
            assert (await ask({**chunk, "offset": len(DATA)}))["code"] == "BAD_RANGE"
            for bad in ({"offset": -1}, {"offset": 0, "length": 0}, {"offset": 0, "length": (1 << 20) + 1}):
                assert (await ask({**chunk, **bad}))["code"] == "BAD_REQUEST"
        async with websockets.connect(address) as stranger:
            assert (await ask({"type": "upload-model", "size": 5}, stranger))["code"] == "UNAUTHENTICATED"

    asyncio.run(go())


# -- ranges of a file


@pytest.mark.parametrize(
    ("wished", "status", "start", "end"),
    [
        (None, 200, 0, len(DATA)),
        ("bytes=0-", 206, 0, len(DATA)),
        ("bytes=10-19", 206, 10, 20),
        ("bytes=1000-99999999999", 206, 1000, len(DATA)),
        ("bytes=-7", 206, len(DATA) - 7, len(DATA)),
        ("bytes=-99999999999", 206, 0, len(DATA)),
        ("pages=1-2", 200, 0, len(DATA)),
        (f"bytes={len(DATA)}-", 416, 0, 0),
        ("bytes=20-10", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
        ("bytes=-", 416, 0, 0),
        ("bytes=0-1,5-6", 416, 0, 0),
        ("bytes=" + ",".join(f"{n}-{n}" for n in range(0, 4000, 2)), 416, 0, 0),
        ("bytes=" + "9" * 4000 + "-", 416, 0, 0),
    ],
)
def test_w13_ranges(http: httpx.Client, wished: str | None, status: int, start: int, end: int) -> None:
    http.post(
        "/serve-model/",
        data={"model_id": "ranged", "allow_download": "True", "new_version": "False"},
        files={"model": ("ranged", DATA, "application/octet-stream")},
    )
    headers = {"accept": "application/octet-stream", **({"range": wished} if wished else {})}
    answer = http.get("/get_model/ranged", headers=headers)
    assert answer.status_code == status
    if status == 416:
        assert answer.headers["content-range"] == f"bytes */{len(DATA)}"
        assert answer.json()["code"] == "BAD_RANGE"
        return
    assert answer.content == DATA[start:end]
    assert answer.headers["etag"] == f'"{DIGEST}"'
    if status == 206:
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(DATA)}"
        changed = http.get("/get_model/ranged", headers={**headers, "if-range": '"other"'})
        assert (changed.status_code, changed.content) == (200, DATA)
        same = http.get("/get_model/ranged", headers={**headers, "if-range": f'"{DIGEST}"'})
        assert (same.status_code, same.content) == (206, answer.content)
