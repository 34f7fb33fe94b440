"""PyGrid's `WebsocketGridClient` of November 2019 as a node sees it: what it sends, byte by byte, and what it makes of
the answers. Written from the protocol's description; payloads are bytes, since nothing here pickles.

Its quirks are kept: JSON as `json.dumps` writes it, flags as text, `requests`' and websocket-client's headers, a form
as requests-toolbelt streams it, no credential with any HTTP request.
"""

from __future__ import annotations

import binascii
import http.client
import json
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

from websockets.sync.client import connect

MODEL_LIMIT_SIZE = 64 * 1024**2
BOUNDARY = "3c5a1dcb9b6e4d0c8a2f7e1b5d9c0a48"


class OriginalClient:
    """Args: address, auth, chunk_size as in the original's constructor, which connects and asks for the node's id."""

    def __init__(self, address: str, auth: dict[str, str] | None = None, chunk_size: int = MODEL_LIMIT_SIZE) -> None:
        parts = urlsplit(address)
        assert parts.hostname and parts.port
        self.address, self.host, self.port = address, parts.hostname, parts.port
        self.url = f"ws://{self.host}:{self.port}"
        self._open = ExitStack()
        opened = connect(
            f"{self.url}/",
            origin=f"http://{self.host}:{self.port}",  # type: ignore[arg-type]  # websocket-client sends one
            user_agent_header=None,
            compression=None,
            proxy=None,
            max_size=None,
        )
        self.ws = self._open.enter_context(opened)
        self.credentials: dict[str, str] | None = None
        self.id = self.get_node_id()
        if auth:
            self.authenticate(auth)
        self._encoding = "ISO-8859-1"
        self._chunk_size = chunk_size

    def close(self) -> None:
        self._open.close()

    def json(self, message: dict[str, Any]) -> Any:
        """`_forward_json_to_websocket_server_worker`"""
        self.ws.send(json.dumps(message))
        return json.loads(self.ws.recv())

    def binary(self, message: bytes) -> Any:
        """`_forward_to_websocket_server_worker`"""
        self.ws.send(message)
        return self.ws.recv()

    def http(self, method: str, route: str, body: bytes = b"", **headers: str) -> tuple[int, str, bytes]:
        """One request as `requests` sends it: status, content type, body."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.putrequest(method, f"/{route}", skip_accept_encoding=True)
            common = {"User-Agent": "python-requests/2.22.0", "Accept-Encoding": "gzip, deflate", "Accept": "*/*"}
            for name, value in {**common, "Connection": "keep-alive", **headers}.items():
                connection.putheader(name.replace("_", "-"), value)
            if method == "POST":
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders()
            connection.send(body)
            answer = connection.getresponse()
            return answer.status, answer.headers["content-type"] or "", answer.read()
        finally:
            connection.close()

    # -- the methods

    def get_node_id(self) -> Any:
        return self.json({"type": "get-id"}).get("id", None)

    def authenticate(self, user: dict[str, str]) -> None:
        user["type"] = "authentication"
        response = self.json(user)
        if not self._return_bool_result(response):
            raise RuntimeError("Invalid user.")
        self.id = response["id"]
        self.credentials = user

    def connect_nodes(self, node: OriginalClient) -> Any:
        message = {"type": "connect-node", "address": node.address, "id": node.id}
        if node.credentials:
            message["auth"] = node.credentials  # type: ignore[assignment]
        return self.json(message)

    def serve_model(
        self, serialized: bytes, model_id: Any, allow_download: bool = False, allow_remote_inference: bool = False
    ) -> Any:
        about = {
            "encoding": self._encoding,
            "model_id": model_id,
            "allow_download": str(allow_download),
            "allow_remote_inference": str(allow_remote_inference),
        }
        if len(serialized) + 33 > self._chunk_size:
            raw = self._send_streaming_post("serve-model/", model_id, serialized, about)
            return self._return_bool_result(json.loads(raw))
        message = {"type": "host-model", **about, "model": serialized.decode(self._encoding)}
        return self._return_bool_result(self.json(message))

    def run_remote_inference(self, model_id: str, serialized: bytes) -> Any:
        text = serialized.decode(self._encoding)
        response = self.json({"type": "run-inference", "model_id": model_id, "data": text, "encoding": self._encoding})
        return self._return_bool_result(response, "prediction")

    @property
    def models(self) -> Any:
        return self.json({"type": "list-models"}).get("models", None)

    def delete_model(self, model_id: str) -> Any:
        return self._return_bool_result(self.json({"type": "delete-model", "model_id": model_id}))

    def download_model(self, model_id: str) -> bytes:
        allowed = json.loads(self._send_http_request(f"is_model_copy_allowed/{model_id}", "GET", unhexlify=False))
        self._return_bool_result(allowed)
        self.binary(b"\x29\x04\x22\x4d\x18fetch_plan")  # its answer isn't a plan: "try the next way"
        response = self.json({"type": "download-model", "model_id": model_id})
        if response.get("serialized_model"):
            return str(response["serialized_model"]).encode(self._encoding)
        status, kind, body = self.http("GET", f"get_model/{model_id}")
        if status != 200:
            raise RuntimeError("There was a problem while getting the model, check the server logs for more info.")
        if "multipart/form-data" in kind:
            boundary = kind.partition("boundary=")[2].encode()
            part = body.partition(b"\r\n\r\n")[2].rpartition(b"\r\n--" + boundary + b"--")[0]
            return part.decode("utf-8").encode(self._encoding)
        return str(json.loads(body)["serialized_model"]).encode(self._encoding)

    def serve_encrypted_model(self, pointer: bytes, message: bytes) -> Any:
        self.binary(message)
        return self.serve_model(pointer, "secret", allow_download=True, allow_remote_inference=False)

    def _return_bool_result(self, result: dict[str, Any], return_key: str | None = None) -> Any:
        if result.get("success"):
            return result[return_key] if return_key is not None else True
        if result.get("error"):
            raise RuntimeError(result["error"])
        raise RuntimeError("Something went wrong, check the server logs for more information.")

    def _send_http_request(self, route: str, method: str, N: int = 10, unhexlify: bool = True) -> Any:
        text = self.http(method, route)[2].decode("ISO-8859-1")
        for _ in range(N):
            if not unhexlify:
                return text
            try:
                return binascii.unhexlify(text[2:-1])
            except ValueError:
                text = self.http(method, route)[2].decode("ISO-8859-1")
        return text

    def _send_streaming_post(self, route: str, model_id: str, serialized: bytes, about: dict[str, Any]) -> bytes:
        head = (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="model"; filename="{model_id}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        fields = "".join(
            f'\r\n--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}'
            for name, value in about.items()
        )
        body = head + serialized + fields.encode() + f"\r\n--{BOUNDARY}--\r\n".encode()
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        return self.http("POST", route, body, Prefer="respond-async", Content_Type=kind)[2]
