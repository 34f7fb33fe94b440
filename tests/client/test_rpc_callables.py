"""Functions of a notebook that a node calls: slow, nested, wrong, ended, gone."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridkit.client import rpc_applier, rpc_callables
from gridkit.client.rpc import RpcClient
from gridkit.client.rpc_calls import Call
from gridkit.errors import ErrorCode, NotFoundError, RunError
from gridkit.wire.rpc.channel import Window
from gridkit.wire.rpc.messages import Notification
from gridkit.wire.rpc.values import Variable
from tests.client.rpc_peer import Asked, Peer, awaited, call_back
from tests.client.test_rpc import until

CELL: contextvars.ContextVar[str] = contextvars.ContextVar("cell", default="none")


def calling(peer: Peer) -> Peer:
    peer.methods["call_back"] = call_back
    return peer


@awaited
async def test_a_function_is_called_with_what_was_passed_and_its_result_comes_back() -> None:
    def score(predicted: Any, target: Any, *, weight: float) -> dict[str, Any]:
        assert not predicted.flags.writeable
        return {"loss": weight * float(np.abs(predicted - target).mean()), "array": predicted * 2, "pair": (1, "x")}

    args = [np.arange(4.0), np.ones(4)]
    async with calling(Peer()).running() as peer, RpcClient(peer.url) as client:
        with client.expose(score) as metric:
            back = await client.call("call_back", {"fn": metric, "args": args, "kwargs": {"weight": 2.0}})
        assert back["loss"] == 2.0 and back["pair"] == (1, "x") and back["array"].tolist() == [0, 2, 4, 6]
        (called,) = client.called
        assert called.args == "(float64[4], float64[4], {weight=2.0})" and called.error is None
        assert called.result == "{loss=2.0, array=float64[4], pair=(1, 'x')}" and called.function.endswith("score")


@awaited
async def test_a_function_lives_as_long_as_it_is_exposed() -> None:
    async with calling(Peer()).running() as peer, RpcClient(peer.url) as client:
        kept = client.expose(lambda: 1)
        reference = kept.reference
        assert await client.call("call_back", {"fn": kept}) == 1 and "closed" not in repr(kept)
        kept.close()
        kept.close()
        gone = await client.call("call_back", {"fn": reference})
        assert gone["data"]["code"] == "NOT_FOUND" and "closed" in repr(kept)


@awaited
async def test_weak_spot_13_functions_that_are_passed_or_forgotten_are_collected() -> None:
    """One more id in a registry with each call."""
    async with calling(Peer()).running() as peer, RpcClient(peer.url) as client:
        for n in range(10):
            nested = {"fn": lambda n=n: n, "args": [], "deep": [{"other": (len, functools.partial(max, 1))}]}
            peer.methods["count"] = lambda asked: len(client._callables)
            assert await client.call("count", nested) == 3
            assert await client.call("call_back", {"fn": lambda n=n: n}) == n
        await until(lambda: len(client._callables) == 0)
        client.expose(print)
        gc.collect()
        assert len(client._callables) == 0


@awaited
async def test_weak_spot_3_a_function_may_use_the_session_and_nest() -> None:
    """It deadlocked the whole client."""
    async with calling(Peer()).running() as peer, RpcClient(peer.url) as client:
        loop = asyncio.get_running_loop()

        def deep(n: int) -> Any:
            if n == 0:
                return "bottom"
            call = client.call("call_back", {"fn": deep, "args": [n - 1]})
            return [asyncio.run_coroutine_threadsafe(call, loop).result(10), n]

        async def deep_too(n: int) -> Any:
            return "bottom" if n == 0 else [await client.call("call_back", {"fn": deep_too, "args": [n - 1]}), n]

        for fn in (deep, deep_too):
            expected: Any = "bottom"
            for n in range(1, 6):
                expected = [expected, n]
            assert await client.call("call_back", {"fn": fn, "args": [5]}) == expected


@awaited
async def test_nesting_has_an_end() -> None:
    depth: list[int] = []
    async with calling(Peer()).running() as peer, RpcClient(peer.url) as client:

        async def again() -> Any:
            depth.append(1)
            return await client.call("call_back", {"fn": again})

        back = await client.call("call_back", {"fn": again})
        assert len(depth) == rpc_callables.MAX_DEPTH and not client._callables.runs
        assert back["data"]["code"] == "TOO_MANY" and "deep" in back["message"]


@awaited
async def test_without_a_parent_nesting_ends_as_well() -> None:
    async def orphan(asked: Asked) -> Any:
        answer = await asked.session.ask("run_callable", callable_id=asked.params["fn"].id, args=[], kwargs={})
        return getattr(answer, "message", "ended")

    async with Peer().running() as peer, RpcClient(peer.url) as client:
        peer.methods["orphan"] = orphan
        depth: list[int] = []

        async def again() -> Any:
            depth.append(1)
            return await client.call("orphan", {"fn": again})

        await client.call("orphan", {"fn": again})
        assert len(depth) == rpc_callables.MAX_RUNS


@awaited
async def test_weak_spot_4_a_slow_function_stops_nothing() -> None:
    """Other calls go on, and so do pings; the node is told that it lives."""
    end = threading.Event()
    async with calling(Peer()).running() as peer, RpcClient(peer.url) as client:
        slow = asyncio.create_task(client.call("call_back", {"fn": lambda: end.wait(20)}))
        await until(lambda: client._callables.runs)
        for n in range(20):
            assert await client.call("echo", {"n": n}) == {"n": n}
        for socket in peer.open:
            await asyncio.wait_for(await socket.ping(), 5)
        assert not slow.done()
        end.set()
        assert await slow is True


@awaited
async def test_weak_spot_10_the_node_hears_that_a_function_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over several links too, and not once it is over."""
    monkeypatch.setattr(rpc_applier, "BEAT_SECONDS", 0.05)
    end = threading.Event()
    async with calling(Peer()).running() as peer, RpcClient(peer.url) as client:
        calls = [asyncio.create_task(client.call("call_back", {"fn": lambda: end.wait(20)})) for _ in range(2)]
        await until(lambda: peer.beats.count("n1") >= 3 and peer.beats.count("n2") >= 3)
        peer.cut()
        before = len(peer.beats)
        await until(lambda: len(peer.beats) > before + 4)
        end.set()
        assert await asyncio.gather(*calls) == [True, True]
        await asyncio.sleep(0.1)
        beats = len(peer.beats)
        await asyncio.sleep(0.15)
        assert len(peer.beats) == beats


def _raises() -> None:
    raise ValueError("the data are private: no")


class Odd(Exception):
    def __str__(self) -> str:
        return "\udcff odd"


@awaited
async def test_what_a_function_raises_comes_with_type_text_and_traceback() -> None:
    async with calling(Peer()).running() as peer, RpcClient(peer.url) as client:

        def caused() -> None:
            try:
                _raises()
            except ValueError as error:
                raise LookupError("above") from error

        back = await client.call("call_back", {"fn": _raises})
        assert back["message"] == "ValueError: the data are private: no" and back["code"] == -32603
        assert back["data"]["type"] == "ValueError" and "_raises" in back["data"]["traceback"]
        assert "client/rpc_callables" not in back["data"]["traceback"]
        assert "concurrent" not in back["data"]["traceback"] and "threading" not in back["data"]["traceback"]
        assert "raise" not in back["data"]["traceback"].replace("_raises", ""), "no code leaves"
        assert str(Path(__file__).parent) not in back["data"]["traceback"]
        back = await client.call("call_back", {"fn": caused})
        assert "LookupError: above" in back["data"]["traceback"] and "ValueError" in back["data"]["traceback"]

        async def missing() -> None:
            raise KeyError("not a member of the protocol")

        for fn, kind in ((missing, "KeyError"), (_odd, "Odd"), (lambda: next(iter([])), "RunError")):
            back = await client.call("call_back", {"fn": fn})
            assert back["data"]["type"] == kind and back["code"] != -32602
        assert [called.error is None for called in client.called] == [False] * 5
        assert await client.call("call_back", {"fn": lambda: 1}) == 1


def _odd() -> None:
    raise Odd


@awaited
async def test_a_function_that_ends_the_program_ends_itself_only() -> None:
    async def leave() -> None:
        sys.exit(3)

    def interrupt() -> None:
        raise KeyboardInterrupt

    async with calling(Peer()).running() as peer, RpcClient(peer.url) as client:
        for fn, name in ((lambda: sys.exit("enough"), "SystemExit: enough"), (leave, "SystemExit: 3"),
                         (interrupt, "KeyboardInterrupt")):  # fmt: skip
            back = await client.call("call_back", {"fn": fn})
            assert back["data"]["type"] == "RunError" and name in back["message"]
        assert await client.call("call_back", {"fn": lambda: 1}) == 1


@awaited
async def test_what_cant_leave_the_notebook_is_said() -> None:
    async with calling(Peer()).running() as peer, RpcClient(peer.url) as client:
        for wrong in (object(), {1: 2}, np.array(["x"]), "\ud800"):
            back = await client.call("call_back", {"fn": lambda wrong=wrong: wrong})
            assert "can't leave the notebook" in back["message"] and back["data"]["code"] == "RUN_FAILED"
        endless: list[Any] = []
        endless.append(endless)
        back = await client.call("call_back", {"fn": lambda: endless})
        assert back["data"]["code"] == "RUN_FAILED"


@awaited
async def test_weak_spot_15_it_runs_in_the_context_of_the_cell_that_exposed_it() -> None:
    """Prints land there."""
    async with calling(Peer()).running() as peer, RpcClient(peer.url) as client:

        async def later() -> str:
            return CELL.get()

        for fn in (CELL.get, later):
            CELL.set("first")
            exposed = client.expose(fn)
            CELL.set("second")
            assert await client.call("call_back", {"fn": exposed}) == "first"
            assert await client.call("call_back", {"fn": fn}) == "second"


@awaited
async def test_many_functions_run_at_once_and_too_many_are_refused() -> None:
    end = threading.Event()
    most = rpc_callables.MAX_RUNS
    async with calling(Peer()).running() as peer, RpcClient(peer.url) as client:
        with client.expose(lambda: end.wait(20)) as fn:
            calls = [asyncio.create_task(client.call("call_back", {"fn": fn})) for _ in range(most)]
            await until(lambda: len(client._callables.runs) == most)
            refused = await client.call("call_back", {"fn": fn})
            assert refused["data"]["code"] == "BUSY"
            end.set()
            assert await asyncio.gather(*calls) == [True] * most
        before = threading.active_count()
        for _ in range(20):
            await client.call("call_back", {"fn": lambda: 1})
        assert threading.active_count() == before, "threads are used again"
    await until(lambda: not [t for t in threading.enumerate() if t.name == "gridkit-callable"])


@awaited
async def test_the_node_cancels_a_function() -> None:
    """A coroutine function ends; of another one its own calls do, and its result is answered all the same."""
    async with Peer().running() as peer, RpcClient(peer.url) as client:
        peer.methods["never"] = lambda asked: asyncio.Event().wait()
        loop = asyncio.get_running_loop()

        def on_a_thread() -> str:
            try:
                asyncio.run_coroutine_threadsafe(client.call("never"), loop).result(10)
            except RunError as error:
                assert error.code is ErrorCode.CANCELLED
            try:
                asyncio.run_coroutine_threadsafe(client.call("never"), loop).result(10)
            except RunError as error:
                return error.message
            return "?"

        async def on_the_loop() -> None:
            await asyncio.Event().wait()

        async def cancel(asked: Asked) -> Any:
            session, name = asked.session, f"n{asked.session.ids + 1}"
            asking = asyncio.create_task(
                session.ask("run_callable", callable_id=asked.params["fn"].id, args=[], kwargs={}, parent=asked.id)
            )
            await until(lambda: client._callables.runs and (asked.params["quick"] or "never" in peer.took))
            session.put(Notification("cancel", {"id": name}))
            answer = await asking
            return getattr(answer, "message", None) or answer.result["data"]

        peer.methods["cancel"] = cancel
        assert "cancelled" in await client.call("cancel", {"fn": on_the_loop, "quick": True})
        assert "cancelled" in await client.call("cancel", {"fn": on_a_thread, "quick": False})
        assert peer.took.count("never") == 1 and not client._callables.runs
        await until(lambda: len(peer.cancelled) == 1)
        peer.session.put(Notification("cancel", {"id": "unknown"}))
        assert await client.call("echo", {"n": 1}) == {"n": 1}


@awaited
async def test_s7_an_id_that_is_in_use_is_refused() -> None:
    end = threading.Event()
    async with Peer().running() as peer, RpcClient(peer.url) as client:
        with client.expose(lambda: end.wait(20)) as fn:
            first = asyncio.create_task(peer.session.ask("run_callable", callable_id=fn.id, args=[], kwargs={}))
            await until(lambda: client._callables.runs)
            running = client._callables.runs["n1"]
            held = peer.session.answers.pop("n1")
            peer.session.ids = 0
            second = await peer.session.ask("run_callable", callable_id=fn.id, args=[], kwargs={})
            assert second.code == -32602 and client._callables.runs == {"n1": running}
            peer.session.answers["n1"] = held
            end.set()
            assert (await first).result["data"] is True


@awaited
async def test_what_runs_for_a_session_that_was_lost_is_in_no_ones_way() -> None:
    """Ids of requests are each session's own."""
    end = threading.Event()
    async with calling(Peer()).running() as peer, RpcClient(peer.url) as client:
        ended: list[str] = []

        async def for_ever() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("coroutine")

        calls = [asyncio.create_task(client.call("call_back", {"fn": fn})) for fn in (lambda: end.wait(20), for_ever)]
        await until(lambda: len(client._callables.runs) == 2)
        peer.restart()
        for call in calls:
            with pytest.raises(NotFoundError, match="restarted"):
                await call
        await until(lambda: ended == ["coroutine"])
        assert not client._callables.runs
        assert [await client.call("call_back", {"fn": lambda n=n: n}) for n in range(3)] == [0, 1, 2]
        end.set()
        assert await client.call("call_back", {"fn": lambda: 3}) == 3


@awaited
async def test_a_result_that_is_too_large_is_said() -> None:
    async with calling(Peer(Window(16, 1 << 16))).running() as peer, RpcClient(peer.url) as client:
        back = await client.call("call_back", {"fn": lambda: np.zeros(1 << 16)})
        assert back["data"]["code"] == "TOO_LARGE" and await client.call("call_back", {"fn": lambda: 1}) == 1


@awaited
async def test_references_come_as_references() -> None:
    async with calling(Peer()).running() as peer, RpcClient(peer.url) as client:
        seen: list[Any] = []
        await client.call("call_back", {"fn": lambda x: seen.append(x), "args": [[Variable("x")]]})
        assert seen == [[Variable("x")]] and client.called[-1].args == "([remote x])"
        await client.call("call_back", {"fn": lambda *x, **y: "t" * 100, "args": ["a" * 1000, list(range(9)), None]})
        assert client.called[-1].args == "(text of 1000, list of 9, None)" and client.called[-1].result == "text of 100"


@awaited
async def test_a_function_that_runs_when_the_client_closes_harms_nobody() -> None:
    end = threading.Event()
    async with calling(Peer()).running() as peer:
        client = RpcClient(peer.url)
        call = asyncio.create_task(client.call("call_back", {"fn": lambda: end.wait(20)}))
        await until(lambda: client._callables.runs)
        await client.close()
        with pytest.raises(Exception, match="closed"):
            await call
        end.set()
        await until(lambda: not [t for t in threading.enumerate() if t.name == "gridkit-callable"])


def test_a_function_that_outlives_the_loop_harms_nobody() -> None:
    end = threading.Event()

    async def leave() -> None:
        async with calling(Peer()).running() as peer:
            client = RpcClient(peer.url)
            await client.submit("call_back", {"fn": lambda: end.wait(20)})
            await until(lambda: client._callables.runs)
            await client.close()

    asyncio.run(leave())
    threads = [t for t in threading.enumerate() if t.name == "gridkit-callable"]
    end.set()
    limit = time.monotonic() + 10
    while any(thread.is_alive() for thread in threads):
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_a_call_shows_itself() -> None:
    async def show() -> str:
        async with Peer().running() as peer, RpcClient(peer.url) as client:
            call: Call = await client.submit("echo")
            shown = repr(call)
            await call
            return shown + repr(call)

    assert asyncio.run(show()) == "<Call 1 of 'echo', under way><Call 1 of 'echo', done>"
