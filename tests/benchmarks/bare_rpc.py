"""A bare `websockets` server that answers JSON-RPC's echo: the least that the job needs. Run as a script, it prints its
port."""

from __future__ import annotations

import asyncio
import json

from websockets.asyncio.server import ServerConnection, serve


async def answer(socket: ServerConnection) -> None:
    async for text in socket:
        asked = json.loads(text)
        await socket.send(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": asked["params"]}))


async def main() -> None:
    async with serve(answer, "127.0.0.1", 0, compression=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
