"""What a session does with a node's models, as calls over its `Link`."""

from __future__ import annotations

from typing import Any, BinaryIO

from gridkit.client.link import Link
from gridkit.client.paths import path_of
from gridkit.client.transfer import Told, download, hand_over
from gridkit.errors import ErrorCode, NodeError
from gridkit.wire.safetensors import Packed, pack_tensors, read_tensors
from gridkit.wire.tensors import Array

_BYTES = {"accept": "application/octet-stream", "content-type": "application/octet-stream"}


class ModelClient:
    """The models of a node."""

    def __init__(self, link: Link) -> None:
        self.link = link

    async def rows(self) -> list[dict[str, Any]]:
        """What is known of each model's newest version, oldest first."""
        return list((await self.link.json("GET", "/detailed-models-list/"))["models"])

    async def page(self, **query: Any) -> tuple[list[dict[str, Any]], int]:
        """Some of the rows, and how many `filter` finds in all.

        Args:
            query: `offset`, `limit`, `sort` (a row's member), `descending`, `filter` (of id or owner).
        """
        answer = await self.link.json(
            "GET", "/detailed-models-list/", params={key: str(value) for key, value in query.items()}
        )
        return list(answer["models"]), int(answer["total"])

    async def details(self, model_id: str, version: int | None = None) -> dict[str, Any]:
        """One model's row.

        Raises:
            NotFoundError: there is none.
        """
        return await self.link.json("GET", path_of("models", model_id), params=_version(version))

    async def host(self, packed: Packed, wish: dict[str, Any], told: Told) -> None:
        """Send a model's bytes, and have them hosted.

        Args:
            packed: the bytes.
            wish: `model_id`, `allow_download`, `allow_remote_inference`, `new_version`, `origin`.
            told: how many bytes of how many are there.

        Raises:
            ConflictError: the id exists, and no new version was asked for.
        """

        async def use(ids: list[str]) -> None:
            await self.link.json("POST", "/serve-model/", json={**wish, "upload_id": ids[0]})

        await hand_over(self.link, [packed], use, told)

    async def infer(self, model_id: str, arguments: list[Array], version: int | None = None) -> list[Array]:
        """A model's results for these arguments, computed on the node.

        Raises:
            NotFoundError: there is no such model.
            AccessError: it isn't for inference on the node.
            NodeError: the arguments don't fit, or the computation failed.
        """
        response = await self.link.request(
            "POST",
            path_of("run-inference", model_id),
            params=_version(version),
            content=pack_tensors(arguments).tobytes(),
            headers=_BYTES,
        )
        if response.headers.get("content-type") != _BYTES["accept"]:
            raise NodeError(f"{self.link.url} answered an inference with something else", code=ErrorCode.MALFORMED)
        return read_tensors(response.content)

    async def download(self, model_id: str, version: int, to: BinaryIO, told: Told) -> None:
        """A model's bytes into a file, verified by their digest.

        Raises:
            NotFoundError: there is no such model.
            AccessError: it isn't for download.
        """
        await download(self.link, path_of("get_model", model_id), to, told, params=_version(version))

    async def delete(self, model_id: str) -> None:
        """Delete a model, all its versions.

        Raises:
            NotFoundError: there is none.
            AccessError: it is somebody else's.
        """
        await self.link.request("DELETE", path_of("models", model_id))


def _version(version: int | None) -> dict[str, int]:
    return {} if version is None else {"version": version}
