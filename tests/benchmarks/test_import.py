"""`import gridkit` against `import pandas`, in fresh interpreters, in pairs."""

from __future__ import annotations

import statistics
import subprocess
import sys

import pytest

pytestmark = pytest.mark.benchmark


def seconds_to_import(module: str) -> float:
    code = f"from time import perf_counter as now; t = now(); import {module}; print(now() - t)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def test_importing_gridkit_takes_at_most_a_quarter_of_importing_pandas() -> None:
    seconds_to_import("pandas")  # so that both are measured with their files in memory
    pairs = [(seconds_to_import("gridkit"), seconds_to_import("pandas")) for _ in range(5)]
    ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"\nimport gridkit {ours * 1000:.1f} ms, import pandas {theirs * 1000:.0f} ms: 1/{theirs / ours:.0f}")
    assert ours <= theirs / 4
