"""Links that break: what a session says and hears is the same as without."""

from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc
from typing import Any

import numpy as np
import pytest

from gridkit.client import rpc_applier, rpc_session
from gridkit.client.rpc import RpcClient
from gridkit.client.rpc_calls import Call
from gridkit.errors import AccessError, CallTimeout, ErrorCode, LimitError, NodeUnreachable, NotFoundError, WireError
from gridkit.wire.rpc.channel import Window
from gridkit.wire.rpc.handshake import BROKEN, REPLACED
from tests.client.cutting import Proxy
from tests.client.rpc_peer import SILENT, Asked, Peer, awaited, call_back
from tests.client.test_rpc import slow, until


def counting(peer: Peer, done: list[int]) -> None:
    """Methods that are noticed when they are done twice."""

    async def note(asked: Asked) -> int:
        done.append(asked.params["n"])
        return len(done)

    def graph(asked: Asked) -> str:
        tell, first = asked.session.tell, asked.params["first"]
        for node in (first, first + 1):
            tell("create_node", node_id=node, name=f"Node{node}")
        tell("create_edge", from_node_id=first + 1, to_node_id=first, output_nr=0, input_nr=0)
        tell(
            "create_variable",
            variable_id=f"v{first}",
            data={"dtype": "float32", "shape": [2], "values": np.ones(2, np.float32)},
            requires_grad=True,
            is_leaf=False,
            parameter=False,
            retains_grad=False,
            output_nr=0,
            grad_fn=first + 1,
            has_grad=False,
            version=0,
        )
        return "built"

    peer.methods |= {"note": note, "graph": graph, "slow": slow, "call_back": call_back}


async def script(peer: Peer, client: RpcClient) -> dict[str, Any]:
    """A session with something of everything, and all that came of it."""
    done: list[int] = []
    called: list[int] = []
    counting(peer, done)

    async def twice(n: int) -> Any:
        called.append(n)
        return {"echo": await client.call("echo", {"n": n}), "array": np.full(3, n)}

    calls = [await client.submit("note", {"n": n}) for n in range(5)]
    counted = await asyncio.gather(*calls)
    built = await client.call("graph", {"first": 1})
    with client.expose(twice) as handle:
        back = [await client.call("call_back", {"fn": handle, "args": [n]}) for n in range(2)]
    built += await client.call("graph", {"first": 3})
    slowly = await client.call("slow")
    variable = client.mirror.variables["v3"]
    assert variable.grad_fn is not None and variable.grad_fn.next_functions[0] is not None
    return {
        "counted": counted,
        "done": done,
        "built": built,
        "called": called,
        "back": [(one["echo"], one["array"].tolist()) for one in back],
        "slowly": slowly,
        "nodes": sorted(client.mirror.nodes),
        "name": variable.grad_fn.next_functions[0][0].name,
        "values": variable.data.values is not None and variable.data.values.tolist(),
        "took": peer.took,
    }


async def run(cuts: set[int], after: bool = False) -> tuple[dict[str, Any], Peer]:
    async with Peer().running() as peer:
        peer.cuts, peer.after = cuts, after
        async with RpcClient(peer.url) as client:
            outcome = await script(peer, client)
            await asyncio.sleep(0)
            assert not client._calls and len(client._callables) == 0
        return outcome, peer


@awaited
async def test_a_link_that_is_cut_at_any_message_changes_nothing() -> None:
    """With the message lost, or arrived; nothing is done twice, and nothing is left out."""
    undisturbed, peer = await run(set())
    assert undisturbed["counted"] == [1, 2, 3, 4, 5] and undisturbed["nodes"] == [1, 2, 3, 4] and peer.links == 1
    limit = asyncio.Semaphore(8)

    async def disturbed(cut: int, after: bool) -> None:
        async with limit:
            outcome, peer = await run({cut}, after)
        assert outcome == undisturbed, (cut, after)
        assert peer.links == 2 or peer.moved <= cut + 2, (cut, after)

    first = 3  # hello and its answer: without these there is no session yet
    await asyncio.gather(*(disturbed(cut, after) for cut in range(first, peer.moved + 1) for after in (False, True)))


@awaited
async def test_links_that_are_cut_again_and_again() -> None:
    undisturbed, peer = await run(set())
    for step in (5, 7):
        outcome, peer = await run(set(range(step, 400, step)))
        assert outcome == undisturbed and peer.links > 3


@awaited
async def test_weak_spot_2_the_key_is_kept_and_what_is_under_way_goes_on() -> None:
    """Whatever ended the link, 1000 and 1001 too."""
    async with Peer().running() as peer:
        client = RpcClient(peer.url)
        await client.connect("secret")
        open_ = asyncio.Event()

        async def held(asked: Asked) -> str:
            await open_.wait()
            return "kept"

        peer.methods["held"] = held
        call = asyncio.create_task(client.call("held"))
        await until(lambda: peer.took)
        for code in (1000, 1001, 1011, 1012, REPLACED, None):
            before = peer.links
            for socket in tuple(peer.open):
                if code is None:
                    socket.transport.abort()
                else:
                    await socket.close(code)
            await until(lambda before=before: peer.links > before and client.connected)
            await client.call("echo")
        open_.set()
        assert await call == "kept"
        assert peer.keys == ["Bearer secret"] * 7 and len(peer.sessions) == 1
        await client.close()


@awaited
async def test_a_node_that_is_away_for_a_while_is_waited_for() -> None:
    async with Peer().running() as peer, RpcClient(peer.url) as client:
        await client.call("echo")
        await peer.stop()
        assert not client.connected
        call = asyncio.create_task(client.call("echo", {"n": 1}))
        await asyncio.sleep(0.3)
        assert not call.done()
        await peer.start()
        assert await call == {"n": 1} and len(peer.sessions) == 1


@awaited
async def test_a_call_that_finds_no_link_times_out_all_the_same() -> None:
    async with Peer().running() as peer, RpcClient(peer.url) as client:
        await client.call("echo")
        await peer.stop()
        with pytest.raises(CallTimeout):
            await client.call("echo", {"n": 1}, timeout=0.2)
        await peer.start()
        assert await client.call("echo", {"n": 2}) == {"n": 2}
        assert peer.took == ["echo", "echo"], "what nobody waits for any more is not sent"


@awaited
async def test_a_node_that_stays_away_ends_the_session_after_a_while() -> None:
    async with Peer().running() as peer, RpcClient(peer.url, patience=0.3) as client:
        await client.call("echo")
        first = client.mirror
        await peer.stop()
        with pytest.raises(NodeUnreachable) as found:
            await client.call("echo", {"n": 1}, timeout=30)
        assert not isinstance(found.value, CallTimeout) and first.lost is not None
        with pytest.raises(NodeUnreachable):
            await client.call("echo")
        await peer.start()
        assert await client.call("echo", {"n": 2}) == {"n": 2} and len(peer.sessions) == 2


@awaited
async def test_a_session_that_the_node_lost_ends_all_calls_and_the_next_begins_another() -> None:
    async with Peer().running() as peer, RpcClient(peer.url) as client:
        counting(peer, [])
        peer.methods["silent"] = lambda asked: SILENT
        peer.methods["read"] = _not_found
        await client.call("graph", {"first": 1})
        before = client.mirror
        held = before.variable("v1")
        assert await before.ready("v1", "backward") is held
        before.begin("pass", "backward")
        calls = [asyncio.create_task(client.call("silent")) for _ in range(3)]
        waits = asyncio.create_task(before.ready("v1", "backward"))
        await until(lambda: peer.took.count("silent") == 3)
        peer.restart()
        for call in calls:
            with pytest.raises(NotFoundError, match="restarted") as found:
                await call
            assert found.value.code is ErrorCode.SESSION_LOST
        for reading in (waits, before.ready("v1", "backward")):
            with pytest.raises(NotFoundError, match=r"v1.*lost"):
                await reading
        assert await client.call("echo", {"n": 1}) == {"n": 1}
        assert client.mirror is not before and client.mirror.lost is None
        with pytest.raises(NotFoundError) as old:
            await client.call("read", {"variable_id": "v1"})
        assert "the session before this one is lost" in old.value.__notes__[0]


def _not_found(asked: Asked) -> None:
    raise NotFoundError("no variable 'v1'", code=ErrorCode.NOT_FOUND, status=404)


@awaited
async def test_a_key_that_is_no_longer_good_ends_the_session_at_once() -> None:
    async with Peer().running() as peer, RpcClient(peer.url) as client:
        peer.methods["silent"] = lambda asked: SILENT
        call = asyncio.create_task(client.call("silent"))
        await until(lambda: peer.took)
        peer.refuse = 401
        peer.cut()
        with pytest.raises(AccessError):
            await call
        assert len(peer.keys) == 2


@awaited
async def test_weak_spot_8_bytes_that_are_no_frames_end_the_link_and_not_the_session() -> None:
    """And one that goes on so is given up."""
    async with Peer().running() as peer, RpcClient(peer.url) as client:
        await client.call("echo")
        for wrong in (b"garbage", "a text", b""):
            before = peer.links
            for socket in tuple(peer.open):
                await socket.send(wrong)
            assert await client.call("echo", {"n": 1}) == {"n": 1}
            if wrong != b"":
                await until(lambda before=before: peer.links > before)
        peer.methods["silent"] = lambda asked: SILENT
        call = asyncio.create_task(client.call("silent"))
        codes = []
        while not call.done():
            for socket in tuple(peer.open):
                await socket.send(b"garbage")
                await socket.wait_closed()
                codes.append(socket.close_code)
            await asyncio.sleep(0.01)
        with pytest.raises(WireError, match="disagree"):
            await call
        assert set(codes) == {BROKEN} and len(codes) <= rpc_session.MAX_BROKEN
        assert await client.call("echo", {"n": 2}) == {"n": 2}


@awaited
async def test_s6_frames_of_any_bytes_end_no_session() -> None:
    chance = random.Random(6)
    async with Peer().running() as peer, RpcClient(peer.url) as client:
        await client.call("echo")
        session = peer.session
        for _ in range(20):
            for socket in tuple(peer.open):
                await socket.send(chance.randbytes(chance.randrange(1, 100)))
            assert await client.call("echo", {"n": 1}) == {"n": 1}
            assert peer.session is session


@awaited
async def test_r10_a_link_that_is_only_half_there_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cable is pulled: nothing is closed, nothing comes."""
    monkeypatch.setattr(rpc_session, "PING_SECONDS", 0.2)
    async with Peer().running() as peer:
        proxy = Proxy(peer.port, up=False)
        async with proxy.running() as url, RpcClient(url) as client:
            assert await client.call("echo", {"n": 1}) == {"n": 1}
            proxy.stall = 0
            call = asyncio.create_task(client.call("echo", {"n": 2}))
            await proxy.stalled.wait()
            proxy.stall = None
            assert await call == {"n": 2} and proxy.connections == 2
            assert peer.took == ["echo", "echo"]


@awaited
async def test_r9_a_node_that_is_slow_to_take_keeps_those_waiting_who_submit() -> None:
    """And nobody else; memory is bounded by the window."""
    async with Peer(Window(4, 1 << 20)).running() as peer, RpcClient(peer.url) as client:
        came: list[int] = []
        peer.methods["note"] = lambda asked: came.append(asked.params["n"])
        peer.hold = True
        sent: list[int] = []

        async def produce() -> None:
            for n in range(20):
                await client.submit("note", {"n": n})
                sent.append(n)

        producing = asyncio.create_task(produce())
        await until(lambda: len(came) == 4)
        await asyncio.sleep(0.1)
        assert sent == [0, 1, 2, 3] == came and not producing.done()
        peer.session.tell("log", level="info", text="")  # the other direction has its own room
        peer.hold = False
        peer.session.channel.applied(peer.session.channel.position.taken, 0.0)
        peer.session.wake.set()
        await producing
        assert await client.call("echo", {"n": 1}) == {"n": 1} and came == list(range(20))


@awaited
async def test_r9_a_node_that_asks_and_does_not_listen_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_applier, "MAX_UNHEARD", 10)
    async with Peer(Window(4, 1 << 20)).running() as peer, RpcClient(peer.url) as client:
        peer.methods["silent"] = lambda asked: SILENT
        call = asyncio.create_task(client.call("silent"))
        await until(lambda: peer.took)
        peer.hold = True
        asking = [asyncio.create_task(peer.session.ask("log", level="info", text="")) for _ in range(100)]
        with pytest.raises(LimitError, match="doesn't listen"):
            await call
        for task in asking:
            task.cancel()
        peer.hold = False
        assert await client.call("echo", {"n": 1}) == {"n": 1}


@awaited
async def test_r9_without_a_link_nothing_is_sure_to_arrive() -> None:
    """And what is given up meanwhile isn't sent."""
    async with Peer(Window(4, 1 << 20)).running() as peer, RpcClient(peer.url) as client:
        came: list[int] = []
        peer.methods["note"] = lambda asked: came.append(asked.params["n"])
        await client.call("echo")
        await peer.stop()
        sent: list[int] = []

        async def produce() -> None:
            for n in range(20):
                await client.submit("note", {"n": n})
                sent.append(n)

        producing = asyncio.create_task(produce())
        await asyncio.sleep(0.1)
        assert sent == [] and not producing.done()
        await peer.start()
        await producing
        assert await client.call("echo", {"n": 1}) == {"n": 1} and came == list(range(20))


@awaited
async def test_a_call_that_is_too_large_is_refused_and_no_other() -> None:
    async with Peer(Window(16, 1 << 16)).running() as peer, RpcClient(peer.url) as client:
        with pytest.raises(Exception, match="bytes") as found:
            await client.call("echo", {"x": np.zeros(1 << 16)})
        assert getattr(found.value, "code", None) is ErrorCode.TOO_LARGE
        assert await client.call("echo", {"x": 1}) == {"x": 1} and not client._calls


@pytest.mark.soak
@awaited
async def test_memory_is_flat_over_a_long_session() -> None:
    """With calls, functions, graphs, cancelled calls, and a broken link now and then."""
    async with Peer().running() as peer, RpcClient(peer.url) as client:
        counting(peer, [])
        peer.methods["silent"] = lambda asked: SILENT

        async def work(rounds: int) -> int:
            for round in range(rounds):
                await asyncio.gather(*(client.call("echo", {"n": n, "x": np.zeros(100)}) for n in range(20)))
                await client.call("graph", {"first": 2 * round})
                await client.call("call_back", {"fn": lambda n=round: n})
                client.mirror.forget([f"v{2 * round}"])
                call = await client.submit("silent")
                waiting = asyncio.create_task(_waiting(call))
                await asyncio.sleep(0)
                waiting.cancel()
                if round % 20 == 0:
                    peer.cut()
            peer.took.clear()
            peer.cancelled.clear()
            client._callables.called.clear()
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        await work(100)
        before = await work(100)
        after = await work(400)
        tracemalloc.stop()
        assert after - before < 200_000 and not client.mirror.nodes
        await until(lambda: not client._calls)


async def _waiting(call: Call) -> None:
    await call


@awaited
async def test_memory_is_flat_over_many_calls_and_links() -> None:
    """registries hold nothing of what is over."""
    async with Peer().running() as peer, RpcClient(peer.url) as client:
        counting(peer, [])
        for round in range(20):
            await asyncio.gather(*(client.call("echo", {"n": n}) for n in range(50)))
            await client.call("call_back", {"fn": lambda n=round: n})
            peer.cut()
        await client.call("echo")
        assert not client._calls and len(client._callables) == 0 and not client._callables.runs
        assert client._session is not None and not client._session._waiting
        channel = peer.session.channel
        await until(lambda: channel.unacked == 0)
        applier = client._applier
        assert applier is not None and not applier._inbox and not applier._answering
