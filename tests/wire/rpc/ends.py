"""Both ends of a session, and links between them that a test breaks, doubles and delays as it likes."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field

from gridkit.errors import ConflictError, NotFoundError
from gridkit.wire.rpc.channel import Channel, Window
from gridkit.wire.rpc.failures import failure_of
from gridkit.wire.rpc.frames import read_frames
from gridkit.wire.rpc.handshake import Caller, Hello, read_hello, welcome
from gridkit.wire.rpc.messages import Reply, pack, parse

Sent = str | bytes  # a text frame of the handshake, or a binary one of the channel


@dataclass(eq=False)
class Link:
    """One connection: what is on its way in either direction. The ends don't notice together that it is cut."""

    number: int
    to_node: deque[Sent] = field(default_factory=deque)
    to_client: deque[Sent] = field(default_factory=deque)
    cut: bool = False


class Ends:
    """A notebook and a node, with what each took.

    Args:
        joined: what an end sends together arrives together, or is lost together.
    """

    def __init__(self, window: Window | None = None, joined: bool = False) -> None:
        self.window = window or Window()
        self.joined = joined
        self.caller = Caller(self.window)
        self.node: Channel | None = None
        self.instance = "first"
        self.links: list[Link] = []
        self.now = 0.0
        self.client_took: list[bytes] = []
        self.node_took: list[bytes] = []
        self.lost: list[NotFoundError] = []
        self.refused: list[ConflictError] = []

    @property
    def client(self) -> Channel | None:
        return self.caller.channel

    def connect(self) -> Link:
        """The notebook opens a link, whatever became of those before, and says hello."""
        text = pack(self.caller.hello())
        self.links.append(Link(self.caller.link, deque([text])))
        return self.links[-1]

    def fill(self, link: Link, of_node: bool) -> bool:
        """An end puts what it has next on a link; False when it has none for it."""
        channel = self.node if of_node else self.client
        if channel is None or link.cut or channel.link != link.number:
            return False
        data = channel.outgoing(self.now)
        if data is not None:
            sizes = [len(data)] if self.joined else [frame.size for frame in read_frames(data)]
            for end, size in zip(itertools.accumulate(sizes), sizes, strict=True):
                (link.to_client if of_node else link.to_node).append(data[end - size : end])
        return data is not None

    def deliver(self, link: Link, to_node: bool, twice: bool = False) -> bool:
        """The next thing on a link arrives, and is still there if it is to arrive twice; False when there is none."""
        queue = link.to_node if to_node else link.to_client
        if not queue:
            return False
        sent = queue[0] if twice and isinstance(queue[0], bytes) else queue.popleft()
        if isinstance(sent, str):
            self._greet(link, sent, to_node)
            return True
        channel, took = (self.node, self.node_took) if to_node else (self.client, self.client_took)
        if channel is not None:
            took += [frame.text + b"".join(frame.bodies) for frame in channel.receive(sent, link.number)]
        return True

    def _greet(self, link: Link, text: str, to_node: bool) -> None:
        if not to_node:
            if link.number == self.caller.link:
                try:
                    self.caller.answered(parse(text))
                except NotFoundError as error:
                    self.lost.append(error)
            return
        hello = read_hello(parse(text))
        try:
            self.node, answer = welcome(hello, self.find(hello), self.window, self.instance)
        except NotFoundError as error:
            link.to_client.append(pack(failure_of(error, link.number)))
        except ConflictError as error:
            self.refused.append(error)
        else:
            link.to_client.append(pack(Reply(link.number, answer.model_dump())))

    def find(self, hello: Hello) -> Channel | None:
        """The node has one session at most."""
        return self.node if hello.session == self.caller.session else None

    def cut(self, link: Link, kept: int = 0) -> None:
        """What is on its way is lost, but for so many of the first in each direction, which are only late."""
        link.cut = True
        for queue in (link.to_node, link.to_client):
            while len(queue) > kept:
                queue.pop()

    def notice(self, link: Link, of_node: bool) -> None:
        """An end sees that a link is cut."""
        channel = self.node if of_node else self.client
        if channel is not None and link.cut:
            channel.dropped(link.number)

    def apply(self) -> None:
        """Both ends have done with all that came."""
        for channel in (self.node, self.client):
            if channel is not None:
                channel.applied(channel.position.taken, self.now)

    def restart(self) -> None:
        """The node ends and another one is started."""
        self.node, self.instance = None, self.instance + "'"
        for link in self.links:
            self.cut(link)

    def settle(self) -> None:
        """A new link that lasts: everything arrives."""
        link = self.connect()
        for old in self.links[:-1]:
            self.cut(old)
        moved = True
        while moved:
            self.apply()
            self.now += 1
            moved = any([self.deliver(link, True), self.deliver(link, False)])
            moved |= any([self.fill(link, True), self.fill(link, False)])
