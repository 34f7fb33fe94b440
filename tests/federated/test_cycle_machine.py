"""Random histories: whatever comes in whatever order, what must hold holds, and a training that gets work ends."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from gridkit.federated import cycle
from gridkit.federated.cycle import Phase, Status
from tests.federated.machine import BAD, FAILED, GOOD, Training, came

WORKERS = st.integers(0, 4)
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
    return config


class Histories(RuleBasedStateMachine):
    @initialize(config=configs())
    def host(self, config: dict[str, Any]) -> None:
        self.training = Training(**config)
        self.keys: dict[int, list[str]] = {}
        self.final: dict[str, tuple[Status, str | None]] = {}
        """a worker's recorded verdict in the open cycle, by request key"""

    @rule(worker=WORKERS)
    def ask(self, worker: int) -> None:
        before = self.training.state.assignments.get(f"id-{worker}")
        answer = self.training.ask(worker)
        if isinstance(answer, cycle.Accept):
            if before is not None and before.status is Status.ASSIGNED:
                assert answer.request_key == before.request_key, "asked again, got another key"
            self.keys.setdefault(worker, []).append(answer.request_key)
        if self.training.state.phase is Phase.FINISHED:
            assert isinstance(answer, cycle.Reject) and answer.retry_after is None
        elif isinstance(answer, cycle.Reject):
            assert answer.retry_after is not None and answer.retry_after > 0

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
        (answer, *_) = self.training.step(came(self.training.now, worker, key, digest, verdict, samples))
        counts = mine and before.phase is Phase.OPEN and held is not None and held.status is Status.ASSIGNED
        if isinstance(answer, cycle.Count):
            assert counts and verdict.accepted
        if counts:
            assert isinstance(answer, cycle.Count if verdict.accepted else cycle.Refuse)
        else:
            after = self.training.state
            assert after.assignments == before.assignments and after.phase == before.phase

    @rule(worker=WORKERS, thief=WORKERS)
    def steal(self, worker: int, thief: int) -> None:
        if worker != thief and self.keys.get(worker):
            before = self.training.state
            (answer,) = self.training.step(came(self.training.now, thief, self.keys[worker][-1]))
            assert isinstance(answer, cycle.Refuse) and answer.code == "BAD_KEY"
            assert self.training.state == before

    @rule(seconds=st.sampled_from([0.0, 1.0, 9.0, 11.0]))
    def tick(self, seconds: float) -> None:
        self.training.step(cycle.Tick(self.training.now + seconds))

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
        if late or before.phase is not Phase.AGGREGATING:
            assert self.training.state == before

    @precondition(lambda self: self.training.state.phase is Phase.OPEN)
    @rule()
    def everyone_works(self) -> None:
        self._everyone()

    def _everyone(self) -> None:
        sequence = self.training.state.sequence
        for worker in range(5):
            if self.training.state.phase is Phase.OPEN and self.training.state.sequence == sequence:
                answer = self.training.ask(worker)
                if isinstance(answer, cycle.Accept):
                    self.keys.setdefault(worker, []).append(answer.request_key)
                    self.training.step(came(self.training.now, worker, answer.request_key))

    def teardown(self) -> None:
        """With all workers back and time going on, every training comes to its end."""
        if not hasattr(self, "training"):
            return
        for _ in range(20):
            if self.training.state.phase is Phase.FINISHED:
                break
            if self.training.state.phase is Phase.AGGREGATING:
                self.training.aggregated()
                continue
            self._everyone()
            self.training.step(cycle.Tick(self.training.now + 11.0))
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
