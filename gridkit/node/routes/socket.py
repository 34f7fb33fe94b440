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

from gridkit.errors import ErrorCode, GridkitError, NodeError
from gridkit.node import messages
from gridkit.node.guard import error_body
from gridkit.node.routes import socket_grid, socket_training
from gridkit.node.routes.connection import Answer, Connection, Handlers
from gridkit.node.routes.http import store_error

HANDLERS: Handlers = {**socket_training.HANDLERS, **socket_grid.HANDLERS}


async def answer(connection: Connection, text: str) -> Answer:
    """The reply to one message; errors are replies too."""
    kind, echoed = "error", {}
    try:
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
        if isinstance(done, bytes):
            return done
    except GridkitError as error:
        done = _refused(kind, error)
    except (OSError, OperationalError) as error:
        done = _refused(kind, store_error(error))
    flat = done if kind not in socket_training.HANDLERS else {}
    enveloped = {"type": kind, "data": done} if kind not in socket_grid.HANDLERS else {}
    return {**flat, **enveloped, **echoed}


def _refused(kind: str, error: GridkitError) -> dict[str, Any]:
    body = error_body(error)
    return body if kind in socket_grid.HANDLERS else {"status": "error", **body}


def _binary() -> bytes:
    """The answer to a foreign binary message: who sent it waits for a binary one."""
    error = NodeError(
        "binary messages are not understood here",
        "PySyft's own encoding may hold code; use the JSON messages",
        code=ErrorCode.BAD_REQUEST,
        status=400,
    )
    return json.dumps({"type": "error", "data": {"status": "error", **error_body(error)}, **error_body(error)}).encode()


async def serve(socket: WebSocket) -> None:
    try:
        principal = await socket.app.state.service.access.of_headers(socket.scope["headers"])
    except GridkitError:
        await socket.close()  # before accept: the handshake answers 403
        return
    connection = Connection(socket, principal)
    await socket.accept()
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            async with AsyncExitStack() as connection.held:
                done: Answer
                if text:
                    done = await answer(connection, text)
                elif message.get("bytes"):
                    done = _binary()
                else:  # empty: the original doesn't answer these either
                    continue
                if isinstance(done, bytes):
                    await socket.send_bytes(done)
                else:
                    await socket.send_json(done)
    except WebSocketDisconnect:
        return


ROUTES = [WebSocketRoute("/", serve)]
