"""The async verbs of push participants."""

from __future__ import annotations

import asyncio

import pytest

from gridkit import aio
from gridkit.errors import ConflictError, NodeUnreachable, NotFoundError

ENDPOINT = "http://127.0.0.1:8101/"


def test_participants_in_a_loop_of_ones_own() -> None:
    async def work() -> None:
        async with await aio.launch(workers=0, allow_targets=["127.0.0.1"]) as grid:
            made = await asyncio.gather(*(grid.push_participant(f"h{n}", ENDPOINT) for n in range(4)))
            assert len({one.secret for one in made}) == len({one.id for one in made}) == 4
            assert sorted(await grid.participants()) == ["h0", "h1", "h2", "h3"]
            tries = await asyncio.gather(
                *(grid.push_participant("same", ENDPOINT) for _ in range(3)), return_exceptions=True
            )
            assert sum(isinstance(one, ConflictError) for one in tries) == 2
            renewed = await grid.push_participant("h0", ENDPOINT, renew=True)
            assert renewed.id == made[0].id and renewed.secret != made[0].secret
            await grid.remove_participant("h0")
            with pytest.raises(NotFoundError):
                await grid.remove_participant("h0")
            assert "h0" not in await grid.participants()
        with pytest.raises(NodeUnreachable, match="closed"):
            await grid.participants()

    asyncio.run(work())
