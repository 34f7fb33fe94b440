"""The methods of `gridkit.v1`: remote tensors with their graph, functions that stay in the notebook, slow work.

Ids of variables, optimizers, passes and steps are the notebook's to choose, so it can speak of what isn't there yet.
Nodes of the graph have numbers, which are the node's. Everything about the graph goes ahead of the reply that it
explains: nodes (the deepest first), edges, variables.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, InstanceOf, TypeAdapter

from gridkit.wire.rpc.members import (
    CallableRef,
    Count,
    Members,
    Name,
    NamedValues,
    Names,
    Number,
    RequestId,
    Text,
    Values,
    VariableRef,
    VariableRefs,
    decoded,
    of_field,
)
from gridkit.wire.rpc.plain import Anything, DropConnection, Loopback
from gridkit.wire.rpc.values import Edge

Array = Annotated[InstanceOf[np.ndarray], BeforeValidator(decoded)]
"""A tensor, with its data in a body of the frame."""
EdgeRef = Annotated[InstanceOf[Edge], BeforeValidator(decoded)]
Shape = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 48)]], Field(max_length=64)]
Ids = Annotated[list[Name], Field(max_length=1000)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=False)]
Outcome = Literal["done", "failed", "cancelled"]


class Tensor(Members):
    """What is told of a tensor; its values where a policy lets them out."""

    dtype: Name
    shape: Shape
    values: Array | None = None


_OF_NODE: dict[str, TypeAdapter[Any]] = {
    "data": TypeAdapter(Array),
    "requires_grad": TypeAdapter(bool),
    "retains_grad": TypeAdapter(bool),
    "grad": TypeAdapter(VariableRef | None),
}
_OF_NOTEBOOK: dict[str, TypeAdapter[Any]] = {
    "data": TypeAdapter(Tensor),
    "requires_grad": TypeAdapter(bool),
    "is_leaf": TypeAdapter(bool),
    "retains_grad": TypeAdapter(bool),
    "output_nr": TypeAdapter(Count),
    "grad_fn": TypeAdapter(Number | None),
    "has_grad": TypeAdapter(bool),
    "private": TypeAdapter(bool),
}


# ---- both ways


class Heartbeat(Members):
    """The request is being worked on. Passing: see `channel`."""

    id: RequestId
    phase: Text | None = None
    done: Number | None = None
    total: Number | None = None
    ahead: Number | None = None
    """requests that are done before it"""


class Cancel(Members):
    """Stop working on the request at the next chance; it is answered all the same."""

    id: RequestId


# ---- to the node


class CreateVariable(Members):
    variable_id: Name
    data: Array
    requires_grad: bool = False
    parameter: bool = False


class VariableId(Members):
    variable_id: Name


class NameGrad(Members):
    """Give a variable's gradient an id of its own."""

    variable_id: Name
    out_id: Name


class UpdateVariable(Members):
    variable_id: Name
    field: Literal["data", "requires_grad", "retains_grad", "grad"]
    value: Annotated[Any, of_field(_OF_NODE)]


class AppendGrad(Members):
    variable_id: Name
    gradient: VariableRef


class DeleteVariables(Members):
    """Nobody in the notebook refers to these variables and optimizers any more."""

    variable_ids: Names


class RunFunction(Members):
    """`out_ids`: one for each tensor of the result, in order."""

    function_name: Name
    args: Values
    kwargs: NamedValues
    out_ids: Ids
    grad_enabled: bool


class RunModel(Members):
    """A module that the node has, in place of a function."""

    model_id: Name
    args: Values
    kwargs: NamedValues
    out_ids: Ids
    grad_enabled: bool


class BackpropIds(Members):
    variables: VariableRefs
    inputs: VariableRefs | None = None


Gradients = Annotated[list[VariableRef | None], Field(max_length=1000)] | None
"""one for each of the variables that a pass begins with; null: ones"""


class RunBackward(Members):
    """As `torch.autograd.backward`."""

    pass_id: Name
    variables: VariableRefs
    grad_variables: Gradients = None
    retain_graph: bool | None = None
    create_graph: bool = False
    inputs: VariableRefs | None = None


class RunGrad(Members):
    """As `torch.autograd.grad`. `out_ids`: one for each of the inputs."""

    pass_id: Name
    variables: VariableRefs
    inputs: Annotated[list[VariableRef | EdgeRef], Field(max_length=1000)]
    out_ids: Ids
    grad_variables: Gradients = None
    retain_graph: bool | None = None
    create_graph: bool = False
    allow_unused: bool = False


class ParamGroup(Members):
    """Parameters of an optimizer, with options of their own."""

    params: VariableRefs
    options: NamedValues = Field(default_factory=dict)


class CreateOptimizer(Members):
    optimizer_id: Name
    optimizer_name: Name
    params: Annotated[list[ParamGroup], Field(max_length=1000)]
    defaults: NamedValues


class AddParamGroup(Members):
    optimizer_id: Name
    param_group: ParamGroup


class SetOptions(Members):
    """As a schedule of learning rates does."""

    optimizer_id: Name
    group: Count
    options: NamedValues


class OptimizerId(Members):
    optimizer_id: Name


class ClearGrad(Members):
    optimizer_id: Name
    set_to_none: bool = True


class RunStep(Members):
    optimizer_id: Name
    step_id: Name


class NameState(Members):
    """Give a tensor that an optimizer keeps for a parameter, such as its momentum_buffer, an id of its own."""

    optimizer_id: Name
    variable_id: Name
    key: Name
    out_id: Name


class OfferFunction(Members):
    """Lend a function to a training of one's own, until that is over: then it is answered."""

    name: Name
    version: Name
    role: Literal["strategy", "evaluate"]
    function: CallableRef


class Seed(Members):
    """As `torch.manual_seed`."""

    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 64)]


# ---- to a session's process, from the node itself


class Reserve(Members):
    """A tensor of zeros, which is filled afterwards."""

    variable_id: Name
    dtype: Name
    shape: Shape
    private: bool


class Fill(Members):
    """Put these values into it, flat, from `start` on."""

    variable_id: Name
    start: Number
    data: Array


class Take(Members):
    """The values of a tensor, private or not, if it is float32 [size]."""

    variable_id: Name
    size: Number


# ---- to the notebook


class ShowVariable(Members):
    """A variable as torch has it. `version`: how often it was changed in place; `private`: its values stay there."""

    variable_id: Name
    data: Tensor
    requires_grad: bool
    is_leaf: bool
    parameter: bool
    retains_grad: bool
    output_nr: Count
    grad_fn: Number | None
    has_grad: bool
    version: Number
    private: bool = False


class ShowUpdate(Members):
    """What became of a variable: a step changed its data, or a change in place its node."""

    variable_id: Name
    field: Literal["data", "requires_grad", "is_leaf", "retains_grad", "output_nr", "grad_fn", "has_grad", "private"]
    value: Annotated[Any, of_field(_OF_NOTEBOOK)]
    version: Number


class ShowGrad(Members):
    """What a pass added to a variable's gradient. `gradient_id`: the gradient can be spoken of."""

    variable_id: Name
    gradient: Tensor
    pass_id: Name | None = None
    gradient_id: Name | None = None


class Saved(Members):
    """A tensor that a node of the graph keeps for the backward pass."""

    name: Name
    shape: Shape


class ShowNode(Members):
    """A node of the graph.

    `sequence`: torch's number of the operation; `variable_id`: of AccumulateGrad; `label` and `line`: what the notebook
    called, and where.
    """

    node_id: Number
    name: Name
    sequence: Number | None = None
    saved: Annotated[list[Saved], Field(max_length=1000)] = Field(default_factory=list)
    variable_id: Name | None = None
    label: Text | None = None
    line: Text | None = None


class ShowEdge(Members):
    """From a node to where its gradient goes; null: there is no gradient. `input_nr`: which of the node's gradients."""

    from_node_id: Number
    to_node_id: Number | None
    output_nr: Count
    input_nr: Count


class FreeNodes(Members):
    """These nodes gave back what they kept: no other pass goes through them."""

    node_ids: Annotated[list[Number], Field(max_length=100_000)]


class NodeFired(Members):
    """A gradient went through a node, with what it passed on along each edge. Passing: see `channel`."""

    pass_id: Name
    node_id: Number
    gradients: Annotated[list[Tensor | None], Field(max_length=10_000)] = Field(default_factory=list)


class UpdateModel(Members):
    """What a node counts of a module that it has, or how it is."""

    model_id: Name
    field: Literal["training", "version", "calls", "samples", "budget"]
    value: bool | Number | Seconds


class RunCallable(Members):
    """`parent`: the notebook's request for which the function is run."""

    callable_id: Name
    args: Values
    kwargs: NamedValues
    parent: RequestId | None = None


class ClearBackward(Members):
    """A pass ended; what it changed was told before."""

    pass_id: Name
    variable_ids: Names
    status: Outcome
    reason: Text | None = None


class ClearStep(Members):
    """A step of an optimizer ended; what it changed was told before."""

    step_id: Name
    variable_ids: Names
    status: Outcome
    reason: Text | None = None


class Log(Members):
    """A line for the person at the notebook."""

    level: Literal["info", "warning"]
    text: Text


TO_NODE: dict[str, type[Members]] = {
    "heartbeat": Heartbeat,
    "cancel": Cancel,
    "echo": Anything,
    "loopback": Loopback,
    "drop_connection": DropConnection,
    "create_variable": CreateVariable,
    "get_variable": VariableId,
    "name_grad": NameGrad,
    "update_variable": UpdateVariable,
    "append_grad": AppendGrad,
    "delete_variables": DeleteVariables,
    "run_function": RunFunction,
    "run_model": RunModel,
    "get_backprop_ids": BackpropIds,
    "run_backward": RunBackward,
    "run_grad": RunGrad,
    "create_optimizer": CreateOptimizer,
    "add_param_group": AddParamGroup,
    "set_options": SetOptions,
    "get_optimizer": OptimizerId,
    "name_state": NameState,
    "clear_grad": ClearGrad,
    "run_step": RunStep,
    "seed": Seed,
    "offer_function": OfferFunction,
}
TO_RUNNER: dict[str, type[Members]] = {
    **TO_NODE,
    "reserve": Reserve,
    "fill": Fill,
    "take": Take,
}
"""What the node asks a session's process: what the notebook asks, and what the node itself puts there."""
TO_CLIENT: dict[str, type[Members]] = {
    "heartbeat": Heartbeat,
    "cancel": Cancel,
    "create_variable": ShowVariable,
    "update_variable": ShowUpdate,
    "append_grad": ShowGrad,
    "create_node": ShowNode,
    "create_edge": ShowEdge,
    "free_nodes": FreeNodes,
    "node_fired": NodeFired,
    "update_model": UpdateModel,
    "run_callable": RunCallable,
    "clear_backward": ClearBackward,
    "clear_step": ClearStep,
    "log": Log,
}
