"""PyGrid's `WebsocketGridClient` as coroutines. `gridkit.websocket_grid` is its sync face."""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, cast

from gridkit.aio.data import Data
from gridkit.aio.models import downloaded
from gridkit.cells import ShortDir
from gridkit.client.accounts import AccountClient
from gridkit.client.credentials import Login, login_of
from gridkit.client.form import File, Form
from gridkit.client.link import Link
from gridkit.client.models import ModelClient
from gridkit.client.websocket_grid import GridSocket, parse_address
from gridkit.errors import ErrorCode, GridClientError, NodeError, NodeUnreachable, NotFoundError, UsageError
from gridkit.plans.plan import Plan
from gridkit.widgets.progress import Progress
from gridkit.wire.safetensors import DTYPES, Packed, pack_tensors

if TYPE_CHECKING:
    import torch
    from torch import nn

MODEL_LIMIT_SIZE = 64 * 1024**2
"""bytes of a model, serialized, up to which it goes through the socket; the original's constant"""
TEXT_LIMIT = 8 * 1024**2
"""bytes that go as text through the socket: as JSON they may be six times as many, and a message has a limit"""
ENCODING = "ISO-8859-1"
_REPEATED = {"GET", "HEAD", "OPTIONS", "PUT", "DELETE"}


class WebsocketGridClient(ShortDir):
    """A client of one grid node, with the methods of PyGrid's class of this name (`grid.websocket_client`, 2019).

    Each method sends the message that the original sends: JSON in text frames over the WebSocket at ``/``, with bytes
    as ISO-8859-1 text. What is large (a model beyond `chunk_size` or 8 MiB, and every download) goes over HTTP in
    pieces, goes on after a cut, and is compared by its digest. The bytes of a model are those of `gridkit.wire.model`
    in place of the original's pickles.

    Unlike the original, it verifies TLS certificates, keeps no password, hands none to other nodes, and sends its login
    with HTTP requests too.

    Args:
        hook: PySyft's hook, whose local worker lists its clients; anything else, such as None, isn't looked at.
        address: ``http://host:port``, ``ws://host:port``, or ``https`` and ``wss`` with TLS.
        id: what the client is called until the node has told its own id.
        auth: logs in at `connect`; see `authenticate`.
        is_client_worker: kept for callers; a client holds no objects here.
        log_msgs: keep a line a message in `msg_history`; never its content.
        verbose: print that line.
        chunk_size: bytes of a serialized model up to which it goes through the socket.
        say: what prints.
        listed_as: what `hook` is given as the client; None is this object.

    Attributes:
        id: of the node, or after a login that of the account there.
        node_id: of the node; None before `connect`.
        address: of the node.
        credentials: ``{"username": …}`` after a login with a name, else None.

    Raises:
        UsageError: `address` isn't one.

    Example:
        >>> async with gk.aio.WebsocketGridClient(None, "http://127.0.0.1:5000") as client:    # doctest: +SKIP
        ...     await client.models()
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
        *,
        say: Callable[[str], object] = print,
        listed_as: Any = None,
    ) -> None:
        self.secure, self.host, self.port = parse_address(address)
        self.address = address
        self.id = id
        self.node_id: str | None = None
        self.credentials: dict[str, str] | None = None
        self.is_client_worker, self.log_msgs, self.verbose = is_client_worker, log_msgs, verbose
        self.msg_history: list[str] = []
        self._auth = auth
        self._chunk_size = chunk_size
        self._say = say
        known = getattr(getattr(hook, "local_worker", None), "_known_workers", None)
        self._known: dict[Any, Any] | None = known if isinstance(known, dict) else None
        self._listed_as = self if listed_as is None else listed_as
        host = f"[{self.host}]" if ":" in self.host else self.host
        self._place = host if self.port is None else f"{host}:{self.port}"
        self._socket = GridSocket(f"{self.url}/", max_size=6 * max(chunk_size, TEXT_LIMIT))
        self._link = Link(f"{'https' if self.secure else 'http'}://{self._place}")
        self._models = ModelClient(self._link)

    def __repr__(self) -> str:
        return f"WebsocketGridClient({self.url!r}, id={self.id!r})"

    def __str__(self) -> str:
        return f"Grid Worker < id: {self.id} >"

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def url(self) -> str:
        """The node's address, as a WebSocket's: ``ws://host:port``."""
        return f"{'wss' if self.secure else 'ws'}://{self._place}"

    def parse_address(self, address: str) -> tuple[bool, str, int | None]:
        """Whether an address is one for TLS, its host, and its port where it has one."""
        return parse_address(address)

    async def connect(self) -> None:
        """Open the socket, take the node's id, and log in if `auth` was given. Done anew after `close`.

        Raises:
            NodeUnreachable: nobody answers there.
            GridClientError: the node refuses.
        """
        self.node_id = await self.get_node_id()
        if self._known is not None:
            self._known[self.id] = self._listed_as
        if self.credentials is None:
            self._update_node_reference(self.node_id)
        auth, self._auth = self._auth, None  # it may hold a password
        if auth is not None:
            await self.authenticate(auth)

    async def close(self) -> None:
        """Close the socket. What logged in stays logged in: `connect` opens another."""
        await self._socket.close()

    def _update_node_reference(self, new_id: str) -> None:
        """Be known under another id.

        Raises:
            KeyError: the hook's local worker doesn't list this client any more.
        """
        if self._known is not None:
            del self._known[self.id]
            self._known[new_id] = self._listed_as
        self.id = new_id

    async def get_node_id(self) -> str:
        """The node's id."""
        answer = await self._forward_json_to_websocket_server_worker({"type": "get-id"})
        return str(self._return_bool_result({"success": "id" in answer, **answer}, "id"))

    async def connect_nodes(self, node: Any) -> dict[str, Any]:
        """Tell this client's node of another one. No password or token is sent to either.

        Args:
            node: a client of the other node.

        Returns:
            The node's response: ``{"status": "Succesfully connected."}``, or its error.
        """
        wish = {"type": "connect-node", "address": node.address, "id": getattr(node, "node_id", None) or node.id}
        return await self._forward_json_to_websocket_server_worker(wish)

    async def authenticate(self, user: str | Mapping[str, Any]) -> None:
        """Log in. The password isn't kept.

        Args:
            user: ``{"username": …, "password": …}``, a name of a credentials file
                (``~/.config/gridkit/credentials.json``, ``~/.openmined/auth.user``), or ``{"token": …}``.

        Raises:
            GridClientError: the node knows no such user, or there is no such name.
        """
        if not user:
            raise GridClientError("Invalid user.", code=ErrorCode.UNAUTHENTICATED, status=401)
        if isinstance(user, Mapping) and isinstance(user.get("token"), str):
            await self._socket.act_as(user["token"])
            self._link.use(user["token"])
            return
        try:
            login = login_of(user)
        except UsageError as error:
            raise GridClientError(error.message, error.hint, code=ErrorCode.UNAUTHENTICATED, status=401) from None
        answer = await self._forward_json_to_websocket_server_worker(
            {"type": "authentication", "username": login.username, "password": login.password}
        )
        name = self._return_bool_result({"id": self.id, **answer}, "id")
        await self._log_in_over_http(login)
        self.credentials = {"username": login.username}
        self._update_node_reference(name)

    async def serve_model(
        self,
        model: nn.Module | Plan | bytes,
        model_id: str | int | None = None,
        allow_download: bool = False,
        allow_remote_inference: bool = False,
        *,
        example: Any = None,
    ) -> bool:
        """Host a model.

        Args:
            model: a TorchScript or other module, which is traced; a plan of a function (`gridkit.plan`); or bytes in
                PySyft's own encoding, which the node stores and gives back as they are.
            model_id: None takes a Plan's name.
            allow_download: others may have a copy.
            allow_remote_inference: others may run it on the node.
            example: what a module is traced by, a tensor as it takes it, or a tuple of them.

        Returns:
            True.

        Raises:
            UsageError: (a ValueError) there is no id, or no example.
            PlanError: the module can't be a plan; the message names the operation and the line.
            GridClientError: the node refuses it, for one because the id exists.
        """
        if model_id is None and isinstance(model, Plan):
            model_id = model.name
        if model_id is None:
            raise UsageError("the model has no id", 'give one: client.serve_model(model, "digits", example=x)')
        packed = await asyncio.to_thread(_packed, model, example)
        about = {
            "encoding": ENCODING,
            "model_id": str(model_id),
            "allow_download": str(bool(allow_download)),
            "allow_remote_inference": str(bool(allow_remote_inference)),
            "mpc": "False",
        }
        if packed.size <= min(self._chunk_size, TEXT_LIMIT):
            message = {"type": "host-model", **about, "model": packed.tobytes().decode(ENCODING)}
            answer = await self._forward_json_to_websocket_server_worker(message)
            self._return_bool_result(answer)
        else:
            self._note("POST serve-model")
            with _refusals():
                await self._models.host(packed, about, Progress(f"{model_id}, up"))
        return True

    async def run_remote_inference(self, model_id: str | int, data: Any) -> torch.Tensor:
        """Run a model on the node.

        Args:
            data: a tensor or an array, with a row a sample; a tuple of them for a model that takes several.

        Returns:
            The model's first result, bit-equal to what the model gives in eval mode.

        Raises:
            GridClientError: there is no such model, it isn't for inference, or the data doesn't fit.
        """
        import torch

        given = Data.of(data).arrays
        packed = pack_tensors(given)
        if packed.size > TEXT_LIMIT:
            self._note("POST run-inference")
            with _refusals():
                found = await self._models.infer(str(model_id), given)
            return cast(torch.Tensor, Data("tensor", found[:1]).value())
        message = {"type": "run-inference", "model_id": str(model_id), "encoding": ENCODING}
        message["data"] = packed.tobytes().decode(ENCODING)
        answer = await self._forward_json_to_websocket_server_worker(message)
        values = self._return_bool_result(answer, "prediction")
        dtype, shape = str(answer.get("dtype")), answer.get("shape")  # gridkit's nodes tell them
        try:
            result = torch.tensor(values, dtype=getattr(torch, dtype) if dtype in DTYPES.values() else None)
            return result if shape is None else result.reshape(shape)
        except (TypeError, ValueError, RuntimeError):
            raise GridClientError(f"{self.url} answered an inference with something else than a tensor") from None

    async def models(self) -> list[str]:
        """The ids of the models on the node."""
        answer = await self._forward_json_to_websocket_server_worker({"type": "list-models"})
        return list(self._return_bool_result(answer, "models"))

    async def delete_model(self, model_id: str | int) -> bool:
        """Delete a model, all its versions.

        Returns:
            True.

        Raises:
            GridClientError: there is none, or it is somebody else's.
        """
        wish = {"type": "delete-model", "model_id": str(model_id)}
        self._return_bool_result(await self._forward_json_to_websocket_server_worker(wish))
        return True

    async def download_model(self, model_id: str | int) -> nn.Module | bytes:
        """Download a model to run it here.

        Returns:
            The model, which predicts bit-equal and can be trained further (`gridkit.plans.model.PlanModule`); bytes, if
            it was served in PySyft's own encoding.

        Raises:
            GridClientError: there is none, or it isn't for download.
            WireError: what came is no model.
        """
        self._note("GET get_model")
        with _refusals():
            return await downloaded(self._models, str(model_id))

    async def serve_encrypted_model(self, encrypted_model: Any) -> bool:
        """Refused: a model that PySyft has shared in secret is a list of pointers to objects of PySyft's workers.

        Raises:
            GridClientError: always.
        """
        raise GridClientError(
            "models shared in secret by PySyft can't be hosted: their shares are held by PySyft's workers",
            "serve_model hosts the model in the clear",
            code=ErrorCode.UNSAFE_FORMAT,
            status=400,
        )

    # -- how it talks

    async def _forward_json_to_websocket_server_worker(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a JSON message; the answer, be it an error."""
        self._note(str(message.get("type")))
        return await self._socket.ask(message)

    async def _forward_to_websocket_server_worker(self, message: bytes) -> bytes:
        """Send a binary message; the answer as it came. A node doesn't read PySyft's own: its answer is an error."""
        self._note(f"{len(message)} bytes")
        return await self._socket.exchange(bytes(message))

    def _return_bool_result(self, result: Mapping[str, Any], return_key: str | None = None) -> Any:
        """A result's member `return_key`, or True.

        Raises:
            GridClientError: the result says that it is none.
        """
        if result.get("success") and (return_key is None or return_key in result):
            return True if return_key is None else result[return_key]
        if not result.get("error"):
            raise GridClientError(f"{self.url} answered neither with a result nor with an error")
        code, hint = str(result.get("code")), result.get("hint")
        raise GridClientError(
            str(result["error"]),
            None if hint is None else str(hint),
            code=ErrorCode(code) if code in ErrorCode.__members__ else None,
            status=400,
        )

    async def _send_http_request(
        self,
        route: str,
        data: Any,
        request: str | Callable[..., Any],
        N: int = 10,
        unhexlify: bool = True,
        return_response_text: bool = True,
    ) -> Any:
        """Send an HTTP request; what the node answers, whatever its status.

        Args:
            route: such as "models/".
            data: a form's members.
            request: such as "GET", or a function of that name (``requests.get``).
            N: tries where nobody answers, of requests that may be repeated.
            unhexlify: give the bytes of a text such as ``b'00ff'``; another text as it is.
            return_response_text: the text, as ISO-8859-1; else the `httpx.Response`.

        Raises:
            NodeUnreachable: nobody answered.
        """
        method = (request if isinstance(request, str) else request.__name__).upper()
        tries = max(1, N) if method in _REPEATED else 1
        self._note(f"{method} {route}")
        for left in reversed(range(tries)):
            try:
                response = await self._link.send(method, "/" + route.lstrip("/"), data=data)
                break
            except NodeUnreachable:
                if not left:
                    raise
                await asyncio.sleep(0.1)
        if not return_response_text:
            return response
        text = response.content.decode(ENCODING)
        if unhexlify and text.startswith("b'"):
            try:
                return binascii.unhexlify(text[2:-1])
            except ValueError:  # it only looks like that
                return text
        return text

    async def _send_streaming_post(self, route: str, data: Mapping[str, str | File] | None = None) -> bytes:
        """Send a multipart form as a stream; the answer, whatever its status.

        Args:
            data: texts, and files as ``(name, bytes, content type)``.
        """
        self._note(f"POST {route}")
        form = Form(data or {})
        headers = {"prefer": "respond-async", **form.headers}
        response = await self._link.send("POST", "/" + route.lstrip("/"), content=form.pieces(), headers=headers)
        return response.content

    async def _send_get(
        self, route: str, data: Any = None, N: int = 10, unhexlify: bool = True, return_response_text: bool = True
    ) -> Any:
        """`_send_http_request` with GET."""
        return await self._send_http_request(route, data, "GET", N, unhexlify, return_response_text)

    async def _log_in_over_http(self, login: Login) -> None:
        """A token for HTTP, and for the next handshake. PyGrid's nodes have none to give."""
        with _refusals():
            try:
                token = await AccountClient(self._link).login(login)
            except NotFoundError:
                return
        self._socket.token = token.secret
        self._link.use(token.secret)

    def _note(self, what: str) -> None:
        line = f"{self} <- {what}"
        if self.log_msgs:
            self.msg_history.append(line)
        if self.verbose:
            self._say(line)

    def _closing(self) -> Callable[[], Any]:
        """What closes all that this client holds, without holding the client."""
        socket, link = self._socket, self._link

        async def close() -> None:
            await socket.close()
            await link.close()

        return close


@contextmanager
def _refusals() -> Iterator[None]:
    """A node's refusal over HTTP as the same error as over the socket."""
    try:
        yield
    except GridClientError:
        raise
    except NodeError as error:
        raise GridClientError(error.message, error.hint, code=error.code, status=error.status) from None


def _packed(model: Any, example: Any) -> Packed:
    if isinstance(model, bytes | bytearray | memoryview):
        return Packed([memoryview(model)])
    from gridkit.plans.model import pack

    return pack(model, example)
