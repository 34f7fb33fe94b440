"""Which node this is, and which others it knows: `/identity/`, `/workers/`, `/connect-node`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gridkit.node import messages
from gridkit.node.routes.http import body, id_in_path, limits_of, principal_of, route, service_of, spelled

CONNECTED = "Succesfully connected."
"""the original's text, with its spelling: clients compare it"""


async def identity(request: Request) -> Response:
    return JSONResponse({"success": True, "identity": service_of(request).peers.identity})


async def workers(request: Request) -> Response:
    peers = await service_of(request).peers.list(principal_of(request))
    nodes = [{"id": peer.id, "address": peer.address} for peer in peers]
    return JSONResponse({"success": True, "workers": [peer.id for peer in peers], "nodes": nodes})


async def connect_node(request: Request) -> Response:
    raw = await body(request, limits_of(request).message_before_auth)
    wish = messages.parse(messages.ConnectNode, messages.parse_json(raw))
    peer = await service_of(request).peers.connect(principal_of(request), wish)
    return JSONResponse({"status": CONNECTED, "id": peer.id, "address": peer.address})


async def forget(request: Request) -> Response:
    await service_of(request).peers.forget(principal_of(request), id_in_path(request, "node_id"))
    return JSONResponse({"success": True})


ROUTES = [
    *spelled("/identity", identity, "status"),
    *spelled("/workers", workers, "list-peers"),
    *spelled("/connect-node", connect_node, "connect-node", ["POST"]),
    route("/workers/{node_id:path}", forget, "connect-node", ["DELETE"]),
]
