"""The methods of the plain profile: what afnio's client sends and takes, and the tests of the link.

Names and members are the client's; a tensor is a number, a text, or nested lists. Members that aren't here are ignored:
that client adds its `run_uuid` to everything.

Source: specs of afnio 0.1.0 to 0.3.7 as observed on the wire.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from gridkit.wire.rpc.members import (
    Count,
    Members,
    Name,
    NamedValues,
    Names,
    RequestId,
    Text,
    Value,
    Values,
    VariableRef,
    VariableRefs,
    of_field,
)

Kind = Literal["__variable__", "__parameter__"]


class PlainMembers(Members):
    """Base: members that aren't known are ignored."""

    model_config = ConfigDict(extra="ignore")


class Gradient(PlainMembers):
    """A tensor inside of another message."""

    data: Any
    role: Text
    requires_grad: bool


# ---- to the node


class Anything(Members):
    """Any members."""

    model_config = ConfigDict(extra="allow")


class LoopbackCall(PlainMembers):
    """One call back."""

    method: Name
    params: dict[str, Any] = Field(default_factory=dict)
    notify: bool = False
    delay: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False, strict=False)] = 0.0
    """seconds before it"""


class Loopback(PlainMembers):
    """Have the node call its caller: a test of that direction."""

    calls: Annotated[list[LoopbackCall], Field(max_length=1000)]


class DropConnection(PlainMembers):
    """Have the node cut this link: a test of what follows. `code`: the WebSocket's; None: without one."""

    code: Annotated[int, Field(ge=1000, le=4999)] | None = None
    delay: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False, strict=False)] = 0.0


class CreateVariable(PlainMembers):
    data: Any
    role: Text
    requires_grad: bool
    obj_type: Kind


class ReadVariable(PlainMembers):
    variable_id: Name


FieldName = Literal["data", "role", "requires_grad", "is_leaf", "_retain_grad", "_output_nr", "_grad", "_grad_fn"]
_OF_NODE: dict[str, TypeAdapter[Any]] = {
    "data": TypeAdapter(Any),
    "role": TypeAdapter(Text),
    "requires_grad": TypeAdapter(bool),
    "is_leaf": TypeAdapter(bool),
    "_retain_grad": TypeAdapter(bool),
    "_output_nr": TypeAdapter(Count),
    "_grad": TypeAdapter(VariableRefs),
    "_grad_fn": TypeAdapter(Name | None),
}
_OF_CLIENT = _OF_NODE | {"_grad": TypeAdapter(list[Gradient])}


class UpdateVariable(PlainMembers):
    """One field of a variable. The answer repeats the value as it came, digit by digit."""

    variable_id: Name
    field: FieldName
    value: Annotated[Any, of_field(_OF_NODE)]


class AppendGrad(PlainMembers):
    variable_id: Name
    gradient: VariableRef


class RunFunction(PlainMembers):
    function_name: Name
    args: Values = Field(default_factory=list)
    kwargs: NamedValues = Field(default_factory=dict)
    grad_enabled: bool = True


class BackpropIds(PlainMembers):
    variables: VariableRefs


class RunBackward(PlainMembers):
    variables: VariableRefs
    grad_variables: Value = None
    """a reference, a list of references and nulls, or null"""
    retain_graph: bool | None = None
    create_graph: bool = False
    inputs: VariableRefs | None = None


class CreateOptimizer(PlainMembers):
    optimizer_name: Name
    params: Values
    """references, or groups: objects with ``params``"""
    defaults: NamedValues = Field(default_factory=dict)


class AddParamGroup(PlainMembers):
    optimizer_id: Name
    param_group: NamedValues


class OptimizerId(PlainMembers):
    optimizer_id: Name


# ---- to the client


class Heartbeat(PlainMembers):
    id: RequestId


class ShowVariable(PlainMembers):
    variable_id: Name
    obj_type: Kind
    data: Any
    role: Text
    requires_grad: bool
    retain_grad: Annotated[bool, Field(alias="_retain_grad")]
    grad: Annotated[VariableRefs, Field(alias="_grad")]
    output_nr: Annotated[Count, Field(alias="_output_nr")]
    grad_fn: Annotated[Name | None, Field(alias="_grad_fn")]
    is_leaf: bool


class ShowUpdate(PlainMembers):
    variable_id: Name
    field: FieldName
    value: Annotated[Any, of_field(_OF_CLIENT)]


class ShowGrad(PlainMembers):
    variable_id: Name
    gradient_id: Name
    gradient: Gradient


class ShowNode(PlainMembers):
    node_id: Name
    name: Name


class ShowEdge(PlainMembers):
    """From a node to where its gradient goes."""

    from_node_id: Name
    to_node_id: Name | None
    output_nr: Count


class UpdateModel(PlainMembers):
    """`usage` is what a node counts; nothing else of a model is the node's to write."""

    model_id: Name
    field: Literal["usage"]
    value: Any


class RunCallable(PlainMembers):
    callable_id: Name
    args: Values
    kwargs: NamedValues


class Clear(PlainMembers):
    variable_ids: Names


TO_NODE: dict[str, type[Members]] = {
    "echo": Anything,
    "loopback": Loopback,
    "drop_connection": DropConnection,
    "create_variable": CreateVariable,
    "get_variable": ReadVariable,
    "update_variable": UpdateVariable,
    "append_grad": AppendGrad,
    "run_function": RunFunction,
    "get_backprop_ids": BackpropIds,
    "run_backward": RunBackward,
    "create_optimizer": CreateOptimizer,
    "add_param_group": AddParamGroup,
    "clear_grad": OptimizerId,
    "run_step": OptimizerId,
}
TO_CLIENT: dict[str, type[Members]] = {
    "heartbeat": Heartbeat,
    "create_variable": ShowVariable,
    "update_variable": ShowUpdate,
    "append_grad": ShowGrad,
    "create_node": ShowNode,
    "create_edge": ShowEdge,
    "update_model": UpdateModel,
    "run_callable": RunCallable,
    "clear_backward": Clear,
    "clear_step": Clear,
}
