"""Several nodes as one: they are asked at the same time, and who doesn't answer is named."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gridkit.cells import ShortDir
from gridkit.client.link import impatient
from gridkit.errors import ConflictError, ErrorCode, GridkitError, NodeError, NodeUnreachable, NotFoundError, UsageError

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import nn

    from gridkit.aio import SessionCore
    from gridkit.plans.plan import Plan

    Member = SessionCore[Any]

T = TypeVar("T")


class Answers(ShortDir, Mapping[str, T], Generic[T]):
    """What each node answered, by its address.

    Attributes:
        failures: why the others didn't answer: address to error.
    """

    def __init__(self, answers: Mapping[str, T], failures: Mapping[str, GridkitError]) -> None:
        self._answers = dict(answers)
        self.failures = dict(failures)

    def __getitem__(self, address: str) -> T:
        return self._answers[address]

    def __iter__(self) -> Iterator[str]:
        return iter(self._answers)

    def __len__(self) -> int:
        return len(self._answers)

    def __repr__(self) -> str:
        lines = [f"{address}: {answer!r}" for address, answer in self._answers.items()]
        lines += [f"{address} failed: {error.message}" for address, error in self.failures.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from gridkit.widgets.html import card, table

        rows = [(address, repr(answer)) for address, answer in self._answers.items()]
        rows += [(address, f"failed: {error.message}") for address, error in self.failures.items()]
        return card(f"{len(self)} of {len(rows)} nodes answered", {}, table(("node", "answer"), rows))

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def to_frame(self) -> pd.DataFrame:
        """The nodes' rows in one frame, with the column "node". Only for answers that are listings."""
        import pandas as pd

        frames = [answer.to_frame().assign(node=address) for address, answer in self.items()]  # type: ignore[attr-defined]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["node"])


class Grid(ShortDir):
    """A session over several nodes. Closing it is closing its sessions.

    Nobody is waited for who isn't there: a node that doesn't answer is named in the result, or passed over where
    another one can do the same.

    Args:
        sessions: one a node.

    Raises:
        UsageError: no session, or two of one node.

    Example:
        >>> grid = gk.aio.Grid([a, b, c])                                           # doctest: +SKIP
        >>> found = await grid.search("#xray")                                      # doctest: +SKIP
        >>> found.failures                                                          # doctest: +SKIP
        {'http://127.0.0.1:5002': NodeUnreachable('no answer from the node at http://127.0.0.1:5002: …')}
    """

    def __init__(self, sessions: Sequence[Member]) -> None:
        self._members = {session.url: session for session in sessions}
        if not self._members or len(self._members) != len(sessions):
            raise UsageError(
                f"{len(sessions)} sessions with {len(self._members)} different nodes make no grid",
                "pass one session for each node: gk.Grid([a, b, c])",
            )

    def __repr__(self) -> str:
        return f"Grid({list(self._members)!r})"

    async def models(self) -> Answers[Any]:
        """The models of each node."""
        return await self._ask(lambda member: member.models())

    async def datasets(self) -> Answers[Any]:
        """The datasets of each node, as far as this user may see them."""
        return await self._ask(lambda member: member.datasets())

    async def dataset_tags(self) -> Answers[list[str]]:
        """The tags of each node's datasets."""
        return await self._ask(lambda member: member.dataset_tags())

    async def search(self, query: str | Sequence[str]) -> Answers[Any]:
        """The datasets that match, by node. All nodes are asked at the same time. See `Session.search`."""
        return await self._ask(lambda member: member.search(query))

    async def serve_model(
        self,
        model: nn.Module | Plan | Any,
        model_id: str | None = None,
        *,
        replicas: int = 1,
        example: Any = None,
        allow_download: bool = False,
        allow_remote_inference: bool = False,
    ) -> list[str]:
        """Host the model on so many nodes, those with the fewest models first. See `Session.serve_model`.

        Returns:
            The addresses of the nodes that have it now.

        Raises:
            UsageError: more replicas than nodes.
            ConflictError: a node has a model of that id.
            GridkitError: too few nodes took it; those that did have deleted it again. The text names who failed.
        """
        if not 0 < replicas <= len(self._members):
            raise UsageError(f"{replicas} replicas on {len(self._members)} nodes", "use 1 up to the number of nodes")
        if model_id is not None and (taken := await self._holders(model_id)):
            raise ConflictError(
                f"a model '{model_id}' is hosted already on {', '.join(taken)}",
                "choose another id, or serve a new version there",
                code=ErrorCode.ALREADY_EXISTS,
                status=409,
            )
        counted = await self._ask(lambda member: member._models.page(limit=1))
        failures, done = dict(counted.failures), list[str]()
        waiting = sorted(counted, key=lambda address: counted[address][1])
        while waiting and len(done) < replicas:
            chosen, waiting = waiting[: replicas - len(done)], waiting[replicas - len(done) :]
            tried = await self._ask(
                lambda member: member.serve_model(
                    model,
                    model_id,
                    example=example,
                    allow_download=allow_download,
                    allow_remote_inference=allow_remote_inference,
                ),
                chosen,
            )
            done += tried
            failures |= tried.failures
        if len(done) < replicas:
            if model_id is not None:
                await self._ask(lambda member: member.delete_model(model_id), done)
            raise _all_failed(f"{len(done)} of {replicas} nodes took the model '{model_id}'", failures)
        return done

    async def run_remote_inference(self, model_id: str, data: Any) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Run inference on a node that has the model; when it fails, on another one.

        Raises:
            NotFoundError: no node has it.
            NodeUnreachable: none that has it could do it, or one that may have it is silent; the text names each.
        """
        return await self._one(model_id, lambda member: member.run_remote_inference(model_id, data))

    async def download_model(self, model_id: str) -> nn.Module:
        """Download the model from a node that has it; when it fails, from another one. See `Session.download_model`.

        Raises:
            NotFoundError: no node has it.
            NodeUnreachable: none that has it could do it, or one that may have it is silent; the text names each.
        """
        return await self._one(model_id, lambda member: member.download_model(model_id))

    async def delete_model(self, model_id: str) -> list[str]:
        """Delete the model on every node that has it; the addresses of these.

        Raises:
            NotFoundError: no node has it.
            GridkitError: some couldn't delete it, or didn't answer; the text names them.
        """
        holders = await self._holders(model_id)
        if not holders:
            raise _nowhere(model_id, holders)
        done = await self._ask(lambda member: member.delete_model(model_id), list(holders))
        failures = holders.failures | done.failures
        if failures:
            raise _all_failed(f"'{model_id}' was deleted on {len(done)} nodes, and perhaps not everywhere", failures)
        return list(done)

    # -- inside

    async def _ask(self, call: Callable[[Member], Awaitable[T]], addresses: Sequence[str] | None = None) -> Answers[T]:
        """Ask these nodes (all by default) at the same time."""
        asked = list(self._members) if addresses is None else addresses

        async def one(member: Member) -> T:
            with impatient():
                return await call(member)

        told = await asyncio.gather(*(one(self._members[a]) for a in asked), return_exceptions=True)
        for outcome in told:
            if isinstance(outcome, BaseException) and not isinstance(outcome, NodeError | NodeUnreachable):
                raise outcome
        answers = {a: outcome for a, outcome in zip(asked, told, strict=True) if not isinstance(outcome, BaseException)}
        failures = {a: outcome for a, outcome in zip(asked, told, strict=True) if isinstance(outcome, GridkitError)}
        return Answers(answers, failures)

    async def _holders(self, model_id: str) -> Answers[dict[str, Any]]:
        """The nodes that have the model, with what they know of it; `failures`: those that don't say."""
        told = await self._ask(lambda member: member._models.details(model_id))
        silent = {a: error for a, error in told.failures.items() if not isinstance(error, NotFoundError)}
        return Answers(told, silent)

    async def _one(self, model_id: str, call: Callable[[Member], Awaitable[T]]) -> T:
        """What one of those says that have the model. A refusal is an answer; only failures lead to another one."""
        holders = await self._holders(model_id)
        if not holders:
            raise _nowhere(model_id, holders)
        failures = dict(holders.failures)
        for address in random.sample(list(holders), len(holders)):
            try:
                with impatient():
                    return await call(self._members[address])
            except NodeUnreachable as error:
                failures[address] = error
            except NodeError as error:
                if error.status < 500:
                    raise
                failures[address] = error
        raise _all_failed(f"no node could do it for '{model_id}'", failures)


def _nowhere(model_id: str, asked: Answers[Any]) -> GridkitError:
    if asked.failures:
        return _all_failed(f"no node that answers has a model '{model_id}'", asked.failures)
    hint = "grid.models shows what there is"
    return NotFoundError(f"no node has a model '{model_id}'", hint, code=ErrorCode.NOT_FOUND, status=404)


def _all_failed(what: str, failures: Mapping[str, GridkitError]) -> NodeUnreachable:
    reasons = "; ".join(f"{address}: {error.message}" for address, error in failures.items())
    return NodeUnreachable(f"{what}: {reasons}", "check these nodes, or leave them out of the grid")
