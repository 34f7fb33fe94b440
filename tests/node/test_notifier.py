"""The notifier over a node's real parts and real sockets, in one process: what it sends, what it makes of each answer,
and what is recorded. The node as a process, killed and started again, is in tests/faults/test_push_*.py."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import time
import uuid
from contextlib import closing, suppress

import pytest

from gridkit.federated import cycle
from gridkit.node.due import FINISHED
from gridkit.wire.notifications import Verifier
from tests.endpoints import Arrival, Endpoint, Hanging, agreeable, nobody
from tests.node.scene import IMPATIENT, Play, Scene


def test_a_notification_is_the_protocols_and_signed(play: Play, north: Endpoint) -> None:
    async def story(scene: Scene) -> None:
        training = await scene.training({"north": north.url})
        arrival = await scene.hears(north, "UPDATE_ROUND_START 0")
        start, secret = north.heard[0], await scene.secret("north")
        assert start.kind == "TRAINING_START" and start.training == arrival.training == training
        assert str(uuid.UUID(start.model)) == start.model == arrival.model
        for one in north.heard:
            assert one.headers["content-type"] == "application/json"
            assert int(one.headers["content-length"]) == len(one.body)
            assert "transfer-encoding" not in one.headers and "authorization" not in one.headers
            assert "cookie" not in one.headers
            Verifier(secret).check(one.headers.items(), one.body)

    play(story)


def test_who_has_no_secret_gets_no_signature(play: Play, north: Endpoint) -> None:
    async def story(scene: Scene) -> None:
        await scene.register("north", north.url, signed=False)
        await scene.training({"north": north.url})
        start = await scene.hears(north, "TRAINING_START")
        assert not [name for name in start.headers if name.startswith("x-gridkit")]

    play(story)


def test_the_assignment_is_there_before_the_round_is_told(play: Play, north: Endpoint) -> None:
    """So an upload that comes before the 202 finds it."""

    async def story(scene: Scene) -> None:
        assignments: list[int] = []

        def looks(arrival: Arrival, connection: socket.socket) -> int:
            with closing(sqlite3.connect(scene.data / "grid.db")) as base:
                assignments.append(base.execute("SELECT count(*) FROM assignment").fetchone()[0])
            return agreeable(arrival, connection)

        north.behaves = looks
        training = await scene.training({"north": north.url})
        await scene.is_told(training, {"north": 1})
        assert assignments == [0, 1]

    play(story)


def test_what_was_told_is_kept_in_order_and_told_to_whoever_watches(play: Play, north: Endpoint) -> None:
    async def story(scene: Scene) -> None:
        training = await scene.training({"north": north.url})
        await scene.is_told(training, {"north": 1})
        await scene.apply(training, lambda at: cycle.StopAsked(at, now=True))
        await scene.waits(lambda: scene.is_over(training))
        kinds = ["TRAINING_START", "UPDATE_ROUND_START 0", "TRAINING_FINISHED"]
        assert north.kinds() == kinds
        assert await scene.told(training) == {"north": FINISHED}
        answers = [(None, 200), (0, 202), (None, 200)]
        wanted = [(kind.split()[0], *answer, 1) for kind, answer in zip(kinds, answers, strict=True)]
        assert await scene.said(training) == wanted
        rows = await scene.rows(training)
        assert [(row["cycle"], row["slot"], row["worker"], row["message"], row["gone"]) for row in rows] == [
            (1, 0, "north", "", False)
        ] * 3
        assert all(0 <= row["seconds"] < 20 and row["at"] > 1e9 for row in rows)
        every = [row["kind"] for row in await scene.rows(training, kind="")]
        assert every == ["opened", "notified", "assigned", "notified", "stopping", "finished", "notified"]

    play(story)


def test_the_first_round_waits_for_who_hasnt_taken_the_start_and_for_nobody_else(
    play: Play, north: Endpoint, south: Endpoint
) -> None:
    async def story(scene: Scene) -> None:
        refusals = iter([None, 503])
        go = asyncio.Event()
        loop = asyncio.get_running_loop()

        def slow(arrival: Arrival, connection: socket.socket) -> int | None:
            """Once no answer, once a proxy's, then late."""
            if arrival.kind == "TRAINING_START":
                with suppress(StopIteration):
                    return next(refusals)
                asyncio.run_coroutine_threadsafe(go.wait(), loop).result(20)
            return agreeable(arrival, connection)

        north.behaves = slow
        training = await scene.training({"north": north.url, "south": south.url})
        await scene.hears(south, "UPDATE_ROUND_START 0")
        await scene.hears(north, "TRAINING_START", 3)
        assert north.kinds() == ["TRAINING_START"] * 3
        go.set()
        await scene.hears(north, "UPDATE_ROUND_START 0")
        await scene.is_told(training, {"north": 1, "south": 1})
        said = [("TRAINING_START", None, None, 1), ("TRAINING_START", None, 503, 2), ("TRAINING_START", None, 200, 3)]
        assert await scene.said(training, "north") == [*said, ("UPDATE_ROUND_START", 0, 202, 1)]

    play(story)


@pytest.mark.parametrize("what", ["TRAINING_START", "UPDATE_ROUND_START"])
def test_who_says_no_leaves_at_once_and_hears_nothing_more(
    play: Play, north: Endpoint, south: Endpoint, what: str
) -> None:
    async def story(scene: Scene) -> None:
        north.behaves = lambda arrival, _: 500 if arrival.kind == what else 200
        training = await scene.training({"north": north.url, "south": south.url}, tolerate=1)
        await scene.is_told(training, {"north": FINISHED, "south": 1})
        state = await scene.state(training)
        notification = "UPDATE_ROUND_START 0" if what.startswith("UPDATE") else what
        assert state.left == {0: cycle.Departure(1, "north", f"answered 500 to {notification}")}
        assert state.phase is cycle.Phase.OPEN
        row = (await scene.rows(training, worker="north"))[-1]
        assert (row["answer"], row["attempt"], row["message"], row["gone"]) == (500, 1, "answered 500", True)
        assert [row["slot"] for row in await scene.rows(training, "left")] == [0]
        await scene.apply(training, lambda at: cycle.StopAsked(at, now=True))
        await scene.waits(lambda: scene.is_over(training))
        assert north.kinds().count(notification) == 1 and "TRAINING_FINISHED" not in north.kinds()
        assert south.kinds()[-1] == "TRAINING_FINISHED"

    play(story)


@pytest.mark.parametrize("answer", [None, 502, 503, 504], ids=["closed", "502", "503", "504"])
def test_who_isnt_reached_is_tried_again_and_leaves_after_so_many_failures(
    play: Play, north: Endpoint, answer: int | None
) -> None:
    async def story(scene: Scene) -> None:
        north.behaves = lambda *_: answer
        training = await scene.training({"north": north.url})
        await scene.waits(lambda: scene.is_over(training))
        state = await scene.state(training)
        assert state.outcome == "failed" and state.reason is not None
        assert "north: WORKER_LEFT: not reached in 3 attempts: " in state.reason
        assert await scene.said(training) == [("TRAINING_START", None, answer, attempt) for attempt in (1, 2, 3)]
        rows = await scene.rows(training)
        assert [row["gone"] for row in rows] == [False, False, True]
        if answer is None:
            assert all("the connection was cut" in row["message"] or "HTTP" in row["message"] for row in rows)
        else:
            assert {row["message"] for row in rows} == {f"answered {answer}"}
        assert north.kinds() == ["TRAINING_START"] * 3

    play(story)


def test_where_nobody_listens_and_where_nobody_answers(play: Play, north: Endpoint) -> None:
    async def story(scene: Scene) -> None:
        with Hanging() as hanging, Endpoint(drips) as slow:
            members = {"refused": nobody(), "hangs": hanging.url, "drips": slow.url}
            members |= {"unknown": "http://silent.test:9/", "north": north.url}
            training = await scene.training(members, tolerate=4)
            await scene.is_told(training, {**dict.fromkeys(members, FINISHED), "north": 1})
        state = await scene.state(training)
        assert set(state.left) == {0, 1, 2, 3} and state.phase is cycle.Phase.OPEN
        assert state.left[0].reason.endswith("no connection")
        reasons = [state.left[slot].reason for slot in (1, 2, 3)]
        assert all(reason.endswith("no whole answer within 1 s") for reason in reasons), reasons
        rows = await scene.rows(training)
        told = [row["seq"] for row in rows if row["worker"] == "north" and row["answer"]]
        failed = [row["seq"] for row in rows if row["worker"] in ("hangs", "drips", "unknown")]
        assert len(told) == 2 and max(told) < min(failed)  # nobody waited for the first time-out

    def drips(_arrival: Arrival, connection: socket.socket) -> None:
        with suppress(OSError):  # the node goes away
            for byte in b"HTTP/1.1 200 OK":
                connection.sendall(bytes([byte]))
                time.sleep(0.2)

    async def resolve(name: str) -> list[str]:
        await asyncio.sleep(60)  # its name server is silent
        return [name]

    play(story, IMPATIENT, resolve=resolve)


def test_a_name_that_isnt_found_and_an_address_that_may_not_be_called_any_more(play: Play, north: Endpoint) -> None:
    async def story(scene: Scene) -> None:
        members = {"lost": "http://silent.test:9/", "inside": "http://10.1.2.3/", "north": north.url}
        training = await scene.training(members, tolerate=2)
        await scene.is_told(training, {"lost": FINISHED, "inside": FINISHED, "north": 1})
        left = (await scene.state(training)).left
        assert left[0].reason.endswith("the name isn't found")
        assert "this node may not call 10.1.2.3" in left[1].reason

    async def resolve(name: str) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    play(story, resolve=resolve)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 1_000_000,
        b"HTTP/1.1 202 Accepted\r\nContent-Length: 1000000000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 299 Why Not\r\nTransfer-Encoding: chunked\r\n\r\nzzz",
    ],
    ids=["a large body", "a body that never comes", "compressed", "none", "chunks that aren't"],
)
def test_a_2xx_is_a_yes_whatever_follows(play: Play, north: Endpoint, answer: bytes) -> None:
    async def story(scene: Scene) -> None:
        def answers(_arrival: Arrival, connection: socket.socket) -> None:
            connection.sendall(answer)
            with suppress(OSError):
                connection.recv(1)  # until the node goes away

        north.behaves = answers
        training = await scene.training({"north": north.url})
        await scene.is_told(training, {"north": 1})
        assert north.kinds() == ["TRAINING_START", "UPDATE_ROUND_START 0"]

    play(story)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"HTTP/1.1 200",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"y" * 300_000 + b"\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
    ids=["another protocol", "half a line", "no status", "a large header", "an answer to come"],
)
def test_what_isnt_an_answer_is_none(play: Play, north: Endpoint, answer: bytes) -> None:
    async def story(scene: Scene) -> None:
        north.behaves = lambda *_: answer
        training = await scene.training({"north": north.url})
        await scene.waits(lambda: scene.is_over(training))
        assert [answer for _, _, answer, _ in await scene.said(training)] == [None] * 3
        assert (await scene.state(training)).outcome == "failed"

    play(story)


def test_redirects_lead_nowhere(play: Play, north: Endpoint, south: Endpoint) -> None:
    async def story(scene: Scene) -> None:
        north.behaves = lambda *_: b"HTTP/1.1 302 Found\r\nLocation: %s\r\n\r\n" % south.url.encode()
        training = await scene.training({"north": north.url})
        await scene.waits(lambda: scene.is_over(training))
        assert "it redirects a POST" in str((await scene.state(training)).reason)
        assert south.connections == 0

    play(story)


def test_failures_count_until_it_is_reached(play: Play, north: Endpoint) -> None:
    """Two of three in a row, twice."""

    async def story(scene: Scene) -> None:
        answers = iter([None, None, 200, None, None, 202])
        north.behaves = lambda *_: next(answers)
        training = await scene.training({"north": north.url})
        await scene.is_told(training, {"north": 1})
        assert [attempt for _, _, _, attempt in await scene.said(training)] == [1, 2, 3, 1, 2, 3]

    play(story)


def test_who_reports_isnt_told_again_of_the_round(play: Play, north: Endpoint, south: Endpoint) -> None:
    """It works before it answers, and its answer gets lost."""

    async def story(scene: Scene) -> None:
        loop = asyncio.get_running_loop()
        training = ""

        def inline(arrival: Arrival, connection: socket.socket) -> int | None:
            if arrival.kind != "UPDATE_ROUND_START":
                return agreeable(arrival, connection)
            asyncio.run_coroutine_threadsafe(scene.reports(arrival.training, 0), loop).result(20)
            return None

        north.behaves = inline
        training = await scene.training({"north": north.url, "south": south.url}, tolerate=1)
        await scene.waits(lambda: scene.rows(training, "reported"))
        await asyncio.sleep(0.3)  # another attempt would come after a sixth of that
        assert north.kinds() == ["TRAINING_START", "UPDATE_ROUND_START 0"]
        assert (await scene.state(training)).left == {}

    play(story)
