"""A Run fed by a source of our own: rows by hand, models from a dict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import nn

from gridkit.errors import ErrorCode, NotFoundError
from gridkit.federated.history import Row
from gridkit.run import Run
from gridkit.wire.tensors import Array

CLINICS = ("north", "south", "east", "west", *(f"clinic {place}" for place in range(4, 1000)))
"""push participants, by slot"""


class Source:
    """A training that goes as the test says."""

    def __init__(self, model: Mapping[str, Any] | None = None) -> None:
        self.models = {1: dict(model or {"weight": np.zeros((1, 2), np.float32), "bias": np.zeros(1, np.float32)})}
        self.stops: list[bool] = []
        self.seq = 0

    def start(self, take: Callable[[Row], None], fail: Callable[[BaseException], None]) -> None:
        self.take, self.fail = take, fail

    async def model(self, checkpoint: int | None) -> dict[str, Array]:
        checkpoint = max(self.models) if checkpoint is None else checkpoint
        if checkpoint not in self.models:
            raise NotFoundError("gone", code=ErrorCode.NOT_FOUND, status=404)
        return self.models[checkpoint]

    async def lend(self, role: str, fn: Any) -> None:
        raise AssertionError("nothing is lent to this one")

    def raised(self) -> None:
        return None

    def in_thread(self, call: Any) -> Any:
        return asyncio.run(call)

    async def stop(self, now: bool) -> None:
        self.stops.append(now)
        self.row("stopping", now=now)

    def row(self, kind: str, **members: Any) -> None:
        self.seq += 1
        self.take({"seq": self.seq, "run": "r", "kind": kind, "at": float(self.seq), **members})

    def open(self, cycle: int = 1, clients: int = 2) -> None:
        self.row("opened", cycle=cycle, deadline=None, cohort=list(range(clients)))

    def report(self, cycle: int, slot: int, verdict: str = "accepted", message: str = "", **members: Any) -> None:
        self.row(
            "reported",
            cycle=cycle,
            slot=slot,
            verdict=verdict,
            **{
                "worker": f"client {slot}",
                "tensor": None,
                "samples": 5,
                "metrics": {"loss": 0.5},
                "error": None,
                "bytes": 9,
                "seconds": 0.1,
            }
            | {"message": message, "norm": 1.0, "warning": None}
            | members,
        )

    def aggregated(self, cycle: int, loss: float | None = 0.5) -> None:
        self.models[cycle + 1] = {name: array + np.float32(cycle) for name, array in self.models[cycle].items()}
        self.row(
            "aggregated",
            cycle=cycle,
            checkpoint=cycle + 1,
            accepted=2,
            refused=0,
            samples=10,
            loss=loss,
            seconds=1.5,
            bytes=18,
        )

    def round(self, cycle: int) -> None:
        self.open(cycle)
        self.report(cycle, 0), self.report(cycle, 1)
        self.aggregated(cycle)

    def test(self, cycle: int, metrics: Mapping[int, Mapping[str, float | str]], **samples: int | None) -> None:
        """A test round: `metrics` by slot. `samples` of the workers named so; of others 5."""
        self.row("testing", cycle=cycle, deadline=None, slots=sorted(metrics))
        for slot, values in metrics.items():
            self.tested(cycle, slot, values, samples.get(CLINICS[slot], 5))

    def tested(self, cycle: int, slot: int, metrics: Mapping[str, float | str], samples: int | None = 5) -> None:
        about = {"worker": CLINICS[slot], "metrics": dict(metrics), "samples": samples, "seconds": 0.2}
        self.row("tested", cycle=cycle, slot=slot, **about)

    def told(
        self, slot: int | None, notification: str, round: int | None, answer: int | None = 202, **more: Any
    ) -> None:
        about = {"cycle": 1, "attempt": 1, "seconds": 0.1, "message": "", "gone": False, **more}
        worker = "the owner" if slot is None else CLINICS[slot]
        who = {"slot": slot, "worker": worker, **about}
        self.row("notified", notification=notification, round=round, answer=answer, **who)

    def left(self, cycle: int, slot: int, reason: str) -> None:
        self.row("left", cycle=cycle, slot=slot, worker=CLINICS[slot], reason=reason)

    def finish(self, outcome: str = "completed", reason: str | None = None) -> None:
        self.row("finished", outcome=outcome, reason=reason)


def made(source: Source, kind: type[Any] = Run, **about: Any) -> Any:
    about = {"rounds": 2, "model": nn.Linear(2, 1), **about}
    return kind("digits", "1.0", source, **about)
