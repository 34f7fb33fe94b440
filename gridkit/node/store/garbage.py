"""Blobs that no row refers to go: one by one when their row does, and all of them at start."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from gridkit.node.store.blobs import Blobs
from gridkit.node.store.database import Database
from gridkit.node.store.tables import HOLDERS


def referenced(c: sa.Connection) -> set[str]:
    """The digests of all blobs that a row refers to."""
    return {digest for table in HOLDERS for digest in c.execute(sa.select(table.c.digest)).scalars()}


async def discard(database: Database, blobs: Blobs, digests: Sequence[str]) -> None:
    """Delete those of the blobs that nothing refers to. On the writer's thread: no reference can come meanwhile, but
    for pinned ones."""

    def collect(c: sa.Connection) -> None:
        wanted: set[str] = set()
        for table in HOLDERS:
            wanted.update(c.execute(sa.select(table.c.digest).where(table.c.digest.in_(digests))).scalars())
        blobs.collect(digest for digest in digests if digest not in wanted)

    if digests:
        await database.write(collect)
