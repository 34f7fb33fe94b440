"""Clients that send one request over and over, each on a connection of its own, with as little work as can be.

``python many_clients.py PORT CLIENTS REQUESTS`` reads the bytes of the request from standard input, has each client
send it and wait for the whole answer until `REQUESTS` are answered in all, and prints a JSON object: requests a second,
and how many bodies there were of which digest.
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import json
import sys
import time
from typing import ClassVar


class Client(asyncio.Protocol):
    left: ClassVar[int] = 0
    bodies: ClassVar[collections.Counter[str]] = collections.Counter()

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.done = asyncio.get_running_loop().create_future()
        self.held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def go(self) -> None:
        if Client.left <= 0:
            self.done.set_result(None)
            return
        Client.left -= 1
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.held += data
        head, mark, body = self.held.partition(b"\r\n\r\n")
        if not mark:
            return
        assert head.startswith(b"HTTP/1.1 200 "), self.held
        size = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) == size:
            Client.bodies[hashlib.sha256(body).hexdigest()] += 1
            self.held = b""
            self.go()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server hung up"))


async def main() -> None:
    port, clients, requests = map(int, sys.argv[1:])
    request = sys.stdin.buffer.read()
    loop = asyncio.get_running_loop()
    made = [(await loop.create_connection(lambda: Client(request), "127.0.0.1", port))[1] for _ in range(clients)]
    Client.left = requests
    start = time.perf_counter()
    for client in made:
        client.go()
    await asyncio.gather(*(client.done for client in made))
    seconds = time.perf_counter() - start
    print(json.dumps({"rate": requests / seconds, "bodies": Client.bodies}))


asyncio.run(main())
