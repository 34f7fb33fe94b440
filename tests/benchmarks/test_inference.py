"""Remote inference of the digits MLP by 32 clients at once: the node beside a bare route with the model in its process.

Both answer the same bytes: safetensors with one sample in, safetensors with ten values out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.benchmarks.turns import Turns
from tests.models import digits, hosted, packed, unpacked
from tests.support import TOKEN, NodeUnderTest

pytestmark = pytest.mark.benchmark

PEERS = Path(__file__).parent / "peers"
CLIENTS, REQUESTS, ROUNDS = 32, 1500, (6, 24)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path / "data")
    yield node
    node.terminate()


@pytest.fixture
def bare() -> Iterator[int]:
    server = subprocess.Popen(
        [sys.executable, str(PEERS / "bare_inference.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdin is not None and server.stdout is not None
    yield int(server.stdout.readline())
    server.stdin.close()
    server.wait(10)
    server.stdout.close()


def asked(port: int, body: bytes, requests: int) -> tuple[float, dict[str, int]]:
    """Requests a second, and the digests of what came."""
    head = f"POST /run-inference/digits HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {TOKEN}\r\n"
    head += f"content-type: application/octet-stream\r\ncontent-length: {len(body)}\r\n\r\n"
    command = [sys.executable, str(PEERS / "many_clients.py"), str(port), str(CLIENTS), str(requests)]
    done = subprocess.run(command, input=head.encode() + body, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    told = json.loads(done.stdout)
    return told["rate"], told["bodies"]


@pytest.mark.timeout(300)
def test_inference_keeps_half_of_a_bare_routes_speed(node: NodeUnderTest, bare: int) -> None:
    model, x = hosted(digits(), torch.zeros(1, 64)), torch.randn(1, 64)
    form = {"model_id": "digits", "allow_download": "True", "allow_remote_inference": "True"}
    with node.http() as http:
        http.post("/serve-model/", data=form, files={"model": ("digits", model.data)}).raise_for_status()
        answer = http.post("/run-inference/digits", content=packed(x)).raise_for_status()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert torch.equal(unpacked(answer.content)[0], digits()(x))
    torch.set_num_threads(threads)
    for port in (bare, node.port):
        asked(port, packed(x), 500)
    sides, turns = {"node": node.port, "bare": bare}, Turns(*ROUNDS)
    for number in turns.rounds(lambda: turns.ratio("bare", "node") >= 0.5):
        for side in turns.order(number, *sides):
            rate, bodies = asked(sides[side], packed(x), REQUESTS)
            assert sum(bodies.values()) == REQUESTS and (side == "bare" or len(bodies) == 1)
            turns.took(side, 1 / rate)
    ratio = turns.ratio("bare", "node")
    print(
        f"\ninference of {CLIENTS} clients: {1 / turns.best('node'):.0f} requests a second of the node, "
        f"{1 / turns.best('bare'):.0f} of the bare route; ratio {ratio:.2f}"
    )
    assert ratio >= 0.5
