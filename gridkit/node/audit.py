"""The audit log: each refused action and each change, a JSON object a line, in a file of its own.

Rows are ASCII JSON, so no name can forge a line or colour a terminal. Refusals are written at a limited rate: what is
left out is counted, and a row says how many. The file is rotated, and outside of "nothing was changed".

A row: `time` (seconds since 1970), `who`, `role`, `token` (its id), `address`, `operation`, `object`, `verdict` ("done"
or the error's code), `why`, and perhaps `suppressed` (so many rows like this one were left out before it) or `lost` (so
many couldn't be written).
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from gridkit.node.rates import Buckets
from gridkit.node.rights import Principal

FILE_BYTES = 16 << 20
FILES = 8
QUIET_SECONDS = 60.0
"""after so long a count of suppressed rows is written by itself"""

_SECRET = re.compile(r"\b(gk_[0-9a-f]+_|eyJ[\w-]+\.)[\w.-]+")
"""a token of an account, a worker's token; what goes before the secret stays"""

_object: ContextVar[str] = ContextVar("object", default="")


def about(name: str) -> None:
    """Say what the request or message that is being handled is about: the object of its row."""
    _object.set(name)


class Audit:
    """The log of one node. It is written on a thread of its own; `note` never waits and never fails.

    Args:
        path: of the newest file; older ones have a number before the suffix.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gridkit-audit")
        self._each = Buckets(0.2, 10, clock)
        self._all = Buckets(20, 500, clock)
        self._suppressed: dict[tuple[str, ...], tuple[float, int, dict[str, Any]]] = {}
        self._lost = 0

    def note(
        self, principal: Principal, address: str, operation: str, verdict: str, why: str = "", subject: str = ""
    ) -> None:
        """One row. `subject` is the object where nothing was said by `about`."""
        who = principal.name or principal.label or ""
        row: dict[str, Any] = {
            "time": round(self._clock(), 3),
            "who": who,
            "role": str(principal.role),
            "token": principal.token,
            "address": address,
            "operation": operation,
            "object": _without_secrets(_object.get() or subject)[:200],
            "verdict": verdict,
            "why": _without_secrets(why)[:300],
        }
        self._write_counts(QUIET_SECONDS)
        if verdict != "done":
            key = (who, str(principal.role), address, operation, verdict)
            if self._each.take(key) or self._all.take(""):
                key = key if len(self._suppressed) < 1000 else ("", "", "", "", "")
                since, count, _ = self._suppressed.get(key, (self._clock(), 0, row))
                self._suppressed[key] = (since, count + 1, row)
                return
            _, count, _ = self._suppressed.pop(key, (0.0, 0, row))
            if count:
                row["suppressed"] = count
        self._thread.submit(self._append, row)

    def read(self, limit: int) -> list[dict[str, Any]]:
        """The newest rows, oldest of them first. Blocks: call it on a thread."""
        self._thread.submit(self._write_counts, 0.0).result()
        return self._thread.submit(self._newest, limit).result()

    def close(self) -> None:
        self._write_counts(0.0)
        self._thread.shutdown()

    # -- inside

    def _write_counts(self, age: float) -> None:
        """Rows for what was left out and not told for so long; the oldest are first."""
        while self._suppressed:
            key, (since, count, row) = next(iter(self._suppressed.items()))
            if since > self._clock() - age:
                return
            del self._suppressed[key]
            self._thread.submit(self._append, {**row, "suppressed": count})

    def _append(self, row: dict[str, Any]) -> None:
        if self._lost:
            row = {**row, "lost": self._lost}
        try:
            if self._path.exists() and self._path.stat().st_size > FILE_BYTES:
                self._rotate()
            line = json.dumps(row).encode() + b"\n"
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "r+b", buffering=0) as file:
                if file.seek(0, 2) and (file.seek(-1, 2), file.read(1))[1] != b"\n":  # a row that was cut off
                    line = b"\n" + line
                if file.write(line) != len(line):
                    raise OSError("a part of the row was written")
            self._lost = 0
        except OSError as error:
            self._lost += 1
            if self._lost == 1:
                logging.getLogger("gridkit.node").error("the audit log can't be written: %s", error)

    def _rotate(self) -> None:
        for number in range(FILES - 1, 0, -1):
            if self._file(number - 1).exists():
                self._file(number - 1).replace(self._file(number))

    def _file(self, number: int) -> Path:
        return self._path if number == 0 else self._path.with_suffix(f".{number}{self._path.suffix}")

    def _newest(self, limit: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for number in range(FILES):
            if len(rows) >= limit or not self._file(number).exists():
                break
            rows = [*_rows(self._file(number)), *rows]
        return rows[-limit:]


def _without_secrets(text: str) -> str:
    """Somebody may put a token where its id or a name belongs, and everybody who reads the log would have it."""
    return _SECRET.sub(r"\1…", text)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, "rb") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                continue  # cut off by a full disk or a crash; the row after it says how many were lost
            if isinstance(row, dict):
                yield row
