"""Drives one real Jupyter kernel as a front-end does: sends cells, interrupts, and sorts what is printed by cell."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from tests.cached import ROOT, package_folder


@dataclass
class Cell:
    """What came of one cell."""

    text: str = ""  # stdout and stderr, in order of arrival
    result: str | None = None
    shown: dict[str, list[str]] = field(default_factory=dict)  # what was displayed under each name, and updates of it
    error: str | None = None  # the exception's name
    traceback: str = ""
    reply: str | None = None  # "ok" | "error" | "aborted"
    idle: bool = False


@dataclass
class Kernel:
    """A running kernel: its ipykernel is the installed one, or that of `major` from .cache.

    Args:
        major: 7 (the installed one) or 6.
        env: more environment variables.
    """

    major: int
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        folders = [str(package_folder("ipykernel<7", "ipykernel6"))] if self.major == 6 else []
        path = os.pathsep.join([*folders, str(ROOT)])
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(ROOT), env={**os.environ, "PYTHONPATH": path, **self.env})
        self.client: BlockingKernelClient = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)
        self.cells: dict[str, Cell] = {}
        version = self.run("import ipykernel; print(ipykernel.__version__)").text
        assert version.startswith(f"{self.major}."), f"asked for ipykernel {self.major}, got {version}"

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def send(self, code: str) -> str:
        """Queue a cell; its id."""
        name: str = self.client.execute(code, store_history=True, stop_on_error=False)
        self.cells[name] = Cell()
        return name

    def finish(self, names: Iterable[str], seconds: float = 30) -> list[Cell]:
        """Wait until these cells are replied to and idle."""
        wanted = [self.cells[name] for name in names]
        self._read(lambda: all(cell.reply is not None and cell.idle for cell in wanted), seconds)
        return wanted

    def run(self, code: str, seconds: float = 30) -> Cell:
        """Send one cell and wait for its end; it must not fail."""
        (cell,) = self.finish([self.send(code)], seconds)
        assert cell.reply == "ok", cell.traceback
        return cell

    def until_printed(self, name: str, text: str, seconds: float = 30) -> None:
        """Wait until the cell has printed `text`."""
        self._read(lambda: text in self.cells[name].text, seconds)

    def interrupt(self) -> None:
        """What the front-end's stop button does."""
        self.manager.interrupt_kernel()

    def _read(self, done: Any, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                raise TimeoutError(f"the kernel is stuck; cells so far: {list(self.cells.values())}")
            for receive in (self.client.get_iopub_msg, self.client.get_shell_msg):
                try:
                    while True:
                        self._note(receive(timeout=0.01))
                except queue.Empty:
                    continue

    def _note(self, message: dict[str, Any]) -> None:
        cell = self.cells.get(message["parent_header"].get("msg_id", ""))
        content = message["content"]
        if cell is None:
            return
        match message["msg_type"]:
            case "stream":
                cell.text += content["text"]
            case "execute_result":
                cell.result = content["data"]["text/plain"]
            case "display_data" | "update_display_data":
                name = content["transient"].get("display_id", "")
                cell.shown.setdefault(name, []).append(content["data"].get("text/plain", ""))
            case "error":
                cell.error, cell.traceback = content["ename"], "\n".join(content["traceback"])
            case "execute_reply":
                cell.reply = content["status"]
            case "status":
                cell.idle = cell.idle or content["execution_state"] == "idle"
