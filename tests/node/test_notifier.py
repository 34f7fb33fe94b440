"""The notifier over a node's real parts and real sockets, in one process: what it sends, what it makes of each answer,
and what is recorded. The node as a process, killed and started again, is in tests/faults/test_push_*.py."""

from __future__ import annotations

import asyncio
import secrets
import socket
import sqlite3
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from gridkit.errors import ErrorCode
from gridkit.federated import cycle, history
from gridkit.federated.checks import Verdict
from gridkit.node import due
from gridkit.node.app import build
from gridkit.node.due import FINISHED, NOTHING
from gridkit.node.notifier import Notifier
from gridkit.node.outbound import Outbound, Resolve
from gridkit.node.participants import Wish
from gridkit.node.processes import append_rows, bare, load, read_rows
from gridkit.node.rights import OWNER
from gridkit.node.settings import Limits, NodeSettings
from gridkit.node.store import tables as db
from gridkit.wire.notifications import Verifier
from tests.endpoints import ANSWERS, Arrival, Endpoint, Hanging, agreeable, endpoints, nobody

LIMITS = Limits(push_attempts=3)
IMPATIENT = Limits(push_attempts=3, push_seconds=1.0)


class Scene:
    """A node's parts without its server; ``waits` polls, as tests have no news."""

    def __init__(self, data: Path, limits: Limits, resolve: Resolve | None) -> None:
        data.mkdir()
        settings = NodeSettings(data=data, open=True, allow_targets=("silent.test:9",), limits=limits)
        self.outbound = Outbound(settings, resolve=resolve)
        self.data = data
        self.limits = limits
        _, self.service = build(settings, self.outbound)
        self.rounds = self.service.trainings.rounds
        self.notifier = self.service.notifier
        self.complaints: list[dict[str, Any]] = []

    async def __aenter__(self) -> Scene:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.complaints.append(context))
        self.rounds.db.start()
        await self.notifier.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.notifier.close()
        await self.rounds.close()
        self.service.accounts.close()
        self.service.watch.close()
        await self.service.models.close()
        self.rounds.db.close()
        self.outbound.close()

    async def restart(self) -> None:
        """Another notifier over what is on the disk."""
        await self.notifier.close()
        self.rounds.observers.clear()
        self.notifier = Notifier(self.rounds, self.service.participants, self.outbound, self.limits)
        await self.notifier.start()

    async def register(self, name: str, endpoint: str, *, signed: bool = True) -> None:
        """Straight into the tables: without a password, which takes its time."""
        number = secrets.token_hex(16) if signed else None
        row = {"id": str(uuid.uuid4()), "endpoint": endpoint, "secret": number, "profile": {}, "created_at": 0.0}

        def insert(c: sa.Connection) -> None:
            c.execute(db.account.insert().values(name=name, role="worker", password=None, created_at=0.0))
            c.execute(db.participant.insert().values(account=name, **row))

        await self.rounds.db.write(insert)

    async def secret(self, name: str) -> str:
        found = await self.rounds.db.read(lambda c: self.service.participants.of_account(c, name))
        assert found is not None and found.secret is not None
        return found.secret

    async def training(self, members: Mapping[str, str], *, owner: str = "owner", **rules: Any) -> str:
        """A training of these accounts at these endpoints, started; its id."""
        there = await self.rounds.db.read(lambda c: self.service.participants.of_accounts(c, [*members, owner]))
        for name, endpoint in members.items():
            if name not in there:
                await self.register(name, endpoint)
        training, model = str(uuid.uuid4()), str(uuid.uuid4())
        state, decisions = cycle.CycleState.start(
            cycle.CycleRules(clients=len(members), **{"num_cycles": 1, **rules}), self.rounds.clock()
        )

        def insert(c: sa.Connection) -> None:
            process = uuid.UUID(training).hex
            empty: dict[str, Any] = {"client_config": {}, "server_config": {}, "model": [], "version": "1"}
            values = {"id": process, "name": training, "owner": owner, "created_at": 0.0, "revision": 0, **empty}
            c.execute(db.process.insert().values(**values, state=bare(state), deadline=state.due))
            append_rows(c, process, history.publish(None, None, state, decisions))
            archive = {
                "name": "m",
                "description": "",
                "digest": "0" * 64,
                "size": 0,
                "input_shape": None,
                "created_at": 0.0,
            }
            c.execute(db.push_model.insert().values(id=model, owner=owner, **archive))
            started = {"config": {}, "created_at": 0.0, "told": False}
            c.execute(db.push_training.insert().values(id=training, owner=owner, model=model, **started))
            for slot, name in enumerate(members):
                worker = f"w{slot} of {training}"
                who = {"process": process, "slot": slot, "label": name, "created_at": 0.0}
                c.execute(db.worker.insert().values(id=worker, **who))
                member = {"account": name, "slot": slot, "worker": worker, "told": NOTHING}
                c.execute(db.push_member.insert().values(training=training, **member))

        await self.rounds.db.write(insert)
        self.notifier.follow(training)
        return training

    async def state(self, training: str) -> cycle.CycleState:
        """As it is on the disk."""
        return (await self.rounds.db.read(lambda c: load(c, uuid.UUID(training).hex))).state

    async def apply(self, training: str, make: Callable[[float], cycle.Event]) -> tuple[cycle.Decision, ...]:
        return (await self.rounds.apply(uuid.UUID(training).hex, make))[1]

    async def reports(self, training: str, slot: int) -> None:
        """This member's report is refused, which is a decision too, and needs no model."""
        worker = f"w{slot} of {training}"
        key = (await self.state(training)).assignments[worker].request_key
        verdict = Verdict(ErrorCode.NOT_FINITE, "NaN")
        await self.apply(training, lambda at: cycle.ReportCame(at, worker, key, "digest", verdict))

    async def told(self, training: str) -> dict[str, int]:
        wanted = sa.select(db.push_member.c.account, db.push_member.c.told).where(db.push_member.c.training == training)
        return {row.account: row.told for row in await self.rounds.db.read(lambda c: c.execute(wanted).all())}

    async def owner_told(self, training: str) -> bool:
        wanted = sa.select(db.push_training.c.told).where(db.push_training.c.id == training)
        return bool(await self.rounds.db.read(lambda c: c.execute(wanted).scalar_one()))

    async def rows(self, training: str, kind: str = "notified", worker: str | None = None) -> list[dict[str, Any]]:
        found = await self.rounds.db.read(lambda c: read_rows(c, 0, uuid.UUID(training).hex, limit=10_000))
        return [row for row in found if kind in ("", row["kind"]) and worker in (None, row.get("worker"))]

    async def said(self, training: str, worker: str | None = None) -> list[tuple[str, int | None, int | None, int]]:
        """The rows of what was told: what, its round, the answer, at which attempt."""
        rows = await self.rows(training, worker=worker)
        return [(row["notification"], row["round"], row["answer"], row["attempt"]) for row in rows]

    async def waits(self, condition: Callable[[], Coroutine[Any, Any, Any]], seconds: float = 20.0) -> Any:
        async with asyncio.timeout(seconds):
            while not (value := await condition()):
                await asyncio.sleep(0.01)
        return value

    async def is_told(self, training: str, told: dict[str, int]) -> None:
        """Until each was told up to these steps."""

        async def is_so() -> bool:
            return await self.told(training) == told

        await self.waits(is_so)

    async def is_over(self, training: str) -> bool:
        """Whether everybody was told everything."""
        return await self.owner_told(training) and training not in self.notifier._tasks

    async def hears(self, endpoint: Endpoint, what: str, times: int = 1) -> Arrival:
        await asyncio.to_thread(endpoint.waits_for, what, times)
        return [arrival for arrival in endpoint.heard if str(arrival) == what][times - 1]


Story = Callable[[Scene], Coroutine[Any, Any, None]]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scene]:
    """Runs a story on a scene, with short pauses; nothing went wrong behind it."""
    monkeypatch.setattr(due, "PAUSE", 0.05)

    def run(story: Story, limits: Limits = LIMITS, complaints: int = 0, resolve: Resolve | None = None) -> Scene:
        async def main() -> Scene:
            async with Scene(tmp_path / "data", limits, resolve) as scene:
                await story(scene)
            return scene

        scene = asyncio.run(main())
        assert len(scene.complaints) == complaints, scene.complaints
        return scene

    return run


Play = Callable[..., Scene]


@pytest.fixture
def north() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint
    assert endpoint.trouble == []


@pytest.fixture
def south() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint
    assert endpoint.trouble == []


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


@pytest.mark.parametrize("answer", [500, 400, 302])
def test_the_end_is_told_once_whatever_is_answered(play: Play, north: Endpoint, answer: int) -> None:
    async def story(scene: Scene) -> None:
        north.behaves = lambda arrival, connection: (
            answer if arrival.kind == "TRAINING_FINISHED" else agreeable(arrival, connection)
        )
        training = await scene.training({"north": north.url})
        await scene.is_told(training, {"north": 1})
        await scene.apply(training, lambda at: cycle.StopAsked(at, now=True))
        await scene.waits(lambda: scene.is_over(training))
        assert north.kinds().count("TRAINING_FINISHED") == 1
        assert (await scene.said(training))[-1] == ("TRAINING_FINISHED", None, answer, 1)
        assert (await scene.state(training)).left == {}

    play(story)


def test_the_end_is_given_up_where_nobody_is_there(play: Play, north: Endpoint) -> None:
    async def story(scene: Scene) -> None:
        north.behaves = lambda arrival, connection: (
            None if arrival.kind == "TRAINING_FINISHED" else agreeable(arrival, connection)
        )
        training = await scene.training({"north": north.url})
        await scene.is_told(training, {"north": 1})
        await scene.apply(training, lambda at: cycle.StopAsked(at, now=True))
        await scene.waits(lambda: scene.is_over(training))
        ends = [row for row in await scene.rows(training) if row["notification"] == "TRAINING_FINISHED"]
        assert [row["attempt"] for row in ends] == [1, 2, 3]
        assert all(row["answer"] is None and row["message"] for row in ends)
        assert await scene.told(training) == {"north": FINISHED}

    play(story)


def test_who_is_in_the_middle_of_an_attempt_hears_of_the_end_after_it(play: Play, north: Endpoint) -> None:
    async def story(scene: Scene) -> None:
        loop = asyncio.get_running_loop()

        def stops(arrival: Arrival, connection: socket.socket) -> int:
            if arrival.kind == "UPDATE_ROUND_START":
                stop = scene.apply(arrival.training, lambda at: cycle.StopAsked(at, now=True))
                asyncio.run_coroutine_threadsafe(stop, loop).result(20)
                return 500  # too late to leave
            return agreeable(arrival, connection)

        north.behaves = stops
        training = await scene.training({"north": north.url})
        await scene.waits(lambda: scene.is_over(training))
        assert north.kinds() == ["TRAINING_START", "UPDATE_ROUND_START 0", "TRAINING_FINISHED"]
        assert (await scene.state(training)).left == {}
        assert not any(row["gone"] for row in await scene.rows(training))

    play(story)


def test_the_owner_is_told_of_the_end_once(play: Play, north: Endpoint, south: Endpoint) -> None:
    async def story(scene: Scene) -> None:
        await scene.register("south", south.url)
        training = await scene.training({"north": north.url}, owner="south")
        await scene.is_told(training, {"north": 1})
        await scene.apply(training, lambda at: cycle.StopAsked(at, now=True))
        await scene.waits(lambda: scene.is_over(training))
        assert south.kinds() == ["TRAINING_FINISHED"]
        (row,) = await scene.rows(training, worker="south")
        assert (row["slot"], row["notification"], row["answer"]) == (None, "TRAINING_FINISHED", 200)
        both = await scene.training({"north": north.url, "south": south.url}, owner="south")
        await scene.is_told(both, {"north": 1, "south": 1})
        await scene.apply(both, lambda at: cycle.StopAsked(at, now=True))
        await scene.waits(lambda: scene.is_over(both))
        assert [a.kind for a in south.heard if a.training == both].count("TRAINING_FINISHED") == 1
        await scene.restart()
        assert scene.notifier._tasks == {}
        assert south.kinds().count("TRAINING_FINISHED") == 2

    play(story)


def test_an_owner_who_left_as_a_member_hears_of_the_end_all_the_same(
    play: Play, north: Endpoint, south: Endpoint
) -> None:
    async def story(scene: Scene) -> None:
        south.behaves = lambda arrival, _: 200 if arrival.kind == "TRAINING_FINISHED" else 500
        training = await scene.training({"north": north.url, "south": south.url}, owner="south")
        await scene.waits(lambda: scene.is_over(training))
        assert (await scene.state(training)).outcome == "failed"
        assert south.kinds() == ["TRAINING_START", "TRAINING_FINISHED"]

    play(story)


def test_who_is_removed_leaves_at_once_though_nothing_is_due(play: Play, north: Endpoint, south: Endpoint) -> None:
    async def story(scene: Scene) -> None:
        training = await scene.training({"north": north.url, "south": south.url}, tolerate=1)
        await scene.is_told(training, {"north": 1, "south": 1})
        await scene.service.accounts.remove(OWNER, "north")
        await scene.is_told(training, {"north": FINISHED, "south": 1})
        assert (await scene.state(training)).left[0].reason == "its account was removed"
        await scene.register("north", south.url)  # another, who isn't in it
        await scene.apply(training, lambda at: cycle.StopAsked(at, now=True))
        await scene.waits(lambda: scene.is_over(training))
        assert north.kinds() == ["TRAINING_START", "UPDATE_ROUND_START 0"]
        assert south.kinds().count("TRAINING_FINISHED") == 1

    play(story)


def test_who_was_removed_while_the_node_was_away_leaves_when_it_is_back(
    play: Play, north: Endpoint, south: Endpoint
) -> None:
    async def story(scene: Scene) -> None:
        training = await scene.training({"north": north.url, "south": south.url}, tolerate=1)
        await scene.is_told(training, {"north": 1, "south": 1})
        await scene.notifier.close()
        await scene.service.participants.remove(OWNER, "north")
        await scene.restart()
        await scene.is_told(training, {"north": FINISHED, "south": 1})
        assert (await scene.state(training)).left[0].reason == "its account was removed"

    play(story)


def test_another_endpoint_and_secret_are_used_from_the_next_attempt_on(
    play: Play, north: Endpoint, south: Endpoint
) -> None:
    async def story(scene: Scene) -> None:
        training = await scene.training({"north": north.url})
        await scene.is_told(training, {"north": 1})
        made = await scene.service.participants.register(OWNER, Wish("north", south.url, renew=True))
        await scene.apply(training, lambda at: cycle.StopAsked(at, now=True))
        end = await scene.hears(south, "TRAINING_FINISHED")
        Verifier(made["secret"]).check(end.headers.items(), end.body)

    play(story)


def test_a_new_start_goes_on_and_tells_nothing_twice(play: Play, north: Endpoint) -> None:
    async def story(scene: Scene) -> None:
        training = await scene.training({"north": north.url})
        await scene.is_told(training, {"north": 1})
        await scene.restart()
        await scene.apply(training, lambda at: cycle.StopAsked(at, now=True))
        await scene.waits(lambda: scene.is_over(training))
        await scene.restart()
        assert scene.notifier._tasks == {}
        assert north.kinds() == ["TRAINING_START", "UPDATE_ROUND_START 0", "TRAINING_FINISHED"]

    play(story)


def test_what_ended_while_the_node_was_away_is_told_when_it_is_back(play: Play, north: Endpoint) -> None:
    async def story(scene: Scene) -> None:
        training = await scene.training({"north": north.url})
        await scene.is_told(training, {"north": 1})
        await scene.notifier.close()
        await scene.apply(training, lambda at: cycle.StopAsked(at, now=True))
        assert await scene.told(training) == {"north": 1}
        await scene.restart()
        await scene.waits(lambda: scene.is_over(training))
        assert north.kinds()[-1] == "TRAINING_FINISHED"

    play(story)


def test_trouble_with_the_disk_doesnt_tell_anything_twice(
    play: Play, north: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(scene: Scene) -> None:
        write = scene.rounds.db.write
        left = 2

        async def fails(job: Callable[[sa.Connection], Any]) -> Any:
            nonlocal left
            if north.heard and left:
                left -= 1
                raise OperationalError("INSERT", {}, Exception("database or disk is full"))
            return await write(job)

        monkeypatch.setattr(scene.rounds.db, "write", fails)
        training = await scene.training({"north": north.url})
        await scene.is_told(training, {"north": 1})
        assert left == 0
        assert north.kinds() == ["TRAINING_START", "UPDATE_ROUND_START 0"]
        assert [attempt for *_, attempt in await scene.said(training)] == [1, 1]

    play(story, complaints=2)


IMPORTUNATE = Limits(push_attempts=3, push_again=0.2)


def ours(arrival: Arrival, _connection: socket.socket) -> bytes:
    """The answer of one that knows a notification when it comes again."""
    return b"HTTP/1.0 %d Whatever\r\nX-Gridkit-Again: known\r\n\r\n" % ANSWERS[arrival.kind]


def test_who_took_a_round_and_is_silent_is_told_again_until_it_answers(
    play: Play, north: Endpoint, south: Endpoint
) -> None:
    """It was killed and started again, say. Who doesn't say that it knows a notification again isn't sent one."""

    async def story(scene: Scene) -> None:
        north.behaves = ours
        training = await scene.training({"north": north.url, "south": south.url}, tolerate=1)
        await scene.hears(north, "UPDATE_ROUND_START 0", 3)
        await scene.reports(training, 0)
        heard = len(north.heard)
        await asyncio.sleep(1.0)  # longer than the next pause would be, if there were one
        assert len(north.heard) <= heard + 1
        assert south.kinds() == ["TRAINING_START", "UPDATE_ROUND_START 0"]
        assert [what for what, *_ in await scene.said(training, "north")] == ["TRAINING_START", "UPDATE_ROUND_START"]

    play(story, IMPORTUNATE)


def test_who_says_no_when_it_is_told_again_leaves(play: Play, north: Endpoint, south: Endpoint) -> None:
    """As gk.serve_participant does whose training failed."""

    async def story(scene: Scene) -> None:
        north.behaves = lambda arrival, connection: 500 if len(north.heard) == 4 else ours(arrival, connection)
        training = await scene.training({"north": north.url, "south": south.url}, tolerate=1)
        await scene.is_told(training, {"north": FINISHED, "south": 1})
        assert (await scene.state(training)).left[0].reason == "answered 500 to UPDATE_ROUND_START 0"
        assert [row["gone"] for row in await scene.rows(training, worker="north")] == [False, False, True]

    play(story, IMPORTUNATE)


def test_who_is_away_when_it_is_told_again_leaves(play: Play, south: Endpoint) -> None:
    async def story(scene: Scene) -> None:
        with Endpoint(ours) as gone:
            training = await scene.training({"gone": gone.url, "south": south.url}, tolerate=1)
            await scene.is_told(training, {"gone": 1, "south": 1})
        await scene.is_told(training, {"gone": FINISHED, "south": 1})
        reason = (await scene.state(training)).left[0].reason
        assert reason.startswith("not reached in 3 attempts: ") and reason.endswith("no connection")

    play(story, IMPORTUNATE)


def test_who_isnt_in_the_round_is_left_alone_and_hears_of_the_end(play: Play) -> None:
    async def story(scene: Scene) -> None:
        with endpoints(4) as heard:
            members = {f"h{n}": endpoint.url for n, endpoint in enumerate(heard)}
            training = await scene.training(members, fraction=0.5, seed=1)
            chosen = cycle.cohort(await scene.state(training))
            await scene.is_told(training, {f"h{n}": int(n in chosen) for n in range(4)})
            await scene.apply(training, lambda at: cycle.StopAsked(at, now=True))
            await scene.waits(lambda: scene.is_over(training))
            for slot, endpoint in enumerate(heard):
                update = ["UPDATE_ROUND_START 0"] if slot in chosen else []
                assert endpoint.kinds() == ["TRAINING_START", *update, "TRAINING_FINISHED"]

    play(story)


def test_an_end_before_the_start_was_taken_is_told_to_nobody(play: Play, north: Endpoint) -> None:
    async def story(scene: Scene) -> None:
        with Hanging() as hanging:
            training = await scene.training({"hangs": hanging.url})
            await scene.hears(hanging, "TRAINING_START")
            await scene.apply(training, lambda at: cycle.StopAsked(at, now=True))
            await scene.waits(lambda: scene.is_over(training))
            assert hanging.kinds() == ["TRAINING_START"]
            await scene.restart()
            assert scene.notifier._tasks == {}

    play(story, IMPATIENT)


def test_a_state_wakes_only_those_whom_it_concerns(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(scene: Scene) -> None:
        with endpoints(4) as heard:
            members = {f"h{n}": endpoint.url for n, endpoint in enumerate(heard)}
            training = await scene.training(members, tolerate=3)
            await scene.is_told(training, dict.fromkeys(members, 1))
            followed = scene.notifier._trainings[uuid.UUID(training).hex]
            await scene.reports(training, 0)
            await scene.apply(training, lambda at: cycle.StopAsked(at))
            assert not any(member.wake.is_set() for member in followed.members)

    play(story)
