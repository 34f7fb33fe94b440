"""Speaking the grid's API by hand: flat messages over a socket, models as bytes over HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import websockets

from gridkit.wire.safetensors import pack_tensors, read_tensors
from tests.support import NodeUnderTest, tiny_model

OCTETS = {"accept": "application/octet-stream"}
BOTH = {"allow_download": "True", "allow_remote_inference": "True"}


def talk(node: NodeUnderTest, *messages: dict[str, Any] | str | bytes, token: str | None = None) -> list[Any]:
    """The answers to messages over one socket, in order; to a binary one, bytes."""

    async def run() -> list[Any]:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        address = node.url.replace("http", "ws") + "/"
        async with websockets.connect(address, additional_headers=headers, max_size=None) as socket:
            answers: list[Any] = []
            for message in messages:
                await socket.send(json.dumps(message) if isinstance(message, dict) else message)
                answer = await socket.recv()
                answers.append(json.loads(answer) if isinstance(answer, str) else answer)
            return answers

    return asyncio.run(run())


def path(what: str, model_id: str) -> str:
    return f"/{what}/{quote(model_id, safe='')}"


def serve(http: httpx.Client, model_id: str, data: bytes | None = None, **fields: str) -> httpx.Response:
    """As the original's client sends a large model: the bytes as a file part."""
    form = {"encoding": "ISO-8859-1", "model_id": model_id, **BOTH, **fields}
    files = {"model": ("model", tiny_model() if data is None else data, "application/octet-stream")}
    return http.post("/serve-model/", data=form, files=files)


def infer(http: httpx.Client, model_id: str, *arrays: np.ndarray, **query: Any) -> list[np.ndarray]:
    answer = http.post(path("run-inference", model_id), content=pack_tensors(arrays).tobytes(), params=query)
    assert answer.status_code == 200, answer.text
    return read_tensors(answer.content)


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The body of an error, which has the one shape that all have."""
    body = answer.json()
    assert (answer.status_code, body["code"]) == (status, code), body
    assert body["success"] is False and body["error"] == body["message"]
    return dict(body)
