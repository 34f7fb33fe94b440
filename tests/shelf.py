"""A shelf in memory that computes what a node would, and a node whose shelves are full."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import torch

from gridkit.widgets.shelf import Kind, Page, Row
from tests.support import NodeUnderTest, tiny_model


def model(id: str, at: int = 0, **more: Any) -> dict[str, Any]:
    made = {
        "id": id,
        "version": 1,
        "versions": 1,
        "kind": "plan",
        "size": 1000 + at,
        "owner": "ada",
        "allow_download": True,
        "allow_remote_inference": True,
        "mpc": None,
        "created_at": 1.7e9 + at,
        "origin": None,
        "uses": 3,
        "downloads": 0,
        "last_used": None,
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["B", 2]}],
        "digest": "0" * 64,
    }
    return {**made, **more}


def dataset(id: str, at: int = 0, **more: Any) -> dict[str, Any]:
    made = {
        "id": id,
        "owner": "bob",
        "tags": ["#xray"],
        "description": "lungs",
        "kind": "tensor",
        "tensors": [{"name": "0", "dtype": "float32", "shape": [10, 2]}],
        "rows": 10,
        "size": 80,
        "created_at": 1.6e9 + at,
        "mock": False,
        "may_fetch": False,
        "may_run": True,
        "plans": ["any"],
    }
    return {**made, **more}


class MemoryShelf:
    """Filters, sorts and cuts lists of its own; models are one linear layer. Answers when `gate` is open."""

    def __init__(self, models: Sequence[Row] = (), datasets: Sequence[Row] = ()) -> None:
        self.rows: dict[Kind, list[Row]] = {"models": list(models), "datasets": list(datasets)}
        self.asked: list[tuple[Any, ...]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.layer = torch.nn.Linear(2, 3)

    def now(self, kind: Kind, offset: int, limit: int, filter: str, sort: str, descending: bool) -> Page:
        found = [row for row in self.rows[kind] if filter in row["id"]]
        found.sort(key=lambda row: row[sort], reverse=descending)
        return Page(len(found), found[offset : offset + limit])

    def page(self, kind: Kind, *, offset: int, limit: int, filter: str, sort: str, descending: bool) -> Future[Page]:
        query = (kind, offset, limit, filter, sort, descending)
        self.asked.append(("page", *query))
        return self._later(lambda: self.now(*query))

    def download(self, kind: Kind, row: Row) -> Future[Any]:
        self.asked.append(("download", kind, row["id"]))
        return self._later(lambda: self.layer)

    def delete(self, kind: Kind, id: str) -> Future[Any]:
        self.asked.append(("delete", kind, id))

        def delete() -> None:
            self.rows[kind] = [row for row in self.rows[kind] if row["id"] != id]

        return self._later(delete)

    def infer(self, row: Row, values: Sequence[Any]) -> Future[Any]:
        self.asked.append(("infer", row["id"], row["version"]))
        (x,) = (torch.as_tensor(value, dtype=torch.float32) for value in values)
        return self._later(lambda: self.layer(x).detach())

    def _later(self, make: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()

        def work() -> None:
            self.gate.wait(20)
            if future.cancelled():
                return
            try:
                if self.error is not None:
                    raise self.error
                future.set_result(make())
            except Exception as error:  # noqa: BLE001  it is the future's
                future.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        return future


def serve_many(node: NodeUnderTest, count: int) -> None:
    """Serve `count` models: one over HTTP, and the others as rows beside it, with the same bytes.

    Named "model 00001" and so on, each a second older than the one before; every hundredth is bob's and "rare".
    """
    with node.http() as http:
        form = {"model_id": "model 00000", "allow_download": "True", "allow_remote_inference": "True"}
        served = http.post("/serve-model/", data=form, files={"model": ("model", tiny_model())})
        assert served.status_code == 200, served.text
    node.terminate()
    with contextlib.closing(sqlite3.connect(node.data / "grid.db")) as database, database:
        columns = [name for _, name, *_ in database.execute("PRAGMA table_info(model_version)") if name != "key"]
        (first,) = database.execute(f"SELECT {', '.join(columns)} FROM model_version")
        row = dict(zip(columns, first, strict=True))
        for number in range(1, count):
            rare = number % 100 == 0
            name = f"{'rare' if rare else 'model'} {number:05}"
            more = {**row, "model": name, "created_at": row["created_at"] - number, "uses": number}
            database.execute("INSERT INTO model VALUES (?, ?, 1)", (name, "bob" if rare else "owner"))
            database.execute(
                f"INSERT INTO model_version ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
                [more[column] for column in columns],
            )
    node.start()
