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
from tests.fresh import copy_of_the_tracked_files, environment, tracked_files

ROOT = Path(__file__).resolve().parents[1]


NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


def serves_the_notebooks(python: Path, cwd: Path) -> bool:
    """Whether `gridkit lab` there, the real JupyterLab without a browser, comes up with all of them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    home = cwd / "home"
    private = {"HOME": str(home), "JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTER_TOKEN": "of-this-test"}
    command = [python, "-m", "gridkit", "lab", "--", *options]
    with (cwd / "log").open("w+") as log:
        server = subprocess.Popen(command, cwd=cwd, stdout=log, stderr=log, env={**os.environ, **private})
        try:
            url = f"http://127.0.0.1:{port}/api/contents/?token=of-this-test"
            while True:
                try:
                    with urllib.request.urlopen(url) as answer:
                        served = {entry["name"] for entry in json.load(answer)["content"]}
                    return {*NOTEBOOKS, "pictures"} <= served
                except urllib.error.URLError as error:  # not there yet, unless it has ended or refuses
                    log.seek(0)
                    assert server.poll() is None and not isinstance(error, urllib.error.HTTPError), log.read()
                    time.sleep(0.1)
        finally:
            server.terminate()
            server.wait(30)


def test_it_opens_the_notebooks_of_the_checkout(tmp_path: Path) -> None:
    assert NOTEBOOKS[0] == lab.FIRST
    assert serves_the_notebooks(Path(sys.executable), tmp_path)
    assert not (tmp_path / "gridkit-notebooks").exists()


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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    copy_of_the_tracked_files(source)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (built,) = folder.glob("gridkit-*.whl")
    return built


def test_from_a_wheel_it_installs_nothing_and_opens_copies(wheel: Path, tmp_path: Path) -> None:
    commands = environment(tmp_path / "env")
    subprocess.run([commands / "pip", "install", "-q", "--no-deps", wheel], check=True, capture_output=True)
    before = {path for path in (tmp_path / "env").rglob("*") if path.suffix != ".pyc" and path.name != "__pycache__"}
    assert serves_the_notebooks(commands / "python", tmp_path)
    after = {path for path in (tmp_path / "env").rglob("*") if path.suffix != ".pyc" and path.name != "__pycache__"}
    assert after == before
    assert sorted(path.name for path in (tmp_path / "gridkit-notebooks").glob("*.ipynb")) == NOTEBOOKS


def test_the_wheel_holds_notebooks_types_and_command(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    data = "gridkit-0.1.0.data/data/share/gridkit/notebooks/"
    assert {f"{data}{name}" for name in NOTEBOOKS} <= set(names)
    assert {f"{data}pictures/federated.svg", "gridkit/py.typed"} <= set(names)
    assert {name for name in tracked_files() if name.startswith("gridkit/") and name.endswith(".py")} <= set(names)
    assert not [name for name in names if name.startswith("tests/")]
    metadata = zipfile.ZipFile(wheel).read("gridkit-0.1.0.dist-info/METADATA").decode()
    assert "Requires-Python: >=3.11" in metadata and "License-File: LICENSE" in metadata
