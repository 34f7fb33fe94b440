"""Endpoints of push participants by hand: raw sockets that note what arrives and answer as they are told to."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.support import wait_for

ANSWERS = {"TRAINING_START": 200, "UPDATE_ROUND_START": 202, "MODEL_TEST_ROUND": 202, "TRAINING_FINISHED": 200}


@dataclass(frozen=True)
class Arrival:
    """A notification as it came: when (seconds, `time.monotonic`), what, and its headers by lower-case name."""

    at: float
    kind: str
    training: str
    model: str
    round: int | None
    headers: dict[str, str]
    body: bytes = field(repr=False)

    def __str__(self) -> str:
        return self.kind if self.round is None else f"{self.kind} {self.round}"


Behaviour = Callable[[Arrival, socket.socket], int | bytes | None]
"""Answers an arrival: a status, raw bytes, or None, which has the connection closed without an answer"""


def agreeable(arrival: Arrival, _connection: socket.socket) -> int:
    return ANSWERS[arrival.kind]


class Endpoint:
    """Listens on a port of its own; each connection has a thread.

    Attributes:
        heard: what arrived, in order, whatever was answered.
        behaves: see `Behaviour`.
        over: trainings of which what still arrives isn't noted.
    """

    def __init__(self, behaves: Behaviour = agreeable, *, port: int = 0, host: str = "127.0.0.1") -> None:
        self.behaves = behaves
        self.heard: list[Arrival] = []
        self.trouble: list[BaseException] = []
        self.over: set[str] = set()
        self.connections = 0
        self._open: set[socket.socket] = set()
        self._listening = socket.create_server((host, port), backlog=512)
        self.port: int = self._listening.getsockname()[1]
        self.url = f"http://{host}:{self.port}/told/here"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Nobody listens there any more; connections that are open end. Idempotent."""
        with suppress(OSError):  # it is closed
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in tuple(self._open):
            connection.close()

    @property
    def listens(self) -> bool:
        return self._listening.fileno() >= 0

    @property
    def busy(self) -> bool:
        """Something came that isn't answered yet."""
        return bool(self._open)

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def kinds(self) -> list[str]:
        return [str(arrival) for arrival in self.heard]

    def waits_for(self, what: str, times: int = 1) -> Arrival:
        """Until that has arrived so often; its last."""
        wait_for(lambda: self.kinds().count(what) >= times, what=f"{what} (heard: {self.kinds()})")
        return [arrival for arrival in self.heard if str(arrival) == what][times - 1]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                arrival = _read(connection)
                if arrival.training not in self.over:
                    self.heard.append(arrival)
                answer = self.behaves(arrival, connection)
                if isinstance(answer, int):
                    answer = b"HTTP/1.0 %d Whatever\r\n\r\n" % answer  # as the fl-demonstrator's client answers
                if answer is not None:
                    connection.sendall(answer)
        except OSError:
            pass  # the node, or the test, closed it
        except Exception as error:  # noqa: BLE001  told by the test
            self.trouble.append(error)
        finally:
            self._open.discard(connection)


def _read(connection: socket.socket) -> Arrival:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _received(connection)
    head, _, content = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin1").split("\r\n")
    assert first.split()[0] == "POST", first
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers["content-length"])
    while len(content) < length:
        content += _received(connection)
    message: dict[str, Any] = json.loads(content)
    body = message["body"]
    kind, training, model = message["notification_type"], message["training_uuid"], body["global_model_uuid"]
    return Arrival(time.monotonic(), kind, training, model, body.get("round"), headers, content)


def _received(connection: socket.socket) -> bytes:
    piece = connection.recv(65536)
    if not piece:
        raise ConnectionError("the node went away in the middle of a notification")
    return piece


class Hanging(Endpoint):
    """Takes connections and never answers; `released` ends them."""

    def __init__(self, **kwargs: Any) -> None:
        self._release = threading.Event()
        super().__init__(self._hang, **kwargs)

    def _hang(self, _arrival: Arrival, _connection: socket.socket) -> None:
        self._release.wait(60)

    def close(self) -> None:
        self._release.set()
        super().close()


def nobody() -> str:
    """An endpoint where a connection is refused."""
    with Endpoint() as endpoint:
        return endpoint.url


@contextmanager
def endpoints(number: int, behaves: Behaviour = agreeable) -> Iterator[list[Endpoint]]:
    opened = [Endpoint(behaves) for _ in range(number)]
    try:
        yield opened
    finally:
        for endpoint in opened:
            endpoint.close()
