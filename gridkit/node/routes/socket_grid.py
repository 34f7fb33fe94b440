"""The grid's own API as messages, flat JSON both ways, as the original `WebsocketGridClient` sends them."""

from __future__ import annotations

import asyncio
from typing import Any

from gridkit.errors import ErrorCode, NodeError
from gridkit.node import messages
from gridkit.node.messages_grid import HostModel, ModelName, RunInference, bytes_of, text_of
from gridkit.node.rates import source
from gridkit.node.routes.connection import Connection, Handlers
from gridkit.node.routes.models import DELETED, prediction, saved, take_model
from gridkit.node.routes.nodes import CONNECTED

TEXT_LIMIT = 64 << 20
"""bytes of a model that a message takes as text; the original's limit, too"""


async def get_id(connection: Connection, _message: dict[str, Any]) -> dict[str, Any]:
    return {"id": connection.service.peers.identity}


async def ping(_connection: Connection, _message: dict[str, Any]) -> dict[str, Any]:
    return {"alive": "True"}


async def authentication(connection: Connection, message: dict[str, Any]) -> dict[str, Any]:
    """Log in, for this socket. The id is the original's: a name space of the user's on this node."""
    wish = messages.parse(messages.Login, message)
    address = source(connection.socket.scope.get("client"))
    principal = await connection.service.access.login(wish.username, wish.password, address)
    connection.authenticated(principal)
    return {"success": "True", "id": f"{principal.name}_{connection.service.peers.identity}"}


async def connect_node(connection: Connection, message: dict[str, Any]) -> dict[str, Any]:
    await connection.service.peers.connect(connection.principal, messages.parse(messages.ConnectNode, message))
    return {"status": CONNECTED}


async def syft_command(_connection: Connection, _message: dict[str, Any]) -> dict[str, Any]:
    raise NodeError(
        "this node runs no PySyft commands", "host a plan and run that", code=ErrorCode.UNKNOWN_TYPE, status=400
    )


async def list_models(connection: Connection, _message: dict[str, Any]) -> dict[str, Any]:
    return {"success": True, "models": await connection.service.models.ids(connection.principal)}


async def host_model(connection: Connection, message: dict[str, Any]) -> dict[str, Any]:
    wish = messages.parse(HostModel, message)
    await connection.take(2 * len(wish.model or ""))
    return saved(await take_model(connection.service, connection.principal, wish))


async def delete_model(connection: Connection, message: dict[str, Any]) -> dict[str, Any]:
    wish = messages.parse(ModelName, message)
    await connection.service.models.delete(connection.principal, wish.model_id)
    return DELETED


async def download_model(connection: Connection, message: dict[str, Any]) -> dict[str, Any]:
    """The bytes as text; of a large model only `success` false, after which the original's client goes to HTTP."""
    wish = messages.parse(ModelName, message)
    file, row = await connection.service.models.open(connection.principal, wish.model_id, wish.version)
    with file:
        if row["size"] >= TEXT_LIMIT:
            return {"success": False}
        await connection.take(4 * row["size"])
        return {"serialized_model": text_of(await asyncio.to_thread(file.read))}


async def run_inference(connection: Connection, message: dict[str, Any]) -> dict[str, Any]:
    wish = messages.parse(RunInference, message)
    await connection.take(2 * len(wish.data))
    asked = (wish.model_id, bytes_of(wish.data, "data"), wish.version)
    return prediction(await connection.service.models.infer(connection.principal, *asked))


HANDLERS: Handlers = {
    "get-id": ("status", get_id),
    "authentication": ("login", authentication),
    "socket-ping": ("status", ping),
    "syft-command": ("status", syft_command),
    "connect-node": ("connect-node", connect_node),
    "list-models": ("list-models", list_models),
    "host-model": ("host-model", host_model),
    "delete-model": ("delete-model", delete_model),
    "download-model": ("download-model", download_model),
    "run-inference": ("run-inference", run_inference),
}
