"""`gk.WebsocketGridClient`: the seed's constructor, methods, properties, return values and errors, on a real node."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
from torch import nn

import gridkit as gk
from gridkit.aio import websocket_grid
from gridkit.errors import GridClientError, NodeUnreachable, PlanError, UsageError
from tests.support import NodeUnderTest, wait_for

ADA = {"username": "ada", "password": "analytical engine"}
OPAQUE = b"\x29\x04\x22\x4d\x18" + bytes(range(256))
X = torch.arange(12.0).reshape(3, 4) / 7


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).eval()


@pytest.fixture(scope="module")
def open_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("open") / "data", "--open")
    yield node
    node.terminate()


@pytest.fixture(scope="module")
def closed_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("closed") / "data")
    with node.http() as http:
        for user in (ADA, {"username": "bob", "password": "bobs own password"}):
            wish = {"name": user["username"], "role": "data scientist", "password": user["password"]}
            assert http.post("/users", json=wish).status_code == 200
    yield node
    node.terminate()


@pytest.fixture
def client(open_node: NodeUnderTest) -> Iterator[gk.WebsocketGridClient]:
    with gk.WebsocketGridClient(None, open_node.url) as client:
        yield client
        for model_id in client.models:
            client.delete_model(model_id)


def test_it_has_the_seeds_names_and_arguments() -> None:
    seed = {
        "__init__": "hook address id auth is_client_worker log_msgs verbose chunk_size",
        "_update_node_reference": "new_id",
        "parse_address": "address",
        "get_node_id": "",
        "connect_nodes": "node",
        "authenticate": "user",
        "_forward_json_to_websocket_server_worker": "message",
        "_forward_to_websocket_server_worker": "message",
        "serve_model": "model model_id allow_download allow_remote_inference",
        "run_remote_inference": "model_id data",
        "_return_bool_result": "result return_key",
        "_send_http_request": "route data request N unhexlify return_response_text",
        "_send_streaming_post": "route data",
        "_send_get": "route data",
        "delete_model": "model_id",
        "download_model": "model_id",
        "serve_encrypted_model": "encrypted_model",
    }
    for face in (gk.WebsocketGridClient, gk.aio.WebsocketGridClient):
        for name, arguments in seed.items():
            names = list(inspect.signature(getattr(face, name)).parameters)[1:]
            assert names[: len(arguments.split())] == arguments.split(), name
        defaults = inspect.signature(face.__init__).parameters
        assert defaults["chunk_size"].default == websocket_grid.MODEL_LIMIT_SIZE == 64 * 1024**2
        assert [defaults[n].default for n in ("id", "auth", "is_client_worker")] == [0, None, False]
    assert isinstance(gk.WebsocketGridClient.url, property) and isinstance(gk.WebsocketGridClient.models, property)


def test_constructing_connects_and_takes_the_nodes_id(open_node: NodeUnderTest) -> None:
    hook = SimpleNamespace(local_worker=SimpleNamespace(_known_workers={}))
    client = gk.WebsocketGridClient(hook, open_node.url, id="mine")
    with open_node.http() as http:
        assert client.id == client.node_id == client.get_node_id() == http.get("/identity/").json()["identity"]
    assert hook.local_worker._known_workers == {client.id: client}
    assert str(client) == f"Grid Worker < id: {client.id} >"
    assert client.url == open_node.url.replace("http", "ws") and client.address == open_node.url
    assert client.parse_address("wss://a:1") == (True, "a", 1)
    client._update_node_reference("another")
    assert client.id == "another" and hook.local_worker._known_workers == {"another": client}
    hook.local_worker._known_workers.clear()
    with pytest.raises(KeyError):
        client._update_node_reference("third")
    client.close()
    assert client.models == []  # asking opens it again
    with pytest.raises(NodeUnreachable, match="no answer"):
        gk.WebsocketGridClient(hook, "http://127.0.0.1:1")
    assert hook.local_worker._known_workers == {}


@pytest.mark.parametrize("limit", [websocket_grid.TEXT_LIMIT, 100], ids=["by message", "in pieces"])
def test_a_model_is_served_run_downloaded_deleted(
    client: gk.WebsocketGridClient, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket_grid, "TEXT_LIMIT", limit)
    model = net()
    script, traced = torch.jit.script(model), torch.jit.trace(model, X)
    for model_id, served in (("a/b//%2F..é", model), ("script", script), (5, traced)):
        assert client.serve_model(served, model_id, True, True, example=X) is True
        assert torch.equal(client.run_remote_inference(model_id, X), model(X))
        copy = client.download_model(model_id)
        assert isinstance(copy, nn.Module) and torch.equal(copy(X), model(X))
        assert [name for name, _ in copy.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert client.models == ["a/b//%2F..é", "script", "5"]
    with pytest.raises(RuntimeError, match=r"^Model id already exists"):
        client.serve_model(model, 5, example=X)
    assert client.delete_model("script") is True and client.models == ["a/b//%2F..é", "5"]


def test_a_plan_has_a_name_of_its_own_and_results_keep_dtype_and_shape(client: gk.WebsocketGridClient) -> None:
    @gk.plan(args=(gk.spec("B", 2, dtype="float64"),))
    def halves(x: torch.Tensor) -> torch.Tensor:
        return (x / 3)[:, :0]

    @gk.plan(args=(gk.spec("B", dtype="int64"),))
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    for plan, data in ((halves, torch.ones(3, 2, dtype=torch.float64)), (twice, torch.tensor([2**60 + 1]))):
        assert client.serve_model(plan, allow_remote_inference=True) is True
        result = client.run_remote_inference(plan.name, data)
        expected = plan(data)
        assert result.dtype == expected.dtype and result.shape == expected.shape and torch.equal(result, expected)
    assert client.models == ["halves", "twice"]


def test_pysyfts_bytes_are_kept_as_they_are(client: gk.WebsocketGridClient) -> None:
    assert client.serve_model(OPAQUE, "opaque", allow_download=True, allow_remote_inference=True) is True
    assert client.download_model("opaque") == OPAQUE
    with pytest.raises(RuntimeError):
        client.run_remote_inference("opaque", X)
    with pytest.raises(GridClientError) as caught:
        client.serve_model(b"\x80\x04.", "pickle")
    assert caught.value.code == "UNSAFE_FORMAT" and client.models == ["opaque"]


def test_what_is_refused_is_a_runtime_error_with_the_nodes_text(client: gk.WebsocketGridClient) -> None:
    client.serve_model(net(), "closed", example=X)
    calls = {
        "Model not found.": [
            lambda: client.delete_model("none"),
            lambda: client.download_model("none"),
            lambda: client.run_remote_inference("none", X),
        ],
        "You're not allowed to download this model.": [lambda: client.download_model("closed")],
        "You're not allowed to run inference on this model.": [lambda: client.run_remote_inference("closed", X)],
        "Model id already exists.": [lambda: client.serve_model(net(), "closed", example=X)],
        "Invalid user.": [lambda: client.authenticate({}), lambda: client.authenticate("")],
    }
    for text, all_of_it in calls.items():
        for call in all_of_it:
            with pytest.raises(RuntimeError) as caught:
                call()
            assert isinstance(caught.value, GridClientError) and caught.value.message == text
    with pytest.raises(RuntimeError, match="no credentials file"):
        client.authenticate("nobody of that name")
    with pytest.raises(RuntimeError, match="Invalid username/password!"):
        client.authenticate(ADA)
    with pytest.raises(RuntimeError, match="shared in secret"):
        client.serve_encrypted_model(net())


def test_what_is_wrong_here_is_a_value_error_and_nothing_is_sent(client: gk.WebsocketGridClient) -> None:
    with pytest.raises(ValueError, match="no id"):
        client.serve_model(net(), example=X)
    with pytest.raises(UsageError, match="traced"):
        client.serve_model(net(), "a")
    with pytest.raises(PlanError):
        client.serve_model(net(), "a", example=torch.zeros(1, 7))
    with pytest.raises(UsageError):
        client.run_remote_inference("a", "text")
    assert client.models == []


def test_a_prediction_that_is_none_is_an_error(client: gk.WebsocketGridClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for told in ({"prediction": "text"}, {"prediction": [[1], [1, 2]]}, {"prediction": [1.0], "shape": [2]}):

        async def ask(_message: Any, told: Any = told) -> dict[str, Any]:
            return {"success": True, **told}

        monkeypatch.setattr(client._core._socket, "ask", ask)
        with pytest.raises(GridClientError, match="something else than a tensor"):
            client.run_remote_inference("m", X)
    monkeypatch.undo()


def test_return_bool_result(client: gk.WebsocketGridClient) -> None:
    told = client._return_bool_result
    assert told({"success": True}) is True and told({"success": "True", "id": "x"}, "id") == "x"
    for result, text in (({"error": "why"}, "^why$"), ({"success": False}, "neither"), ({"success": True}, "neither")):
        with pytest.raises(RuntimeError, match=text):
            told(result, "id")


def test_the_low_level_ways(client: gk.WebsocketGridClient) -> None:
    assert client._forward_json_to_websocket_server_worker({"type": "socket-ping"}) == {"alive": "True"}
    assert json.loads(client._forward_to_websocket_server_worker(OPAQUE))["error"]
    listed = {"success": True, "models": []}
    for request in ("GET", httpx.get):
        assert json.loads(client._send_http_request("models/", None, request)) == listed
    assert json.loads(client._send_get("/models")) == listed
    answer = client._send_http_request("no-such-route", {}, "POST", return_response_text=False)
    assert isinstance(answer, httpx.Response) and answer.status_code == 404
    flags = {"encoding": "ISO-8859-1", "model_id": "m", "allow_download": "True", "allow_remote_inference": "False"}
    parts: dict[str, Any] = {"model": ("m", OPAQUE, "application/octet-stream"), **flags}
    assert json.loads(client._send_streaming_post("serve-model/", parts))["success"] is True
    assert json.loads(client._send_streaming_post("serve-model/", parts))["error"] == "Model id already exists."
    assert client.download_model("m") == OPAQUE


def test_hex_as_old_nodes_wrote_it_is_read(client: gk.WebsocketGridClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def send(method: str, path: str, **_: Any) -> httpx.Response:
        return httpx.Response(200, content=b"b'00ff'" if path == "/hex" else b"b'zz'")

    monkeypatch.setattr(client._core._link, "send", send)
    assert client._send_get("hex") == b"\x00\xff" and client._send_get("hex", unhexlify=False) == "b'00ff'"
    assert client._send_get("other") == "b'zz'"


def test_only_what_may_be_repeated_is_repeated(client: gk.WebsocketGridClient, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    async def send(method: str, path: str, **_: Any) -> httpx.Response:
        sent.append(method)
        raise NodeUnreachable("no answer")

    monkeypatch.setattr(client._core._link, "send", send)
    for method, tries in (("GET", 3), ("POST", 1)):
        sent.clear()
        with pytest.raises(NodeUnreachable):
            client._send_http_request("models/", None, method, N=3)
        assert sent == [method] * tries


def test_messages_are_noted_without_their_content(open_node: NodeUnderTest, capsys: Any) -> None:
    with gk.WebsocketGridClient(None, open_node.url, log_msgs=True, verbose=True) as client:
        with pytest.raises(RuntimeError):
            client.authenticate({"username": "ada", "password": "hunter2"})
        _ = client.models
        kinds = [line.partition(" <- ")[2] for line in client.msg_history]
        assert kinds == ["get-id", "authentication", "list-models"]
        printed = capsys.readouterr().out
        assert "list-models" in printed and "hunter2" not in f"{printed}{client.msg_history}"


def test_connect_nodes(open_node: NodeUnderTest, client: gk.WebsocketGridClient, tmp_path: Path) -> None:
    other = NodeUnderTest(tmp_path / "data", "--open")
    try:
        with gk.WebsocketGridClient(None, other.url) as second:
            assert client.connect_nodes(second)["status"] == "Succesfully connected."
            assert "this node itself" in client.connect_nodes(client)["error"]  # a dict, never raised
    finally:
        other.terminate()


# ---- with accounts


def test_nothing_goes_without_a_login(closed_node: NodeUnderTest) -> None:
    with gk.WebsocketGridClient(None, closed_node.url) as client:
        calls = (
            lambda: client.models,
            lambda: client.serve_model(net(), "a", example=X),
            lambda: client.download_model("a"),
        )
        for call in calls:
            with pytest.raises(RuntimeError) as caught:
                call()
            assert caught.value.code == "UNAUTHENTICATED"  # type: ignore[attr-defined]


@pytest.mark.parametrize("limit", [websocket_grid.TEXT_LIMIT, 100], ids=["by message", "in pieces"])
def test_who_logged_in_owns_what_they_serve(
    closed_node: NodeUnderTest, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket_grid, "TEXT_LIMIT", limit)
    user = dict(ADA)
    with gk.WebsocketGridClient(None, closed_node.url, auth=user) as ada:
        assert user == ADA  # the original adds to it
        assert ada.credentials == {"username": "ada"} and ada.id == f"ada_{ada.node_id}"
        ada.serve_model(net(), "adas", True, True, example=X)
        ada.close()
        ada.connect()  # the next socket is ada's as well
        assert ada.id == f"ada_{ada.node_id}"
        assert torch.equal(ada.run_remote_inference("adas", X), net()(X))
        with gk.WebsocketGridClient(None, closed_node.url) as bob:
            bob.authenticate({"username": "bob", "password": "bobs own password"})
            assert torch.equal(bob.download_model("adas")(X), net()(X))
            with pytest.raises(RuntimeError) as caught:
                bob.delete_model("adas")
            assert caught.value.code == "FORBIDDEN"  # type: ignore[attr-defined]
        assert ada.delete_model("adas") is True


def test_a_token_in_place_of_a_password(closed_node: NodeUnderTest) -> None:
    with gk.connect(closed_node.url, user=ADA) as grid:
        token = grid.issue_token(scopes=["browse"], label="script")
    with gk.WebsocketGridClient(None, closed_node.url, auth={"token": token.secret}) as client:
        assert client.models == [] and client.credentials is None
        with pytest.raises(RuntimeError, match="scope 'host'"):
            client.serve_model(net(), "a", example=X)
    with pytest.raises(RuntimeError, match="refused the connection"):
        gk.WebsocketGridClient(None, closed_node.url, auth={"token": "gk_0_wrong"})


def test_w17_no_secret_stays_in_a_client(closed_node: NodeUnderTest) -> None:
    with gk.WebsocketGridClient(None, closed_node.url, auth=ADA, log_msgs=True) as client:
        core = client._core
        held = [repr(value) for thing in (client, core, core._socket, core._link) for value in vars(thing).values()]
        text = "".join([*held, repr(client), str(client), str(client.credentials)])
        assert ADA["password"] not in text
        assert client._core._socket.token not in repr(client) + str(client) + repr(core._socket) + repr(core._link)


def test_a_client_that_nobody_holds_closes_its_socket(open_node: NodeUnderTest) -> None:
    client = gk.WebsocketGridClient(None, open_node.url)
    socket = client._core._socket._socket
    assert socket is not None
    del client
    gc.collect()
    wait_for(lambda: socket.state.name == "CLOSED", what="the socket's end")


def test_the_same_in_async_code(open_node: NodeUnderTest) -> None:
    async def main() -> None:
        async with gk.aio.WebsocketGridClient(None, open_node.url) as client:
            assert await client.serve_model(net(), "asynchronous", True, True, example=X) is True
            results = await asyncio.gather(*(client.run_remote_inference("asynchronous", X + n) for n in range(4)))
            assert all(torch.equal(result, net()(X + n)) for n, result in enumerate(results))
            assert await client.models() == ["asynchronous"]
            assert await client.delete_model("asynchronous") is True

    asyncio.run(main())
