"""One end of the channel: order, credit, acks, what passes, and what breaks the rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridkit.errors import ErrorCode, LimitError, UsageError, WireError
from gridkit.wire.rpc.channel import ACK_SECONDS, JOINED, MAX_PASSING, Channel, Position, Window
from gridkit.wire.rpc.frames import Frame, Kind, frame_size, pack_frame, read_frames

WINDOW = Window(frames=8, bytes=1000)


def up(window: Window = WINDOW, theirs: Window = WINDOW) -> Channel:
    channel = Channel(window, theirs)
    channel.resumed(1, Position())
    return channel


def message(seq: int, text: bytes = b"text", ack: int = 0, *bodies: bytes) -> bytes:
    return pack_frame(Kind.MESSAGE, seq, ack, text, bodies)


def everything(channel: Channel, now: float = 0.0) -> list[Frame]:
    """What it sends."""
    frames: list[Frame] = []
    while (data := channel.outgoing(now)) is not None:
        frames += read_frames(data)
    return frames


def take(channel: Channel, data: bytes | None, link: int = 1) -> list[bytes]:
    """The texts that are new to it."""
    assert data is not None
    return [frame.text for frame in channel.receive(data, link)]


def state(channel: Channel) -> dict[str, Any]:
    return {name: list(value) if hasattr(value, "__iter__") else value for name, value in vars(channel).items()}


# ---- order


def test_messages_go_in_order_with_their_bodies() -> None:
    sender, taker = up(), up()
    array = np.arange(3, dtype=np.float32)
    sender.send(b"one", [b"body", array.view(np.uint8).data])
    sender.send(b"two")
    array[:] = 0  # the bytes were copied
    data = sender.outgoing(0.0)
    assert data is not None and sender.outgoing(0.0) is None
    first, second = taker.receive(data, 1)
    assert (first.text, first.seq, second.text, second.seq) == (b"one", 1, b"two", 2)
    assert [bytes(body) for body in first.bodies] == [b"body", np.arange(3, dtype=np.float32).tobytes()]
    assert taker.position == Position(taken=2, applied=0)


def test_what_is_said_before_there_is_a_link_waits_for_it() -> None:
    channel = Channel(WINDOW, WINDOW)
    channel.send(b"early")
    assert channel.outgoing(0.0) is None and not channel.up
    channel.resumed(1, Position())
    assert [frame.text for frame in everything(channel)] == [b"early"]


def test_a_new_link_gets_what_was_not_taken() -> None:
    channel = up()
    for text in (b"1", b"2", b"3", b"4"):
        channel.send(text)
    everything(channel)
    channel.dropped(1)
    assert channel.outgoing(0.0) is None
    channel.resumed(2, Position(taken=2, applied=1))
    assert [frame.seq for frame in everything(channel)] == [3, 4]
    assert channel.unacked == 3  # 2 was taken, but there is no room for another yet


def test_the_same_message_twice_is_taken_once() -> None:
    channel = up()
    assert take(channel, message(1)) == [b"text"]
    assert take(channel, message(1)) == []
    assert channel.position.taken == 1


def test_r8_a_link_that_was_replaced_is_not_listened_to() -> None:
    channel = up()
    channel.resumed(2, Position())
    before = state(channel)
    assert take(channel, message(1)) == []
    assert take(channel, b"garbage") == []
    channel.dropped(1)
    assert state(channel) == before and channel.up
    channel.dropped(2)
    assert take(channel, message(1), 2) == []


# ---- credit


def test_who_has_no_room_is_told_so_and_says_nothing() -> None:
    channel = up()
    for number in range(WINDOW.frames):
        assert channel.room(b"%d" % number)
        channel.send(b"%d" % number)
    before = state(channel)
    assert not channel.room(b"more")
    with pytest.raises(LimitError) as refused:
        channel.send(b"more")
    assert refused.value.code is ErrorCode.BUSY and state(channel) == before
    everything(channel)
    take(channel, pack_frame(Kind.ACK, 0, 3))
    assert channel.unacked == 5 and channel.room(b"more")


def test_room_is_counted_in_bytes_too() -> None:
    half = bytes(500 - frame_size(b""))
    channel = up()
    channel.send(half)
    assert channel.room(half) and not channel.room(half + b"x")
    channel.send(half)
    assert not channel.room(b"m")


def test_what_was_said_when_a_link_began_makes_room_as_an_ack_does() -> None:
    channel = up()
    for seq in range(1, 9):
        take(channel, message(seq))
    channel.applied(8, 0.0)
    channel.dropped(1)
    channel.resumed(2, Position())  # the other end was told of channel.position
    for seq in range(9, 17):
        assert take(channel, message(seq), 2) == [b"text"]


@pytest.mark.parametrize("method", ["room", "send", "pass_by"])
def test_what_never_fits_is_told_from_what_does_not_yet(method: str) -> None:
    channel = up()
    before = state(channel)
    arguments = (bytes(600), [bytes(400)])
    with pytest.raises(LimitError) as refused:
        getattr(channel, method)(*((("key",) if method == "pass_by" else ()) + arguments))
    assert refused.value.code is ErrorCode.TOO_LARGE and state(channel) == before


def test_the_other_ends_window_is_what_counts() -> None:
    channel = up(theirs=Window(frames=2, bytes=1000))
    channel.send(b"1")
    channel.send(b"2")
    assert not channel.room(b"3")


# ---- acks


def test_an_ack_goes_with_the_next_message() -> None:
    one, other = up(Window(), Window()), up(Window(), Window())
    frames = 0
    for _ in range(1000):
        for sender, taker in ((one, other), (other, one)):
            sender.send(b"text")
            while (data := sender.outgoing(0.0)) is not None:
                frames += 1
                for frame in taker.receive(data, 1):
                    taker.applied(frame.seq, 0.0)
    assert frames == 2000 and one.unacked == 0


def test_an_ack_that_finds_no_message_goes_alone_after_a_while() -> None:
    channel = up()
    take(channel, message(1))
    assert channel.due is None and channel.outgoing(99.0) is None  # it isn't done with yet
    channel.applied(1, 100.0)
    assert channel.due == 100.0 + ACK_SECONDS and channel.outgoing(100.0) is None
    [frame] = everything(channel, channel.due)
    assert (frame.kind, frame.ack) == (Kind.ACK, 1)
    assert channel.due is None and channel.outgoing(200.0) is None


def test_an_ack_that_many_messages_wait_for_goes_at_once() -> None:
    channel = up()
    for seq in (1, 2):
        take(channel, message(seq))
    channel.applied(1, 0.0)
    assert channel.outgoing(0.0) is None
    channel.applied(2, 0.0)  # a quarter of the window's messages
    assert channel.outgoing(0.0) is not None
    take(channel, message(3, bytes(250)))
    channel.applied(3, 0.0)  # a quarter of its bytes
    assert channel.outgoing(0.0) is not None


def test_acks_may_repeat_and_come_late() -> None:
    channel = up()
    for number in range(4):
        channel.send(b"%d" % number)
    everything(channel)
    for ack in (2, 2, 1, 3, 0, 3):
        take(channel, pack_frame(Kind.ACK, 0, ack))
    assert channel.unacked == 1


def test_done_with_is_only_what_came() -> None:
    channel = up()
    take(channel, message(1))
    for seq in (2, -1):
        with pytest.raises(UsageError):
            channel.applied(seq, 0.0)
    channel.applied(1, 0.0)
    channel.applied(1, 5.0)
    assert channel.position == Position(1, 1) and channel.due == ACK_SECONDS


# ---- what passes


def test_of_what_passes_the_latest_goes() -> None:
    channel = up()
    for progress in range(5):
        channel.pass_by("request 7", b"%d" % progress)
    channel.pass_by("request 8", b"8")
    frames = everything(channel)
    assert [(frame.kind, frame.text) for frame in frames] == [(Kind.PASSING, b"4"), (Kind.PASSING, b"8")]
    [frame] = up().receive(pack_frame(Kind.PASSING, 0, 0, b"4", [b"body"]), 1)
    assert frame.seq == 0 and [bytes(body) for body in frame.bodies] == [b"body"]


def test_what_passes_needs_no_room_and_is_not_sent_again() -> None:
    channel = up()
    while channel.room(b"full"):
        channel.send(b"full")
    everything(channel)
    channel.pass_by("key", b"beat")
    channel.dropped(1)
    channel.pass_by("key", b"nobody hears it")
    channel.resumed(2, Position(taken=WINDOW.frames))
    assert everything(channel) == []
    channel.pass_by("key", b"beat")
    assert len(everything(channel)) == 1


def test_what_passes_and_what_stays_take_turns() -> None:
    """Heartbeats aren't held up by a long queue, nor messages by many previews."""
    channel = up()
    for number in range(3):
        channel.send(b"%d" % number)
        channel.pass_by(number, b"passing")
    kinds = [frame.kind for frame in everything(channel)]
    assert kinds == [Kind.PASSING, Kind.MESSAGE] * 3


def test_what_passes_is_bounded() -> None:
    channel = up()
    for key in range(MAX_PASSING + 50):
        channel.pass_by(key, b"%d" % key)
    texts = [frame.text for frame in everything(channel)]
    assert texts == [b"%d" % key for key in range(50, MAX_PASSING + 50)]


# ---- in one WebSocket message


def test_what_waits_goes_together() -> None:
    sender, taker = up(Window(), Window()), up(Window(), Window())
    said = [b"%d" % number for number in range(200)]
    for text in said:
        sender.send(text)
    assert take(taker, sender.outgoing(0.0)) == said and sender.outgoing(0.0) is None


def test_what_is_long_does_not_wait_for_more() -> None:
    sender = up(Window(), Window())
    for size in (JOINED, JOINED, 10, 10):
        sender.send(bytes(size))
    lengths = []
    while (data := sender.outgoing(0.0)) is not None:
        lengths.append(len(list(read_frames(data))))
    assert lengths == [1, 1, 2]


def test_what_came_ahead_of_what_breaks_a_rule_was_taken() -> None:
    channel = up()
    frames = channel.receive(message(1, b"one") + message(3, b"three"), 1)
    assert next(frames).text == b"one"
    with pytest.raises(WireError):
        next(frames)
    assert channel.position.taken == 1 and take(channel, message(2, b"two")) == [b"two"]


# ---- what breaks the rules


def busy() -> Channel:
    """It sent 1 to 5, of which 2 are acknowledged and 4 left, and took 1 to 7 of 8."""
    channel = up()
    for number in range(4):
        channel.send(b"%d" % number)
    everything(channel)
    channel.send(b"waits")
    for seq in range(1, 8):
        take(channel, message(seq, b"text", 2))
    channel.applied(2, 0.0)
    return channel


VIOLATIONS = {
    "garbage": b"gk" + bytes(60),
    "text": b'{"jsonrpc": "2.0"}',
    "cut short": message(8, b"t", 0, b"body")[:-5],
    "a gap": message(9),
    "far ahead": message(2**64 - 1),
    "other content under an old number": message(7, b"test"),
    "another body under an old number": message(7, b"text", 0, b"body"),
    "an ack of what waits": message(8, b"text", 5),
    "an ack of what was never said": pack_frame(Kind.ACK, 0, 6),
    "more bytes than the window": message(8, bytes(800)),
}


@pytest.mark.parametrize("why", VIOLATIONS)
def test_what_breaks_a_rule_is_an_error_and_changes_nothing(why: str) -> None:
    channel = busy()
    before = state(channel)
    with pytest.raises(WireError) as broken:
        take(channel, VIOLATIONS[why])
    assert state(channel) == before and len(str(broken.value)) < 200
    assert take(channel, message(8, b"text", 4)) == [b"text"]  # and it goes on


def test_more_messages_than_the_window_break_the_rules() -> None:
    channel = up()
    for seq in range(1, WINDOW.frames + 1):
        take(channel, message(seq, b"m"))
    channel.applied(1, 0.0)  # which isn't said yet
    with pytest.raises(WireError) as broken:
        take(channel, message(WINDOW.frames + 1, b"m"))
    assert broken.value.code is ErrorCode.TOO_MANY
    assert channel.outgoing(1.0) is not None
    assert take(channel, message(WINDOW.frames + 1, b"m")) == [b"m"]


def test_a_number_of_long_ago_breaks_the_rules_and_one_of_the_window_does_not() -> None:
    channel = up()
    for seq in range(1, 20):
        take(channel, message(seq, b"%d" % seq))
        channel.applied(seq, 0.0)
        channel.outgoing(1.0)
    assert take(channel, message(12, b"12")) == []
    with pytest.raises(WireError):
        take(channel, message(11, b"11"))


@pytest.mark.parametrize(
    ("link", "their"),
    [
        (1, Position(4, 2)),  # the one in use
        (0, Position(4, 2)),
        (2, Position(5, 2)),  # 5 waits
        (2, Position(4, 1)),  # 2 was acknowledged
        (2, Position(3, 4)),
    ],
)
def test_positions_that_cannot_be(link: int, their: Position) -> None:
    channel = busy()
    before = state(channel)
    with pytest.raises(WireError):
        channel.resumed(link, their)
    assert state(channel) == before
    channel.resumed(2, Position(4, 2))
    assert [(frame.kind, frame.seq) for frame in everything(channel)] == [(Kind.MESSAGE, 5), (Kind.ACK, 0)]
