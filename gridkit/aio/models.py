"""Models: served on the node, listed, run there, downloaded, deleted."""

from __future__ import annotations

import asyncio
import mmap
import tempfile
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from gridkit.aio.base import Base
from gridkit.aio.data import Data
from gridkit.client.link import Link
from gridkit.client.models import ModelClient
from gridkit.errors import UsageError, WireError
from gridkit.listings import Models as Listed
from gridkit.node.launch import NodeProcess
from gridkit.origin import Origin, note, origin_of
from gridkit.plans.plan import Plan
from gridkit.run import RunBase
from gridkit.widgets.progress import Progress
from gridkit.wire.foreign import HEAD
from gridkit.wire.model import ModelFile, model_kind
from gridkit.workers.pool import Pool

if TYPE_CHECKING:
    import torch
    from torch import nn


class Models(Base):
    """What a session does with its node's models."""

    def __init__(self, link: Link, *, node: NodeProcess | None = None, pool: Pool | None = None) -> None:
        super().__init__(link, node=node, pool=pool)
        self._models = ModelClient(link)

    async def models(self) -> Listed:
        """The models on the node, oldest first: a list of ids that shows what is known of each."""
        return Listed(await self._models.rows(), self.url)

    async def serve_model(
        self,
        model: nn.Module | Plan | RunBase,
        model_id: str | None = None,
        *,
        example: Any = None,
        allow_download: bool = False,
        allow_remote_inference: bool = False,
        new_version: bool = False,
    ) -> str:
        """Host a model. What travels is a plan, the list of its operations in eval mode, and its tensors: no code.

        Args:
            model: a module, also a TorchScript one; the plan of a function (`gridkit.plan`); a module that was
                downloaded; or a Run, for its newest model.
            model_id: up to 200 characters; a Plan or a Run has a name to take if it isn't given.
            example: what a module is traced by: a tensor as it takes it, or a tuple of them. The first dimension is
                the batch, which may have any size later. A Run or a downloaded model needs none.
            allow_download: others may have a copy.
            allow_remote_inference: others may run it on the node.
            new_version: add a version to a model that exists (your own). Else an id that exists is refused.

        Returns:
            The model's id.

        Raises:
            UsageError: the arguments don't fit together.
            PlanError: the model can't be a plan; the message names the operation and the line.
            ConflictError: the id exists already.
            AccessError: you may not host, or the model is somebody else's.

        Example:
            >>> await grid.serve_model(net, "digits", example=x, allow_remote_inference=True)   # doctest: +SKIP
        """
        from gridkit.plans.model import pack

        if isinstance(model, Plan | RunBase):
            model_id = model_id or model.name
        if isinstance(model, RunBase):
            example = _example(model) if example is None else example
            model = await model._model()
        if not model_id:
            raise UsageError("the model has no id", 'give one: grid.serve_model(model, "digits", example=x)')
        packed = await asyncio.to_thread(pack, model, example)
        origin = None if isinstance(model, Plan) else await asyncio.to_thread(origin_of, model)
        wish = {
            "model_id": model_id,
            "allow_download": allow_download,
            "allow_remote_inference": allow_remote_inference,
            "new_version": new_version,
            **({} if origin is None else {"origin": origin.to_json()}),
        }
        await self._models.host(packed, wish, Progress(f"{model_id}, up"))
        return model_id

    async def run_remote_inference(
        self, model_id: str, data: Any, version: int | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Run a model on the node.

        Args:
            model_id: of a model that allows remote inference.
            data: a tensor, an array or nested lists, with a row a sample; a tuple of them for a model that takes
                several. They have the dtypes of the model's example.
            version: None is the newest.

        Returns:
            The model's result, or a tuple of them: the bits that the model gives in eval mode, with one torch thread.

        Raises:
            NotFoundError: there is no such model.
            AccessError: it isn't for inference on the node.
            NodeError: the data doesn't fit the model, or it took too long or too much memory.

        Example:
            >>> await grid.run_remote_inference("digits", x)                        # doctest: +SKIP
        """
        found = await self._models.infer(model_id, Data.of(data).arrays, version)
        return cast(
            "torch.Tensor | tuple[torch.Tensor, ...]", Data("tensor" if len(found) == 1 else "tensors", found).value()
        )

    async def download_model(self, model_id: str, version: int | None = None) -> nn.Module:
        """A copy of a model: it predicts bit-equal, and can be trained further. See `gridkit.plans.model.PlanModule`.

        Its bytes are checked like those of a stranger; nothing of them is run but operations that plans know.

        Args:
            model_id: of a model that allows download.
            version: None is the newest.

        Raises:
            NotFoundError: there is no such model.
            AccessError: it isn't for download.
            WireError: it is in another program's encoding, or no model.
        """
        found = await downloaded(self._models, model_id, version)
        if isinstance(found, bytes):
            raise WireError(
                f"model '{model_id}' is in PySyft's own encoding, which is never decoded here",
                "gk.WebsocketGridClient.download_model gives its bytes as they are",
            )
        return found

    async def delete_model(self, model_id: str) -> bool:
        """Delete a model of yours, all its versions.

        Returns:
            True.

        Raises:
            NotFoundError: there is none of this id.
            AccessError: it is somebody else's.
        """
        await self._models.delete(model_id)
        return True


def _example(run: RunBase) -> torch.Tensor | None:
    """What a run's model takes, as its training plan says; None if this session doesn't know the plan."""
    import torch

    x = None if run._plan is None else run._plan.input("x")
    if x is None:
        return None
    return torch.zeros([2 if s == "B" else s for s in x.shape], dtype=getattr(torch, x.dtype))


async def downloaded(models: ModelClient, model_id: str, version: int | None = None) -> nn.Module | bytes:
    """A model of a node; its bytes, if they are in PySyft's own encoding.

    Raises:
        NotFoundError: there is none.
        AccessError: it isn't for download.
        WireError, PlanError: what came is no model.
    """
    row = await models.details(model_id, version)
    with tempfile.TemporaryFile() as file:
        await models.download(model_id, int(row["version"]), file, Progress(f"{model_id}, down"))
        found = await asyncio.to_thread(_opened, file)
    if row["origin"] and not isinstance(found, bytes):
        origin = Origin(str(row["origin"]["name"]), str(row["origin"]["version"]), int(row["origin"]["round"]))
        await asyncio.to_thread(note, found, origin)
    return found


def _opened(file: BinaryIO) -> nn.Module | bytes:
    from gridkit.plans.model import unpack

    file.seek(0)
    if model_kind(file.read(HEAD)) != "plan":
        file.seek(0)
        return file.read()
    # Pages that somebody writes to become this process's own; nothing is read before it is used
    whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return unpack(ModelFile(file), whole)
