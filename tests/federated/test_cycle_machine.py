"""Random histories: whatever comes in whatever order, what must hold holds, and a training that gets work ends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from gridkit.federated import cycle
from gridkit.federated.cycle import Phase, Status
from tests.federated.machine import BAD, FAILED, GOOD, Training, came

WORKERS = st.integers(0, 4)
TESTERS = st.lists(WORKERS, unique=True, max_size=4)
VERDICTS = st.sampled_from([GOOD, GOOD, GOOD, BAD, FAILED])


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    config: dict[str, Any] = {
        "num_cycles": draw(st.integers(1, 3)),
        "cycle_length": draw(st.sampled_from([None, 10.0])),
        "weighting": draw(st.sampled_from(["samples", "equal"])),
        "max_samples": draw(st.sampled_from([None, 5])),
    }
    if draw(st.booleans()):
        clients = draw(st.integers(1, 4))
        config |= {"clients": clients, "tolerate": draw(st.integers(0, clients - 1)), "seed": draw(st.integers(0, 9))}
        if not config["tolerate"]:
            config["fraction"] = draw(st.sampled_from([1.0, 0.5]))
    else:
        config["min_diffs"] = draw(st.integers(1, 3))
        config["max_diffs"] = draw(st.sampled_from([None, config["min_diffs"], 3]))
        config["max_workers"] = draw(st.sampled_from([None, 3]))
        config["min_workers"] = draw(st.sampled_from([0, 0, 2, 4]))
        config["do_not_reuse_workers_until_cycle"] = draw(st.sampled_from([0, 0, 1, 2, 3]))
        config["minimum_upload_speed"] = draw(st.sampled_from([0, 0, 2.0]))
        if draw(st.booleans()):
            config |= {"pool_selection": "random", "seed": draw(st.integers(0, 9))}
            config["selection_length"] = draw(st.sampled_from([0.5, 2.0, 200.0]))
    return config


class Histories(RuleBasedStateMachine):
    make = Training

    @initialize(config=configs())
    def host(self, config: dict[str, Any]) -> None:
        self.training = self.make(**config)
        self.keys: dict[int, list[str]] = {}
        self.drawn_in = 1
        self.asks: dict[int, float] = {}
        """when each worker asked last that may have had work"""
        self.counted: dict[int, int] = {}
        """the cycle in which each worker's report counted last"""
        self.drawn: dict[int, float] = {}
        """when each worker was drawn that hasn't asked since, in this cycle"""
        self.said: dict[int, str | None] = {}
        """what each tester said of the newest model that was tested"""
        self.once: list[cycle.Event] = []
        """events that change nothing when they come again"""

    @rule(worker=WORKERS, upload=st.sampled_from([None, 0.0, 1.0, 2.0]))
    def ask(self, worker: int, upload: float | None) -> None:
        self._ask(worker, upload)

    def _ask(self, worker: int, upload: float | None = None) -> cycle.Accept | cycle.Reject:
        training, before, rules = self.training, self.training.state, self.training.rules
        known = before.assignments.get(f"id-{worker}")
        at_work = known is not None and known.status is Status.ASSIGNED
        answer = training.ask(worker, upload=upload)
        self._note_draws()
        rest = self._rests(worker, before.sequence)
        slow = bool(upload) and upload < rules.minimum_upload_speed
        fit = not rest and not slow
        if fit and before.phase is Phase.OPEN:
            self.asks[worker] = training.now
        if isinstance(answer, cycle.Accept):
            if at_work:
                assert answer.request_key == known.request_key, "asked again, got another key"
            else:
                assert fit, "a worker has work that it may not have"
                enough = self._here() >= rules.min_workers
                assert before.assignments or before.queue or enough, "too few are here"
                if rules.pool_selection == "random":
                    assert training.now < self.drawn.pop(worker) + 60, "no place was kept for it"
            self.keys.setdefault(worker, []).append(answer.request_key)
            return answer
        assert not at_work or before.phase is not Phase.OPEN, "it had work, and was refused"
        over = training.state.phase is Phase.FINISHED
        assert (answer.code == "WORKER_LEFT") == (worker in before.left and not over)
        for_good = (
            over
            or worker in before.left
            or (
                answer.code == "COOLING_DOWN"
                and self.counted[worker] + rules.do_not_reuse_workers_until_cycle > rules.num_cycles
            )
        )
        assert (answer.retry_after is None) == for_good
        assert answer.retry_after is None or answer.retry_after > 0
        if answer.code == "TOO_FEW_WORKERS":
            assert self._here() < rules.min_workers
        if answer.code == "TOO_SLOW":
            assert slow and str(upload)[0] in answer.reason and "2" in answer.reason
        if answer.code == "COOLING_DOWN":
            assert rest and f"cycle {self.counted[worker]}" in answer.reason
        if answer.code == "IN_DRAW":
            assert rules.pool_selection == "random" and f"id-{worker}" in training.state.queue
        return answer

    def _rests(self, worker: int, sequence: int) -> bool:
        pause = max(1, self.training.rules.do_not_reuse_workers_until_cycle)
        return worker in self.counted and sequence < self.counted[worker] + pause

    def _here(self) -> int:
        """Workers that asked in the last minute, and haven't to rest since."""
        return sum(self.training.now < at + 60 for at in self.asks.values())

    def _note_draws(self) -> None:
        """The draws of the last step, and whose places have lapsed with their cycle."""
        if self.training.state.sequence != self.drawn_in:
            self.drawn, self.drawn_in = {}, self.training.state.sequence
        for draw in self.training.last:
            if isinstance(draw, cycle.Draw):
                self.drawn |= dict.fromkeys(draw.slots, self.training.now)

    @rule(
        worker=WORKERS, age=st.integers(0, 2), digest=st.sampled_from("ab"), verdict=VERDICTS, samples=st.integers(1, 9)
    )
    def report(self, worker: int, age: int, digest: str, verdict: Any, samples: int) -> None:
        """With its newest key, an older one, or one that it never had."""
        keys = self.keys.get(worker, [])
        key = keys[-1 - age] if age < len(keys) else "key-wrong"
        before = self.training.state
        held = before.assignments.get(f"id-{worker}")
        mine = held is not None and held.request_key == key
        answer = self._report(came(self.training.now, worker, key, digest, verdict, samples))
        counts = mine and before.phase is Phase.OPEN and held is not None and held.status is Status.ASSIGNED
        if isinstance(answer, cycle.Count):
            assert counts and verdict.accepted
        if counts:
            assert isinstance(answer, cycle.Count if verdict.accepted else cycle.Refuse)
        else:
            after = self.training.state
            assert after.assignments == before.assignments and after.phase == before.phase

    def _report(self, event: cycle.ReportCame) -> cycle.Decision:
        sequence = self.training.state.sequence
        decisions = self.training.step(event)
        self._note_draws()
        (answer,) = (d for d in decisions if isinstance(d, cycle.Count | cycle.Refuse | cycle.Duplicate))
        if isinstance(answer, cycle.Count):
            worker = int(event.worker.removeprefix("id-"))
            self.counted[worker] = sequence
            if self.training.rules.do_not_reuse_workers_until_cycle > 1:
                self.asks.pop(worker, None)
        return answer

    @rule(worker=WORKERS, thief=WORKERS)
    def steal(self, worker: int, thief: int) -> None:
        if worker != thief and self.keys.get(worker):
            before = self.training.state
            (answer,) = self.training.step(came(self.training.now, thief, self.keys[worker][-1]))
            assert isinstance(answer, cycle.Refuse) and answer.code == "BAD_KEY"
            assert self.training.state == before

    @rule(seconds=st.sampled_from([0.0, 1.0, 9.0, 11.0, 59.0, 61.0]))
    def tick(self, seconds: float) -> None:
        self.training.step(cycle.Tick(self.training.now + seconds))
        self._note_draws()

    @precondition(lambda self: self.training.state.due is not None)
    @rule()
    def timer(self) -> None:
        """As the shell does it: something comes of it, or it isn't called again for the same."""
        assert self.training.state.due is not None
        self.training.step(cycle.Tick(max(self.training.now, self.training.state.due)))
        self._note_draws()

    @rule(now=st.sampled_from([False, False, False, True]))
    def stop(self, now: bool) -> None:
        stopping = self.training.state.stopping
        self.training.step(cycle.StopAsked(self.training.now, now))
        if now or stopping:
            assert self.training.state.phase is Phase.FINISHED

    @rule(late=st.integers(0, 1))
    def aggregated(self, late: int) -> None:
        before = self.training.state
        self.training.step(cycle.Aggregated(self.training.now, before.sequence - late, 0.1))
        self._note_test()
        if late or before.phase is not Phase.AGGREGATING:
            assert self.training.state == before

    @precondition(lambda self: self.training.state.phase is Phase.AGGREGATING)
    @rule(testers=TESTERS)
    def aggregated_with_testers(self, testers: list[int]) -> None:
        state, clients = self.training.state, self.training.rules.clients
        testers = [tester for tester in testers if clients is None or tester < clients]
        self.training.aggregated(*testers)
        self._note_test()
        asked = [tester for tester in testers if tester not in state.left]
        assert (self.training.state.phase is Phase.TESTING) == bool(asked)
        if asked:
            assert list(self.said) == asked

    def _note_test(self) -> None:
        for test in self.training.last:
            if isinstance(test, cycle.Test):
                self.said = {int(worker.removeprefix("id-")): None for worker in test.workers}

    @rule(worker=WORKERS, digest=st.sampled_from("ab"), value=st.sampled_from([0.5, "good"]))
    def test_came(self, worker: int, digest: str, value: float | str) -> None:
        before = self.training.state
        self._test(worker, digest, value)
        if self.training.last[0] != cycle.Count(f"id-{worker}"):
            assert self.training.state == before

    def _test(self, worker: int, digest: str, value: float | str) -> None:
        before, said = self.training.state, self.said.get(worker)
        under_way = before.phase is Phase.TESTING
        answer = self.training.tests(worker, digest, value)
        if said is not None:
            same, code = digest == said, "ALREADY_REPORTED" if under_way else "CYCLE_CLOSED"
        else:
            same, code = False, "CYCLE_CLOSED"
        if under_way and worker in self.said and said is None and worker not in before.left:
            assert isinstance(answer, cycle.Count)
            self.said[worker] = digest
            assert self.training.history.tests[-1]["metrics"] == {"accuracy": value}
        elif same:
            assert isinstance(answer, cycle.Duplicate)
        else:
            assert isinstance(answer, cycle.Refuse) and answer.code == code

    @precondition(lambda self: self.training.rules.clients is not None)
    @rule(worker=WORKERS, reason=st.sampled_from(["answered 500", "not reached"]))
    def leave(self, worker: int, reason: str) -> None:
        before = self.training.state
        self.training.leave(worker, reason)
        self.once.append(cycle.WorkerLeft(self.training.now, f"id-{worker}", worker, "again", "again"))
        if worker in before.left:
            assert self.training.state == before

    @precondition(lambda self: bool(self.once))
    @rule(data=st.data())
    def again(self, data: st.DataObject) -> None:
        before = self.training.state
        event = data.draw(st.sampled_from(self.once))
        assert self.training.step(replace(event, at=self.training.now)) == () and self.training.state == before

    @precondition(lambda self: self.training.rules.clients is not None)
    @rule(really=st.sampled_from([False, False, False, True]))
    def all_leave(self, really: bool) -> None:
        """Whatever the phase, nobody is waited for from then on."""
        if not really:
            return
        everybody = range(self.training.rules.clients or 0)
        for worker in everybody:
            self.leave(worker, "all leave")
        assert self.training.state.phase in (Phase.AGGREGATING, Phase.FINISHED)
        if self.training.state.phase is Phase.AGGREGATING:
            self.training.aggregated(*everybody)
        assert self.training.state.phase is Phase.FINISHED

    @rule(late=st.sampled_from([1, 1, 1, 0]))
    def averaging_fails(self, late: int) -> None:
        before = self.training.state
        self.training.step(cycle.AggregationFailed(self.training.now, before.sequence - late, "the plan failed"))
        if late or before.phase is not Phase.AGGREGATING:
            assert self.training.state == before
        else:
            assert self.training.state.outcome == "failed"

    @precondition(lambda self: self.training.state.phase is Phase.OPEN)
    @rule()
    def everyone_works(self) -> None:
        self._everyone(range(5))

    def _everyone(self, workers: Iterable[int]) -> None:
        sequence = self.training.state.sequence
        for worker in workers:
            if self.training.state.phase is Phase.OPEN and self.training.state.sequence == sequence:
                answer = self._ask(worker)
                if isinstance(answer, cycle.Accept):
                    self._report(came(self.training.now, worker, answer.request_key))

    def teardown(self) -> None:
        """With all workers back, new ones and time going on, every training comes to its end."""
        if not hasattr(self, "training"):
            return
        for turn in range(100):
            if self.training.state.phase is Phase.FINISHED:
                break
            if self.training.state.phase is Phase.AGGREGATING:
                self.training.aggregated(*range(min(turn % 3, self.training.rules.clients or 3)))
                self._note_test()
                continue
            if self.training.state.phase is Phase.TESTING and turn % 2:
                for worker in self.said:
                    self._test(worker, "last", 1.0)
            new = 5 + 4 * (turn // 10)
            self._everyone([*range(5), *([] if self.training.rules.clients else range(new, new + 4))])
            due, soon = self.training.state.due, self.training.now + 29.0  # they come back when they are told to
            self.training.step(cycle.Tick(soon if due is None else max(self.training.now, min(due, soon))))
            self._note_draws()
        assert self.training.state.phase is Phase.FINISHED, self.training.state
        assert len(self.training.history.rounds) <= self.training.rules.num_cycles
        if self.training.state.outcome == "completed":
            assert [row["round"] for row in self.training.history.rounds] == list(
                range(1, self.training.rules.num_cycles + 1)
            )


# Long histories get everywhere; short ones end in the middle of something, where a training could be left stuck.
class TestLongHistories(Histories.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(max_examples=80, stateful_step_count=40)


class TestShortHistories(Histories.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(max_examples=300, stateful_step_count=7)
