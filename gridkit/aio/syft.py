"""The syft.js API as coroutines: a client of the model-centric protocol. `gridkit.syft` is its sync face.

Source: syft.js 0.1.4 (`Syft`).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Self

from gridkit.aio.job import Job
from gridkit.cells import ShortDir
from gridkit.client.job import JobClient
from gridkit.client.job_socket import JobSocket
from gridkit.client.link import Link
from gridkit.client.websocket_grid import parse_address


class Syft(ShortDir):
    """A client of the model-centric protocol: the syft.js API. An async context manager.

    Unlike the original it speaks to the address as it is given (with TLS for ``https`` and ``wss``, whose certificates
    are verified), awaits handlers, and loses no error. Models and plans come over HTTP also where messages go through a
    WebSocket, as there.

    Args:
        url: ``http://host:port``, ``https``, ``ws`` or ``wss``, perhaps with a path; the scheme chooses how messages
            go.
        verbose: say what happens, a line a step; never a token.
        auth_token: for all jobs that are given none of their own; never shown.
        peer_config: kept for callers; not used, as in the original.
        say: what prints.

    Raises:
        UsageError: `url` isn't a node's address.

    Example:
        >>> async with gk.aio.Syft("ws://127.0.0.1:5000", auth_token=token) as client:     # doctest: +SKIP
        ...     job = await client.new_job("digits", "1.0")
        ...     job.on("rejected", lambda rejected: print(rejected.reason, rejected.timeout))
        ...     job.on("accepted", work)
        ...     await job.start()
    """

    def __init__(
        self,
        url: str,
        verbose: bool = False,
        auth_token: str | None = None,
        peer_config: Any = None,
        *,
        authToken: str | None = None,
        peerConfig: Any = None,
        say: Callable[[str], object] = print,
    ) -> None:
        secure, _, _ = parse_address(url)
        scheme, _, rest = url.partition("://")
        self.url = url
        self.verbose = verbose
        self._auth_token = auth_token or authToken
        self._say = say if verbose else None
        self._link = Link(f"{'https' if secure else 'http'}://{rest}")
        self._socket = JobSocket(self._link) if scheme in ("ws", "wss") else None
        self._identities: dict[tuple[str, str | None, str | None], tuple[str, bool]] = {}
        self.worker_id: str | None = None
        self.requires_speed_test = False

    def __repr__(self) -> str:
        return f"Syft({self.url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def new_job(
        self,
        model_name: str,
        model_version: str | None = None,
        auth_token: str | None = None,
        *,
        worker_id: str | None = None,
        label: str | None = None,
    ) -> Job:
        """A worker of this training. Asked for the same training (and with the same token) again, the client's worker
        there is the same.

        Args:
            model_name, model_version: of the training; without a version the one hosted last.
            auth_token: for this job, in place of the client's.
            worker_id: a worker's identity from an earlier process (`Job.worker_id`), to take it up again.
            label: how the worker wishes to be called in reports.

        Raises:
            AccessError: no token, or not one for this training.
            NotFoundError: there is no such training.
            NodeUnreachable: nobody answered.
        """
        token = auth_token or self._auth_token
        known = self._identities.get((model_name, model_version, token))
        client = JobClient(
            self._link,
            model_name,
            model_version,
            auth_token=token,
            worker_id=worker_id or (known and known[0]),
            label=label,
            socket=self._socket,
        )
        if known is not None and client.worker_id == known[0]:
            client.requires_speed_test = known[1]
        else:
            await client.authenticate()
            assert client.worker_id is not None
            self._identities[model_name, model_version, token] = (client.worker_id, client.requires_speed_test)
        self.worker_id, self.requires_speed_test = client.worker_id, client.requires_speed_test
        return Job(self, client, self._say)

    async def newJob(self, modelName: str, modelVersion: str | None = None, authToken: str | None = None) -> Job:
        """`new_job`, under the original's name."""
        return await self.new_job(modelName, modelVersion, authToken)

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self._closing()()

    def _closing(self) -> Callable[[], Coroutine[Any, Any, None]]:
        """What closes all that this client holds, without holding the client."""
        return partial(_close, self._link, self._socket)


async def _close(link: Link, socket: JobSocket | None) -> None:
    if socket is not None:
        await socket.close()
    await link.close()
