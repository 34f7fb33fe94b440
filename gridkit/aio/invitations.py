"""Guests: whoever has an invitation takes part in a hosted training, with a browser and nothing else."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
from collections.abc import Mapping
from typing import Any, Generic
from urllib.parse import urlsplit

from gridkit.aio.trainings import RunT, Trainings
from gridkit.errors import ErrorCode, NotFoundError, PlanError
from gridkit.invitation import Invitation
from gridkit.plans.plan import Plan
from gridkit.plans.syft_form import syft_step


class Invitations(Trainings[RunT], Generic[RunT]):
    """A session's trainings, and guests in them."""

    async def invite(
        self, name: str | None = None, version: str | None = None, *, expires: float = 86400.0, host: str | None = None
    ) -> Invitation:
        """Invite one guest, on a phone or any other device with a browser, to train on what they draw or pick there.

        The guest opens the node's page `/join` with the invitation's address or QR code and is a worker like any other
        then, "guest 1" or as they call themselves; an invitation that was used is good for nothing more.

        Args:
            name, version: of a training hosted with `host_training`; by default the one hosted last that isn't over.
            expires: seconds until the invitation ends, if nobody uses it.
            host: how guests reach the node, if it isn't as this session does: a name or an address, with or without a
                port, or ``https://…`` with all of it, such as that of a proxy. By default this session's own address,
                and where the node listens on all interfaces, this machine's address in its network.

        Raises:
            NotFoundError: there is no such training, or none that is open.
            ConflictError: it is over, or has a fixed roster of clients.
            PlanError: its plan has no form for browsers; says why.
            NodeError: `NOT_BUILT`, the node hasn't got the page's libraries yet; says how to fetch them.

        Example:
            >>> await grid.invite("digits")                                         # doctest: +SKIP
            <Invitation to 'digits' 1.0 for one guest, until 2026-05-04 09:30 UTC, at http://10.0.0.7:5000/join>
        """
        entry = await self._newest_open() if name is None else await self._joinable(name, version)
        name, version = str(entry["name"]), str(entry["version"])
        plan = await self._node.plan(next(iter(entry["plans"].values())))
        support = plan.supports("tfjs")
        if not support:
            reasons = "; ".join(str(missing) for missing in support.missing)
            raise PlanError(
                f"guests can't train '{name}' {version}: {reasons}",
                "host one whose plan.supports('tfjs'); gridkit's own workers take any training plan",
                code=ErrorCode.BAD_PLAN,
            )
        await self._link.request("GET", "/join")  # or the error says what the page lacks
        facts = _facts(plan, entry["client_config"])
        token = await self._node.worker_token(name, version, once=True, expires=expires)
        ends = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=expires)
        return Invitation(f"{self._base(host)}/join", name, version, token, ends, **facts)

    async def _newest_open(self) -> dict[str, Any]:
        for entry in reversed(await self.processes()):
            if entry["outcome"] is None and entry["server_config"].get("clients") is None:
                return dict(entry)
        raise NotFoundError(
            f"no training on {self.url} is open to guests",
            "grid.host_training(…) hosts one for whoever comes",
            code=ErrorCode.NOT_FOUND,
            status=404,
        )

    def _base(self, host: str | None) -> str:
        """The node's address, as guests reach it."""
        known = urlsplit(self.url)
        if host is None and self._embedded is not None and self._embedded.host in ("0.0.0.0", "::"):
            host = own_address()
        if host is None:
            return self.url
        if "://" in host:
            return host.rstrip("/")
        if ":" in host and host.count(":") > 1 and not host.startswith("["):
            host = f"[{host}]"
        named = urlsplit(f"//{host}")
        port = f":{known.port}" if named.port is None and known.port else ""
        return f"{known.scheme}://{host}{port}{known.path}"


def _facts(plan: Plan, client_config: Mapping[str, Any]) -> dict[str, float | int]:
    """What the page must know before it asks for work: how large an example is, how many classes there are, and the
    learning rate where the training names none."""
    step = syft_step(plan)
    x, y = step.input("x"), step.input("y")
    assert x is not None and y is not None
    facts: dict[str, float | int] = {"features": int(x.shape[1]), "classes": int(y.shape[1])}
    return facts if client_config.get("lr") is not None else {**facts, "lr": plan.lr}


def own_address() -> str | None:
    """This machine's address in the network through which it reaches others; None if there is none. Sends nothing:
    a UDP socket that is connected only chooses its interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # of a network that is nobody's (RFC 5737)
            found = str(probe.getsockname()[0])
        except OSError:
            return None
    return None if ipaddress.ip_address(found).is_loopback else found
