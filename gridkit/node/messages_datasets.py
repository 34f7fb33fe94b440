"""What the routes of datasets are sent, checked as in `messages`."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from gridkit.node.messages import Key, Message, Text


def _prose(text: str) -> str:
    """As a `Text`, but with lines."""
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text if letter not in "\n\t"):
        raise ValueError("control characters and lone surrogates are not allowed")
    return text


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Prose = Annotated[str, Field(max_length=10_000), AfterValidator(_prose)]
"""A description: text with lines"""


class PublishDataset(Message):
    id: Text
    kind: Literal["tensor", "tensors", "frame"]
    columns: Annotated[list[Text], Field(max_length=10_000)] | None = None
    """of a frame"""
    tags: Annotated[list[Text], Field(max_length=100)] = Field(default_factory=list)
    description: Prose = ""
    policy: dict[str, Any] = Field(default_factory=dict)
    """see `gridkit.policy.Policy.to_json`"""
    upload_id: Key
    """a finished upload: safetensors with the keys "0", "1", …"""
    mock_upload_id: Key | None = None


class Search(Message):
    """The original's: one text, or several that must all match."""

    query: Annotated[list[Text], BeforeValidator(_as_list), Field(min_length=1, max_length=100)]
