"""The wait loop: which nest library, what it leaves alone, what forked children and other loops see of it."""

from __future__ import annotations

import inspect
import os

import pytest

from gridkit.bridge import BRIDGE
from gridkit.errors import UsageError
from gridkit.waitloop import NEST_LIBRARIES
from tests.cached import ROOT, package_folder
from tests.echo import EchoServer
from tests.scripts import run_script


def test_an_unknown_way_to_wait_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDKIT_WAIT", "patiently")

    async def one() -> int:
        return 1

    coro = one()
    with pytest.raises(UsageError, match=r"'patiently'\nTry: .*plain, nest_asyncio2, nest_asyncio"):
        BRIDGE.sync(coro)
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


@pytest.mark.parametrize("library", NEST_LIBRARIES)
def test_nothing_is_started_before_it_is_needed_and_asyncio_is_left_as_it_was(library: str) -> None:
    said = run_script(
        f"""
        import asyncio, sys, threading
        from gridkit.bridge import BRIDGE
        async def one(): return 1
        assert threading.active_count() == 1 and not {{"nest_asyncio", "nest_asyncio2"}} & set(sys.modules)
        thread = threading.Thread(target=lambda: BRIDGE.sync(one())); thread.start(); thread.join()
        assert not {{"nest_asyncio", "nest_asyncio2"}} & set(sys.modules), "only the main thread needs it"
        def names(): return (
            asyncio.run, asyncio.Task, asyncio.Future, asyncio.get_event_loop, asyncio.tasks.Task,
            type(asyncio.get_event_loop_policy()).__dict__.get("get_event_loop"), hasattr(asyncio, "_nest_patched"))
        before = names()
        assert BRIDGE.sync(one()) == 1
        assert {{"nest_asyncio", "nest_asyncio2"}} & set(sys.modules) == {{{library!r}}}
        assert names() == before
        assert "_nest_patched" not in vars(asyncio.SelectorEventLoop)
        print(asyncio.run(one()))
        """,
        GRIDKIT_WAIT=library,
    )
    assert said == "1\n"


def test_the_maintained_library_is_preferred_and_the_old_one_will_do() -> None:
    code = """
        import sys
        if {hidden}: sys.modules["nest_asyncio2"] = None
        from gridkit.bridge import BRIDGE
        async def one(): return 1
        BRIDGE.sync(one())
        print(*sorted({{"nest_asyncio", "nest_asyncio2"}} & {{name for name, m in sys.modules.items() if m}}))
        """
    assert run_script(code.format(hidden=False), GRIDKIT_WAIT="") == "nest_asyncio2\n"
    assert run_script(code.format(hidden=True), GRIDKIT_WAIT="") == "nest_asyncio\n"


@pytest.mark.parametrize("users", NEST_LIBRARIES)
@pytest.mark.parametrize("library", NEST_LIBRARIES)
def test_a_user_who_patched_asyncio_is_still_fine(users: str, library: str) -> None:
    said = run_script(
        f"""
        import asyncio, {users}, warnings
        warnings.simplefilter("ignore", ResourceWarning)  # their asyncio.run closes no loop
        {users}.apply()
        from gridkit.bridge import BRIDGE
        async def one(): return 1
        async def call_back(): return await asyncio.wrap_future(BRIDGE.post(lambda: BRIDGE.sync(one())))
        async def main(): return BRIDGE.sync(call_back()) + asyncio.run(one())
        print(asyncio.run(main()))
        """,
        GRIDKIT_WAIT=library,
    )
    assert said == "2\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_a_bridge_of_its_own_and_leaves_the_parents_alone() -> None:
    with EchoServer() as server:
        said = run_script(
            f"""
            import gc, os, sys, warnings
            warnings.simplefilter("ignore")  # fork with threads; the parent's sockets, which the child just drops
            from tests.echo import BRIDGE, EchoClient
            client = EchoClient({server.url!r})
            assert client.call("echo", 1) == 1
            BRIDGE._lock.acquire()  # as if another thread were starting the I/O thread just now
            child = os.fork()
            if child == 0:
                print("child", EchoClient({server.url!r}).call("echo", 2), flush=True)
                gc.collect()  # finalises the parent's loops, which must not reach the parent's epoll objects
                sys.exit(0)
            BRIDGE._lock.release()
            assert os.waitpid(child, 0)[1] == 0
            print("parent", client.call("echo", 3))
            client.close()
            """
        )
    assert said == "child 2\nparent 3\n"


def test_under_uvloop() -> None:
    said = run_script(
        """
        import asyncio, uvloop
        from gridkit.bridge import BRIDGE
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        async def one(): return 1
        async def call_back(): return await asyncio.wrap_future(BRIDGE.post(lambda: BRIDGE.sync(one())))
        async def main():
            assert type(asyncio.get_running_loop()).__module__ == "uvloop"
            later = BRIDGE.post(one)
            return BRIDGE.sync(call_back()) + await asyncio.wrap_future(BRIDGE.post(one))
        print(BRIDGE.sync(call_back()), asyncio.run(main()))
        """,
        PYTHONPATH=os.pathsep.join([str(ROOT), str(package_folder("uvloop", "uvloop"))]),
    )
    assert said == "1 2\n"
