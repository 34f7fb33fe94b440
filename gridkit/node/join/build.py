"""Fetches the libraries of the page `/join` from npm: exact versions, checked, unmodified; their scripts aren't run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from gridkit.errors import GridkitError, UsageError
from gridkit.node.join import LICENSES, libraries


@dataclass(frozen=True, slots=True)
class Library:
    """A file of an npm package."""

    package: str
    version: str
    file: str
    sha256: str
    name: str
    """what the page calls it"""

    @property
    def archive(self) -> str:
        """What npm calls the package's archive."""
        return f"{self.package.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


FILES = (
    Library(
        "@openmined/syft.js",
        "0.1.4",
        "dist/index.js",  # dist/index.min.js can't read tensors
        "356f5242ac4b6ff4eaa5bd667945bd7e8aeaf5723571bee6835e42ebb2889ca2",
        "syft.js",
    ),
    Library(
        "@tensorflow/tfjs-core",
        "1.7.4",  # what syft.js asks for
        "dist/tf-core.min.js",
        "187bf7c8a39f699558ba29cb304ce1a70a0dcaddeed6566abb2c1ae519283253",
        "tf-core.min.js",
    ),
)


def build(folder: Path | None = None) -> Path:
    """Put the libraries and their licences into the folder that `/join` takes them from; that folder.

    A node that is running takes them from then on.

    Raises:
        UsageError: there is no npm, or the folder can't be written.
        GridkitError: npm failed, or gave another file than the known one; nothing was changed.
    """
    folder = folder or libraries()
    npm = shutil.which("npm")
    if npm is None:
        raise UsageError("npm isn't installed", "install Node.js (Debian: apt-get install npm), then run this again")
    with tempfile.TemporaryDirectory(prefix="gridkit-join-") as place:
        _fetch(npm, Path(place))
        found = {library: _read(Path(place) / library.archive, library) for library in FILES}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / LICENSES, "\n\n".join(notice for _, notice in found.values()).encode())
        for library, (data, _) in found.items():
            _write(folder / library.name, data)
    except OSError as error:
        raise UsageError(
            f"{folder} can't be written: {error.strerror}",
            "set GRIDKIT_JOIN to a folder of yours, here and where the node is started",
        ) from None
    return folder


def _fetch(npm: str, place: Path) -> None:
    packages = [f"{library.package}@{library.version}" for library in FILES]
    done = subprocess.run([npm, "pack", "--ignore-scripts", *packages], cwd=place, capture_output=True, text=True)
    missing = [library.archive for library in FILES if not (place / library.archive).is_file()]
    if done.returncode or missing:
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"no {', '.join(missing)}"]
        raise GridkitError(
            f"npm didn't fetch the page's libraries: {said[-1][:300]}", "`npm ping` tells whether it can"
        )


def _read(archive: Path, library: Library) -> tuple[bytes, str]:
    """The file and a notice with its licence. Nothing is unpacked to the disk."""
    with tarfile.open(archive) as members:

        def content(name: str) -> bytes:
            member = members.extractfile(f"package/{name}")
            assert member is not None
            return member.read()

        data = content(library.file)
        if hashlib.sha256(data).hexdigest() != library.sha256:
            raise GridkitError(
                f"{library.file} of {library.package} {library.version} isn't the known file",
                "ask your registry's keeper: a version doesn't change",
            )
        about = json.loads(content("package.json"))
        notice = f"{library.name}: {library.file} of {library.package} {library.version}, {about['license']}\n"
        if "package/LICENSE" in members.getnames():
            notice += "\n" + content("LICENSE").decode()
        else:
            notice += "Its licence's notice is at the top of the file.\n"
    return data, notice


def _write(path: Path, data: bytes) -> None:
    draft = path.with_name(path.name + ".new")
    draft.write_bytes(data)
    os.replace(draft, path)
