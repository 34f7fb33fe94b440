"""Datasets on a node: publish, list, search, fetch, compute on, delete; each as far as its policy lets.

Who asks is who the node has authenticated, never a name in the request. To whoever may not see a dataset it is as if
it weren't there: lists leave it out, and asked for by its id it isn't found; only that its id is taken can be noticed.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

import sqlalchemy as sa

from gridkit.errors import AccessError, ConflictError, ErrorCode, NodeError, NotFoundError
from gridkit.node import dataset_checks
from gridkit.node.audit import about
from gridkit.node.messages_datasets import PublishDataset
from gridkit.node.messages_grid import Page
from gridkit.node.quota import Quota
from gridkit.node.rights import Access, Principal, Role
from gridkit.node.runner import Runner
from gridkit.node.store import garbage
from gridkit.node.store.blobs import Blobs, Draft
from gridkit.node.store.database import Database
from gridkit.node.store.tables import dataset as datasets
from gridkit.node.store.tables import dataset_part as parts
from gridkit.node.store.tables import dataset_reader as readers
from gridkit.node.store.tables import dataset_tag as tags
from gridkit.plans.function_form import results_of
from gridkit.policy import ANY_PLAN, Policy
from gridkit.wire.tensors import TensorSpec

_SORTS: dict[str, sa.Column[Any]] = {
    name: datasets.c[name] for name in ("id", "owner", "description", "kind", "rows", "size", "created_at")
}
FOUND = 1000
"""rows that a search gives at most"""
_MEMBERS = (Role.OWNER, Role.SCIENTIST)


class Datasets:
    """The datasets of one node.

    Args:
        clock: seconds since 1970.
    """

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        access: Access,
        runner: Runner,
        quota: Quota,
        clock: Callable[[], float],
    ) -> None:
        self._db = database
        self._blobs = blobs
        self._access = access
        self._runner = runner
        self._quota = quota
        self._clock = clock

    # -- publishing

    def draft(self) -> Draft:
        """Where a route puts the bytes of a dataset as they come."""
        return self._blobs.draft()

    async def publish(
        self, principal: Principal, wish: PublishDataset, data: Draft, mock: Draft | None
    ) -> dict[str, Any]:
        """Take a dataset in. The drafts hold safetensors with the keys "0", "1", …; the caller discards them.

        Returns:
            Its row, as `details` gives it.

        Raises:
            ConflictError: `ALREADY_EXISTS`, the id is taken.
            LimitError: `TOO_MANY`, see `Quota`.
            WireError: what is wrong with the bytes, or the mock sample isn't of the data's kind.
        """
        about(wish.id)
        self._access.allow(principal, "publish-dataset")
        specs = await asyncio.to_thread(dataset_checks.check_dataset, data, mock, wish.kind, wish.columns)
        policy = dataset_checks.read_policy(wish.policy)
        audience = policy.audience
        values = {
            "id": wish.id,
            "owner": principal.name,
            "description": wish.description,
            "policy": policy.to_json(),
            "audience": audience if isinstance(audience, str) else "names",
            "kind": wish.kind,
            "tensors": [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in specs],
            "rows": specs[0].shape[0] if specs[0].shape else 1,
            "size": data.size,
            "created_at": self._clock(),
            "upload": wish.upload_id,
        }
        drafts = {"data": data} if mock is None else {"data": data, "mock": mock}

        def insert(c: sa.Connection) -> dict[str, Any]:
            self._access.allow(principal, "publish-dataset")  # it may have ended while the bytes were looked at
            if c.execute(sa.select(datasets.c.id).where(datasets.c.id == wish.id)).first() is not None:
                raise ConflictError(
                    f"a dataset is called '{wish.id}' already",
                    "publish it under another id, or delete that one first",
                    code=ErrorCode.ALREADY_EXISTS,
                    status=409,
                )
            self._quota.check(c, principal, *(draft.size for draft in drafts.values()))
            c.execute(datasets.insert().values(**values))
            several: list[tuple[sa.Table, list[dict[str, Any]]]] = [
                (parts, [{"part": part, "digest": d.digest, "size": d.size} for part, d in drafts.items()]),
                (tags, [{"tag": tag} for tag in dict.fromkeys(wish.tags)]),
                (readers, [{"name": name} for name in audience] if not isinstance(audience, str) else []),
            ]
            for table, rows in several:
                if rows:
                    c.execute(table.insert(), [{"dataset": wish.id, **row} for row in rows])
            return self._shown(c, principal, [c.execute(sa.select(datasets).where(datasets.c.id == wish.id)).one()])[0]

        try:
            with self._blobs.pinned(*(draft.digest for draft in drafts.values())):
                for draft in drafts.values():
                    await asyncio.to_thread(self._blobs.keep, draft)
                return await self._db.write(insert)
        except NodeError:
            await garbage.discard(self._db, self._blobs, [draft.digest for draft in drafts.values()])
            raise

    async def published(self, principal: Principal, wish: PublishDataset) -> dict[str, Any] | None:
        """The row of what this very upload became, if it did: the answer was lost, and the request comes again."""
        wanted = sa.select(datasets).where(
            datasets.c.id == wish.id, datasets.c.upload == wish.upload_id, self._may_see(principal)
        )
        return next(iter(await self._db.read(lambda c: self._shown(c, principal, c.execute(wanted).all()))), None)

    async def delete(self, principal: Principal, dataset_id: str) -> None:
        """Delete a dataset and its mock sample.

        Raises:
            NotFoundError: there is none of this id that may be seen.
            AccessError: it is somebody else's.
        """

        about(dataset_id)

        def remove(c: sa.Connection) -> list[str]:
            self._access.allow(principal, "delete-dataset")
            row = self._visible(c, principal, dataset_id)
            self._access.allow(principal, "delete-dataset", owner=row.owner)
            digests = list(c.execute(sa.select(parts.c.digest).where(parts.c.dataset == dataset_id)).scalars())
            for table in (parts, tags, readers):
                c.execute(table.delete().where(table.c.dataset == dataset_id))
            c.execute(datasets.delete().where(datasets.c.id == dataset_id))
            return digests

        await garbage.discard(self._db, self._blobs, await self._db.write(remove))

    # -- looking

    async def page(self, principal: Principal, page: Page) -> tuple[list[dict[str, Any]], int]:
        """Rows of what the principal may see, and how many pass the filter in all. See `details` for a row.

        Raises:
            NodeError: `BAD_REQUEST`, there is no such column to sort by.
        """
        self._access.allow(principal, "list-datasets")
        if page.sort not in _SORTS:
            raise NodeError(
                f"datasets can't be sorted by '{page.sort}'",
                f"sort by one of {', '.join(_SORTS)}",
                code=ErrorCode.BAD_REQUEST,
                status=400,
            )
        wanted = sa.select(datasets).where(self._may_see(principal))
        if page.filter:
            texts = (datasets.c.id, datasets.c.owner, datasets.c.description)
            tagged = sa.select(tags.c.dataset).where(tags.c.tag.icontains(page.filter, autoescape=True))
            found = (text.icontains(page.filter, autoescape=True) for text in texts)
            wanted = wanted.where(sa.or_(*found, datasets.c.id.in_(tagged)))
        count = sa.select(sa.func.count()).select_from(wanted.subquery())
        column = _SORTS[page.sort]
        wanted = wanted.order_by(column.desc() if page.descending else column.asc(), datasets.c.id)
        wanted = wanted.offset(page.offset).limit(page.limit)

        def read(c: sa.Connection) -> tuple[list[dict[str, Any]], int]:
            return self._shown(c, principal, c.execute(wanted).all()), c.execute(count).scalar_one()

        return await self._db.read(read)

    async def details(self, principal: Principal, dataset_id: str) -> dict[str, Any]:
        """One dataset's row.

        ``id, owner, tags, description``; ``kind`` ("tensor", "tensors" or "frame"), ``tensors`` ([{name, dtype,
        shape}]), ``columns`` (of a frame) or ``shape`` and ``dtype`` (of a tensor), ``rows, size`` (bytes),
        ``created_at, mock`` (is there a sample); ``may_fetch, may_run`` and ``plans``: what the principal may do, the
        latter as digests or "any"; and to its owners ``policy``.
        """
        self._access.allow(principal, "list-datasets")
        return await self._db.read(lambda c: self._shown(c, principal, [self._visible(c, principal, dataset_id)])[0])

    async def tags(self, principal: Principal) -> list[str]:
        """The tags of all datasets that the principal may see."""
        self._access.allow(principal, "list-datasets")
        wanted = sa.select(tags.c.tag).distinct().join(datasets, datasets.c.id == tags.c.dataset)
        wanted = wanted.where(self._may_see(principal)).order_by(tags.c.tag)
        return list(await self._db.read(lambda c: c.execute(wanted).scalars().all()))

    async def search(self, principal: Principal, items: Sequence[str]) -> list[dict[str, Any]]:
        """Rows of the datasets that match every item, as the original matches: the item is the id, one of the tags,
        or a part of the description, upper and lower case being different. At most `FOUND`, oldest first."""
        self._access.allow(principal, "list-datasets")
        wanted = sa.select(datasets).where(self._may_see(principal)).order_by(datasets.c.created_at, datasets.c.id)
        wanted = wanted.limit(FOUND)
        for item in items:
            tagged = sa.select(tags.c.dataset).where(tags.c.tag == item)
            # not LIKE: that has wildcards, and SQLite's takes upper and lower case for the same
            told = sa.func.replace(datasets.c.description, item, "") != datasets.c.description
            wanted = wanted.where(sa.or_(datasets.c.id == item, datasets.c.id.in_(tagged), told))
        return await self._db.read(lambda c: self._shown(c, principal, c.execute(wanted).all()))

    # -- using

    async def open(self, principal: Principal, dataset_id: str, *, mock: bool = False) -> tuple[BinaryIO, str]:
        """The data (or the mock sample, for all who see the dataset) as safetensors, and the bytes' SHA-256.

        The caller closes it.

        Raises:
            AccessError: `NOT_ALLOWED`, the policy doesn't let this principal have the data.
            NotFoundError: no such dataset, or none with a sample.
        """
        about(dataset_id)
        self._access.allow(principal, "fetch-dataset")

        def look(c: sa.Connection) -> str:
            row = self._visible(c, principal, dataset_id)
            found = dict(_parts(c, [dataset_id])[dataset_id])
            if mock:
                if "mock" not in found:
                    raise _not_found(
                        f"dataset '{dataset_id}' has no mock sample", "ask its owner for one: publish(…, mock=…)"
                    )
                return found["mock"]
            if not self._may_fetch(principal, row):
                told = "run_plan computes on it, as far as the policy lets"
                hint = f"mock=True fetches its sample; {told}" if "mock" in found else told
                raise _refused(principal, f"the policy of dataset '{dataset_id}' doesn't let you fetch it", hint)
            return found["data"]

        digest = await self._db.read(look)
        return await asyncio.to_thread(self._open, dataset_id, digest), digest

    async def run(self, principal: Principal, dataset_id: str, plan: bytes) -> bytes:
        """What a plan computes on a dataset, in the runner, as far as the policy lets it out.

        Args:
            plan: GKP1 bytes; the dataset's tensors are its arguments, in order.

        Returns:
            Safetensors with the keys "0", "1", …: the results that get out, in order.

        Raises:
            AccessError: `NOT_ALLOWED`: not this plan, or more comes of it than may get out. Nothing was run.
            PlanError: `BAD_INPUT`: the plan takes something else than the dataset has.
            NodeError: what `Runner.run_plan` raises.
        """
        self._access.allow(principal, "run-plan")
        plan_id = (await asyncio.to_thread(hashlib.sha256, plan)).hexdigest()
        about(f"{dataset_id}, plan {plan_id[:16]}")

        def look(c: sa.Connection) -> tuple[Any, str]:
            row = self._visible(c, principal, dataset_id)
            if not self._may_fetch(principal, row) and not _policy(row).may_run(plan_id, _name(principal)):
                raise _refused(
                    principal,
                    f"the policy of dataset '{dataset_id}' doesn't let you run this plan (SHA-256 {plan_id[:16]}…)",
                    "grid.datasets[id]['plans'] lists those that you may run; its owner can allow others",
                )
            return row, _parts(c, [dataset_id])[dataset_id]["data"]

        row, digest = await self._db.read(look)
        results = await asyncio.to_thread(results_of, plan, _specs(row))
        places = list(range(len(results)))
        if not self._may_fetch(principal, row):
            policy = _policy(row)
            places = [place for place in places if policy.results is None or place in policy.results]
            values = sum(results[place].size for place in places)
            if not places or (policy.max_values is not None and values > policy.max_values):
                raise _refused(
                    principal,
                    f"the plan would give {values:,} values of {len(places)} results away; the policy of dataset "
                    f"'{dataset_id}' lets out {policy.bounds}",
                    "let the plan give less, such as a mean instead of every sample",
                )
        with await asyncio.to_thread(self._open, dataset_id, digest) as file:
            answer = await self._runner.run_plan(plan, file)
        return await asyncio.to_thread(dataset_checks.chosen, answer, results, places)

    # -- inside

    def _may_see(self, principal: Principal) -> sa.ColumnElement[bool]:
        """The condition in SQL; what `_visible` finds and lists hold is one and the same."""
        if principal.role is Role.OWNER:
            return sa.true()
        audience = datasets.c.audience
        may = [audience == "anyone"]
        name = _name(principal)
        if name is not None:
            named = sa.select(readers.c.dataset).where(readers.c.name == name)
            may += [audience == "everyone", sa.and_(audience == "names", datasets.c.id.in_(named))]
        if self._owns(principal, principal.name):
            may.append(datasets.c.owner == principal.name)
        return sa.or_(*may)

    def _visible(self, c: sa.Connection, principal: Principal, dataset_id: str) -> Any:
        row = c.execute(sa.select(datasets).where(datasets.c.id == dataset_id, self._may_see(principal))).first()
        if row is None:
            raise _not_found(f"there is no dataset '{dataset_id}' that you may see")
        return row

    def _owns(self, principal: Principal, owner: str) -> bool:
        """Whether a dataset of this owner is the principal's: who could delete it with a token of all scopes."""
        return self._passes(replace(principal, scopes=None), "delete-dataset", owner)

    def _passes(self, principal: Principal, operation: str, owner: str | None = None) -> bool:
        try:
            self._access.allow(principal, operation, owner=owner)
        except AccessError:
            return False
        return True

    def _may_fetch(self, principal: Principal, row: Any) -> bool:
        return self._owns(principal, row.owner) or _policy(row).may_fetch(_name(principal))

    def _shown(self, c: sa.Connection, principal: Principal, rows: Sequence[Any]) -> list[dict[str, Any]]:
        ids = [row.id for row in rows]
        tagged: dict[str, list[str]] = {id: [] for id in ids}
        for tag in c.execute(sa.select(tags).where(tags.c.dataset.in_(ids)).order_by(tags.c.tag)):
            tagged[tag.dataset].append(tag.tag)
        held = _parts(c, ids)
        return [self._row(principal, row, tagged[row.id], "mock" in held[row.id]) for row in rows]

    def _row(self, principal: Principal, row: Any, tagged: list[str], mock: bool) -> dict[str, Any]:
        policy, name = _policy(row), _name(principal)
        may_fetch = self._may_fetch(principal, row)
        plans = [ANY_PLAN] if may_fetch else policy.plans_for(name)
        if not self._passes(principal, "run-plan"):
            plans = []
        first = row.tensors[0]
        form = (
            {"columns": [tensor["name"] for tensor in row.tensors]}
            if row.kind == "frame"
            else {"shape": first["shape"], "dtype": first["dtype"]}
        )
        shown = {
            "id": row.id,
            "owner": row.owner,
            "tags": tagged,
            "description": row.description,
            "kind": row.kind,
            "tensors": row.tensors,
            **form,
            "rows": row.rows,
            "size": row.size,
            "created_at": row.created_at,
            "mock": mock,
            "may_fetch": may_fetch,
            "may_run": bool(plans),
            "plans": plans,
        }
        return {**shown, "policy": row.policy} if self._owns(principal, row.owner) else shown

    def _open(self, dataset_id: str, digest: str) -> BinaryIO:
        try:
            return self._blobs.open(digest)
        except FileNotFoundError:  # deleted since the row was read
            raise _not_found(f"there is no dataset '{dataset_id}' that you may see") from None


def _name(principal: Principal) -> str | None:
    """The account that policies know the principal by; None for workers and for nobody in particular."""
    return principal.name if principal.role in _MEMBERS else None


def _policy(row: Any) -> Policy:
    return Policy.from_json(row.policy)


def _specs(row: Any) -> list[TensorSpec]:
    return [TensorSpec(tensor["name"], tensor["dtype"], tuple(tensor["shape"])) for tensor in row.tensors]


def _parts(c: sa.Connection, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Of each dataset the digests of its data and, if it has one, its mock sample."""
    found: dict[str, dict[str, str]] = {id: {} for id in ids}
    for part in c.execute(sa.select(parts).where(parts.c.dataset.in_(ids))):
        found[part.dataset][part.part] = part.digest
    return found


def _not_found(message: str, hint: str = "grid.datasets lists those that there are") -> NotFoundError:
    return NotFoundError(message, hint, code=ErrorCode.NOT_FOUND, status=404)


def _refused(principal: Principal, message: str, hint: str) -> AccessError:
    if principal.role is Role.ANONYMOUS:
        return AccessError(message, "pass the token of an account", code=ErrorCode.UNAUTHENTICATED, status=401)
    return AccessError(message, hint, code=ErrorCode.NOT_ALLOWED, status=403)
