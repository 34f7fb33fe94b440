"""Whole processes: a piece of code in a fresh interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

from tests.cached import ROOT


def run_script(code: str, **env: str) -> str:
    """Run `code` in a fresh interpreter; what it printed. An unclosed loop or socket, and any other warning, fails."""
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout
