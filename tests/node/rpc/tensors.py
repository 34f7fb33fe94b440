"""A notebook of `gridkit.v1` that works with tensors on a node, as plainly as the messages allow."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np

from gridkit.client.rpc_mirror import Mirror
from gridkit.wire.rpc.messages import Failure, Notification, Reply
from gridkit.wire.rpc.schemas import Direction, checked
from gridkit.wire.rpc.values import Body, Variable, decode, encode
from gridkit.wire.tensors import Array
from tests.node.rpc.ends import V1
from tests.support import NodeUnderTest


def ref(name: str) -> dict[str, Any]:
    return {"__variable__": True, "variable_id": name}


class Notebook(V1):
    """Takes what is told into a mirror, by the schemas, as the client does."""

    def __init__(self, node: NodeUnderTest, **options: Any) -> None:
        super().__init__(node, **options)
        self.mirror = Mirror()
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.steps, self.cut_at = 0, -1

    async def step(self) -> None:
        """Take one WebSocket message; after `cut_at` of them the link is another one."""
        if self.steps == self.cut_at:
            await self.cut()
            await self.open()
        self.steps += 1
        await super().step()

    def _sort(self, message: Any, bodies: tuple[memoryview, ...]) -> None:
        super()._sort(message, bodies)
        if isinstance(message, Notification) and message.method != "heartbeat":
            self.asked.clear()
            params = vars(checked(message, Direction.TO_CLIENT, bodies=bodies))
            self.said.append((message.method, params))
            if message.method in ("create_variable", "update_variable", "create_node", "create_edge", "append_grad"):
                getattr(self.mirror, message.method)(**params)

    def forget(self) -> None:
        """All that was told."""
        self.mirror = Mirror()
        for kept in (self.said, self.order, self.replies, self.bodies, self.beats, self.asked):
            kept.clear()

    @property
    def told(self) -> list[str]:
        """The methods of what was told, since this was read last."""
        methods = [method for method, _ in self.said]
        self.said.clear()
        return methods

    async def ask(self, method: str, **params: Any) -> int:
        """Send it with its tensors; the request's id."""
        bodies: list[Body] = []
        form = encode(params, bodies)
        while not self.channel.room(bytes(1000), bodies):
            await self.step()
        return await self.send(method, form, [bytes(body) for body in bodies])

    async def do(self, method: str, **params: Any) -> Any:
        """The result, decoded."""
        asked = await self.ask(method, **params)
        reply = await self.reply(asked)
        assert isinstance(reply, Reply), reply
        return decode(reply.result, self.bodies[asked])

    async def refused(self, asked: int) -> dict[str, Any]:
        """The data of a failure."""
        reply = await self.reply(asked)
        assert isinstance(reply, Failure), reply
        return reply.data

    async def tensor(self, name: str, data: Any, requires_grad: bool = False, dtype: str = "float32") -> int:
        return await self.ask(
            "create_variable", variable_id=name, data=np.array(data, dtype), requires_grad=requires_grad
        )

    async def run(self, function: str, args: Sequence[Any], out: str, **kwargs: Any) -> int:
        """A function of torch on variables, which are given by their names."""
        given = [Variable(arg) if isinstance(arg, str) else arg for arg in args]
        return await self.ask(
            "run_function", function_name=function, args=given, kwargs=kwargs, out_ids=[out], grad_enabled=True
        )

    async def backward(self, root: str, pass_id: str = "1", **options: Any) -> int:
        return await self.ask("run_backward", pass_id=pass_id, variables=[Variable(root)], **options)

    async def read(self, name: str) -> Array:
        array: Array = (await self.do("get_variable", variable_id=name))["data"]
        return array


def shared(test: Callable[[Notebook], Coroutine[Any, Any, None]]) -> Callable[[Notebook], None]:
    """A test of the one notebook, over a link of its own; all that it makes is gone afterwards."""

    @functools.wraps(test)
    def run(book: Notebook) -> None:
        async def linked() -> None:
            await book.open()
            await test(book)
            assert await book.do("delete_variables", variable_ids=[*book.mirror.variables, "o"]) == {}
            await book.cut()
            book.forget()

        asyncio.run(linked())

    return run
