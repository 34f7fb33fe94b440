"""One JupyterLab and one page serve all tests of this folder: to start them takes longer than most tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from playwright.sync_api import Page, ViewportSize, expect

from tests.browser.lab import CHROMIUM, Lab, Notebook, chromium

ROOT = Path(__file__).resolve().parents[2]
SIZE: ViewportSize = {"width": 1280, "height": 1100}


@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM} (Debian: apt-get install chromium fonts-dejavu-core)")
    home = tmp_path_factory.mktemp("lab")
    (home / "notebooks").mkdir()
    shutil.copytree(ROOT / "notebooks", home / "notebooks", dirs_exist_ok=True)
    running = Lab(home / "notebooks", home)
    yield running
    running.close()


# Of the package, and not of the session: while Playwright runs, asyncio.run() in this thread is refused.
@pytest.fixture(scope="package")
def page(lab: Lab) -> Iterator[Page]:
    with chromium() as browser:
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(30_000)
        expect.set_options(timeout=30_000)
        yield page


Open = Callable[..., Notebook]


@pytest.fixture
def open_notebook(lab: Lab, page: Page, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Open a notebook of these cells, or a shipped one by its name; its kernel ends with the test."""
    opened: list[Notebook] = []

    def open(cells: Sequence[str] | str) -> Notebook:
        name = cells if isinstance(cells, str) else f"{request.node.name}.ipynb"
        opened.append(Notebook(page, lab, name, None if isinstance(cells, str) else cells))
        return opened[-1]

    yield open
    for notebook in opened:
        notebook.shut_down()
