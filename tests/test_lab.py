"""`gridkit lab`: JupyterLab on the notebooks, from a checkout and from a wheel."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest

from gridkit import cli, lab
from gridkit.errors import UsageError
from tests.tracked import copy_of_the_tracked_files


def test_it_opens_the_notebooks_of_the_checkout(tmp_path: Path) -> None:
    """The real JupyterLab, without a browser: the notebook stands in its folder."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    private = {"HOME": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "JUPYTER_TOKEN": "of-this-test"}
    command = [sys.executable, "-m", "gridkit", "lab", "--", *options]
    with (tmp_path / "log").open("w+") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **private})
        try:
            url = f"http://127.0.0.1:{port}/api/contents/{lab.FIRST}?content=0&token=of-this-test"
            while True:
                try:
                    with urllib.request.urlopen(url) as answer:
                        assert json.load(answer)["type"] == "notebook"
                    break
                except urllib.error.URLError as error:  # not there yet, unless it has ended or refuses
                    log.seek(0)
                    assert server.poll() is None and not isinstance(error, urllib.error.HTTPError), log.read()
                    time.sleep(0.1)
        finally:
            server.terminate()
            server.wait(30)


def test_from_a_wheel_they_are_copied_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "share"
    (installed / "pictures").mkdir(parents=True)
    (installed / lab.FIRST).write_text("{}")
    (installed / "pictures" / "one.svg").write_text("<svg/>")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / lab.FIRST).write_text("my own edits")
    monkeypatch.setattr(lab, "notebooks", lambda: installed)
    started: list[str] = []

    def instead_of_this_process(program: str, arguments: list[str]) -> None:
        started.extend(arguments)
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", instead_of_this_process)
    with pytest.raises(SystemExit):
        cli.main(["lab", "--folder", str(mine), "--", "--no-browser"])
    assert started[1:] == ["-m", "jupyterlab", str(mine / lab.FIRST), "--no-browser"]
    assert (mine / lab.FIRST).read_text() == "my own edits"
    assert (mine / "pictures" / "one.svg").is_file()


def test_without_jupyterlab_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "jupyterlab" else real(name, *more)
    )
    assert cli.main(["lab"]) == 1
    error = capsys.readouterr().err
    assert "jupyterlab isn't installed" in error and 'Try: pip install "gridkit[lab]"' in error


def test_an_installation_without_notebooks_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "FIRST", "no_such.ipynb")
    with pytest.raises(UsageError, match="has no notebooks"):
        lab.notebooks()


def test_the_wheel_holds_notebooks_types_and_command(tmp_path: Path) -> None:
    source = tmp_path / "source"
    copy_of_the_tracked_files(source)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("gridkit-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    data = "gridkit-0.1.0.data/data/share/gridkit/notebooks/"
    assert {f"{data}{lab.FIRST}", f"{data}pictures/federated.svg", "gridkit/py.typed"} <= set(names)
    assert {path.relative_to(source).as_posix() for path in (source / "gridkit").rglob("*.py")} <= set(names)
    assert not [name for name in names if name.startswith("tests/")]
    metadata = zipfile.ZipFile(wheel).read("gridkit-0.1.0.dist-info/METADATA").decode()
    assert "Requires-Python: >=3.11" in metadata and "License-File: LICENSE" in metadata
