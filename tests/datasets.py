"""What the tests of datasets on a node share: four clients, small plans, the requests by hand."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np

from gridkit.client.paths import path_of
from gridkit.plans.plan import Input, Node, Output, Plan, Ref
from gridkit.wire.safetensors import pack_tensors
from tests.support import NodeUnderTest

X = np.arange(12, dtype=np.float32).reshape(4, 3)
MOCK = np.zeros((2, 3), np.float32)


def function_plan(name: str, *outputs: str) -> Plan:
    """A plan of ``x: float32[B, 3]``; each output is "sum" (one value), or "same" (all of them, doubled)."""
    nodes = [
        Node("aten.sum.default", (Ref(0),), (), (place,))
        if output == "sum"
        else Node("aten.add.Tensor", (Ref(0), Ref(0)), (), (place,))
        for place, output in enumerate(outputs, 1)
    ]
    results = tuple(Output(place, f"result.{place - 1}", "result") for place in range(1, len(outputs) + 1))
    return Plan(name, (Input(0, "x", "arg", "float32", ("B", 3)),), results, tuple(nodes))


SUM, SAME, BOTH = function_plan("sum", "sum"), function_plan("same", "same"), function_plan("both", "same", "sum")


class Clients:
    """The node's owner, two data scientists, and nobody in particular."""

    def __init__(self, node: NodeUnderTest) -> None:
        self._node = node
        self.owner = node.http()
        self.nobody = node.http(None)
        self.alice, self.bob = self.account("alice"), self.account("bob")

    def account(self, name: str) -> httpx.Client:
        """A new data scientist."""
        wish = {"name": name, "role": "data scientist", "password": f"{name}'s long password"}
        answer = self.owner.post("/users", json=wish)
        assert answer.is_success, answer.text
        login = self.nobody.post("/users/login", json={"username": name, "password": wish["password"]})
        return self._node.http(login.json()["token"])

    def close(self) -> None:
        for http in (self.owner, self.nobody, self.alice, self.bob):
            http.close()


def upload(http: httpx.Client, data: bytes) -> str:
    begun = http.post("/uploads", json={"size": len(data)})
    assert begun.status_code == 201, begun.text
    sent = http.patch(f"/uploads/{begun.json()['upload_id']}", params={"offset": 0}, content=data)
    assert sent.status_code == 200, sent.text
    return str(begun.json()["upload_id"])


def publish(http: httpx.Client, id: str, data: Any = X, mock: Any = None, **wish: Any) -> httpx.Response:
    raw = data if isinstance(data, bytes) else pack_tensors([data]).tobytes()
    uploads = {"upload_id": upload(http, raw)}
    if mock is not None:
        uploads["mock_upload_id"] = upload(http, mock if isinstance(mock, bytes) else pack_tensors([mock]).tobytes())
    answer = http.put(path_of("datasets", id), json={"kind": "tensor", **uploads, **wish})
    for upload_id in uploads.values():  # they end when they are taken, which a request that can't be read doesn't
        http.delete(f"/uploads/{upload_id}")
    return answer


def run(http: httpx.Client, id: str, plan: Plan | bytes) -> httpx.Response:
    return http.post(path_of("run-plan", id), content=plan if isinstance(plan, bytes) else plan.to_bytes())


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")
