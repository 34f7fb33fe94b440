"""Remote tensors over real sockets and in a real process: what a notebook of `gridkit.v1` is told, and when."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gridkit.wire.rpc.channel import Window
from gridkit.wire.rpc.messages import Failure, Notification, Reply
from gridkit.wire.rpc.values import Edge, Variable
from tests.node.rpc.ends import live
from tests.node.rpc.tensors import Notebook, shared
from tests.support import NodeUnderTest


@shared
async def test_operations_follow_one_another_without_waiting(book: Notebook) -> None:
    """y = (x + x) * w, and its gradients: all is sent before anything is answered, and equals torch."""
    asked = [
        await book.tensor("x", [1, 2], requires_grad=True),
        await book.tensor("w", [3, 4], requires_grad=True),
        await book.run("torch.Tensor.add", ["x", "x"], "z"),
        await book.run("torch.Tensor.mul", ["z", "w"], "y"),
        await book.run("torch.Tensor.sum", ["y"], "s"),
        await book.backward("s"),
        await book.ask("name_grad", variable_id="x", out_id="x.grad"),
        await book.ask("get_variable", variable_id="x.grad"),
    ]
    for each in asked:
        assert isinstance(await book.reply(each), Reply)
    assert [number for number in book.order if number in asked] == asked
    assert (await book.read("y")).tolist() == [6, 16]
    assert (await book.read("x.grad")).tolist() == [6, 8]
    y = book.mirror.variable("y")
    assert y.grad_fn is not None and y.grad_fn.name == "MulBackward0" and not y.is_leaf
    above, below = y.grad_fn.next_functions
    assert above is not None and below is not None
    assert (above[0].name, below[0].name, below[0].variable_id) == ("AddBackward0", "AccumulateGrad", "w")
    assert [edge and edge[0].variable_id for edge in above[0].next_functions] == ["x", "x"]
    assert y.data.values is not None and y.data.values.tolist() == [6, 16]
    (gradient,) = book.mirror.variable("w").gradients
    assert gradient.pass_id == "1" and gradient.tensor.values is not None and gradient.tensor.values.tolist() == [2, 4]


@shared
async def test_what_explains_an_answer_comes_ahead_of_it(book: Notebook) -> None:
    """Nodes before edges before variables; gradients before the pass is over, and that before its answer."""
    await book.reply(await book.tensor("x", [1, 2], requires_grad=True))
    assert book.told == ["create_variable"]
    await book.reply(await book.run("torch.Tensor.prod", ["x"], "y"))
    assert book.told == ["create_node", "create_node", "create_edge", "create_variable"]
    book.order.clear()
    asked = await book.backward("y")
    await book.reply(asked)
    steady = [what for what in book.order if what != "node_fired"]  # these may come at any time, or not at all
    assert steady[0] == "append_grad" and steady[-2:] == ["clear_backward", asked]
    assert {"update_variable", "free_nodes"} <= set(steady)
    (over,) = [params for method, params in book.said if method == "clear_backward"]
    assert over == {"pass_id": "1", "variable_ids": ["x"], "status": "done", "reason": None}


@shared
async def test_an_optimizer_steps(book: Notebook) -> None:
    await book.ask("create_variable", variable_id="w", data=np.ones(3, np.float32), requires_grad=True, parameter=True)
    made = await book.do(
        "create_optimizer",
        optimizer_id="o",
        optimizer_name="Adam",
        params=[{"params": [Variable("w")], "options": {"lr": 0.5}}],
        defaults={"lr": 0.1, "betas": (0.9, 0.99)},
    )
    assert made["defaults"]["betas"] == (0.9, 0.99) and made["state"] == {}
    assert made["param_groups"][0]["params"] == ["w"] and made["param_groups"][0]["options"]["lr"] == 0.5
    await book.run("torch.Tensor.mul", ["w", "w"], "y")
    await book.run("torch.Tensor.sum", ["y"], "s")
    await book.backward("s")
    assert await book.do("run_step", optimizer_id="o", step_id="1") == {}
    (over,) = [params for method, params in book.said if method == "clear_step"]
    assert over == {"step_id": "1", "variable_ids": ["w"], "status": "done", "reason": None}
    local = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.Adam([local], lr=0.5, betas=(0.9, 0.99))
    (local * local).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert (await book.read("w")).tolist() == local.tolist()
    assert book.mirror.variable("w").version == local._version
    kept = (await book.do("get_optimizer", optimizer_id="o"))["state"]["w"]
    assert kept["exp_avg"]["shape"] == [3] and kept["step"] == 1
    named = {"optimizer_id": "o", "variable_id": "w", "key": "exp_avg", "out_id": "m"}
    assert await book.do("name_state", **named) == {"variable_ids": ["m"]}
    assert await book.do("clear_grad", optimizer_id="o") == {}
    assert not book.mirror.variable("w").has_grad
    await book.do("set_options", optimizer_id="o", group=0, options={"lr": 0.25})
    assert await book.do("delete_variables", variable_ids=["o", "w", "y", "s", "m", "nothing"]) == {}
    assert (await book.refused(await book.ask("get_optimizer", optimizer_id="o")))["code"] == "NOT_FOUND"


@shared
async def test_w3_refusals_change_nothing_and_the_next_is_done(book: Notebook) -> None:
    await book.reply(await book.tensor("x", [1, 2], requires_grad=True))
    assert book.told == ["create_variable"]
    wrong = [
        (await book.run("torch.load", ["x"], "y"), "NOT_ALLOWED"),
        (await book.run("torch.Tensor.matmul", ["x", "nobody"], "y"), "NOT_FOUND"),
        (await book.run("torch.Tensor.add", ["x", "x"], "x"), "ALREADY_EXISTS"),
        (await book.run("torch.Tensor.reshape", ["x", [7]], "y"), "BAD_INPUT"),
        (await book.run("torch.ones", [1 << 40], "y"), "OUT_OF_MEMORY"),
        (await book.ask("update_variable", variable_id="x", field="data", value=np.ones(5)), "BAD_INPUT"),
        (await book.ask("update_variable", variable_id="x", field="grad_fn", value=None), "BAD_REQUEST"),
        (await book.ask("create_optimizer", optimizer_id="o", optimizer_name="Evil", params=[], defaults={}), None),
    ]
    for asked, code in wrong:
        refusal = await book.refused(asked)
        assert code in (None, refusal["code"]) and refusal["exception"], refusal
    assert book.told == []
    assert (await book.read("x")).tolist() == [1, 2]


@shared
async def test_a_pass_that_fails_says_so_for_what_it_was_to_change(book: Notebook) -> None:
    await book.tensor("x", [1, 2], requires_grad=True)
    await book.run("torch.Tensor.prod", ["x"], "y")
    await book.reply(await book.backward("y"))
    book.said.clear()
    refusal = await book.refused(await book.backward("y", "2"))
    assert refusal["code"] == "BAD_INPUT" and "second time" in refusal["exception"]
    (over,) = [params for method, params in book.said if method == "clear_backward"]
    assert over["pass_id"] == "2" and over["status"] == "failed" and over["variable_ids"] == ["x"]
    assert "second time" in over["reason"]


@shared
async def test_w16_gradients_of_edges(book: Notebook) -> None:
    """The gradient where it comes to a node can be asked for as well as that of a variable."""
    await book.tensor("x", [1, 2], requires_grad=True)
    await book.run("torch.Tensor.mul", ["x", 3.0], "y")
    await book.reply(await book.run("torch.Tensor.prod", ["y"], "z"))
    node_of_y = book.mirror.variable("y").grad_fn
    assert node_of_y is not None
    inputs = [Edge(node_of_y.id, 0), Variable("x")]
    params = {"pass_id": "1", "variables": [Variable("z")], "inputs": inputs, "out_ids": ["g", "h"]}
    assert await book.do("run_grad", **params) == {"variable_ids": ["g", "h"]}
    assert (await book.read("g")).tolist() == [6, 3] and (await book.read("h")).tolist() == [18, 9]


@shared
async def test_large_tensors_have_no_preview_and_come_as_they_are(book: Notebook) -> None:
    data = np.random.default_rng(0).normal(size=(300, 1000)).astype(np.float32)
    await book.reply(await book.tensor("x", data))
    assert book.mirror.variable("x").data.values is None
    assert np.array_equal(await book.read("x"), data)
    assert await book.do("seed", seed=7) == {}
    await book.run("torch.randn", [5], "noise")
    torch.manual_seed(7)
    assert (await book.read("noise")).tolist() == torch.randn(5).tolist()


async def scripted(book: Notebook, cut: int) -> list[Any]:
    """Asks for a training's step, and cuts the link when so many messages have come. What came of it, and what was
    told and answered, in order."""
    book.steps, book.cut_at = 0, cut
    asked = [
        await book.tensor("x", [1.0, 2.0], requires_grad=True),
        await book.run("torch.Tensor.mul", ["x", "x"], "y"),
        await book.run("torch.Tensor.sum", ["y"], "s"),
        await book.backward("s"),
        await book.ask("name_grad", variable_id="x", out_id="g"),
        await book.run("torch.Tensor.add_", ["g", 1], "g"),
        await book.run("torch.Tensor.add_", ["g", 1], "g"),
        await book.ask("get_variable", variable_id="g"),
    ]
    for each in asked:
        await book.reply(each)
    replies = [book.replies[each] for each in asked]
    assert all(isinstance(reply, Reply) for reply in replies), replies
    told = [what for what in book.order if what not in asked and what != "node_fired"]
    answered = [asked.index(what) for what in book.order if what in asked]
    outcome = [(await book.read("g")).tolist(), book.mirror.variable("g").version, told, answered]
    await book.do("delete_variables", variable_ids=["x", "y", "s", "g"])
    book.forget()
    return outcome


@live
async def test_r9_a_link_cut_at_each_message(node: NodeUnderTest) -> None:
    """The tensors outlive it, nothing is done twice, and all is told and answered once, in order."""
    book = await Notebook(node, window=Window(1, 1 << 20)).open()  # so each message comes alone
    undisturbed = await scripted(book, -1)
    assert undisturbed[0] == [4, 6] and book.steps > 20
    for cut in range(book.steps):
        assert await scripted(book, cut) == undisturbed


@shared
async def test_w11_a_pass_is_cancelled(book: Notebook) -> None:
    """At its next node; what waits behind it is done. What was done already can't be cancelled any more."""
    await book.tensor("x", np.ones((700, 700)), requires_grad=True)
    await book.run("torch.Tensor.mul", ["x", 1.0], "y0")
    for step in range(40):
        await book.run("torch.Tensor.matmul", [f"y{step}", "x"], f"y{step + 1}")
    last = await book.run("torch.Tensor.sum", ["y40"], "s")
    await book.reply(last)
    book.said.clear()
    slow = await book.backward("s", retain_graph=True)
    waiting = await book.run("torch.Tensor.add", ["s", 1], "t")
    while not any(method == "node_fired" for method, _ in book.said):
        await book.step()
    for each in (slow, last):
        await book.say(Notification("cancel", {"id": each}))
    reply = await book.reply(slow)
    assert isinstance(reply, Failure) and reply.data["code"] == "CANCELLED"
    (over,) = [params for method, params in book.said if method == "clear_backward"]
    assert over["status"] == "cancelled" and over["variable_ids"] == ["x"]
    assert isinstance(await book.reply(waiting), Reply)


@shared
async def test_w11_what_waits_is_cancelled_at_once(book: Notebook) -> None:
    await book.reply(await book.tensor("x", np.ones((1000, 1000))))
    asked = [await book.run("torch.Tensor.matmul", ["x", "x"], f"y{place}") for place in range(100)]
    await book.say(Notification("cancel", {"id": asked[-1]}))
    assert (await book.refused(asked[-1]))["code"] == "CANCELLED"
    assert asked[-2] not in book.replies
    assert isinstance(await book.reply(asked[-2]), Reply)


@shared
async def test_s7_more_operations_than_may_wait(book: Notebook) -> None:
    """They are slowed down by the channel's credit, not refused."""
    await book.tensor("x", [0.0])
    asked = [await book.run("torch.Tensor.add_", ["x", 1], "x") for _ in range(1500)]
    for each in asked:
        assert isinstance(await book.reply(each), Reply)
    assert (await book.read("x")).tolist() == [1500]
