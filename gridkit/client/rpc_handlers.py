"""What a node may ask of a notebook, one coroutine a method. Subclasses may do something else, or more, with each."""

from __future__ import annotations

from typing import Any, Final

from gridkit.client.rpc_callables import Callables, cancelled
from gridkit.client.rpc_calls import Call, Progress
from gridkit.client.rpc_mirror import Mirror
from gridkit.errors import GridkitError, RunError
from gridkit.wire.rpc.messages import Id

OK: Final = {"message": "Ok"}


class Handlers:
    """The ``rpc_*`` methods of an `RpcClient`.

    The node's messages are handled strictly one after another, so a handler must be quick, and can't wait for a call of
    its own; only `rpc_run_callable` is a task for each request. `params` has the members that the method's schema has
    (`gridkit.wire.rpc.v1.TO_CLIENT`), read and checked: arrays are NumPy's, references are those of
    `gridkit.wire.rpc.values`. What a handler returns is answered if it was a request; what it raises too.

    Attributes:
        mirror: of the session's variables and graph.
    """

    mirror: Mirror
    _callables: Callables
    _calls: dict[Id, Call]

    async def rpc_heartbeat(self, params: dict[str, Any]) -> None:
        """A call is being worked on: its `Progress`. (That this is a sign of life was noted when it came.)"""
        if (call := self._calls.get(params["id"])) is not None:
            call.tell(Progress(params["phase"], params["done"], params["total"], params["ahead"]))

    async def rpc_cancel(self, params: dict[str, Any]) -> None:
        """The node doesn't want the result of a function any more. A coroutine function is ended; another one has its
        own calls ended, and what it returns is answered all the same."""
        if (run := self._callables.runs.get(params["id"])) is not None:
            run.cancel()
            for call in list(self._calls.values()):
                if call.run is run:
                    call.fail(cancelled())

    async def rpc_create_variable(self, params: dict[str, Any]) -> dict[str, str]:
        """There is a variable: `Mirror.create_variable`."""
        self.mirror.create_variable(**params)
        return OK

    async def rpc_update_variable(self, params: dict[str, Any]) -> dict[str, str]:
        """A field of a variable is something else now: `Mirror.update_variable`."""
        self.mirror.update_variable(**params)
        return OK

    async def rpc_append_grad(self, params: dict[str, Any]) -> dict[str, str]:
        """A pass added to a gradient: `Mirror.append_grad`."""
        self.mirror.append_grad(**params)
        return OK

    async def rpc_create_node(self, params: dict[str, Any]) -> dict[str, str]:
        """There is a node of the graph: `Mirror.create_node`."""
        self.mirror.create_node(**params)
        return OK

    async def rpc_create_edge(self, params: dict[str, Any]) -> dict[str, str]:
        """Two nodes hang together: `Mirror.create_edge`."""
        self.mirror.create_edge(**params)
        return OK

    async def rpc_free_nodes(self, params: dict[str, Any]) -> dict[str, str]:
        """Nodes gave back what they kept: `Mirror.free_nodes`."""
        self.mirror.free_nodes(**params)
        return OK

    async def rpc_node_fired(self, params: dict[str, Any]) -> dict[str, str]:
        """A gradient went through a node: `Mirror.node_fired`. Some of these may be missing."""
        self.mirror.node_fired(**params)
        return OK

    async def rpc_update_model(self, params: dict[str, Any]) -> dict[str, str]:
        """The node counted something of a module: `Mirror.update_model`."""
        self.mirror.update_model(**params)
        return OK

    async def rpc_run_callable(self, params: dict[str, Any]) -> dict[str, Any]:
        """Run a function of this notebook, for the request `params["id"]`: ``{"message": "Ok", "data": result}``.

        Raises:
            NotFoundError: it isn't exposed (any more).
            LimitError: too many run, or they nest too deep.
            Whatever the function raises.
        """
        asked = self._calls.get(params["parent"])
        run = self._callables.run(params["id"], asked, params["callable_id"], params["args"], params["kwargs"])
        return {**OK, "data": await run}

    async def rpc_clear_backward(self, params: dict[str, Any]) -> dict[str, str]:
        """A backward pass is over: `Mirror.end`."""
        self.mirror.end(params["pass_id"], params["variable_ids"], _error_of(params, f"pass {params['pass_id']}"))
        return OK

    async def rpc_clear_step(self, params: dict[str, Any]) -> dict[str, str]:
        """A step of an optimizer is over: `Mirror.end`."""
        self.mirror.end(params["step_id"], params["variable_ids"], _error_of(params, f"step {params['step_id']}"))
        return OK

    async def rpc_log(self, params: dict[str, Any]) -> dict[str, str]:
        """A line for the person at the notebook."""
        self._say(params["text"])
        return OK

    def _say(self, line: str) -> None:
        raise NotImplementedError


def _error_of(params: dict[str, Any], what: str) -> GridkitError | None:
    match params["status"]:
        case "done":
            return None
        case "failed":
            return RunError(params["reason"] or f"{what} failed")
        case _:
            return RunError(f"{what} was cancelled")
