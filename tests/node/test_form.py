"""Multipart forms whose model goes straight to disk, cut at every place, and forms that can't be read."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from gridkit.errors import LimitError, NodeError, WireError
from gridkit.node.routes.form import multipart
from gridkit.node.store.blobs import Blobs

MODEL = bytes(range(256)) * 3 + b"\r\n--x\r\n--boundar\r--boundary"


def part(name: str, value: bytes, filename: str | None = None) -> bytes:
    file = "" if filename is None else f'; filename="{filename}"'
    return f'--boundary\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + value + b"\r\n"


END = b"--boundary--\r\n"


def read(
    tmp_path: Path, pieces: list[bytes], kind: str = "multipart/form-data; boundary=boundary", **options: Any
) -> Any:
    """The fields of a form that comes in these pieces, and the bytes of its model."""
    waiting = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    waiting.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Any:
        return waiting.pop(0)

    async def run() -> Any:
        scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind.encode())]}
        draft = Blobs(str(tmp_path)).draft()
        try:
            fields = await multipart(Request(scope, receive), draft, "model", **options)
            with draft.open() as file:
                return fields, file.read()
        finally:
            draft.discard()

    return asyncio.run(run())


FILE = part("model_id", b"a") + part("model", MODEL, "a") + part("flag", "ü".encode()) + END
TEXT = part("model", MODEL.decode("latin-1").encode()) + part("model_id", b"a") + END


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 100_000])
def test_a_form_in_pieces_of_any_size(tmp_path: Path, size: int) -> None:
    for form, fields in ((FILE, {"model_id": "a", "flag": "ü"}), (TEXT, {"model_id": "a"})):
        assert read(tmp_path, [form[at : at + size] for at in range(0, len(form), size)]) == (fields, MODEL)
    assert list(tmp_path.iterdir()) == []


def test_a_form_that_is_cut_short(tmp_path: Path) -> None:
    for end in range(len(FILE) - 4):
        with pytest.raises(NodeError, match="the form can't be read"):
            read(tmp_path, [FILE[:end]])


@pytest.mark.parametrize(
    "form",
    [
        part("model_id", b"a") + part("model_id", b"b") + END,
        part("model", b"a", "a") + part("model", b"b", "b") + END,
        part("model_id", b"\xff") + END,
        part("model_id", b"x" * 70_000) + END,
        b"".join(part(f"field {k}", b"") for k in range(21)) + END,
        b"--boundary\r\nX: " + b"y" * 70_000 + b"\r\n\r\n\r\n" + END,
        b"no form",
    ],
)
def test_a_form_that_can_not_be_read(tmp_path: Path, form: bytes) -> None:
    with pytest.raises(NodeError, match="the form can't be read"):
        read(tmp_path, [form])


def test_fields_that_may_be_named_several_times(tmp_path: Path) -> None:
    twice = part("a", b"1") + part("model", MODEL, "m") + part("a", b"2") + part("b", b"3") + END
    assert read(tmp_path, [twice], repeated=("a", "c")) == ({"a": ["1", "2"], "b": "3"}, MODEL)
    assert read(tmp_path, [twice], repeated=("a", "b", "model"))[0] == {"a": ["1", "2"], "b": ["3"]}
    many = b"".join(part("a", b"") for _ in range(100))
    assert len(read(tmp_path, [many + END], repeated=("a",))[0]["a"]) == 100
    for form in (many + part("a", b"") + END, part("b", b"") * 2 + END, part("model", b"", "m") * 2 + END):
        with pytest.raises(NodeError, match="the form can't be read"):
            read(tmp_path, [form], repeated=("a", "model"))


@pytest.mark.parametrize("size", [7, 100_000])
def test_a_file_may_have_a_limit(tmp_path: Path, size: int) -> None:
    pieces = [FILE[at : at + size] for at in range(0, len(FILE), size)]
    assert read(tmp_path, pieces, limit=len(MODEL))[1] == MODEL
    with pytest.raises(LimitError):
        read(tmp_path, pieces, limit=len(MODEL) - 1)


def test_a_form_without_a_boundary(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="boundary"):
        read(tmp_path, [FILE], "multipart/form-data")


@pytest.mark.parametrize("text", [b"\xff\xfe", "\u0100".encode(), "é".encode()[:1]])
def test_a_text_that_stands_for_no_bytes(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(WireError):
        read(tmp_path, [part("model", text) + END])
