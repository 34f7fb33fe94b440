"""A training on a node, seen from a session: what feeds its Run, and what the one who hosts it holds."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

import numpy as np

from gridkit.cells import ShortDir
from gridkit.client.node import NodeClient
from gridkit.client.rpc_callables import Exposed
from gridkit.errors import NodeUnreachable
from gridkit.run import RunBase, RunSource
from gridkit.wire.notifications import NotificationType

RunT = TypeVar("RunT", bound=RunBase)
T = TypeVar("T")
Spawn = Callable[[Coroutine[Any, Any, Any]], None]
Lend = Callable[[str, Callable[..., Any] | Exposed], Coroutine[Any, Any, None]]

FAREWELL_SECONDS = 1.0
"""for which the end of a run waits until its push participants have been told of it"""
LATE_SECONDS = 30.0
"""for which later attempts to tell them are followed"""


class HostedTraining(ShortDir, Generic[RunT]):
    """A training hosted for workers that come by themselves.

    Attributes:
        name, version: as hosted.
        run: its Run: metrics, reports, wait, stop.
        worker_token: for the workers, in `GRIDKIT_TOKEN`; good for this training only. Never shown in a repr.
    """

    def __init__(self, url: str, name: str, version: str, worker_token: str, run: RunT) -> None:
        self.name = name
        self.version = version
        self.run = run
        self.worker_token = worker_token
        self._url = url

    def __repr__(self) -> str:
        return f"HostedTraining({self.name!r}, {self.version!r}, at {self._url}, {self._progress})"

    def _repr_html_(self) -> str:
        from gridkit.widgets.html import card, details, tag

        how = "A data holder sets GRIDKIT_TOKEN to this training's worker_token, and types:"
        call = f"grid.invite({self.name!r}, {self.version!r})"
        guests = tag("p", "Guests with nothing but a browser come with what ", tag("code", call), " gives.")
        facts = {"at": self._url, "status": self._progress}
        return card(
            f"Hosted training '{self.name}' {self.version}",
            facts,
            details("How to join", how, tag("pre", self.command), guests),
        )

    @property
    def _progress(self) -> str:
        done, of = len(self.run.history.rounds), "" if self.run.rounds is None else f" of {self.run.rounds}"
        return f"{self.run.status}, {done}{of} rounds"

    @property
    def command(self) -> str:
        """What a data holder types; the token goes into GRIDKIT_TOKEN."""
        name, version = shlex.quote(self.name), shlex.quote(self.version)
        return f"gridkit worker {self._url} --name {name} --version {version} --data shard.npz"


def _hear(called: set[int], row: dict[str, Any]) -> None:
    """Keep the slots of the push participants that have heard of the training's start, and not yet of its end."""
    match row["kind"]:
        case "notified" if row["notification"] == NotificationType.TRAINING_START and row["answer"] is not None:
            called.add(row["slot"])
        case "notified" if row["notification"] == NotificationType.TRAINING_FINISHED and row["answer"] is not None:
            called.discard(row["slot"])
        case "left":
            called.discard(row["slot"])


class NodeSource(RunSource):
    """Feeds a Run from a node's event stream, on the event loop in which it is started.

    Args:
        lend: lends the training a function for a part: see `RunSource.lend`.
        raised: what a function that was lent raised last.
    """

    def __init__(
        self,
        node: NodeClient,
        process: str,
        name: str,
        version: str,
        spawn: Spawn,
        lend: Lend,
        raised: Callable[[], BaseException | None],
    ) -> None:
        self._node = node
        self._process = process
        self._name = name
        self._version = version
        self._spawn = spawn
        self._lend, self._raised = lend, raised

    def start(self, take: Callable[[dict[str, Any]], None], fail: Callable[[BaseException], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._spawn(self._feed(take, fail))

    async def _feed(self, take: Callable[[dict[str, Any]], None], fail: Callable[[BaseException], None]) -> None:
        called: set[int] = set()
        try:
            async for row in self._node.rows(self._process):
                _hear(called, row)
                if row["kind"] != "finished":
                    take(row)
            # Push participants are told of the end once it has come: who waits for the end should find that, too.
            last = [row]
            await self._farewells(called, row["seq"], FAREWELL_SECONDS, last.append)
            for row in last:
                take(row)
            await self._farewells(called, last[-1]["seq"], LATE_SECONDS, take)
        except asyncio.CancelledError:
            fail(NodeUnreachable(f"the session to {self._node.link.url} was closed", "grid.runs finds the run again"))
            raise
        except Exception as error:  # noqa: BLE001  whatever ends the stream ends the Run, which raises it
            fail(error)

    async def _farewells(
        self, called: set[int], after: int, seconds: float, take: Callable[[dict[str, Any]], None]
    ) -> None:
        """`take` what comes after the end, until all who were called have heard of it, but for so long at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), contextlib.aclosing(self._node.rows(self._process, after)) as rows:
                while called:
                    row = await anext(rows)
                    _hear(called, row)
                    take(row)

    async def model(self, checkpoint: int | None) -> dict[str, np.ndarray]:
        return await self._node.retrieve_model(self._name, self._version, checkpoint)

    async def stop(self, now: bool) -> None:
        await self._node.stop(self._name, self._version, now=now)

    async def lend(self, role: str, fn: Callable[..., Any] | Exposed) -> None:
        await self._lend(role, fn)

    def raised(self) -> BaseException | None:
        return self._raised()

    def in_thread(self, call: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()
