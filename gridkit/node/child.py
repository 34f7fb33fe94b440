"""One process that computes, as the node sees it: started, spoken with, ended. No torch here."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Sequence
from typing import IO, BinaryIO, cast

from gridkit.errors import WireError
from gridkit.node.settings import MIB, Limits
from gridkit.wire.frames import HEAD, Header, header_of, lengths, pack_frame

START_SECONDS = 120.0
"""torch may come from a cold and slow disk"""
_SECRETS = ("GRIDKIT_TOKEN", "GRIDKIT_FAILPOINT")


class Lost(Exception):
    """The process ended, or said what makes no sense; the text says how."""


class Child:
    """A running ``python -m gridkit.runner``, or a module of it; `start` makes one."""

    def __init__(
        self,
        limits: Limits,
        process: asyncio.subprocess.Process,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        files: socket.socket,
        log: IO[bytes],
    ) -> None:
        self._limits = limits
        self._process = process
        self._reader, self._writer = streams
        self._files = files
        self._log = log
        self.pid = process.pid

    @classmethod
    async def start(cls, limits: Limits, module: str = "gridkit.runner", *numbers: float) -> Child:
        """A process that has torch loaded and its limits set.

        Args:
            numbers: what the module is told behind its two sockets; none: what `gridkit.runner` is.

        Raises:
            Lost: it ended before that.
            TimeoutError: it takes longer than `START_SECONDS`.
        """
        channel, theirs = socket.socketpair()
        files, their_files = socket.socketpair()
        files.setblocking(False)
        log = cast(IO[bytes], tempfile.TemporaryFile())  # noqa: SIM115  lives as long as the child
        numbers = numbers or (limits.run_memory, limits.run_results, max(limits.run_inputs, limits.plan))
        with theirs, their_files:
            descriptors = (theirs.fileno(), their_files.fileno())
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                *map(str, (*descriptors, *numbers)),
                stdin=asyncio.subprocess.PIPE,  # never written to: when the node ends, it closes, and so the child ends
                stdout=log,
                stderr=log,
                env={name: value for name, value in os.environ.items() if name not in _SECRETS}
                | {"OMP_NUM_THREADS": "1"},
                pass_fds=descriptors,
                start_new_session=True,
            )
        child = cls(limits, process, await asyncio.open_connection(sock=channel, limit=MIB), files, log)
        try:
            async with asyncio.timeout(START_SECONDS):
                await child.hear()
        except BaseException:
            await child.end()
            raise
        return child

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._process.returncode is not None

    async def say(self, header: Header, parts: Sequence[bytes]) -> None:
        """Send a frame.

        Raises:
            Lost: nobody is there.
        """
        try:
            self._writer.write(pack_frame(header, parts))
            await self._writer.drain()
        except ConnectionError as error:
            raise Lost(f"it hung up: {error}") from None

    def note(self, header: Header) -> None:
        """Send a frame without a body, whoever else is sending; when nobody is there, `hear` says so."""
        self._writer.write(pack_frame(header))

    async def hear(self) -> tuple[Header, bytes]:
        """The next frame.

        Raises:
            Lost: nobody is there, or it breaks a rule.
        """
        try:
            # a group's results come in frames that are sent when they have a MiB; the last one may be a whole result
            header, body = lengths(await self._reader.readexactly(HEAD.size), self._limits.run_results + 2 * MIB)
            return header_of(await self._reader.readexactly(header)), await self._reader.readexactly(body)
        except (asyncio.IncompleteReadError, ConnectionError):
            raise Lost("it ended") from None
        except WireError as error:
            raise Lost(error.message) from None

    def hand(self, file: IO[bytes] | None) -> None:
        """Give it a file of the operating system's to read, or say that there is none.

        Raises:
            Lost: nobody is there.
        """
        try:
            if file is None:
                self._files.send(b"-")
            else:
                socket.send_fds(self._files, [b"+"], [file.fileno()])
        except (ConnectionError, BlockingIOError) as error:
            raise Lost(f"it hung up: {error}") from None

    async def end(self) -> None:
        """Kill it, and write its last words to the log when it had any."""
        if self._process.returncode is None:
            self._process.kill()
        code = await self._process.wait()
        words = await asyncio.to_thread(self._words)
        if words:
            logging.getLogger("gridkit.node").warning("a runner ended (%s); it said: %s", code, words)
        self._writer.close()
        self._files.close()
        self._log.close()

    def _words(self) -> str:
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 2000))
        return self._log.read().decode(errors="replace").strip()


def own_file(file: BinaryIO) -> IO[bytes]:
    """The same bytes in a file of the operating system's, to be closed by the caller; blocks where they are copied."""
    try:
        return os.fdopen(os.dup(file.fileno()), "rb")
    except OSError:  # in memory, or on another machine
        copy: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  the caller closes it
        file.seek(0)
        shutil.copyfileobj(file, copy, MIB)
        copy.flush()
        return copy
