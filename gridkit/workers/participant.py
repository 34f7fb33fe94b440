"""A push participant at work: notifications wait in line, and one thread trains and tests, off the listener."""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import numpy as np
import torch

from gridkit import threads
from gridkit.client.model_files import ModelFile, read_model
from gridkit.client.push import PushClient, checked_metrics
from gridkit.errors import GridkitError, NodeError, RunError, UsageError
from gridkit.wire.notifications import NotificationType

T = TypeVar("T")
State = dict[str, torch.Tensor]
Submit = Callable[[Coroutine[Any, Any, Any]], concurrent.futures.Future[Any]]

MAX_TRAININGS = 1000
"""that are remembered; the oldest that has nothing to do goes first"""
MAX_WAITING = 1000
"""notifications in line"""
HISTORY = 1000

UPDATE, TEST = NotificationType.UPDATE_ROUND_START, NotificationType.MODEL_TEST_ROUND
_logger = logging.getLogger("gridkit.participant")


@dataclass(frozen=True, slots=True)
class PushTask:
    """What a `train` or `test` function is told besides the model.

    Attributes:
        training, model: their ids at the node.
        round: from 0 for `train`; for `test` the number of rounds that the model has seen.
        kind: of the notification.
    """

    training: UUID
    kind: NotificationType
    round: int
    model: UUID
    _stop: threading.Event = field(repr=False, compare=False)

    @property
    def stopped(self) -> bool:
        """Whether the result isn't wanted any more: the training is over, or the participant was closed."""
        return self._stop.is_set()

    def __str__(self) -> str:
        return f"{'round' if self.kind is UPDATE else 'test'} {self.round} of training {self.training}"


Train = Callable[[State, PushTask], tuple[Mapping[str, Any], int, Mapping[str, float]]]
Test = Callable[[State, PushTask], Mapping[str, float]]


class Happened(NamedTuple):
    """A row of a participant's history: when (seconds since 1970), of which training, and what."""

    time: float
    training: UUID
    what: str


@dataclass(slots=True)
class _Training:
    stop: threading.Event = field(default_factory=threading.Event)
    latest: dict[NotificationType, int] = field(default_factory=lambda: {UPDATE: -1, TEST: -1})
    failed: dict[NotificationType, str] = field(default_factory=dict)
    """why, of the latest"""


class Participant:
    """A `gridkit.client.push_listener.Receiver` that does the work.

    Notifications are taken in the order in which they come, each once: one that comes again, or is older than one of
    its kind that came, is taken note of and nothing more; so is what comes after the end of its training. If the latest
    round failed here, its notification raises when it comes again, so that the node hears of it. One thing is done at a
    time, so that `train` and `test` may share what they like.

    Args:
        train, test: see `gridkit.serve_participant`; called on a thread, in the context of whoever made this.
        client: fetches models, sends what comes of them.
        submit: runs the client's coroutines, on their loop.
    """

    def __init__(self, train: Train, test: Test, client: PushClient, submit: Submit) -> None:
        self._train, self._test = train, test
        self._client = client
        self._submit = submit
        self._context = contextvars.copy_context()
        self._changed = threading.Condition()
        self._trainings: OrderedDict[UUID, _Training] = OrderedDict()
        self._line: deque[PushTask] = deque()
        self._doing: PushTask | None = None
        self._call: concurrent.futures.Future[Any] | None = None
        self._closed = False
        self.history: deque[Happened] = deque(maxlen=HISTORY)
        threads.start(self._work, name="gridkit-participant", end=self.close)

    # ---- what the listener's threads call

    def init_training(self, training_id: UUID, model_id: UUID) -> None:
        with self._changed:
            if training_id not in self._trainings:
                self._known(training_id)
                self._note(training_id, "started")

    def start_training(self, training_id: UUID, round: int, model_id: UUID) -> None:
        self._take(training_id, UPDATE, round, model_id)

    def start_testing(self, training_id: UUID, round: int, model_id: UUID) -> None:
        self._take(training_id, TEST, round, model_id)

    def end_training(self, training_id: UUID, model_id: UUID) -> None:
        with self._changed:
            training = self._known(training_id)
            if training.stop.is_set():
                return
            training.stop.set()
            # What is on its way now goes on: the node may say that it is over before it answers who gave the last part.
            self._line = deque(task for task in self._line if task.training != training_id)
            self._note(training_id, "finished")

    def _take(self, training_id: UUID, kind: NotificationType, round: int, model_id: UUID) -> None:
        if round < 0:
            raise UsageError(f"there is no round {round}")
        with self._changed:
            training = self._known(training_id)
            task = PushTask(training_id, kind, round, model_id, training.stop)
            if round == training.latest[kind] and kind in training.failed:
                raise RunError(f"{task} failed here: {training.failed[kind]}")
            if training.stop.is_set() or round <= training.latest[kind]:
                self._note(training_id, f"{task}: not again" if not training.stop.is_set() else f"{task}: too late")
                return
            if len(self._line) >= MAX_WAITING:
                raise UsageError(f"{MAX_WAITING} notifications wait already")
            training.latest[kind] = round
            training.failed.pop(kind, None)
            self._line.append(task)
            self._changed.notify_all()

    def _known(self, training_id: UUID) -> _Training:
        """The training's record, made when it is first heard of: its rounds may be announced before its start."""
        if self._closed:
            raise UsageError("the participant is closed")
        if training_id not in self._trainings:
            if len(self._trainings) >= MAX_TRAININGS:
                busy = {task.training for task in self._line} | {self._doing.training if self._doing else None}
                idle = next((known for known in self._trainings if known not in busy), None)
                if idle is None:
                    raise UsageError(f"{MAX_TRAININGS} trainings are under way already")
                del self._trainings[idle]
            self._trainings[training_id] = _Training()
        return self._trainings[training_id]

    def _note(self, training_id: UUID, what: str) -> None:
        self.history.append(Happened(time.time(), training_id, what))
        _logger.info("training %s: %s", training_id, what)

    def close(self) -> None:
        """Do nothing more; what runs is told to stop, and its result isn't sent. Doesn't wait. Idempotent."""
        with self._changed:
            self._closed = True
            self._line.clear()
            for training in self._trainings.values():
                training.stop.set()
            if self._call is not None:
                self._call.cancel()
            self._changed.notify_all()

    # ---- the thread

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._line)
                if self._closed:
                    return
                task = self._doing = self._line.popleft()
            try:
                self._context.copy().run(self._do, task)
            except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001  the next round may go better
                self._failed(task, error)
            finally:
                with self._changed:
                    self._doing = self._call = None

    def _failed(self, task: PushTask, error: BaseException) -> None:
        if task.stopped:
            why = f": {error.message}" if isinstance(error, NodeError) else ", as it isn't wanted any more"
            self._note(task.training, f"{task}: given up{why}")
            return
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        with self._changed:
            known = self._trainings.get(task.training)
            if known is not None and known.latest[task.kind] == task.round:
                known.failed[task.kind] = reason
            self._note(task.training, f"{task} failed: {reason}")
        # The texts of our own errors say all; of others the line counts.
        _logger.error("%s failed: %s", task, error, exc_info=None if isinstance(error, GridkitError) else error)

    def _do(self, task: PushTask) -> None:
        with self._answer(task, self._client.model(task.model)) as file:
            model = read_model(file)
            _check_wanted(task)
            state = {name: torch.from_numpy(np.array(array)) for name, array in model.arrays.items()}
            if task.kind is UPDATE:
                update, samples, metrics = _returned(self._train(state, task), model)
                sent = self._client.send_update(task.model, task.round, update, samples, metrics)
            else:
                sent = self._client.send_metrics(task.model, checked_metrics(self._test(state, task)))
        self._answer(task, sent)
        with self._changed:
            self._note(task.training, f"{task}: done")

    def _answer(self, task: PushTask, call: Coroutine[Any, Any, T]) -> T:
        with self._changed:
            with contextlib.ExitStack() as unsent:
                unsent.callback(call.close)
                _check_wanted(task)
                future: concurrent.futures.Future[T] = self._submit(call)
                unsent.pop_all()
            self._call = future
        return future.result()


def _check_wanted(task: PushTask) -> None:
    if task.stopped:
        raise RunError(f"{task} isn't wanted any more")


def _returned(returned: Any, model: ModelFile) -> tuple[bytes, int, dict[str, float]]:
    """What `train` returned, as it goes to the node."""
    what = f"a {type(returned).__name__}"
    if isinstance(returned, tuple):
        what = f"{len(returned)} values" if len(returned) != 3 else f"a {type(returned[0]).__name__} for the model"
    if not isinstance(returned, tuple) or len(returned) != 3 or not isinstance(returned[0], Mapping):
        raise UsageError(f"train returned {what}", "return (model.state_dict(), number of samples, metrics)")
    state, samples, metrics = returned
    if isinstance(samples, bool) or not isinstance(samples, int | np.integer) or samples < 1:
        raise UsageError(f"train returned {samples!r} for the number of samples", "return how many it trained on")
    arrays = {name: _array(name, value) for name, value in state.items()}
    return model.pack(arrays), int(samples), checked_metrics(metrics)


def _array(name: Any, value: Any) -> np.ndarray:
    if not isinstance(value, torch.Tensor | np.ndarray):
        raise UsageError(f"train returned a {type(value).__name__} for tensor {name!r}", "return model.state_dict()")
    if isinstance(value, np.ndarray):
        return value
    try:
        return value.detach().cpu().numpy()
    except (TypeError, RuntimeError) as error:
        raise UsageError(
            f"train returned tensor {name!r} in a form that can't travel: {error}", "return it in the model's own dtype"
        ) from None
