"""From what a person says of a training to what travels: the configurations, the shards, the start model.

`grid.train` and `gk.simulate` take the same arguments; both read them here, so that they mean the same.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gridkit.errors import PlanError, UsageError
from gridkit.plans.plan import Plan
from gridkit.wire.tensors import Array

if TYPE_CHECKING:
    from torch import nn

Strategy = str | Plan | Callable[..., Any]
"""a name, an averaging plan, or a function of (diffs, weights)"""


@dataclass(frozen=True)
class LocalSettings:
    """How a worker trains in a round: what `train_client` takes, and what `client_config` carries."""

    batch_size: int = 32
    max_epochs: int = 1
    max_updates: int | None = None
    lr: float | None = None
    seed: int = 0

    @classmethod
    def from_config(cls, client_config: Mapping[str, Any]) -> LocalSettings:
        """Read a `client_config`, which may be foreign: types and bounds are checked, other keys ignored.

        Raises:
            UsageError: naming the key.
        """
        values = {
            "batch_size": _number(client_config, "batch_size", cls.batch_size, 1),
            "max_epochs": _number(client_config, "max_epochs", cls.max_epochs, 1),
            "max_updates": _number(client_config, "max_updates", None, 1),
            "lr": _number(client_config, "lr", None, 0, kind=float),
            "seed": _number(client_config, "seed", cls.seed, 0),
        }
        return cls(**values)

    def to_config(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value is not None}

    def arguments(self) -> dict[str, Any]:
        """Keywords for `train_client`."""
        return {
            "batch_size": self.batch_size,
            "epochs": self.max_epochs,
            "max_updates": self.max_updates,
            "lr": self.lr,
            "seed": self.seed,
        }


def _number(config: Mapping[str, Any], key: str, default: Any, low: float, *, kind: type = int) -> Any:
    value = config.get(key, default)
    if value is None:
        return default
    kinds = (int, float) if kind is float else (int,)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value < 2**63:
        word = "a number" if kind is float else "a whole number"
        raise UsageError(f"{key} is {value!r}", f"use {word} of {low} or more")
    return kind(value)


def shards(clients: Sequence[tuple[Any, Any]]) -> list[tuple[Array, Array]]:
    """Each client's ``(x, y)`` as arrays, with equal first dimensions.

    Raises:
        UsageError: naming the client.
    """
    found = []
    for place, client in enumerate(roster(clients)):
        if isinstance(client, str):
            raise UsageError(
                f"client {place} is a name, '{client}': the data of a push participant is not here",
                "pass clients=[(x, y), …]; participants take part in what grid.train starts",
            )
        found.append(client)
    return found


def roster(clients: Sequence[tuple[Any, Any] | str]) -> list[tuple[Array, Array] | str]:
    """The clients of a training, in their order: each ``(x, y)`` as arrays with equal first dimensions, and the names
    of push participants as they are.

    Raises:
        UsageError: naming the client.
    """
    if isinstance(clients, str):
        raise UsageError(f"clients is a text, '{clients}'", "pass a list, such as clients=grid.participants")
    if not isinstance(clients, Sized):
        what, hint = type(clients).__name__, "pass a list, such as [(x, y), …], or grid.participants"
        raise UsageError(f"clients is a {what}", f"{hint} (of gridkit.aio: await grid.participants())")
    if not len(clients):
        raise UsageError("there are no clients", "pass clients=[(x, y), …], or first grid.push_participant(…)")
    found: list[tuple[Array, Array] | str] = []
    for place, client in enumerate(clients):
        if isinstance(client, str):
            if client in found[:place]:
                raise UsageError(f"the participant '{client}' is among the clients twice", "name each once")
            found.append(client)
            continue
        try:
            x, y = client
        except (TypeError, ValueError):
            raise UsageError(
                f"client {place} isn't a pair", "pass clients=[(x, y), …], or names of grid.participants among them"
            ) from None
        found.append(shard(f"client {place}", x, y))
    return found


def shard(who: str, x: Any, y: Any) -> tuple[Array, Array]:
    """One client's data as arrays, with equal first dimensions.

    Raises:
        UsageError: naming `who`.
    """
    x, y = _array(x), _array(y)
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise UsageError(
            f"{who} has x of shape {list(x.shape)} and y of shape {list(y.shape)}", "give each sample a label"
        )
    if len(x) == 0:
        raise UsageError(f"{who} has no samples", "leave it out")
    if x.dtype == object or y.dtype == object:
        raise UsageError(f"{who} holds Python objects, not numbers", "convert them to arrays of numbers")
    return x, y


def _array(value: Any) -> Array:
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return np.asarray(value)


def model_state(model: nn.Module) -> dict[str, Array]:
    """The model's parameters and buffers.

    Raises:
        UsageError: it is something else, or has tensors that can't travel.
    """
    if not hasattr(model, "state_dict"):
        raise UsageError(f"a {type(model).__name__} is no model", "pass the torch.nn.Module first")
    return {name: _values(name, tensor) for name, tensor in model.state_dict().items()}


def start_state(model: nn.Module, plan: Plan) -> dict[str, Array]:
    """The model's parameters and buffers as the plan names them.

    Raises:
        PlanError: the plan was traced from another model; names the first tensor that differs.
        UsageError: one of them is something else, or the model has tensors that can't travel.
    """
    if not hasattr(model, "state_dict") or not isinstance(plan, Plan):
        raise UsageError(
            f"a training takes a model and a plan, and these are a {type(model).__name__} and a {type(plan).__name__}",
            "pass the torch.nn.Module first, then what gk.training_plan made of it",
        )
    state = model_state(model)
    for spec in plan.state:
        array = state.get(spec.name)
        if array is None or (str(array.dtype), array.shape) != (spec.dtype, spec.shape):
            there = "no such tensor" if array is None else f"{array.dtype}{list(array.shape)}"
            raise PlanError(
                f"the plan '{plan.name}' has '{spec.name}' as {spec.dtype}{list(spec.shape)}, the model has {there}",
                "trace the plan from this model with gk.training_plan",
            )
    return {spec.name: state[spec.name] for spec in plan.state}


def _values(name: str, tensor: Any) -> Array:
    try:
        return np.array(tensor.detach().cpu().numpy())
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:  # of bfloat16, without values, or no tensor
        reason = str(error).partition("\n")[0]
        raise UsageError(f"the model's '{name}' can't travel: {reason}", "give the model values, of float32") from None


def configurations(
    *,
    clients: int,
    rounds: int,
    batch_size: int,
    local_epochs: int,
    lr: float | None,
    seed: int,
    round_timeout: float | None = None,
    strategy: Strategy = "fedavg",
    **rules: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(client_config, server_config) of a training on a fixed roster of clients. `rules` go into the latter as they
    are; see `federated.rules.CycleRules`.

    Raises:
        UsageError: naming the argument.
    """
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise UsageError(f"rounds is {rounds!r}", "use a whole number of 1 or more")
    local = {"batch_size": batch_size, "max_epochs": local_epochs, "lr": lr, "seed": seed}
    client_config = LocalSettings.from_config(local).to_config()
    averaged = averaging_config(strategy) if isinstance(strategy, Plan) else {"strategy": strategy_name(strategy)}
    rules = {"num_cycles": rounds, "cycle_length": round_timeout, "seed": seed, **averaged, **rules}
    server_config = {"clients": clients, **rules}
    return client_config, {key: value for key, value in server_config.items() if value is not None}


def strategy_name(strategy: str | Callable[..., Any]) -> str:
    """How a `server_config` names a strategy that is no plan.

    Raises:
        UsageError: it can't be one.
    """
    if isinstance(strategy, str):
        if strategy != "fedavg":
            _check_strategy(strategy)
        return strategy
    if isinstance(strategy, type) or not callable(strategy):
        raise _no_strategy(strategy)
    from gridkit.federated import notebook

    return notebook.strategy_of(strategy)


def _check_strategy(name: str) -> None:
    from gridkit.federated import strategies

    if name not in strategies.NAMES:
        raise _no_strategy(name)


def _no_strategy(strategy: object) -> UsageError:
    return UsageError(
        f"strategy is {strategy!r}"[:200],
        'use "fedavg", what gk.averaging_plan(rule, model) makes, or a function of diffs and weights',
    )


def check_evaluate(evaluate: object, hint: str) -> None:
    """Raise UsageError unless it can be called, or is None."""
    if evaluate is not None and not callable(evaluate):
        raise UsageError(f"evaluate is {evaluate!r}"[:200], hint)


def lent_name(name: str) -> str:
    """How a `server_config` calls a function of this name that a notebook lends."""
    from gridkit.federated import notebook

    return notebook.cleaned(name)


def function_of(strategy: Strategy) -> Callable[..., Any] | None:
    """The function that averages, if a strategy is one."""
    return None if isinstance(strategy, str | Plan) else strategy


def hosted_config(plan: Plan, client_config: Mapping[str, Any]) -> dict[str, Any]:
    """A `client_config` for whoever comes: what workers in other languages can't know from the plan is added to it,
    namely the batch size, the learning rate, and how many numbers an example is (`features`).

    Raises:
        UsageError: naming the key, here and not at each worker.
    """
    LocalSettings.from_config(client_config)
    x = plan.input("x") if isinstance(plan, Plan) else None
    if x is None:
        return dict(client_config)
    features = math.prod(size for size in x.shape if size != "B")
    return {"batch_size": LocalSettings.batch_size, "lr": plan.lr, "features": features, **client_config}


def averaging_config(plan: Plan | None) -> dict[str, Any]:
    """What a `server_config` says of an averaging plan.

    Raises:
        UsageError: it is no plan.
    """
    if plan is not None and not isinstance(plan, Plan):
        raise UsageError(
            f"averaging_plan is a {type(plan).__name__}, not a plan",
            "averaging_plan=gk.averaging_plan(rule, model) makes one of a function",
        )
    if plan is None:
        return {}
    from gridkit.plans.averaging_form import is_iterative

    return {"iterative_plan": True} if is_iterative(plan) else {}


def described(error: BaseException) -> dict[str, str]:
    """An error as a report carries it."""
    text = "".join(traceback.format_exception(error))
    return {"type": type(error).__name__, "message": str(error)[:2000], "traceback": text[-10_000:]}
