"""`import gridkit` against `import pandas`, in fresh interpreters, in pairs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.benchmarks.turns import Turns

pytestmark = pytest.mark.benchmark


def seconds_to_import(module: str) -> float:
    code = f"from time import perf_counter as now; t = now(); import {module}; print(now() - t)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def test_importing_gridkit_takes_at_most_a_quarter_of_importing_pandas() -> None:
    seconds_to_import("pandas")  # so that both are measured with their files in memory
    turns = Turns(least=5, most=20)
    for number in turns.rounds(lambda: turns.ratio("pandas", "gridkit") >= 4):
        for module in turns.order(number, "gridkit", "pandas"):
            turns.took(module, seconds_to_import(module))
    ours, theirs = turns.best("gridkit"), turns.best("pandas")
    print(f"\nimport gridkit {ours * 1000:.1f} ms, import pandas {theirs * 1000:.0f} ms: 1/{theirs / ours:.0f}")
    assert turns.ratio("pandas", "gridkit") >= 4
