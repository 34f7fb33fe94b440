"""The switch that CI relies on: with GRIDKIT_NO_SKIPS=1 no test can be passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py").read_text().replace('pytest_plugins = ["pytester"]', "")

CASES = """
import pytest

def test_holds():
    pass

@pytest.mark.skip(reason="not today")
def test_marked():
    pass

@pytest.mark.skipif(True, reason="not here")
def test_marked_if():
    pass

def test_in_the_middle():
    pytest.skip("no such machine")

@pytest.fixture
def thing():
    pytest.skip("no such thing")

def test_by_its_fixture(thing):
    pass

@pytest.mark.xfail(reason="known")
def test_expected_failure():
    assert False

@pytest.mark.xfail(reason="known")
def test_expected_failure_that_passes():
    pass
"""


def test_without_the_switch_skips_stay_skips(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRIDKIT_NO_SKIPS", raising=False)
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(CASES)
    pytester.runpytest_subprocess().assert_outcomes(passed=1, skipped=4, xfailed=1, xpassed=1)


def test_with_the_switch_every_one_fails(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDKIT_NO_SKIPS", "1")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(CASES)
    result = pytester.runpytest_subprocess()
    counts = result.parseoutcomes()
    assert counts.pop("passed") == 1
    assert counts == {"failed": 3, "errors": 3}  # what is skipped before its body runs is an error of its set-up
    result.stdout.fnmatch_lines(["*not today*", "*marked xfail (known)*"])


def test_with_the_switch_a_module_that_skips_itself_is_an_error(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRIDKIT_NO_SKIPS", "1")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile('import pytest\npytest.importorskip("no_such_module_anywhere")\n')
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    assert result.ret != 0
