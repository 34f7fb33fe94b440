"""Drives the unmodified `afnio` of its own environment for tests/interop/test_afnio.py, and is run by its Python.

    afnio_client.py HOST:PORT KEY

A line of standard input is a JSON list ``[verb, {arguments}]``, a verb being a function below; a line of standard
output is what came of it: ``{"result": …}`` or ``{"raised": [type, text]}``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from typing import Any

ADDRESS, KEY = sys.argv[1:3]
HOST, PORT = ADDRESS.split(":")
HOME = tempfile.TemporaryDirectory(prefix="afnio")
os.environ.update(  # what it looks for when it is imported, or would write
    HOME=HOME.name,
    PYTHON_KEYRING_BACKEND="keyring.backends.fail.Keyring",
    NO_PROXY="*",
    TELLURIO_BACKEND_WS_BASE_URL=f"ws://{HOST}",
    TELLURIO_BACKEND_WS_PORT=PORT,
    TELLURIO_BACKEND_HTTP_BASE_URL=f"http://{HOST}",
    TELLURIO_BACKEND_HTTP_PORT=PORT,
    TELLURIO_API_KEY=KEY,
    ALLOW_API_KEY_SHARING="false",
)
os.chdir(HOME.name)

import logging  # noqa: E402

import afnio  # noqa: E402
import afnio.tellurio as tellurio  # noqa: E402
from afnio.autodiff.function import Function  # noqa: E402
from afnio.optim.optimizer import Optimizer  # noqa: E402
from afnio.tellurio import project as projects  # noqa: E402
from afnio.tellurio._client_manager import get_default_clients  # noqa: E402
from afnio.tellurio._eventloop import _event_loop_thread, run_in_background_loop  # noqa: E402
from afnio.tellurio.client import TellurioClient  # noqa: E402
from afnio.tellurio.run import Run  # noqa: E402
from afnio.tellurio.run_context import set_active_run  # noqa: E402
from afnio.tellurio.websocket_client import TellurioWebSocketClient  # noqa: E402
from slugify import slugify  # noqa: E402

for name in ("afnio", "asyncio", "httpx"):
    logging.getLogger(name).setLevel(logging.CRITICAL)

VERBS: dict[str, Callable[..., Any]] = {}
CLIENTS: dict[str, Any] = {}
UNDER_WAY: dict[str, Any] = {}


def verb(function: Callable[..., Any]) -> Callable[..., Any]:
    VERBS[function.__name__] = function
    return function


# ---- the account's side: REST


@verb
def login(key: str = KEY) -> Any:
    return tellurio.login(api_key=key)


@verb
def verify(key: str) -> Any:
    return TellurioClient().login(api_key=key)


@verb
def slugs(titles: list[str]) -> list[str]:
    return [slugify(title) for title in titles]


@verb
def begin(namespace: str, title: str, name: str | None = None, metrics: Any = (), fails: bool = False) -> Any:
    """A run with metrics, ``[name, value, step or none]`` each; it ends as its ``with`` does."""
    run = tellurio.init(namespace, title, name=name, description="as a test asks")
    try:
        with run:
            for metric, value, step in metrics:
                tellurio.log(metric, value, step=step)
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    set_active_run(_local_run())
    return {"uuid": run.uuid, "name": run.name, "status": run.status.value, "user": run.user.username}


@verb
def find(namespace: str, slug: str) -> Any:
    found = projects.get_project(namespace, slug)
    return None if found is None else {"title": found.display_name, "ran": found.last_run_date is not None}


@verb
def forget(namespace: str, slug: str) -> None:
    projects.delete_project(namespace, slug)


# ---- links


@verb
def connect(client: str, named: bool = False, key: str = KEY, port: int = int(PORT)) -> str:
    """A link of a new client; one with a name has it in its address, with the key."""
    address = f"ws://{client}:{key}@{HOST}" if named else f"ws://{HOST}"
    CLIENTS[client] = TellurioWebSocketClient(address, port, default_timeout=30)
    session = run_in_background_loop(CLIENTS[client].connect(api_key=key, retries=1))["session_id"]
    assert isinstance(session, str) and session
    return session


@verb
def reconnect(client: str) -> str:
    run_in_background_loop(CLIENTS[client].close())
    return run_in_background_loop(CLIENTS[client].connect(api_key=KEY, retries=1))["session_id"]


@verb
def close(client: str) -> bool:
    run_in_background_loop(CLIENTS[client].close())
    return CLIENTS[client].connection is None


@verb
def deaf(connects: int) -> int:
    """How many of so many new clients have no listener, one after the other, while two others call all the time."""

    async def count() -> int:
        over = asyncio.Event()

        async def busy() -> None:
            client = await linked()
            while not over.is_set():
                await client.call("echo", {"text": "x" * 5000})
            await gone(client)

        async def linked() -> Any:
            client = TellurioWebSocketClient(f"ws://{HOST}", int(PORT), default_timeout=30)
            await client.connect(api_key=KEY, retries=1)
            return client

        async def gone(client: Any) -> None:
            client.listener_task.cancel()
            await client.connection.close()

        loads = [asyncio.ensure_future(busy()) for _ in range(2)]
        found = 0
        for _ in range(connects):
            client = await linked()
            await asyncio.sleep(0.002)
            found += client.listener_task.done()
            await gone(client)
        over.set()
        await asyncio.gather(*loads)
        return found

    return run_in_background_loop(count())


@verb
def call(client: str, method: str, params: Any = None, timeout: float = 30.0) -> Any:
    """The whole reply."""
    return run_in_background_loop(CLIENTS[client].call(method, dict(params or {}), timeout=timeout))


@verb
def many(client: str, calls: int) -> list[int]:
    async def all_at_once() -> list[int]:
        replies = [CLIENTS[client].call("echo", {"number": number}) for number in range(calls)]
        return [reply["result"]["number"] for reply in await asyncio.gather(*replies)]

    return run_in_background_loop(all_at_once())


@verb
def start(client: str, method: str, params: Any, timeout: float) -> None:
    """A call that is waited for by `finish`."""
    calling = CLIENTS[client].call(method, dict(params), timeout=timeout)
    UNDER_WAY[client] = asyncio.run_coroutine_threadsafe(calling, _event_loop_thread.loop), CLIENTS[client].connection


@verb
def finish(client: str) -> Any:
    """The result of what was started, and whether it came over another link than the call went."""
    future, old = UNDER_WAY.pop(client)
    return {"result": future.result(60)["result"], "another": CLIENTS[client].connection is not old}


@verb
def drop(client: str, code: int | None = None) -> None:
    """Have the node end the link, and wait for the client to come back by itself."""
    old = CLIENTS[client].connection
    call(client, "drop_connection", {} if code is None else {"code": code})
    back(client, old)


@verb
def remember(client: str) -> None:
    UNDER_WAY[client] = None, CLIENTS[client].connection


@verb
def returned(client: str) -> None:
    back(client, UNDER_WAY.pop(client)[1])


def back(client: str, old: Any) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        held = CLIENTS[client]
        if (
            held.connection not in (None, old)
            and held.connection.state.name == "OPEN"
            and not held.listener_task.done()
        ):
            return
        time.sleep(0.02)
    raise TimeoutError("the client didn't come back")


# ---- variables, with the client that login made


class Mul(Function):
    pass


class Sum(Function):
    pass


class Evaluate(Function):
    pass


class Nothing(Function):
    pass


class SGD(Optimizer):
    def __init__(self, params: Any, **options: float) -> None:
        super().__init__(params, options)

    def _extract_variable_ids_from_state(self, state: Any) -> set[str]:
        pairs = [pair for entry in state for pair in entry["value"].get("momentum_buffer", [])]
        return {pair[0]["variable_id"] for pair in pairs}


def variable(data: Any, role: str, grad: bool = False) -> Any:
    return afnio.Variable(data, role, requires_grad=grad)


def shape_of(node: Any) -> list[Any] | None:
    """The graph behind a node: its name, then those that its edges lead to."""
    return None if node is None else [node.name(), *(shape_of(edge.node) for edge in node.next_functions)]


@verb
def forward() -> Any:
    a, b = variable([1.0, 2.0], "a", True), variable([10.0, 20.0], "b")
    c = Mul.apply(a + b, a)
    with afnio.no_grad():
        d = a + b
    e = Sum.apply([a, b, c])
    return {
        "data": c.data,
        "sum": e.data,
        "graph": shape_of(c.grad_fn),
        "leaf": c.is_leaf,
        "without": [d.requires_grad, d.grad_fn],
    }


@verb
def change(data: Any, to: Any) -> Any:
    held = variable(data, "held")
    held.data = to
    reply = run_in_background_loop(get_default_clients()[1].call("get_variable", {"variable_id": held.variable_id}))
    return [held.data, reply["result"]["data"]]


@verb
def backward(x: Any, w: Any, seed: Any) -> Any:
    """Of ``(x + x) * w``, twice: gradients are added as a list."""
    x, w = variable(x, "x", True), variable(w, "w", True)
    for _ in range(2):
        y = Mul.apply(x + x, w)
        y.backward(variable(seed, "seed"))
    return {"y": y.data, "x": [g.data for g in x.grad], "w": [g.data for g in w.grad]}


@verb
def accumulate(a: Any, b: Any) -> Any:
    """``c = a * b``, then ``c += b`` twice."""
    a, b = variable(a, "a", True), variable(b, "b", True)
    c = Mul.apply(a, b)
    c += b
    c += b
    c.backward(variable([1.0] * len(c.data), "seed"))
    return {"c": c.data, "a": [g.data for g in a.grad], "b": [g.data for g in b.grad]}


@verb
def descend(start: Any, target: Any, steps: int, **options: float) -> Any:
    """Steps of an optimizer down ``(w + t) * (w + t)``, of which the sum is taken: w after each."""
    w, t = afnio.cognitive.Parameter(start, "w", True), variable(target, "t")
    optimizer = SGD([w], **options)
    seen = []
    for _ in range(steps):
        difference = w + t
        Mul.apply(difference, difference).backward(variable([1.0] * len(start), "seed"))
        optimizer.step()
        seen.append(w.data)
        optimizer.clear_grad()
    return {"seen": seen, "left": [g.data for g in w.grad], "state": len(optimizer.state)}


@verb
def private(prediction: Any, target: Any) -> Any:
    """A metric that stays here: what it got, and what came of it."""
    got = []

    def metric(predicted: Any, wanted: Any) -> float:
        got.append([predicted, wanted])
        return sum(p == w for p, w in zip(predicted, wanted, strict=True)) / len(wanted)

    score = Evaluate.apply(variable(prediction, "prediction"), target, metric)
    return {"score": score.data, "got": got}


@verb
def private_that_fails() -> Any:
    def metric(predicted: Any, wanted: Any) -> float:
        raise LookupError("the notebook's own words")

    return Evaluate.apply(variable([1.0], "prediction"), [1.0], metric)


@verb
def refused(what: str) -> Any:
    """What the client raises; the session goes on."""
    a, b = variable([1.0, 2.0], "a", True), variable([1.0, 2.0, 3.0], "b", True)
    attempts: dict[str, Callable[[], Any]] = {
        "function": lambda: Nothing.apply(a),
        "shapes": lambda: a + b,
        "backward": lambda: (a + a).backward(b),
        "optimizer": lambda: SGD([a], lr="fast"),
    }
    return attempts[what]()


@verb
def slow(seconds: float) -> Any:
    """A function of the node's that takes longer than the client's patience; a short call doesn't wait for it."""
    link = get_default_clients()[1]
    patience, beats, heard = 2.0, [], link.rpc_heartbeat

    async def counting(params: Any) -> None:
        beats.append(params["id"])
        await heard(params)

    link.rpc_heartbeat = counting
    try:
        ask = {"function_name": "Sleep", "args": [seconds], "kwargs": {}, "grad_enabled": False}
        calling = link.call("run_function", ask, timeout=patience)
        waiting = asyncio.run_coroutine_threadsafe(calling, _event_loop_thread.loop)
        run_in_background_loop(link.call("echo", {}))
        ahead = not waiting.done()
        reply = waiting.result(30)
    finally:
        link.rpc_heartbeat = heard
    return {"reply": reply["result"], "ahead": ahead, "beats": len(beats), "of": len(set(beats))}


def _local_run() -> Run:
    return Run(uuid=str(uuid.uuid4()), name="a test's", description="", status="RUNNING")


def main() -> None:
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints
    set_active_run(_local_run())
    print(json.dumps({"result": "ready"}), file=told, flush=True)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            came = {"result": VERBS[name](**arguments)}
        except BaseException as error:  # noqa: BLE001  the test is to see it
            came = {"raised": [type(error).__name__, str(error)]}
        print(json.dumps(came), file=told, flush=True)

    async def close_all() -> None:
        await asyncio.gather(*(client.close() for client in CLIENTS.values()), return_exceptions=True)

    run_in_background_loop(close_all())


if __name__ == "__main__":
    main()
