"""One end of the channel: order, credit, acks, what passes, and what breaks the rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridkit.errors import ErrorCode, LimitError, UsageError, WireError
from gridkit.wire.rpc.channel import ACK_SECONDS, MAX_PASSING, Channel, Position, Window
from gridkit.wire.rpc.frames import Kind, frame_size, pack_frame, read_frame

WINDOW = Window(frames=8, bytes=1000)


def up(window: Window = WINDOW, theirs: Window = WINDOW) -> Channel:
    channel = Channel(window, theirs)
    channel.resumed(1, Position())
    return channel


def message(seq: int, text: bytes = b"text", ack: int = 0, *bodies: bytes) -> bytes:
    return pack_frame(Kind.MESSAGE, seq, ack, [text, *bodies])


def everything(channel: Channel, now: float = 0.0) -> list[bytes]:
    frames = []
    while (frame := channel.outgoing(now)) is not None:
        frames.append(frame)
    return frames


def state(channel: Channel) -> dict[str, Any]:
    return {name: list(value) if hasattr(value, "__iter__") else value for name, value in vars(channel).items()}


# ---- order


def test_messages_go_in_order_with_their_bodies() -> None:
    sender, taker = up(), up()
    array = np.arange(3, dtype=np.float32)
    sender.send(b"one", [b"body", array.view(np.uint8).data])
    sender.send(b"two")
    array[:] = 0  # the bytes were copied
    first, second = (taker.receive(frame, 1) for frame in everything(sender))
    assert first is not None and second is not None
    assert (bytes(first.text), first.seq, bytes(second.text), second.seq) == (b"one", 1, b"two", 2)
    assert [bytes(body) for body in first.bodies] == [b"body", np.arange(3, dtype=np.float32).tobytes()]
    assert taker.position == Position(taken=2, applied=0)


def test_what_is_said_before_there_is_a_link_waits_for_it() -> None:
    channel = Channel(WINDOW, WINDOW)
    channel.send(b"early")
    assert channel.outgoing(0.0) is None and not channel.up
    channel.resumed(1, Position())
    assert [bytes(read_frame(frame).parts[0]) for frame in everything(channel)] == [b"early"]


def test_a_new_link_gets_what_was_not_taken() -> None:
    channel = up()
    for text in (b"1", b"2", b"3", b"4"):
        channel.send(text)
    everything(channel)
    channel.dropped(1)
    assert channel.outgoing(0.0) is None
    channel.resumed(2, Position(taken=2, applied=1))
    assert [read_frame(frame).seq for frame in everything(channel)] == [3, 4]
    assert channel.unacked == 3  # 2 was taken, but there is no room for another yet


def test_the_same_message_twice_is_taken_once() -> None:
    channel = up()
    assert channel.receive(message(1), 1) is not None
    assert channel.receive(message(1), 1) is None
    assert channel.position.taken == 1


def test_r8_a_link_that_was_replaced_is_not_listened_to() -> None:
    channel = up()
    channel.resumed(2, Position())
    before = state(channel)
    assert channel.receive(message(1), 1) is None
    assert channel.receive(b"garbage", 1) is None
    channel.dropped(1)
    assert state(channel) == before and channel.up
    channel.dropped(2)
    assert channel.receive(message(1), 2) is None


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
    channel.receive(pack_frame(Kind.ACK, 0, 3), 1)
    assert channel.unacked == 5 and channel.room(b"more")


def test_room_is_counted_in_bytes_too() -> None:
    half = bytes(500 - frame_size([b""]))
    channel = up()
    channel.send(half)
    assert channel.room(half) and not channel.room(half + b"x")
    channel.send(half)
    assert not channel.room(b"")


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
            for frame in everything(sender):
                frames += 1
                got = taker.receive(frame, 1)
                assert got is not None
                taker.applied(got.seq, 0.0)
    assert frames == 2000 and one.unacked == 0


def test_an_ack_that_finds_no_message_goes_alone_after_a_while() -> None:
    channel = up()
    channel.receive(message(1), 1)
    assert channel.due is None and channel.outgoing(99.0) is None  # it isn't done with yet
    channel.applied(1, 100.0)
    assert channel.due == 100.0 + ACK_SECONDS and channel.outgoing(100.0) is None
    frame = channel.outgoing(channel.due)
    assert frame is not None and (read_frame(frame).kind, read_frame(frame).ack) == (Kind.ACK, 1)
    assert channel.due is None and channel.outgoing(200.0) is None


def test_an_ack_that_many_messages_wait_for_goes_at_once() -> None:
    channel = up()
    for seq in (1, 2):
        channel.receive(message(seq), 1)
    channel.applied(1, 0.0)
    assert channel.outgoing(0.0) is None
    channel.applied(2, 0.0)  # a quarter of the window's messages
    assert channel.outgoing(0.0) is not None
    channel.receive(message(3, bytes(250)), 1)
    channel.applied(3, 0.0)  # a quarter of its bytes
    assert channel.outgoing(0.0) is not None


def test_acks_may_repeat_and_come_late() -> None:
    channel = up()
    for number in range(4):
        channel.send(b"%d" % number)
    everything(channel)
    for ack in (2, 2, 1, 3, 0, 3):
        channel.receive(pack_frame(Kind.ACK, 0, ack), 1)
    assert channel.unacked == 1


def test_done_with_is_only_what_came() -> None:
    channel = up()
    channel.receive(message(1), 1)
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
    frames = [read_frame(frame) for frame in everything(channel)]
    assert [(frame.kind, bytes(frame.parts[0])) for frame in frames] == [(Kind.PASSING, b"4"), (Kind.PASSING, b"8")]
    payload = up().receive(pack_frame(Kind.PASSING, 0, 0, [b"4", b"body"]), 1)
    assert payload is not None and payload.seq == 0 and [bytes(body) for body in payload.bodies] == [b"body"]


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
    kinds = [read_frame(frame).kind for frame in everything(channel)]
    assert kinds == [Kind.PASSING, Kind.MESSAGE] * 3


def test_what_passes_is_bounded() -> None:
    channel = up()
    for key in range(MAX_PASSING + 50):
        channel.pass_by(key, b"%d" % key)
    texts = [bytes(read_frame(frame).parts[0]) for frame in everything(channel)]
    assert texts == [b"%d" % key for key in range(50, MAX_PASSING + 50)]


# ---- what breaks the rules


def busy() -> Channel:
    """It sent 1 to 5, of which 2 are acknowledged and 4 left, and took 1 to 7 of 8."""
    channel = up()
    for number in range(4):
        channel.send(b"%d" % number)
    everything(channel)
    channel.send(b"waits")
    for seq in range(1, 8):
        channel.receive(message(seq, b"text", 2), 1)
    channel.applied(2, 0.0)
    return channel


VIOLATIONS = {
    "nothing": b"",
    "garbage": b"gk" + bytes(60),
    "text": b'{"jsonrpc": "2.0"}',
    "cut short": message(8)[:-1],
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
        channel.receive(VIOLATIONS[why], 1)
    assert state(channel) == before and len(str(broken.value)) < 200
    assert channel.receive(message(8, b"text", 4), 1) is not None  # and it goes on


def test_more_messages_than_the_window_break_the_rules() -> None:
    channel = up()
    for seq in range(1, WINDOW.frames + 1):
        channel.receive(message(seq, b""), 1)
    channel.applied(1, 0.0)  # which isn't said yet
    with pytest.raises(WireError) as broken:
        channel.receive(message(WINDOW.frames + 1, b""), 1)
    assert broken.value.code is ErrorCode.TOO_MANY
    assert channel.outgoing(1.0) is not None
    assert channel.receive(message(WINDOW.frames + 1, b""), 1) is not None


def test_a_number_of_long_ago_breaks_the_rules_and_one_of_the_window_does_not() -> None:
    channel = up()
    for seq in range(1, 20):
        channel.receive(message(seq, b"%d" % seq), 1)
        channel.applied(seq, 0.0)
        channel.outgoing(1.0)
    assert channel.receive(message(12, b"12"), 1) is None
    with pytest.raises(WireError):
        channel.receive(message(11, b"11"), 1)


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
    assert [read_frame(frame).seq for frame in everything(channel)][:1] == [5]
