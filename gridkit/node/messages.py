"""What comes in, checked against a schema before anything else looks at it."""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from gridkit.errors import ErrorCode, NodeError, WireError
from gridkit.wire import strict_json

M = TypeVar("M", bound=BaseModel)


def plain(text: str) -> str:
    """Text that is shown and logged as it is.

    Raises:
        ValueError: it has control characters, or what no UTF-8 has.
    """
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
        raise ValueError("control characters and lone surrogates are not allowed")
    return text


Text = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(plain)]
"""An id, a name, a version or a label: 1 to 200 characters, none of them a control character."""

Key = Annotated[str, Field(min_length=1, max_length=200)]
Seconds = Annotated[float, Field(ge=0, le=60, allow_inf_nan=False)]
TokenSeconds = Annotated[float, Field(gt=0, le=366 * 86400, allow_inf_nan=False)]
"""for how long a token is good, from now on"""
Finite = Annotated[float, Field(allow_inf_nan=False)]


def _number_in_text(value: Any) -> Any:
    return float(value) if isinstance(value, str) and re.fullmatch(r"\d{1,20}(\.\d{1,20})?", value) else value


Speed = Annotated[float | None, Field(ge=0, allow_inf_nan=False), BeforeValidator(_number_in_text)]
"""What a worker says of its line (Mbit/s of 2^20 bits); some clients send numbers as text."""


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("lone surrogates are not allowed") from None
    return text


def _account(name: str) -> str:
    if not re.fullmatch(r"[\w.@+-]+( [\w.@+-]+)*", name) or unicodedata.normalize("NFKC", name) != name:
        raise ValueError("a name has letters, digits, '.', '_', '@', '+', '-' and single spaces inside")
    if name.casefold() in ("owner", "anonymous"):
        raise ValueError(f"'{name}' is a name of the node's own")
    return name


class Message(BaseModel):
    """Base: unknown members are ignored (other clients send more), wrong types are not converted."""

    model_config = ConfigDict(extra="ignore", strict=True, protected_namespaces=())


class Authenticate(Message):
    model_name: Text
    model_version: Text | None = None
    auth_token: Annotated[str, Field(max_length=8192)] | None = None
    worker_id: Key | None = None
    """ours: take up an identity that this node gave out earlier"""
    worker: Text | None = None
    """ours: how the worker wishes to be called in reports"""


class CycleRequest(Message):
    worker_id: Key
    model: Text
    version: Text | None = None
    download: Speed = None
    upload: Speed = None
    wait: Seconds = 0.0
    """ours: hold a rejection back until a later cycle is open, at most so long"""
    seen_cycle: Annotated[int, Field(ge=0)] | None = None
    """ours: later than this one (by default, than the one that is open now)"""


class WorkerError(Message):
    type: Annotated[str, Field(max_length=200)] = "Error"
    message: Annotated[str, Field(max_length=4000)] = ""
    traceback: Annotated[str, Field(max_length=20_000)] = ""


class Report(Message):
    worker_id: Key
    request_key: Key
    samples: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    metrics: Annotated[dict[Text, Finite], Field(max_length=50)] = Field(default_factory=dict)
    error: WorkerError | None = None
    diff: str | None = None


class HostTraining(Message):
    model: str
    plans: dict[Text, str]
    averaging_plan: str | None = None
    protocols: dict[str, Any] | None = None
    client_config: dict[str, Any]
    server_config: dict[str, Any]


class ProcessName(Message):
    name: Text
    version: Text | None = None


class GetModel(Message):
    worker_id: Key
    request_key: Key
    model_id: Text


class GetPlan(Message):
    worker_id: Key
    request_key: Key
    plan_id: Annotated[int, Field(ge=0, lt=2**53)]
    receive_operations_as: Text = "list"


class RetrieveModel(ProcessName):
    checkpoint: Text = "latest"


class Stop(ProcessName):
    now: bool = False


class IssueToken(ProcessName):
    worker: Text | None = None
    slot: Annotated[int, Field(ge=0, lt=1_000_000)] | None = None
    once: bool = False
    """an invitation: good for one worker"""
    expires: TokenSeconds = 30 * 86400.0


Password = Annotated[str, Field(min_length=8, max_length=1000), AfterValidator(_encodable)]
AccountName = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_account)]
"""The name of an account: letters, digits and ``. _ @ + -``, spaces inside, one spelling of what looks alike."""


class AddUser(Message):
    name: AccountName
    role: Literal["owner", "data scientist", "worker"] = "data scientist"
    password: Password | None = None
    """none: the account has tokens only"""


class SetPassword(Message):
    password: Password


class Login(Message):
    username: Annotated[str, Field(max_length=200), AfterValidator(_encodable)]
    password: Annotated[str, Field(max_length=1000), AfterValidator(_encodable)]


class CreateToken(Message):
    user: Text | None = None
    """whose; none: one's own"""
    scopes: Annotated[list[Literal["browse", "run", "host", "train", "manage"]], Field(min_length=1)] | None = None
    """none: all that the account may"""
    expires: TokenSeconds = 90 * 86400.0
    label: Annotated[str, Field(max_length=200), AfterValidator(plain)] = ""


class ConnectNode(Message):
    address: Annotated[str, Field(min_length=1, max_length=2000)]
    id: Text | None = None
    """the id that the node there must have; ids of other types are taken as text"""

    @field_validator("id", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class Identity(Message):
    """What another node answers to `/identity/`."""

    identity: Text


class Envelope(Message):
    """One WebSocket message."""

    type: Annotated[str, Field(max_length=200)]
    request_id: Annotated[str, Field(max_length=200)] | int | float | None = None


class Data(Message):
    """The members of a message of training."""

    data: dict[str, Any] = Field(default_factory=dict)


def parse_json(data: bytes | str) -> dict[str, Any]:
    """A JSON object, by the rules of `gridkit.wire.strict_json`; bytes are UTF-8.

    Raises:
        WireError: `BAD_JSON`.
    """
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        value = strict_json.decode(text)
        strict_json.check(text, value)
    except (ValueError, RecursionError) as error:
        raise WireError(f"the message is not JSON: {strict_json.reason(error)}", code=ErrorCode.BAD_JSON) from None
    if not isinstance(value, dict):
        raise WireError(f"the message is a JSON {type(value).__name__}, not an object", code=ErrorCode.BAD_JSON)
    return value


def parse(kind: type[M], data: dict[str, Any]) -> M:
    """`data` as a message of this kind.

    Raises:
        NodeError: `BAD_REQUEST`, naming the first member that is wrong.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part)[:50] for part in first["loc"]) or "message"
        unknown = first["type"] == "extra_forbidden"
        reason = "there is no such member" if unknown else first["msg"].removeprefix("Value error, ")
        raise NodeError(f"{where}: {reason}", code=ErrorCode.BAD_REQUEST, status=400) from None


def from_base64(text: str) -> bytes:
    """Standard, padded base64, nothing else.

    Raises:
        WireError: `MALFORMED`.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise WireError("diff is not standard padded base64") from None


def to_base64(data: bytes) -> str:
    """Standard, padded base64."""
    return base64.b64encode(data).decode()


def from_hex(text: str, what: str) -> bytes:
    """Hex, as `host-training` carries models and plans.

    Raises:
        WireError: `MALFORMED`.
    """
    try:
        return binascii.unhexlify(text)
    except (binascii.Error, ValueError):
        raise WireError(f"{what} is not hex") from None
