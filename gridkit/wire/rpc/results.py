"""What comes back from methods: results by direction and profile.

What changed on the node was told ahead of the reply; so most results have nothing to say, or only which of the ids that
were asked for are taken now. A node's results in the plain profile are sentences for afnio's client, and not read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

from pydantic import Field

from gridkit.wire.rpc.members import Members, Name, NamedValues, Names, Text, Value, read_members
from gridkit.wire.rpc.messages import Profile
from gridkit.wire.rpc.plain import TO_NODE, Anything, PlainMembers
from gridkit.wire.rpc.schemas import Direction
from gridkit.wire.rpc.v1 import Array, Tensor
from gridkit.wire.rpc.values import Body


class Done(Members):
    """All was told before."""


class VariableIds(Members):
    """The variables that there are now, or that a pass will reach: of `name_grad` none when there is no gradient."""

    variable_ids: Names


class Data(Members):
    """A tensor's values; bfloat16 as float32."""

    data: Array


class GroupState(Members):
    """Parameters of an optimizer, null for those whose variable was deleted, with their options."""

    params: Annotated[list[Name | None], Field(max_length=100_000)]
    options: NamedValues


class OptimizerState(Members):
    """An optimizer as it is. `state`: what it keeps, by parameter and name, such as momentum_buffer."""

    optimizer_id: Name
    optimizer_name: Name
    defaults: NamedValues
    param_groups: Annotated[list[GroupState], Field(max_length=1000)]
    state: dict[Name, dict[Name, Tensor | Value]]


class Replies(Members):
    """Of `loopback`: for each call an object with its result or its error; null for a notification."""

    replies: Annotated[list[dict[str, Any] | None], Field(max_length=1000)]


class Returned(Members):
    """What a function gave. `message`: "Ok", as the other profile says it."""

    data: Value
    message: Text | None = None


class PlainDone(PlainMembers):
    message: Text


class PlainReturned(PlainDone):
    data: Any = None


_OPTIMIZERS = ("create_optimizer", "add_param_group", "set_options", "get_optimizer")
_MAKERS = ("run_function", "run_model", "run_grad", "name_grad", "name_state", "get_backprop_ids")
RESULTS: Final[dict[tuple[Profile, Direction], dict[str, type[Members]]]] = {
    (Profile.V1, Direction.TO_NODE): {
        "echo": Anything,
        "loopback": Replies,
        "get_variable": Data,
        **dict.fromkeys(_OPTIMIZERS, OptimizerState),
        **dict.fromkeys(_MAKERS, VariableIds),
    },
    (Profile.V1, Direction.TO_CLIENT): {"run_callable": Returned},
    (Profile.PLAIN, Direction.TO_NODE): dict.fromkeys(TO_NODE, Anything),
    (Profile.PLAIN, Direction.TO_CLIENT): {"run_callable": PlainReturned},
}
"""Of those that aren't just `Done`, or `PlainDone`."""


def read_result(
    method: str,
    result: Any,
    direction: Direction,
    profile: Profile = Profile.V1,
    bodies: Sequence[Body] = (),
) -> Members:
    """A result, decoded.

    Args:
        direction: who was asked.
        bodies: those of the reply's frame.

    Raises:
        WireError: `BAD_REQUEST`: it isn't what the method gives.

    >>> read_result("run_function", {"variable_ids": ["y"]}, Direction.TO_NODE)
    VariableIds(variable_ids=['y'])
    """
    plain = profile is Profile.PLAIN
    kind = RESULTS[profile, direction].get(method, PlainDone if plain else Done)
    return read_members(kind, result, None if plain else bodies)
