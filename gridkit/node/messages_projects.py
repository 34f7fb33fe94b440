"""What clients of JSON-RPC send over HTTP of their projects, runs and metrics, checked as in `messages`.

Source: the calls that afnio's client makes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from gridkit.node.messages import Message, Text
from gridkit.node.messages_datasets import Prose
from gridkit.node.slugs import slug_of


def _named(text: str) -> str:
    slug_of(text)
    return text


Status = Literal["RUNNING", "COMPLETED", "CRASHED", "FAILED"]


class CreateProject(Message):
    display_name: Annotated[Text, AfterValidator(_named)]
    visibility: Literal["RESTRICTED", "TEAM", "PUBLIC", "OPEN"] = "RESTRICTED"
    """not looked at: here every project is for its own account"""


class CreateRun(Message):
    name: Text | None = None
    description: Prose | None = None
    status: Status = "RUNNING"


class ChangeRun(Message):
    status: Status


class LogMetric(Message):
    name: Text
    value: Any
    step: Annotated[int, Field(ge=-(2**53), le=2**53)] | None = None
    """None: one more than this metric's last"""
