"""What the grid's own API (models, datasets) is sent, over HTTP and in messages, checked as in `messages`.

Members come as JSON, or all as text (forms and queries); the original's clients send flags as the texts "True" and
"False" and ids as text or numbers.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from gridkit.errors import WireError
from gridkit.node.messages import Key, Message, Text, parse_json

ENCODINGS = {"iso-8859-1", "iso8859-1", "iso_8859-1", "latin-1", "latin1"}


def _flag(value: Any) -> Any:
    if value in ("True", "False"):
        return value == "True"
    if isinstance(value, bool):
        return value
    raise ValueError("a flag is True or False, as JSON or as text")


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _number(value: Any) -> Any:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        return int(value)
    return value


def _json(value: Any) -> Any:
    return parse_json(value) if isinstance(value, str) else value


def _latin1(name: str) -> str:
    if name.lower() not in ENCODINGS:
        raise ValueError("bytes travel as text in ISO-8859-1")
    return name


Flag = Annotated[bool, BeforeValidator(_flag)]
Id = Annotated[Text, BeforeValidator(_text)]
Number = Annotated[int, BeforeValidator(_number), Field(ge=0, lt=2**53)]
Encoding = Annotated[str, AfterValidator(_latin1)]


class Origin(Message):
    """Where a model comes from, as who serves it states it: a training, and the round after which it was taken."""

    name: Text
    version: Text
    round: Annotated[int, Field(ge=0, lt=2**53)]


Party = Annotated[list[Text], Field(min_length=2, max_length=2)]
"""A node: its id, and its address"""


class Parties(Message):
    """Of an encrypted model: the nodes that hold its shares, and the one that provides random numbers to them."""

    workers: Annotated[list[Party], Field(min_length=2, max_length=20)]
    crypto_provider: Party


class HostModel(Message):
    model_id: Id
    allow_download: Flag = False
    allow_remote_inference: Flag = False
    mpc: Flag = False
    parties: Annotated[Parties | None, BeforeValidator(_json)] = None
    """ours: with `mpc`"""
    new_version: Flag = False
    """ours: the id may exist already"""
    origin: Annotated[Origin | None, BeforeValidator(_json)] = None
    """ours"""
    encoding: Encoding = "ISO-8859-1"
    model: str | None = None
    """the bytes as text"""
    upload_id: Key | None = None
    """ours: in place of `model`, a finished upload"""


class ModelName(Message):
    model_id: Id
    version: Annotated[Number, Field(ge=1)] | None = None
    """ours; None is the newest"""


class RunInference(ModelName):
    data: str
    """safetensors with the keys "0", "1", …, as text"""
    encoding: Encoding = "ISO-8859-1"


class Page(Message):
    """A part of a list. `filter`: a text that the id or the owner's name contains; upper and lower case are one."""

    offset: Number = 0
    limit: Annotated[Number, Field(ge=1, le=1000)] = 100
    sort: Annotated[str, Field(max_length=50)] = "created_at"
    descending: Flag = False
    filter: Annotated[str, Field(max_length=200)] = ""


def bytes_of(text: str, what: str) -> bytes:
    """Bytes that came as ISO-8859-1 text.

    Raises:
        WireError: `MALFORMED`, a letter that stands for no byte.
    """
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise WireError(f"'{what}' isn't bytes as ISO-8859-1 text") from None


def text_of(data: bytes) -> str:
    """Bytes as ISO-8859-1 text."""
    return data.decode("latin-1")
