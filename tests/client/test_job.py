"""A data holder's messages: against a node that answers as PyGrid does, and against wrong answers."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from gridkit.client import job as job_module
from gridkit.client.job import Cycle, JobClient, Rejection
from gridkit.client.link import Link
from gridkit.client.speed_test import Speeds
from gridkit.errors import NodeError

ACCEPTED = {"status": "accepted", "request_key": "k", "model_id": 7, "plans": {"training_plan": 3}, "client_config": {}}


class FakeLink(Link):
    """Answers from a list; notes what was asked."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        super().__init__("http://127.0.0.1:1")
        self.answers, self.asked = list(answers), []

    async def json(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        self.asked.append((path.removeprefix("/model-centric/"), kwargs))
        return self.answers.pop(0)


def client(*answers: dict[str, Any]) -> tuple[JobClient, FakeLink]:
    link = FakeLink(*answers)
    return JobClient(link, "mnist", "1.0", auth_token="a token", worker_id="w"), link


def test_the_messages_are_the_originals() -> None:
    job, link = client({"status": "success", "worker_id": "w2", "requires_speed_test": True}, ACCEPTED, {})

    async def main() -> None:
        assert await job.authenticate() == job.worker_id == "w2" and job.requires_speed_test
        cycle = await job.request_cycle(speeds=Speeds(1.5, 2.5, 0.0))
        assert cycle == Cycle("k", "7", {"training_plan": 3}, {}, 0, 0)
        await job.report_bytes(cycle, b"\x00diff")

    asyncio.run(main())
    (_, hello), (_, request), (_, report) = link.asked
    assert [path for path, _ in link.asked] == ["authenticate", "cycle-request", "report"]
    known = {"model_name": "mnist", "model_version": "1.0", "auth_token": "a token", "worker_id": "w"}
    assert hello["json"] == known  # what isn't known is left out
    speeds = {"ping": 1.5, "download": 2.5, "upload": 0.0}
    assert request["json"] == {"worker_id": "w2", "model": "mnist", "version": "1.0", "wait": 0.0, **speeds}
    diff = base64.b64encode(b"\x00diff").decode()
    assert report["json"] == {"worker_id": "w2", "request_key": "k", "diff": diff}


def test_envelopes_without_their_members_at_the_top_are_understood() -> None:
    rejected = {"status": "rejected", "timeout": 12.5}
    job, _ = client({"type": "t", "data": ACCEPTED}, {"type": "t", "data": rejected}, {"status": "rejected"})

    async def main() -> list[Any]:
        return [await job.request_cycle() for _ in range(3)]

    cycle, later, never = asyncio.run(main())
    assert isinstance(cycle, Cycle) and cycle.request_key == "k" and "k'" not in repr(cycle)
    assert later == Rejection("no reason given", "", 12.5, 0) and never.timeout is None


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"status": "accepted", "error": "both at once"}, "both at once"),
        ({"type": "t", "data": {"status": "rejected", "error": "inside"}}, "inside"),
        ({"status": "perhaps"}, "unknown cycle status 'perhaps'"),
        ({}, "unknown cycle status 'None'"),
        ({"status": "accepted"}, "request_key"),
        ({**ACCEPTED, "plans": 7}, "accepted"),
        ({**ACCEPTED, "cycle": "first"}, "accepted"),
        ({"status": "rejected", "timeout": "0:01:00"}, "rejected"),
        ({"status": "rejected", "timeout": []}, "rejected"),
    ],
    ids=str,
)
def test_answers_that_break_the_protocol_are_errors(answer: dict[str, Any], text: str) -> None:
    job, _ = client(answer)
    with pytest.raises(NodeError, match=text):
        asyncio.run(job.request_cycle())


def test_a_worker_that_is_given_no_id_hears_of_it() -> None:
    job, _ = client({"status": "success"})
    with pytest.raises(NodeError, match="no id"):
        asyncio.run(job.authenticate())
    assert job.worker_id == "w"


def test_what_is_too_large_for_text_goes_as_octets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "TEXT_LIMIT", 8)
    job, link = client({}, {})
    cycle = Cycle("k", "7", {}, {}, 1, 0)

    async def main() -> None:
        await job.report_bytes(cycle, b"12345678", samples=3, metrics={"loss": 0.5, "bad": float("nan")})
        await job.report_bytes(cycle, b"123456789", samples=3, metrics={"loss": 0.5, "bad": float("nan")})

    asyncio.run(main())
    (_, text), (_, octets) = link.asked
    assert text["json"]["metrics"] == {"loss": 0.5} and text["json"]["samples"] == 3
    assert octets["content"] == b"123456789" and "json" not in octets
    assert octets["params"] == {"worker_id": "w", "request_key": "k", "samples": 3, "metrics": '{"loss": 0.5}'}
