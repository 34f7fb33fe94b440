"""W4 in a real browser: pages of an allowed origin use the node as syft.js does, pages of others can't."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.browser.lab import CHROMIUM, chromium
from tests.support import NodeUnderTest, host_files, tiny_plan

pytestmark = pytest.mark.browser

TALK = """async ([node, token]) => {
  const post = async (what, data) => {
    const answer = await fetch(`${node}/model-centric/${what}`, {
      method: "POST", mode: "cors", headers: {"Content-Type": "application/json"}, body: JSON.stringify(data)});
    return answer.json();
  };
  const told = {};
  const enrolled = await post("authenticate", {model_name: "digits", auth_token: token});
  told.enrolled = enrolled.status;
  told.refused = (await post("authenticate", {model_name: "digits", auth_token: "x"})).error;
  const query = `worker_id=${enrolled.worker_id}&random=0.1?0.2`;
  told.speed = await new Promise((done) => {
    const call = new XMLHttpRequest();
    call.upload.onload = () => null;  // with a listener there is a preflight
    call.onload = () => done(call.status);
    call.onerror = () => done("failed");
    call.open("POST", `${node}/model-centric/speed-test?${query}`);
    call.send(new Uint8Array(1 << 20));
  });
  const cycle = await post("cycle-request", {
    worker_id: enrolled.worker_id, model: "digits", ping: 1, download: 5, upload: 5});
  told.cycle = cycle.status;
  const ids = `worker_id=${enrolled.worker_id}&request_key=${cycle.request_key}&model_id=${cycle.model_id}`;
  told.model = (await (await fetch(`${node}/model-centric/get-model?${ids}`)).arrayBuffer()).byteLength;
  told.socket = await new Promise((done) => {
    const socket = new WebSocket(node.replace("http", "ws"));
    socket.onmessage = (message) => done(JSON.parse(message.data).type);
    socket.onerror = () => done("failed");
    socket.onopen = () => socket.send(JSON.stringify({type: "model-centric/report", data: {}}));
  });
  return told;
}"""
TRY = """async (node) => {
  const told = [];
  const json = {method: "POST", headers: {"Content-Type": "application/json"}};
  for (const asked of [{}, {method: "POST", body: "{}"}, json])
    told.push(await fetch(`${node}/status/`, asked).then(() => "read", (error) => error.name));
  told.push(await new Promise((done) => {
    const socket = new WebSocket(node.replace("http", "ws"));
    socket.onopen = () => done("open");
    socket.onerror = () => done("refused");
  }));
  return told;
}"""


class Site:
    """A page on a port of its own, which is an origin of its own."""

    def __init__(self, folder: Path, page: str = "<title>page</title>") -> None:
        (folder / "index.html").write_text(page)

        class Quiet(SimpleHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
        self.origin = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


@pytest.fixture
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM} (Debian: apt-get install chromium)")
    with chromium() as browser:
        yield browser


def test_w4_pages_in_chromium(browser: Browser, site: Site, tmp_path: Path) -> None:
    trusting = NodeUnderTest(tmp_path / "trusting", "--allow-origin", site.origin)
    strict = NodeUnderTest(tmp_path / "strict", "--allow-origin", "https://another.example")
    try:
        with trusting.http() as http:
            files = host_files(tiny_plan(), {"num_cycles": 1, "minimum_upload_speed": 1}, "digits")
            token = http.post("/model-centric/host-training", files=files).json()["worker_token"]
        page = browser.new_page()
        page.goto(f"{site.origin}/index.html")
        told = page.evaluate(TALK, [trusting.url, token])
        assert told.pop("model") > 30 and told.pop("refused")
        assert told == {"enrolled": "success", "speed": 200, "cycle": "accepted", "socket": "model-centric/report"}
        assert page.evaluate(TRY, strict.url) == ["TypeError"] * 3 + ["refused"]
        assert page.evaluate(TRY, trusting.url) == ["read"] * 3 + ["open"]
    finally:
        trusting.terminate()
        strict.terminate()
