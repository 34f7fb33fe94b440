"""The node's own calls, to real servers on loopback; only the names' addresses are made up."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import ssl
import subprocess
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gridkit.cli import main
from gridkit.errors import AccessError, ErrorCode, NodeError, UsageError
from gridkit.node import outbound as outbound_module
from gridkit.node.outbound import Answer, Outbound
from gridkit.node.settings import NodeSettings

SECRET = "s3cr3t-of-the-test"
LOOPBACK = ("127.0.0.0/8", "::1")


class Server:
    """Answers each path with the bytes, or the coroutine, that `replies` has for it, and notes what came."""

    def __init__(self, replies: dict[str, Any]) -> None:
        self.replies = replies
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.port = 0
        self.tasks: set[asyncio.Task[Any]] = set()

    @property
    def paths(self) -> list[str]:
        return [" ".join(head.split(" ")[:2]) for head in self.heads]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self.reply(reader, writer)
        finally:
            if task.cancelling():
                writer.transport.abort()
            else:
                writer.close()

    async def reply(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:-2])
        self.heads.append(head)
        self.bodies.append(await reader.readexactly(int(fields.get("content-length", "0"))))
        reply = self.replies[head.split(" ")[1]]
        if isinstance(reply, bytes):
            writer.write(reply)
            await writer.drain()
        else:
            await reply(writer)


def ok(body: bytes = b"{}", *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def moved(status: int, location: str) -> bytes:
    return f"HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n".encode()


@asynccontextmanager
async def server(
    replies: dict[str, Any], host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    served = Server(replies)
    listening = await asyncio.start_server(served.serve, host, 0, ssl=tls)
    served.port = listening.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        listening.close()
        for task in served.tasks:
            task.cancel()
        await asyncio.gather(*served.tasks, return_exceptions=True)
        await asyncio.sleep(0)  # connections are let go in the loop's next turn


class Names:
    """A resolver: each look-up of a name takes its next answer, the last one for good."""

    def __init__(self, **names: list[list[str]]) -> None:
        self.names = {name.replace("_", "."): answers for name, answers in names.items()}
        self.asked: list[str] = []

    async def __call__(self, name: str) -> list[str]:
        self.asked.append(name)
        if name not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        answers = self.names[name]
        return answers.pop(0) if len(answers) > 1 else answers[0]


def policy(*targets: str, names: Names | None = None, **others: Any) -> Outbound:
    own_ports = others.pop("own_ports", ())
    tls = others.pop("tls", None)
    return Outbound(NodeSettings(allow_targets=targets, **others), own_ports, resolve=names, tls=tls)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


async def refused(call: Awaitable[Any]) -> AccessError:
    with pytest.raises(AccessError) as caught:
        await call
    assert caught.value.code is ErrorCode.TARGET_REFUSED and caught.value.status == 403 and caught.value.hint
    return caught.value


async def failed(call: Awaitable[Any], status: int = 502) -> str:
    with pytest.raises(NodeError) as caught:
        await call
    assert caught.value.code is ErrorCode.TARGET_FAILED and caught.value.status == status
    assert SECRET not in str(caught.value)
    return caught.value.message


def test_w10_nothing_is_called_by_default() -> None:
    async def work() -> None:
        names = Names(here_example=[["127.0.0.1"]], out_example=[["93.184.216.34"]])
        async with server({"/": ok()}) as target:
            outbound = policy(names=names)
            hosts = ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "localhost", "here.example", "out.example"]
            for host in [*hosts, "93.184.216.34", "169.254.169.254", "10.0.0.1"]:
                error = await refused(outbound.request("GET", f"http://{host}:{target.port}/"))
                assert f":{target.port}" in error.message and "--allow-target" in str(error.hint)
            assert target.connections == 0
        assert names.asked == []  # names aren't even looked up when no rule could cover them

    run(work)


def test_an_allowed_target_is_called() -> None:
    async def work() -> None:
        async with server({"/a?b=1": ok(b'{"c": 1}', "x-d: e")}) as target:
            outbound = policy(f"127.0.0.1:{target.port}")
            url = f"http://127.0.0.1:{target.port}/a?b=1#f"
            answer = await outbound.request("post", url, headers={"Authorization": "Bearer x"}, content=b"hello")
            assert (answer.status, answer.json(), answer.headers["x-d"]) == (200, {"c": 1}, "e")
            assert target.paths == ["POST /a?b=1"] and target.bodies == [b"hello"]
            head = target.heads[0].lower()
            assert f"host: 127.0.0.1:{target.port}\r\n" in head and "authorization: bearer x\r\n" in head
            assert "accept-encoding: identity\r\n" in head and "cookie" not in head
            await refused(outbound.request("GET", f"http://127.0.0.1:{target.port - 1}/"))
            await refused(outbound.request("GET", f"http://127.0.0.2:{target.port}/"))

    run(work)


def test_open_adds_loopback_but_never_the_node_itself() -> None:
    async def work() -> None:
        names = Names(localhost=[["::1", "127.0.0.1"]], far_example=[["10.0.0.1"]])
        async with server({"/": ok()}) as target, server({"/": ok()}) as node:
            outbound = policy("0.0.0.0", "127.0.0.0/8", names=names, open=True, own_ports={node.port})
            for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]"):
                assert (await outbound.request("GET", f"http://{host}:{target.port}/")).status == 200
                error = await refused(outbound.request("GET", f"http://{host}:{node.port}/"))
                assert "this node itself" in error.message
            for host in ("127.0.0.2", "[::1]", "0.0.0.0"):
                await refused(outbound.request("GET", f"http://{host}:{node.port}/"))
            await refused(outbound.request("GET", f"http://far.example:{target.port}/"))
            await refused(outbound.request("GET", f"http://169.254.169.254:{target.port}/"))
            assert node.connections == 0

    run(work)


def test_a_name_is_looked_up_once_and_that_address_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the second answer would lead elsewhere, and neither our resolver nor the system's is asked."""
    real = socket.getaddrinfo

    def numeric(host: Any, *arguments: Any, **named: Any) -> Any:
        assert str(host).replace(".", "").isdigit(), f"{host} was looked up"
        return real(host, *arguments, **named)

    async def work() -> None:
        async with server({"/": ok(b"right")}, "127.0.0.2") as target:
            names = Names(far_example=[["127.0.0.2"], ["127.0.0.3"]])
            outbound = policy("127.0.0.0/8", names=names)
            monkeypatch.setattr(socket, "getaddrinfo", numeric)
            assert (await outbound.request("GET", f"http://FAR.example.:{target.port}/")).body == b"right"
            assert names.asked == ["far.example"]
            assert f"Host: far.example:{target.port}\r\n".lower() in target.heads[0].lower()

    run(work)


def test_of_many_addresses_only_the_covered_ones_are_called() -> None:
    async def work() -> None:
        async with server({"/": ok()}, "127.0.0.2") as target, server({"/": ok()}, "127.0.0.9") as inner:
            mixed = ["169.254.169.254", "127.0.0.9", "10.0.0.1", "fe80::1%2", "127.0.0.7", "127.0.0.2"]
            outbound = policy("127.0.0.2", "127.0.0.7", names=Names(far_example=[mixed]))
            checked = await outbound.check(f"http://far.example:{target.port}/")
            assert [str(address) for address in checked.addresses] == ["127.0.0.7", "127.0.0.2"]
            # nobody listens at the first of them
            assert (await outbound.request("GET", f"http://far.example:{target.port}/")).status == 200
            await failed(outbound.request("GET", f"http://far.example:{inner.port}/"))
            assert inner.connections == 0

    run(work)


def test_an_allowed_name_that_is_pointed_inside_is_refused() -> None:
    async def work() -> None:
        inside = {"127.0.0.1": "loopback", "169.254.169.254": "cloud metadata", "::": "unspecified"}
        async with server({"/": ok()}) as target:
            for address, kind in {**inside, "fe80::1": "link-local", "::ffff:127.0.0.1": "loopback"}.items():
                outbound = policy("far.example", names=Names(far_example=[[address]]))
                error = await refused(outbound.request("GET", f"http://far.example:{target.port}/"))
                assert "far.example" in error.message and kind in error.message
            assert target.connections == 0

    run(work)


def test_where_services_listen_is_no_address_to_call() -> None:
    async def work() -> None:
        error = await refused(policy("127.0.0.1").check("http://0.0.0.0:8101/"))
        assert error.hint is not None and error.hint.startswith("give an address at which the node reaches it")

    run(work)


def test_strangers_are_not_told_which_names_exist_inside() -> None:
    async def work() -> None:
        names = Names(inner_example=[["10.1.2.3"]], twin_example=[["169.254.169.254"]], good_example=[["10.1.2.3"]])
        outbound = policy("127.0.0.1", "good.example:81", names=names)
        texts = set()
        for name in ("inner", "twin", "none"):
            error = await refused(outbound.check(f"http://{name}.example:5000/"))
            texts.add(str(error).replace(name, "NAME"))
        assert len(texts) == 1 and "10.1" not in texts.pop()
        assert "isn't found" in await failed(policy("gone.example", names=names).check("http://gone.example/"))

    run(work)


def test_the_systems_resolver() -> None:
    async def work() -> None:
        async with server({"/": ok()}) as target:
            outbound = policy("localhost", "nowhere.invalid")
            assert (await outbound.request("GET", f"http://localhost:{target.port}/")).status == 200
            await failed(outbound.check("http://nowhere.invalid/"))
            outbound.close()

    run(work)


def test_a_resolver_that_is_silent_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(name: str) -> list[str]:
        await asyncio.sleep(3600)
        return []

    async def work() -> None:
        outbound = Outbound(NodeSettings(allow_targets=("far.example",)), resolve=silent)
        assert "0.05 s" in await failed(outbound.request("GET", "http://far.example/", seconds=0.05), 504)
        monkeypatch.setattr(outbound_module, "CONNECT_SECONDS", 0.05)
        assert "isn't found" in await failed(outbound.check("http://far.example/"))

    run(work)


def test_redirects_are_checked_hop_by_hop() -> None:
    async def work() -> None:
        replies: dict[str, Any] = {"/": ok(SECRET.encode())}
        async with server(replies, "127.0.0.9") as inner, server({}) as target:
            away = f"http://127.0.0.9:{inner.port}/"
            target.replies = {f"/{status}": moved(status, away) for status in (301, 302, 303, 307, 308)}
            names = Names(far_example=[["127.0.0.9"]], localhost=[["127.0.0.1"]])
            outbound = policy("127.0.0.1", names=names)
            for status in (301, 302, 303, 307, 308):
                error = await refused(outbound.request("GET", f"http://127.0.0.1:{target.port}/{status}"))
                assert f"127.0.0.9:{inner.port}" in error.message
            for location in (f"http://far.example:{inner.port}/", f"//127.0.0.9:{inner.port}/", "http://0/"):
                target.replies["/go"] = moved(302, location)
                with pytest.raises(NodeError):
                    await outbound.request("GET", f"http://127.0.0.1:{target.port}/go")
            bad = (
                "file:///etc/passwd",
                f"http://u:{SECRET}@127.0.0.1/",
                "http://2130706433/",
                "http://[::1/",
                "http://:0/",
            )
            for location in bad:
                target.replies["/bad"] = moved(302, location)
                text = await failed(outbound.request("GET", f"http://127.0.0.1:{target.port}/bad"))
                assert "usable URL" in text
            assert inner.connections == 0

    run(work)


def test_redirects_end() -> None:
    async def work() -> None:
        async with server({"/0": ok(b"done")}) as target:
            target.replies |= {f"/{n}": moved(302, f"/{n - 1}") for n in range(1, 5)}
            outbound = policy("127.0.0.1")
            url = f"http://127.0.0.1:{target.port}"
            assert (await outbound.request("GET", f"{url}/3", headers={"x-token": "t"})).body == b"done"
            assert all("x-token: t" in head.lower() for head in target.heads)  # it stayed at home
            assert "redirects" in await failed(outbound.request("GET", f"{url}/4"))
            target.replies["/for-ever"] = moved(301, "/for-ever")
            await failed(outbound.request("GET", f"{url}/for-ever"))
            target.replies["/nowhere"] = b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n"
            assert (await outbound.request("GET", f"{url}/nowhere")).status == 302

    run(work)


def test_credentials_and_bodies_stay_with_their_origin() -> None:
    async def work() -> None:
        async with server({"/": ok()}) as other, server({"/": ok()}) as target:
            outbound = policy("127.0.0.1")
            url, away = f"http://127.0.0.1:{target.port}", f"http://127.0.0.1:{other.port}/"
            target.replies |= {f"/{status}": moved(status, away) for status in (301, 302, 303, 307, 308)}
            target.replies |= {f"/stay/{status}": moved(status, "/") for status in (301, 302, 303, 307, 308)}
            headers = {"authorization": f"Bearer {SECRET}", "cookie": f"a={SECRET}", "x-token": SECRET}
            for status in (301, 302, 303, 307, 308):
                assert (await outbound.request("GET", f"{url}/{status}", headers=headers)).status == 200
            assert other.connections == 5 and not any(SECRET in head for head in other.heads)
            assert all("\r\nhost: 127.0.0.1:" in head.lower() for head in other.heads)
            for status in (301, 302, 303, 307, 308):
                text = await failed(outbound.request("POST", f"{url}/{status}", headers=headers, content=b"body"))
                assert f"127.0.0.1:{other.port}" in text
            assert other.connections == 5
            target.heads.clear()
            target.bodies.clear()
            for status in (301, 302, 303):  # would be turned into a GET, and be done without having been done
                await failed(outbound.request("POST", f"{url}/stay/{status}", content=b"body"))
            for status in (307, 308):
                await outbound.request("POST", f"{url}/stay/{status}", headers=headers, content=b"body")
            assert target.paths[3:] == ["POST /stay/307", "POST /", "POST /stay/308", "POST /"]
            assert target.bodies[3:] == [b"body"] * 4 and all(SECRET in head for head in target.heads[3:])

    run(work)


def test_no_more_is_read_than_the_limit() -> None:
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            await writer.drain()
            sent += 0x10000

    async def work() -> None:
        size = 1 << 20
        lies = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n" + SECRET.encode() * 100
        async with server(
            {"/": endless, "/fits": ok(bytes(size)), "/more": ok(bytes(size + 1)), "/lies": lies}
        ) as target:
            outbound = policy("127.0.0.1")
            url = f"http://127.0.0.1:{target.port}"
            tracemalloc.start()
            assert f"{size} bytes" in await failed(outbound.request("GET", f"{url}/", limit=size))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 4 * size and sent < 64 * size
            assert len((await outbound.request("GET", f"{url}/fits", limit=size)).body) == size
            await failed(outbound.request("GET", f"{url}/more", limit=size))
            with contextlib.suppress(NodeError):
                assert len((await outbound.request("GET", f"{url}/lies")).body) == 10

    run(work)


def test_where_only_the_status_counts_no_body_is_read() -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 202 Accepted\r\ncontent-length: 1000000000\r\n\r\n")
        await asyncio.sleep(60)

    async def work() -> None:
        odd = b"HTTP/1.1 500 No\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\nzzz"
        async with server({"/": silent, "/odd": odd, "/fits": ok(bytes(100))}) as target:
            outbound = policy("127.0.0.1")
            for path, status in (("/", 202), ("/odd", 500), ("/fits", 200)):
                answer = await outbound.request("POST", f"http://127.0.0.1:{target.port}{path}", limit=0)
                assert (answer.status, answer.body) == (status, b"")

    run(work)


def test_compressed_answers_are_refused() -> None:
    async def work() -> None:
        bomb = gzip.compress(bytes(10_000_000))
        async with server({"/": ok(bomb, "content-encoding: gzip"), "/plain": ok(bomb)}) as target:
            outbound = policy("127.0.0.1")
            assert "compressed" in await failed(outbound.request("GET", f"http://127.0.0.1:{target.port}/"))
            answer = await outbound.request("GET", f"http://127.0.0.1:{target.port}/plain")
            assert answer.body == bomb

    run(work)


def test_the_time_limit_is_over_all() -> None:
    async def dripping(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(5)

    async def work() -> None:
        async with server({"/drip": dripping, "/silent": silent}) as target:
            outbound = policy("127.0.0.1")
            for path in ("drip", "silent"):
                text = await failed(outbound.request("GET", f"http://127.0.0.1:{target.port}/{path}", seconds=0.2), 504)
                assert f"127.0.0.1:{target.port}" in text

    run(work)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        f"-ERR unknown command {SECRET}\r\n".encode(),
        f"HTTP/1.1 {SECRET}\r\n\r\n".encode(),
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n" + SECRET.encode(),
        b"HTTP/1.1 200 OK\r\n" + b"a" * 200_000,
        f"HTTP/1.1 200 OK\r\nbad header {SECRET}\r\n\r\n".encode(),
    ],
)
def test_failures_never_repeat_what_came_back(reply: bytes) -> None:
    async def work() -> None:
        async with server({"/?key=" + SECRET: reply}) as target:
            url = f"http://127.0.0.1:{target.port}/?key={SECRET}"
            text = await failed(policy("127.0.0.1").request("GET", url, headers={"authorization": SECRET}))
            assert f"127.0.0.1:{target.port}" in text

    run(work)


def test_answers_and_bad_calls_keep_secrets() -> None:
    async def work() -> None:
        async with server({"/": ok(SECRET.encode(), f"set-cookie: {SECRET}")}) as target:
            outbound = policy("127.0.0.1")
            url = f"http://127.0.0.1:{target.port}/"
            answer = await outbound.request("GET", url)
            assert isinstance(answer, Answer) and SECRET not in repr(answer)
            with pytest.raises(NodeError) as caught:
                answer.json()
            assert SECRET not in str(caught.value)
            await outbound.request("GET", url)
            assert "cookie" not in target.heads[1].lower()  # the one that was set isn't sent back
            for value in (f"{SECRET}\r\nx: y", f"{SECRET}é", f"{SECRET}\0"):
                with pytest.raises(NodeError) as caught:
                    await outbound.request("GET", url, headers={"authorization": value})
                assert SECRET not in str(caught.value) and caught.value.code is ErrorCode.BAD_REQUEST
            assert target.connections == 2

    run(work)


def test_json_that_is_too_deep_is_an_error_like_any() -> None:
    import httpx

    with pytest.raises(NodeError, match="isn't JSON"):
        Answer(200, httpx.Headers(), b"[" * 200_000).json()


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def work() -> None:
        async with server({"/": ok()}) as target, server({}) as proxy:
            for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login a password {SECRET}")
            monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
            url = f"http://127.0.0.1:{target.port}/"
            assert (await policy("127.0.0.1").request("GET", url)).status == 200
            assert proxy.connections == 0 and "authorization" not in target.heads[0].lower()

    run(work)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    paths = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=far.example"]
    names = "subjectAltName=DNS:far.example,IP:127.0.0.2"
    files = ["-out", str(paths[0]), "-keyout", str(paths[1])]
    subprocess.run([*command, "-addext", names, *files], check=True, capture_output=True)
    return paths


def test_tls_is_verified_against_the_name(certificate: tuple[Path, Path]) -> None:
    async def work() -> None:
        names: list[str | None] = []
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
        context.sni_callback = lambda _socket, name, _context: names.append(name)
        trusted = ssl.create_default_context(cafile=str(certificate[0]))
        resolver = Names(far_example=[["127.0.0.1"]], twin_example=[["127.0.0.1"]])
        outbound = policy("127.0.0.0/8", names=resolver, tls=trusted)
        replies: dict[str, Any] = {"/": ok(b"right")}
        async with server(replies, "127.0.0.1", context) as target, server(replies, "127.0.0.2", context) as second:
            assert (await outbound.request("GET", f"https://far.example.:{target.port}/")).body == b"right"
            assert names == ["far.example"] and f"host: far.example:{target.port}\r\n" in target.heads[0].lower()
            text = await failed(outbound.request("GET", f"https://twin.example:{target.port}/"))
            assert "certificate" in text and "twin.example" in text
            assert "certificate" in await failed(outbound.request("GET", f"https://127.0.0.1:{target.port}/"))
            assert (await outbound.request("GET", f"https://127.0.0.2:{second.port}/")).status == 200
            strict = policy("127.0.0.0/8", names=resolver)  # the system doesn't know who signed it
            assert "certificate" in await failed(strict.request("GET", f"https://far.example:{target.port}/"))
            async with server({"/": ok()}) as plain:
                replies["/down"] = moved(302, f"http://far.example:{plain.port}/")
                text = await failed(outbound.request("GET", f"https://far.example:{target.port}/down"))
                assert "from https to http" in text and plain.connections == 0

    run(work)


def test_what_is_told_of_a_server_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(f"HTTP/1.1 400 {SECRET}\r\n\r\n".encode())
        writer.close()

    async def work() -> None:
        outbound = policy("127.0.0.1")
        talking = await asyncio.start_server(other, "127.0.0.1", 0)
        port = talking.sockets[0].getsockname()[1]
        assert "TLS" in await failed(outbound.request("GET", f"https://127.0.0.1:{port}/"))
        talking.close()
        monkeypatch.setattr(outbound_module, "CONNECT_SECONDS", 0.1)
        async with server({}) as waiting:  # for the end of a request's head
            assert "in time" in await failed(outbound.request("GET", f"https://127.0.0.1:{waiting.port}/"))

    run(work)


def test_calls_at_one_time_keep_apart() -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.5)

    async def work() -> None:
        async with server({"/": ok(), "/silent": silent}) as target:
            outbound = policy("127.0.0.1")
            url = f"http://127.0.0.1:{target.port}"
            hanging = [asyncio.ensure_future(outbound.request("GET", f"{url}/silent", seconds=5)) for _ in range(40)]
            answers = await asyncio.gather(*(outbound.request("GET", f"{url}/") for _ in range(40)))
            assert {answer.status for answer in answers} == {200} and not any(call.done() for call in hanging)
            for call in hanging:
                call.cancel()
            await asyncio.gather(*hanging, return_exceptions=True)

    run(work)


def test_the_setting_and_the_flag(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--allow-target"):
        NodeSettings(allow_targets=("good.example", "10.0.0.1/8"))
    assert NodeSettings(allow_targets=("good.example", "10.0.0.0/8")).allow_targets[1] == "10.0.0.0/8"
    data = str(tmp_path / "data")
    assert main(["node", "--data", data, "--allow-target", "good.example", "--allow-target", "http://x"]) == 1
    assert "--allow-target can't be 'http://x'" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
