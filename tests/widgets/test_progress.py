"""The bar of a transfer: late, seldom, in place, and silent outside of a notebook."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gridkit import cells
from gridkit.widgets import progress
from gridkit.widgets.progress import Progress


class Pub:
    def __init__(self) -> None:
        self.said: list[tuple[str, str, str, bool]] = []

    def publish(self, bundle: dict[str, str], *, transient: dict[str, str], update: bool) -> None:
        self.said.append((transient["display_id"], bundle["text/plain"], bundle["text/html"], update))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(at=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.at))
    return now


@pytest.fixture
def pub(monkeypatch: pytest.MonkeyPatch) -> Pub:
    pub = Pub()
    monkeypatch.setattr(cells, "shell", lambda: SimpleNamespace(kernel=object(), display_pub=pub))
    return pub


def test_a_short_transfer_shows_nothing(clock: Any, pub: Pub) -> None:
    bar = Progress("digits, up")
    bar(1, 2)
    clock.at += progress.AFTER - 0.01
    bar(2, 2)
    assert pub.said == []


def test_a_long_one_is_drawn_seldom_in_one_place_and_ends_as_a_line(clock: Any, pub: Pub) -> None:
    bar = Progress("digits, up")
    for place in range(100):
        clock.at += 0.0625
        bar((place + 1) * 1_000_000, 100_000_000)
    names, texts, htmls, updates = zip(*pub.said, strict=True)
    assert len(set(names)) == 1 and updates == (False, *[True] * (len(pub.said) - 1))
    assert 20 <= len(pub.said) <= 33
    assert texts[0].startswith("digits, up: 8 MB of 100 MB") and texts[-1] == "digits, up: 100 MB in 6.2 s"
    assert 'max="100000000"' in htmls[0] and "<progress" not in htmls[-1]


def test_w11_names_are_inert(clock: Any, pub: Pub) -> None:
    bar = Progress("<img src=x onerror=alert(1)>\x1b[31m\n")
    clock.at += 1
    bar(1, 2)
    _, text, html, _ = pub.said[0]
    assert "<img" not in html and "\x1b" not in text and "\n" not in text


def test_a_script_stays_quiet(clock: Any, capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress("digits, up")
    clock.at += 1
    bar(1, 2)
    assert capsys.readouterr() == ("", "")
