"""`gridkit.v1` over real sockets: a session goes on over links that end in any way, until it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets

from gridkit.errors import NotFoundError
from gridkit.wire.rpc.channel import Window
from gridkit.wire.rpc.messages import Failure, Notification, Reply, Request, pack
from tests.client.cutting import Proxy
from tests.node.rpc.ends import V1, Plain, connect, live
from tests.raw import resident
from tests.support import TOKEN, NodeUnderTest

SLEEP = {"function_name": "Sleep", "kwargs": {}, "out_ids": [], "grad_enabled": False}


def sleep(seconds: float) -> dict[str, Any]:
    return {**SLEEP, "args": [seconds]}


async def close_code(client: V1) -> int:
    assert client.socket is not None
    with pytest.raises(websockets.ConnectionClosed) as closed:
        while True:
            await client.step()
    return closed.value.rcvd.code if closed.value.rcvd else 1006


@live
async def test_a_call_with_bodies(node: NodeUnderTest) -> None:
    client = await V1(node).open()
    body = bytes(range(256)) * 8192
    members = {"x": {"__tensor__": 1, "dtype": "uint8", "shape": [len(body)]}}
    asked = await client.send("echo", members, [b"", body])
    reply = await client.reply(asked)
    assert isinstance(reply, Reply) and reply.result == members
    assert [bytes(each) for each in client.bodies[asked]] == [b"", body]


@live
async def test_heartbeats_tell_how_far_it_is(node: NodeUnderTest) -> None:
    client = await V1(node).open()
    asked = await client.send("run_function", sleep(1.95))
    assert await client.reply(asked) == Reply(asked, {"data": 1.95})
    assert client.beats == [{"id": asked, "phase": "sleeping", "done": n, "total": 2} for n in (0, 1)]


@live
async def test_w11_a_call_is_cancelled(node: NodeUnderTest) -> None:
    """It is answered all the same; and what the node asks for it, isn't waited for by the other end either."""
    client = await V1(node).open()
    slow = await client.send("run_function", sleep(60))
    asking = await client.send("loopback", {"calls": [{"method": "run_callable", "params": {}}]})
    question = await client.question()
    assert isinstance(question, Request)
    at_once = await client.send("run_function", sleep(60))
    for each in (slow, asking, at_once, 12345):
        await client.say(Notification("cancel", {"id": each}))
    for each in (slow, asking, at_once):
        reply = await client.reply(each)
        assert isinstance(reply, Failure) and reply.data["code"] == "CANCELLED"
    assert await client.question() == Notification("cancel", {"id": question.id})
    await client.say(Reply(question.id, {}))  # too late, which is no mistake
    assert await client.call("echo", {"x": 1}) == {"x": 1}


@live
async def test_what_is_never_answered_is_acknowledged(node: NodeUnderTest) -> None:
    """Many at once when they are many, the last after a while: else whoever only tells would run out of credit."""
    client = await V1(node).open()
    beat = Notification("heartbeat", {"id": 1})
    for _ in range(1000):
        while not client.channel.room(pack(beat).encode()):
            await client.step()
        await client.say(beat)
    while client.channel.unacked:
        await client.step()
    assert client.replies == {}


# ---- links


class Cutting(V1):
    """Its link breaks once, at the boundary of this number: each message that is said, or comes, has one before it and
    one after it."""

    def __init__(self, node: NodeUnderTest, place: int) -> None:
        super().__init__(node)
        self.place = place

    async def _boundary(self) -> bool:
        self.place -= 1
        if self.place == 0:
            await self.cut()
            await self.open()
        return self.place == 0

    async def say(self, message: Any, bodies: Any = ()) -> None:
        self.channel.send(pack(message).encode(), bodies)
        if not await self._boundary():
            await self.flush()
        await self._boundary()

    async def step(self) -> None:
        if not await self._boundary():
            await super().step()
            await self._boundary()


async def scripted(client: V1) -> list[Any]:
    """What a client hears of a session: of its calls, and of what it is asked."""
    function = {"method": "run_callable", "params": {"callable_id": "f", "args": [], "kwargs": {}}}
    calls = [function, {"method": "log", "params": {"level": "info", "text": "t"}, "notify": True}, function]
    outer = await client.send("loopback", {"calls": calls})
    first = await client.question()
    assert isinstance(first, Request)
    assert await client.call("echo", {"nested": 1}) == {"nested": 1}
    slow = await client.send("run_function", sleep(0.05))
    await client.say(Reply(first.id, {"message": "Ok", "data": 1}))
    assert await client.question() == Notification("log", {"level": "info", "text": "t"})
    second = await client.question()
    assert isinstance(second, Request) and second.id != first.id
    await client.say(Failure(second.id, -32603, "it raised", {"exception": "it raised"}))
    answers = [await client.reply(each) for each in (outer, slow)]
    assert all(isinstance(answer, Reply) for answer in answers)
    large = await client.send("echo", {}, [b"x" * 300_000])
    await client.reply(large)
    assert client.asked == [] and bytes(client.bodies[large][0]) == b"x" * 300_000
    order = [each - outer if isinstance(each, int) else each for each in client.order]
    return [[getattr(answer, "result", answer) for answer in answers], sorted(map(str, order))]


@live
async def test_a_link_that_is_cut_at_any_boundary_changes_nothing(node: NodeUnderTest) -> None:
    """Nothing is lost, and nothing is done twice: `ends.V1` would see a second answer or question."""
    undisturbed = Cutting(node, 0)
    expected = await scripted(await undisturbed.open())
    boundaries = -undisturbed.place
    assert boundaries > 25
    for place in range(1, boundaries + 1):
        client = Cutting(node, place)
        assert await scripted(await client.open()) == expected, f"cut at {place}"
        assert client.socket is not None
        await client.socket.close()


class Reopening(V1):
    """It opens a new link whenever one breaks."""

    def __init__(self, node: NodeUnderTest, url: str) -> None:
        super().__init__(node, url=url)
        self.links = 0

    async def open(self) -> V1:
        while True:
            try:
                self.links += 1
                return await super().open()
            except (OSError, EOFError, websockets.WebSocketException):
                await asyncio.sleep(0.01)

    async def _again(self) -> None:
        self.channel.dropped(self.caller.link)
        await self.open()

    async def flush(self) -> None:
        try:
            await super().flush()
        except websockets.ConnectionClosed:
            await self._again()

    async def step(self) -> None:
        try:
            await super().step()
        except websockets.ConnectionClosed:
            await self._again()


CUTS = [200, 450, 520, 700, 900, 1200, 3000, 70_000, 200_000]
"""bytes, of handshakes, small frames and a large one"""


@pytest.mark.parametrize("up", [True, False], ids=["to the node", "from the node"])
def test_a_connection_that_is_cut_within_a_message_changes_nothing(node: NodeUnderTest, up: bool) -> None:
    @live
    async def run() -> None:
        expected = await scripted(await V1(node).open())
        for place in CUTS:
            proxy = Proxy(node.port, up, [place, place + 30])
            async with proxy.running() as url:
                client = Reopening(node, url)
                assert await scripted(await client.open()) == expected, f"cut at {place}"
                assert client.links > 1, "it was never cut"
                assert client.socket is not None
                await client.socket.close()

    run()


@live
async def test_r8_the_new_link_wins(node: NodeUnderTest) -> None:
    client = await V1(node).open()
    old = client.socket
    assert old is not None
    slow = await client.send("run_function", sleep(0.2))
    await client.open()
    with pytest.raises(websockets.ConnectionClosed) as closed:
        await old.recv()
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 4001
    assert await client.reply(slow) == Reply(slow, {"data": 0.2})


@live
async def test_r8_a_link_that_was_overtaken_is_refused(node: NodeUnderTest) -> None:
    client = await V1(node).open()
    late = client.caller.hello()
    await client.open()
    socket = await connect(node, subprotocols=["gridkit.v1"])
    await socket.send(pack(late))
    assert '"BUSY"' in str(await socket.recv())
    assert await client.call("echo") == {}


@live
async def test_a_client_that_says_goodbye_is_forgotten(node: NodeUnderTest) -> None:
    client = await V1(node).open()
    assert client.socket is not None
    await client.socket.close()
    with pytest.raises(NotFoundError, match="the session is lost"):
        await client.open()


@live
async def test_sessions_are_their_principals_own(node: NodeUnderTest) -> None:
    mine = await V1(node).open()
    hers = V1(node, authorization=f"Bearer {node.add_user('dana')}")
    hers.caller.session = mine.caller.session
    await hers.open()
    assert await hers.call("echo", {"x": 1}) == {"x": 1}
    assert await mine.call("echo", {"x": 2}) == {"x": 2}


@pytest.mark.parametrize("what", ["text", "garbage", "a gap", "an ack of nothing"])
def test_who_breaks_the_channels_rules_loses_the_link_and_not_the_session(node: NodeUnderTest, what: str) -> None:
    from gridkit.wire.rpc.frames import Kind, pack_frame

    @live
    async def run() -> None:
        client = await V1(node).open()
        assert client.socket is not None
        wrong: dict[str, str | bytes] = {
            "text": pack(Request("echo", {}, 1)),
            "garbage": b"garbage",
            "a gap": pack_frame(Kind.MESSAGE, 9, 0, b"{}"),
            "an ack of nothing": pack_frame(Kind.ACK, 0, 9),
        }
        await client.socket.send(wrong[what])
        assert await close_code(client) == 4002
        client.channel.dropped(client.caller.link)
        await client.open()
        assert await client.call("echo", {"x": 1}) == {"x": 1}

    run()


@pytest.mark.parametrize("first", [pack(Request("echo", {}, 1)), "{", pack(Request("hello", {"link": 1}, 1)), b"gk"])
def test_a_link_begins_with_hello(node: NodeUnderTest, first: str | bytes) -> None:
    @live
    async def run() -> None:
        socket = await connect(node, subprotocols=["gridkit.v1"])
        await socket.send(first)
        await socket.wait_closed()
        assert socket.close_code == 4002

    run()


# ---- the node's end


@pytest.fixture
def own_node(tmp_path: Path) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path / "data")
    yield node
    node.terminate()
    assert "Traceback" not in "".join(node.said), "".join(node.said)


@live
async def test_a_node_that_ends_says_1012_and_a_new_one_that_the_session_is_lost(own_node: NodeUnderTest) -> None:
    client, plain = await V1(own_node).open(), await Plain.to(own_node)
    await client.send("run_function", sleep(60))
    await client.send("loopback", {"calls": [{"method": "run_callable", "params": {}}]})
    await plain.send("run_function", {"function_name": "Sleep", "args": [60]})
    await client.question()
    assert await asyncio.to_thread(own_node.terminate) == 0
    assert await close_code(client) == 1012
    with pytest.raises(websockets.ConnectionClosed) as closed:
        while True:
            await plain.step()
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012
    own_node.start()
    with pytest.raises(NotFoundError, match="the node has been restarted"):
        await client.open()
    await client.open()
    assert await client.call("echo", {"x": 1}) == {"x": 1}


@live
async def test_a_node_that_is_killed_is_noticed_and_the_next_one_says_so(own_node: NodeUnderTest) -> None:
    client = await V1(own_node).open()
    await client.send("run_function", sleep(60))
    own_node.kill()
    assert await close_code(client) == 1006
    own_node.start()
    with pytest.raises(NotFoundError, match="the node has been restarted"):
        await client.open()


# ---- who doesn't read, who isn't there


@live
async def test_r9_a_client_that_takes_nothing_holds_up_itself_alone(node: NodeUnderTest) -> None:
    """It acknowledges nothing, so it has no credit: what it asks isn't taken any more, and it can't ask more."""
    slow, other = await V1(node, Window(frames=16, bytes=4 << 20)).open(), await V1(node).open()
    slow.deaf = True
    body = b"y" * 100_000
    asked = []
    with pytest.raises(TimeoutError):
        while True:
            while slow.channel.room(b" " * 1000, [body]):
                asked.append(await slow.send("echo", {}, [body]))
            async with asyncio.timeout(0.7):
                await slow.step()
    assert 16 < len(asked) < 50 and len(slow.replies) == 16
    assert await other.call("echo", {"n": 1}) == {"n": 1}
    slow.deaf = False
    slow.channel.applied(slow.channel.position.taken, -1.0)
    await slow.flush()
    for _ in range(100):
        while not slow.channel.room(b" " * 1000, [body]):
            await slow.step()
        asked.append(await slow.send("echo", {}, [body]))
    for each in asked:
        await slow.reply(each)
    assert slow.order == asked


@live
async def test_r9_a_plain_client_that_reads_nothing_is_read_no_more(node: NodeUnderTest) -> None:
    client, other = await Plain.to(node, max_queue=1), await Plain.to(node)
    before = resident(node)

    asked = []

    async def shout() -> None:
        for _ in range(300):
            asked.append(await client.send("echo", {"x": "y" * 200_000}))

    shouting = asyncio.create_task(shout())
    done, _ = await asyncio.wait([shouting], timeout=0.6)
    assert not done, "60 MB were taken from one who takes no answer"
    assert await other.call("echo") == {}
    assert resident(node) - before < 60 << 20
    await client.reply(asked[0])
    while not shouting.done():
        await client.step()
    for each in asked:
        await client.reply(each)


@live
async def test_r10_a_session_outlives_a_dead_link_and_ends_without_one(impatient: NodeUnderTest) -> None:
    client = await V1(impatient, ping_interval=None).open()
    assert client.socket is not None
    asked = await client.send("loopback", {"calls": [{"method": "run_callable", "params": {}}]})
    question = await client.question()
    assert isinstance(question, Request)
    client.socket.transport.pause_reading()  # type: ignore[attr-defined]  # the cable is pulled
    await asyncio.sleep(0.7)
    await client.cut()
    await client.open()
    for _ in range(4):
        await asyncio.sleep(0.3)  # all in all longer than it may be silent, but it isn't
        client.channel.pass_by("beat", pack(Notification("heartbeat", {"id": question.id})).encode())
        await client.flush()
    await client.say(Reply(question.id, {"message": "Ok", "data": 3}))
    reply = await client.reply(asked)
    assert isinstance(reply, Reply) and reply.result["replies"] == [{"result": {"message": "Ok", "data": 3}}]
    silent = await client.send("loopback", {"calls": [{"method": "run_callable", "params": {}}]})
    failed = await client.reply(silent)
    assert isinstance(failed, Failure) and failed.data["code"] == "TIMED_OUT"
    await client.cut()
    await asyncio.sleep(1.3)
    with pytest.raises(NotFoundError, match="it was without a link for 1 s"):
        await client.open()


# ---- credentials that end


@live
async def test_w5_a_credential_that_ends_is_refused_from_then_on(node: NodeUnderTest) -> None:
    token = node.add_user("bea")
    client = await V1(node, authorization=f"Bearer {token}").open()
    assert await client.call("echo") == {}
    with node.http(token) as http:
        (row,) = http.get("/tokens").json()["tokens"]
        assert http.delete(f"/tokens/{row['id']}").status_code == 200
    reply = await client.reply(await client.send("echo"))
    assert isinstance(reply, Failure) and reply.data["code"] == "UNAUTHENTICATED"
    client.options["authorization"] = f"Bearer {TOKEN}"
    with pytest.raises(NotFoundError):
        await client.open()


@live
async def test_w5_an_account_that_is_removed_takes_its_sessions_along(node: NodeUnderTest) -> None:
    client = await V1(node, authorization=f"Bearer {node.add_user('cem')}").open()
    await client.send("run_function", sleep(60))
    with node.http() as http:
        assert http.delete("/users/cem").status_code == 200
    assert await close_code(client) == 1008
