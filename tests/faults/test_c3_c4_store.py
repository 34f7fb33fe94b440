"""C3, C4: no room on the disk, a locked database: a typed error, nothing half done, and all is well afterwards."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gridkit as gk
from tests.support import TOKEN, NodeUnderTest, RawWorker, host_files, rows, tiny_plan

pytestmark = pytest.mark.faults

LARGE = {"w": np.zeros((700, 1000), np.float32), "b": np.zeros(2, np.float32)}


@pytest.fixture
def node(tmp_path: Path):
    node = NodeUnderTest(tmp_path / "data")
    yield node
    node.terminate()


def _host(node: NodeUnderTest) -> dict[str, Any]:
    files = host_files(tiny_plan(), {"num_cycles": 1}, "digits", model=LARGE)
    with node.http() as http:
        return http.post("/model-centric/host-training", files=files).raise_for_status().json()


def _limit_file_size(node: NodeUnderTest, size: int) -> None:
    """As a full disk for every file that would grow beyond `size`."""
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_c3_a_full_disk_is_507_and_passes(node: NodeUnderTest) -> None:
    hosted = _host(node)
    worker = RawWorker(node, hosted["worker_token"])
    worker.ask()
    before = node.files()
    _limit_file_size(node, 1_000_000)
    refused = worker.report(LARGE)
    assert (refused.status_code, refused.json()["code"]) == (507, "NO_ROOM")
    assert node.files() == before
    with node.http() as http:
        assert http.get("/status/").status_code == 200
    _limit_file_size(node, resource.RLIM_INFINITY)
    assert worker.report(LARGE).status_code == 200
    assert rows(node, hosted["process"])[-1]["outcome"] == "completed"


def test_c4_a_locked_database_is_waited_for(node: NodeUnderTest) -> None:
    hosted = _host(node)
    worker = RawWorker(node, hosted["worker_token"])
    lock = sqlite3.connect(node.data / "grid.db", isolation_level=None, check_same_thread=False)
    lock.execute("BEGIN IMMEDIATE")
    threading.Timer(1.5, lambda: lock.execute("COMMIT")).start()
    started = time.monotonic()
    slowest = 0.0
    answer: list[dict] = []
    asking = threading.Thread(target=lambda: answer.append(worker.ask()))
    asking.start()
    with node.http() as http:
        while asking.is_alive():
            at = time.monotonic()
            assert http.get("/status/").status_code == 200
            slowest = max(slowest, time.monotonic() - at)
    assert answer[0]["status"] == "accepted"
    assert time.monotonic() - started >= 1.0 and slowest < 1.0  # the loop went on while the writer waited
    lock.close()


def test_tls_is_verified(tmp_path: Path) -> None:
    """A node with a certificate; a client that doesn't know its issuer refuses to talk to it."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run(
        [*command, "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )
    node = NodeUnderTest(tmp_path / "data", "--certfile", str(certificate), "--keyfile", str(key))
    try:
        assert node.url.startswith("https://")
        with pytest.raises(gk.errors.NodeUnreachable, match="certificate verify failed"):
            gk.connect(node.url, token=TOKEN)
        with pytest.raises(gk.errors.NodeUnreachable, match="certificate verify failed"):
            gk.WebsocketGridClient(None, node.url, auth={"token": TOKEN})
        script = (
            f"import gridkit as gk; url, token = {node.url!r}, {TOKEN!r}; "
            "client = gk.WebsocketGridClient(None, url, auth={'token': token}); "
            "print(list(gk.connect(url, token=token).runs), client.url.split(':')[0], client.models)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "SSL_CERT_FILE": str(certificate)},
        )
        assert done.stdout == "[] wss []\n", done.stderr
    finally:
        node.terminate()
