"""What the schemas of all methods are made of, and how params are read by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)

from gridkit.errors import ErrorCode, WireError
from gridkit.wire.rpc.messages import MAX_NAME, Failure, InvalidMessage, Notification, Request, RpcCode
from gridkit.wire.rpc.values import Body, Callable, Variable, decode


class Members(BaseModel):
    """Base of `gridkit.v1`: members that aren't there are refused, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


M = TypeVar("M", bound=Members)


def listed(value: Any) -> Any:
    """One reference is a list of one."""
    return [value] if isinstance(value, dict) else value


def decoded(value: Any, info: ValidationInfo) -> Any:
    """A value of the protocol's own form, with the bodies that came with it."""
    return decode(value, info.context)


def of_field(kinds: Mapping[str, TypeAdapter[Any]]) -> BeforeValidator:
    """For a member that comes after the member `field`, which says of which type it is."""

    def read(value: Any, info: ValidationInfo) -> Any:
        field = info.data.get("field")
        if field is None:  # which is the mistake that is told
            return value
        try:
            return kinds[field].validate_python(value, strict=True, context=info.context)
        except ValidationError as error:
            raise ValueError(f"that is no value for '{field}': {_first(error)[0]}") from None

    return BeforeValidator(read)


Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
"""An id, or the name of a function, a method or a field."""
Text = Annotated[str, Field(max_length=20_000)]
Number = Annotated[int, Field(ge=0, lt=1 << 53)]
Count = Annotated[int, Field(ge=0, lt=1 << 31)]
RequestId = Name | Annotated[int, Field(gt=-(1 << 63), lt=1 << 63)]

Value = Annotated[Any, BeforeValidator(decoded)]
"""Anything of `gridkit.wire.rpc.values`, decoded."""
VariableRef = Annotated[InstanceOf[Variable], BeforeValidator(decoded)]
CallableRef = Annotated[InstanceOf[Callable], BeforeValidator(decoded)]
Values = Annotated[list[Value], Field(max_length=10_000)]
NamedValues = Annotated[dict[Name, Any], BeforeValidator(decoded)]
Names = Annotated[list[Name], Field(max_length=100_000)]
VariableRefs = Annotated[list[VariableRef], Field(max_length=100_000), BeforeValidator(listed)]


def read_params(kind: type[M], message: Request | Notification, bodies: Sequence[Body] | None = None) -> M:
    """The params of a message, by this schema.

    Args:
        bodies: those of the message's frame; None: the plain profile.

    Raises:
        InvalidMessage: they aren't as the schema has them; the answer to a request is -32602, with the missing
            member's name as ``data["missing_key"]``.
    """
    try:
        return kind.model_validate(message.params, context=bodies)
    except ValidationError as error:
        wrong, missing = _first(error)
    text = f"{message.method}: {wrong}"
    if isinstance(message, Notification):
        raise InvalidMessage(text, None)
    data = {"exception": text, "code": str(ErrorCode.BAD_REQUEST), "method": message.method}
    if missing is not None:
        data["missing_key"] = missing
    raise InvalidMessage(text, Failure(message.id, int(RpcCode.INVALID_PARAMS), text, data))


def read_members(kind: type[M], value: Any, bodies: Sequence[Body] | None = None) -> M:
    """A result, or an object inside of one, by its schema.

    Raises:
        WireError: it isn't as the schema has it.
    """
    try:
        return kind.model_validate(value, context=bodies)
    except ValidationError as error:
        raise WireError(f"{kind.__name__}: {_first(error)[0]}", code=ErrorCode.BAD_REQUEST) from None


def _first(error: ValidationError) -> tuple[str, str | None]:
    """What is wrong first, and the member's name if it is that it is missing."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part)[:50] for part in first["loc"] if "[" not in str(part))  # not pydantic's own names
    if first["type"] == "missing":
        return f"the member '{place}' is missing", str(first["loc"][-1])[:MAX_NAME]
    reason = "there is no such member" if first["type"] == "extra_forbidden" else first["msg"]
    return f"{place}: {reason.removeprefix('Value error, ')}" if place else reason, None
