"""What a participant's listener answers: the statuses of the original's, and limits that it hasn't."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import HTTPServer
from typing import Any, ClassVar

import pytest

import gridkit as gk
from gridkit.client import push_listener
from gridkit.client.push_listener import Communication, Listener
from tests.push_node import post

TRAINING, MODEL = uuid.uuid4(), uuid.uuid4()


def body(kind: str = "TRAINING_START", **data: Any) -> bytes:
    data = {"global_model_uuid": str(MODEL), **data}
    return json.dumps({"notification_type": kind, "training_uuid": str(TRAINING), "body": data}).encode()


class Recorder(Communication):
    calls: ClassVar[list[tuple[Any, ...]]] = []

    @classmethod
    def init_training(cls, training_id: uuid.UUID, model_id: uuid.UUID) -> None:
        cls.calls.append(("init_training", training_id, model_id))

    @classmethod
    def start_training(cls, training_id: uuid.UUID, round: int, model_id: uuid.UUID) -> None:
        if round == 13:
            raise RuntimeError("no thirteenth round here")
        cls.calls.append(("start_training", training_id, round, model_id))

    @classmethod
    def start_testing(cls, training_id: uuid.UUID, round: int, model_id: uuid.UUID) -> None:
        cls.calls.append(("start_testing", training_id, round, model_id))

    @classmethod
    def end_training(cls, training_id: uuid.UUID, model_id: uuid.UUID) -> None:
        cls.calls.append(("end_training", training_id, model_id))


@pytest.fixture(params=["ours", "HTTPServer"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    Recorder.calls.clear()
    if request.param == "ours":
        listener = Listener(Recorder, "127.0.0.1", 0, None)
        yield f"http://127.0.0.1:{listener.port}"
        listener.close()
        return
    handler = type("Handler", (gk.ClientServerHandler,), {"communication": Recorder})
    with HTTPServer(("127.0.0.1", 0), handler) as server:  # as programs for the original do it
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def raw(url: str, request: bytes, *, cut: bool = True) -> bytes:
    """All that is answered to these bytes; `cut` sends no more after them."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        with contextlib.suppress(ConnectionError):  # it has heard enough
            connection.sendall(request)
            if cut:
                connection.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                answer += part
        return answer


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def test_each_notification_calls_its_method(url: str) -> None:
    assert post(url, body()) == 200
    assert post(url, body("UPDATE_ROUND_START", round=0)) == 202
    assert post(url, body("MODEL_TEST_ROUND", round="1", more=[1])) == 202
    assert post(url, body("TRAINING_FINISHED")) == 200
    assert Recorder.calls == [
        ("init_training", TRAINING, MODEL),
        ("start_training", TRAINING, 0, MODEL),
        ("start_testing", TRAINING, 1, MODEL),
        ("end_training", TRAINING, MODEL),
    ]
    assert post(url, body("LUNCH", data={"at": 12})) == 400


def test_what_fails_is_answered_500_and_logged_whole(url: str, caplog: pytest.LogCaptureFixture) -> None:
    assert post(url, body("UPDATE_ROUND_START", round=13)) == 500
    logged = caplog.records[-1]
    assert (logged.name, logged.levelno) == ("fl.client", logging.CRITICAL)
    assert "no thirteenth round here" in caplog.text and "in start_training" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 50_000,
        b"1" * 50_000,
        body("LUNCH"),
        body("UPDATE_ROUND_START"),
        body("UPDATE_ROUND_START", round="first"),
        body("UPDATE_ROUND_START", round=None),
        body(global_model_uuid="../model"),
        body().replace(str(TRAINING).encode(), b"x"),
        b'{"notification_type": "TRAINING_START"}',
    ],
    ids=lambda content: repr(content[:40]),
)
def test_s6_what_cannot_be_read_is_answered_500(url: str, content: bytes) -> None:
    assert post(url, content) == 500
    assert Recorder.calls == []
    assert post(url, body()) == 200


def test_w13_requests_that_are_no_notifications(url: str) -> None:
    length = b"content-length: %d\r\n" % len(body())
    cases = {
        b"GET / HTTP/1.1\r\n\r\n": 501,
        b"PUT / HTTP/1.1\r\n" + length + b"\r\n" + body(): 501,
        b"POST / HTTP/1.1\r\n\r\n" + body(): 500,
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n": 500,
        b"POST / HTTP/1.1\r\ncontent-length: -5\r\n\r\n" + body(): 500,
        b"POST / HTTP/1.1\r\ncontent-length: 99999\r\n\r\n" + body(): 413,
        b"POST / HTTP/1.1\r\ncontent-length: 5000\r\n\r\n" + body(): 500,
        b"POST / HTTP/1.1\r\nx: " + b"a" * 100_000 + b"\r\n\r\n": 431,
        b"POST / HTTP/1.1\r\norigin: null\r\n" + length + b"\r\n" + body(): 403,
        b"POST /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n": 414,
        b"POST /%s HTTP/1.1\r\n" % b"any/path?x=1" + length + b"\r\n" + body(): 200,
    }
    assert {request[:70]: status(raw(url, request)) for request in cases} == {k[:70]: v for k, v in cases.items()}
    assert len(Recorder.calls) == 1


def test_s3_a_long_body_is_refused_before_it_is_read(url: str) -> None:
    request = b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n"
    assert status(raw(url, request % (1 << 20) + b" " * (1 << 20), cut=False)) == 413
    assert status(raw(url, request % (1 << 60))) == 413


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    monkeypatch.setattr(push_listener, "READ_SECONDS", 0.5)
    monkeypatch.setattr(push_listener, "CONNECTIONS", 8)
    Recorder.calls.clear()
    listener = Listener(Recorder, "127.0.0.1", 0, None)
    yield listener
    listener.close()


def test_c7_slow_senders_disturb_nobody_and_are_let_go(impatient: Listener) -> None:
    url = f"http://127.0.0.1:{impatient.port}"
    begun = time.monotonic()
    slow = [socket.create_connection(("127.0.0.1", impatient.port)) for _ in range(7)]
    for connection in slow:
        connection.sendall(b"POST / HTTP/1.1\r\ncontent-length: 100\r\n\r\n")
    assert post(url, body()) == 200  # the eighth
    ended = threading.Event()

    def drip() -> None:  # each byte comes in time, all of them don't
        with contextlib.suppress(OSError):
            while not ended.wait(0.05):
                for connection in slow:
                    connection.sendall(b" ")

    thread = threading.Thread(target=drip)
    thread.start()
    for connection in slow:
        connection.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert status(connection.recv(100)) == 500
    ended.set()
    thread.join()
    assert time.monotonic() - begun < 5  # 100 bytes of 0.05 s each, seven times, are far more
    for connection in slow:
        connection.close()


def test_c6_connections_are_bounded(impatient: Listener) -> None:
    idle = [socket.create_connection(("127.0.0.1", impatient.port)) for _ in range(8)]
    with pytest.raises((ConnectionError, OSError)):
        for _ in range(50):  # the eight have to be accepted first
            post(f"http://127.0.0.1:{impatient.port}", body())
    for connection in idle:
        connection.close()
    for _ in range(100):
        with contextlib.suppress(OSError):
            if post(f"http://127.0.0.1:{impatient.port}", body()) == 200:
                return
        time.sleep(0.05)
    raise AssertionError("the listener doesn't take anybody any more")


def test_notifications_are_handled_one_at_a_time() -> None:
    inside, most = [], []

    class Slow(Communication):
        @classmethod
        def init_training(cls, training_id: uuid.UUID, model_id: uuid.UUID) -> None:
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    listener = Listener(Slow, "127.0.0.1", 0, None)
    try:
        senders = [threading.Thread(target=post, args=(f"http://127.0.0.1:{listener.port}", body())) for _ in range(5)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
    finally:
        listener.close()
    assert most == [1] * 5


def test_a_communication_without_receiver_says_so(caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener(Communication, "127.0.0.1", 0, None)
    try:
        assert post(f"http://127.0.0.1:{listener.port}", body()) == 500
    finally:
        listener.close()
    assert "serve_participant" in caplog.text


def test_w11_foreign_text_in_the_log_is_inert(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "fl.client")
    post(url, body("\x1b[31mred\nfl.client: forged", data=1))
    raw(url, b"POST /\x1b[31m HTTP/1.1\r\n\r\n")
    assert "\x1b" not in caplog.text and "\nfl.client: forged" not in caplog.text
