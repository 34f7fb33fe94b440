"""How much one account may keep on a node: models and datasets, in number and in bytes."""

from __future__ import annotations

import sqlalchemy as sa

from gridkit.errors import ErrorCode, LimitError
from gridkit.node.rights import Principal
from gridkit.node.settings import Limits
from gridkit.node.store.tables import dataset, dataset_part, model, model_version, push_model


class Quota:
    """The bounds that every account has (`Limits.kept`, `Limits.kept_bytes`); all anonymous clients are one.

    What is there belongs to the owner of the model or dataset, also a version that the node's owner added to it.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def check(self, c: sa.Connection, principal: Principal, *sizes: int) -> None:
        """Before things of these sizes are kept too, in the same transaction.

        Raises:
            LimitError: `TOO_MANY`.
        """
        number, kept = 0, 0
        for held, owner, rows in (
            (model_version.c.size, model.c.owner, model_version.join(model)),
            (dataset_part.c.size, dataset.c.owner, dataset_part.join(dataset)),
            (push_model.c.size, push_model.c.owner, push_model),
        ):
            wanted = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(held), 0)).select_from(rows)
            count, together = c.execute(wanted.where(owner == principal.name)).one()
            number, kept = number + count, kept + together
        if number + len(sizes) > self._limits.kept or kept + sum(sizes) > self._limits.kept_bytes:
            raise LimitError(
                f"{principal.name or 'anonymous clients'} has {number:,} models and datasets of {kept:,} bytes here; "
                f"an account may have {self._limits.kept:,} of {self._limits.kept_bytes:,} bytes",
                "delete some; the node's owner can start it with --limit kept=… or --limit kept_bytes=…",
                code=ErrorCode.TOO_MANY,
                status=429,
            )
