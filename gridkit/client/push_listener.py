"""What a push participant hears: a small HTTP server for the notifications of a node.

Source: the fl-demonstrator's client (`ClientServerHandler`, `Communication`); names, fields and statuses are its. Ours:
a signature, limits before anything is buffered, and slow senders who disturb nobody else.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import socket
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Protocol
from uuid import UUID

from gridkit.errors import AccessError, ErrorCode, LimitError, UsageError
from gridkit.wire.notifications import AGAIN, KNOWN, NotificationType, Verifier

BODY_LIMIT = 64 << 10
"""bytes of a notification; the protocol's own have about 150"""
READ_SECONDS = 10.0
"""in which a whole request must have come"""
CONNECTIONS = 64
"""at the same time; further ones are closed at once"""
DRAINED = 1 << 20
"""bytes that are read of a body that is too long, and forgotten, so that its sender sees the answer"""


class Receiver(Protocol):
    """What a `Communication` passes notifications on to; each method returns at once."""

    def init_training(self, training_id: UUID, model_id: UUID) -> None: ...
    def start_training(self, training_id: UUID, round: int, model_id: UUID) -> None: ...
    def start_testing(self, training_id: UUID, round: int, model_id: UUID) -> None: ...
    def end_training(self, training_id: UUID, model_id: UUID) -> None: ...


class Communication:
    """What notifications become: one class method each. Subclass it to do something else, or more, with them.

    Whatever a method raises is logged, and the node is answered 500.

    Attributes:
        receiver: who gets what these methods get; `gridkit.serve_participant` sets it.
        knows_again: whether a round that is announced again isn't begun again, which nodes are told. Set by
            `gridkit.serve_participant`, unless `start_training` or `start_testing` is overridden.

    Example:
        >>> class Watched(Communication):
        ...     @classmethod
        ...     def end_training(cls, training_id, model_id):
        ...         print("over:", training_id)
        ...         super().end_training(training_id, model_id)
    """

    receiver: ClassVar[Receiver | None] = None
    knows_again: ClassVar[bool] = False

    @classmethod
    def init_training(cls, training_id: UUID, model_id: UUID) -> None:
        """TRAINING_START: answered 200."""
        cls._to().init_training(training_id, model_id)

    @classmethod
    def start_training(cls, training_id: UUID, round: int, model_id: UUID) -> None:
        """UPDATE_ROUND_START: answered 202."""
        cls._to().start_training(training_id, round, model_id)

    @classmethod
    def start_testing(cls, training_id: UUID, round: int, model_id: UUID) -> None:
        """MODEL_TEST_ROUND: answered 202."""
        cls._to().start_testing(training_id, round, model_id)

    @classmethod
    def end_training(cls, training_id: UUID, model_id: UUID) -> None:
        """TRAINING_FINISHED: answered 200."""
        cls._to().end_training(training_id, model_id)

    @classmethod
    def unknown_message(cls, message_type: str, training_id: UUID, data: Any) -> int:
        """Any other type, with the `data` of its body: the status to answer, 400 here."""
        return 400

    @classmethod
    def _to(cls) -> Receiver:
        if cls.receiver is None:
            raise UsageError(
                f"{cls.__name__} has nobody to pass notifications on to",
                "use gridkit.serve_participant, or override its methods",
            )
        return cls.receiver


class _Timed(io.RawIOBase):
    """A socket's bytes, until a moment."""

    def __init__(self, connection: socket.socket, until: float) -> None:
        self._connection = connection
        self._until = until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"the request didn't come within {READ_SECONDS:g} seconds")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class ClientServerHandler(BaseHTTPRequestHandler):
    """Receives the notifications of a node and forwards them to a `Communication`.

    A notification is a POST of any path, with a Content-Length, whose JSON object has `notification_type`,
    `training_uuid` and `body`. The answer has no body: 200 to TRAINING_START and TRAINING_FINISHED, 202 to
    UPDATE_ROUND_START and MODEL_TEST_ROUND, to other types what `Communication.unknown_message` returns, 500 where the
    handling fails, whose reason is logged. Ours are 401 (not signed as it must be), 403 (from a page in a browser) and
    413 (too long).

    Works with `http.server.HTTPServer` too.

    Attributes:
        communication: the Communication.
        verifier: checks signatures; None believes everybody.
    """

    communication: ClassVar[type[Communication]] = Communication
    verifier: ClassVar[Verifier | None] = None
    _logger = logging.getLogger("fl.client")
    _one_at_a_time: ClassVar[threading.Lock] = threading.Lock()
    """so that overridden methods, which may be slow, see one notification after the other"""
    _verifying: ClassVar[threading.Lock] = threading.Lock()

    def setup(self) -> None:
        super().setup()
        timed = _Timed(self.connection, time.monotonic() + READ_SECONDS)
        self.rfile = io.BufferedReader(timed)

    def do_POST(self) -> None:
        """Receive a notification from the node. See the class."""
        try:
            try:
                request_content = self._received()
            except (AccessError, LimitError) as error:
                self._logger.warning("refused a notification from %s: %s", self.client_address[0], error.message)
                self.send_response(error.status)
            else:
                content = json.loads(request_content)
                with self._one_at_a_time:
                    self.handle_message(
                        str(content["notification_type"]), UUID(content["training_uuid"]), content["body"]
                    )
        except Exception:
            self._logger.critical("a notification from %s could not be handled", self.client_address[0], exc_info=True)
            self.send_response(500)
        if self.communication.knows_again:
            self.send_header(AGAIN, KNOWN)
        self.end_headers()

    def _received(self) -> bytes:
        """The body of a request that may be handled."""
        if "origin" in self.headers:
            raise AccessError("it comes from a page in a browser", code=ErrorCode.FOREIGN_ORIGIN, status=403)
        length = int(self.headers["Content-Length"])
        if length > BODY_LIMIT:
            self.rfile.read(min(length, DRAINED))
            raise LimitError(f"it has {length} bytes", code=ErrorCode.TOO_LARGE)
        request_content = self.rfile.read(max(length, 0))
        if len(request_content) < length:
            raise ConnectionError(f"the sender went away after {len(request_content)} of {length} bytes")
        if self.verifier is not None:
            with self._verifying:
                self.verifier.check(self.headers.items(), request_content)
        return request_content

    def handle_message(self, notification_type: str, training_id: UUID, data: Any) -> None:
        """Forward the notification to the method of the Communication that it is for, and answer.

        Args:
            notification_type: its type.
            training_id: the training's.
            data: its body.
        """
        self._logger.info("receive notification %.80r for training '%s'", notification_type, training_id)
        to = self.communication
        match notification_type:
            case NotificationType.TRAINING_START:
                to.init_training(training_id=training_id, model_id=UUID(data["global_model_uuid"]))
                self.send_response(200)
            case NotificationType.UPDATE_ROUND_START:
                to.start_training(
                    training_id=training_id, round=int(data["round"]), model_id=UUID(data["global_model_uuid"])
                )
                self.send_response(202)
            case NotificationType.MODEL_TEST_ROUND:
                to.start_testing(
                    training_id=training_id, round=int(data["round"]), model_id=UUID(data["global_model_uuid"])
                )
                self.send_response(202)
            case NotificationType.TRAINING_FINISHED:
                to.end_training(training_id=training_id, model_id=UUID(data["global_model_uuid"]))
                self.send_response(200)
            case _:
                status_code = to.unknown_message(
                    message_type=notification_type, training_id=training_id, data=data["data"]
                )
                self.send_response(status_code)

    def log_message(self, format: str, *args: Any) -> None:
        """Foreign text goes to the log with its control characters spelled out."""
        self._logger.debug("%s %r", self.client_address[0], format % args)


class Listener(ThreadingHTTPServer):
    """Listens for one participant, on threads of its own.

    Args:
        communication: gets the notifications.
        host, port: where to listen; port 0 takes a free one.
        secret: shared with the node, which signs with it; None believes everybody.

    Raises:
        UsageError: the address can't be listened on, or the secret is too short.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, communication: type[Communication], host: str, port: int, secret: str | None) -> None:
        verifier = None if secret is None else Verifier(secret)
        bound = {"communication": communication, "verifier": verifier, "_one_at_a_time": threading.Lock()}
        handler = type(ClientServerHandler.__name__, (ClientServerHandler,), bound)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._room = threading.BoundedSemaphore(CONNECTIONS)
        try:
            super().__init__((host, port), handler)
        except (OSError, OverflowError) as error:
            hint = "host is an address of this machine, or 0.0.0.0 for all; port 0 takes a free one"
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                hint = "close the participant that has it, or choose another port, and register that"
            raise UsageError(f"can't listen on {host}:{port}: {error}", hint) from None
        self.port: int = self.socket.getsockname()[1]
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), name="gridkit-listen", daemon=True)
        self._thread.start()

    def server_bind(self) -> None:
        """As HTTPServer's, which also asks the network for this machine's name, and may wait long for it."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        ClientServerHandler._logger.debug("a connection of %r ended: %r", client_address, sys.exc_info()[1])

    def close(self) -> None:
        """Stop listening. Idempotent."""
        self.shutdown()
        self.server_close()
        self._thread.join()
