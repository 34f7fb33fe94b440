"""Token buckets, and what they hold back on a real node."""

from __future__ import annotations

import asyncio
import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import websockets

from gridkit.client.link import Link
from gridkit.errors import LimitError
from gridkit.node import rates
from gridkit.node.passwords import AT_A_TIME, Passwords
from gridkit.node.rates import Buckets, Rates, source
from gridkit.node.rights import ANONYMOUS, OWNER
from gridkit.node.settings import Limits
from tests.support import NodeUnderTest

PASSWORD = "correct horse battery staple"


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_gives_its_burst_and_fills_again() -> None:
    clock = Time()
    buckets = Buckets(2.0, 3.0, clock)
    assert [buckets.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert (buckets.take("b"), buckets.wait("a")) == (0.0, 0.5)
    clock.now += 0.5
    assert [buckets.take("a"), buckets.take("a")] == [0.0, 0.5]
    clock.now += 1000
    assert [buckets.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_the_table_is_bounded_and_forgets_who_was_away_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "TABLE", 100)
    buckets = Buckets(1.0, 1.0, Time())
    for number in range(1000):
        buckets.take(number)
        buckets.take("busy")
        buckets.wait(f"only asked {number}")
    assert len(buckets._levels) == 100


def test_whoever_has_a_credential_is_never_held_back_by_work() -> None:
    """32 clients at 3,000 requests a second, for an hour, all by one account's token."""
    clock = Time()
    members = Buckets(Limits().member_rate, 2 * Limits().member_rate, clock)
    for _ in range(20_000):
        assert members.take("ana") == 0.0
        clock.now += 1 / 3000
    limit = Rates(Limits())
    for _ in range(30_000):
        limit.admit(OWNER, "127.0.0.1")
    with pytest.raises(LimitError):
        for _ in range(30_000):
            limit.admit(ANONYMOUS, "127.0.0.1")


@pytest.mark.parametrize(
    ("client", "key"),
    [
        (("10.0.0.7", 1234), "10.0.0.7"),
        (("::ffff:10.0.0.7", 1234), "10.0.0.7"),
        (("2001:db8:1:2:3:4:5:6", 1), "2001:db8:1:2::/64"),
        (("2001:db8:1:2::ff", 1), "2001:db8:1:2::/64"),
        (("testclient", 1), "testclient"),
        (None, ""),
    ],
)
def test_an_address_is_a_hosts(client: tuple[str, int] | None, key: str) -> None:
    assert source(client) == key


def test_few_passwords_are_checked_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridkit.node.passwords.WAITING", 2)

    async def run() -> None:
        passwords = Passwords()
        kept = await passwords.hash(PASSWORD)
        tries = [passwords.verify(kept, f"wrong {n}") for n in range(3 * (AT_A_TIME + 2))]
        results = await asyncio.gather(*tries, return_exceptions=True)
        refused = [r for r in results if isinstance(r, LimitError)]
        assert {r.status for r in refused} == {429} and len(refused) == len(tries) - AT_A_TIME - 2
        assert [r for r in results if r not in refused] == [False] * (AT_A_TIME + 2)
        assert not passwords.remembers(kept, PASSWORD)
        assert await passwords.verify(kept, PASSWORD) and passwords.remembers(kept, PASSWORD)
        assert not passwords.remembers(kept, "wrong 1") and not passwords.remembers(None, PASSWORD)
        again = await passwords.hash(PASSWORD)
        assert not passwords.remembers(again, PASSWORD)  # set again: known again when it was checked again
        passwords.close()

    asyncio.run(run())


def test_w6_unknown_names_take_the_same_work_and_get_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> list[str]:
        passwords = Passwords()
        kept = await passwords.hash(PASSWORD)
        await passwords.verify(None, "first")  # what nobody's is compared with is made once
        worked: list[str] = []

        def matches(self: Passwords, of: str, password: str) -> bool:
            worked.append(of[: of.rindex("$") - 22])  # the parameters of the work
            return original(self, of, password)

        original = Passwords._matches
        monkeypatch.setattr(Passwords, "_matches", matches)
        assert not await passwords.verify(kept, "wrong") and not await passwords.verify(None, "wrong")
        passwords.close()
        return worked

    known, unknown = asyncio.run(run())
    assert known == unknown


def test_w6_guessing_a_password_is_slow_and_tells_nothing(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "data", "--limit", "wrong_rate=0.1")  # five wrong passwords an address, two a name
    try:
        with node.http() as owner, node.http(None) as http:
            for name in ("ana", "ben"):
                assert owner.post("/users", json={"name": name, "password": PASSWORD}).status_code == 200

            def guess(name: str, password: str) -> httpx.Response:
                return http.post("/users/login", json={"username": name, "password": password})

            token = guess("ben", PASSWORD).json()["token"]
            wrong, unknown = guess("ana", "wrong"), guess("nobody", "wrong")
            assert (wrong.status_code, wrong.json()) == (unknown.status_code, unknown.json()) == (401, wrong.json())
            answers = [guess("ana", f"wrong {n}") for n in range(3)]
            assert [a.status_code for a in answers] == [401, 429, 429]
            assert int(answers[-1].headers["retry-after"]) >= 1 and answers[-1].json()["code"] == "TOO_MANY"
            # the right one isn't tried either: nobody learns that it would have been
            assert guess("ana", PASSWORD).status_code == 429
            for number in range(20):
                last = guess(f"name {number}", "wrong")
            assert last.status_code == 429
            # who is logged in, and who was just now, goes on
            assert guess("ben", PASSWORD).status_code == 200
            with node.http(token) as ben:
                assert ben.get("/users").status_code == 200
            basic = httpx.get(node.url + "/users", auth=("ana", PASSWORD), trust_env=False)
            assert basic.status_code == 429
            assert node.http(None).get("/status").status_code == 200
    finally:
        node.terminate()


def test_w6_many_passwords_in_one_request_are_many_guesses(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "data", "--limit", "wrong_rate=0.06")  # six at once
    try:
        with node.http() as owner, node.http(None) as http:
            assert owner.post("/users", json={"name": "ana", "password": PASSWORD}).status_code == 200
            tries = [*(f"name {n}:{PASSWORD}" for n in range(8)), f"ana:{PASSWORD}"]
            headers = [("authorization", "Basic " + base64.b64encode(each.encode()).decode()) for each in tries]
            assert http.get("/users", headers=headers).status_code == 429
    finally:
        node.terminate()


def test_r3_keys_are_not_to_be_guessed(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "data", "--limit", "wrong_rate=0.2")
    try:
        with node.http(None) as http:
            wish = {"worker_id": "0" * 32, "request_key": "0" * 64, "model_id": "m"}
            codes = [http.get("/model-centric/get-model", params=wish).status_code for _ in range(30)]
            assert codes[:10] == [401] * 10 and codes[-1] == 429
        with node.http("not-the-token" * 3) as http:
            assert http.get("/users").status_code == 429
        with node.http() as http:
            assert http.get("/users").status_code == 200  # a right credential passes
            rows = http.get("/audit").json()["rows"]
        assert {"work", "list-users"} <= {row["operation"] for row in rows if row["verdict"] != "done"}
    finally:
        node.terminate()


def test_anonymous_clients_have_a_bucket_an_address(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "data", "--limit", "anonymous_rate=5")
    try:
        here = [
            httpx.Client(base_url=node.url, transport=httpx.HTTPTransport(local_address=f"127.0.0.{n}")) for n in (1, 9)
        ]
        codes = [here[0].get("/status").status_code for _ in range(40)]
        assert codes[:20] == [200] * 20 and 429 in codes
        forged = {"x-forwarded-for": "127.0.0.77", "forwarded": "for=127.0.0.77", "x-real-ip": "127.0.0.77"}
        while here[0].get("/status").status_code == 200:
            pass
        assert here[0].get("/status", headers=forged).status_code == 429  # nobody says where they are
        assert here[1].get("/status").status_code == 200
        with node.http() as owner:
            assert [owner.get("/status").status_code for _ in range(60)] == [200] * 60

        async def messages() -> list[str]:
            async with websockets.connect(node.url.replace("http", "ws") + "/", local_addr=("127.0.0.5", 0)) as socket:
                seen = []
                for _ in range(40):
                    await socket.send(json.dumps({"type": "socket-ping"}))
                    seen.append(json.loads(await socket.recv()).get("code", "alive"))
                return seen

        seen = asyncio.run(messages())
        assert seen[0] == "alive" and seen[-1] == "TOO_MANY"
    finally:
        node.terminate()


def test_a_patient_link_comes_again_when_it_may(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "data", "--limit", "anonymous_rate=10")

    async def ask(patience: float) -> None:
        link = Link(node.url, patience=patience)
        try:
            for _ in range(60):
                assert (await link.json("GET", "/status"))["status"] == "ok"
        finally:
            await link.close()

    try:
        with pytest.raises(LimitError, match="too many requests"):
            asyncio.run(ask(0.0))
        asyncio.run(ask(30.0))
    finally:
        node.terminate()


def test_clients_at_full_speed_with_a_credential_are_not_hit(node: NodeUnderTest) -> None:
    def work(_: int) -> set[int]:
        with node.http() as http:
            return {http.get("/status").status_code for _ in range(60)}

    with ThreadPoolExecutor(32) as threads:
        assert set().union(*threads.map(work, range(32))) == {200}
