"""HTML is made and escaped in one place."""

from __future__ import annotations

import ast
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridkit.widgets.html import Html, card, details, joined, table, tag
from tests.test_structure import PACKAGE, ROOT, SOURCES

EVIL = """<img src=x onerror="document.body.dataset.xss=1">'&"""


class Reader(HTMLParser):
    """What a browser makes of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


# A carriage return is a line break to every reader of HTML.
foreign = st.text(st.characters(exclude_characters="\r\0", exclude_categories=["Cs"]))


@given(foreign)
def test_any_text_is_that_text_and_nothing_else(text: str) -> None:
    read = Reader(tag("b", text, title=text))
    assert (read.tags, read.text, read.attributes) == (["b"], text, [("title", text)])


@pytest.mark.parametrize(
    "made",
    [
        joined([EVIL, tag("i", "x")]),
        table([EVIL, "b"], [[EVIL, 1]], caption=EVIL),
        card(EVIL, {EVIL: EVIL}, tag("p", EVIL)),
        details(EVIL, EVIL),
    ],
)
def test_foreign_text_is_inert_in_every_part(made: Html) -> None:
    read = Reader(made)
    assert "img" not in read.tags and EVIL in read.text
    assert {name for name, _ in read.attributes} <= {"class", "scope", "style"}


def test_names_of_attributes_and_what_is_left_out() -> None:
    made = tag("svg", None, class_="a", aria_label="b", viewBox="0 0 1 1", hidden=None, open=False)
    assert made == '<svg class="a" aria-label="b" viewBox="0 0 1 1"></svg>'
    assert tag("br") == "<br>" and joined([None, "a"]) == "a"


def test_rows_beyond_the_limit_are_counted() -> None:
    read = Reader(table(["n"], [[at] for at in range(25)], limit=20))
    assert read.tags.count("tr") == 1 + 20 + 1 and "and 5 more" in read.text


def test_nobody_else_writes_a_tag_by_hand() -> None:
    """In strings that aren't docstrings: a tag, or text made `Html` without being escaped."""
    by_hand = re.compile(
        r"</?(?:[abip]|br|div|span|t[dhr]|table|tbody|svg|img|strong|pre|code|style|script|details)\b[^<>]*>?"
    )
    wrong = []
    for path in SOURCES:
        if path == PACKAGE / "widgets" / "html.py":
            continue
        tree = ast.parse(path.read_text())
        statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) and id(node) not in statements else None
            if isinstance(text, str) and by_hand.search(text):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {text[:60]!r}")
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Html":
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} makes Html of text")
    assert wrong == []
