"""Slugs of titles, as clients make them. Against the real library: tests/interop/test_afnio.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridkit.node.slugs import slug_of

KNOWN = {
    "Acceptance Test": "acceptance-test",
    "Übung 1: Größe & Form": "ubung-1-grosse-form",
    "it's": "it-s",
    "it’s": "its",
    "1,000 steps": "1000-steps",
    "a_b--c": "a-b-c",
    "naïve café": "naive-cafe",
    "u\u0308": "u",
    "İstanbul Łódź Œuvre Þór": "istanbul-lodz-oeuvre-thor",
    "  «x» – y…": "x-y",
}


@pytest.mark.parametrize("title", KNOWN)
def test_titles_that_are_known(title: str) -> None:
    assert slug_of(title) == KNOWN[title]


@pytest.mark.parametrize("title", ["数据", "Ωmega", "a ½", "AT&amp;T", "x&#381;y", "3 × 4", "?!", "'", "", "a\u200bb"])
def test_titles_of_which_a_client_would_make_what_no_node_knows(title: str) -> None:
    with pytest.raises(ValueError, match="a title that becomes a path has letters"):
        slug_of(title)


@given(st.text())
def test_a_slug_is_one_segment_of_a_path_and_its_own_slug(title: str) -> None:
    try:
        slug = slug_of(title)
    except ValueError:
        return
    assert slug and set(slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") and slug.strip("-") == slug
    assert slug_of(slug) == slug
