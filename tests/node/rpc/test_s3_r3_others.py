"""S3, S7, R3: frames beyond the limits, thousands of events in one message, and who wants what is another's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets
from websockets.frames import Opcode

from gridkit.errors import ErrorCode, LimitError, NotFoundError, WireError
from gridkit.node.audit import Audit
from gridkit.node.rates import Rates
from gridkit.node.rights import OWNER, Access
from gridkit.node.rpc.link import BREATH
from gridkit.node.rpc.session import Asked, Method
from gridkit.node.rpc.sessions import REMEMBERED, Sessions
from gridkit.node.settings import Limits
from gridkit.node.watch import Watch
from gridkit.wire.rpc.channel import Window
from gridkit.wire.rpc.frames import MAX_TEXT, Kind, pack_frame
from gridkit.wire.rpc.messages import Notification, Reply, Request, batched, pack
from tests.node.rpc.ends import V1, Plain, basic, connect, live
from tests.node.rpc.test_sessions import ANA, Nobody, V1Link, settle, v1_ends
from tests.node.rpc.test_v1 import sleep
from tests.raw import resident
from tests.support import NodeUnderTest

TEXT, BINARY, CONTINUED, LAST, MASKED = 0x1, 0x2, 0x0, 0x80, 0x80


def head(opcode: int, size: int) -> bytes:
    """The head of a WebSocket frame that says that so many bytes follow; its mask changes nothing."""
    return bytes([opcode, MASKED | 127]) + size.to_bytes(8) + bytes(4)


async def close_code(socket: websockets.ClientConnection) -> int | None:
    async with asyncio.timeout(20):
        await socket.wait_closed()
    return socket.close_code


# ---- S3


@pytest.mark.parametrize("kind", ["plain", "before hello", "text", "binary"])
def test_s3_a_frame_beyond_the_limit_is_refused_by_its_head(node: NodeUnderTest, kind: str) -> None:
    """Not a byte of it need come."""

    @live
    async def run() -> None:
        if kind == "plain":
            socket, size = (await Plain.to(node)).socket, 9 << 20
        elif kind == "before hello":
            socket, size = await connect(node, subprotocols=["gridkit.v1"]), 65 << 10
        else:
            client = await V1(node).open()
            assert client.socket is not None
            socket, size = client.socket, 65 << 20
        socket.transport.write(head(LAST | (BINARY if kind == "binary" else TEXT), size))
        assert await close_code(socket) == 1009

    run()


@live
async def test_s3_pieces_that_grow_beyond_the_limit_are_refused_when_they_do(node: NodeUnderTest) -> None:
    client, before = await Plain.to(node), resident(node)
    client.socket.transport.write(head(TEXT, 1 << 20) + b" " * (1 << 20))
    for _ in range(100):
        client.socket.transport.write(head(CONTINUED, 1 << 20) + b" " * (1 << 20))
    assert await close_code(client.socket) in (1009, 1006), "it may be reset while it still writes"
    assert resident(node) - before < 40 << 20


@live
async def test_s3_a_text_that_would_take_long_to_read_is_none(node: NodeUnderTest) -> None:
    """Numbers travel in bodies, which may be much larger; an honest end doesn't even send it."""
    client = await V1(node).open()
    assert client.socket is not None
    with pytest.raises(LimitError) as refused:
        client.channel.send(b" " * (MAX_TEXT + 1))
    assert refused.value.code is ErrorCode.TOO_LARGE
    await client.socket.send(pack_frame(Kind.MESSAGE, 1, 0, b" " * (MAX_TEXT + 1)))
    assert await close_code(client.socket) == 4002
    client.channel.dropped(client.caller.link)
    await client.open()
    assert await client.call("echo", {"x": 1}) == {"x": 1}


# ---- S7


@pytest.fixture
def watch(tmp_path: Path) -> Any:
    access = Access("o" * 20, "s" * 20, Nobody())  # type: ignore[arg-type]
    watch = Watch(access, Rates(Limits(member_rate=1e9)), Audit(tmp_path / "audit.jsonl"))
    yield watch
    watch.close()


@live
async def test_s7_thousands_of_events_in_a_message_leave_others_their_turn(watch: Watch) -> None:
    """In order, each once; the message isn't done with before, and what came behind it waits."""
    taken: list[Any] = []
    turns: list[int] = []

    def note(asked: Asked) -> None:
        taken.append(asked.params.id)

    sessions = Sessions(watch, Limits(), {"heartbeat": Method(note)})
    line, client = v1_ends(Window())
    session, link = sessions.begin(OWNER, "k", line), V1Link(1)
    sessions.linked(session, link, OWNER)
    client.send(pack(batched([Notification("heartbeat", {"id": n + 1}) for n in range(9999)])).encode())
    client.send(pack(Request("echo", {"n": 1}, "behind")).encode())
    while (data := client.outgoing(0.0)) is not None:
        for incoming in line.receive(data, 1):
            session.feed(incoming)
    assert 0 < len(taken) <= BREATH + 1 and line.channel.position.applied == 0 and session.held > 0
    while line.channel.position.applied < 2:
        turns.append(len(taken))
        await asyncio.sleep(0)
    assert taken == list(range(1, 10_000)) and len(turns) >= 9999 // BREATH
    assert [message.id for message in link.hear(client) if isinstance(message, Reply)] == ["behind"]
    client.send(pack(batched([Notification("heartbeat", {"id": n + 1}) for n in range(9999)])).encode())
    data = client.outgoing(0.0)
    assert data is not None
    for incoming in line.receive(data, 1):
        session.feed(incoming)
    await sessions.close()
    assert len(taken) < 9999 + 3 * BREATH and session.held <= len(data), "who has left is listened to no more"


# ---- R3: what is another's


def overheard(client: V1, **wrong: int) -> Request:
    """What a next link of this client's session would begin with."""
    facts = {"session": client.caller.session, "link": client.caller.link + 1, "node": client.caller._node}
    position = {"taken": 0, "applied": 0, "frames": 256, "bytes": 1 << 20}
    return Request("hello", {"profile": "gridkit.v1", **facts, **position, **wrong}, 1)


@live
async def test_r3_a_sessions_id_is_worth_nothing_to_others(node: NodeUnderTest) -> None:
    """To another account it is unknown, whatever is said with it; and its owner notices nothing."""
    mine = await V1(node).open()
    asked = await mine.send("loopback", {"calls": [{"method": "run_callable", "params": {"callable_id": "secret"}}]})
    question = await mine.question()
    assert isinstance(question, Request)
    thief = await connect(node, subprotocols=["gridkit.v1"], authorization=f"Bearer {node.add_user('thief')}")
    await thief.send(pack(overheard(mine)))
    assert '"SESSION_LOST"' in str(await thief.recv())
    await mine.say(Reply(question.id, {"message": "Ok", "data": 7}))
    reply = await mine.reply(asked)
    assert isinstance(reply, Reply) and reply.result["replies"][0]["result"]["data"] == 7


@live
async def test_r3_functions_of_others_cant_be_called(node: NodeUnderTest) -> None:
    """An id says which function of the caller's own notebook; nobody's question goes to another one."""
    mine, hers = await V1(node).open(), await V1(node, authorization=f"Bearer {node.add_user('hers')}").open()
    twin = await V1(node).open()  # the same account's other notebook
    for other in (hers, twin):
        await other.send("loopback", {"calls": [{"method": "run_callable", "params": {"callable_id": "mine"}}]})
        question = await other.question()
        assert isinstance(question, Request) and question.params == {"callable_id": "mine"}
    await mine.call("echo")
    assert mine.asked == []


@live
async def test_r3_an_answer_to_what_others_were_asked_is_none(node: NodeUnderTest) -> None:
    """Ids of the node's questions can be guessed; they are the session's own."""
    mine, hers = await V1(node).open(), await V1(node, authorization=f"Bearer {node.add_user('eva')}").open()
    asked = await mine.send("loopback", {"calls": [{"method": "run_callable", "params": {"callable_id": "f"}}]})
    question = await mine.question()
    assert isinstance(question, Request)
    await hers.say(Reply(question.id, {"message": "Ok", "data": "wrong"}))
    await hers.say(Notification("cancel", {"id": asked}))
    await hers.call("echo")
    await mine.say(Reply(question.id, {"message": "Ok", "data": "right"}))
    reply = await mine.reply(asked)
    assert isinstance(reply, Reply) and reply.result["replies"][0]["result"]["data"] == "right"


@live
async def test_r3_who_says_of_a_session_what_cant_be_is_refused_and_it_stays(node: NodeUnderTest) -> None:
    """Even with the right credential: messages that were never sent, or are forgotten, can't be told again."""
    mine = await V1(node).open()
    await mine.call("echo")
    for wrong in ({"taken": 99, "applied": 0}, {"taken": 0, "applied": 99}):
        socket = await connect(node, subprotocols=["gridkit.v1"])
        await socket.send(pack(overheard(mine, **wrong)))
        assert '"error"' in str(await socket.recv())
        assert await close_code(socket) == 1008
    assert await mine.call("echo", {"still": "here"}) == {"still": "here"}


@live
async def test_w5_a_credential_that_is_revoked_in_a_session_ends_what_it_may(node: NodeUnderTest) -> None:
    """In the plain profile too, and for whatever comes next: functions, tensors, links."""
    token = node.add_user("gus")
    client = await Plain.to(node, authorization=f"Api-Key {token}")
    assert await client.call("echo") == {}
    with node.http(token) as http:
        (row,) = http.get("/tokens").json()["tokens"]
        assert http.delete(f"/tokens/{row['id']}").status_code == 200
    for method, params in (("echo", {}), ("loopback", {"calls": []}), ("run_function", {"function_name": "Sleep"})):
        error = (await client.reply(await client.send(method, params)))["error"]
        assert error["data"]["code"] == "UNAUTHENTICATED", method
    with pytest.raises(websockets.InvalidStatus):
        await connect(node, authorization=f"Api-Key {token}")


# ---- R10


@pytest.fixture
def pinging(tmp_path: Path) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path / "data", "--limit=ping_seconds=0.2")
    yield node
    assert node.terminate() == 0


def test_r10_a_link_on_which_no_ping_is_answered_is_gone_and_its_session_isnt(pinging: NodeUnderTest) -> None:
    """Nobody says goodbye where a cable is pulled: what is asked for goes on, and is told to who comes back."""

    async def gone(socket: websockets.ClientConnection) -> None:
        send = socket.protocol.send_frame
        socket.protocol.send_frame = lambda frame: None if frame.opcode is Opcode.PONG else send(frame)  # type: ignore[method-assign]
        assert await close_code(socket) in (1011, 1006)

    @live
    async def run() -> None:
        options = {"authorization": basic("a cable"), "ping_interval": None}
        plain = await Plain.to(pinging, **options)
        asked = await plain.send("run_function", {"function_name": "Sleep", "args": [0.5]})
        await gone(plain.socket)
        again = await Plain.to(pinging, **options)
        assert again.session == plain.session and (await again.reply(asked))["result"] == {"data": 0.5}

        client = await V1(pinging, ping_interval=None).open()
        assert client.socket is not None
        asked = await client.send("run_function", sleep(0.5))
        await gone(client.socket)
        client.channel.dropped(client.caller.link)
        await client.open()
        assert await client.reply(asked) == Reply(asked, {"data": 0.5})

    run()


# ---- how sessions end


@live
async def test_a_link_that_the_node_closes_is_no_goodbye(node: NodeUnderTest) -> None:
    """Whatever the code: only the notebook's own close ends a session."""
    client = await V1(node).open()
    assert client.socket is not None
    for code in (1000, 1012):
        await client.call("drop_connection", {"code": code, "delay": 0.1})
        assert await close_code(client.socket) == code
        client.channel.dropped(client.caller.link)
        await client.open()
        assert await client.call("echo", {"code": code}) == {"code": code}
    await client.socket.close()
    with pytest.raises(NotFoundError, match="lost: the notebook has closed it"):
        await client.open()


@live
async def test_what_ended_a_session_is_told_to_whom_it_was(watch: Watch) -> None:
    sessions = Sessions(watch, Limits(rpc_sessions=REMEMBERED + 10), {})

    def end(key: str, why: str) -> None:
        sessions.end(sessions.begin(ANA, key, v1_ends(Window())[0]), WireError(why))

    end("k", "it said what it may not say")
    assert sessions.why_ended(ANA, "k") == "it said what it may not say"
    assert sessions.why_ended(OWNER, "k") is None and sessions.why_ended(ANA, "other") is None
    for number in range(REMEMBERED):
        end(str(number), "another")
    assert sessions.why_ended(ANA, "k") is None, "not for ever"
    await settle()
    await sessions.close()
