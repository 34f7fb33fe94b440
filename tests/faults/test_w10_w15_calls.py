"""W10: a node calls nobody, whatever address it is told. W15: operations are those of a closed table."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import jwt
import pytest

from gridkit.client.paths import path_of
from gridkit.plans.plan import Input, Node, Output, Plan, Ref
from gridkit.wire.model import pack_model
from tests.datasets import SUM, publish, run
from tests.node.grid import refused, serve, talk
from tests.support import MODEL, TOKEN, NodeUnderTest, host_files, tiny_plan

WORDS = "what-the-server-inside-says"


class Listener:
    """A server that redirects who calls it, and remembers that somebody did."""

    def __init__(self, location: str = "") -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.asked: list[bytes] = []
        self._location = location
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                self.asked.append(connection.recv(65536))
                status = f"302 Found\r\nLocation: {self._location}" if self._location else "200 OK"
                body = json.dumps({"success": True, "identity": WORDS})
                answer = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
                connection.sendall(answer.encode())

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def listener() -> Iterator[Callable[..., Listener]]:
    made: list[Listener] = []

    def listen(location: str = "") -> Listener:
        made.append(Listener(location))
        return made[-1]

    yield listen
    for each in made:
        each.close()


def test_w10_no_address_that_a_node_is_told_is_called(
    node: NodeUnderTest, http: httpx.Client, listener: Callable[..., Listener]
) -> None:
    """Over both transports: as a node's address, as parties of a model, as ids, in configurations, in tokens."""
    inside = listener()
    spellings = [f"127.0.0.1:{inside.port}", f"localhost:{inside.port}", f"2130706433:{inside.port}"]
    spellings += [f"0x7f.1:{inside.port}", f"[::ffff:127.0.0.1]:{inside.port}", f"user:s3cret@127.0.0.1:{inside.port}"]
    ben = node.add_user("ben")
    for place in spellings:
        for scheme in ("http", "https", "ws", "wss", "HTTP", "file", "gopher", "unix"):
            url = f"{scheme}://{place}"
            asked = http.post("/connect-node", json={"address": url, "id": "x", "auth": {"username": "a"}})
            assert asked.status_code in (400, 403) and asked.json()["code"] in ("TARGET_REFUSED", "BAD_REQUEST")
            assert "s3cret" not in asked.text  # the rest of an address may be one
            (told,) = talk(node, {"type": "connect-node", "id": "x", "address": url}, token=TOKEN)
            assert told["code"] in ("TARGET_REFUSED", "BAD_REQUEST"), told
            (told,) = talk(node, {"type": "connect-node", "id": "x", "address": url}, token=ben)
            assert told["code"] == "FORBIDDEN", told
    url = f"http://127.0.0.1:{inside.port}/"
    party = ["x", url]
    parties = json.dumps({"workers": [party, party], "crypto_provider": party})
    assert serve(http, url, mpc="True", parties=parties).status_code == 200
    assert http.post("/search-encrypted-models", json={"model_id": url}).json()["crypto_provider"] == party
    assert http.get("/models/good", headers={"referer": url, "host": f"127.0.0.1:{node.port}"}).is_success
    config = {"authentication": {"endpoint": url, "secret": "x"}, "message_endpoint": url, "callback": url}
    hosting = host_files(tiny_plan(), config, "calls")
    http.post("/model-centric/host-training", files=hosting)
    hosted = {"model": tiny_plan().hex(), "plans": {}, "client_config": {"name": url}, "server_config": config}
    talk(node, {"type": "model-centric/host-training", "data": hosted}, token=TOKEN)
    token = jwt.encode({"iss": url}, "x" * 32, algorithm="HS256", headers={"jku": url, "x5u": url, "kid": url})
    with node.http(token) as stranger:
        refused(stranger.get("/models/"), 401, "UNAUTHENTICATED")
    assert publish(http, "set", description=url, tags=[url]).status_code == 201
    assert http.delete("/datasets/set").is_success and http.delete(path_of("models", url)).is_success
    assert inside.asked == [] and http.get("/workers").json()["workers"] == []


def test_w10_a_redirect_leads_nowhere_else(
    tmp_path_factory: pytest.TempPathFactory, listener: Callable[..., Listener]
) -> None:
    """The first host may be called, where it leads to may not: nobody is called there, and no words come back."""
    inside = listener()
    leads = [f"http://127.0.0.1:{inside.port}/identity/", f"//127.0.0.1:{inside.port}/", "file:///etc/passwd"]
    leads += ["http://169.254.169.254/latest/meta-data/", f"ws://localhost:{inside.port}/"]
    doors = [listener(location) for location in leads]
    allowed = [text for door in doors for text in ("--allow-target", f"127.0.0.1:{door.port}")]
    node = NodeUnderTest(tmp_path_factory.mktemp("caller") / "data", *allowed)
    try:
        with node.http() as http:
            for door in doors:
                url = f"http://127.0.0.1:{door.port}"
                answer = http.post("/connect-node", json={"address": url})
                (told,) = talk(node, {"type": "connect-node", "id": "x", "address": url}, token=TOKEN)
                assert answer.status_code in (400, 403, 502) and "code" in told, (answer.text, told)
                assert WORDS not in answer.text + json.dumps(told) and len(door.asked) == 2
                assert not [asked for asked in door.asked if TOKEN.encode() in asked or b"uthorization" in asked]
            assert inside.asked == [] and http.get("/workers").json()["workers"] == []
    finally:
        node.terminate()


OPERATIONS = [
    "os.system",
    "builtins.eval",
    "builtins.__import__",
    "aten.__class__",
    "aten.mm.__globals__",
    "aten.mm.default.__init__",
    "aten.mm",
    "aten.from_file.default",
    "aten.save.default",
    "aten.load.default",
    "prims.device_put.default",
    "torch.load",
    "torch.ops.aten.mm.default",
    "_operator.call",
    "",
    "aten.mm.default\0",
    "gridkit.node.app.build",
]


def _with(operation: str, plan: Plan) -> bytes:
    nodes = tuple(replace(node, op=operation) for node in plan.nodes)
    return replace(plan, nodes=nodes).to_bytes()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_w15_a_plan_with_another_operation_is_refused(node: NodeUnderTest, http: httpx.Client, operation: str) -> None:
    """As a model and as a training over both transports, and on a dataset whose policy lets any plan run."""
    before = node.files()
    product = Node("aten.mm.default", (Ref(1), Ref(0)), (), (2,))
    inputs = (Input(0, "w", "param", "float32", (3, 2)), Input(1, "x", "arg", "float32", ("B", 3)))
    good = Plan("tiny", inputs, (Output(2, "y", "result"),), (product,))
    model = pack_model(_with(operation, good), {"w": MODEL["w"]}).tobytes()
    refused(serve(http, "bad", model), 400, "BAD_PLAN")
    (told,) = talk(node, {"type": "host-model", "model_id": "bad", "model": model.decode("latin-1")}, token=TOKEN)
    assert told["code"] == "BAD_PLAN", told
    training = _with(operation, Plan.from_bytes(tiny_plan()))
    hosting = host_files(training, {"num_cycles": 1}, "bad")
    refused(http.post("/model-centric/host-training", files=hosting), 400, "BAD_PLAN")
    hosted: dict[str, Any] = {"model": hosting["model"][1].hex(), "plans": {"training_plan": training.hex()}}
    hosted |= {"client_config": {"name": "bad", "version": "1"}, "server_config": {}}
    (told,) = talk(node, {"type": "model-centric/host-training", "data": hosted}, token=TOKEN)
    assert told["data"]["code"] == "BAD_PLAN", told
    assert publish(http, "open", policy={"run": {"any": "everyone"}}).status_code == 201
    refused(run(http, "open", _with(operation, SUM)), 400, "BAD_PLAN")
    assert http.delete("/datasets/open").is_success and node.files() == before


def test_w15_a_node_imports_nothing_that_it_was_sent(node: NodeUnderTest, http: httpx.Client) -> None:
    """Python's source and its compiled form are no models, whatever they are called."""
    code = compile("raise SystemExit", "x", "exec").co_code
    for data in (b"import os\nos.abort()\n", b"\xa7\r\r\n" + code, b"#!/bin/sh\nkill 0\n", b"\x7fELF" + code):
        for name in ("gridkit/__init__", "sitecustomize.py", "../gridkit.pth"):
            assert refused(serve(http, name, data), 400, "MALFORMED")
            wish = {"type": "host-model", "model_id": name, "model": data.decode("latin-1")}
            assert talk(node, wish, token=TOKEN)[0]["code"] == "MALFORMED"
