"""What push participants and those who call them send, over HTTP, checked as in `messages`.

Source: the fl-demonstrator's REST surface. Members of forms come as text.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from gridkit.node.messages import Message, Text
from gridkit.node.messages_datasets import Prose
from gridkit.node.messages_grid import Number

MAX_METRICS = 50
MAX_VALUE = 200
"""characters of a metric that is no number"""
ROUND_SECONDS = 3600.0
"""for which a round waits for updates, and a test for metrics, unless a training says otherwise"""


def _uuid(text: str) -> str:
    return str(UUID(text))


def _size(text: Any) -> Any:
    return None if text in ("None", "") else text


def _method(name: str) -> str:
    if name == "FedDC":
        raise ValueError("FedDC has participants train each other's models, which their client sends to the wrong id")
    if name not in ("FedAvg", "FedProx"):
        raise ValueError("it must be FedAvg or FedProx")
    return name


def _uncertainty(name: str) -> str:
    if name == "SWAG":
        raise ValueError("SWAG needs rounds of its own, which participants answer with an error")
    if name not in ("NONE", "ENSEMBLE", "MC_DROPOUT"):
        raise ValueError("it must be NONE, ENSEMBLE or MC_DROPOUT")
    return name


Id = Annotated[str, Field(max_length=100), AfterValidator(_uuid)]
"""A UUID, in its canonical form"""


class HostArchive(Message):
    """The fields beside the file."""

    name: Text
    description: Prose = ""
    type: Literal["GLOBAL"] = "GLOBAL"
    input_shape: Annotated[list[Annotated[Number | None, BeforeValidator(_size)]], Field(max_length=16)] | None = None
    """sizes of an example; None is any"""


class Options(Message):
    """Of a training; but for the first they are ours."""

    daisy_chain_period: Literal[0] = 0
    """FedDC's, see there"""
    round_timeout: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] = ROUND_SECONDS
    quorum: Annotated[int, Field(ge=1)] | None = None
    """updates that a round needs; None: half of the participants"""


class CreateTraining(Message):
    model_id: Id
    target_num_updates: Annotated[int, Field(ge=1, lt=2**31)]
    metric_names: Annotated[list[Text], Field(max_length=MAX_METRICS)] = Field(default_factory=list)
    aggregation_method: Annotated[str, AfterValidator(_method)] = "FedAvg"
    uncertainty_method: Annotated[str, AfterValidator(_uncertainty)] = "NONE"
    options: Options = Field(default_factory=Options)
    clients: Annotated[list[Id], Field(max_length=10_000)] = Field(default_factory=list)


class Clients(Message):
    clients: Annotated[list[Id], Field(min_length=1, max_length=10_000)]


class Metrics(Message):
    """Names and values, as two lists of texts."""

    metric_names: Annotated[list[Text], Field(max_length=MAX_METRICS)] = Field(default_factory=list)
    metric_values: Annotated[list[Annotated[str, Field(max_length=MAX_VALUE)]], Field(max_length=MAX_METRICS)] = Field(
        default_factory=list
    )

    @model_validator(mode="after")
    def _paired(self) -> Metrics:
        names, values = self.metric_names, self.metric_values
        if len(names) != len(values):
            raise ValueError(f"there are {len(names)} metric_names and {len(values)} metric_values")
        if len(set(names)) != len(names):
            raise ValueError("a metric is named twice")
        return self

    def pairs(self) -> dict[str, float | str]:
        """By name: the finite number that a value reads as, or its text."""
        return {name: _read(value) for name, value in zip(self.metric_names, self.metric_values, strict=True)}


class Update(Metrics):
    """The fields beside the file; `owner` isn't looked at: the credentials say whose it is."""

    round: Number
    sample_size: Annotated[Number, Field(ge=1)]


def _read(text: str) -> float | str:
    try:
        value = float(text)
    except ValueError:
        return text
    return value if math.isfinite(value) else text
