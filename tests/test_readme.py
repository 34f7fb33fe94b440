"""What the README says holds: its code runs, its commands and files exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gridkit import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.S | re.M)


def test_ten_lines_train(tmp_path: Path) -> None:
    code = blocks("python")[0]
    assert len([line for line in code.splitlines() if line]) == 10
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert done.returncode == 0, done.stderr
    losses = [float(line.split()[1]) for line in done.stdout.splitlines() if re.match(r"\d+ ", line)]
    assert len(losses) == 10 and losses[-1] < losses[0] / 2
    assert done.stderr == ""


def test_the_example_of_models_and_data_runs(tmp_path: Path) -> None:
    code = blocks("python")[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\['patients'\] tensor\(\[.*\]\) True\n", done.stdout)
    assert done.stderr == ""


def test_the_other_examples_run(tmp_path: Path) -> None:
    _, _, *codes = blocks("python")
    code = "".join([*codes, "print(len(rounds.metrics), len(run.metrics))"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert done.returncode == 0, done.stderr
    assert re.search(r"0 +1 +\S.* accepted +\d\.\d+\n", done.stdout)
    assert re.search(r"test_accuracy +test_accuracy_plain\n(.*\n)*.* north +TRAINING_FINISHED +1 +200\n", done.stdout)
    assert re.search(r"tensor\(0\.\d+\)\n(.*\n)*.* -> AddmmBackward0 .*\n", done.stdout)
    assert "1 call of accuracy by the node; " in done.stdout
    assert done.stdout.endswith("\n2 2\n")
    assert done.stderr == ""


def test_each_of_the_two_commands_is_one_line_that_installs_all_it_needs() -> None:
    commands = [block for block in blocks("sh") if block.startswith("python3 -m venv")]
    assert [command.count("\n") for command in commands] == [1, 1]
    demo, tests = commands
    assert "-c constraints.txt" in demo and demo.strip().endswith("gridkit demo")
    assert "-c constraints.txt" in tests and tests.strip().endswith("pytest")
    assert all(README.index(command) < README.index("\n## ") for command in commands)


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`(?:\.venv/bin/)?gridkit (\w+)", README))))
def test_the_commands_it_names_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    offered = capsys.readouterr().out
    for text in re.findall(rf"`(?:\.venv/bin/)?gridkit {command}([^`]*)`", README):
        assert all(option in offered for option in re.findall(r"--[\w-]+", text))


def test_the_files_and_folders_it_names_exist() -> None:
    linked = re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r'src="([^":]+)"', README)
    assert linked and [name for name in linked if not (ROOT / name).exists()] == []
    layout = README.split("## Layout\n\n```\n")[1].split("```")[0]
    for line in layout.splitlines():
        inside = "gridkit" if line.startswith("  ") else "."
        for name in re.match(r"\s*((?:[\w.]+/?(?:, )?)+)", line)[1].split(", "):  # type: ignore[index]
            assert (ROOT / inside / name).exists(), name
