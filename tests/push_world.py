"""Whole push trainings by hand: a real node, and hospitals that listen with sockets of their own, work on a thread, and
send over REST.

A hospital's training adds a constant to each number of the model, so every right model is known.
"""

from __future__ import annotations

import io
import queue
import socket
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from gridkit.client.model_files import read_model
from gridkit.wire.tensors import Arrays
from gridkit.wire.torch_writer import pack_archive
from tests.endpoints import Arrival, Endpoint, agreeable
from tests.support import NodeUnderTest, rows, wait_for

START = {"w": np.array([[0.25, -0.5, 1.0]], np.float32), "b": np.zeros(1, np.float32)}
FAST = ("--limit", "push_seconds=2", "--limit", "push_attempts=2")
"""of a node whose hospitals are lost soon"""


class Hospital(Endpoint):
    """A push participant. It answers at once, and works on a thread, as the fl-demonstrator's does.

    Args:
        account: `id`, `token` and `secret` of one that is registered already.

    Attributes:
        delta, samples: what its training adds, and its weight.
        works: called with each round and test, on its thread.
        done: what it sent, as ``(notification, status)``.
    """

    def __init__(
        self,
        world: PushWorld,
        name: str,
        delta: float = 1.0,
        samples: int = 1,
        *,
        account: Mapping[str, Any] | None = None,
        port: int = 0,
    ) -> None:
        self.world, self.name, self.delta, self.samples = world, name, delta, samples
        self.works: Callable[[Arrival], object] = self.work
        self.done: list[tuple[str, int]] = []
        self._jobs: queue.SimpleQueue[Arrival | None] = queue.SimpleQueue()
        self._http = httpx.Client(timeout=20, trust_env=False, verify=False)
        super().__init__(self.take, port=port)
        if account is None:
            made = world.http.post("/push/participants", json={"name": name, "endpoint": self.url})
            assert made.status_code == 201, made.text
            account = made.json()
        self.id, self.token, self.secret = (account[what] for what in ("id", "token", "secret"))
        threading.Thread(target=self._work, daemon=True).start()

    def again(self, world: PushWorld, delta: float, samples: int) -> Hospital:
        """The same one for another test: what it did is forgotten."""
        self.world, self.delta, self.samples = world, delta, samples
        self.over |= {arrival.training for arrival in self.heard}
        self.behaves, self.works = self.take, self.work
        self.heard, self.done, self.trouble = [], [], []
        return self

    def take(self, arrival: Arrival, connection: socket.socket) -> int:
        """What an undisturbed one does with a notification."""
        if arrival.round is not None:
            self._jobs.put(arrival)
        return agreeable(arrival, connection)

    def close(self) -> None:
        super().close()
        self._jobs.put(None)
        self._http.close()

    def _work(self) -> None:
        for arrival in iter(self._jobs.get, None):
            try:
                self.works(arrival)
            except Exception as error:  # noqa: BLE001  told by the test
                self.trouble.append(error)

    def work(self, arrival: Arrival) -> None:
        """Train, or test, and send what comes of it."""
        if arrival.kind == "UPDATE_ROUND_START":
            answer = self.send(arrival, self.trained(arrival))
        else:
            answer = self.test(arrival)
        self.done.append((str(arrival), answer.status_code))

    def answered(self, count: int) -> list[tuple[str, int]]:
        """`done`, once so much is: the end may be told before the last metrics are answered."""
        wait_for(lambda: len(self.done) >= count, what=f"{count} answers to {self.name}")
        return list(self.done)

    def trained(self, arrival: Arrival) -> bytes:
        got = self._call("GET", f"/api/models/{arrival.model}/")
        assert got.status_code == 200, got.text
        model = read_model(io.BytesIO(got.content))
        return model.pack({name: array + np.float32(self.delta) for name, array in model.arrays.items()})

    def send(self, arrival: Arrival, update: bytes, **fields: str) -> httpx.Response:
        form = {"owner": self.id, "round": str(arrival.round), "sample_size": str(self.samples), **fields}
        files = {"model_file": ("model_file", update)}
        pairs = {"metric_names": ["loss"], "metric_values": ["0.5"]}
        return self._call("POST", f"/api/models/{arrival.model}/", data={**form, **pairs}, files=files)

    def test(self, arrival: Arrival, value: float = 0.5) -> httpx.Response:
        form = {"metric_names": ["accuracy"], "metric_values": [str(value)]}
        return self._call("POST", f"/api/models/{arrival.model}/metrics/", data=form)

    def _call(self, method: str, path: str, **content: Any) -> httpx.Response:
        """Again while the node is away."""
        headers = {"authorization": f"Token {self.token}"}
        end = time.monotonic() + 20
        while True:
            try:
                url = f"{self.world.node.url}/push{path}"
                return self._http.request(method, url, headers=headers, **content)
            except httpx.TransportError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)


class PushTraining:
    """One of the node's owner."""

    def __init__(self, world: PushWorld, id: str, model: str, name: str) -> None:
        self.world, self.id, self.model, self.name = world, id, model, name

    def start(self) -> None:
        started = self.world.http.post(f"/push/api/trainings/{self.id}/start/")
        assert started.status_code == 202, started.text

    def details(self) -> dict[str, Any]:
        got = self.world.http.get(f"/push/api/trainings/{self.id}/")
        assert got.status_code == 200, got.text
        return dict(got.json())

    def rows(self, *kinds: str) -> list[dict[str, Any]]:
        """What was published up to the end, which is waited for."""
        found = rows(self.world.node, uuid.UUID(self.id).hex)
        return [row for row in found if not kinds or row["kind"] in kinds]

    def ends(self, state: str) -> dict[str, Any]:
        """Its details when it is over, in this state."""
        found = wait_for(lambda: (d := self.details())["state"] in "CE" and d, 60, f"the end of {self.id}")
        assert found["state"] == state, found
        return dict(found)

    def is_told(self) -> bool:
        """Whether the node has recorded that nobody has to be told anything more."""
        member = "SELECT count(*) FROM push_member WHERE training = ? AND told BETWEEN 0 AND 2147483646"
        with closing(sqlite3.connect(f"file:{self.world.node.data / 'grid.db'}?mode=ro", uri=True)) as base:
            (told,) = base.execute("SELECT told FROM push_training WHERE id = ?", (self.id,)).fetchone()
            return bool(told) and base.execute(member, (self.id,)).fetchone() == (0,)

    def weights(self) -> dict[str, np.ndarray]:
        got = self.world.http.get(f"/push/api/models/{self.model}/")
        assert got.status_code == 200, got.text
        return {name: array.copy() for name, array in read_model(io.BytesIO(got.content)).arrays.items()}

    def is_shifted(self, *rounds: Sequence[Hospital]) -> None:
        """The model is what these hospitals make of it, round after round: the weighted mean of their updates."""
        expected = {name: array.astype(np.float64) for name, array in START.items()}
        for hospitals in rounds:
            mean = sum(h.samples * h.delta for h in hospitals) / sum(h.samples for h in hospitals)
            expected = {name: array + mean for name, array in expected.items()}
        for name, array in self.weights().items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-6, atol=1e-6)

    def stop(self, *, now: bool = False) -> None:
        wish = {"name": self.name, "version": self.id, "now": now}
        got = self.world.http.post("/model-centric/stop", json=wish)
        assert got.status_code == 200, got.text


class PushWorld:
    """A node, and the hospitals and trainings of a test.

    Args:
        spare: hospitals of the node that can be used again; registering takes its time, as passwords do.
    """

    def __init__(self, node: NodeUnderTest, spare: list[Hospital] | None = None) -> None:
        self.node = node
        self.spare = [] if spare is None else spare
        self.http = node.http()
        self._hospitals: list[Hospital] = []

    def close(self) -> None:
        for hospital in (*self._hospitals, *self.spare):
            hospital.close()
        self.http.close()

    def __enter__(self) -> PushWorld:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def give_back(self) -> None:
        """After a test: its hospitals can be used again, but for those that were closed."""
        self.spare += [hospital for hospital in self._hospitals if hospital.listens]
        self.http.close()

    def add(self, hospital: Hospital) -> Hospital:
        """One more, which ends with this world."""
        self._hospitals.append(hospital)
        return hospital

    def hospital(self, delta: float = 1.0, samples: int = 1) -> Hospital:
        if self.spare:
            return self.add(self.spare.pop().again(self, delta, samples))
        return self.add(Hospital(self, f"hospital {uuid.uuid4().hex[:8]}", delta, samples))

    def hospitals(self, number: int) -> list[Hospital]:
        """With deltas and weights of their own."""
        return [self.hospital(0.125 * (n + 1), 10 * (n + 1)) for n in range(number)]

    def training(
        self, hospitals: Sequence[Hospital | str], rounds: int = 2, *, start: bool = True, **options: Any
    ) -> PushTraining:
        """A training of these (or of these ids) by the node's owner; `options`: `round_timeout`, `quorum`."""
        name = f"model {uuid.uuid4().hex[:8]}"
        files = {"model_file": ("model_file", b"".join(pack_archive(Arrays(START))))}
        hosted = self.http.post("/push/api/models/", data={"name": name, "description": ""}, files=files)
        assert hosted.status_code == 201, hosted.text
        wish = {"model_id": hosted.json()["model_id"], "target_num_updates": rounds, "metric_names": []}
        clients = [one if isinstance(one, str) else one.id for one in hospitals]
        made = self.http.post("/push/api/trainings/", json={**wish, "options": options, "clients": clients})
        assert made.status_code == 201, made.text
        training = PushTraining(self, made.json()["training_id"], hosted.json()["model_id"], name)
        if start:
            training.start()
        return training


@contextmanager
def push_world(data: Path, *arguments: str) -> Iterator[PushWorld]:
    """A world on a node of its own, which ends without a word of complaint."""
    node = NodeUnderTest(data, "--allow-target", "127.0.0.0/8", *arguments)
    try:
        with PushWorld(node) as world:
            yield world
    finally:
        node.terminate()
    assert "Traceback" not in "".join(node.said)
