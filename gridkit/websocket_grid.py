"""`gridkit.WebsocketGridClient`, the sync face of `gridkit.aio.WebsocketGridClient`, for plain cells."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from gridkit import cells
from gridkit.aio import websocket_grid as aio_client
from gridkit.aio.websocket_grid import MODEL_LIMIT_SIZE
from gridkit.bridge import BRIDGE, sync

__all__ = ["MODEL_LIMIT_SIZE", "WebsocketGridClient"]

_Core = aio_client.WebsocketGridClient


class WebsocketGridClient(cells.ShortDir):
    """A client of one grid node, with the methods of PyGrid's class of this name. It connects at once.

    Arguments, attributes and methods are those of `gridkit.aio.WebsocketGridClient`. In a notebook: running the cell
    again closes the client that it made before.

    Raises:
        UsageError: `address` isn't one.
        NodeUnreachable: nobody answers there.
        GridClientError: the node refuses; it is a RuntimeError, as the original raises them.

    Example:
        >>> client = gk.WebsocketGridClient(None, "http://127.0.0.1:5000")          # doctest: +SKIP
        >>> client.serve_model(net, "digits", example=x, allow_remote_inference=True)   # doctest: +SKIP
        >>> client.run_remote_inference("digits", x)                                # doctest: +SKIP
    """

    def __init__(
        self,
        hook: Any,
        address: str,
        id: int | str = 0,
        auth: str | Mapping[str, Any] | None = None,
        is_client_worker: bool = False,
        log_msgs: bool = False,
        verbose: bool = False,
        chunk_size: int = MODEL_LIMIT_SIZE,
    ) -> None:
        cells.renew()
        core = _Core(
            hook,
            address,
            id,
            auth,
            is_client_worker,
            log_msgs,
            verbose,
            chunk_size,
            say=lambda line: BRIDGE.post(print, line),
            listed_as=self,
        )
        self._core = core
        weakref.finalize(self, BRIDGE.leave, core._closing()).atexit = False
        BRIDGE.sync(core.connect())
        cells.remember(self)

    def __repr__(self) -> str:
        return repr(self._core)

    def __str__(self) -> str:
        return str(self._core)

    def __enter__(self) -> WebsocketGridClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def id(self) -> int | str:
        """Of the node, or after a login that of the account there."""
        return self._core.id

    @property
    def node_id(self) -> str | None:
        """The node's id."""
        return self._core.node_id

    @property
    def address(self) -> str:
        """The node's address, as it was given."""
        return self._core.address

    @property
    def url(self) -> str:
        """The node's address, as a WebSocket's: ``ws://host:port``."""
        return self._core.url

    @property
    def credentials(self) -> dict[str, str] | None:
        """``{"username": …}`` after a login with a name. The password isn't kept."""
        return self._core.credentials

    @property
    def msg_history(self) -> list[str]:
        """A line a message, with `log_msgs`."""
        return self._core.msg_history

    @property
    def models(self) -> list[str]:
        """The ids of the models on the node."""
        return BRIDGE.sync(self._core.models())

    def parse_address(self, address: str) -> tuple[bool, str, int | None]:
        """Whether an address is one for TLS, its host, and its port where it has one."""
        return self._core.parse_address(address)

    def _update_node_reference(self, new_id: str) -> None:
        self._core._update_node_reference(new_id)

    def _return_bool_result(self, result: Mapping[str, Any], return_key: str | None = None) -> Any:
        return self._core._return_bool_result(result, return_key)

    authenticate = sync(_Core.authenticate)
    close = sync(_Core.close)
    connect = sync(_Core.connect)
    connect_nodes = sync(_Core.connect_nodes)
    delete_model = sync(_Core.delete_model)
    download_model = sync(_Core.download_model)
    get_node_id = sync(_Core.get_node_id)
    run_remote_inference = sync(_Core.run_remote_inference)
    serve_encrypted_model = sync(_Core.serve_encrypted_model)
    serve_model = sync(_Core.serve_model)
    _forward_json_to_websocket_server_worker = sync(_Core._forward_json_to_websocket_server_worker)
    _forward_to_websocket_server_worker = sync(_Core._forward_to_websocket_server_worker)
    _send_get = sync(_Core._send_get)
    _send_http_request = sync(_Core._send_http_request)
    _send_streaming_post = sync(_Core._send_streaming_post)
