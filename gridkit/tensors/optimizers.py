"""Optimizers of torch.optim that run on the node, on remote parameters."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import torch

from gridkit.bridge import sync
from gridkit.errors import UsageError
from gridkit.tensors.handle import World, line
from gridkit.tensors.remote import Remote

_NUMBERS = itertools.count(1)


class _Optimizer:
    """What both faces have. `step` and `zero_grad` return at once.

    Attributes:
        name: of the class in torch.optim.
        options: of each group, in order.
    """

    def __init__(self, world: World, name: str, groups: list[dict[str, Any]], options: list[dict[str, Any]]) -> None:
        self.name, self.options = name, options
        self._world, self._groups = world, groups
        self._id = f"o{next(_NUMBERS)}"

    def __repr__(self) -> str:
        count = sum(len(group["params"]) for group in self._groups)
        return f"<remote {self.name} {self._id} of {count} tensors: {self.options}>"

    def step(self) -> Any:
        """One step. What reads a parameter afterwards waits for it.

        Returns:
            How far it is, and why it failed.
        """
        params = [param._core.id for group in self._groups for param in group["params"]]
        begun = self._world.client.begin(
            "step",
            "run_step",
            {"optimizer_id": self._id},
            uses=[self._id, *params],
            touches=params,
            where=line(),
        )
        return self._world.face(begun)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all parameters."""
        params = {"optimizer_id": self._id, "set_to_none": set_to_none}
        self._world.client.post("clear_grad", params, uses=[self._id], where=line())

    @property
    def param_groups(self) -> NoReturn:
        """There is none here: what was changed in it wouldn't reach the node."""
        raise UsageError(
            "the groups of a remote optimizer are on the node",
            "read optimizer.options; change them with optimizer.set_options(lr=…)",
        )

    async def _create(self, defaults: Mapping[str, Any]) -> None:
        sent = [{"params": [p._core.ref for p in g["params"]], "options": _options(g)} for g in self._groups]
        params = {"optimizer_id": self._id, "optimizer_name": self.name, "params": sent, "defaults": dict(defaults)}
        uses = [param._core.id for group in self._groups for param in group["params"]]
        state = await self._world.client.ask("create_optimizer", params, uses)
        self._world.client.keep(self, self._id)
        self.options = [group["options"] for group in state["param_groups"]]

    async def _set_options(self, group: int = 0, /, **options: Any) -> None:
        """Set options of a group, as a schedule of learning rates does.

        Raises:
            PlanError: there is no such option, or torch refuses the value.
        """
        params = {"optimizer_id": self._id, "group": group, "options": options}
        state = await self._world.client.ask("set_options", params, [self._id])
        self.options = [each["options"] for each in state["param_groups"]]

    async def _add_param_group(self, group: Mapping[str, Any]) -> None:
        """As `torch.optim.Optimizer.add_param_group`."""
        (added,) = groups_of([group])
        sent = {"params": [param._core.ref for param in added["params"]], "options": _options(added)}
        params = {"optimizer_id": self._id, "param_group": sent}
        state = await self._world.client.ask("add_param_group", params, [self._id])
        self._groups.append(added)
        self.options = [each["options"] for each in state["param_groups"]]

    async def _state(self) -> dict[str, Any]:
        """What it keeps for each parameter: numbers, and dtype and shape of tensors, by the parameter's id."""
        state = await self._world.client.ask("get_optimizer", {"optimizer_id": self._id}, [self._id])
        kept: dict[str, Any] = state["state"]
        return kept


class AsyncRemoteOptimizer(_Optimizer):
    """An optimizer on the node, for coroutines. Made by `await grid.optimizer(…)`."""

    set_options = _Optimizer._set_options
    add_param_group = _Optimizer._add_param_group
    state = _Optimizer._state


class RemoteOptimizer(_Optimizer):
    """An optimizer on the node.

    Example:
        >>> optimizer = grid.optimizer("SGD", net.parameters(), lr=0.1)             # doctest: +SKIP
        >>> optimizer.step()                                                        # doctest: +SKIP
        <step 2, pending>
    """

    @property
    def _core(self) -> RemoteOptimizer:
        return self

    set_options = sync(_Optimizer._set_options)
    add_param_group = sync(_Optimizer._add_param_group)
    state = sync(_Optimizer._state)


async def create(kind: type[Any], world: World, name: str, params: Iterable[Any], defaults: Mapping[str, Any]) -> Any:
    """An optimizer of this kind.

    Raises:
        UsageError: a parameter isn't a remote tensor of this session.
        PlanError: there is no such optimizer, or torch refuses the options.
    """
    made = kind(world, name, groups_of(params), [])
    for group in made._groups:
        for param in group["params"]:
            if param._core.world is not world:
                raise UsageError("a parameter is of another session", "an optimizer lives where its parameters do")
    await made._create(defaults)
    return made


def groups_of(params: Iterable[Any]) -> list[dict[str, Any]]:
    """Tensors, or dicts with ``"params"`` and options, as groups."""
    given = [params] if isinstance(params, torch.Tensor) else list(params)
    if not given:
        raise UsageError("an optimizer needs parameters", "pass net.parameters(), of a remote net")
    groups = [dict(each) for each in given] if isinstance(given[0], Mapping) else [{"params": given}]
    for group in groups:
        tensors = group.get("params", ())
        group["params"] = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
        if not group["params"] or not all(isinstance(tensor, Remote) for tensor in group["params"]):
            raise UsageError(
                "the parameters of a remote optimizer are remote tensors", "make them so: net = grid.module(net)"
            )
    return groups


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}
