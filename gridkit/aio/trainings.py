"""Trainings: hosted on the node, joined by workers, followed as runs."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gridkit.aio.offers import Offers
from gridkit.client.job import Cycle, JobClient
from gridkit.client.link import Link
from gridkit.client.node import Hosted, NodeClient
from gridkit.client.rpc_callables import Exposed
from gridkit.errors import ConflictError, ErrorCode, NotFoundError, UsageError
from gridkit.hosted import HostedTraining, NodeSource
from gridkit.node.launch import NodeProcess
from gridkit.plans.plan import Plan
from gridkit.run import RunBase
from gridkit.wire.tensors import Array
from gridkit.workers.pool import Pool
from gridkit.workers.settings import (
    Strategy,
    averaging_config,
    check_evaluate,
    configurations,
    function_of,
    hosted_config,
    lent_name,
    model_state,
    roster,
    shards,
    start_state,
    strategy_name,
)
from gridkit.workers.worker import Client

if TYPE_CHECKING:
    from torch import nn

RunT = TypeVar("RunT", bound=RunBase)


class Trainings(Offers, Generic[RunT]):
    """A session's trainings; their runs are of the class `_run_class`."""

    _run_class: type[RunT]

    def __init__(self, link: Link, *, node: NodeProcess | None = None, pool: Pool | None = None) -> None:
        super().__init__(link, node=node, pool=pool)
        self._node = NodeClient(link)
        self._seen: dict[tuple[str, str], None] = {}  # trainings, as the node listed them last: reprs ask nobody
        self._runs: weakref.WeakValueDictionary[tuple[str, str], RunT] = weakref.WeakValueDictionary()

    def facts(self) -> dict[str, object]:
        """What is known of session, node and trainings without asking anybody."""
        count = len(self._seen)
        return {**super().facts(), "trainings": f"{count} training{'' if count == 1 else 's'} seen"}

    async def host_training(
        self,
        model: nn.Module,
        plan: Plan,
        *,
        name: str,
        version: str = "1.0",
        client_config: Mapping[str, Any] | None = None,
        server_config: Mapping[str, Any] | None = None,
        averaging_plan: Plan | None = None,
    ) -> HostedTraining[RunT]:
        """Host a training for workers that come by themselves (``gridkit worker``, other clients of the protocol).

        Args:
            model: its parameters and buffers are the start.
            plan: from `gridkit.training_plan`.
            client_config: for the workers: `batch_size`, `lr`, `max_epochs`, `max_updates`, `seed`, and what else they
                are to be told. What our own workers know without it is added for those in other languages: the batch
                size, the plan's `lr`, and `features`, how many numbers an example is.
            server_config: the cycles' rules, such as `num_cycles`, `min_diffs`, `max_diffs`, `cycle_length` (s),
                `strategy` (a name, or a function, as for `train`); and
                `authentication`, for workers with tokens of your own (JWT): ``{"secret": …}``, ``{"pub_key": …}`` or
                ``{"endpoint": …}``. What is secret in it stays in the node.
            averaging_plan: from `gridkit.averaging_plan`; without one reports are averaged with FedAvg.

        Raises:
            ConflictError: this name and version are hosted already.
            UsageError: naming what can't be: not a model and its plan, or a wrong value of `client_config`.
            NodeError: naming the key of `server_config` that can't be.

        Example:
            >>> process = await grid.host_training(model, plan, name="digits",      # doctest: +SKIP
            ...                                    server_config={"num_cycles": 5, "min_diffs": 3, "max_diffs": 3})
        """
        rules = {**averaging_config(averaging_plan), **(server_config or {})}
        function = function_of(rules.get("strategy", ""))
        if function is not None:
            rules["strategy"] = strategy_name(function)
        local = hosted_config(plan, client_config or {})
        state = start_state(model, plan)
        hosted = await self._host(state, plan, name, version, local, rules, averaging_plan)
        run = self._follow(hosted, name, version, model=model, plan=plan, rounds=rules.get("num_cycles") or None)
        if function is not None:
            await self._lend_or_stop(name, version, "strategy", function)
        return HostedTraining(self.url, name, version, hosted.worker_token, run)

    async def train(
        self,
        model: nn.Module,
        plan: Plan | None,
        *,
        name: str,
        version: str | None = None,
        clients: Sequence[tuple[Any, Any] | str],
        rounds: int = 10,
        batch_size: int = 8,
        local_epochs: int = 1,
        lr: float | None = None,
        fraction: float = 1.0,
        strategy: Strategy = "fedavg",
        evaluate: Callable[[Any], Mapping[str, Any]] | Exposed | None = None,
        seed: int = 0,
        tolerate: int = 0,
        weighting: str = "samples",
        max_samples: int | None = None,
        max_norm: float | None = None,
        round_timeout: float | None = None,
        keep_last: int = 20,
        keep_every: int = 0,
        processes: int = 2,
    ) -> RunT:
        """Train on this machine's worker processes, and on push participants, through the node.

        Returns at once; `run.wait()` waits.

        Args:
            model: the start; it stays as it is.
            plan: from `gridkit.training_plan`; may be None if all clients are push participants.
            name, version: of the training; without a version the next free one ("1.0", "2.0", …).
            clients: one ``(x, y)`` a client, arrays or tensors with equal first dimension, each of which goes to one
                worker process, and only there; or the name of a push participant (`push_participant`), whom the node
                calls. ``clients=grid.participants`` are all of them, ``[*grid.participants, (x, y)]`` is a mixture.
                What a participant gets is the model, as a state dict; it trains with code of its own, and tests the
                model after each round.
            rounds: of the training.
            batch_size, local_epochs, lr: of the clients whose data is here; `lr` overrides the plan's. Participants
                aren't told.
            fraction: share of the clients that take part in a round.
            strategy: "fedavg", a rule of your own from `gridkit.averaging_plan`, or a function of this notebook's:
                ``strategy=lambda diffs, weights: diffs.median(dim=0).values``. It gets the reports of each round as
                remote tensors, diffs float32 [K, P] (the model minus each client's, all averaged values flat, in the
                model's order) and weights float32 [K], and gives float32 [P], which is taken off the model. The reports
                are private: it computes with them on the node, and can't read them. Its code stays here; while this
                session isn't there the training waits, until `Run.offer` lends it a function again.
            evaluate: called after each round with the new model (`nn.Module`, eval mode); returns metrics by name, and
                with ``"stop": True`` among them the training ends after the round that is under way. Or a function that
                `expose` made known to the node, which calls it before the round is over with the model's tensors by
                name, as `expose` says how: its metrics are among the training's, and "stop" makes that round the last.
            seed: of the cohorts and the batch order.
            tolerate: so many clients may fail in a round.
            weighting: "samples" or "equal"; `max_samples` caps the weight of one client.
            max_norm: a diff with a larger L2 norm is refused.
            round_timeout: seconds after which clients that haven't reported count as failed; without a number that is
                never, and with participants, who may be silent for ever, 3600.
            keep_last, keep_every: which rounds' models the node keeps.
            processes: worker processes to spread the clients over.

        Raises:
            UsageError: the arguments don't fit together.
            ConflictError: this name and version are hosted already.
            NotFoundError: no participant has this name.

        Source: McMahan et al. 2017, "Communication-efficient learning of deep networks from decentralized data".
        """
        members = roster(clients)
        _check_processes(processes)
        data = {slot: member for slot, member in enumerate(members) if not isinstance(member, str)}
        participants = {slot: member for slot, member in enumerate(members) if isinstance(member, str)}
        if plan is None and data:
            raise UsageError(
                f"client {next(iter(data))} has its data here, and no plan to train with",
                "plan=gk.training_plan(model, …); only push participants need none",
            )
        exposed = evaluate if isinstance(evaluate, Exposed) else None
        if exposed is not None:
            self.rpc.check_exposed(exposed)
        else:
            check_evaluate(evaluate, "pass a function of the model, or one that grid.expose made known to the node")
        client_config, server_config = configurations(
            clients=len(members),
            rounds=rounds,
            batch_size=batch_size,
            local_epochs=local_epochs,
            lr=lr,
            seed=seed,
            round_timeout=round_timeout,
            fraction=fraction,
            strategy=strategy,
            tolerate=tolerate,
            weighting=weighting,
            max_samples=max_samples,
            max_norm=max_norm,
            keep_last=keep_last,
            keep_every=keep_every,
            evaluate=None if exposed is None else lent_name(exposed.name),
        )
        version = version or await self._free_version(name)
        rule, function = strategy if isinstance(strategy, Plan) else None, function_of(strategy)
        state = model_state(model) if plan is None else start_state(model, plan)
        hosted = await self._host(state, plan, name, version, client_config, server_config, rule, participants)
        here = [Client(x, y, str(hosted.worker_tokens[slot]), f"client {slot}") for slot, (x, y) in data.items()]
        run = self._follow(
            hosted,
            name,
            version,
            model=model,
            plan=plan,
            rounds=rounds,
            clients=members,
            settings=client_config,
            evaluate=None if isinstance(evaluate, Exposed) else evaluate,
        )
        if function is not None:
            await self._lend_or_stop(name, version, "strategy", function)
        if exposed is not None:
            await self._lend_or_stop(name, version, "evaluate", exposed)
        if here:
            self._put_to_work(name, version, here, processes)
        return run

    async def join(
        self, name: str, version: str | None = None, *, clients: Sequence[tuple[Any, Any]], processes: int = 2
    ) -> RunT:
        """Take part in a training that was hosted with `host_training`, with this machine's worker processes.

        Returns at once. Rounds, batch size and strategy are the training's own; other workers may take part too.

        Args:
            name, version: of the training; without a version the one hosted last.
            clients: one ``(x, y)`` a client, as in `train`. Each joins as a worker of its own, named "client 0", …
            processes: worker processes to spread the clients over.

        Returns:
            The training's Run. Stopping it stops the training for everybody.

        Raises:
            UsageError: the clients aren't pairs of arrays of equal length.
            NotFoundError: there is no such training.
            ConflictError: it is over, or has a fixed roster of clients (it was started with `train`).

        Example:
            >>> run = await grid.join("digits", clients=[(x, y)])                   # doctest: +SKIP
        """
        data = shards(clients)
        _check_processes(processes)
        entry = await self._joinable(name, version)
        version = str(entry["version"])
        members = []
        for place, (x, y) in enumerate(data):  # one after the other: their slots are in order
            label = f"client {place}"
            member = Client(x, y, await self._node.worker_token(name, version, label), label)
            # Enrolled here, so that a worker process that dies and starts again has the same workers.
            member.worker_id = await self._job(name, version, member).authenticate()
            members.append(member)
        run = await self._known(entry)
        self._put_to_work(name, version, members, processes)
        return run

    async def run(self, name: str, version: str | None = None) -> RunT:
        """The Run of a training on this node, as after a kernel restart: its rows come again from the beginning.

        Raises:
            NotFoundError: there is no such training.
        """
        return await self._known(await self._entry(name, version))

    async def worker_token(self, name: str, version: str) -> str:
        """A new worker token for a hosted training, good for that one only: for a data holder's `GRIDKIT_TOKEN`.

        Raises:
            NotFoundError: there is no such training.
        """
        return await self._node.worker_token(name, version)

    async def processes(self) -> list[dict[str, Any]]:
        """Every training on the node: id, name, version, configurations, where it stands."""
        entries = await self._node.processes()
        self._seen = dict.fromkeys((entry["name"], entry["version"]) for entry in entries)
        return entries

    # -- inside

    async def _host(
        self,
        state: Mapping[str, Array],
        plan: Plan | None,
        name: str,
        version: str,
        client_config: dict[str, Any],
        server_config: dict[str, Any],
        averaging_plan: Plan | None,
        participants: Mapping[int, str] | None = None,
    ) -> Hosted:
        plans = {} if plan is None else {"training_plan": plan}
        config = {**client_config, "name": name, "version": version}
        return await self._node.host_training(state, plans, config, server_config, averaging_plan, participants)

    async def _lend_or_stop(self, name: str, version: str, role: str, function: Callable[..., Any] | Exposed) -> None:
        """Lend a function to a training that has just begun, which can't go on without it."""
        try:
            await self._lend(name, version, role, function)
        except BaseException:
            await self._node.stop(name, version, now=True)
            raise

    async def _entry(self, name: str, version: str | None) -> dict[str, Any]:
        """The newest training of that name as the node lists it."""
        for entry in reversed(await self.processes()):
            if entry["name"] == name and version in (None, entry["version"]):
                return dict(entry)
        raise NotFoundError(
            f"no training '{name}'{'' if version is None else ' ' + version} is hosted on {self.url}",
            "list(grid.runs) shows those that are",
            code=ErrorCode.NOT_FOUND,
            status=404,
        )

    async def _joinable(self, name: str, version: str | None) -> dict[str, Any]:
        """The newest training of that name, if it is open to whoever comes.

        Raises:
            NotFoundError: there is no such training.
            ConflictError: it is over, or has a fixed roster of clients.
        """
        entry = await self._entry(name, version)
        version = str(entry["version"])
        if entry["outcome"] is not None:
            raise ConflictError(
                f"the training '{name}' {version} is over: {entry['outcome']}",
                "host it again under another version",
                code=ErrorCode.TRAINING_OVER,
                status=409,
            )
        roster = entry["server_config"].get("clients")
        if roster is not None:
            raise ConflictError(
                f"the training '{name}' {version} has a fixed roster of {roster} clients: nobody can join it",
                "host_training opens one for whoever comes",
                code=ErrorCode.CYCLE_FULL,
                status=409,
            )
        return entry

    async def _known(self, entry: Mapping[str, Any]) -> RunT:
        """The Run of a training that the node lists."""
        plans = list(entry["plans"].values())  # none, if all its clients are push participants
        plan = await self._node.plan(plans[0]) if plans else None
        hosted = Hosted(entry["id"], entry["plans"], "")
        rounds, settings = entry["server_config"].get("num_cycles") or None, entry["client_config"]
        return self._follow(hosted, entry["name"], entry["version"], plan=plan, rounds=rounds, settings=settings)

    def _put_to_work(self, name: str, version: str, members: Sequence[Client], processes: int) -> None:
        loop = asyncio.get_running_loop()

        def lost(gone: Sequence[Client], reason: str) -> None:
            loop.call_soon_threadsafe(self._spawn, self._give_up(name, version, gone, reason))

        self._spawn(asyncio.to_thread(self._pool.run, self._link, name, version, members, processes, lost))

    def _job(self, name: str, version: str, member: Client) -> JobClient:
        return JobClient(
            self._link, name, version, auth_token=member.token, worker_id=member.worker_id, label=member.label
        )

    def _follow(self, hosted: Hosted, name: str, version: str, **about: Any) -> RunT:
        lend, raised = partial(self._lend, name, version), partial(self._raised_for, name, version)
        source = NodeSource(self._node, hosted.process, name, version, self._spawn, lend, raised)
        self._seen[name, version] = None
        run = self._runs[name, version] = self._run_class(name, version, source, **about)
        return run

    async def _free_version(self, name: str) -> str:
        taken = {entry["version"] for entry in await self.processes() if entry["name"] == name}
        return next(v for v in (f"{n}.0" for n in range(1, len(taken) + 2)) if v not in taken)

    async def _give_up(self, name: str, version: str, clients: Sequence[Client], reason: str) -> None:
        """Report for clients whose process can't be kept alive, round by round, so that nobody waits for them."""
        await asyncio.gather(*(self._report_lost(name, version, client, reason) for client in clients))

    async def _report_lost(self, name: str, version: str, client: Client, reason: str) -> None:
        job = self._job(name, version, client)
        await job.authenticate()
        seen = 0
        while True:
            answer = await job.request_cycle(20.0, seen)
            seen = answer.sequence
            if isinstance(answer, Cycle):
                with contextlib.suppress(ConflictError):  # the round closed meanwhile, without this client
                    await job.report_error(answer, {"type": "WorkerLost", "message": reason, "traceback": ""})
            elif answer.timeout is None:
                return


def _check_processes(processes: int) -> None:
    if processes < 1:
        raise UsageError(f"processes is {processes}", "use 1 or more")
