"""The channel over links that are cut, doubled, delayed and replaced, wherever that may happen: what each end takes is
what the other one said, each once and in order."""

from __future__ import annotations

import gc
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridkit.errors import ErrorCode, NotFoundError
from gridkit.wire.rpc.channel import Window
from tests.wire.rpc.ends import Ends, Link

SMALL = Window(frames=4, bytes=4096)


def say(ends: Ends, of_node: bool, said: list[bytes], bodies: int = 0) -> bool:
    """An end says its next message, if there is room."""
    channel = ends.node if of_node else ends.client
    text = b"%s %d " % (b"node" if of_node else b"client", len(said))
    parts = [b"body %d" % n for n in range(bodies)]
    if channel is None or not channel.room(text, parts):
        return False
    channel.send(text, parts)
    said.append(text + b"".join(parts))
    return True


def pump(ends: Ends, link: Link) -> int:
    """Everything that either end has to say arrives; how many frames that were."""
    frames, moved = 0, True
    while moved:
        moved = False
        for of_node in (True, False):
            moved |= ends.fill(link, of_node)
            if ends.deliver(link, not of_node):
                frames, moved = frames + 1, True
    return frames


def conversation(ends: Ends, said: tuple[list[bytes], list[bytes]], turn: int) -> None:
    """What is said in one turn of the scripted session."""
    client, node = said
    say(ends, False, client, turn % 3)
    if turn % 2:
        say(ends, True, node)
        say(ends, True, node, 1)
    ends.now += 0.03
    if turn % 3 == 0:
        ends.apply()


TURNS = 20


@pytest.mark.parametrize("late", [0, 1, 2])
@pytest.mark.parametrize("lost", ["to node", "to client", "both"])
def test_a_link_cut_at_every_boundary_of_a_session(lost: str, late: int) -> None:
    """After each number of deliveries, hello and its answer among them. `late`: so many frames arrive after the cut."""
    whole = run(None, lost, late)
    assert whole.delivered > 40
    for boundary in range(whole.delivered + 1):
        cut = run(boundary, lost, late)
        assert cut.client_took == whole.client_took and cut.node_took == whole.node_took


class Scripted(Ends):
    """Counts what arrived before the end was settled."""

    delivered = 0


def run(boundary: int | None, lost: str, late: int) -> Scripted:
    """The scripted session with one cut after that many deliveries."""
    ends, said = Scripted(Window(64, 4096)), ([], [])  # type: tuple[Scripted, tuple[list[bytes], list[bytes]]]
    link = ends.connect()
    for turn in range(-1, TURNS):
        if turn >= 0:
            conversation(ends, said, turn)
        moved = True
        while moved:
            for of_node in (True, False):
                while ends.fill(link, of_node):
                    pass
            if ends.delivered == boundary and not link.cut:
                link = replace(ends, link, lost, late)
            moved = False
            for to_node in (True, False):
                if ends.deliver(link, to_node):
                    ends.delivered, moved = ends.delivered + 1, True
                    break
    ends.settle()
    client, node = said
    assert ends.node_took == client and ends.client_took == node
    assert len(client) == TURNS
    return ends


def replace(ends: Ends, link: Link, lost: str, late: int) -> Link:
    ends.cut(link, late)
    new = ends.connect() if late != 1 else None  # with 1: what is late comes before the ends know, else after
    for to_node in (True, False):
        while ends.deliver(link, to_node):
            pass
    for of_node in (True, False):
        if lost == "both" or (lost == "to client") == of_node:  # the other end never notices
            ends.notice(link, of_node)
    return new or ends.connect()


STEPS = st.tuples(
    st.sampled_from(
        4 * ["client says", "node says", "flow", "flow all"]
        + 2 * ["to node", "to client", "apply", "wait", "cut", "replace"]
        + ["doubled to node", "doubled to client", "late", "connect", "node sees", "client sees"]
    ),
    st.integers(0, 3),
)


@given(st.lists(STEPS, max_size=150), st.booleans())
@settings(max_examples=250, deadline=None)
def test_any_history_of_links(steps: list[tuple[str, int]], joined: bool) -> None:
    history(steps, joined)


@pytest.mark.soak
@given(st.lists(STEPS, max_size=400), st.booleans())
@settings(max_examples=8000, deadline=None)
def test_many_histories_of_links(steps: list[tuple[str, int]], joined: bool) -> None:
    history(steps, joined)


def history(steps: list[tuple[str, int]], joined: bool) -> None:
    ends = Ends(SMALL, joined)
    client: list[bytes] = []
    node: list[bytes] = []
    ends.connect()
    for step, number in steps:
        link, old = ends.links[-1], ends.links[-1 - number % len(ends.links)]
        match step.split():
            case [who, "says"]:
                for bodies in range(number + 1):
                    say(ends, who == "node", node if who == "node" else client, bodies)
            case ["flow", *rest]:
                for _ in range(100 if rest else number + 1):
                    for of_node in (True, False):
                        ends.fill(link, of_node)
                        ends.deliver(link, not of_node)
            case ["to", end]:
                ends.fill(link, end == "client")
                ends.deliver(link, end == "node")
            case ["doubled", "to", end]:
                ends.fill(link, end == "client")
                ends.deliver(link, end == "node", twice=True)
            case ["late"]:
                ends.deliver(old, True)
                ends.deliver(old, False)
            case ["apply"]:
                ends.apply()
            case ["wait"]:
                ends.now += 0.03 * number
            case ["cut"]:
                ends.cut(old, number)
            case ["connect"]:
                ends.connect()
            case ["replace"]:
                for of_node in (True, False):
                    ends.fill(link, of_node)
                ends.cut(link, number)
                ends.connect()
            case [end, "sees"]:
                ends.notice(old, end == "node")
        assert ends.node_took == client[: len(ends.node_took)]
        assert ends.client_took == node[: len(ends.client_took)]
        for channel in (ends.node, ends.client):
            assert channel is None or channel.unacked <= SMALL.frames
    ends.settle()
    assert ends.node_took == client and ends.client_took == node
    assert not ends.lost
    for channel in (ends.node, ends.client):
        assert channel is not None and channel.unacked == 0


def test_who_finds_no_room_is_heard_when_there_is() -> None:
    """However often the window is full, all is said in the end; also when each ack is lost with its link."""
    ends, said = Ends(SMALL), []  # type: tuple[Ends, list[bytes]]
    ends.settle()
    for turn in range(50):
        link = ends.links[-1]
        while say(ends, True, said):
            pass
        pump(ends, link)
        assert ends.node is not None and not ends.node.room(b"node")
        ends.apply()
        if turn % 2:
            assert ends.fill(link, False)
            ends.cut(link)
            ends.settle()
        else:
            pump(ends, link)
        assert ends.node.room(b"node")
    assert ends.client_took == said and len(said) == 200


def test_what_comes_on_the_old_link_after_the_hello_is_not_taken() -> None:
    """Else the acks that go back there would be lost for good."""
    ends, said = Ends(SMALL), []  # type: tuple[Ends, list[bytes]]
    ends.settle()
    old = ends.links[-1]
    while say(ends, True, said):
        ends.fill(old, True)
    new = ends.connect()
    while ends.deliver(old, False):
        ends.apply()
        ends.fill(old, False)
    assert ends.client_took == []
    ends.cut(old)
    for _ in range(4):
        pump(ends, new)
        ends.apply()
        ends.now += 1
    assert ends.client_took == said and ends.node is not None and ends.node.unacked == 0


def test_a_node_that_was_restarted_says_so_and_another_session_begins() -> None:
    ends, said = Ends(), []  # type: tuple[Ends, list[bytes]]
    ends.settle()
    session = ends.caller.session
    say(ends, False, said)
    ends.restart()
    ends.settle()
    [lost] = ends.lost
    assert isinstance(lost, NotFoundError) and lost.code is ErrorCode.SESSION_LOST and "restarted" in lost.message
    assert ends.caller.session != session and ends.client is None and ends.node is None
    ends.settle()
    assert ends.client is not None and ends.client.up and ends.node_took == []
    say(ends, False, said)
    pump(ends, ends.links[-1])
    assert ends.node_took == said[1:]


def test_a_session_that_was_given_up_is_told_from_a_restart() -> None:
    ends = Ends()
    ends.settle()
    ends.node = None
    ends.settle()
    [lost] = ends.lost
    assert "doesn't know it any more" in lost.message and "restarted" not in lost.message


def test_the_newer_of_two_links_is_the_one_in_use() -> None:
    ends, said = Ends(), []  # type: tuple[Ends, list[bytes]]
    ends.settle()
    first = ends.links[-1]
    say(ends, False, said)
    ends.fill(first, False)  # is on its way when the second link opens
    second = ends.connect()
    pump(ends, second)
    assert ends.node_took == said
    ends.deliver(first, True)
    ends.cut(first)
    ends.notice(first, True)  # which says nothing of the second
    assert ends.node is not None and ends.node.up and ends.node.link == second.number
    say(ends, False, said)
    pump(ends, second)
    assert ends.node_took == said


def test_a_hello_that_was_overtaken_is_refused() -> None:
    ends = Ends()
    slow, quick = ends.connect(), ends.connect()
    pump(ends, quick)
    ends.deliver(slow, True)
    assert [error.code for error in ends.refused] == [ErrorCode.BUSY]
    assert ends.node is not None and ends.node.up and ends.node.link == quick.number


def test_memory_is_flat_over_a_hundred_thousand_messages() -> None:
    """Both ways, with a cut every 5,000."""
    ends = Ends(Window(64, 1 << 20))
    ends.settle()
    blocks = []
    for count in range(50_000):
        link = ends.links[-1]
        for of_node, channel in ((False, ends.client), (True, ends.node)):
            assert channel is not None
            channel.send(b"%d" % count)
            ends.fill(link, of_node)
            ends.deliver(link, not of_node)
        ends.apply()
        ends.now += 1
        assert ends.client_took.pop() == ends.node_took.pop() == b"%d" % count
        if count % 5000 == 4999:
            ends.cut(link)
            ends.settle()
            del ends.links[:-1]
            gc.collect()
            blocks.append(sys.getallocatedblocks())
    assert max(blocks[1:]) < blocks[0] + 500
