"""A worker by hand over each transport: what it asks and reports, and what comes back, in one shape."""

from __future__ import annotations

import base64
import json
from contextlib import ExitStack
from typing import Any

import numpy as np
import websockets.sync.client

from gridkit.wire.state import pack_state
from tests.support import NodeUnderTest

TRANSPORTS = ("json", "octets", "socket")
"""HTTP with JSON bodies, HTTP with binary reports, WebSocket"""

Diff = dict[str, np.ndarray] | bytes


def packed(diff: Diff) -> bytes:
    return diff if isinstance(diff, bytes) else bytes(pack_state(diff))


class Caller:
    """Answers are the members of `data`; `code` is None where nothing was refused.

    Args:
        how: one of `TRANSPORTS`.
        hosted: the node's answer to hosting, and the training's `name`.
        worker_id: an identity from before; None makes a new one.
    """

    def __init__(self, node: NodeUnderTest, how: str, hosted: dict[str, Any], worker_id: str | None = None) -> None:
        self.node, self.how, self.name = node, how, hosted["name"]
        self._stack = ExitStack()
        self.http = self._stack.enter_context(node.http(None, verify=False))  # no certificates are read
        self.socket: websockets.sync.client.ClientConnection | None = None
        if how == "socket":
            opened = websockets.sync.client.connect(node.url.replace("http", "ws") + "/", max_size=None)
            self.socket = self._stack.enter_context(opened)
        wish = {"model_name": self.name, "auth_token": hosted["worker_token"]}
        self.worker_id = worker_id or str(self.call("authenticate", **wish)["worker_id"])
        self.cycle: dict[str, Any] = {}

    def call(self, what: str, **data: Any) -> dict[str, Any]:
        if self.socket is not None:
            self.socket.send(json.dumps({"type": f"model-centric/{what}", "data": data}))
            answer = json.loads(self.socket.recv(30))["data"]
        else:
            answer = self.http.post(f"/model-centric/{what}", json=data).json()
        return {"code": None, **answer}

    def ask(self, **wish: Any) -> dict[str, Any]:
        line = {"ping": 0, "download": 0, "upload": 0}
        answer = self.call("cycle-request", **{"worker_id": self.worker_id, "model": self.name, **line, **wish})
        if answer["status"] == "accepted":
            self.cycle = answer
        return answer

    def ids(self) -> dict[str, str]:
        return {"worker_id": self.worker_id, "request_key": self.cycle.get("request_key", "")}

    def report(self, diff: Diff, **ids: str) -> dict[str, Any]:
        known = {**self.ids(), **ids}
        if self.how != "octets":
            return self.call("report", **known, diff=base64.b64encode(packed(diff)).decode())
        headers = {"content-type": "application/octet-stream"}
        answer = self.http.post("/model-centric/report", params=known, content=packed(diff), headers=headers)
        return {"code": None, **answer.json()}

    def model(self, **ids: str) -> dict[str, Any]:
        """The code of asking for the model with these ids."""
        known = {**self.ids(), "model_id": self.cycle.get("model_id", ""), **ids}
        if self.socket is not None:
            return self.call("get-model", **known)
        answer = self.http.get("/model-centric/get-model", params=known)
        return {"code": None} if answer.status_code == 200 else {"code": None, **answer.json()}

    def close(self) -> None:
        self._stack.close()
