"""S5, S8: bytes in an encoding that the node keeps or refuses, and text that stands for bytes."""

from __future__ import annotations

import base64
import random
import struct
import zlib

import httpx
import pytest

from tests.node.grid import BOTH, OCTETS, refused, serve, talk
from tests.support import TOKEN, NodeUnderTest, tiny_model

LZ4, ZSTD = b"\x04\x22\x4d\x18", b"\x28\xb5\x2f\xfd"
ENVELOPES = {
    "msgpack": b"\x28\x92\x0f\x94",
    "msgpack, 2^32 items": b"\x28\xdd\xff\xff\xff\xff",
    "msgpack, 10k deep": b"\x28" + b"\x91" * 10_000,
    "msgpack, a text of 4 GiB": b"\x28\x92\xdb\xff\xff\xff\xffx",
    "LZ4": b"\x29" + LZ4 + b"\x60\x40\x82",
    "LZ4, blocks of 2^31 bytes": b"\x29" + LZ4 + b"\x70\x70\x00" + b"\xff\xff\xff\x7f" * 10,
    "LZ4, nothing": b"\x29" + LZ4,
    "zstd": b"\x2a" + ZSTD + b"\x00" * 4,
    "zstd, 2^63 bytes": b"\x2a" + ZSTD + b"\xe0" + b"\xff" * 8,
    "zlib": b"\x2a" + zlib.compress(b"x" * 100),
    "zlib, cut": b"\x2a" + zlib.compress(b"x" * 100)[:-5],
    "zlib, broken": b"\x2a\x78\x9c" + b"\xff" * 50,
}


@pytest.mark.parametrize("kind", ENVELOPES)
def test_s5_pysyfts_envelopes_are_kept_byte_by_byte_and_never_opened(
    node: NodeUnderTest, http: httpx.Client, kind: str
) -> None:
    data = ENVELOPES[kind]
    assert serve(http, "opaque", data).json()["kind"] == "opaque"
    assert http.get("/get_model/opaque", headers=OCTETS).content == data
    got = talk(node, {"type": "download-model", "model_id": "opaque"}, token=TOKEN)[0]
    assert got["serialized_model"].encode("latin-1") == data
    refused(http.post("/run-inference/opaque", content=data), 400, "BAD_PLAN")
    refused(http.post("/run-inference/good", content=data), 400, "MALFORMED")
    told = talk(
        node,
        {"type": "run-inference", "model_id": "good", "data": data.decode("latin-1")},
        {"type": "socket-ping"},
        token=TOKEN,
    )
    assert [answer.get("code") for answer in told] == ["MALFORMED", None]
    assert talk(node, data, {"type": "socket-ping"}, token=TOKEN)[1] == {"alive": "True"}
    http.delete("/models/opaque")


def varint(number: int) -> bytes:
    data = b""
    while number > 127:
        data, number = data + bytes([number & 127 | 128]), number >> 7
    return data + bytes([number])


def nested(depth: int) -> bytes:
    data = b""
    for _ in range(depth):
        data = b"\x22" + varint(len(data)) + data
    return data


STRANGE = {
    "nothing": b"",
    "a byte": b"\x28",
    "another compression": b"\x2b" + b"x" * 50,
    "msgpack, not a list": b"\x28\xc0",
    "LZ4 without its magic": b"\x29" + b"\0" * 50,
    "a raw message of syft-proto": b"\x0a\x10" + b"\x12\x05\x0a\x03abc" * 3,
    "syft-proto, 10k deep": nested(10_000),
    "syft-proto, a varint without end": b"\x12" + b"\x80" * 100_000,
    "syft-proto, unknown tags": b"\xf8\x07\x01" * 10_000,
    "a header of 4 GiB": b"GKM1\xff\xff\xff\xff" + b"x" * 100,
    "a plan cut short": tiny_model()[:50],
    "a plan's header, 100k deep": b"GKM1"
    + struct.pack("<I", 100_008)
    + b"GKP1"
    + struct.pack("<I", 100_000)
    + b"[" * 100_000,
    "safetensors alone": b"\x02\0\0\0\0\0\0\0{}",
}


@pytest.mark.parametrize("kind", STRANGE)
def test_s5_what_is_neither_is_refused_by_its_form(node: NodeUnderTest, http: httpx.Client, kind: str) -> None:
    data = STRANGE[kind]
    for answer in (
        serve(http, "strange", data),
        http.post("/serve-model/", json={"model_id": "strange", "model": data.decode("latin-1")}),
        http.post("/run-inference/good", content=data),
        http.post("/models/good", json={"data": data.decode("latin-1")}),
    ):
        assert answer.status_code == 400 and answer.json()["code"] in (
            "MALFORMED",
            "BAD_PLAN",
            "BAD_REQUEST",
            "BAD_INPUT",
        )
    assert "strange" not in http.get("/models/").json()["models"]


def test_s5_a_model_with_a_wrong_byte_is_taken_or_refused(http: httpx.Client) -> None:
    """Whatever is changed: no failure of the node, and what is taken can be deleted."""
    chance, data = random.Random(5), tiny_model()
    for _ in range(150):
        changed = bytearray(data)
        for _ in range(chance.randrange(1, 4)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        answer = serve(http, "changed", bytes(changed[: chance.choice([len(data), chance.randrange(len(data))])]))
        assert answer.status_code in (200, 400), answer.text
        if answer.status_code == 200:
            assert http.delete("/models/changed").is_success


def test_s8_text_that_stands_for_no_bytes_is_refused(node: NodeUnderTest, http: httpx.Client) -> None:
    wide = tiny_model().decode("latin-1") + "Ā"
    for answer in (
        http.post("/serve-model/", json={"model_id": "wide", "model": wide}),
        http.post("/serve-model/", data={"model_id": "wide", "model": wide}),
        http.post("/serve-model/", files={"model_id": (None, "wide"), "model": (None, wide)}),
        http.post("/models/good", json={"data": wide}),
    ):
        refused(answer, 400, "MALFORMED")
    told = talk(
        node,
        {"type": "host-model", "model_id": "wide", "model": wide},
        {"type": "run-inference", "model_id": "good", "data": wide},
        token=TOKEN,
    )
    assert [answer["code"] for answer in told] == ["MALFORMED"] * 2


def test_s8_base64_is_not_guessed(node: NodeUnderTest, http: httpx.Client) -> None:
    """Bytes travel as ISO-8859-1 here. Text in base64 would be bytes too, so it is refused by what it stands for."""
    data = tiny_model()
    for text in (
        base64.b64encode(data).decode(),
        base64.urlsafe_b64encode(data).decode().rstrip("="),
        base64.encodebytes(data).decode(),
        data.hex(),
    ):
        refused(http.post("/serve-model/", json={"model_id": "text", "model": text}), 400, "MALFORMED")
    for encoding in ("base64", "utf-8", "utf-7", "cp1252", "hex", "rot13", "", "ISO-8859-15", "idna"):
        wish = {"model_id": "text", "model": data.decode("latin-1"), "encoding": encoding}
        refused(http.post("/serve-model/", json=wish), 400, "BAD_REQUEST")
        told = talk(node, {"type": "host-model", **wish}, token=TOKEN)
        assert told[0]["code"] == "BAD_REQUEST", encoding


def test_s8_a_round_trip_keeps_every_byte(node: NodeUnderTest, http: httpx.Client) -> None:
    data = b"\x28\x92" + bytes(range(256)) * 3 + b"\r\n\r\n--x--\0"
    for encoding in ("ISO-8859-1", "latin-1"):
        wish = {"model_id": "all", "model": data.decode("latin-1"), "encoding": encoding, **BOTH}
        saved, got = talk(
            node, {"type": "host-model", **wish}, {"type": "download-model", "model_id": "all"}, token=TOKEN
        )
        assert saved["success"] and got["serialized_model"].encode("latin-1") == data
        assert http.get("/get_model/all").json()["serialized_model"].encode("latin-1") == data
        assert http.delete("/models/all").is_success


@pytest.mark.parametrize("text", ["%", "=", "a b", "bm86-_8=", "bm86bm8", "/w==", "8J+YgDrwn5iA" * 100])
def test_s8_basic_credentials_are_standard_base64(node: NodeUnderTest, text: str) -> None:
    with node.http(None) as nobody:
        answer = nobody.get("/models/", headers={"authorization": f"Basic {text}".encode()})
        refused(answer, 401, "UNAUTHENTICATED")
