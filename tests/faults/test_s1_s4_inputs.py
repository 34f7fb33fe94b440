"""S1, S4: bytes that lie, or that another program would run, where inputs, plans, uploads and samples are taken."""

from __future__ import annotations

import struct
from pathlib import Path

import httpx
import numpy as np
import pytest

from gridkit.wire.safetensors import pack_tensors
from tests.datasets import MOCK, publish, run, upload
from tests.faults.test_s1_s3_models import bombs
from tests.node.grid import infer, refused, talk
from tests.support import TOKEN, NodeUnderTest

GOOD = pack_tensors([np.ones((1, 4), np.float32)]).tobytes()


def header(text: str, data: bytes = bytes(16)) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode() + data


def one(dtype: str = '"F32"', shape: str = "[1,4]", offsets: str = "[0,16]", name: str = '"0"') -> bytes:
    return header(f'{{{name}:{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}')


LIES = {
    "a huge header": b"\xff" * 7 + b"\x7f" + GOOD[8:],
    "a header beyond the end": struct.pack("<Q", len(GOOD)) + GOOD[8:],
    "a header of 8 MiB": struct.pack("<Q", 9 << 20) + GOOD[8:],
    "no header": bytes(8),
    "overlapping": header(
        '{"0":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"1":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}',
        bytes(12),
    ),
    "a hole": header('{"0":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}'),
    "an offset out of range": one(offsets="[0,17]"),
    "an offset before the start": one(offsets="[-16,0]"),
    "offsets the wrong way": one(offsets="[16,0]"),
    "a negative shape": one(shape="[-1,-4]"),
    "2**63 elements": one(shape="[9223372036854775808]"),
    "a product that overflows": one(shape="[4294967296,4294967296,4]"),
    "a shape of nothing and much": one(shape="[0,9223372036854775807]"),
    "a shape that is a float": one(shape="[1.0,4]"),
    "a shape that is true": one(shape="[true,4]"),
    "too many dimensions": one(shape="[" + "1," * 999 + "4]"),
    "an unknown dtype": one(dtype='"X32"'),
    "a dtype that is a list": one(dtype='["F32"]'),
    "a name twice": header('{"0":{"dtype":"U8","shape":[16],"data_offsets":[0,16]},"0":{}}'),
    "depth": header("[" * 50_000),
    "cut": GOOD[:-1],
    "longer": GOOD + b"\0",
}


@pytest.mark.parametrize("why", LIES)
def test_s4_lies_where_inputs_and_samples_are_taken(node: NodeUnderTest, http: httpx.Client, why: str) -> None:
    before = node.files()
    text = LIES[why].decode("latin-1")
    refused(http.post("/run-inference/good", content=LIES[why]), 400, "MALFORMED")
    refused(http.post("/models/good", json={"data": text}), 400, "MALFORMED")
    (told,) = talk(node, {"type": "run-inference", "model_id": "good", "data": text}, token=TOKEN)
    assert told["code"] == "MALFORMED", told
    for wish in ({"data": LIES[why]}, {"mock": LIES[why]}):
        refused(publish(http, "lies", **wish), 400, "MALFORMED")
    assert node.files() == before
    assert infer(http, "good", np.ones((1, 4), np.float32))[0].shape == (1, 2)


def test_s1_pickles_as_plans_samples_and_uploads(node: NodeUnderTest, http: httpx.Client, tmp_path: Path) -> None:
    sentinel = tmp_path / "loaded"
    assert publish(http, "set", mock=MOCK, policy={"run": {"any": "everyone"}}).status_code == 201
    before = node.files()
    for why, data in bombs(sentinel).items():
        refused(run(http, "set", data), 400, "BAD_PLAN")
        for wish in ({"data": data}, {"mock": data}):
            refused(publish(http, "bomb", **wish), 400, "UNSAFE_FORMAT")
        bad = {"model_id": "bomb.safetensors", "upload_id": upload(http, data)}
        refused(http.post("/serve-model/", json=bad), 400, "UNSAFE_FORMAT")
        bad["upload_id"] = upload(http, data)
        (told,) = talk(node, {"type": "host-model", **bad}, token=TOKEN)
        assert told["code"] == "UNSAFE_FORMAT", (why, told)
    assert node.files() == before and not sentinel.exists()
    assert http.delete("/datasets/set").is_success
