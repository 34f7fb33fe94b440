"""Numbers, moments and foreign text as people read them."""

from __future__ import annotations

import doctest
import time

import pytest

from gridkit.widgets import words


def test_the_examples_hold() -> None:
    assert doctest.testmod(words).failed == 0


def test_moments_are_read_on_the_readers_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    for zone, shown in (("UTC", "2026-01-02 03:04"), ("Asia/Tokyo", "2026-01-02 12:04")):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert words.clock(1767323047) == shown[11:] + ":07"
        assert words.moment(1767323040.0) == shown
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("seconds", [1e300, float("inf"), float("nan"), -1e20])
def test_a_moment_that_no_calendar_has_is_shown_as_it_is(seconds: float) -> None:
    assert words.moment(seconds) == words.clock(seconds) == str(seconds)
    assert words.moment(None) == "never"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("digits", "digits"),
        ("a\nb\tc", r"a\nb\tc"),
        ("safe\u202egnp.exe", r"safe\u202egnp.exe"),  # reads as "safeexe.png"
        ("\u2066x\u2069", r"\u2066x\u2069"),
        ("a\u2028b", r"a\u2028b"),
        ("\ud800", r"\ud800"),
        ("שלום 中文 👩‍🔬", "שלום 中文 👩‍🔬"),  # what people write stays
    ],
)
def test_foreign_text_neither_breaks_nor_turns_a_line(text: str, shown: str) -> None:
    assert words.plain(text) == shown
    words.plain(text).encode()  # a lone surrogate couldn't be sent


def test_foreign_text_is_cut() -> None:
    assert words.plain("x" * 10_000, 10) == "xxxxxxxxx…"
    assert words.plain("x" * 10, 10) == "x" * 10


@pytest.mark.parametrize("text", ["", "abc", "中文字", "e\u0301te\u0301", "a very long name of a model"])
def test_fitted_text_has_its_columns(text: str) -> None:
    assert words.width(words.fitted(text, 6)) == 6
