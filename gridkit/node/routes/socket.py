"""The WebSocket at `/`: each message is answered by one, in the order in which they came.

Two families of clients meet here. Training's messages have an envelope, ``{"type", "data"[, "request_id"]}`` both
ways; those of the grid's own API are flat, ``{"type", …}``, answered without a type. A `request_id` is echoed in both.
"""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import Any

from sqlalchemy.exc import OperationalError
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from gridkit.errors import ErrorCode, GridkitError, LimitError, NodeError
from gridkit.node import messages
from gridkit.node.audit import about
from gridkit.node.guard import error_body
from gridkit.node.rights import ANONYMOUS
from gridkit.node.routes import socket_grid, socket_stream, socket_training
from gridkit.node.routes.connection import Answer, Connection, Handlers, Seats, Strangers
from gridkit.node.routes.http import store_error

FLAT: Handlers = {**socket_grid.HANDLERS, **socket_stream.HANDLERS}
HANDLERS: Handlers = {**socket_training.HANDLERS, **FLAT}


async def answer(connection: Connection, text: str) -> Answer:
    """The reply to one message; errors are replies too."""
    kind, operation, message, echoed = "error", "", {}, {}
    about("")
    try:
        connection.service.watch.admit(connection.principal, connection.socket.scope)
        message = messages.parse_json(text)
        envelope = messages.parse(messages.Envelope, message)
        if envelope.request_id is not None:
            echoed["request_id"] = envelope.request_id
        if envelope.type not in HANDLERS:
            raise NodeError(
                f"this node knows no message type '{envelope.type[:100]}'", code=ErrorCode.UNKNOWN_TYPE, status=400
            )
        kind = envelope.type
        operation, handler = HANDLERS[kind]
        connection.service.access.allow(connection.principal, operation)
        if kind in socket_training.HANDLERS:
            message = messages.parse(messages.Data, message).data
        done = await handler(connection, message)
        if operation == "work" and not connection.trusted:
            connection.trust()  # the worker's id was right
        if operation in ("work", "authenticate") and isinstance(done, dict):
            worker_id = done.get("worker_id", message.get("worker_id"))
            if isinstance(worker_id, str):
                connection.socket.app.state.seats.take(worker_id, connection)
        connection.service.watch.done(connection.principal, connection.socket.scope, operation, _object(message))
        if isinstance(done, bytes):
            return done
    except GridkitError as error:
        done = _refused(kind, connection.refused(operation, _object(message), error))
    except (OSError, OperationalError) as error:
        done = _refused(kind, store_error(error))
    flat = done if kind not in socket_training.HANDLERS else {}
    enveloped = {"type": kind, "data": done} if kind not in FLAT else {}
    return {**flat, **enveloped, **echoed}


def _object(message: dict[str, Any]) -> str:
    """What a message is about, where its use-case doesn't say it (`audit.about`)."""
    names = (message.get(member) for member in ("model_id", "model_name", "name", "worker_id"))
    return next((name for name in names if isinstance(name, str)), "")


def _refused(kind: str, error: GridkitError) -> dict[str, Any]:
    body = error_body(error)
    return body if kind in FLAT else {"status": "error", **body}


async def _binary(connection: Connection, data: bytes) -> Answer:
    """The answer to a piece of an upload; or to a foreign binary message: who sent that waits for a binary one."""
    about("")
    uploading = connection.upload is not None
    try:
        connection.service.watch.admit(connection.principal, connection.socket.scope)
        if uploading:
            return await socket_stream.frame(connection, data)
        raise NodeError(
            "binary messages are not understood here",
            "PySyft's own encoding may hold code; use the JSON messages",
            code=ErrorCode.BAD_REQUEST,
            status=400,
        )
    except GridkitError as refused:
        body = error_body(connection.refused("upload" if uploading else "message", "", refused))
    except OSError as failed:
        body = error_body(store_error(failed))
    if uploading:
        connection.upload = None
        return body
    return json.dumps({"type": "error", "data": {"status": "error", **body}, **body}).encode()


def _note_end(connection: Connection, code: int) -> None:
    """A row for a frame that ended the socket before it was a message: too large, against the protocol, no UTF-8."""
    about("")
    if code == 1009:
        connection.refused("message", "", LimitError("a message was too large", code=ErrorCode.TOO_LARGE, status=413))
    elif code in (1002, 1007):
        text = f"the socket was ended with {code}: what came is no WebSocket message"
        connection.refused("message", "", NodeError(text, code=ErrorCode.MALFORMED, status=400))


async def serve(socket: WebSocket) -> None:
    watch = socket.app.state.service.watch
    strangers: Strangers = socket.app.state.strangers
    seats: Seats = socket.app.state.seats
    principal = ANONYMOUS
    try:
        principal = await watch.identify(socket.scope)
        watch.admit(principal, socket.scope)
        connection = Connection(socket, principal)
        async with strangers.stay(connection):
            await socket.accept()
            try:
                await _talk(connection)
            finally:
                seats.leave(connection)
    except GridkitError as error:
        watch.refused(principal, socket.scope, "connect", "", error)
        await socket.close()  # before accept: the handshake answers 403
    except TimeoutError:
        await socket.close(1008, "authenticate first")


async def _talk(connection: Connection) -> None:
    socket = connection.socket
    try:
        while (message := await socket.receive())["type"] != "websocket.disconnect":
            text = message.get("text")
            async with AsyncExitStack() as connection.held:
                done: Answer
                if text:
                    done = await answer(connection, text)
                elif message.get("bytes"):
                    done = await _binary(connection, message["bytes"])
                else:  # empty: the original doesn't answer these either
                    continue
                if connection.replaced:
                    continue
                if isinstance(done, bytes):
                    await socket.send_bytes(done)
                else:
                    await socket.send_json(done)
    except WebSocketDisconnect:  # nobody waits for this answer; why is still to come
        while message["type"] != "websocket.disconnect":
            message = await socket.receive()
    _note_end(connection, message.get("code", 1000))


ROUTES = [WebSocketRoute("/", serve)]
