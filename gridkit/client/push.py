"""A push participant's calls of a node: fetch the model, send an update, send metrics.

Source: the fl-demonstrator's REST surface, of which its client calls these three.
"""

from __future__ import annotations

import asyncio
import base64
import random
import tempfile
from collections.abc import Mapping
from typing import BinaryIO, cast
from uuid import UUID

from gridkit.client.link import Link
from gridkit.errors import ErrorCode, LimitError, NodeError, NodeUnreachable, NotFoundError, UsageError

MODEL_LIMIT = 8 << 30
"""bytes of a model; it is written to a temporary file as it comes"""
KEPT_IN_MEMORY = 64 << 20
"""bytes of a model for which no file is made"""


def basic(user: str, password: str) -> str:
    """The `Authorization` of a name and a password."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class PushClient:
    """One participant at one node.

    Args:
        link: to the node; the address is the one under which it has ``/api/models/``: ``…/push`` at ours.
        authorization: the header of that name; None sends the link's own.
        client_id: sent as `owner` with updates; nodes go by the credentials.
    """

    def __init__(self, link: Link, authorization: str | None = None, client_id: UUID | None = None) -> None:
        self.link = link
        self._headers = {} if authorization is None else {"authorization": authorization}
        self._owner = str(client_id or UUID(int=0))

    async def model(self, model_id: UUID) -> BinaryIO:
        """The model as it is now, in a file that vanishes when it is closed.

        Raises:
            NodeError: the node refused.
            NodeUnreachable: no answer, or not a whole one, within the link's patience.
            LimitError: more than `MODEL_LIMIT` bytes.
        """
        clock = asyncio.get_running_loop().time
        since, pause = clock(), 0.1
        while True:
            file = cast(BinaryIO, tempfile.SpooledTemporaryFile(KEPT_IN_MEMORY))  # noqa: SIM115  the caller's
            try:
                await self._fetch(model_id, file)
                file.seek(0)
                return file
            except NotFoundError as error:
                file.close()
                hint = (
                    error.hint
                    or f"{self.link.url} must be where the node has /api/models/, as in http://host:5000/push"
                )
                raise NotFoundError(error.message, hint, code=error.code, status=error.status) from None
            except (NodeError, NodeUnreachable) as error:
                file.close()
                passing = isinstance(error, NodeUnreachable) or error.status in (502, 503, 504)
                if not passing or (self.link.patience is not None and clock() - since >= self.link.patience):
                    raise
            except BaseException:
                file.close()
                raise
            await asyncio.sleep(random.uniform(0.5, 1.0) * pause)
            pause = min(5.0, 2 * pause)

    async def _fetch(self, model_id: UUID, file: BinaryIO) -> None:
        headers = {**self._headers, "accept-encoding": "identity"}
        async with self.link.stream("GET", f"/api/models/{model_id}/", headers=headers) as response:
            size = 0
            async for piece in response.aiter_raw():
                size += len(piece)
                if size > MODEL_LIMIT:
                    message = f"the model {model_id} has more than {MODEL_LIMIT} bytes"
                    raise LimitError(message, code=ErrorCode.TOO_LARGE)
                file.write(piece)

    async def send_update(
        self, model_id: UUID, round: int, model: bytes, samples: int, metrics: Mapping[str, float]
    ) -> None:
        """Send this participant's model of a round; an answer that is lost is asked for again.

        Args:
            round: as in the notification.
            model: a file of the format in which the model came.
            samples: what its weight is in the mean.
            metrics: of the training.

        Raises:
            NodeError: the node refused: the round is over, the participant isn't of the training, it isn't a model.
            NodeUnreachable: nobody answered.
        """
        form = {"owner": self._owner, "round": str(round), "sample_size": str(samples), **_repeated(metrics)}
        files = {"model_file": ("model_file", model)}
        path = f"/api/models/{model_id}/"
        await self.link.request("POST", path, headers=self._headers, data=form, files=files)

    async def send_metrics(self, model_id: UUID, metrics: Mapping[str, float]) -> None:
        """Send what this participant's test of the model gave. Errors are those of `send_update`."""
        path = f"/api/models/{model_id}/metrics/"
        await self.link.request("POST", path, headers=self._headers, data=_repeated(metrics))


def checked_metrics(metrics: object) -> dict[str, float]:
    """Metrics by name, as floats, which may be NaN.

    Raises:
        UsageError: it isn't that.
    """
    if not isinstance(metrics, Mapping):
        raise UsageError(f"metrics are a {type(metrics).__name__}", 'give a dict such as {"accuracy": 0.9}')
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if not isinstance(name, str) or not name:
            raise UsageError(f"a metric is called {name!r}", "call it by a text")
        try:
            found[name] = float(value)
        except (TypeError, ValueError):
            raise UsageError(f"metric {name!r} is {value!r}, not a number", "convert it with float(…)") from None
    return found


def _repeated(metrics: Mapping[str, float]) -> dict[str, list[str]]:
    return {"metric_names": list(metrics), "metric_values": [repr(value) for value in metrics.values()]}
