"""The runner's loop: frames in, frames out. One thing at a time; the node runs several runners when it needs to.

A frame of the node's is ``{"do": "infer", "digest": d, "sizes": […]}`` with that many inputs, or ``{"do": "plan",
"sizes": [n], "told": t}`` with a plan. The answer to each input, in frames as they come: ``{"answers": [[size, null] |
[0, error], …]}``, in order. When the model isn't loaded, ``{"need": d}`` goes before, and its file comes through the
other socket, as the data of a plan does.
"""

from __future__ import annotations

import os
import socket
import time
from collections import OrderedDict
from typing import Any, BinaryIO

import torch

from gridkit.errors import ErrorCode, PlanError, WireError
from gridkit.runner.compute import Computation, out_of_memory, read_arguments, read_model, read_plan
from gridkit.wire.frames import cut, pack_frame, read_frame

FLUSH_SECONDS = 0.02
FLUSH_BYTES = 1 << 20
"""answers are sent together until so much time has passed, or there are so many bytes"""


def warm_up() -> None:
    """torch as every runner has it: one thread, so that sums have one order, and chance that nobody can foresee."""
    torch.set_num_threads(1)
    torch.seed()
    torch.rand(4, 4) @ torch.rand(4, 4)  # the first product loads a library


class Answers:
    """Answers on their way to the node."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._clear()

    def _clear(self) -> None:
        self._header: list[Any] = []
        self._bodies: list[bytes] = []
        self._size = 0
        self._since = time.monotonic()

    def add(self, answer: bytes | PlanError | WireError) -> None:
        if isinstance(answer, bytes):
            self._header.append([len(answer), None])
            self._bodies.append(answer)
            self._size += len(answer)
        else:
            error = {"message": answer.message, "hint": answer.hint, "code": str(answer.code)}
            self._header.append([0, error])
        if self._size >= FLUSH_BYTES or time.monotonic() - self._since >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._header:
            self._channel.sendall(pack_frame({"answers": self._header}, self._bodies))
        self._clear()


class Models:
    """Models by their digest; those that weren't used for longest make room for others.

    Args:
        room: bytes that they may take together; a larger one is kept alone.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._held: OrderedDict[str, Computation] = OrderedDict()

    def get(self, digest: str) -> Computation | None:
        found = self._held.get(digest)
        if found is not None:
            self._held.move_to_end(digest)
        return found

    def put(self, digest: str, model: Computation) -> None:
        self._held[digest] = model
        while len(self._held) > 1 and sum(m.nbytes for m in self._held.values()) > self._room:
            self._held.popitem(last=False)


class Server:
    """What the process does until the node hangs up.

    Args:
        channel: the socket of the frames.
        files: the socket through which open files come.
        memory, results: bytes; see `Limits.run_memory` and `Limits.run_results`.
        frame: bytes of the longest frame that is read.
    """

    def __init__(self, channel: socket.socket, files: socket.socket, memory: int, results: int, frame: int) -> None:
        self._channel, self._files = channel, files
        self._run, self._results, self._frame = memory // 2, results, frame
        self._models = Models(memory // 4)

    def serve(self) -> None:
        with self._channel.makefile("rb") as frames:
            while (frame := read_frame(frames, self._frame)) is not None:
                header, body = frame
                parts = cut(body, header["sizes"])
                if header["do"] == "plan":
                    self._answer_plan(parts[0], header["told"])
                else:
                    self._answer_inputs(header["digest"], parts)

    def _answer_inputs(self, digest: str, inputs: list[bytes]) -> None:
        answers = Answers(self._channel)
        try:
            model = self._models.get(digest) or self._loaded(digest)
        except (PlanError, WireError) as error:
            for _ in inputs:
                answers.add(error)
            return answers.flush()
        if model is not None:
            for data in inputs:
                answers.add(self._infer(model, data))
            answers.flush()

    def _loaded(self, digest: str) -> Computation | None:
        """The model, asked for; None when the node can't give it."""
        self._channel.sendall(pack_frame({"need": digest}))
        file = self._file()
        if file is None:
            return None
        with file:
            try:
                model = read_model(file, self._run, self._results)
            except MemoryError:
                raise out_of_memory("the model") from None
        self._models.put(digest, model)
        return model

    def _infer(self, model: Computation, data: bytes) -> bytes | PlanError | WireError:
        try:
            return model(read_arguments(data, self._run))
        except (PlanError, WireError) as error:
            return error
        except MemoryError:
            return out_of_memory("the computation")

    def _answer_plan(self, data: bytes, told: bool) -> None:
        """Run a plan. Where it failed, and on what value, would tell of the data: that is said only if it may be."""
        answers = Answers(self._channel)
        file = self._file()
        assert file is not None
        with file:
            try:
                plan = read_plan(data, self._run, self._results)
                answers.add(plan(read_arguments(file, self._run)))
            except WireError as error:
                answers.add(error)
            except PlanError as error:
                secret = error.code is ErrorCode.BAD_PLAN and error.__cause__ and not told
                answers.add(_untold() if secret else error)
            except MemoryError:
                answers.add(out_of_memory("the computation"))
        answers.flush()

    def _file(self) -> BinaryIO | None:
        """The open file that the node sends; None when it has none."""
        _, descriptors, _, _ = socket.recv_fds(self._files, 1, 1)
        return os.fdopen(descriptors[0], "rb") if descriptors else None


def _untold() -> PlanError:
    return PlanError("the plan failed on this data", "try it on the mock sample first", code=ErrorCode.RUN_FAILED)
