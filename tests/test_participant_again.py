"""Who may be told again of a round says so in its answers; who begins it twice doesn't."""

from __future__ import annotations

import http.client
import uuid
from urllib.parse import urlsplit

import pytest

import gridkit as gk
from tests.push_node import PushNode


class Overridden(gk.Communication):
    """Begins a round each time that it is announced."""

    @classmethod
    def start_training(cls, training_id: uuid.UUID, round: int, model_id: uuid.UUID) -> None:
        pass


class Careful(Overridden):
    knows_again = True


class Watched(gk.Communication):
    @classmethod
    def end_training(cls, training_id: uuid.UUID, model_id: uuid.UUID) -> None:
        super().end_training(training_id, model_id)


@pytest.mark.parametrize(
    ("communication", "says"),
    [(gk.Communication, "known"), (Watched, "known"), (Overridden, None), (Careful, "known")],
)
@pytest.mark.filterwarnings("ignore:This participant believes everybody")
def test_who_knows_a_round_again_says_so(communication: type[gk.Communication], says: str | None) -> None:
    node = PushNode(b"", {})
    functions = {"train": lambda *_: None, "test": lambda *_: None}
    with gk.serve_participant(**functions, node="http://127.0.0.1:9/push", port=0, communication=communication) as made:
        parts = urlsplit(made.url)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=10)
        connection.request("POST", "/", node.body("TRAINING_START"))
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("X-Gridkit-Again")) == (200, says)
        connection.close()
    assert gk.Communication.knows_again is False
