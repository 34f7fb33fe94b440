"""TensorFlow.js in a process of its own, for tests: it executes plans by the unmodified syft.js."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tests.interop.npm import modules, node

_RUNNER = Path(__file__).with_name("tfjs_runner.mjs")
_NARROW = {"int64": "int32", "bool": "bool", "int32": "int32", "float32": "float32"}


class Refused(Exception):
    """What syft.js or TensorFlow.js said."""


class Tfjs:
    """A running Node.js."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child
        self.kept = 0
        """Tensors that the last run left behind: its outputs, if all is well."""

    def run(self, plan: bytes, inputs: Sequence[Any]) -> list[np.ndarray]:
        """Outputs of `Plan.to_tfjs()` bytes; numbers go as numbers, arrays and tensors as tensors."""
        request = {"plan": base64.b64encode(plan).decode(), "inputs": [_sent(value) for value in inputs]}
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.write(json.dumps(request) + "\n")
        self._child.stdin.flush()
        answer = json.loads(self._child.stdout.readline())
        if "error" in answer:
            raise Refused(answer["error"])
        self.kept = answer["kept"]
        return [
            np.frombuffer(base64.b64decode(o["data"]), o["dtype"]).reshape(o["shape"]).copy() for o in answer["outputs"]
        ]


def _sent(value: Any) -> Any:
    if isinstance(value, int | float):
        return value
    array = np.asarray(value)
    narrow = np.ascontiguousarray(array.astype(_NARROW[array.dtype.name]))
    data = base64.b64encode(narrow.tobytes()).decode()
    return {"dtype": narrow.dtype.name, "shape": list(array.shape), "data": data}


@contextmanager
def running() -> Iterator[Tfjs]:
    """Node.js with syft.js and TensorFlow.js loaded."""
    command = [node(), str(_RUNNER), str(modules())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield Tfjs(child)
        finally:
            child.kill()
