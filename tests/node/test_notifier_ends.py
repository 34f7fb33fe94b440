"""The notifier over a node's real parts and real sockets: ends, removals, new starts, and who is told again."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from gridkit.federated import cycle
from gridkit.node.due import FINISHED
from gridkit.node.participants import Wish
from gridkit.node.rights import OWNER
from gridkit.node.settings import Limits
from gridkit.wire.notifications import Verifier
from tests.endpoints import ANSWERS, Arrival, Endpoint, Hanging, agreeable, endpoints
from tests.node.scene import IMPATIENT, Play, Scene


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
