"""A session of remote tensors: what a notebook's mirrors stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.autograd.graph import GradientEdge

from gridkit.errors import ErrorCode, PlanError, PrivacyError
from gridkit.runner.tensors.arguments import DTYPES, bad_form, tensors_in, value_of
from gridkit.runner.tensors.failures import told_by_torch
from gridkit.runner.tensors.functions import function_named
from gridkit.runner.tensors.graph import grad_fn_of
from gridkit.runner.tensors.ledger import is_private
from gridkit.runner.tensors.optimizers import Optimizers, State
from gridkit.runner.tensors.passes import Emit, Pass, reached
from gridkit.runner.tensors.privacy import UNMARKED_CHANGES, Privacy, any_private, refuse_to_read
from gridkit.runner.tensors.sizes import Sizer
from gridkit.runner.tensors.variables import Told, Variables, array_of, dtype_name, grad_of, tensor_of
from gridkit.wire.tensors import Array


class TensorSession:
    """Tensors, their autograd graph and optimizers, all by ids that the caller chooses.

    Everything runs in the order of the calls, so a caller may name in one call what the last one makes, without
    waiting. Results are those of torch at one thread, bit for bit. A call that fails changes nothing, but for what
    torch itself changed in place before it failed: a backward pass may have added to some gradients, an optimizer's
    step may have changed some parameters. torch's generator of random numbers and its number of threads are the
    process's: it is meant to hold one session.

    Args:
        memory: bytes that tensors, gradients, optimizers and what graphs keep may take together. Sizes of results are
            found before they are computed; what a backward pass takes in between isn't foreseen.
        seconds: for how long a backward pass may run; asked at each node.
        count: variables, optimizers and nodes of graphs that there may be together.
        preview: a tensor of at most so many elements is told with its values; 0: no values leave but by `read`.

    Raises:
        PlanError: from every method: `NOT_FOUND` an unknown id, `ALREADY_EXISTS` a taken one, `NOT_ALLOWED` a function
            or a field that isn't listed, `BAD_INPUT` what torch refuses (its error is the cause), `OUT_OF_MEMORY`,
            `TOO_MANY`, `TIMED_OUT`.
        PrivacyError: from those that would tell of private tensors' values; see `privacy`.

    Example:
        >>> session = TensorSession(memory=1 << 20, seconds=10, count=1000)
        >>> told = session.create("x", np.array([1.0, 2.0], np.float32), requires_grad=True)
        >>> x = {"__variable__": True, "variable_id": "x"}
        >>> told = session.call("torch.Tensor.mul", [x, 3], {}, ["y"])
        >>> told.variables[0].grad_fn, [node.name for node in told.nodes]
        (2, ['AccumulateGrad', 'MulBackward0'])
    """

    def __init__(self, memory: int, seconds: float, count: int, preview: int = 0) -> None:
        self._variables = Variables(memory, count, preview)
        self._ledger = self._variables.ledger
        self._privacy = Privacy(self._ledger)
        self._optimizers = Optimizers(self._variables, self._privacy)
        self._sizer = Sizer()
        self._seconds = seconds

    @property
    def held(self) -> int:
        """Bytes that are taken."""
        self._ledger.sweep()
        return self._ledger.held

    def __len__(self) -> int:
        """Number of variables, optimizers and nodes of graphs."""
        self._ledger.sweep()
        return len(self._ledger)

    # -- variables

    def create(
        self, id: str, array: Array, requires_grad: bool = False, parameter: bool = False, private: bool = False
    ) -> Told:
        """A leaf with these values, in a dtype that torch has under the same name.

        Args:
            parameter: make it an nn.Parameter.
            private: its values don't leave the session, nor does what is computed from them; see `privacy`.
        """
        self._variables.check_new([id])
        self._ledger.check_room(array.nbytes, f"tensor {id!r}")
        with told_by_torch(f"tensor {id!r}"):
            tensor = tensor_of(array)
            tensor = torch.nn.Parameter(tensor, requires_grad) if parameter else tensor.requires_grad_(requires_grad)
        if private:
            self._privacy.renew()
            self._privacy.hide([tensor])
        self._variables.add(id, tensor)
        return self._variables.told([id])

    def tensor(self, id: str) -> torch.Tensor:
        """The tensor itself, private or not: for what the node does with its own."""
        return self._variables.find(id)

    def size(self, id: str) -> int:
        """Bytes of a tensor's values."""
        return self._variables.find(id).nbytes

    def read(self, id: str) -> Array:
        """A copy of a tensor's values; bfloat16 as float32.

        Raises:
            PrivacyError: it is private.
        """
        tensor = self._variables.find(id)
        if is_private(tensor):
            raise refuse_to_read(f"tensor {id!r}")
        with told_by_torch(f"tensor {id!r}"):
            return array_of(tensor)

    def update(self, id: str, field: str, value: Any) -> Told:
        """Set what may be set of a variable.

        Args:
            field: "data" (an array of the same shape and dtype, copied into the tensor), "requires_grad" (bool),
                "retains_grad" (True), or "grad" (None, or a reference to a tensor).
        """
        tensor = self._variables.find(id)
        with told_by_torch(f"{field!r} of tensor {id!r}"):
            if field == "data":
                self._overwrite(tensor, value)
                return self._variables.told([id], self._variables.sharing([tensor]))
            if field == "requires_grad" and isinstance(value, bool):
                tensor.requires_grad = value
            elif field == "retains_grad" and value is True:
                tensor.retain_grad()
            elif field == "grad":
                tensor.grad = value_of(value, self._variables.find)
            else:
                hint = "data, requires_grad (true or false), retains_grad (true) and grad can be set"
                raise PlanError(f"{field!r} of tensor {id!r} can't be set to that", hint, code=ErrorCode.NOT_ALLOWED)
        return self._counted(id)

    def _counted(self, id: str) -> Told:
        """What is told of a variable, and of its other names, when its gradient may have changed."""
        names = self._variables.names(self._variables.find(id))
        for name in names:
            self._variables.count_in(name)
        return self._variables.told([id], names)

    def _overwrite(self, tensor: torch.Tensor, array: Array) -> None:
        if array.shape != tuple(tensor.shape) or array.dtype.name != dtype_name(tensor.dtype):
            raise bad_form(
                f"it is {dtype_name(tensor.dtype)}{list(tensor.shape)}, got {array.dtype.name}{list(array.shape)}"
            )
        self._ledger.check_room(array.nbytes, "the new data")
        with torch.no_grad():
            tensor.copy_(tensor_of(array))

    def name_grad(self, id: str, out_id: str) -> Told:
        """Give the gradient of a variable an id of its own; nothing is told if it has none."""
        tensor = self._variables.find(id)
        self._variables.check_new([out_id])
        grad = grad_of(tensor)
        if grad is None:
            return Told()
        self._variables.add(out_id, grad)
        return self._variables.told([out_id])

    def append_grad(self, id: str, gradient: str) -> Told:
        """Add a tensor to the gradient of a leaf, or of one that retains its gradient, as a backward pass does."""
        tensor, added = self._variables.find(id), self._variables.find(gradient)
        self._ledger.check_room(tensor.nbytes, f"the gradient of tensor {id!r}")
        with told_by_torch(f"the gradient of tensor {id!r}"), torch.no_grad():
            if not (tensor.requires_grad and grad_fn_of(tensor) is None) and not tensor.retains_grad:
                raise bad_form(f"tensor {id!r} is no leaf that requires a gradient, and doesn't retain it")
            private = any_private([tensor.grad, added])
            tensor.grad = added.detach().clone() if tensor.grad is None else tensor.grad + added
            if private:
                self._privacy.hide([tensor.grad])
        return self._counted(id)

    def delete(self, ids: Sequence[str]) -> None:
        """Forget variables and optimizers. Those that aren't there are no error: they are gone, as asked.

        What a graph or an optimizer needs of them stays until that goes.
        """
        for id in ids:
            if self._variables.has(id):
                self._variables.remove(id)
            else:
                self._optimizers.remove(id)
        self._ledger.sweep()

    def seed(self, number: int) -> None:
        """As `torch.manual_seed`: dropout and the like draw what they draw in a local run with that seed."""
        with told_by_torch("the seed"):
            torch.default_generator.manual_seed(number)  # torch.manual_seed keeps a list for other devices
        self._privacy.seed()

    # -- functions

    def call(
        self,
        function: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        out_ids: Sequence[str],
        *,
        grad_enabled: bool = True,
    ) -> Told:
        """Run a function of torch.

        Args:
            function: its name, a key of `FUNCTIONS`.
            args, kwargs: JSON forms; see `arguments`.
            out_ids: one for each tensor of the result, lists in order. The id of an argument stands for a result that
                is this very tensor, as in-place functions give it; a new id is then a further name of it.

        Returns:
            The results, with what is new in the graph. `changed` has whatever shares memory with what was changed in
            place, by then with other values, versions and nodes.
        """
        run = function_named(function)
        positional = [value_of(arg, self._variables.find) for arg in args]
        named = {name: value_of(arg, self._variables.find) for name, arg in kwargs.items()}
        if "out" in named or named.get("device") not in (None, "cpu"):
            raise bad_form(f"{function}: results are new tensors on the node's CPU, without out= or another device=")
        given = tensors_in([positional, named])
        private = any_private(given)
        with told_by_torch(function):
            sizes = self._sizer.sizes(function, run, positional, named, private)
        if sizes.results is not None:
            self._check_results(function, out_ids, sizes.results, given)
        self._variables.check_new([name for name in out_ids if not self._variables.has(name)])
        graph = grad_enabled and any(tensor.requires_grad for tensor in given)
        brought = self._ledger.unheld(given)
        self._ledger.check_room(brought + (sizes.graph if graph else sizes.peak), function)
        versions = [tensor._version for tensor in given]
        try:
            with self._privacy.guard(function, private), torch.set_grad_enabled(grad_enabled):
                results = tensors_in(run(*positional, **named))
        finally:  # what failed may have changed something before
            changed = [tensor for tensor, version in zip(given, versions, strict=True) if tensor._version != version]
            if private:
                self._privacy.hide(given if function in UNMARKED_CHANGES else changed)
        if private:
            self._privacy.hide(results)
            if tuple(tuple(tensor.shape) for tensor in results) != sizes.shapes:
                raise self._privacy.spoil(function)
        places = {id(tensor): place for place, tensor in enumerate(given)}
        self._check_results(function, out_ids, [places.get(id(tensor)) for tensor in results], given)
        for tensor in results:
            if tensor.dtype not in DTYPES.values() or tensor.layout != torch.strided or tensor.device.type != "cpu":
                raise bad_form(f"{function} gives a tensor of {tensor.dtype} on {tensor.device}, which isn't kept here")
        for name, tensor in zip(out_ids, results, strict=True):
            if not self._variables.has(name):
                self._variables.add(name, tensor)
        return self._variables.told(out_ids, self._variables.sharing(changed))

    def _check_results(
        self, function: str, out_ids: Sequence[str], results: Sequence[int | None], given: Sequence[torch.Tensor]
    ) -> None:
        """The ids are as many as the results, and an id that is taken is that of the argument that comes back."""
        if len(out_ids) != len(results):
            raise bad_form(f"{function} gives {len(results)} tensors; {len(out_ids)} ids are there for them")
        for id, place in zip(out_ids, results, strict=True):
            if self._variables.has(id) and (place is None or self._variables.find(id) is not given[place]):
                hint = "give results ids of their own"
                raise PlanError(f"{function}: the id {id!r} is taken", hint, code=ErrorCode.ALREADY_EXISTS)

    # -- backward passes

    def reached(self, roots: Sequence[str], inputs: Sequence[str] | None = None) -> list[str]:
        """The ids of the variables whose gradient a backward pass from these roots would set."""
        tensors = [self._variables.find(id) for id in roots]
        with told_by_torch("backward"):
            way = Pass(self._variables, tensors, self._seconds)
        return self._reached(way, None if inputs is None else [self._variables.find(id) for id in inputs])

    def extent(self, roots: Sequence[str]) -> int:
        """How many nodes a backward pass from these roots may come through."""
        tensors = [self._variables.find(id) for id in roots]
        with told_by_torch("backward"):
            return len(Pass(self._variables, tensors, self._seconds).nodes)

    def _reached(self, way: Pass, inputs: Sequence[torch.Tensor] | None) -> list[str]:
        if inputs is None:
            return reached(self._variables, way.nodes)
        return [name for tensor in inputs for name in self._variables.names(tensor)]

    def backward(
        self,
        roots: Sequence[str],
        gradients: Sequence[str | None] | None = None,
        *,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Sequence[str] | None = None,
        emit: Emit | None = None,
    ) -> Told:
        """As `torch.autograd.backward`.

        Args:
            gradients: one for each root; None for a scalar's one.
            inputs: the only variables whose gradients are set.
            emit: told of each node and gradient, while the pass runs. It must not wait. An error of gridkit's that it
                raises ends the pass and comes out here.

        Returns:
            As `variables` those whose gradient was set, as `changed` gradients with an id that were added to, and which
            nodes were freed.
        """
        tensors = [self._variables.find(id) for id in roots]
        given = self._gradients(gradients)
        only = None if inputs is None else [self._variables.find(id) for id in inputs]
        for id in inputs or ():
            if grad_fn_of(self._variables.find(id)) is not None:  # torch makes them retain their gradient
                self.update(id, "retains_grad", True)
        with told_by_torch("backward"):
            way = Pass(self._variables, tensors, self._seconds, emit, gradients=given)
        self._check_private(way, create_graph)
        touched = self._reached(way, only)
        freed: list[int] = []
        grown = [tensor for tensor in way.grown() if way.private or any_private([tensor.grad])]
        try:
            with self._privacy.guard("backward", way.private, way.fired), way.watched():
                torch.autograd.backward(tensors, given, retain_graph, create_graph, inputs=only)
        finally:
            self._privacy.hide(tensor.grad for tensor in grown)
            if not (create_graph if retain_graph is None else retain_graph):
                freed = self._variables.graph.freed(way.fired)
            for name in touched:
                self._variables.count_in(name)
        told = self._variables.told(touched, self._variables.sharing_grads(touched))
        return replace(told, freed=tuple(freed))

    def grad(
        self,
        roots: Sequence[str],
        inputs: Sequence[str | tuple[int, int]],
        out_ids: Sequence[str],
        gradients: Sequence[str | None] | None = None,
        *,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        allow_unused: bool = False,
        emit: Emit | None = None,
    ) -> Told:
        """As `torch.autograd.grad`: gradients as tensors of their own; no variable's own gradient is touched.

        Args:
            inputs: variables, or (node, output_nr): an edge of the graph.
            out_ids: one for each input. With `allow_unused`, an input that isn't part of the graph gives none.

        Returns:
            As `variables` the gradients.
        """
        if len(out_ids) != len(inputs):
            raise bad_form(f"there are {len(inputs)} inputs and {len(out_ids)} ids for their gradients")
        tensors = [self._variables.find(id) for id in roots]
        given = self._gradients(gradients)
        self._variables.check_new(out_ids)
        with told_by_torch("grad"):
            way = Pass(self._variables, tensors, self._seconds, emit, append=False, gradients=given)
        self._check_private(way, create_graph)
        wanted: list[Any] = [
            self._edge(way, input) if isinstance(input, tuple) else self._variables.find(input) for input in inputs
        ]
        self._ledger.check_room(sum(t.nbytes for t in wanted if isinstance(t, torch.Tensor)), "the gradients")
        freed: list[int] = []
        try:
            with self._privacy.guard("grad", way.private, way.fired), way.watched():
                found = torch.autograd.grad(
                    tensors, wanted, given, retain_graph, create_graph, allow_unused=allow_unused
                )
        finally:
            if not (create_graph if retain_graph is None else retain_graph):
                freed = self._variables.graph.freed(way.fired)
        made = [(id, tensor) for id, tensor in zip(out_ids, found, strict=True) if tensor is not None]
        if way.private:
            self._privacy.hide(tensor for _, tensor in made)
        for id, tensor in made:
            self._variables.add(id, tensor)
        return replace(self._variables.told([id for id, _ in made]), freed=tuple(freed))

    def _check_private(self, way: Pass, create_graph: bool) -> None:
        if way.private and create_graph:
            raise PrivacyError(
                "a pass through private tensors can't create a graph: what that looks like may depend on their values",
                "leave create_graph out",
            )

    def _gradients(self, gradients: Sequence[str | None] | None) -> list[torch.Tensor | None] | None:
        if gradients is None:
            return None
        return [None if id is None else self._variables.find(id) for id in gradients]

    def _edge(self, way: Pass, edge: tuple[int, int]) -> GradientEdge:
        for node in way.nodes:
            if self._variables.graph.number(node) == edge[0]:
                return GradientEdge(node, edge[1])
        raise PlanError(
            f"node {edge[0]} isn't in the graph behind the roots",
            "ask the mirror for its graph()",
            code=ErrorCode.NOT_FOUND,
        )

    # -- optimizers

    def create_optimizer(
        self, id: str, name: str, groups: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any]
    ) -> State:
        """An optimizer of torch.optim.

        Args:
            name: such as "SGD"; a key of `optimizers.KINDS`.
            groups: ``{"params": [ids], …}``, with values of a group's own for what `defaults` has.
            defaults: keyword arguments, such as ``{"lr": 0.1}``.
        """
        return self._optimizers.create(id, name, groups, defaults)

    def add_group(self, id: str, group: Mapping[str, Any]) -> State:
        """As `add_param_group`."""
        return self._optimizers.add_group(id, group)

    def set_options(self, id: str, group: int, options: Mapping[str, Any]) -> State:
        """Set values of a group, as a schedule of learning rates does."""
        return self._optimizers.set_options(id, group, options)

    def step(self, id: str) -> Told:
        """One step. `variables`: the parameters; `changed`: what shares memory with them."""
        return self._optimizers.step(id)

    def stepped(self, id: str) -> list[str]:
        """The ids of the variables that a step of this optimizer may change."""
        return self._optimizers.stepped(id)

    def zero_grad(self, id: str, set_to_none: bool = True) -> Told:
        """Clear the gradients of its parameters, which are `variables`."""
        return self._optimizers.zero_grad(id, set_to_none)

    def state(self, id: str) -> State:
        """What an optimizer has: its groups, and what it keeps for each parameter."""
        return self._optimizers.state(id)

    def name_state(self, id: str, param: str, key: str, out_id: str) -> Told:
        """Give a tensor that an optimizer keeps for a parameter, such as its momentum_buffer, an id."""
        return self._optimizers.name_state(id, param, key, out_id)
