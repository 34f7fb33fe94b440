"""A JupyterLab of its own on loopback, and its notebooks in Debian's Chromium, driven through Playwright."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib
import nbformat
from playwright.sync_api import Browser, Locator, Page, WebSocket, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_OPTIONS = [
    "--no-sandbox",  # it refuses to run as root with one
    "--disable-gpu",
    "--disable-dev-shm-usage",  # containers have little of it
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-quic",
    "--disable-sync",
    "--hide-scrollbars",
    "--no-first-run",
]
# JupyterLab's own quiet: no questions, no news, no look for updates.
SETTINGS = {"notification": {"fetchNews": "false", "checkForUpdates": False}}
CURRENT = "window.jupyterapp.shell.currentWidget"


class Lab:
    """`jupyter lab` on a folder, with a private home: neither does it read your settings, nor change them."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder, self.home = folder, home
        self.token = secrets.token_hex(16)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        settings = home / "settings"
        (settings / "@jupyterlab" / "apputils-extension").mkdir(parents=True)
        for name, values in SETTINGS.items():
            file = settings / "@jupyterlab" / "apputils-extension" / f"{name}.jupyterlab-settings"
            file.write_text(json.dumps(values))
        private = {
            "HOME": home,
            "IPYTHONDIR": home / "ipython",
            "JUPYTER_CONFIG_DIR": home / "config",
            "JUPYTER_DATA_DIR": home / "data",
            "JUPYTER_RUNTIME_DIR": home / "runtime",
            "JUPYTERLAB_SETTINGS_DIR": settings,
            "JUPYTERLAB_WORKSPACES_DIR": home / "workspaces",
            "JUPYTER_TOKEN": self.token,
            "MPLCONFIGDIR": matplotlib.get_cachedir(),  # its font cache: seconds to build anew
        }
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
        command += [f"--port={self.port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}"]
        command += ["--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"]
        self._log = (home / "server.log").open("w+")
        environment = {**os.environ, **{name: str(value) for name, value in private.items()}}
        self._process = subprocess.Popen(command, env=environment, stdout=self._log, stderr=self._log)
        self._until_up()

    def _until_up(self) -> None:
        end = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api", timeout=5).close()
                return
            except urllib.error.URLError as error:
                if self._process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"JupyterLab didn't start:\n{self.log()}") from error
                time.sleep(0.1)

    def log(self) -> str:
        """What the server has said."""
        self._log.flush()
        return (self.home / "server.log").read_text()

    def url(self, path: str) -> str:
        """The address of a page of the server, for its owner."""
        return f"http://127.0.0.1:{self.port}/{path}{'&' if '?' in path else '?'}token={self.token}"

    def ask(self, method: str, path: str) -> bytes:
        """What the server answers."""
        with urllib.request.urlopen(urllib.request.Request(self.url(path), method=method), timeout=30) as answer:
            return bytes(answer.read())

    def close(self) -> None:
        """End the server, which ends its kernels."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._log.close()


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)
        try:
            yield browser
        finally:
            browser.close()


class Traffic:
    """What came from the kernel over the notebook's WebSocket."""

    def __init__(self, page: Page) -> None:
        self.frames = self.bytes = 0
        page.on("websocket", self._watch)

    def _watch(self, socket: WebSocket) -> None:
        if "/channels" in socket.url:
            socket.on("framereceived", self._count)

    def _count(self, frame: bytes | str) -> None:
        self.frames += 1
        self.bytes += len(frame if isinstance(frame, bytes) else frame.encode())


class Notebook:
    """A notebook open in the page, its kernel running. Cells are counted from 0, all kinds.

    Args:
        cells: code; written to the file `name` first. None: the file is there.
    """

    def __init__(self, page: Page, lab: Lab, name: str, cells: Sequence[str] | None = None) -> None:
        self.page, self.lab, self.name = page, lab, name
        if cells is not None:
            book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
            book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
            nbformat.write(book, lab.folder / name)
        page.goto(lab.url(f"lab/tree/{name}?reset"))  # whatever was open before
        page.wait_for_function(
            f"() => window.jupyterapp && {CURRENT}?.sessionContext?.session?.kernel?.status === 'idle'"
        )

    def start_all(self) -> None:
        """Run all cells, without waiting."""
        self.page.evaluate("() => { window.allRan = window.jupyterapp.commands.execute('notebook:run-all-cells') }")

    def all_ran(self) -> bool:
        """Wait for the end of `start_all`; whether no cell failed."""
        return bool(self.page.evaluate("() => window.allRan"))

    def run_all(self) -> bool:
        """Run all cells and wait for their end; whether none failed."""
        self.start_all()
        return self.all_ran()

    def run(self, index: int) -> bool:
        """Run one cell as the Run button does and wait for its end; whether it didn't fail."""
        script = f"""index => {{
            const notebook = {CURRENT}.content;
            notebook.deselectAll();
            notebook.activeCellIndex = index;
            return window.jupyterapp.commands.execute('notebook:run-cell');
        }}"""
        return bool(self.page.evaluate(script, index))

    def find(self, line: str) -> int:
        """The index of the only code cell with this line."""
        script = f"""line => [...{CURRENT}.content.model.cells].flatMap((cell, index) =>
            cell.type === 'code' && cell.sharedModel.getSource().split('\\n').includes(line) ? [index] : [])"""
        (index,) = self.page.evaluate(script, line)
        return int(index)

    def outputs(self, index: int) -> list[dict[str, Any]]:
        """A cell's outputs as the file would hold them, on the screen or not."""
        found: list[dict[str, Any]] = self.page.evaluate(
            f"index => {CURRENT}.content.model.cells.get(index).outputs?.toJSON() ?? []", index
        )
        return found

    def errors(self) -> list[str]:
        """What the cells' error outputs say, and what they wrote to stderr."""
        count: int = self.page.evaluate(f"() => {CURRENT}.content.model.cells.length")
        return [
            "\n".join(output["traceback"]) if output["output_type"] == "error" else str(output["text"])
            for index in range(count)
            for output in self.outputs(index)
            if output["output_type"] == "error" or output.get("name") == "stderr"
        ]

    def cell(self, index: int) -> Locator:
        """A cell's output area, scrolled to: JupyterLab draws only what is near the screen."""
        self.page.evaluate(f"index => {CURRENT}.content.scrollToItem(index, 'smart')", index)
        area = self.page.locator(f'.jp-Cell[data-windowed-list-index="{index}"] .jp-Cell-outputWrapper')
        area.scroll_into_view_if_needed()
        return area

    def show_exported(self) -> None:
        """Save it, and show what File > Export > HTML makes of the file: without a kernel, without JupyterLab."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        self.page.goto(self.lab.url(f"nbconvert/html/{self.name}?download=false"))

    def shut_down(self) -> None:
        """End the kernel."""
        for session in json.loads(self.lab.ask("GET", "api/sessions")):
            if session["path"] == self.name:
                self.lab.ask("DELETE", f"api/sessions/{session['id']}")


def use_theme(page: Page, theme: Literal["Light", "Dark"]) -> None:
    """Change JupyterLab's theme, and wait until the page has it."""
    page.evaluate(
        "theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", f"JupyterLab {theme}"
    )
    page.wait_for_selector(f'body[data-jp-theme-name="JupyterLab {theme}"]', state="attached")
