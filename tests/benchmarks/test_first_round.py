"""How soon the first round of a training stands, against Flower's simulation of the same task in the same minutes.

Flower gets a virtual environment of its own, made on first use. Run it on a machine that does nothing else:
``pytest -m soak -s tests/benchmarks/test_first_round.py``.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import venv
from collections.abc import Iterator
from compileall import compile_dir
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PEERS = Path(__file__).with_name("peers")
ENVIRONMENT = ROOT / ".cache" / "flower"
PACKAGES = ("torch==2.13.0", "numpy==2.4.6", "scikit-learn==1.9.1"), ("flwr[simulation]==1.41.0",)
REPEATS = 3

pytestmark = [pytest.mark.benchmark, pytest.mark.soak, pytest.mark.timeout(1500)]


@pytest.fixture(scope="session")
def flower_python() -> Path:
    """The interpreter of Flower's environment. torch goes first, pinned, so that nothing else chooses its build."""
    python = ENVIRONMENT / "bin" / "python"
    done = ENVIRONMENT / "installed"
    wanted = json.dumps(PACKAGES)
    if not done.exists() or done.read_text() != wanted:
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        for packages in PACKAGES:
            subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
        done.write_text(wanted)
    return python


def measure(python: str | Path, script: str, *arguments: str) -> dict[str, Any]:
    """The figures that a peer prints; every process computes with one thread."""
    command = [str(python), script, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=PEERS, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


@pytest.fixture(scope="module")
def medians(flower_python: Path) -> Iterator[dict[str, dict[str, float]]]:
    """Peer -> figure -> median, the peers taking turns. pip compiles what it installs, Flower too, but a checkout is
    only compiled when it is imported, and where Python may write: so ours is, before it is measured."""
    assert compile_dir(ROOT / "gridkit", quiet=2)
    measured: dict[str, list[dict[str, Any]]] = {}
    for _ in range(REPEATS):
        for figures in (
            measure(sys.executable, "gridkit_digits.py", "simulate"),
            measure(sys.executable, "gridkit_digits.py", "train"),
            measure(flower_python, "flower_digits.py"),
        ):
            measured.setdefault(figures.pop("peer"), []).append(figures)
    table = {
        peer: {name: statistics.median(figures[name] for figures in all_figures) for name in all_figures[0]}
        for peer, all_figures in measured.items()
    }
    flower = table["flower"]
    print(f"\n{'':10}{'first round':>14}{'warm round':>14}{'cold':>10}{'accuracy':>10}{'first round sooner':>20}")
    for peer, row in table.items():
        first, warm = f"{row['first_round_s'] * 1000:.1f} ms", f"{row['warm_round_s'] * 1000:.1f} ms"
        ratio = f"{flower['first_round_s'] / row['first_round_s']:.0f} x"
        print(f"{peer:10}{first:>14}{warm:>14}{row['cold_s']:>8.1f} s{row['accuracy']:>10.4f}{ratio:>20}")
    yield table


def test_all_do_the_same_work(medians: dict[str, dict[str, float]]) -> None:
    """Twenty rounds on the same shares from the same weights; only the order of the batches differs."""
    accuracies = [row["accuracy"] for row in medians.values()]
    assert min(accuracies) >= 0.93 and max(accuracies) - min(accuracies) <= 0.02


def test_simulate_has_its_first_round_100_times_sooner(medians: dict[str, dict[str, float]]) -> None:
    assert medians["flower"]["first_round_s"] >= 100 * medians["simulate"]["first_round_s"]


def test_train_has_its_first_round_10_times_sooner(medians: dict[str, dict[str, float]]) -> None:
    assert medians["flower"]["first_round_s"] >= 10 * medians["train"]["first_round_s"]
