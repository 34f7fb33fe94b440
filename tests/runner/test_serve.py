"""The runner's loop, without a process: what it keeps, and how it sends answers."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from gridkit.errors import ErrorCode, PlanError
from gridkit.runner import serve
from gridkit.runner.serve import Answers, Models, Server
from gridkit.wire.frames import pack_frame, read_frame
from tests.models import digits, hosted, packed, unpacked


class Sized:
    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


def test_the_model_that_was_not_used_for_longest_goes() -> None:
    models = Models(room=25)
    for name in "ab":
        models.put(name, Sized(10))  # type: ignore[arg-type]
    assert models.get("a") is not None
    models.put("c", Sized(10))  # type: ignore[arg-type]
    assert [name for name in "abc" if models.get(name)] == ["a", "c"]


def test_a_model_larger_than_the_room_is_kept_alone() -> None:
    models = Models(room=25)
    models.put("a", Sized(10))  # type: ignore[arg-type]
    models.put("large", Sized(100))  # type: ignore[arg-type]
    assert models.get("a") is None and models.get("large") is not None


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    with ours, theirs:
        yield ours, theirs


def test_answers_go_out_together_unless_they_are_large(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pair
    monkeypatch.setattr(serve, "FLUSH_BYTES", 10)
    monkeypatch.setattr(serve, "FLUSH_SECONDS", 1000)
    answers = Answers(theirs)
    for data in (b"one", b"two", b"and more", b"last"):
        answers.add(data)
    answers.add(PlanError("no"))
    answers.flush()
    answers.flush()  # nothing is left
    theirs.shutdown(socket.SHUT_WR)
    with ours.makefile("rb") as file:
        first, second, end = (read_frame(file, 100) for _ in range(3))
    assert first == ({"answers": [[3, None], [3, None], [8, None]]}, b"onetwoand more")
    error = {"message": "no", "hint": None, "code": "BAD_PLAN"}
    assert second == ({"answers": [[4, None], [0, error]]}, b"last") and end is None


def test_a_shortage_of_memory_is_an_answer(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it comes up: in Python's own allocations, or while the model is read."""
    model = hosted(digits(), torch.zeros(1, 64))
    ours, theirs = pair
    files, their_files = socket.socketpair()
    shortage = [True, True]

    def read_model(*args: Any) -> Any:
        if shortage and shortage.pop():
            raise MemoryError
        return original_model(*args)

    def read_arguments(*args: Any) -> Any:
        if shortage and shortage.pop():
            raise MemoryError
        return original_arguments(*args)

    original_model, original_arguments = serve.read_model, serve.read_arguments
    monkeypatch.setattr(serve, "read_model", read_model)
    monkeypatch.setattr(serve, "read_arguments", read_arguments)
    thread = threading.Thread(target=Server(theirs, their_files, 1 << 26, 1 << 20, 1 << 20).serve)
    thread.start()
    x = packed(torch.zeros(1, 64))
    seen: list[Any] = []
    with files, their_files, ours.makefile("rb") as frames:
        with tempfile.TemporaryFile() as file:
            file.write(model.data)
            file.flush()
            while len(seen) < 3:
                ours.sendall(pack_frame({"do": "infer", "digest": "d", "sizes": [len(x)]}, [x]))
                header, body = read_frame(frames, 1 << 20) or ({}, b"")
                if "need" in header:
                    socket.send_fds(files, [b"+"], [file.fileno()])
                    header, body = read_frame(frames, 1 << 20) or ({}, b"")
                ((_, error),) = header["answers"]
                seen.append(error["code"] if error else unpacked(body)[0].shape)
        ours.shutdown(socket.SHUT_RDWR)
    thread.join(20)
    assert seen == [ErrorCode.OUT_OF_MEMORY, ErrorCode.OUT_OF_MEMORY, (1, 10)] and not thread.is_alive()
