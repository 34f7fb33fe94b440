"""Remote tensors as afnio's client asks for them: its sentences, its order on the wire, its nested lists."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.node.rpc.ends import Plain, basic, live
from tests.support import NodeUnderTest


class Client:
    """One session's client, and what the node told it, by method."""

    def __init__(self, plain: Plain) -> None:
        self.plain = plain

    async def variable(self, data: Any, requires_grad: bool = False, **more: Any) -> str:
        params = {"data": data, "role": "r", "requires_grad": requires_grad, "obj_type": "__variable__", **more}
        made = await self.plain.call("create_variable", params)
        assert made["message"] == "Variable created successfully."
        return str(made["variable_id"])

    async def run(self, function: str, *args: Any, grad_enabled: bool = True) -> dict[str, Any]:
        params = {"function_name": function, "args": args, "kwargs": {}, "grad_enabled": grad_enabled}
        return dict((await self.plain.call("run_function", params))["data"])

    async def read(self, id: str) -> dict[str, Any]:
        return dict(await self.plain.call("get_variable", {"variable_id": id}))

    async def update(self, id: str, field: str, value: Any) -> None:
        params = {"variable_id": id, "field": field, "value": value}
        assert await self.plain.call("update_variable", params) == params

    async def code(self, method: str, params: dict[str, Any]) -> str:
        reply = await self.plain.reply(await self.plain.send(method, params))
        return str(reply["error"]["data"]["code"])

    @property
    def told(self) -> list[tuple[str, dict[str, Any]]]:
        """Methods and params, since this was read last."""
        asked, self.plain.asked = self.plain.asked, []
        return [(message["method"], message["params"]) for message in asked]


def ref(id: str) -> dict[str, Any]:
    return {"__variable__": True, "variable_id": id}


def test_what_afnio_needs(node: NodeUnderTest) -> None:
    """One session for all of it: its process takes seconds to start."""

    @live
    async def run() -> None:
        plain = await Plain.to(node, authorization=basic("a-notebook"))
        client = Client(plain)
        await variables(client)
        await graph(client)
        await passes(client)
        await optimizers(client)
        await in_place(client)
        await evaluation(client)
        await refusals(client)
        id = await client.variable([1.5])
        plain.socket.transport.abort()
        again = Client(await Plain.to(node, authorization=basic("a-notebook")))
        assert (await again.read(id))["data"] == [1.5]

    run()


async def variables(client: Client) -> None:
    """Whole numbers with a gradient, digits that float32 hasn't, roles."""
    x = await client.variable([1, 2], requires_grad=True)
    assert (await client.read(x))["data"] == [1.0, 2.0]
    n = await client.variable([[1, 2], [3, 4]])
    assert (await client.read(n))["data"] == [[1, 2], [3, 4]]
    await client.update(n, "requires_grad", True)
    read = await client.read(n)
    assert read["requires_grad"] is True and str(read["data"]) == "[[1.0, 2.0], [3.0, 4.0]]"
    await client.update(x, "data", [0.1, 0.123456789012])
    assert (await client.read(x))["data"][0] == 0.1
    await client.update(x, "role", "another")
    assert (await client.read(x))["role"] == "another"
    await client.update(x, "_grad", [ref(await client.variable([1.0, 1.0]))])
    gradient = await client.variable([2.0, 2.0])
    added = await client.plain.call("append_grad", {"variable_id": x, "gradient": ref(gradient)})
    assert added == {"variable_id": x, "gradient_id": gradient}
    assert len((await client.read(x))["grad"]) == 2
    await client.update(x, "_grad", [])
    assert (await client.read(x))["grad"] == []


async def graph(client: Client) -> None:
    a, b = await client.variable([1.0, 2.0], requires_grad=True), await client.variable([10.0, 20.0])
    client.told.clear()
    c = await client.run("Add", ref(a), ref(b))
    assert c["data"] == [11, 22] and c["requires_grad"] and not c["is_leaf"] and c["_grad"] == []
    told = client.told
    assert [method for method, _ in told] == ["create_node", "create_node", "create_edge", "create_edge"]
    leaf, node, one, two = (params for _, params in told)
    assert (leaf["name"], node["name"]) == ("AccumulateGrad", "AddBackward0") and c["_grad_fn"] == node["node_id"]
    assert one == {"from_node_id": node["node_id"], "to_node_id": leaf["node_id"], "output_nr": 0}
    assert two["to_node_id"] is None
    without = await client.run("Add", ref(a), ref(b), grad_enabled=False)
    assert without["_grad_fn"] is None and without["requires_grad"] is False
    total = await client.run("Sum", [ref(a), ref(b), ref(a)])
    assert total["data"] == [12, 24]
    assert (await client.run("Sum", ref(a), 0))["data"] == 3 and (await client.read(a))["data"] == [1, 2]
    assert (await client.run("MatMul", ref(a), ref(b)))["data"] == 50


async def passes(client: Client) -> None:
    x, w = await client.variable([1.0, 2.0], requires_grad=True), await client.variable([3.0, 4.0], requires_grad=True)
    y = await client.run("Mul", ref((await client.run("Add", ref(x), ref(x)))["variable_id"]), ref(w))
    seed = await client.variable([1.0, 1.0])
    reached = await client.plain.call("get_backprop_ids", {"variables": ref(y["variable_id"])})
    assert set(reached["variable_ids"]) == {x, w}
    client.told.clear()
    asked = await client.plain.send("run_backward", {"variables": ref(y["variable_id"]), "grad_variables": ref(seed)})
    reply = await client.plain.reply(asked)
    assert reply["result"] == {"message": "Backward pass executed successfully."}
    gradients = {params["variable_id"]: params for method, params in client.told if method == "append_grad"}
    assert gradients[x]["gradient"]["data"] == [6, 8] and gradients[w]["gradient"]["data"] == [2, 4]
    over = await client.plain.question()  # behind the reply
    assert over["method"] == "clear_backward" and set(over["params"]["variable_ids"]) == {x, w}
    assert (await client.read(x))["grad"] == [ref(gradients[x]["gradient_id"])]
    twice = await client.run("Add", ref(gradients[x]["gradient_id"]), ref(seed))  # it is a variable, too
    assert twice["data"] == [7, 9]
    assert await client.code("run_backward", {"variables": ref(y["variable_id"]), "grad_variables": ref(seed)})


async def optimizers(client: Client) -> None:
    w = await client.variable([3.0, 4.0], requires_grad=True)
    made = await client.plain.call(
        "create_optimizer", {"optimizer_name": "SGD", "params": [ref(w)], "defaults": {"lr": 0.5}}
    )
    assert made["defaults"] == {"lr": 0.5} and made["param_groups"] == [{"lr": 0.5, "params": [ref(w)]}]
    named = {"optimizer_id": made["optimizer_id"]}
    other = await client.variable([1.0], requires_grad=True)
    group = {"params": [ref(other)], "lr": 2.0}
    assert await client.plain.call("add_param_group", {**named, "param_group": group}) == {"param_group": group}
    y = await client.run("Sum", ref(w))
    await client.plain.call("run_backward", {"variables": ref(y["variable_id"])})
    client.told.clear()
    done = await client.plain.call("run_step", named)
    assert done == {"message": "Optimizer step executed successfully.", "state": []}
    assert ("update_variable", {"variable_id": w, "field": "data", "value": [2.5, 3.5]}) in client.told
    assert (await client.plain.question())["params"] == {"variable_ids": [w, other]}
    assert await client.plain.call("clear_grad", named) == {"message": "Gradients cleared successfully."}
    assert ("update_variable", {"variable_id": w, "field": "_grad", "value": []}) in client.told
    assert (await client.read(w))["data"] == [2.5, 3.5] and (await client.read(w))["grad"] == []


async def in_place(client: Client) -> None:
    """``a += b``: the client runs Add, and says of `a` what is true of the result."""
    a, b = await client.variable([1.0], requires_grad=True), await client.variable([2.0], requires_grad=True)
    c = await client.run("Add", ref(a), ref(b))
    for field in ("data", "requires_grad", "is_leaf", "_output_nr", "_grad_fn"):
        await client.update(a, field, c[field])
    assert (await client.read(a))["data"] == [3]
    d = await client.run("Add", ref(a), ref(b))  # and of a result
    for field in ("data", "requires_grad", "_grad_fn"):
        await client.update(a, field, d[field])
    assert (await client.read(a))["data"] == [5]
    y = await client.run("Mul", ref(a), ref(a))
    await client.plain.call("run_backward", {"variables": ref(y["variable_id"])})
    gradients = {params["variable_id"]: params["gradient"]["data"] for m, params in client.told if m == "append_grad"}
    assert gradients[b] == [20]
    assert (
        await client.code("update_variable", {"variable_id": a, "field": "requires_grad", "value": False})
        == "BAD_INPUT"
    )


async def evaluation(client: Client) -> None:
    """The client's function is asked while its own request waits; what it gives becomes a variable."""
    prediction = await client.variable([1.0, 0.0])
    client.told.clear()
    function = {"__callable__": True, "callable_id": "f"}
    params = {"function_name": "Evaluate", "args": [ref(prediction), [1.0, 1.0], function], "grad_enabled": False}
    asked = await client.plain.send("run_function", params)
    while "id" not in (question := await client.plain.question()):
        pass
    assert question["params"] == {"callable_id": "f", "args": [[1.0, 0.0], [1.0, 1.0]], "kwargs": {}}
    await client.plain.answer(question, result={"message": "Ok", "data": 0.5})
    reply = await asyncio.wait_for(client.plain.reply(asked), 20)
    assert reply["result"]["data"]["data"] == 0.5


async def refusals(client: Client) -> None:
    x = await client.variable([1.0, 2.0])
    function = {"args": [ref(x), ref("nobody")], "grad_enabled": True}
    assert await client.code("run_function", {**function, "function_name": "Add"}) == "NOT_FOUND"
    assert await client.code("run_function", {**function, "function_name": "Nothing"}) == "NOT_FOUND"
    assert await client.code("run_function", {**function, "function_name": "Evaluate"}) == "BAD_REQUEST"
    assert await client.code("get_variable", {"variable_id": "nobody"}) == "NOT_FOUND"
    assert await client.code("run_step", {"optimizer_id": "nobody"}) == "NOT_FOUND"
    text = {"data": "text", "role": "r", "requires_grad": False, "obj_type": "__variable__"}
    assert (await client.plain.reply(await client.plain.send("create_variable", text)))["error"]["code"] == -32602
    update = {"variable_id": x, "field": "data", "value": [1.0, 2.0, 3.0]}
    assert await client.code("update_variable", update) == "BAD_INPUT"
    optimizer = {"optimizer_name": "SGD", "params": [1], "defaults": {}}
    assert await client.code("create_optimizer", optimizer) == "BAD_REQUEST"
    large = {"data": [0] * (1 << 18) + [0], "role": "r", "requires_grad": False, "obj_type": "__variable__"}
    assert await client.code("create_variable", large) == "TOO_LARGE"
    half = await client.variable([0.5] * 120_000)
    stacked = await client.code("run_function", {"function_name": "Exp", "args": [ref(half)], "grad_enabled": False})
    assert stacked == "TOO_LARGE"  # more digits than a message has room for
    assert (await client.read(x))["data"] == [1.0, 2.0]
