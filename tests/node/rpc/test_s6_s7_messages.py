"""S6, S7: text that is no JSON, and JSON that is no message, in both profiles: an error with a code where JSON-RPC has
one, nothing where it hasn't, and the link stays."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gridkit.wire.rpc.messages import Failure
from tests.faults.test_s6_s7_json import BROKEN
from tests.node.rpc.ends import V1, Plain, live
from tests.support import NodeUnderTest

NOT_OBJECTS = {"a list", "a batch", "null", "a number"}
NUMBERS = {"NaN", "Infinity", "a number beyond float64"}
"""afnio's client writes these"""
TEXTS = {why: text for why, text in BROKEN.items() if why not in NOT_OBJECTS}
TEXTS["depth 100k"] = b"[" * 100_000
TEXTS["an integer of 1 MB"] = b'{"jsonrpc": "2.0", "method": "echo", "id": 1, "params": {"x": %s}}' % (b"9" * 1_000_000)


async def told_plain(client: Plain, text: str | bytes) -> dict[str, Any] | None:
    """The error that answers this, if one does; and that the link stays."""
    await client.socket.send(text)
    asked = await client.send("echo")
    await client.reply(asked)
    others = {id: client.replies.pop(id) for id in list(client.replies)}
    del others[asked]
    assert len(others) <= 1
    return next((reply["error"] for reply in others.values()), None)


async def told_v1(client: V1, text: str | bytes) -> Failure | None:
    data = text.encode() if isinstance(text, str) else text
    client.channel.send(data)
    await client.flush()
    asked = await client.send("echo")
    await client.reply(asked)
    others = {id: client.replies.pop(id) for id in list(client.replies)}
    del others[asked]
    assert len(others) <= 1
    answer = next(iter(others.values()), None)
    assert answer is None or isinstance(answer, Failure)
    return answer


@live
async def test_s6_what_is_no_json(node: NodeUnderTest) -> None:
    plain, v1 = await Plain.to(node), await V1(node).open()
    wrong = {}
    for why, text in TEXTS.items():
        if why not in NUMBERS:
            error = await told_plain(plain, text)
            if error is None or error["code"] != -32700 or error["data"]["code"] != "BAD_JSON":
                wrong[why, "plain"] = error
        if text:  # a frame has a text
            failure = await told_v1(v1, text)
            if failure is None or failure.code != -32700 or failure.data["code"] != "BAD_JSON":
                wrong[why, "v1"] = failure
    assert wrong == {}


MESSAGES: dict[str, tuple[Any, int | None]] = {
    "a batch of 10k": ([{"jsonrpc": "2.0", "method": "echo", "id": 1}] * 10_000, -32600),
    "null": (None, -32600),
    "a number": (1, -32600),
    "nothing": ({}, None),
    "no version": ({"method": "echo", "id": 900}, -32600),
    "version 1": ({"jsonrpc": "1.0", "method": "echo", "id": 900}, -32600),
    "an id that is a list": ({"jsonrpc": "2.0", "method": "echo", "id": [1]}, -32600),
    "an id that is true": ({"jsonrpc": "2.0", "method": "echo", "id": True}, -32600),
    "an id with a fraction": ({"jsonrpc": "2.0", "method": "echo", "id": 1.5}, -32600),
    "a method that is a number": ({"jsonrpc": "2.0", "method": 1, "id": 900}, -32600),
    "a method without a name": ({"jsonrpc": "2.0", "method": "", "id": 900}, -32600),
    "params as a list": ({"jsonrpc": "2.0", "method": "echo", "params": [1], "id": 900}, -32602),
    "params as a text": ({"jsonrpc": "2.0", "method": "echo", "params": "x", "id": 900}, -32600),
    "params that aren't the method's": (
        {"jsonrpc": "2.0", "method": "loopback", "params": {"calls": 1}, "id": 900},
        -32602,
    ),
    "an unknown method": ({"jsonrpc": "2.0", "method": "__class__", "id": 900}, -32601),
    "a method of the other direction": ({"jsonrpc": "2.0", "method": "run_callable", "id": 900}, -32601),
    "an unknown notification": ({"jsonrpc": "2.0", "method": "x"}, None),
    "a notification with wrong params": ({"jsonrpc": "2.0", "method": "loopback", "params": {}}, None),
    "a request and an answer": ({"jsonrpc": "2.0", "method": "echo", "result": 1, "id": 900}, -32600),
    "an answer with an unknown id": ({"jsonrpc": "2.0", "id": "never asked", "result": {}}, None),
    "an error with an unknown id": ({"jsonrpc": "2.0", "id": 5, "error": {"code": 1, "message": "m"}}, None),
    "an error that is a text": ({"jsonrpc": "2.0", "id": 5, "error": "m"}, None),
    "events as a request": ({"jsonrpc": "2.0", "method": "events", "params": {"events": []}, "id": 900}, -32602),
}


@live
async def test_s7_what_is_no_message(node: NodeUnderTest) -> None:
    plain, v1 = await Plain.to(node), await V1(node).open()
    told: dict[str, tuple[int | None, int | None]] = {}
    for why, (message, _) in MESSAGES.items():
        error, failure = await told_plain(plain, json.dumps(message)), await told_v1(v1, json.dumps(message))
        told[why] = (error and error["code"], failure and failure.code)  # type: ignore[assignment]
    assert told == {why: (code, code) for why, (_, code) in MESSAGES.items()}


@live
async def test_s7_an_id_that_is_in_use(node: NodeUnderTest) -> None:
    client = await Plain.to(node)
    request = {
        "jsonrpc": "2.0",
        "method": "run_function",
        "params": {"function_name": "Sleep", "args": [0.2]},
        "id": "7",
    }
    await client.socket.send(json.dumps(request))
    await client.socket.send(json.dumps(request))
    assert (await client.reply("7"))["error"]["code"] == -32600
    del client.replies["7"]
    assert (await client.reply("7"))["result"] == {"data": 0.2}
    await client.socket.send(json.dumps({**request, "method": "echo", "params": {}}))
    del client.replies["7"]
    assert (await client.reply("7"))["result"] == {}, "it is free again"


@live
async def test_s7_a_flood_of_notifications(node: NodeUnderTest) -> None:
    """They are taken in order, and another client is answered meanwhile."""
    flooding, other = await Plain.to(node), await Plain.to(node)

    async def flood() -> int:
        for _ in range(20_000):
            await flooding.socket.send('{"jsonrpc":"2.0","method":"echo","params":{}}')
        return await flooding.send("echo", {"last": 1})

    pouring = asyncio.create_task(flood())
    for number in range(20):
        assert await other.call("echo", {"n": number}) == {"n": number}
    assert (await flooding.reply(await pouring))["result"] == {"last": 1}
    assert len(flooding.replies) == 1


@live
async def test_s7_more_requests_than_are_worked_on(node: NodeUnderTest) -> None:
    client = await Plain.to(node)
    asked = [await client.send("run_function", {"function_name": "Sleep", "args": [1.5]}) for _ in range(1100)]
    codes = {}
    for each in asked[1000:]:
        codes[each] = (await client.reply(each))["error"]["data"]["code"]
    assert set(codes.values()) == {"BUSY"}
    assert (await client.reply(asked[999]))["result"] == {"data": 1.5}


@pytest.mark.parametrize("members", [{"calls": [{"method": "x", "delay": -1}]}, {"calls": [{"method": "x"}] * 1001}])
def test_s7_bounds_of_the_tests_of_the_link(node: NodeUnderTest, members: Any) -> None:
    @live
    async def run() -> None:
        client = await Plain.to(node)
        assert (await client.reply(await client.send("loopback", members)))["error"]["code"] == -32602

    run()
