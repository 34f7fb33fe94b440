"""Models on a node: host, list, hand out, run, delete.

An id names a line of versions, numbered from 1; each version has its own bytes and flags. The flags hold for everybody,
the owner too: what isn't allowed isn't done. A right is checked where the act is: of a delete in its transaction, of a
download or an inference on the row whose digest is then opened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, BinaryIO

import sqlalchemy as sa

from gridkit.errors import AccessError, ConflictError, ErrorCode, NodeError, NotFoundError
from gridkit.node import intake
from gridkit.node.audit import about
from gridkit.node.messages_grid import HostModel, Page
from gridkit.node.quota import Quota
from gridkit.node.rights import Access, Principal
from gridkit.node.runner import Runner
from gridkit.node.store import garbage
from gridkit.node.store.blobs import Blobs, Draft
from gridkit.node.store.database import Database
from gridkit.node.store.tables import model as models
from gridkit.node.store.tables import model_version as versions
from gridkit.node.usage import Usage

# The original's texts; its clients show or compare them.
NOT_FOUND = "Model not found."
EXISTS = "Model id already exists."
NO_DOWNLOAD = "You're not allowed to download this model."
NO_INFERENCE = "You're not allowed to run inference on this model."

_KNOWN = 1000
"""rows that are remembered for inference"""
_ABOUT = ("kind", "size", "digest", "inputs", "origin", "allow_download", "allow_remote_inference", "mpc")
_SHOWN = ("version", *_ABOUT, "created_at", "uses", "downloads", "last_used")
_SORTS: dict[str, sa.Column[Any]] = {
    "id": models.c.id,
    "owner": models.c.owner,
    "versions": models.c.versions,
    **{name: versions.c[name] for name in _SHOWN if name not in ("inputs", "origin", "digest")},
}
_NEWEST = sa.select(models, versions).join_from(
    models, versions, sa.and_(versions.c.model == models.c.id, versions.c.version == models.c.versions)
)
_ANY = sa.select(models, versions).join_from(models, versions, versions.c.model == models.c.id)


class Models:
    """The models of one node.

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
        self._usage = Usage(database, clock)
        self._known: dict[tuple[str, int | None], Any] = {}
        self._changes = 0

    def start(self) -> None:
        self._usage.start()

    async def close(self) -> None:
        await self._runner.close()
        await self._usage.close()

    # -- hosting

    def draft(self) -> Draft:
        """Where a route puts the bytes of a model as they come."""
        return self._blobs.draft()

    async def host(self, principal: Principal, wish: HostModel, draft: Draft) -> dict[str, Any]:
        """Take a model in. `draft` holds its bytes; the caller discards it.

        Returns:
            The row of the new version, as `details` gives it.

        Raises:
            ConflictError: `ALREADY_EXISTS`, the id is taken and a new version wasn't asked for.
            AccessError: a new version of somebody else's model.
            LimitError: `TOO_MANY`, see `Quota`.
            WireError, PlanError: what is wrong with the bytes; nothing of them was run.
        """
        about(wish.model_id)
        self._access.allow(principal, "host-model")
        kind, inputs = await asyncio.to_thread(intake.check_model_bytes, draft)
        values = {
            "digest": draft.digest,
            "size": draft.size,
            "kind": kind,
            "inputs": inputs,
            "origin": wish.origin.model_dump() if wish.origin else None,
            "allow_download": wish.allow_download,
            "allow_remote_inference": wish.allow_remote_inference,
            "mpc": wish.mpc,
            "parties": wish.parties.model_dump() if wish.parties and wish.mpc else None,
            "created_at": self._clock(),
            "uses": 0,
            "downloads": 0,
            "upload": wish.upload_id,
        }

        def insert(c: sa.Connection) -> dict[str, Any]:
            self._access.allow(principal, "host-model")  # it may have ended while the bytes were looked at
            mine = models.c.id == wish.model_id
            number = self._next_version(c, principal, wish)
            self._quota.check(c, principal, draft.size)
            if number == 1:
                c.execute(models.insert().values(id=wish.model_id, owner=principal.name, versions=1))
            else:
                c.execute(models.update().where(mine).values(versions=number))
            c.execute(versions.insert().values(model=wish.model_id, version=number, **values))
            return _shown(c.execute(_NEWEST.where(mine)).one())

        try:
            with self._blobs.pinned(draft.digest):
                await asyncio.to_thread(self._blobs.keep, draft)
                row = await self._db.write(insert)
        except NodeError:
            await garbage.discard(self._db, self._blobs, [draft.digest])
            raise
        self._forget()
        return row

    async def check_id(self, principal: Principal, wish: HostModel) -> None:
        """Before the bytes are looked at: raise what `host` would because of the id."""
        about(wish.model_id)
        self._access.allow(principal, "host-model")
        await self._db.read(lambda c: self._next_version(c, principal, wish))

    async def hosted(self, principal: Principal, wish: HostModel) -> dict[str, Any] | None:
        """The row of what this very upload became, if it did: the answer was lost, and the request comes again."""
        wanted = _ANY.where(models.c.id == wish.model_id, versions.c.upload == wish.upload_id)
        row = await self._db.read(lambda c: c.execute(wanted).first())
        if row is None:
            return None
        self._access.allow(principal, "replace-model", owner=row.owner)
        return _shown(row)

    def _next_version(self, c: sa.Connection, principal: Principal, wish: HostModel) -> int:
        found = c.execute(sa.select(models).where(models.c.id == wish.model_id)).first()
        if found is None:
            return 1
        if not wish.new_version:
            raise ConflictError(
                EXISTS,
                f"serve '{wish.model_id}' with new_version=True, under another id, or delete it first",
                code=ErrorCode.ALREADY_EXISTS,
                status=409,
            )
        self._access.allow(principal, "replace-model", owner=found.owner)
        return int(found.versions) + 1

    async def delete(self, principal: Principal, model_id: str) -> None:
        """Delete a model, all its versions.

        Raises:
            NotFoundError: there is none of this id.
            AccessError: it is somebody else's.
        """
        about(model_id)

        def remove(c: sa.Connection) -> list[str]:
            found = c.execute(sa.select(models.c.owner).where(models.c.id == model_id)).first()
            self._access.allow(principal, "delete-model", owner=found.owner if found else None)
            if found is None:
                raise _not_found(model_id)
            digests = list(c.execute(sa.select(versions.c.digest).where(versions.c.model == model_id)).scalars())
            c.execute(versions.delete().where(versions.c.model == model_id))
            c.execute(models.delete().where(models.c.id == model_id))
            return digests

        digests = await self._db.write(remove)
        self._forget()
        await garbage.discard(self._db, self._blobs, digests)

    # -- looking

    async def ids(self, principal: Principal) -> list[str]:
        """All ids; what was served last stands last."""
        self._access.allow(principal, "list-models")
        wanted = _NEWEST.with_only_columns(models.c.id, maintain_column_froms=True).order_by(versions.c.key)
        return list(await self._db.read(lambda c: c.execute(wanted).scalars().all()))

    async def page(self, principal: Principal, page: Page | None) -> tuple[list[dict[str, Any]], int]:
        """Rows of models (the newest version of each), and how many pass the filter in all. None is all of
        them; what was served last stands last.

        Raises:
            NodeError: `BAD_REQUEST`, there is no such column to sort by.
        """
        self._access.allow(principal, "list-models")
        wanted = _NEWEST
        if page is None:
            wanted = wanted.order_by(versions.c.created_at, models.c.id)
        else:
            if page.sort not in _SORTS:
                raise NodeError(
                    f"models can't be sorted by '{page.sort}'",
                    f"sort by one of {', '.join(_SORTS)}",
                    code=ErrorCode.BAD_REQUEST,
                    status=400,
                )
            if page.filter:
                texts = (models.c.id, models.c.owner)
                wanted = wanted.where(sa.or_(*(text.icontains(page.filter, autoescape=True) for text in texts)))
        count = sa.select(sa.func.count()).select_from(wanted.subquery())
        if page is not None:
            column = _SORTS[page.sort]
            first = sa.nulls_last(column.desc() if page.descending else column.asc())
            wanted = wanted.order_by(first, models.c.id).offset(page.offset).limit(page.limit)
        await self._usage.write()

        def read(c: sa.Connection) -> tuple[list[dict[str, Any]], int]:
            return [_shown(row) for row in c.execute(wanted)], c.execute(count).scalar_one()

        return await self._db.read(read)

    async def details(self, principal: Principal, model_id: str, version: int | None = None) -> dict[str, Any]:
        """One model's row: ``id, owner, versions`` (how many), and of the asked version, by default the newest,
        ``version, kind`` ("plan" or "opaque"), ``size`` (bytes), ``digest`` (SHA-256), ``inputs`` ([{name, dtype,
        shape}]), ``origin, allow_download, allow_remote_inference, mpc, created_at, uses, downloads, last_used``."""
        self._access.allow(principal, "list-models")
        await self._usage.write()
        return _shown(await self._row(model_id, version))

    async def parties(self, principal: Principal, model_id: str) -> dict[str, Any]:
        """The nodes that share an encrypted model: ``workers``, an [id, address] each, and ``crypto_provider``.

        Raises:
            NotFoundError: there is no model of this id, or it isn't an encrypted one.
        """
        self._access.allow(principal, "list-models")
        found = (await self._row(model_id, None)).parties
        if found is None:
            raise _not_found(model_id)
        return dict(found)

    # -- using

    async def check_copy(self, principal: Principal, model_id: str) -> None:
        """Pass if the newest version may be downloaded, or raise what `open` would."""
        self._access.allow(principal, "download-model")
        _may_download(await self._row(model_id, None))

    async def open(
        self, principal: Principal, model_id: str, version: int | None = None, *, counted: bool = True
    ) -> tuple[BinaryIO, dict[str, Any]]:
        """A model's bytes, to be closed by the caller, and its row.

        Args:
            counted: as a download; False for all parts of one but the first.

        Raises:
            AccessError: `NOT_ALLOWED`, it isn't for download.
        """
        self._access.allow(principal, "download-model")
        row = await self._row(model_id, version)
        _may_download(row)
        file = await asyncio.to_thread(self._open, row)
        if counted:
            self._usage.downloaded(row.key)
        return file, _shown(row)

    async def infer(self, principal: Principal, model_id: str, inputs: bytes, version: int | None = None) -> bytes:
        """A model's results.

        Args:
            inputs: safetensors with the keys "0", "1", …: its arguments in order.

        Returns:
            Safetensors, likewise.

        Raises:
            AccessError: `NOT_ALLOWED`, it isn't for inference here.
            NodeError: what `Runner.infer` raises.
        """
        self._access.allow(principal, "run-inference")
        row = await self._remembered(model_id, version)
        if not row.allow_remote_inference:
            raise AccessError(
                NO_INFERENCE,
                f"'{model_id}' was served with allow_remote_inference=False; its owner may serve another version",
                code=ErrorCode.NOT_ALLOWED,
                status=403,
            )
        if row.kind != "plan":
            raise NodeError(
                f"model '{model_id}' is in another program's encoding, which this node keeps and never runs",
                "serve it with grid.serve_model, as a plan",
                code=ErrorCode.BAD_PLAN,
                status=400,
            )
        results = await self._runner.infer(row.digest, lambda: self._open(row), inputs)
        self._usage.used(row.key)
        return results

    # -- inside

    async def _row(self, model_id: str, version: int | None) -> Any:
        wanted = (_NEWEST if version is None else _ANY.where(versions.c.version == version)).where(
            models.c.id == model_id
        )
        row = await self._db.read(lambda c: c.execute(wanted).first())
        if row is None:
            raise _not_found(model_id)
        return row

    async def _remembered(self, model_id: str, version: int | None) -> Any:
        """`_row` without a look into the database, as long as no model changes."""
        row = self._known.get((model_id, version))
        if row is None:
            changes = self._changes
            row = await self._row(model_id, version)
            if changes == self._changes:
                if len(self._known) >= _KNOWN:
                    self._known.clear()
                self._known[model_id, version] = row
        return row

    def _forget(self) -> None:
        self._changes += 1
        self._known.clear()

    def _open(self, row: Any) -> BinaryIO:
        try:
            return self._blobs.open(row.digest)
        except FileNotFoundError:  # deleted since the row was read
            raise _not_found(row.id) from None


def _shown(row: Any) -> dict[str, Any]:
    shown = {name: getattr(row, name) for name in _SHOWN}
    return {"id": row.id, "owner": row.owner, "versions": row.versions, **shown}


def _not_found(model_id: str) -> NotFoundError:
    hint = f"no model (or no such version) is called '{model_id}'; grid.models lists what there is"
    return NotFoundError(NOT_FOUND, hint, code=ErrorCode.NOT_FOUND, status=404)


def _may_download(row: Any) -> None:
    if not row.allow_download:
        hint = f"'{row.id}' was served with allow_download=False; its owner may serve another version"
        raise AccessError(NO_DOWNLOAD, hint, code=ErrorCode.NOT_ALLOWED, status=403)
