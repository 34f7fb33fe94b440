"""`gridkit demo`: the main job, headless."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from gridkit import cli, demo


@pytest.mark.kernel
@pytest.mark.timeout(300)
def test_the_command_trains_prints_a_line_a_round_and_leaves_plot_and_notebook(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "gridkit", "demo", "--rounds", "3", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=280)
    assert done.returncode == 0, done.stderr
    rounds = re.findall(r"^ +(\d+) +(0\.\d{4}) +(\d\.\d{4}) +(\d+/\d+) +\d+\.\d{3}$", done.stdout, flags=re.M)
    assert [(number, accepted) for number, _, _, accepted in rounds] == [("1", "10/10"), ("2", "10/10"), ("3", "10/10")]
    assert float(rounds[-1][2]) < float(rounds[0][2])  # it learns
    assert re.search(r"^equal: ", done.stdout, flags=re.M)
    assert (out / "rounds.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / "rounds.svg").read_text()
    notebook = nbformat.read(out / "01_quickstart.ipynb", as_version=4)
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    assert (out / "pictures" / "federated.svg").is_file()
    assert "token" not in done.stdout and done.stderr == ""


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (["--rounds", "0"], "--rounds is 0"),
        (["--workers", "0"], "--workers is 0"),
        (["--clients", "0"], "--clients is 0"),
        (["--clients", "5000"], "--clients is 5000"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    option: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["demo", "--no-notebook", "--out", str(tmp_path), *option]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert says in lines[0] and lines[1].startswith("Try: ")


def test_every_image_goes_to_one_client_or_to_the_test_set() -> None:
    shards, (x_test, y_test) = demo.split_digits(10, seed=3)
    assert len(y_test) == 360 and x_test.shape == (360, 64)
    assert sorted(len(y) for _, y in shards) == [143] * 3 + [144] * 7
    assert all(x.dtype == "float32" and y.dtype == "int64" and 0 <= x.min() <= x.max() <= 1 for x, y in shards)
    seen = {x[i].tobytes() + bytes([y[i]]) for x, y in [*shards, (x_test, y_test)] for i in range(len(y))}
    assert len(seen) == 1797
