"""Members of a request's body: JSON, a urlencoded form, or a multipart form one part of which goes straight to disk."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import AsyncIterator, Collection
from typing import Any
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from gridkit.errors import ErrorCode, NodeError, WireError
from gridkit.node import messages
from gridkit.node.messages_grid import bytes_of
from gridkit.node.routes.http import body, declared_size, limits_of, too_large
from gridkit.node.store.blobs import Draft, pour

MAX_FIELDS = 20
MAX_REPEATED = 100
"""values of a field that may be named several times"""
MAX_FIELD = 64 * 1024
"""bytes of a multipart field, and of a part's headers"""


def content_type(request: Request) -> str:
    """The body's media type, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def members(request: Request) -> dict[str, Any]:
    """A JSON object, or the fields of a urlencoded form, all text. At most as large as a message may be.

    Raises:
        WireError: `BAD_JSON`.
        NodeError: `BAD_REQUEST`, a form that can't be read, or names a field twice.
    """
    if content_type(request) == "application/x-www-form-urlencoded":
        return await fields(request)
    limit = limits_of(request).message
    async with request.app.state.budget.take(2 * declared_size(request, limit)):
        return messages.parse_json(await body(request, limit))


async def fields(request: Request, repeated: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a urlencoded form, all text; of one of the `repeated` the list of its values.

    Raises:
        NodeError: `BAD_REQUEST`, a form that can't be read, or names another field twice.
    """
    limit = limits_of(request).message
    async with request.app.state.budget.take(2 * declared_size(request, limit)):
        data = await body(request, limit)
        most = MAX_FIELDS + MAX_REPEATED * len(repeated)
        try:
            pairs = parse_qsl(data.decode(), keep_blank_values=True, errors="strict", max_num_fields=most)
        except ValueError:
            raise _unreadable("it isn't UTF-8, or has too many fields") from None
        found: dict[str, Any] = {}
        for name, value in pairs:
            _add(found, name, value, repeated)
        return found


async def multipart(
    request: Request, draft: Draft, streamed: str, repeated: Collection[str] = (), limit: int | None = None
) -> dict[str, Any]:
    """The fields of a multipart form, all text, but for the part `streamed`, whose bytes are written to the draft.

    A file part is bytes as they are; a part without a file name is text, which stands for bytes in ISO-8859-1.

    Args:
        repeated: fields that may be named several times; the list of their values.
        limit: bytes that `streamed` may have; None: what any body may.

    Raises:
        NodeError: `BAD_REQUEST`, a form that can't be read, or names another field twice.
        WireError: `MALFORMED`, text that stands for no bytes.
        LimitError: more than `limit`.
    """
    _, options = parse_options_header(request.headers["content-type"])
    if b"boundary" not in options:
        raise _unreadable("its boundary is missing")
    form = _Form(streamed, repeated)
    try:
        parser = MultipartParser(options[b"boundary"], form.callbacks())  # type: ignore[arg-type]
    except FormParserError as error:
        raise _unreadable(str(error)[:200]) from None

    async def pieces() -> AsyncIterator[bytes]:
        size = 0
        async for chunk in request.stream():
            parser.write(chunk)
            if data := form.taken():
                size += len(data)
                if limit is not None and size > limit:
                    raise too_large(limit)
                yield data
        parser.finalize()

    try:
        await pour(pieces(), lambda gathered: asyncio.to_thread(draft.write, *gathered))
    except FormParserError as error:
        raise _unreadable(str(error)[:200]) from None
    if not form.ended:
        raise _unreadable("it is cut short")
    return form.fields


class _Form:
    """What the parser's events come to."""

    def __init__(self, streamed: str, repeated: Collection[str]) -> None:
        self.fields: dict[str, Any] = {}
        self.ended = False
        self._repeated = repeated
        self._streamed = streamed
        self._seen = False
        self._pieces: list[bytes] = []  # of the streamed part, not yet taken
        self._decoder: codecs.IncrementalDecoder | None = None  # if that part is text
        self._name = ""
        self._value = bytearray()
        self._header, self._header_text, self._disposition = bytearray(), bytearray(), b""

    def callbacks(self) -> dict[str, Any]:
        """For `MultipartParser`; it calls those of a piece with the buffer, a start and an end."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: _extend(self._header, data[start:end]),
            "on_header_value": lambda data, start, end: _extend(self._header_text, data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._named,
            "on_part_data": self._data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def taken(self) -> bytes:
        """What came of the streamed part since the last call."""
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data

    def _begin(self) -> None:
        self._disposition = b""
        self._value.clear()

    def _header_end(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            self._disposition = bytes(self._header_text)
        self._header.clear()
        self._header_text.clear()

    def _named(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = _decoded(options.get(b"name", b""))
        if self._name == self._streamed:
            if self._seen:
                raise _twice(self._name)
            self._seen = True
            self._decoder = None if b"filename" in options else codecs.getincrementaldecoder("utf-8")()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._name != self._streamed:
            _extend(self._value, data[start:end])
        elif self._decoder is None:
            self._pieces.append(data[start:end])
        else:
            self._pieces.append(self._bytes_of(data[start:end]))

    def _bytes_of(self, piece: bytes, *, last: bool = False) -> bytes:
        assert self._decoder is not None
        try:
            return bytes_of(self._decoder.decode(piece, last), self._streamed)
        except UnicodeDecodeError:
            raise WireError(f"the text part '{self._streamed}' isn't UTF-8", "send it as a file part") from None

    def _part_end(self) -> None:
        if self._name != self._streamed:
            _add(self.fields, self._name, _decoded(bytes(self._value)), self._repeated)
        elif self._decoder is not None:
            self._bytes_of(b"", last=True)

    def _end(self) -> None:
        self.ended = True


def _extend(buffer: bytearray, data: bytes) -> None:
    if len(buffer) + len(data) > MAX_FIELD:
        raise _unreadable(f"a field is larger than {MAX_FIELD} bytes")
    buffer += data


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _unreadable("a field isn't UTF-8") from None


def _add(fields: dict[str, Any], name: str, value: str, repeated: Collection[str]) -> None:
    if name in fields and name not in repeated:
        raise _twice(name)
    if name not in fields and len(fields) >= MAX_FIELDS:
        raise _unreadable("it has too many fields")
    if name not in repeated:
        fields[name] = value
        return
    fields.setdefault(name, []).append(value)
    if len(fields[name]) > MAX_REPEATED:
        raise _unreadable(f"it names '{name}' more than {MAX_REPEATED} times")


def _twice(name: str) -> NodeError:
    return _unreadable(f"it names '{name[:50]}' twice")


def _unreadable(why: str) -> NodeError:
    return NodeError(f"the form can't be read: {why}", code=ErrorCode.BAD_REQUEST, status=400)
