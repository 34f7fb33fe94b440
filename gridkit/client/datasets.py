"""What a session does with a node's datasets, as calls over its `Link`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

from gridkit.client.link import Link
from gridkit.client.paths import path_of
from gridkit.client.transfer import Told, download, hand_over
from gridkit.errors import ErrorCode, NodeError
from gridkit.wire.safetensors import Packed, read_tensors
from gridkit.wire.tensors import Array

_BYTES = "application/octet-stream"
_PAGE = 1000


class DatasetClient:
    """The datasets of a node, as far as their policies show them to whoever asks."""

    def __init__(self, link: Link) -> None:
        self.link = link

    async def rows(self) -> list[dict[str, Any]]:
        """What is known of each, oldest first."""
        rows: list[dict[str, Any]] = []
        total = 1
        while len(rows) < total:
            more, total = await self.page(offset=len(rows), limit=_PAGE)
            if not more:
                break
            rows += more
        return rows

    async def page(self, **query: Any) -> tuple[list[dict[str, Any]], int]:
        """Some of the rows, and how many `filter` finds in all.

        Args:
            query: `offset`, `limit`, `sort` (a row's member), `descending`, `filter` (of id, owner, tags, description).
        """
        answer = await self.link.json("GET", "/datasets", params={key: str(value) for key, value in query.items()})
        return list(answer["datasets"]), int(answer["total"])

    async def details(self, dataset_id: str) -> dict[str, Any]:
        """One dataset's row.

        Raises:
            NotFoundError: there is none that may be seen.
        """
        return await self.link.json("GET", path_of("datasets", dataset_id))

    async def tags(self) -> list[str]:
        """All tags, in alphabetical order."""
        return [str(tag) for tag in (await self.link.request("GET", "/dataset-tags")).json()]

    async def search(self, query: str | Sequence[str]) -> list[dict[str, Any]]:
        """Rows of those that match every item: by id, tag, or part of the description."""
        wish = {"query": query if isinstance(query, str) else list(query)}
        return list((await self.link.json("POST", "/search", json=wish))["datasets"])

    async def publish(
        self, dataset_id: str, packed: Packed, mock: Packed | None, wish: dict[str, Any], told: Told
    ) -> None:
        """Send a dataset's bytes, and have them published.

        Args:
            packed, mock: safetensors with the keys "0", "1", ….
            wish: `kind`, `columns`, `tags`, `description`, `policy`.
            told: of the progress.

        Raises:
            ConflictError: the id exists.
        """

        async def use(ids: list[str]) -> None:
            names = dict(zip(("upload_id", "mock_upload_id"), ids, strict=False))
            await self.link.json("PUT", path_of("datasets", dataset_id), json={**wish, **names})

        await hand_over(self.link, [packed] if mock is None else [packed, mock], use, told)

    async def fetch(self, dataset_id: str, to: BinaryIO, told: Told, *, mock: bool = False) -> None:
        """The bytes of a dataset, or of its mock sample, into a file, verified by their digest.

        Raises:
            NotFoundError: there is none that may be seen, or it has no sample.
            AccessError: its policy doesn't let you fetch it.
        """
        await download(self.link, path_of("dataset-mock" if mock else "dataset-data", dataset_id), to, told)

    async def run(self, dataset_id: str, plan: bytes) -> list[Array]:
        """What a plan computes on a dataset, on the node.

        Raises:
            NotFoundError: there is none that may be seen.
            AccessError: its policy doesn't let you run this plan, or doesn't let out what it gives.
            NodeError: the plan doesn't fit the data, or the computation failed.
        """
        headers = {"content-type": _BYTES}
        response = await self.link.request("POST", path_of("run-plan", dataset_id), content=plan, headers=headers)
        if response.headers.get("content-type") != _BYTES:
            raise NodeError(f"{self.link.url} answered a plan with something else", code=ErrorCode.MALFORMED)
        return read_tensors(response.content)

    async def delete(self, dataset_id: str) -> None:
        """Delete a dataset and its mock sample.

        Raises:
            NotFoundError: there is none that may be seen.
            AccessError: it is somebody else's.
        """
        await self.link.request("DELETE", path_of("datasets", dataset_id))
