"""Datasets: published on the node under a policy, found, computed on there, fetched, deleted."""

from __future__ import annotations

import asyncio
import mmap
import tempfile
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from gridkit.aio.base import Base
from gridkit.aio.data import Data
from gridkit.client.datasets import DatasetClient
from gridkit.client.link import Link
from gridkit.errors import UsageError
from gridkit.listings import Datasets as Listed
from gridkit.node.launch import NodeProcess
from gridkit.plans.plan import Plan
from gridkit.policy import Policy
from gridkit.widgets.progress import Progress
from gridkit.wire.safetensors import TensorFile, pack_tensors
from gridkit.workers.pool import Pool

if TYPE_CHECKING:
    import pandas as pd
    import torch


class Datasets(Base):
    """What a session does with its node's datasets."""

    def __init__(self, link: Link, *, node: NodeProcess | None = None, pool: Pool | None = None) -> None:
        super().__init__(link, node=node, pool=pool)
        self._datasets = DatasetClient(link)

    async def datasets(self) -> Listed:
        """The datasets on the node that you may see, oldest first: a list of ids that shows what is known of each."""
        return Listed(await self._datasets.rows(), self.url)

    async def dataset_tags(self) -> list[str]:
        """The tags of all datasets that you may see."""
        return await self._datasets.tags()

    async def search(self, query: str | Sequence[str]) -> Listed:
        """The datasets that match.

        Args:
            query: an id, a tag, or a part of a description, upper and lower case being different; of several, all
                must match. The node gives 1000 of them at most.

        Raises:
            UsageError: the query is neither a text nor a list.

        Example:
            >>> await grid.search(["#xray", "#chest"])                              # doctest: +SKIP
        """
        if not isinstance(query, str | list | tuple):
            raise UsageError(f"query is {type(query).__name__}", 'give a text or a list of texts, such as ["#xray"]')
        return Listed(await self._datasets.search(query), self.url)

    async def publish(
        self,
        data: torch.Tensor | pd.DataFrame | tuple[Any, ...] | Any,
        *,
        id: str | None = None,
        tags: Sequence[str] = (),
        description: str = "",
        policy: Policy | None = None,
        mock: Any = None,
    ) -> str:
        """Put data on the node, where others may find it and compute on it as far as the policy lets them.

        Args:
            data: a tensor or an array, a tuple of them, or a DataFrame with numbers and bools. Plans get the tensors,
                or the columns, as their arguments, in order. The index of a DataFrame stays here.
            id: up to 200 characters; by default one is made.
            tags: words to find it by, by habit with a ``#``.
            description: what it is.
            policy: who may see it, fetch it, and run which plans on it; see `gridkit.Policy`. By default everyone with
                an account sees that it is there, and nobody but you gets at it.
            mock: invented data of the same form, with any number of rows, for all who may see the dataset: to write
                and try plans with.

        Returns:
            The id.

        Raises:
            UsageError: data that can't be sent, such as a column of texts; the message says what to do with it.
            ConflictError: the id exists already.

        Example:
            >>> await grid.publish(x, tags=["#xray"], policy=gk.Policy(run={mean: "everyone"}))   # doctest: +SKIP
        """
        if policy is not None and not isinstance(policy, Policy):
            raise UsageError(f"policy is {type(policy).__name__}", 'give a gk.Policy, such as gk.Policy(fetch=["ada"])')
        if isinstance(tags, str):
            raise UsageError(f"tags is one text, {tags!r:.80}", f"give a list: tags=[{tags!r:.80}]")
        given = await asyncio.to_thread(Data.of, data)
        sample = None if mock is None else await asyncio.to_thread(Data.of, mock)
        if sample is not None and (sample.kind, sample.columns) != (given.kind, given.columns):
            raise UsageError("the mock sample isn't of the data's form", "give the same columns, or as many tensors")
        dataset_id = id or uuid.uuid4().hex
        wish: dict[str, Any] = {
            "kind": given.kind,
            "tags": list(tags),
            "description": description,
            "policy": (policy or Policy()).to_json(),
            **({} if given.columns is None else {"columns": given.columns}),
        }
        packed = pack_tensors(given.arrays)
        packed_mock = None if sample is None else pack_tensors(sample.arrays)
        await self._datasets.publish(dataset_id, packed, packed_mock, wish, Progress(f"{dataset_id}, up"))
        return dataset_id

    async def run_plan(self, plan: Plan, dataset_id: str) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Compute a plan on a dataset, on the node; what its policy lets out comes back.

        Args:
            plan: of a function (`gridkit.plan`) of the dataset's tensors or columns, in order.
            dataset_id: see ``grid.datasets``.

        Returns:
            The result, or a tuple of them.

        Raises:
            NotFoundError: there is no such dataset that you may see.
            AccessError: its policy doesn't let you run this plan, or gives less away than the plan asks for.
            NodeError: the plan doesn't fit the data, or the computation failed.

        Example:
            >>> @gk.plan(args=[gk.spec("B", 64)])                                   # doctest: +SKIP
            ... def mean(x):
            ...     return x.mean(0)
            >>> await grid.run_plan(mean, "digits")                                 # doctest: +SKIP
        """
        import torch

        if not isinstance(plan, Plan):
            raise UsageError(f"{type(plan).__name__} is no plan", "make one of a function with gk.plan")
        found = await self._datasets.run(dataset_id, plan.to_bytes())
        results = [torch.from_numpy(array) for array in found]
        return results[0] if len(results) == 1 else tuple(results)

    async def fetch_dataset(
        self, dataset_id: str, *, mock: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, ...] | pd.DataFrame:
        """The data itself, if the policy lets you have it; with `mock` the sample, for all who see the dataset.

        Returns:
            What was published: a tensor, a tuple of them, or a DataFrame.

        Raises:
            NotFoundError: there is no such dataset that you may see, or it has no sample.
            AccessError: its policy doesn't let you fetch it.
        """
        row = await self._datasets.details(dataset_id)
        with tempfile.TemporaryFile() as file:
            await self._datasets.fetch(dataset_id, file, Progress(f"{dataset_id}, down"), mock=mock)
            return await asyncio.to_thread(_opened, file, row)

    async def delete_dataset(self, dataset_id: str) -> bool:
        """Delete a dataset of yours.

        Returns:
            True.

        Raises:
            NotFoundError: there is none of this id that you may see.
            AccessError: it is somebody else's.
        """
        await self._datasets.delete(dataset_id)
        return True


def _opened(file: BinaryIO, row: dict[str, Any]) -> Any:
    tensors = TensorFile(file)
    tensors.check_numbered()
    # Pages that somebody writes to become this process's own; nothing is read before it is used
    whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return Data(row["kind"], list(tensors.views(whole).values()), row.get("columns")).value()
