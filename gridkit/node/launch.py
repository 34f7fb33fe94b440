"""A node as a child process of a notebook or a script: started, watched, started again, ended."""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from gridkit.errors import GridkitError, UsageError

READY = "gridkit node ready at "
DEATHS = 5
"""a node that dies so often within its first seconds is not started again"""


class NodeProcess:
    """An embedded node: own process, random port, random token.

    Args:
        data: its folder; None takes a temporary one, which `close` deletes.
        host: the interface it listens on.
        certfile, keyfile: TLS certificate and key (PEM).
        allow_targets: what it may call by itself.

    When it dies it is started again on the same data, with the same port and token. It ends with the process that
    started it, in whatever way that ends.

    Raises:
        GridkitError: it didn't start; the message holds its last words.
    """

    def __init__(
        self,
        data: str | os.PathLike[str] | None = None,
        *,
        host: str = "127.0.0.1",
        allow_targets: Sequence[str] = (),
        certfile: str | os.PathLike[str] | None = None,
        keyfile: str | os.PathLike[str] | None = None,
    ) -> None:
        if isinstance(allow_targets, str):
            raise UsageError(f"allow_targets is a text, '{allow_targets}'", f"pass a list: [{allow_targets!r}]")
        self._temporary = data is None
        self.data = Path(tempfile.mkdtemp(prefix="gridkit-")) if data is None else Path(data)
        self.host = host
        self.certificate = None if certfile is None else str(Path(certfile).resolve())
        self._options = ["--temporary"] if self._temporary else []
        self._options += [part for target in allow_targets for part in ("--allow-target", target)]
        for option, file in (("--certfile", certfile), ("--keyfile", keyfile)):
            self._options += [] if file is None else [option, str(file)]
        self._port = 0
        self.token = secrets.token_urlsafe(32)
        if not self._temporary:
            with contextlib.suppress(FileNotFoundError):
                self.token = (self.data / "token").read_text().strip()
        self._closing = threading.Event()
        self._said: deque[str] = deque(maxlen=20)
        self._early_deaths = 0
        self._environment = {**os.environ, "GRIDKIT_TOKEN": self.token}
        try:
            self.url = self._start()
        except BaseException:
            self._remove_data()
            raise
        atexit.register(self.close)

    def __repr__(self) -> str:
        return f"NodeProcess({self.url!r}, pid={self.pid})"

    @property
    def pid(self) -> int:
        return self._child.pid

    def _start(self) -> str:
        command = [sys.executable, "-m", "gridkit", "node", "--host", self.host, "--port", str(self._port)]
        command += ["--data", str(self.data), "--with-parent", *self._options]
        self._started_at = time.monotonic()
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment,
            text=True,
            start_new_session=True,  # the notebook's interrupt is not the node's
        )
        ready: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, args=(self._child, ready), daemon=True).start()
        log = threading.Thread(target=self._read_log, args=(self._child,), daemon=True)
        log.start()
        try:
            url = ready.get(timeout=60)
        except queue.Empty:
            url = None
        if url is None:
            self._child.kill()
            self._child.wait()
            log.join(5)  # its last words may still be on their way
            said, hint = list(self._said), "look at the data folder and the port"
            if said and said[-1].startswith("Try: "):
                hint = said.pop().removeprefix("Try: ")
            words = " ".join(said).removeprefix("gridkit: ") or "nothing"
            raise GridkitError(f"the node didn't start; it said: {words}", hint)
        self._port = int(url.rpartition(":")[2])
        return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")  # all interfaces: this one too

    def _listen(self, child: subprocess.Popen[str], ready: queue.Queue[str | None]) -> None:
        assert child.stdout is not None
        started = False
        for line in child.stdout:
            if line.startswith(READY):
                started = True
                ready.put(line.removeprefix(READY).strip())
        ready.put(None)
        child.wait()
        if started and not self._closing.is_set():
            self._revive()

    def _read_log(self, child: subprocess.Popen[str]) -> None:
        assert child.stderr is not None
        for line in child.stderr:
            self._said.append(line.rstrip())

    def _revive(self) -> None:
        if time.monotonic() - self._started_at > 10:
            self._early_deaths = 0
        self._early_deaths += 1
        self._environment.pop("GRIDKIT_FAILPOINT", None)  # a failpoint is passed once, like a real accident
        pause = 0.0 if self._early_deaths == 1 else 0.2 * 2**self._early_deaths
        if self._early_deaths <= DEATHS and not self._closing.wait(pause):
            with contextlib.suppress(GridkitError):  # `log` has its words; calls to it say that nobody answers
                self._start()

    def log(self) -> list[str]:
        """The last lines that the node wrote to its log."""
        return list(self._said)

    def close(self) -> None:
        """End the node; a temporary data folder goes with it. Idempotent."""
        if self._closing.is_set():
            return
        self._closing.set()
        atexit.unregister(self.close)
        with contextlib.suppress(BrokenPipeError):
            self._child.terminate()
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        for stream in (self._child.stdin, self._child.stdout, self._child.stderr):
            if stream is not None:
                stream.close()
        self._remove_data()

    def _remove_data(self) -> None:
        if self._temporary:
            shutil.rmtree(self.data, ignore_errors=True)
