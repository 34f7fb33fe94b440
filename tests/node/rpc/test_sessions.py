"""Sessions without sockets: what is counted, what is freed, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from gridkit.errors import LimitError, NodeError, NodeUnreachable
from gridkit.node.audit import Audit
from gridkit.node.rates import Rates
from gridkit.node.rights import OWNER, Access, Principal, Role
from gridkit.node.routes.rpc import take
from gridkit.node.rpc.line import Incoming
from gridkit.node.rpc.link import Link
from gridkit.node.rpc.plain import PlainLine
from gridkit.node.rpc.session import Session
from gridkit.node.rpc.sessions import Sessions
from gridkit.node.rpc.v1 import V1Line
from gridkit.node.settings import Limits
from gridkit.node.watch import Watch
from gridkit.wire.rpc.channel import Channel, Position, Window
from gridkit.wire.rpc.failures import failure_of_function
from gridkit.wire.rpc.messages import Message, Notification, Profile, Reply, Request, pack, parse, unbatched
from tests.node.rpc.ends import live

ANA = Principal(Role.SCIENTIST, "ana")


class Nobody:
    """No accounts."""

    def is_revoked(self, token_id: str) -> bool:
        return False


class FakeLink(Link):
    """A link whose frames a test takes itself."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.socket: Any = type("Socket", (), {"scope": {"extensions": {"gridkit.patience": id}, "client": None}})()
        self.ended: list[tuple[int, str]] = []
        self.pokes = 0

    def write(self, outgoing: Any, drained: Any) -> None:
        self.outgoing, self.drained = outgoing, drained

    def poke(self) -> None:
        self.pokes += 1

    def end(self, code: int, reason: str) -> None:
        self.ended.append((code, reason))

    def take(self) -> list[Message]:
        """What the node has said, heartbeats too."""
        messages = []
        while (text := self.outgoing.next()) is not None:
            self.outgoing.sent()
            messages.append(parse(text, Profile.PLAIN))
        self.drained()
        return messages


@pytest.fixture
def watch(tmp_path: Path) -> Any:
    access = Access("o" * 20, "s" * 20, Nobody())  # type: ignore[arg-type]
    watch = Watch(access, Rates(Limits(member_rate=1e9)), Audit(tmp_path / "audit.jsonl"))
    yield watch
    watch.close()


def said(session: Session, message: Message) -> None:
    text = pack(message, Profile.PLAIN)
    session.feed(Incoming(text, (), 0, len(text)))


def begin(sessions: Sessions, principal: Principal = OWNER, key: str = "k") -> tuple[Session, FakeLink]:
    session = sessions.begin(principal, key, PlainLine(0.0))
    link = FakeLink(1)
    sessions.linked(session, link, principal)
    return session, link


async def settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


@live
async def test_a_session_of_a_day_leaves_nothing_behind(watch: Watch) -> None:
    """Calls of all kinds, both ways, as many as a day has: registries empty, memory flat."""
    session, link = begin(Sessions(watch, Limits(), {}))
    loopback = {"calls": [{"method": "run_callable", "params": {"callable_id": "f"}}]}

    async def some(count: int, first: int) -> None:
        for number in range(first, first + count):
            said(session, Request("echo", {"n": number}, f"e{number}"))
            said(session, Request("nothing", {}, f"n{number}"))
            said(session, Request("loopback", loopback, f"l{number}"))
            await settle()
            asked = [message for message in link.take() if isinstance(message, Request)]
            said(session, Reply(asked[0].id, {"message": "Ok", "data": number}))
            said(session, Reply(asked[0].id, {"message": "again"}))
            await settle()
            (answer,) = link.take()
            assert isinstance(answer, Reply) and answer.id == f"l{number}"

    await some(200, 0)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        await some(500, 1000)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 120_000, f"{grown:,} bytes more"
    assert len(session._works) == len(session._calls) == session.held == 0
    assert len(asyncio.all_tasks()) == 1


@live
async def test_order_is_kept_while_the_client_takes_nothing(watch: Watch) -> None:
    session, link = begin(Sessions(watch, Limits(), {}))
    for number in range(2000):
        said(session, Request("echo", {"n": number}, number))
    assert session.line.full
    taken: list[Any] = []
    while len(taken) < 2000:
        taken += [message.result["n"] for message in link.take() if isinstance(message, Reply)]
    assert taken == list(range(2000)) and session.held == 0


@live
async def test_a_hasty_client_is_slowed_down_and_loses_nothing(watch: Watch) -> None:
    watch._rates = Rates(Limits(member_rate=100))
    session, link = begin(Sessions(watch, Limits(), {}))
    for number in range(230):
        said(session, Request("echo", {}, number))
    answered = [message.id for message in link.take() if isinstance(message, Reply)]
    assert 195 <= len(answered) <= 215, "a burst of two seconds' worth"
    while len(answered) < 230:
        await asyncio.sleep(0.01)
        answered += [message.id for message in link.take() if isinstance(message, Reply)]
    assert answered == list(range(230))


@live
async def test_so_many_sessions_each(watch: Watch) -> None:
    sessions = Sessions(watch, Limits(rpc_sessions=2), {})
    made = [begin(sessions, ANA, key)[0] for key in "ab"]
    with pytest.raises(LimitError, match="2 sessions of yours"):
        begin(sessions, ANA, "c")
    begin(sessions, OWNER, "c")
    sessions.end(made[0], NodeUnreachable("over"))
    begin(sessions, ANA, "c")
    assert len(sessions) == 3
    await sessions.close()
    assert len(sessions) == 0


@live
async def test_so_many_bytes_each(watch: Watch) -> None:
    """Of all sessions of one principal together; the message that is one too many ends its session."""
    sessions = Sessions(watch, Limits(rpc_bytes=10 << 20), {})
    full, _ = begin(sessions, ANA, "full")
    free, _ = begin(sessions, ANA, "free")
    other, link = begin(sessions, OWNER, "other")
    large = Request("echo", {"x": "y" * 900_000}, 1)
    with pytest.raises(LimitError, match="wait in sessions of yours"):
        for number in range(30):
            said(full, Request("echo", large.params, number))
    with pytest.raises(LimitError):
        said(free, large)
    said(other, large)
    assert len(link.take()) == 1
    await sessions.close()


@live
async def test_an_ended_session_frees_what_it_had(watch: Watch, recwarn: pytest.WarningsRecorder) -> None:
    sessions = Sessions(watch, Limits(), {})
    session, link = begin(sessions)
    freed: list[bool] = []
    session.on_close.append(lambda: freed.append(True))
    said(session, Request("run_function", {"function_name": "Sleep", "args": [60]}, 1))
    said(session, Request("loopback", {"calls": [{"method": "f"}]}, 2))
    await settle()
    at_once = Request("run_function", {"function_name": "Sleep", "args": [60]}, 3)
    sessions.end(session, NodeUnreachable("the node has ended"))
    said(session, at_once)  # has not even begun when it is stopped
    await sessions.close()
    assert freed == [True] and link.ended == [(1008, "the node has ended")]
    assert len(session._works) == len(session._calls) == 0
    assert len(asyncio.all_tasks()) == 1
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []
    said(session, Request("echo", {}, 4))
    assert [message for message in link.take() if isinstance(message, Reply)] == []


@live
async def test_a_session_without_a_link_ends_after_a_while(watch: Watch) -> None:
    sessions = Sessions(watch, Limits(rpc_idle=0.1), {})
    session, link = begin(sessions)
    sessions.dropped(session, link, for_good=False)
    again = FakeLink(2)
    sessions.linked(session, again, OWNER)
    await asyncio.sleep(0.2)
    assert session.closed is None
    sessions.dropped(session, link, for_good=True)  # the old one's end is no news
    assert session.link is again
    sessions.dropped(session, again, for_good=False)
    await asyncio.sleep(0.2)
    assert session.closed is not None and len(sessions) == 0


def test_the_clients_of_one_account_have_its_scopes() -> None:
    """A session is no way to a right that the credential of this link doesn't give."""
    few = Principal(Role.SCIENTIST, "ana", frozenset({"browse"}))
    assert few != ANA and hash(few) != hash(ANA)


@live
async def test_r8_nobody_listens_to_a_link_that_was_replaced(watch: Watch) -> None:
    sessions = Sessions(watch, Limits(), {})
    session, old = begin(sessions)
    new = FakeLink(2)
    assert sessions.linked(session, new, OWNER) is old
    for link, asked in ((old, 1), (new, 2)):
        assert take(sessions, session, link, pack(Request("echo", {}, asked), Profile.PLAIN))
    assert [message.id for message in new.take() if isinstance(message, Reply)] == [2]
    await sessions.close()


# ---- what the node tells, and asks


def v1_ends(window: Window) -> tuple[V1Line, Channel]:
    """The node's line and its client's end, which takes so much."""
    line, client = V1Line(Channel(Window(), window)), Channel(window, Window())
    line.channel.resumed(1, Position())
    client.resumed(1, Position())
    return line, client


class V1Link(FakeLink):
    def hear(self, client: Channel) -> list[Message]:
        """What the client takes, in order; it has done with it."""
        heard = []
        while (data := self.outgoing.next()) is not None:
            for frame in client.receive(data, 1):
                heard.append(parse(frame.text))
                client.applied(frame.seq, 0.0)
        self.drained()
        return heard


def acked(session: Session, client: Channel) -> None:
    while (data := client.outgoing(1.0)) is not None:
        for incoming in session.line.receive(data, 1):
            session.feed(incoming)
    session.ease()


@live
async def test_w12_many_events_are_one_message(watch: Watch) -> None:
    line, client = v1_ends(Window())
    sessions = Sessions(watch, Limits(), {})
    session, link = sessions.begin(OWNER, "k", line), V1Link(1)
    sessions.linked(session, link, OWNER)
    events = [Notification("create_node", {"node_id": n, "name": "AddBackward0"}) for n in range(500)]
    await session.tell(events)
    (message,) = link.hear(client)
    assert unbatched(message) == events
    await session.tell(events[:1])
    assert link.hear(client) == events[:1]
    await sessions.close()


@live
async def test_who_makes_what_is_told_waits_for_credit_and_nobody_else_does(watch: Watch) -> None:
    line, client = v1_ends(Window(frames=4, bytes=1 << 20))
    sessions = Sessions(watch, Limits(), {})
    session, link = sessions.begin(OWNER, "k", line), V1Link(1)
    sessions.linked(session, link, OWNER)
    told = 0

    async def produce() -> None:
        nonlocal told
        for number in range(40):
            await session.tell([Notification("log", {"level": "info", "text": str(number)})])
            told += 1

    producing = asyncio.create_task(produce())
    await settle()
    assert told == 5, "the window, and the one that found no room"
    client.send(pack(Request("heartbeat", {}, 1)).encode())  # what comes is taken; its answer has its turn
    heard: list[Message] = []
    while len(heard) < 41:
        heard += link.hear(client)
        acked(session, client)
        await settle()
    assert [m.params["text"] for m in heard if isinstance(m, Notification)] == [str(n) for n in range(40)]
    assert producing.done() and session.held == 0
    await sessions.close()


@live
async def test_a_clients_failure_is_raised_and_its_bodies_come_along(watch: Watch) -> None:
    line, client = v1_ends(Window())
    sessions = Sessions(watch, Limits(), {})
    session, link = sessions.begin(OWNER, "k", line), V1Link(1)
    sessions.linked(session, link, OWNER)
    calling = [asyncio.create_task(session.call("run_callable", {"callable_id": "f"})) for _ in range(2)]
    await settle()
    first, second = link.hear(client)
    assert isinstance(first, Request) and isinstance(second, Request)
    client.send(pack(Reply(first.id, {"data": {"__tensor__": 0, "dtype": "uint8", "shape": [3]}})).encode(), [b"abc"])
    failure = failure_of_function(ValueError("no such patient"), second.id, "line 3")
    client.send(pack(failure).encode())
    acked(session, client)
    answer = await calling[0]
    assert [bytes(body) for body in answer.bodies] == [b"abc"]
    with pytest.raises(NodeError, match="ValueError: no such patient"):
        await calling[1]
    waiting = asyncio.create_task(session.call("run_callable", {"callable_id": "f"}))
    await settle()
    sessions.end(session, NodeUnreachable("the account was removed"))
    with pytest.raises(NodeUnreachable, match="removed"):
        await waiting
    await sessions.close()


@live
async def test_an_ack_that_comes_with_a_message_makes_room(watch: Watch) -> None:
    """Whoever looks first for room moves what waits into it; and then it must be written, too."""
    line, client = v1_ends(Window(frames=2, bytes=1 << 20))
    sessions = Sessions(watch, Limits(), {})
    session, link = sessions.begin(OWNER, "k", line), V1Link(1)
    sessions.linked(session, link, OWNER)
    for number in range(4):
        session._put(Notification("log", {"level": "info", "text": str(number)}))
    assert len(link.hear(client)) == 2
    client.send(pack(Notification("heartbeat", {"id": 1})).encode())
    data = client.outgoing(0.0)
    assert data is not None
    link.pokes = 0
    for incoming in line.receive(data, 1):
        session.feed(incoming)
    assert link.pokes > 0 and len(link.hear(client)) == 2
    await sessions.close()
