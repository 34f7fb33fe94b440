"""The unmodified syft.js 0.1.4 in a page of another origin, in Chromium, over HTTP and WebSocket."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

import gridkit as gk
from tests.browser.lab import CHROMIUM, chromium
from tests.interop.npm import modules
from tests.interop.syftjs import MODELS, check_alone, host, order
from tests.interop.test_pages import Site
from tests.support import TOKEN, NodeUnderTest

pytestmark = [pytest.mark.interop, pytest.mark.browser]

SCRIPTS = {"tf.js": "@tensorflow/tfjs-core/dist/tf-core.min.js", "syft.js": "@openmined/syft.js/dist/index.js"}
RUN = """async (order) => {
  tf.setBackend("cpu");
  const { run } = await import("/syft_cycle.mjs");
  return run(tf, syft.Syft, order);
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    for name, file in SCRIPTS.items():
        shutil.copy(modules() / "node_modules" / file, folder / name)
    shutil.copy(Path(__file__).with_name("syft_cycle.mjs"), folder)
    scripts = "".join(f'<script src="{name}"></script>' for name in SCRIPTS)
    site = Site(folder, f"<!doctype html><title>worker</title>{scripts}")
    yield site
    site.close()


@pytest.fixture(scope="module")
def grid(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[gk.Session]:
    node = NodeUnderTest(tmp_path_factory.mktemp("node") / "data", "--allow-origin", site.origin)
    try:
        with gk.connect(node.url, token=TOKEN) as grid:
            yield grid
    finally:
        node.terminate()


@pytest.fixture(scope="module")
def page(site: Site) -> Iterator[Page]:
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM} (Debian: apt-get install chromium)")
    with chromium() as browser:
        page = browser.new_page()
        page.goto(f"{site.origin}/index.html")
        yield page


@pytest.mark.parametrize("scheme", ["http", "ws"])
@pytest.mark.parametrize("kind", MODELS)
def test_it_trains_and_its_diff_is_ours(kind: str, scheme: str, grid: gk.Session, page: Page) -> None:
    process = host(grid, f"{kind}-{scheme}", kind)
    check_alone(process, kind, page.evaluate(RUN, order(process, kind, scheme=scheme)))


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_whoever_is_not_let_in_is_told(scheme: str, grid: gk.Session, page: Page) -> None:
    process = host(grid, f"twice-{scheme}", "mlp", max_workers=1, min_diffs=2, max_diffs=2)
    told: dict[str, Any] = page.evaluate(RUN, order(process, "mlp", scheme=scheme, insist=True))
    assert told["outcome"] == "reported" and told["again"]["same"] == "taken"
    assert "the first report counts" in told["again"]["other"] and told["again"]["next"]["timeout"] > 0
    with gk.Syft(grid.url, auth_token=process.worker_token) as client:
        job = client.new_job(process.name, process.version)
        job.on("accepted", lambda _: None)
        job.start()
    full = page.evaluate(RUN, order(process, "mlp", scheme=scheme))
    assert full["outcome"] == "rejected" and full["timeout"] > 0
    with pytest.raises(Exception, match="the token is not one of this node's"):
        page.evaluate(RUN, order(process, "mlp", scheme=scheme, token="not a token"))


@pytest.mark.soak
def test_with_the_speed_test(grid: gk.Session, page: Page) -> None:
    process = host(grid, "speed", "mlp", minimum_download_speed=0.001)
    told = page.evaluate(RUN, order(process, "mlp"))
    assert told["speed_test"] is True
    check_alone(process, "mlp", told)
