"""Push participants by hand: endpoints that hear, and clients that send what a test wants to send."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np

from gridkit.wire.tensors import Array, Arrays
from gridkit.wire.torch_archive import TorchArchive, rewrite
from gridkit.wire.torch_writer import pack_archive
from tests.endpoints import Endpoint
from tests.support import NodeUnderTest, wait_for

PUSH = "/push/api"
START = {"w": np.arange(6, dtype=np.float32).reshape(3, 2), "steps": np.array([3]), "b": np.ones(2, np.float32)}
LOCAL = ("--allow-target", "127.0.0.1")
"""a node may call endpoints of tests"""


def packed(arrays: Mapping[str, Array] = START) -> bytes:
    """A state dict, as torch saves one."""
    return b"".join(pack_archive(Arrays(arrays)))


def values(archive: bytes) -> dict[str, Array]:
    found = TorchArchive(io.BytesIO(archive))
    return {s.name: found.read(place, 0, s.size).reshape(s.shape).copy() for place, s in enumerate(found.specs)}


def moved(archive: bytes, by: float) -> bytes:
    """The archive with so much added to each of its floating numbers."""
    found = TorchArchive(io.BytesIO(archive))
    other = {n: a + a.dtype.type(by) if a.dtype.kind == "f" else a for n, a in values(archive).items()}
    return b"".join(rewrite(found, Arrays(other)))


class Hospital(Endpoint):
    """A participant of a node: its account is `name`, and it hears at its own endpoint.

    Attributes:
        id: its UUID.
        http: sends as it does, with its token.
    """

    def __init__(self, node: NodeUnderTest, name: str, *, actor: bool = False, **behaviour: Any) -> None:
        super().__init__(**behaviour)
        self.node, self.name = node, name
        with node.http() as owner:
            wish = {"username": name, "password": "a long password", "message_endpoint": self.url, "actor": actor}
            made = owner.post(f"{PUSH}/users/", json={**wish, "client": True})
            assert made.status_code == 201, made.text
        self.id, self.token = made.json()["id"], made.json()["token"]
        self.http = node.http(None, headers={"authorization": f"Token {self.token}"})

    def close(self) -> None:
        self.http.close()
        super().close()

    def called(self, training: str, what: str) -> None:
        """Until it has heard this of this training."""
        wait_for(lambda: what in self.told(training), what=f"{what} for {self.name} (it heard {self.told(training)})")

    def told(self, training: str) -> list[str]:
        return [str(arrival) for arrival in self.heard if arrival.training == training]

    # -- as who has trainings

    def host(self, archive: bytes, name: str = "a model", **fields: Any) -> httpx.Response:
        return self.http.post(f"{PUSH}/models/", data={"name": name, **fields}, files=file_part(archive))

    def hosted(self, archive: bytes) -> str:
        answer = self.host(archive)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["model_id"])

    def create(self, model: str, clients: list[str], rounds: int = 1, **wish: Any) -> httpx.Response:
        about = {"model_id": model, "target_num_updates": rounds, "metric_names": [], "aggregation_method": "FedAvg"}
        return self.http.post(f"{PUSH}/trainings/", json={**about, "clients": clients, **wish})

    def started(self, archive: bytes, clients: list[str], rounds: int = 1, **wish: Any) -> tuple[str, str]:
        """A training of these participants, under way: its id, and its model's."""
        model = self.hosted(archive)
        made = self.create(model, clients, rounds, **wish)
        assert made.status_code == 201, made.text
        training = made.json()["training_id"]
        begun = self.http.post(f"{PUSH}/trainings/{training}/start/")
        assert begun.status_code == 202, begun.text
        return training, model

    def training(self, training: str) -> dict[str, Any]:
        answer = self.http.get(f"{PUSH}/trainings/{training}/")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def ends(self, training: str) -> dict[str, Any]:
        """The training, once it is over."""
        return wait_for(lambda: (found := self.training(training))["state"] in "CE" and found, what="the end")

    # -- as who takes part

    def fetch(self, model: str) -> bytes:
        answer = self.http.get(f"{PUSH}/models/{model}/")
        assert answer.status_code == 200, answer.text
        return answer.content

    def update(self, model: str, round: Any, archive: bytes, samples: Any = 1, **metrics: Any) -> httpx.Response:
        form = {"owner": self.id, "round": str(round), "sample_size": str(samples), **pairs(metrics)}
        return self.http.post(f"{PUSH}/models/{model}/", data=form, files=file_part(archive))

    def test(self, model: str, **metrics: Any) -> httpx.Response:
        return self.http.post(f"{PUSH}/models/{model}/metrics/", data=pairs(metrics))


def pairs(metrics: Mapping[str, Any]) -> dict[str, list[str]]:
    return {"metric_names": list(metrics), "metric_values": [str(value) for value in metrics.values()]}


def file_part(archive: bytes) -> dict[str, Any]:
    return {"model_file": ("model_file", archive)}


@contextmanager
def hospitals(node: NodeUnderTest, *names: str, **behaviour: Any) -> Iterator[list[Hospital]]:
    """The first of them has trainings too."""
    opened = [Hospital(node, name, actor=place == 0, **behaviour) for place, name in enumerate(names)]
    try:
        yield opened
    finally:
        for hospital in opened:
            hospital.close()
