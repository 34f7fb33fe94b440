"""`gridkit.Syft`, `Job` and `SyftModel`, the sync faces of those in `gridkit.aio`, for plain cells and scripts."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gridkit import cells
from gridkit.aio import job as aio_job
from gridkit.aio import syft as aio_syft
from gridkit.aio.job import Accepted, Rejected
from gridkit.aio.job_model import ModelParams
from gridkit.bridge import BRIDGE, sync
from gridkit.waitloop import new_wait_loop
from gridkit.workers.job_training import Progress, Trained

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from gridkit.plans.plan import Plan

__all__ = ["Accepted", "Job", "Progress", "Rejected", "Syft", "SyftModel", "Trained"]


class SyftModel(ModelParams):
    __doc__ = ModelParams.__doc__

    def create_serialized_diff(self, updated_model_params: Sequence[torch.Tensor]) -> bytes:
        """What `Job.report` takes: model as downloaded minus `updated_model_params`, as a State message.

        Raises:
            UsageError: another number of tensors than the model's, or of other shapes or dtypes.
        """
        return self._diff(updated_model_params)

    createSerializedDiff = create_serialized_diff


class Job(cells.ShortDir):
    """One worker of one training. `start` asks for work; what comes of it are events; each start is one cycle.

    Events, attributes and methods are those of `gridkit.aio.Job`. Handlers run in `start`, on the thread that called
    it, and may call whatever a cell may; coroutine functions are run to their end there.

    Example:
        >>> job = client.new_job("digits", "1.0")                                   # doctest: +SKIP
        >>> job.on("accepted", lambda accepted: job.report(job.train(x, y)))        # doctest: +SKIP
        >>> job.on("rejected", lambda rejected: print(rejected.reason, rejected.timeout))   # doctest: +SKIP
        >>> job.start()                                                             # doctest: +SKIP
    """

    def __init__(self, worker: Syft, core: aio_job.Job) -> None:
        self.worker = worker
        self._core = core
        core._shown, core._model_class, core._plan_class = self, SyftModel, _itself

    def __repr__(self) -> str:
        return repr(self._core)

    @property
    def model_name(self) -> str:
        """Of the training."""
        return self._core.model_name

    @property
    def model_version(self) -> str | None:
        """Of the training."""
        return self._core.model_version

    @property
    def model(self) -> SyftModel | None:
        """Of the cycle that accepted this job last; None before."""
        model: SyftModel | None = self._core.model
        return model

    @property
    def plans(self) -> dict[str, Plan]:
        """Of that cycle, by name."""
        return self._core.plans

    @property
    def protocols(self) -> dict[str, Any]:
        """Always empty."""
        return self._core.protocols

    @property
    def client_config(self) -> dict[str, Any]:
        """Of that cycle: what the one who hosts the training asks for."""
        return self._core.client_config

    @property
    def worker_id(self) -> str:
        """This worker's identity, which is its right to ask for work: not in any repr."""
        return self._core.worker_id

    modelName, modelVersion, clientConfig = model_name, model_version, client_config

    def on(self, event: aio_job.Event, handler: aio_job.Handler | None = None) -> Any:
        """See `gridkit.aio.Job.on`."""
        return self._core.on(event) if handler is None else self._core.on(event, handler)

    def start(self) -> None:
        """See `gridkit.aio.Job.start`."""
        event, payload = BRIDGE.sync(self._core._turn())
        loop = new_wait_loop()  # one that lets handlers wait for the network
        handling = loop.create_task(self._core._dispatch(event, payload))
        try:
            loop.run_until_complete(handling)
        finally:
            if not handling.done():  # interrupted while a coroutine function waits
                handling.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    loop.run_until_complete(handling)
            elif not handling.cancelled():
                handling.exception()  # an interrupt's: it is on its way to the caller
            loop.close()

    def stop(self) -> None:
        """End the training under way after its step, from any thread: `train` returns what it has so far."""
        self._core.stop()

    report = sync(aio_job.Job.report)
    train = sync(aio_job.Job.train)


def _itself(plan: Plan) -> Plan:
    return plan


class Syft(cells.ShortDir):
    """A client of the model-centric protocol: the syft.js API. A context manager.

    Arguments and methods are those of `gridkit.aio.Syft`. In a notebook: running the cell again closes the client that
    it made before.

    Raises:
        UsageError: `url` isn't a node's address.

    Example:
        >>> client = gk.Syft("ws://127.0.0.1:5000", auth_token=token)               # doctest: +SKIP
        >>> job = client.new_job("digits", "1.0")                                   # doctest: +SKIP
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
    ) -> None:
        cells.renew()
        say: Callable[[str], object] = lambda line: BRIDGE.post(print, line)  # noqa: E731
        self._core = aio_syft.Syft(
            url, verbose, auth_token, peer_config, authToken=authToken, peerConfig=peerConfig, say=say
        )
        weakref.finalize(self, BRIDGE.leave, self._core._closing()).atexit = False
        cells.remember(self)

    def __repr__(self) -> str:
        return repr(self._core)

    def __enter__(self) -> Syft:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """As it was given."""
        return self._core.url

    @property
    def worker_id(self) -> str | None:
        """Of the job made last; None before the first."""
        return self._core.worker_id

    @property
    def requires_speed_test(self) -> bool:
        """Whether the training of that job wants to be told speeds."""
        return self._core.requires_speed_test

    def new_job(
        self,
        model_name: str,
        model_version: str | None = None,
        auth_token: str | None = None,
        *,
        worker_id: str | None = None,
        label: str | None = None,
    ) -> Job:
        """See `gridkit.aio.Syft.new_job`."""
        made = self._core.new_job(model_name, model_version, auth_token, worker_id=worker_id, label=label)
        return Job(self, BRIDGE.sync(made))

    def newJob(self, modelName: str, modelVersion: str | None = None, authToken: str | None = None) -> Job:
        """`new_job`, under the original's name."""
        return self.new_job(modelName, modelVersion, authToken)

    close = sync(aio_syft.Syft.close)
