"""How a link begins, in each way in which it can."""

from __future__ import annotations

from typing import Any

import pytest

from gridkit.errors import AccessError, ConflictError, ErrorCode, NotFoundError, WireError
from gridkit.wire.rpc.channel import Channel, Position, Window
from gridkit.wire.rpc.failures import failure_of
from gridkit.wire.rpc.handshake import Caller, Welcome, read_hello, welcome
from gridkit.wire.rpc.messages import Failure, InvalidMessage, Notification, Reply, Request, pack, parse

NODE = "the node's first instance"
HELLO = {
    "profile": "gridkit.v1",
    "session": "0123456789abcdef" * 2,
    "link": 1,
    "node": None,
    "taken": 0,
    "applied": 0,
    "frames": 64,
    "bytes": 1 << 20,
}


def met(caller: Caller, channel: Channel | None = None, node: str = NODE) -> tuple[Channel, Welcome]:
    """The node's side of a new link."""
    return welcome(read_hello(parse(pack(caller.hello()))), channel, Window(32, 1 << 16), node)


def answer(caller: Caller, found: Welcome) -> Channel:
    return caller.answered(parse(pack(Reply(caller.link, found.model_dump()))))


def test_a_new_session() -> None:
    caller = Caller(Window(64, 1 << 20))
    node, found = met(caller)
    client = answer(caller, found)
    assert (found.resumed, found.node) == (False, NODE)
    assert client.window == Window(64, 1 << 20) and client.theirs == node.window == Window(32, 1 << 16)
    assert node.up and client.up and node.link == client.link == caller.link == 1
    assert client is caller.channel


def test_no_end_keeps_more_for_the_other_than_it_takes_itself() -> None:
    """Else one could have the other fill its memory by never having done with anything."""
    node, found = met(Caller(Window(1 << 16, 1 << 40)))
    assert node.theirs == Window(32, 1 << 16)
    caller = Caller(Window(8, 1 << 12))
    met(caller)
    assert answer(caller, found.model_copy(update={"bytes": 1 << 40})).theirs == Window(8, 1 << 12)


def test_a_session_goes_on() -> None:
    caller = Caller()
    node, found = met(caller)
    client = answer(caller, found)
    client.send(b"lost")
    client.outgoing(0.0)
    again, found = met(caller, node)
    assert again is node and found.resumed and not client.up
    assert answer(caller, found) is client and client.up and node.link == 2
    assert client.outgoing(0.0) is not None


def test_a_session_whose_first_answer_was_lost_goes_on() -> None:
    caller = Caller()
    session = caller.session
    node, _ = met(caller)
    again, found = met(caller, node)
    assert again is node and caller.session == session
    answer(caller, found).send(b"text")


@pytest.mark.parametrize(("instance", "why"), [("another", "restarted"), (NODE, "doesn't know it any more")])
def test_a_session_that_the_node_does_not_know(instance: str, why: str) -> None:
    caller = Caller()
    answer(caller, met(caller)[1])
    session = caller.session
    with pytest.raises(NotFoundError, match=why) as lost:
        met(caller, None, instance)
    with pytest.raises(NotFoundError, match=why) as told:
        caller.answered(parse(pack(failure_of(lost.value, caller.link))))
    assert told.value.code is ErrorCode.SESSION_LOST and told.value.hint
    assert caller.session != session and caller.channel is None
    assert not met(caller, None, instance)[1].resumed


def test_a_link_that_was_overtaken_is_refused_and_changes_nothing() -> None:
    caller = Caller()
    slow = read_hello(caller.hello())
    node, _ = met(caller)
    with pytest.raises(ConflictError):
        welcome(slow, node, Window(), NODE)
    assert node.link == 2 and node.up


@pytest.mark.parametrize("members", [{"taken": 1}, {"taken": 1, "applied": 1}, {"applied": 1}])
def test_ends_that_disagree(members: dict[str, int]) -> None:
    """Of the node's error, and of the node's answer: the session is given up, and the next one is another."""
    caller = Caller()
    node, found = met(caller)
    answer(caller, found)
    session = caller.session
    hello = read_hello(caller.hello()).model_copy(update=members)
    with pytest.raises(WireError) as refused:
        welcome(hello, node, Window(), NODE)
    assert node.link == 1 and node.up
    with pytest.raises(WireError):
        caller.answered(parse(pack(failure_of(refused.value, caller.link))))
    assert caller.session != session and caller.channel is None

    session = caller.session
    _, found = met(caller)
    with pytest.raises(WireError):
        answer(caller, found.model_copy(update=members))
    assert caller.session != session and caller.channel is None


def test_a_refusal_that_says_nothing_of_the_session_leaves_it() -> None:
    caller = Caller()
    answer(caller, met(caller)[1])
    session, channel = caller.session, caller.channel
    caller.hello()
    with pytest.raises(AccessError):
        caller.answered(failure_of(AccessError("not now", status=403), caller.link))
    assert caller.session == session and caller.channel is channel


@pytest.mark.parametrize(
    "message",
    [
        Request("hello", {}, 2),
        Notification("welcome", {}),
        Reply(1, {}),
        Reply(None, {}),
        Failure(None, -32600, "?"),
        Reply(2, {}),
        Reply(2, None),
        Reply(2, {"node": NODE, "resumed": True, "taken": 0, "applied": 0, "frames": 0, "bytes": 1 << 20}),
    ],
)
def test_what_is_no_answer_to_this_hello(message: Any) -> None:
    caller = Caller()
    answer(caller, met(caller)[1])
    caller.hello()
    session, channel = caller.session, caller.channel
    with pytest.raises(WireError):
        caller.answered(message)
    assert caller.session == session and caller.channel is channel and not channel.up


@pytest.mark.parametrize(
    "members",
    [
        {"profile": "gridkit.v2"},
        {"session": "short"},
        {"session": "G" * 32},
        {"session": "0" * 33},
        {"session": "0" * 32 + "\n"},
        {"link": 0},
        {"link": True},
        {"link": 1.0},
        {"node": ""},
        {"taken": -1},
        {"taken": None},
        {"frames": 0},
        {"bytes": 0},
        {"bytes": 1 << 62},
        {"more": 1},
    ],
)
def test_a_hello_that_is_none(members: dict[str, Any]) -> None:
    with pytest.raises(InvalidMessage) as refused:
        read_hello(Request("hello", HELLO | members, 1))
    assert refused.value.answer is not None and refused.value.answer.code == -32602
    assert read_hello(Request("hello", HELLO, 1)).link == 1


@pytest.mark.parametrize("member", HELLO)
def test_a_hello_without_a_member(member: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        read_hello(Request("hello", {name: value for name, value in HELLO.items() if name != member}, 1))
    assert refused.value.answer is not None and refused.value.answer.data["missing_key"] == member


@pytest.mark.parametrize("message", [Notification("hello", HELLO), Request("echo", HELLO, 1), Reply(1, HELLO)])
def test_a_link_begins_with_hello(message: Any) -> None:
    with pytest.raises(InvalidMessage):
        read_hello(message)


def test_sessions_have_names_of_their_own() -> None:
    assert len({Caller().session for _ in range(100)}) == 100
    assert Position() == Position(0, 0)
