"""Model-centric training as messages: ``{"type", "data"[, "request_id"]}`` both ways.

A worker is not tied to its socket: ids and keys work on any other one, and over HTTP. The original protocol downloads
over HTTP only; the downloads here are ours, in base64, as reports are.
"""

from __future__ import annotations

import asyncio
import io
from typing import Any, BinaryIO

from gridkit.errors import ErrorCode, LimitError, NodeError
from gridkit.node import messages
from gridkit.node.routes.connection import Connection, Handlers
from gridkit.node.routes.model_centric import take_report


async def authenticate(connection: Connection, data: dict[str, Any]) -> dict[str, Any]:
    wish = messages.parse(messages.Authenticate, data)
    done = await connection.service.trainings.authenticate(connection.principal, wish)
    connection.trust()
    return done


async def cycle_request(connection: Connection, data: dict[str, Any]) -> dict[str, Any]:
    wish = messages.parse(messages.CycleRequest, data)
    return await connection.service.trainings.request_cycle(connection.principal, wish)


async def report(connection: Connection, data: dict[str, Any]) -> dict[str, Any]:
    wish = messages.parse(messages.Report, data)
    await connection.take(len(wish.diff or ""))
    return await take_report(connection.service.trainings, connection.principal, wish)


async def get_model(connection: Connection, data: dict[str, Any]) -> dict[str, Any]:
    wish = messages.parse(messages.GetModel, data)
    asked = (wish.worker_id, wish.request_key, wish.model_id)
    file = await connection.service.trainings.open_model(connection.principal, *asked)
    return {"status": "success", "model": await _contents(connection, file)}


async def get_plan(connection: Connection, data: dict[str, Any]) -> dict[str, Any]:
    wish = messages.parse(messages.GetPlan, data)
    asked = (wish.worker_id, wish.request_key, wish.plan_id, wish.receive_operations_as)
    file = await connection.service.trainings.open_plan(connection.principal, *asked)
    return {"status": "success", "plan": await _contents(connection, file)}


async def retrieve_model(connection: Connection, data: dict[str, Any]) -> dict[str, Any]:
    wish = messages.parse(messages.RetrieveModel, data)
    asked = (wish.name, wish.version, wish.checkpoint)
    file, number = await connection.service.trainings.open_checkpoint(connection.principal, *asked)
    return {"status": "success", "model": await _contents(connection, file), "checkpoint": number}


async def _contents(connection: Connection, file: BinaryIO) -> str:
    """A file as base64. What is larger than a message may be is to be had over HTTP."""
    with file:
        size, limit = file.seek(0, 2), connection.limits.message
        if size > limit:
            raise LimitError(
                f"the answer has {size} bytes, a message may have {limit}",
                "fetch it over HTTP",
                code=ErrorCode.TOO_LARGE,
                status=413,
            )
        file.seek(0)
        await connection.take(2 * size)
        return messages.to_base64(await asyncio.to_thread(file.read))


async def host_training(connection: Connection, data: dict[str, Any]) -> dict[str, Any]:
    wish = messages.parse(messages.HostTraining, data)
    if wish.protocols:
        text, hint = "protocols can't be hosted on this node", "leave them out: workers send their diffs to the node"
        raise NodeError(text, hint, code=ErrorCode.BAD_CONFIG, status=400)
    return await connection.service.trainings.host(
        connection.principal,
        io.BytesIO(messages.from_hex(wish.model, "model")),
        {name: messages.from_hex(text, f"plan '{name}'") for name, text in wish.plans.items()},
        wish.client_config,
        wish.server_config,
        averaging_plan=messages.from_hex(wish.averaging_plan, "averaging_plan") if wish.averaging_plan else None,
    )


HANDLERS: Handlers = {
    "model-centric/authenticate": ("authenticate", authenticate),
    "model-centric/cycle-request": ("work", cycle_request),
    "model-centric/report": ("work", report),
    "model-centric/host-training": ("host-training", host_training),
    "model-centric/get-model": ("work", get_model),
    "model-centric/get-plan": ("work", get_plan),
    "model-centric/retrieve-model": ("retrieve-model", retrieve_model),
}
