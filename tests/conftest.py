"""What every test shares.

``GRIDKIT_NO_SKIPS=1`` (set by ``.ci/run``) turns everything that would pass over a test (skip, importorskip,
xfail, also an expected failure that passed) into a failure: a check that didn't run must not look like one that held.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Other programs share the machine: how long an example takes says nothing of the test
settings.register_profile("gridkit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gridkit")

NO_SKIPS = os.environ.get("GRIDKIT_NO_SKIPS") == "1"

pytest_plugins = ["pytester"]


def _forbid_skip(report: pytest.CollectReport | pytest.TestReport) -> None:
    expected_failure = getattr(report, "wasxfail", None)
    if report.outcome != "skipped" and expected_failure is None:
        return
    if expected_failure is not None:
        del report.wasxfail
        why = f"marked xfail ({expected_failure or 'no reason'})"
    else:
        why = f"skipped: {report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr}"
    report.outcome = "failed"
    report.longrepr = f"{report.nodeid} {why}; GRIDKIT_NO_SKIPS=1 allows neither"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, Any, pytest.TestReport]:
    report: pytest.TestReport = yield
    if NO_SKIPS:
        _forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, Any, pytest.CollectReport]:
    report: pytest.CollectReport = yield
    if NO_SKIPS:
        _forbid_skip(report)
    return report
