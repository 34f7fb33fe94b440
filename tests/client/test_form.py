"""A multipart form as a stream, read by the parser that servers use."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import numpy as np
import pytest
from python_multipart.multipart import parse_form

from gridkit.client.form import Form
from gridkit.errors import UsageError
from gridkit.wire.safetensors import pack_tensors


def sent(form: Form) -> list[bytes]:
    async def pieces() -> list[bytes]:
        return [piece async for piece in form.pieces()]

    return asyncio.run(pieces())


def parsed(form: Form) -> tuple[dict[str, bytes], dict[str, tuple[bytes, bytes]]]:
    fields, files = {}, {}
    headers = {name.title(): value.encode() for name, value in form.headers.items()}

    def on_file(file: Any) -> None:
        file.file_object.seek(0)
        files[file.field_name.decode()] = (file.file_name, file.file_object.read())

    def on_field(field: Any) -> None:
        fields[field.field_name.decode()] = field.value

    parse_form(headers, io.BytesIO(b"".join(sent(form))), on_field, on_file)
    return fields, files


def test_texts_and_files_arrive_in_pieces_of_a_mib() -> None:
    large = pack_tensors([np.zeros(3 << 18, np.float32), np.ones(5)])
    form = Form({"model": ("m.gkm", large, "application/octet-stream"), "id": "ä\r\n--x", "empty": ""})
    pieces = sent(form)
    assert max(map(len, pieces)) <= 1 << 20 and sum(map(len, pieces)) == int(form.headers["content-length"])
    fields, files = parsed(form)
    assert fields == {"id": "ä\r\n--x".encode(), "empty": b""}
    assert files == {"model": (b"m.gkm", large.tobytes())}
    assert b"".join(sent(form)) == b"".join(pieces)  # it can be sent again


def test_names_cannot_add_headers_or_parts() -> None:
    evil = 'a"\r\nX-Evil: 1\r\n\r\n'
    fields, files = parsed(Form({evil: "text", "f": (evil, b"bytes", "text/plain")}))
    assert list(fields.values()) == [b"text"] and b"\r" not in files["f"][0] and files["f"][1] == b"bytes"
    with pytest.raises(UsageError, match="content type"):
        Form({"f": ("name", b"", "text/plain\r\nX-Evil: 1")})


def test_a_form_without_parts_has_an_end() -> None:
    assert b"".join(sent(Form({}))).endswith(b"--\r\n")
