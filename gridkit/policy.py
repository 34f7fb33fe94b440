"""`gridkit.Policy`: who may do what with a dataset. It is data; the node that holds the dataset enforces it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from gridkit.errors import UsageError
from gridkit.plans.plan import Plan

Group = Literal["anyone", "everyone", "nobody"]
Who = str | tuple[str, ...]
"""A `Group`, or the names of accounts."""

ANY_PLAN = "any"
MAX_NAMES = 1000
MAX_PLANS = 1000
_HINT = 'give "everyone", "nobody", "anyone", or a list of the names of accounts'


def plan_digest(plan: Plan) -> str:
    """What a policy knows a plan by: SHA-256 of its GKP1 bytes, in hex.

    The same computation traced again has the same bytes; one that differs in anything has others.
    """
    return hashlib.sha256(plan.to_bytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may see, fetch and compute on a dataset. Its owner, and the owner of the node, may do everything.

    Wherever somebody is named: "everyone" is everyone with an account on the node, "anyone" also those without,
    "nobody" is nobody but the owners, and a list of names is these accounts. What counts is who the node has
    authenticated, never a name that a request states.

    Args:
        see: who sees that the dataset is there, with tags, description, shapes and the mock sample. Who may fetch
            it or compute on it sees it in any case; to the others it is as if it weren't there.
        fetch: who may download the data.
        run: for each plan who may compute it on the data: a `gridkit.plan`, or the SHA-256 of its bytes in hex, or
            "any" for whatever plan somebody sends. Plans run on the node; only results leave it.
        results: places of those results of a plan that get out; None is all.
        max_values: numbers that all results of one run may have together; None is as many as there are. A plan with
            more is refused before it runs. Who may fetch the data isn't bound by this.

    A policy bounds what one run tells. Whoever may run "any" plan as often as they like can learn the data piece by
    piece: name the plans where that matters.

    Raises:
        UsageError: an argument can't be.

    Example:
        >>> Policy(fetch=["alice"], run={"any": "everyone"}, max_values=10)
        Policy(see='everyone', fetch=('alice',), run={'any': 'everyone'}, results=None, max_values=10)
    """

    see: Who | Iterable[str] = "everyone"
    fetch: Who | Iterable[str] = "nobody"
    run: Mapping[Any, Any] = field(default_factory=dict)
    results: tuple[int, ...] | Iterable[int] | None = None
    max_values: int | None = 1000

    def __post_init__(self) -> None:
        if not isinstance(self.run, Mapping):
            raise UsageError(f"run={self.run!r:.80} doesn't say which plan", 'give run={plan: "everyone"}')
        if len(self.run) > MAX_PLANS:
            raise UsageError(f"run names {len(self.run)} plans; at most {MAX_PLANS} can be named", _HINT)
        run = {_digest(plan): _who("run", who) for plan, who in self.run.items()}
        given: dict[str, Any] = {"see": _who("see", self.see), "fetch": _who("fetch", self.fetch), "run": run}
        if self.results is not None:
            given["results"] = _places(self.results)
        for name, value in given.items():
            object.__setattr__(self, name, value)
        if self.max_values is not None and not _is_count(self.max_values):
            raise UsageError(f"max_values={self.max_values!r:.80} is no number of values", "give a number, or None")

    @property
    def audience(self) -> Who:
        """Who sees the dataset: whoever may see, fetch or run."""
        whos = [self.see, self.fetch, *self.run.values()]
        for group in ("anyone", "everyone"):
            if group in (who for who in whos if isinstance(who, str)):
                return group
        names = dict.fromkeys(name for who in whos if not isinstance(who, str) for name in who)
        return tuple(names) or "nobody"

    def may_fetch(self, name: str | None) -> bool:
        """Whether the account of this name (None: nobody with an account) may download the data."""
        return _among(self.fetch, name)

    def plans_for(self, name: str | None) -> list[str]:
        """The plans that the account of this name may run: digests, and "any"."""
        return [plan for plan, who in self.run.items() if _among(who, name)]

    def may_run(self, digest: str, name: str | None) -> bool:
        """Whether the account of this name may run the plan with this digest."""
        return any(plan in (ANY_PLAN, digest) for plan in self.plans_for(name))

    @property
    def bounds(self) -> str:
        """What one run may let out, in words."""
        values = "any number of values" if self.max_values is None else f"at most {self.max_values:,} values"
        return values if self.results is None else f"{values}, of the results {list(self.results)}"

    def to_json(self) -> dict[str, Any]:
        """As it travels and is stored."""
        return {
            "see": self.see,
            "fetch": self.fetch,
            "run": self.run,
            "results": self.results,
            "max_values": self.max_values,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Policy:
        """The policy that `to_json` described; what is left out has its default.

        Raises:
            UsageError: an unknown member, or one of a wrong kind.
        """
        for name in data:
            if name not in cls.__slots__:
                raise UsageError(f"a policy has no {name!r:.80}", "it has see, fetch, run, results and max_values")
        return cls(**data)


def _who(right: str, value: Any) -> Who:
    if isinstance(value, str):
        if value not in get_args(Group):
            raise UsageError(f"{right}={value!r:.80} is none of {', '.join(get_args(Group))}", _HINT)
        return value
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise UsageError(f"{right}={value!r:.80} names nobody", _HINT)
    names = tuple(dict.fromkeys(_name(right, name) for name in value))
    if len(names) > MAX_NAMES:
        raise UsageError(f"{right} names {len(names)} accounts; at most {MAX_NAMES} can be named", _HINT)
    return names or "nobody"


def _name(right: str, value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 200 or not value.isprintable():
        raise UsageError(f"{right} has {value!r:.80} in the place of a name", _HINT)
    return value


def _among(who: Any, name: str | None) -> bool:
    if isinstance(who, str):
        return who == "anyone" or (who == "everyone" and name is not None)
    return name in who


def _digest(plan: Any) -> str:
    if isinstance(plan, Plan):
        return plan_digest(plan)
    if isinstance(plan, str) and (plan == ANY_PLAN or re.fullmatch("[0-9a-f]{64}", plan)):
        return plan
    raise UsageError(f"run names a plan by {plan!r:.80}", 'give a gk.plan, the SHA-256 of its bytes, or "any"')


def _places(value: Any) -> tuple[int, ...]:
    places = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str | Mapping) else ()
    if not places or len(places) > 10_000 or not all(_is_count(place) for place in places):
        raise UsageError(f"results={value!r:.80} names no results", "give their places, such as [0, 2], or None")
    return tuple(sorted(set(places)))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53
