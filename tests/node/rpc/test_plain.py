"""The plain profile over real sockets: what afnio's client relies on (tests/interop runs that client itself)."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest
import websockets

from tests.node.rpc.ends import PATH, Plain, basic, connect, live
from tests.raw import head
from tests.support import TOKEN, NodeUnderTest

Step = dict[str, Any]


def first_segment(node: NodeUnderTest, path: str) -> bytes:
    """What a client has after its first read."""
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as connection:
        asked = ["Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + "A" * 22 + "=="]
        request = head(node, f"GET {path} HTTP/1.1", *asked).replace(b"Connection: close", b"Connection: Upgrade")
        connection.sendall(request)
        return connection.recv(65536)


@live
async def test_of_600_connects_under_load_none_is_deaf(node: NodeUnderTest) -> None:
    """The 101 and the first message in one segment: else a client that starts its listener in between hears nothing."""
    busy = [await Plain.to(node, authorization=basic(f"busy {number}")) for number in range(8)]
    over = False

    async def load(client: Plain) -> None:
        while not over:
            await client.call("echo", {"x": "y" * 2000})

    loading = [asyncio.create_task(load(client)) for client in busy]
    split = []
    for number in range(600):
        path = PATH if number % 2 else PATH.rstrip("/")
        segment = await asyncio.to_thread(first_segment, node, path)
        if not segment.startswith(b"HTTP/1.1 101") or b'"session_id":' not in segment or not segment.endswith(b"}}"):
            split.append(segment)
    over = True
    await asyncio.gather(*loading)
    assert split == []


@live
async def test_a_call_and_its_answer(node: NodeUnderTest) -> None:
    client = await Plain.to(node)
    sent = {"n": 1, "x": [1.5, None, True, float("inf")], "größe": "∇f 🧮", "nested": {"a": {"b": []}}}
    assert await client.call("echo", {**sent, "run_uuid": "7"}) == sent
    asked = [await client.send("echo", {"i": number}) for number in range(50)]
    assert [(await client.reply(each))["result"]["i"] for each in asked] == list(range(50))


@live
async def test_errors_carry_data(node: NodeUnderTest) -> None:
    client = await Plain.to(node)
    told = {}
    for name, method, params in [
        ("method", "no.such.method", {}),
        ("member", "run_function", {"args": [1]}),
        ("function", "run_function", {"function_name": "Nothing"}),
        ("argument", "run_function", {"function_name": "Sleep", "args": ["long"]}),
        ("endless", "run_function", {"function_name": "Sleep", "args": [float("nan")]}),
        ("code", "drop_connection", {"code": 1005}),
    ]:
        told[name] = (await client.reply(await client.send(method, params)))["error"]
    assert {name: error["code"] for name, error in told.items()} == {
        "method": -32601,
        "member": -32602,
        "function": -32005,
        "argument": -32602,
        "endless": -32602,
        "code": -32602,
    }
    assert told["method"]["message"] == "Method 'no.such.method' not found."
    assert told["method"]["data"]["method"] == "no.such.method"
    assert told["member"]["data"]["missing_key"] == "function_name"
    assert all(error["data"]["exception"] for error in told.values())


@live
async def test_w1_what_has_no_method_is_never_answered(node: NodeUnderTest) -> None:
    """afnio's client answers failing notifications, and errors that name no request: two that answer each other go on
    for ever."""
    client = await Plain.to(node)
    error = {"code": -32603, "message": "m", "data": {}}
    for message in [
        {"jsonrpc": "2.0", "id": None, "error": error},
        {"jsonrpc": "2.0", "id": 77, "error": error},
        {"jsonrpc": "2.0", "id": 77, "result": {}},
        {"jsonrpc": "2.0", "id": 77},
        {"jsonrpc": "2.0", "method": "no.such.notification"},
        {"jsonrpc": "2.0", "method": "echo", "params": {}, "id": None},
    ]:
        await client.socket.send(json.dumps(message))
    asked = await client.send("echo")
    await client.reply(asked)
    assert list(client.replies) == [asked]


@live
async def test_the_node_asks_while_it_is_asked(node: NodeUnderTest) -> None:
    """A question waits for its answer, which may be slow, or come after other calls; nothing else waits for it."""
    client = await Plain.to(node)
    calls: list[Step] = [
        {"method": "run_callable", "params": {"callable_id": "f", "args": [], "kwargs": {}}},
        {"method": "update_variable", "params": {"variable_id": "v"}, "notify": True},
        {"method": "nothing", "params": {}},
    ]
    asked = await client.send("loopback", {"calls": calls})
    question = await client.question()
    assert question["method"] == "run_callable" and question["params"] == calls[0]["params"]
    assert await client.call("echo", {"while": "it runs"}) == {"while": "it runs"}
    nested = await client.send("loopback", {"calls": calls[:1]})
    inner = await client.question()
    await client.answer(inner, result={"message": "Ok", "data": 1})
    assert (await client.reply(nested))["result"]["replies"] == [{"result": {"message": "Ok", "data": 1}}]
    await client.answer(question, result={"message": "Ok", "data": 2})
    told = await client.question()
    assert told["method"] == "update_variable" and "id" not in told
    await client.answer(await client.question(), error={"code": -32601, "message": "no", "data": {"method": "nothing"}})
    assert (await client.reply(asked))["result"]["replies"] == [
        {"result": {"message": "Ok", "data": 2}},
        None,
        {"error": {"code": -32601, "message": "no", "data": {"method": "nothing"}}},
    ]


@live
async def test_a_slow_call_sends_heartbeats_and_holds_up_nothing(node: NodeUnderTest) -> None:
    client = await Plain.to(node)
    slow = await client.send("run_function", {"function_name": "Sleep", "args": [1.1]})
    assert await client.call("echo") == {}
    assert client.beats == []
    assert (await client.reply(slow))["result"] == {"data": 1.1}
    assert client.beats == [slow]


# ---- coming back


@live
async def test_a_client_with_a_name_comes_back_to_its_session(node: NodeUnderTest) -> None:
    """Its slow call is answered on the next link, and heard of at once. afnio sends `Api-Key None` by then."""
    client = await Plain.to(node, authorization=basic("instance 1"))
    slow = await client.send("run_function", {"function_name": "Sleep", "args": [0.8]})
    await client.call("echo")
    client.socket.transport.abort()
    again = await Plain.to(node, authorization=basic("instance 1"))
    assert again.session == client.session
    await again.call("echo")
    assert again.beats == [slow], "ahead of anything else"
    assert (await again.reply(slow))["result"] == {"data": 0.8}


@live
async def test_an_answer_without_a_link_waits_for_one(node: NodeUnderTest) -> None:
    client = await Plain.to(node, authorization=basic("instance 2"))
    slow = await client.send("run_function", {"function_name": "Sleep", "args": [0.3]})
    await client.call("drop_connection")
    with pytest.raises(websockets.ConnectionClosed) as closed:
        await client.step()
    assert closed.value.rcvd is None, "cut, without a word"
    await asyncio.sleep(0.5)
    again = await Plain.to(node, authorization=basic("instance 2"))
    await again.call("echo")
    assert again.replies[slow] == {"jsonrpc": "2.0", "id": slow, "result": {"data": 0.3}}, "ahead of what came later"


@live
async def test_an_answer_that_a_dead_link_took_along_is_told_again(node: NodeUnderTest) -> None:
    """Nobody was there any more when the node wrote it. Its client waits for it by its id, and for none twice."""
    client = await Plain.to(node, authorization=basic("instance 5"))
    client.socket.transport.pause_reading()  # type: ignore[attr-defined]
    asked = [await client.send("echo", {"n": number}) for number in range(5)]
    asked.append(await client.send("run_function", {"function_name": "Sleep", "args": [0.1]}))
    await asyncio.sleep(0.3)
    client.socket.transport.abort()
    again = await Plain.to(node, authorization=basic("instance 5"))
    later = await again.send("echo", {"n": 6})
    await again.reply(later)
    assert list(again.replies) == [*asked, later]


@live
async def test_a_question_that_a_cut_link_took_along_ends(node: NodeUnderTest) -> None:
    """That client's listener ends with its link, and its answer with it: to wait on would be for ever."""
    client = await Plain.to(node, authorization=basic("instance 3"))
    asked = await client.send("loopback", {"calls": [{"method": "run_callable"}]})
    await client.question()
    client.socket.transport.abort()
    again = await Plain.to(node, authorization=basic("instance 3"))
    error = (await again.reply(asked))["error"]
    assert error["data"]["type"] == "NodeUnreachable"
    assert await again.call("echo", {"x": 1}) == {"x": 1}


@live
async def test_without_a_name_nobody_comes_back(node: NodeUnderTest) -> None:
    """Nor with that of one's account, with which people log in, from here and from there."""
    for authorization in (f"Api-Key {TOKEN}", f"Bearer {TOKEN}", basic("owner")):
        first, second = [await Plain.to(node, authorization=authorization) for _ in range(2)]
        assert first.session != second.session
        assert await first.call("echo") == {} and await second.call("echo") == {}


@live
async def test_names_are_their_accounts_own(node: NodeUnderTest) -> None:
    ana = node.add_user("ana")
    mine = await Plain.to(node, authorization=basic("same name"))
    hers = await Plain.to(node, authorization=basic("same name", ana))
    assert mine.session != hers.session
    assert await mine.call("echo") == {} and await hers.call("echo") == {}


@live
async def test_r8_the_new_link_wins_and_the_old_client_stays_away(node: NodeUnderTest) -> None:
    """With another close code the old one would come back, and the two would replace each other without end."""
    old = await Plain.to(node, authorization=basic("instance 4"))
    slow = await old.send("run_function", {"function_name": "Sleep", "args": [0.3]})
    new = await Plain.to(node, authorization=basic("instance 4"))
    with pytest.raises(websockets.ConnectionClosed) as closed:
        await old.step()
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1000
    assert (await new.reply(slow))["result"] == {"data": 0.3}


@pytest.mark.parametrize("code", [1000, 1012, 4000, None])
def test_a_link_is_dropped_as_asked(node: NodeUnderTest, code: int | None) -> None:
    @live
    async def run() -> None:
        client = await Plain.to(node)
        assert await client.call("drop_connection", {"code": code, "delay": 0.05}) == {}
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await client.step()
        assert (closed.value.rcvd.code if closed.value.rcvd else None) == code

    run()


# ---- sizes


@live
async def test_no_message_of_the_node_is_too_large_for_its_client(node: NodeUnderTest) -> None:
    client = await Plain.to(node)
    assert len((await client.call("echo", {"x": "y" * 1_000_000}))["x"]) == 1_000_000
    error = (await client.reply(await client.send("echo", {"x": "é" * 600_000})))["error"]
    assert error["data"]["code"] == "TOO_LARGE"
    assert await client.call("echo") == {}


@live
async def test_a_message_beyond_the_limit_ends_the_link(node: NodeUnderTest) -> None:
    client = await Plain.to(node)
    with pytest.raises(websockets.ConnectionClosed) as closed:
        await client.call("echo", {"x": "y" * (8 << 20)})
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009


@pytest.mark.parametrize("authorization", ["Api-Key wrong", "Api-Key None", basic("x", "wrong"), "Nothing"])
def test_a_wrong_key_is_refused_before_the_handshake(node: NodeUnderTest, authorization: str) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        asyncio.run(connect(node, authorization=authorization))
    assert refused.value.response.status_code == 403


@live
async def test_w4_a_client_that_is_busy_with_the_nodes_question_need_not_answer_pings(impatient: NodeUnderTest) -> None:
    """afnio's runs functions where it reads. At any other time who answers no ping is gone (R10)."""
    client = await Plain.to(impatient, authorization=basic("busy"), ping_interval=None)
    asked = await client.send("loopback", {"calls": [{"method": "run_callable"}]})
    question = await client.question()
    client.socket.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(0.7)
    await client.answer(question, result={"message": "Ok", "data": 1})
    await asyncio.sleep(0.1)
    client.socket.transport.resume_reading()  # type: ignore[attr-defined]
    assert (await client.reply(asked))["result"]["replies"] == [{"result": {"message": "Ok", "data": 1}}]
    client.socket.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(0.7)
    client.socket.transport.resume_reading()  # type: ignore[attr-defined]
    with pytest.raises(websockets.ConnectionClosed) as closed:
        await client.step()
    assert closed.value.rcvd is None or closed.value.rcvd.code == 1011
