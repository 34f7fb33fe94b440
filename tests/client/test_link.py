"""A link's retries, patience and typed errors, against a small server on a real socket."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gridkit.client.link import Link
from gridkit.errors import (
    AccessError,
    ConflictError,
    ErrorCode,
    LimitError,
    NodeError,
    NodeUnreachable,
    NotFoundError,
    UsageError,
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def served(answers: list[tuple[int, Any]], use: Callable[[str], Awaitable[Any]], *, late: float = 0.0) -> list[str]:
    """Run `use(url)` against a server that gives these answers in turn; the request lines that came."""
    got: list[str] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        got.append(head.split(b"\r\n")[0].decode())
        status, body = answers[min(len(got), len(answers)) - 1]
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(data)) + data)
        await writer.drain()
        writer.close()

    async def go() -> None:
        port = free_port()

        async def serve() -> asyncio.Server:
            await asyncio.sleep(late)
            return await asyncio.start_server(handle, "127.0.0.1", port)

        starting = asyncio.ensure_future(serve())
        if not late:
            await starting
        await use(f"http://127.0.0.1:{port}")
        (await starting).close()

    asyncio.run(go())
    return got


def test_a_patient_link_waits_for_the_node_and_says_so_once() -> None:
    said: list[str] = []

    async def use(url: str) -> None:
        link = Link(url, patience=None, say=said.append)
        assert await link.json("GET", "/a") == {"ok": 1}
        assert await link.json("GET", "/b") == {"ok": 2}
        await link.close()

    lines = served([(503, {}), (200, {"ok": 1}), (200, {"ok": 2})], use, late=0.3)
    assert lines == ["GET /a HTTP/1.1", "GET /a HTTP/1.1", "GET /b HTTP/1.1"]
    assert len(said) == 2
    assert said[0].startswith("no answer from the node at http://127.0.0.1:") and said[0].endswith("; trying again")
    assert said[1].endswith("answers again")


@pytest.mark.parametrize(("status", "code"), [(504, "TIMED_OUT"), (507, "OUT_OF_MEMORY"), (502, "TARGET_FAILED")])
def test_what_failed_for_good_isnt_done_again_and_again(status: int, code: str) -> None:
    async def use(url: str) -> None:
        with pytest.raises(NodeError) as caught:
            await Link(url, patience=20).json("POST", "/run-plan/x")
        assert str(caught.value.code) == code

    assert len(served([(status, {"code": code}), (200, {})], use)) == 1


def test_a_delete_finds_nothing_if_no_earlier_try_can_have_deleted_it() -> None:
    async def use(url: str) -> None:
        with pytest.raises(NotFoundError):
            await Link(url, patience=20).request("DELETE", "/models/typo")

    served([(404, {})], use, late=0.2)  # refused connections before
    served([(503, {"code": "BUSY"}), (404, {})], use)


def test_a_link_without_patience_raises_at_once_and_one_with_some_in_the_end() -> None:
    async def go(patience: float) -> list[str]:
        said: list[str] = []
        link = Link(f"http://127.0.0.1:{free_port()}", patience=patience, say=said.append)
        with pytest.raises(NodeUnreachable, match="no answer from the node") as caught:
            await link.json("GET", "/")
        assert isinstance(caught.value, ConnectionError) and "Try: " in str(caught.value)
        return said

    assert asyncio.run(go(0.0)) == []
    assert len(asyncio.run(go(0.2))) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *[(400, NodeError), (401, AccessError), (403, AccessError), (404, NotFoundError), (409, ConflictError)],
        *[(413, LimitError), (429, LimitError), (500, NodeError), (503, NodeError), (507, LimitError)],
    ],
)
def test_errors_have_the_nodes_text_code_and_status(status: int, kind: type[NodeError]) -> None:
    async def use(url: str) -> None:
        with pytest.raises(NodeError) as caught:
            await Link(url, "a token that must not show").json("POST", "/x", json={})
        error = caught.value
        assert type(error) is kind and error.status == status
        assert (error.message, error.hint, error.code) == ("what happened", "this", ErrorCode.BAD_KEY)
        assert "a token" not in repr(error) + str(error)

    served([(status, {"error": "what happened", "hint": "this", "code": "BAD_KEY"})], use)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'"x"', {"code": "NO_SUCH_CODE"}])
def test_an_error_that_says_nothing_still_has_a_type(body: Any) -> None:
    async def use(url: str) -> None:
        with pytest.raises(NotFoundError, match="the node answered 404") as caught:
            await Link(url).json("GET", "/x")
        assert caught.value.code is None

    served([(404, body)], use)


def test_an_answer_that_is_no_object_is_an_error() -> None:
    async def use(url: str) -> None:
        with pytest.raises(NodeError, match="something else than a JSON object"):
            await Link(url).json("GET", "/x")

    served([(200, [1])], use)


@pytest.mark.parametrize("url", ["localhost:5000", "ftp://host", "http://", "", "//host", "http:///path"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="isn't a node's address"):
        Link(url)


def test_the_token_is_in_no_repr() -> None:
    assert "secret" not in repr(Link("http://127.0.0.1:1", "secret"))
