"""Plans that were tampered with end in a PlanError, or run and do what was foretold: never anything else."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plans.fuzz import checked, corpus, mutated

ROOT = Path(__file__).resolve().parents[2]


@settings(max_examples=500)
@given(plan=st.integers(0, len(corpus()) - 1), seed=st.integers(0, 1 << 40), batch=st.integers(1, 9))
def test_changed_plans_raise_only_plan_error(plan: int, seed: int, batch: int) -> None:
    checked(mutated(corpus()[plan], random.Random(seed)), batch)


@settings(max_examples=300)
@given(data=st.data(), plan=st.integers(0, len(corpus()) - 1))
def test_changed_bytes_raise_only_plan_error(data: st.DataObject, plan: int) -> None:
    blob = bytearray(corpus()[plan])
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(blob))) if data.draw(st.booleans()) else len(blob)
    checked(bytes(blob[:cut]), 3)


def run_fuzz(seed: int, count: int, seconds: float) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.plans.fuzz", str(seed), str(count), str(seconds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 100)
    assert done.returncode == 0, f"exit {done.returncode}, seed {done.stderr[-3000:]}"
    counts: dict[str, int] = json.loads(done.stdout)
    return counts


def test_what_passes_runs_and_does_not_end_the_process() -> None:
    counts = run_fuzz(0, 2000, 30)
    assert counts["passed"] > 30 and counts["ran"] > 10


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(4))
def test_very_many_of_them(part: int) -> None:
    run_fuzz(1_000_000 * (part + 1), 1_000_000, 150)
