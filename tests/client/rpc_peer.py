"""A node's end of JSON-RPC by hand: a real WebSocket server that speaks the channel, and cuts links as tests ask."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from gridkit.errors import GridkitError
from gridkit.wire.rpc.channel import Channel, Window
from gridkit.wire.rpc.failures import failure_of
from gridkit.wire.rpc.handshake import read_hello, welcome
from gridkit.wire.rpc.messages import Failure, Message, Notification, Profile, Reply, Request, pack, parse, unbatched
from gridkit.wire.rpc.values import Body, decode, encode

Method = Callable[["Asked"], Any]


@dataclass
class Asked:
    """A request, as a method of the peer gets it; coroutine functions may take their time."""

    peer: Peer
    session: Session
    params: dict[str, Any]
    id: Any


@dataclass(eq=False)
class Session:
    channel: Channel
    ids: int = 0
    answers: dict[Any, asyncio.Future[Message]] = field(default_factory=dict)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: list[tuple[bytes, list[Body]]] = field(default_factory=list)

    def put(self, message: Message, bodies: Sequence[Body] = ()) -> None:
        self.waiting.append((pack(message).encode(), list(bodies)))
        self.wake.set()

    def tell(self, method: str, **params: Any) -> None:
        bodies: list[Body] = []
        self.put(Notification(method, encode(params, bodies)), bodies)

    def beat(self, asked: Any, **more: Any) -> None:
        text = pack(Notification("heartbeat", {"id": asked, **more}))
        self.channel.pass_by(("heartbeat", asked), text.encode())
        self.wake.set()

    async def ask(self, method: str, **params: Any) -> Message:
        """A request to the notebook; its answer."""
        self.ids += 1
        asked = f"n{self.ids}"
        self.answers[asked] = asyncio.get_running_loop().create_future()
        bodies: list[Body] = []
        self.put(Request(method, encode(params, bodies), asked), bodies)
        return await self.answers[asked]

    def next(self, now: float) -> bytes | None:
        while self.waiting and self.channel.room(*self.waiting[0]):
            self.channel.send(*self.waiting.pop(0))
        return self.channel.outgoing(now)


class Peer:
    """Listens while `running`.

    Attributes:
        methods: by name; what they return, or raise, is answered. `SILENT` isn't.
        took: the methods that came, in order.
        cuts: links are cut at these numbers of WebSocket messages, of both directions together.
        after: a message at which the link is cut arrives all the same.
        hold: nothing is done with, as far as the client knows.
        greeting: what a session is told first.
        refuse: the status with which handshakes are refused.
        keys: the `Authorization` of each handshake.
    """

    def __init__(self, window: Window | None = None) -> None:
        self.window = window or Window()
        self.methods: dict[str, Method] = {"echo": lambda asked: asked.params}
        self.took: list[str] = []
        self.cancelled: list[Any] = []
        self.beats: list[Any] = []
        self.cuts: set[int] = set()
        self.after = False
        self.moved = self.links = 0
        self.refuse: int | None = None
        self.hold = False
        self.greeting: Callable[[Session], None] = lambda session: None
        self.keys: list[str | None] = []
        self.sessions: dict[str, Session] = {}
        self.instance = "first"
        self.port = 0
        self.open: set[ServerConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def session(self) -> Session:
        """The newest."""
        return list(self.sessions.values())[-1]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Peer]:
        await self.start()
        try:
            yield self
        finally:
            await self.stop()

    async def start(self) -> None:
        self._server = await serve(
            self._serve,
            "127.0.0.1",
            self.port,
            subprotocols=[Profile.V1],  # type: ignore[list-item]
            process_request=self._admit,
            compression=None,
            max_size=None,
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self, code: int = 1012) -> None:
        assert self._server is not None
        for socket in tuple(self.open):
            await socket.close(code)
        self._server.close()
        await self._server.wait_closed()
        for task in tuple(self._tasks):
            task.cancel()

    def restart(self) -> None:
        """As another process: all sessions are gone, and links are cut."""
        self.sessions.clear()
        self.instance += "'"
        self.cut()

    def cut(self) -> None:
        for socket in tuple(self.open):
            socket.transport.abort()

    async def _admit(self, socket: ServerConnection, request: Any) -> Any:
        self.keys.append(request.headers.get("authorization"))
        return None if self.refuse is None else socket.respond(self.refuse, "")

    def _count(self, socket: ServerConnection) -> bool:
        """Another message moves; whether it gets through."""
        self.moved += 1
        if self.moved in self.cuts:
            if not self.after:
                socket.transport.abort()
                return False
            asyncio.get_running_loop().call_soon(socket.transport.abort)
        return True

    async def _serve(self, socket: ServerConnection) -> None:
        self.open.add(socket)
        self.links += 1
        with contextlib.suppress(ConnectionClosed):
            text = await socket.recv()
            if self._count(socket):
                await self._serve_session(socket, parse(text))
        self.open.discard(socket)

    async def _serve_session(self, socket: ServerConnection, message: Message) -> None:
        hello = read_hello(message)
        old = self.sessions.get(hello.session)
        try:
            channel, answer = welcome(hello, old and old.channel, self.window, self.instance)
        except GridkitError as error:
            await socket.send(pack(failure_of(error, hello.link)))
            return
        session = self.sessions.setdefault(hello.session, Session(channel))
        if old is None:
            self.greeting(session)
        if not self._count(socket):
            return
        await socket.send(pack(Reply(hello.link, answer.model_dump())))
        writer = asyncio.create_task(self._write(socket, session, hello.link))
        try:
            async for data in socket:
                assert isinstance(data, bytes)
                if not self._count(socket):
                    break
                for frame in channel.receive(data, hello.link):
                    self._take(session, frame.text, frame.bodies)
                    if frame.seq and not self.hold:
                        channel.applied(frame.seq, asyncio.get_running_loop().time())
                session.wake.set()
        finally:
            channel.dropped(hello.link)
            writer.cancel()

    async def _write(self, socket: ServerConnection, session: Session, link: int) -> None:
        clock = asyncio.get_running_loop().time
        with contextlib.suppress(ConnectionClosed):
            while session.channel.link == link:
                session.wake.clear()
                while (data := session.next(clock())) is not None:
                    if not self._count(socket):
                        return
                    await socket.send(data)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(session.wake.wait(), 0.05)  # an ack may be due

    def _take(self, session: Session, text: bytes, bodies: Sequence[Body]) -> None:
        for message in unbatched(parse(text)):
            match message:
                case Reply(id_, result):
                    session.answers.pop(id_).set_result(Reply(id_, decode(result, bodies)))
                case Failure(id_):
                    session.answers.pop(id_).set_result(message)
                case Notification("heartbeat", params):
                    self.beats.append(params["id"])
                case Notification("cancel", params):
                    self.cancelled.append(params["id"])
                case Request(method, params, id_):
                    self.took.append(method)
                    asked = Asked(self, session, decode(params, bodies), id_)
                    task = asyncio.create_task(self._answer(asked, self.methods[method]))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)

    async def _answer(self, asked: Asked, method: Method) -> None:
        bodies: list[Body] = []
        try:
            result = method(asked)
            if asyncio.iscoroutine(result):
                result = await result
        except GridkitError as error:
            asked.session.put(failure_of(error, asked.id))
        else:
            if result is not SILENT:
                asked.session.put(Reply(asked.id, encode(result, bodies)), bodies)


SILENT = object()


def awaited(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine, in a loop of its own; what hangs fails."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


async def call_back(asked: Asked) -> Any:
    """Run the notebook's function `fn` with `args`; what it gives, or the error that it is."""
    answer = await asked.session.ask(
        "run_callable",
        callable_id=asked.params["fn"].id,
        args=asked.params.get("args", []),
        kwargs=asked.params.get("kwargs", {}),
        parent=asked.id,
    )
    if isinstance(answer, Failure):
        return {"code": answer.code, "message": answer.message, "data": answer.data}
    assert isinstance(answer, Reply)
    return answer.result["data"]


@contextmanager
def on_a_thread(peer: Peer) -> Iterator[Peer]:
    """A peer for plain code."""
    begun, end = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def work() -> None:
        async with peer.running():
            loops.append(asyncio.get_running_loop())
            begun.set()
            await end.wait()

    thread = threading.Thread(target=asyncio.run, args=(work(),), daemon=True)
    thread.start()
    assert begun.wait(10)
    try:
        yield peer
    finally:
        loops[0].call_soon_threadsafe(end.set)
        thread.join(10)
