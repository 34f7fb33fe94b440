"""Calls of a node: results, errors, how long they wait, and how they end.

Tests of weak spots, here and in the next files, are of what goes wrong with the protocol's original client, which their
docstrings tell.
"""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import weakref
from typing import Any

import numpy as np
import pytest

from gridkit.client.rpc import RpcClient
from gridkit.client.rpc_calls import Progress
from gridkit.errors import (
    AccessError,
    CallTimeout,
    ErrorCode,
    LimitError,
    NodeError,
    NodeUnreachable,
    NotFoundError,
    UsageError,
)
from gridkit.wire.rpc.messages import Failure, Reply
from gridkit.wire.rpc.values import Edge, Variable
from tests.client.rpc_peer import SILENT, Asked, Peer, awaited, on_a_thread


def raising(error: Exception) -> Any:
    def method(asked: Asked) -> None:
        raise error

    return method


async def slow(asked: Asked) -> str:
    """Six pieces of work of `seconds`, with a beat each."""
    for done in range(6):
        asked.session.beat(asked.id, phase="working", done=done, total=6)
        await asyncio.sleep(asked.params.get("seconds", 0.05))
    return "done"


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@awaited
async def test_weak_spot_16_what_is_passed_comes_there_and_what_is_answered_comes_back() -> None:
    """Numbers, texts, arrays with dtype and shape, tuples, not-a-number, references, edges of
    the graph."""
    given = {
        "array": np.arange(6, dtype=np.float32).reshape(2, 3),
        "list": [1, 2.5, None, True, "ä"],
        "tuple": (1, (2, 3)),
        "unusual": [float("nan"), float("-inf")],
        "variable": Variable("x"),
        "edge": Edge(3, 1),
        "empty": np.zeros((0, 4), np.int64),
    }
    async with Peer().running() as peer, RpcClient(peer.url) as client:
        back = await client.call("echo", given)
        assert await client.call("echo") == {}
    assert np.array_equal(back.pop("array"), given.pop("array"))
    assert back.pop("empty").shape == (0, 4) and given.pop("empty") is not None
    assert repr(back) == repr(given)


@awaited
async def test_weak_spot_1_no_client_is_deaf() -> None:
    """Of what comes together with the first answer, or right after it, nothing is lost."""
    said: list[str] = []
    async with Peer().running() as peer:
        peer.greeting = lambda session: session.tell("log", level="info", text="welcome")
        for n in range(60):
            async with RpcClient(peer.url, say=said.append) as client:
                assert await client.call("echo", {"n": n}, timeout=5) == {"n": n}
                assert len(said) == n + 1


@awaited
async def test_many_calls_at_once_are_each_answered_with_their_own_result() -> None:
    async def later(asked: Asked) -> Any:
        await asyncio.sleep(0.001 * (asked.params["n"] % 7))
        return asked.params["n"]

    async with Peer().running() as peer, RpcClient(peer.url) as client:
        peer.methods["later"] = later
        calls = (client.call("later", {"n": n}) for n in range(300))
        assert await asyncio.gather(*calls) == list(range(300))
        assert not client._calls


@awaited
async def test_an_error_of_the_node_is_raised_as_the_error_that_it_is() -> None:
    async with Peer().running() as peer, RpcClient(peer.url) as client:
        gone = NotFoundError("no variable 'x'", "make it", code=ErrorCode.NOT_FOUND, status=404)
        peer.methods["read"] = raising(gone)
        peer.methods["much"] = raising(LimitError("too much", code=ErrorCode.TOO_MANY, status=429, retry_after=2.0))
        with pytest.raises(NotFoundError, match="no variable 'x'") as found:
            await client.call("read")
        assert found.value.hint == "make it" and found.value.code is ErrorCode.NOT_FOUND
        with pytest.raises(LimitError) as limited:
            await client.call("much")
        assert limited.value.retry_after == 2.0
        assert await client.call("echo", {"n": 1}) == {"n": 1}


@awaited
async def test_what_cant_be_sent_is_said_before_anything_is() -> None:
    async with Peer().running() as peer, RpcClient(peer.url) as client:
        for wrong in ({"x": object()}, {"x": {1: 2}}, {"x": {"__tensor__": 0}}, ["positional"]):
            with pytest.raises(UsageError):
                await client.call("echo", wrong)  # type: ignore[arg-type]
        assert peer.took == [] and not client._calls and len(client._callables) == 0


@awaited
async def test_weak_spot_10_a_call_times_out_only_when_there_is_no_sign_of_life() -> None:
    """Heartbeats of any method keep its call waiting, and tell how far it is."""
    told: list[Progress] = []
    async with Peer().running() as peer, RpcClient(peer.url) as client:
        peer.methods["slow"] = slow
        peer.methods["silent"] = lambda asked: SILENT
        assert await client.call("slow", {"seconds": 0.15}, timeout=0.6, on_progress=told.append) == "done"
        assert told[0].phase == "working" and told[0].total == 6 and told[-1].done == 5
        with pytest.raises(CallTimeout, match="'silent'") as found:
            await client.call("silent", timeout=0.1)
        assert isinstance(found.value, TimeoutError)
        await until(lambda: peer.cancelled)
        assert not client._calls


@awaited
async def test_a_late_answer_to_a_call_that_was_given_up_harms_nobody() -> None:
    async with Peer().running() as peer, RpcClient(peer.url) as client:
        answers: list[Asked] = []
        peer.methods["silent"] = lambda asked: answers.append(asked) or SILENT
        with pytest.raises(CallTimeout):
            await client.call("silent", timeout=0.05)
        answers[0].session.put(Reply(answers[0].id, "late"))
        answers[0].session.put(Reply("never asked", "?"))
        assert await client.call("echo", {"n": 1}) == {"n": 1}


@awaited
async def test_weak_spot_11_a_cancelled_call_is_cancelled_on_the_node() -> None:
    async with Peer().running() as peer, RpcClient(peer.url) as client:
        peer.methods["silent"] = lambda asked: SILENT
        call = asyncio.create_task(client.call("silent"))
        await until(lambda: peer.took)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: peer.cancelled == [1])
        assert not client._calls


@awaited
async def test_what_on_progress_raises_the_call_raises() -> None:
    def wrong(progress: Progress) -> None:
        raise ZeroDivisionError

    async with Peer().running() as peer, RpcClient(peer.url) as client:
        peer.methods["slow"] = slow
        with pytest.raises(ZeroDivisionError):
            await client.call("slow", on_progress=wrong)
        assert await client.call("echo", {"n": 1}) == {"n": 1}


@awaited
async def test_submitted_calls_come_in_order_and_are_awaited_later() -> None:
    async with Peer().running() as peer, RpcClient(peer.url) as client:
        came: list[int] = []
        peer.methods["note"] = lambda asked: came.append(asked.params["n"])
        calls = [await client.submit("note", {"n": n}) for n in range(100)]
        assert await calls[-1] is None and came == list(range(100))
        assert await asyncio.gather(*calls) == [None] * 100


@awaited
async def test_connect_gives_the_session_and_a_second_one_changes_nothing() -> None:
    async with Peer().running() as peer:
        client = RpcClient(peer.url)
        first = await client.connect("secret")
        assert first["session_id"] in peer.sessions and await client.connect() == first
        assert await client.connect("secret") == first
        assert peer.keys == ["Bearer secret"] and "secret" not in repr(client)
        other = await client.connect("another")
        assert other != first and peer.keys[-1] == "Bearer another"
        await client.close()


@awaited
async def test_a_client_that_is_closed_while_it_connects_stays_closed() -> None:
    async with Peer().running() as peer:
        client = RpcClient(peer.url)
        peer.refuse = 503
        connecting = asyncio.create_task(client.connect(retries=100, delay=0.02))
        await until(lambda: len(peer.keys) > 1)
        await client.close()
        peer.refuse = None
        with pytest.raises(NodeUnreachable, match="closed"):
            await connecting
        assert not client.connected
        await until(lambda: not peer.open)


@awaited
async def test_a_call_connects_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the key that everything of gridkit's takes."""
    monkeypatch.setenv("GRIDKIT_TOKEN", "of the environment")
    async with Peer().running() as peer:
        client = RpcClient("ws://127.0.0.1", peer.port)
        assert await client.call("echo", {"n": 1}) == {"n": 1} and client.connected
        assert peer.keys == ["Bearer of the environment"]
        await client.close()


@awaited
async def test_what_is_no_address_and_no_time_is_said() -> None:
    with pytest.raises(UsageError, match="5 isn't a node's address"):
        RpcClient(5)  # type: ignore[arg-type]
    async with Peer().running() as peer, RpcClient(peer.url) as client:
        with pytest.raises(UsageError, match="the timeout of 'echo' is 'soon'"):
            await client.call("echo", {"n": 1}, timeout="soon")  # type: ignore[arg-type]
        assert await client.call("echo", {"n": 2}, timeout=np.float32(5)) == {"n": 2}
        assert peer.took.count("echo") == 1


@awaited
async def test_a_wrong_key_is_refused_at_once_and_an_unreachable_node_after_some_tries() -> None:
    async with Peer().running() as peer:
        peer.refuse = 401
        with pytest.raises(AccessError):
            await RpcClient(peer.url).connect("wrong", retries=5, delay=60)
        assert len(peer.keys) == 1
        peer.refuse = 503
        with pytest.raises(NodeError):
            await RpcClient(peer.url).connect(retries=3, delay=0.01)
        assert len(peer.keys) == 4
        port = peer.port
    with pytest.raises(NodeUnreachable):
        await RpcClient("http://127.0.0.1", port).connect(retries=2, delay=0.01)


@awaited
async def test_something_else_than_a_node_is_said() -> None:
    from websockets.asyncio.server import serve

    async def other(socket: Any) -> None:
        await socket.recv()

    async with serve(other, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(NodeError, match=r"doesn't speak gridkit\.v1"):
            await RpcClient("http://127.0.0.1", port).connect()
    for address in ("", "127.0.0.1:5000", "ftp://host"):
        with pytest.raises(UsageError):
            RpcClient(address)


@awaited
async def test_weak_spot_9_a_client_is_a_context_manager_open_or_not() -> None:
    async with Peer().running() as peer:
        client = RpcClient(peer.url)
        await client.connect("key")
        async with client:
            assert await client.call("echo", {"n": 1}) == {"n": 1}
        assert not client.connected
        async with client:
            assert client.connected
        assert peer.keys == ["Bearer key", "Bearer key"]


@awaited
async def test_close_ends_all_that_waits_with_the_reason() -> None:
    async with Peer().running() as peer:
        peer.methods["silent"] = lambda asked: SILENT
        client = RpcClient(peer.url)
        calls = [asyncio.create_task(client.call("silent")) for _ in range(3)]
        await until(lambda: len(peer.took) == 3)
        await client.close()
        for call in calls:
            with pytest.raises(NodeUnreachable, match="the client is closed"):
                await call
        with pytest.raises(NodeUnreachable, match="connect"):
            await client.call("echo")
        await client.close()
        await client.connect()
        assert await client.call("echo", {"n": 1}) == {"n": 1}
        await client.close()
        await until(lambda: not peer.open)


@awaited
async def test_a_closed_client_is_collected() -> None:
    async with Peer().running() as peer:
        client = RpcClient(peer.url)
        await client.call("echo")
        await client.close()
        gone = weakref.ref(client)
        del client
        await asyncio.sleep(0.05)
        gc.collect()
        assert gone() is None


def test_another_loop_is_refused_while_the_first_one_lives_and_taken_after() -> None:
    with on_a_thread(Peer()) as peer:
        client = RpcClient(peer.url)
        refused: list[Exception] = []

        def elsewhere() -> None:
            try:
                asyncio.run(client.call("echo"))
            except UsageError as error:
                refused.append(error)

        async def first() -> None:
            await client.call("echo")
            thread = threading.Thread(target=elsewhere)
            thread.start()
            await asyncio.to_thread(thread.join)

        asyncio.run(first())
        assert len(refused) == 1
        assert asyncio.run(client.call("echo", {"n": 2})) == {"n": 2}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_weak_spot_11_after_a_fork_the_child_has_a_session_of_its_own() -> None:
    """It hung."""
    code = """
import os, sys
from gridkit.rpc import RpcClient
client = RpcClient(sys.argv[1])
assert client.call("echo", {"n": 1}) == {"n": 1}
child = os.fork()
assert client.call("echo", {"n": child}) == {"n": child}
if child:
    _, status = os.waitpid(child, 0)
    assert client.call("echo", {"n": 3}) == {"n": 3}
    sys.exit(os.waitstatus_to_exitcode(status))
"""
    with on_a_thread(Peer()) as peer:
        ran = subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, peer.url],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
        assert len(peer.sessions) == 2 and len(peer.took) == 4


@awaited
async def test_s7_whatever_a_node_says_the_client_lives() -> None:
    """Of messages that are none, requests are answered as JSON-RPC has it, and nothing else is."""
    async with Peer().running() as peer, RpcClient(peer.url) as client:
        await client.connect()
        said: list[Failure] = []
        peer.session.answers = _Answers(said)  # type: ignore[assignment]
        for text in (
            "[]",
            "{",
            '{"jsonrpc":"2.0","method":"create_node","params":[1],"id":1}',
            '{"jsonrpc":"2.0","method":"create_node","params":{},"id":2}',
            '{"jsonrpc":"2.0","method":"nope","params":{},"id":3}',
            '{"jsonrpc":"2.0","method":"update_variable","id":4,'
            '"params":{"variable_id":"x","field":"__class__","value":1,"version":1}}',
            '{"jsonrpc":"2.0","method":"nope","params":{}}',
            '{"jsonrpc":"2.0","error":{"code":1,"message":"?"},"id":null}',
            '{"jsonrpc":"2.0","result":1,"error":{"code":1,"message":"?"},"id":5}',
            '{"jsonrpc":"2.0","method":"events","params":{"events":[]}}',
            '{"jsonrpc":"1.0","method":"heartbeat","params":{"id":1}}',
            '{"jsonrpc":"2.0","method":"heartbeat","params":{"id":[1]}}',
        ):
            peer.session.waiting.append((text.encode(), []))
        assert await client.call("echo", {"n": 1}) == {"n": 1}
        await until(lambda: len(said) == 7)
        codes = {failure.id: failure.code for failure in said if failure.id is not None}
        assert codes == {1: -32602, 2: -32602, 3: -32601, 4: -32602}
        assert sorted(failure.code for failure in said if failure.id is None) == [-32700, -32600, -32600]
        assert next(failure for failure in said if failure.id == 2).data["missing_key"] == "node_id"
        assert peer.links == 1


class _Answers(dict[Any, Any]):
    """Takes answers to what was never asked."""

    def __init__(self, said: list[Any]) -> None:
        super().__init__()
        self.said = said

    def pop(self, id_: Any) -> Any:  # type: ignore[override]
        said = self.said

        class Taken:
            def set_result(self, message: Any) -> None:
                said.append(message)

        return Taken()


@awaited
async def test_a_handler_that_would_wait_for_itself_is_told_so() -> None:
    class Curious(RpcClient):
        async def rpc_log(self, params: dict[str, Any]) -> dict[str, str]:
            return dict(await self.call("echo", {"n": 1}))

    async with Peer().running() as peer, Curious(peer.url) as client:
        answer = await asyncio.wait_for(_ask(peer, client, "log", level="info", text="hello"), 10)
        assert "one after the other" in answer.message


async def _ask(peer: Peer, client: RpcClient, method: str, **params: Any) -> Any:
    await client.connect()
    return await peer.session.ask(method, **params)


@awaited
async def test_handlers_can_be_overridden_and_say_what_they_miss() -> None:
    class Mine(RpcClient):
        seen: list[Any]

        async def rpc_create_node(self, params: dict[str, Any]) -> dict[str, str]:
            self.seen.append(params["name"])
            return await super().rpc_create_node(params)

        async def rpc_log(self, params: dict[str, Any]) -> dict[str, str]:
            return {"text": params["never"]}

    async with Peer().running() as peer:
        client = Mine(peer.url)
        client.seen = []
        answer = await _ask(peer, client, "create_node", node_id=1, name="AddBackward0")
        assert answer.result == {"message": "Ok"} and client.seen == ["AddBackward0"] and len(client.mirror._new) == 1
        missed = await _ask(peer, client, "log", level="info", text="")
        assert (missed.code, missed.data["missing_key"]) == (-32602, "never")
        await client.close()


@awaited
async def test_lines_of_the_node_are_printed() -> None:
    said: list[str] = []
    async with Peer().running() as peer, RpcClient(peer.url, say=said.append) as client:
        peer.session.tell("log", level="info", text="one")
        await client.call("echo")
        assert said == ["one"]


def test_weak_spot_15_nothing_happens_when_it_is_imported() -> None:
    code = (
        "import threading, logging, sys; handlers = list(logging.root.handlers); import gridkit.rpc;"
        "assert threading.active_count() == 1 and logging.root.handlers == handlers;"
        "assert 'torch' not in sys.modules and 'websockets' not in sys.modules"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")


@awaited
async def test_an_idle_session_sends_nothing() -> None:
    async with Peer().running() as peer, RpcClient(peer.url) as client:
        await client.call("echo")
        assert client._session is not None
        channels = [peer.session.channel, client._session._channel]
        await until(lambda: all(channel and channel.unacked == 0 and channel.due is None for channel in channels))
        moved = peer.moved
        await asyncio.sleep(0.3)
        assert peer.moved == moved
