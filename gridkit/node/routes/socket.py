"""The same use-cases as messages over the WebSocket at `/`: ``{"type", "data"[, "request_id"]}`` both ways.

Messages of one socket are answered in the order in which they came. A worker is not tied to its socket: ids and keys
work on any other one, and over HTTP. The original protocol downloads over HTTP only; the downloads here are ours, in
base64, as reports are.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from typing import Any, BinaryIO

from sqlalchemy.exc import OperationalError
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from gridkit.errors import ErrorCode, GridkitError, LimitError, NodeError
from gridkit.node import messages
from gridkit.node.guard import error_body
from gridkit.node.rights import Principal, Role
from gridkit.node.routes.http import store_error
from gridkit.node.routes.model_centric import take_report
from gridkit.node.service import Service


class Connection:
    """One open socket: who it is, and how large its messages may be."""

    def __init__(self, socket: WebSocket, principal: Principal) -> None:
        self.socket = socket
        self.service: Service = socket.app.state.service
        self.principal = principal
        if principal.role is not Role.ANONYMOUS or socket.app.state.open:
            self.trust()

    def trust(self) -> None:
        """From now on messages may have the configured size."""
        self.socket.scope["extensions"]["gridkit.limit"](self.socket.app.state.limits.message)

    async def authenticate(self, data: dict[str, Any]) -> dict[str, Any]:
        done = await self.service.trainings.authenticate(self.principal, messages.parse(messages.Authenticate, data))
        self.trust()
        return done

    async def cycle_request(self, data: dict[str, Any]) -> dict[str, Any]:
        return await self.service.trainings.request_cycle(self.principal, messages.parse(messages.CycleRequest, data))

    async def report(self, data: dict[str, Any]) -> dict[str, Any]:
        wish = messages.parse(messages.Report, data)
        async with self.socket.app.state.budget.take(len(wish.diff or "")):
            return await take_report(self.service.trainings, self.principal, wish)

    async def get_model(self, data: dict[str, Any]) -> dict[str, Any]:
        wish = messages.parse(messages.GetModel, data)
        file = await self.service.trainings.open_model(self.principal, wish.worker_id, wish.request_key, wish.model_id)
        return {"status": "success", "model": await self.contents(file)}

    async def get_plan(self, data: dict[str, Any]) -> dict[str, Any]:
        wish = messages.parse(messages.GetPlan, data)
        asked = (wish.worker_id, wish.request_key, wish.plan_id, wish.receive_operations_as)
        file = await self.service.trainings.open_plan(self.principal, *asked)
        return {"status": "success", "plan": await self.contents(file)}

    async def retrieve_model(self, data: dict[str, Any]) -> dict[str, Any]:
        wish = messages.parse(messages.RetrieveModel, data)
        asked = (wish.name, wish.version, wish.checkpoint)
        file, number = await self.service.trainings.open_checkpoint(self.principal, *asked)
        return {"status": "success", "model": await self.contents(file), "checkpoint": number}

    async def contents(self, file: BinaryIO) -> str:
        """A file as base64. What is larger than a message may be is to be had over HTTP."""
        with file:
            size, limit = file.seek(0, 2), self.socket.app.state.limits.message
            if size > limit:
                raise LimitError(
                    f"the answer has {size} bytes, a message may have {limit}",
                    "fetch it over HTTP",
                    code=ErrorCode.TOO_LARGE,
                    status=413,
                )
            file.seek(0)
            async with self.socket.app.state.budget.take(2 * size):
                return messages.to_base64(await asyncio.to_thread(file.read))

    async def host_training(self, data: dict[str, Any]) -> dict[str, Any]:
        wish = messages.parse(messages.HostTraining, data)
        return await self.service.trainings.host(
            self.principal,
            io.BytesIO(messages.from_hex(wish.model, "model")),
            {name: messages.from_hex(text, f"plan '{name}'") for name, text in wish.plans.items()},
            wish.client_config,
            wish.server_config,
            averaging_plan=messages.from_hex(wish.averaging_plan, "averaging_plan") if wish.averaging_plan else None,
        )

    async def answer(self, text: str) -> dict[str, Any]:
        """The reply to one message; errors are replies too."""
        kind, reply = "error", {}
        try:
            envelope = messages.parse(messages.Envelope, messages.parse_json(text))
            kind = envelope.type
            if envelope.request_id is not None:
                reply["request_id"] = envelope.request_id
            if kind not in HANDLERS:
                raise NodeError(
                    f"this node knows no message type '{kind[:100]}'", code=ErrorCode.UNKNOWN_TYPE, status=400
                )
            operation, handler = HANDLERS[kind]
            self.service.access.allow(self.principal, operation)
            data = await handler(self, envelope.data)
        except GridkitError as error:
            data = {"status": "error", **error_body(error)}
        except (OSError, OperationalError) as error:
            data = {"status": "error", **error_body(store_error(error))}
        return {"type": kind, "data": data, **reply}


Handler = Callable[[Connection, dict[str, Any]], Awaitable[dict[str, Any]]]

HANDLERS: dict[str, tuple[str, Handler]] = {
    "model-centric/authenticate": ("authenticate", Connection.authenticate),
    "model-centric/cycle-request": ("work", Connection.cycle_request),
    "model-centric/report": ("work", Connection.report),
    "model-centric/host-training": ("host-training", Connection.host_training),
    "model-centric/get-model": ("work", Connection.get_model),
    "model-centric/get-plan": ("work", Connection.get_plan),
    "model-centric/retrieve-model": ("retrieve-model", Connection.retrieve_model),
}
"""type of a message: the right that it needs (see `RULES`), and what answers it"""


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
            if text is None:
                error = NodeError("binary messages are not understood here", code=ErrorCode.BAD_REQUEST, status=400)
                await socket.send_json({"type": "error", "data": {"status": "error", **error_body(error)}})
            else:
                await socket.send_json(await connection.answer(text))
    except WebSocketDisconnect:
        return


ROUTES = [WebSocketRoute("/", serve)]
