"""How a link of `gridkit.v1` begins: one request `hello` and its answer, as text frames; then binary frames only.

The notebook chooses the session's id (which names it among the sessions of one principal) and counts its links. So each
way in which a link can begin has one outcome::

    the node has the session    the notebook was    then
    ------------------------    answered before     ----
    no                          no                  it begins
    yes                         no                  it goes on: the first answer was lost
    yes                         yes                 it goes on: what either end didn't take is sent again
    no                          yes                 SESSION_LOST: the node was restarted, or gave the session up; all
                                                    that was waited for ends so, and the notebook begins another one

Of two links at once the newer, by the notebook's count, is the one in use: the node ends the older one (close code
`REPLACED`), and refuses a `hello` that was overtaken.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Final, Literal

from pydantic import Field

from gridkit.errors import ConflictError, ErrorCode, NotFoundError, WireError
from gridkit.wire.rpc.channel import Channel, Position, Window
from gridkit.wire.rpc.failures import error_of
from gridkit.wire.rpc.members import Members, Name, Number, read_members, read_params
from gridkit.wire.rpc.messages import Failure, InvalidMessage, Message, Reply, Request

REPLACED: Final = 4001
"""WebSocket close code: a newer link of the session is there"""
BROKEN: Final = 4002
"""WebSocket close code: the other end broke the channel's rules"""


class Hello(Members):
    """The notebook's first text on a link."""

    profile: Literal["gridkit.v1"]
    session: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    link: Annotated[int, Field(ge=1, lt=1 << 53)]
    """which of the session's links this is"""
    node: Name | None
    """the node's instance that answered before; None: none did"""
    taken: Number
    applied: Number
    frames: Annotated[int, Field(ge=1, le=1 << 16)]
    bytes: Annotated[int, Field(ge=1 << 10, le=1 << 40)]


class Welcome(Members):
    """The node's answer."""

    node: Name
    resumed: bool
    taken: Number
    applied: Number
    frames: Annotated[int, Field(ge=1, le=1 << 16)]
    bytes: Annotated[int, Field(ge=1 << 10, le=1 << 40)]


class Caller:
    """The notebook's side.

    Args:
        window: what this end takes.

    Attributes:
        session: its id; another one once it was lost.
        channel: None before the first answer.

    Example::

        await link.send(pack(caller.hello()))
        caller.answered(parse(await link.recv()))      # raises what all pending calls then end with
    """

    def __init__(self, window: Window | None = None) -> None:
        self._window = window or Window()
        self._link = 0
        self._forget()

    def _forget(self) -> None:
        self.session = secrets.token_hex(16)
        self.channel: Channel | None = None
        self._node: str | None = None

    @property
    def link(self) -> int:
        """The number of the newest link: what `Channel.receive` and `Channel.dropped` are told."""
        return self._link

    def hello(self) -> Request:
        """What to say first on a new link. The one before is no longer listened to."""
        if self.channel is not None:
            self.channel.dropped(self._link)
        self._link += 1
        position = Position() if self.channel is None else self.channel.position
        params = Hello(
            profile="gridkit.v1",
            session=self.session,
            link=self._link,
            node=self._node,
            taken=position.taken,
            applied=position.applied,
            frames=self._window.frames,
            bytes=self._window.bytes,
        )
        return Request("hello", params.model_dump(), self._link)

    def answered(self, message: Message) -> Channel:
        """The channel, which is up.

        Raises:
            NotFoundError: `SESSION_LOST`.
            WireError: the ends disagree about what was sent, or that is no answer to the last `hello`.
            GridkitError: the node refuses. After the first two the next `hello` begins another session.
        """
        if not isinstance(message, Reply | Failure) or message.id != self._link:
            raise WireError("the node doesn't answer the hello of this link")
        if isinstance(message, Failure):
            error = error_of(message)
            if error.code is ErrorCode.SESSION_LOST or isinstance(error, WireError):
                self._forget()
            raise error
        welcome = read_members(Welcome, message.result)
        channel = self.channel or _channel(self._window, welcome)
        try:
            channel.resumed(self._link, Position(welcome.taken, welcome.applied))
        except WireError:
            self._forget()
            raise
        self.channel, self._node = channel, welcome.node
        return channel


def read_hello(message: Message) -> Hello:
    """The notebook's first text.

    Raises:
        InvalidMessage: it is something else.
    """
    if not isinstance(message, Request) or message.method != "hello":
        raise InvalidMessage("a link begins with the request 'hello'", None)
    return read_params(Hello, message)


def welcome(
    hello: Hello, channel: Channel | None, window: Window, node: str, why_ended: str | None = None
) -> tuple[Channel, Welcome]:
    """The node's side: the session's channel, with this link as the one in use, and what to answer ahead of any frame.
    If there was an older link, the shell ends it then.

    Args:
        hello: from `read_hello`.
        channel: of the principal's session ``hello.session``; None: there is no such session.
        window: what the node takes.
        node: the node's instance: another text after each start.
        why_ended: what ended the session here, if that is known and it was.

    Raises:
        NotFoundError: `SESSION_LOST`.
        ConflictError: a newer link is in use already.
        WireError: the notebook says of itself what can't be. In each case nothing is changed.
    """
    if channel is None and hello.node is not None:
        why = "the node has been restarted" if hello.node != node else why_ended or "the node doesn't know it any more"
        raise NotFoundError(
            f"the session is lost: {why}; what lived in it is gone",
            "make the tensors again",
            code=ErrorCode.SESSION_LOST,
            status=404,
        )
    if channel is not None and hello.link <= channel.link:
        raise ConflictError("a newer link of this session is in use", code=ErrorCode.BUSY, status=409)
    resumed, channel = channel is not None, channel or _channel(window, hello)
    channel.resumed(hello.link, Position(hello.taken, hello.applied))
    mine = channel.position
    answer = Welcome(
        node=node,
        resumed=resumed,
        taken=mine.taken,
        applied=mine.applied,
        frames=channel.window.frames,
        bytes=channel.window.bytes,
    )
    return channel, answer


def _channel(window: Window, other: Hello | Welcome) -> Channel:
    """Not more is kept for the other end than this one takes, whatever that says that it would take."""
    return Channel(window, Window(min(window.frames, other.frames), min(window.bytes, other.bytes)))
