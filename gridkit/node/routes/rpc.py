"""The WebSocket at `/ws/v0/rpc/`: JSON-RPC both ways, in two profiles (see `gridkit.node.rpc`).

`gridkit.v1` is the WebSocket's subprotocol; a link of it begins with ``hello``. Without a subprotocol it is the plain
profile, whose first message tells a session's id. Clients of that read it while they are still starting their listener
(afnio's does): it must come with the 101, so nothing is awaited between the two, and `GridkitWebSocket` joins them.

What brings a plain client back to its session is the name in its Basic credentials, whose password is a token: afnio's
client forgets the token that it was given when it connects again by itself, but not the address's. The name of the
account itself, with which people log in, names no client.
"""

from __future__ import annotations

import asyncio
import secrets

from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from gridkit.errors import ErrorCode, GridkitError, LimitError, WireError
from gridkit.node.rights import ANONYMOUS, Principal, basic_name
from gridkit.node.rpc.link import Data, Link
from gridkit.node.rpc.plain import PlainLine
from gridkit.node.rpc.session import RIGHT, Session
from gridkit.node.rpc.sessions import GONE, Sessions
from gridkit.node.rpc.v1 import V1Line
from gridkit.node.settings import Limits
from gridkit.wire.rpc.channel import JOINED, Window
from gridkit.wire.rpc.failures import failure_of
from gridkit.wire.rpc.handshake import BROKEN, REPLACED, Hello, read_hello, welcome
from gridkit.wire.rpc.messages import InvalidMessage, Profile, Reply, Request, pack, parse

HELLO_SECONDS = 10.0
"""for which a link of `gridkit.v1` may stay without its ``hello``"""
FRAMES = 256
"""messages that the node takes before it has done with them, and that it keeps until they are acknowledged"""
CLOSED = 1000
"""WebSocket close code with which a client of `gridkit.v1` says that it won't come back: its session ends"""
PLAIN_REPLACED = 1000
"""WebSocket close code of a plain link that a newer one has replaced. With any other code the client that had it would
come back, and two clients of one name would go on replacing each other."""


async def serve(socket: WebSocket) -> None:
    watch = socket.app.state.service.watch
    principal = ANONYMOUS
    try:
        principal = await watch.identify(socket.scope)
        watch.admit(principal, socket.scope)
        watch.access.allow(principal, RIGHT)
        limits: Limits = socket.app.state.limits
        if Profile.V1 in socket.scope["subprotocols"]:
            await _serve_v1(socket, principal, limits)
        else:
            socket.scope["extensions"]["gridkit.limit"](limits.rpc_text)
            await _serve_plain(socket, principal, limits)
    except GridkitError as error:
        watch.refused(principal, socket.scope, "connect", RIGHT, error)
        await socket.close()  # before accept: the handshake answers 403
    except WebSocketDisconnect:
        pass  # while it began


async def _serve_plain(socket: WebSocket, principal: Principal, limits: Limits) -> None:
    sessions: Sessions = socket.app.state.service.rpc
    name = basic_name(socket.scope["headers"])
    lasting = name not in ("", principal.name)
    key = name if lasting else secrets.token_hex(16)
    session = sessions.find(principal, Profile.PLAIN, key)
    if session is None:
        session = sessions.begin(principal, key, PlainLine(2 * limits.ping_seconds if lasting else 0.0))
    first = pack(Reply(None, {"session_id": session.id}), Profile.PLAIN)
    await socket.receive()  # "websocket.connect", which is there
    link = Link(socket, session.links + 1)
    old = sessions.linked(session, link, principal)  # whose writer begins when this waits for the first time
    if old is not None:
        old.end(PLAIN_REPLACED, "a newer connection of this name is in use")
    closed = None
    try:
        await socket.accept()
        await socket.send_text(first)
        sessions.expect(session)
        closed = await link.read(lambda data: take(sessions, session, link, data), session.calm)
    finally:
        sessions.dropped(session, link, for_good=not lasting)
    _note_end(socket, principal, closed)


async def _serve_v1(socket: WebSocket, principal: Principal, limits: Limits) -> None:
    sessions: Sessions = socket.app.state.service.rpc
    await socket.accept(Profile.V1)
    hello = await _hello(socket)
    if hello is None:
        return
    asked, wish = hello
    socket.scope["extensions"]["gridkit.limit"](limits.message + JOINED)
    session = sessions.find(principal, Profile.V1, wish.session)
    line = None if session is None else session.line
    assert line is None or isinstance(line, V1Line)
    try:
        window = Window(FRAMES, limits.message)
        known = None if line is None else line.channel
        channel, answer = welcome(wish, known, window, sessions.node, sessions.why_ended(principal, wish.session))
        if session is None:
            session = sessions.begin(principal, wish.session, V1Line(channel))
    except GridkitError as error:
        told = socket.app.state.service.watch.refused(principal, socket.scope, RIGHT, "hello", error)
        await socket.send_text(pack(failure_of(told, asked.id)))
        await socket.close(GONE, error.message[:100])
        return
    link = Link(socket, wish.link)
    old = sessions.linked(session, link, principal)
    if old is not None:
        old.end(REPLACED, "a newer link of this session is in use")
    closed = None
    try:
        await socket.send_text(pack(Reply(asked.id, answer.model_dump())))  # ahead of the writer, as above
        closed = await link.read(lambda data: take(sessions, session, link, data), session.calm)
    finally:
        sessions.dropped(session, link, for_good=closed == CLOSED and not link.is_ended)
    _note_end(socket, principal, closed)


async def _hello(socket: WebSocket) -> tuple[Request, Hello] | None:
    """The request with which a link begins, and its params; None: it ended without."""
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        request = parse(message.get("text") or message.get("bytes") or "")
        hello = read_hello(request)
        assert isinstance(request, Request)
        return request, hello
    except InvalidMessage as error:
        if error.answer is not None:
            await socket.send_text(pack(error.answer))
        await socket.close(BROKEN, error.message[:100])
    except TimeoutError:
        await socket.close(GONE, "say hello first")
    return None


def take(sessions: Sessions, session: Session, link: Link, data: Data) -> bool:
    """What came; whether more may come at once."""
    if session.link is not link:
        return True  # a newer one is there
    calm = True
    try:
        for incoming in session.line.receive(data, link.number):
            calm = session.feed(incoming)
    except WireError as error:
        session.note(error)
        link.end(BROKEN, error.message[:100])
    except LimitError as error:
        session.note(error)
        sessions.end(session, error)
    return calm


def _note_end(socket: WebSocket, principal: Principal, code: int | None) -> None:
    """A row for what ended the socket before it was a message, as at `/`."""
    watch = socket.app.state.service.watch
    if code == 1009:
        error: GridkitError = LimitError("a message was too large", code=ErrorCode.TOO_LARGE, status=413)
        watch.refused(principal, socket.scope, RIGHT, "", error)
    elif code in (1002, 1007):
        text = f"the socket was ended with {code}: what came is no WebSocket message"
        watch.refused(principal, socket.scope, RIGHT, "", WireError(text))


ROUTES = [WebSocketRoute("/ws/v0/rpc", serve), WebSocketRoute("/ws/v0/rpc/", serve)]
