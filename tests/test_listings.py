"""Lists of ids that show what is known of each."""

from __future__ import annotations

import pandas as pd
import pytest

from gridkit.errors import UsageError
from gridkit.listings import Tokens, Users

MARKUP = '<img src=x onerror="document.body.dataset.xss=1">'
ROWS = [
    {"name": "ada", "role": "data scientist", "password": True, "created_at": 1_700_000_000.0},
    {"name": MARKUP, "role": "worker", "password": False, "created_at": 1_700_000_001.0},
]


def test_a_listing_is_a_list_of_ids_that_knows_more_of_each() -> None:
    users = Users(ROWS, "http://node")
    assert users == ["ada", MARKUP] and list(users) == ["ada", MARKUP] and len(users) == 2
    assert users[0] == "ada" and users[-1:] == [MARKUP] and "ada" in users and "bob" not in users
    assert users["ada"] == ROWS[0]
    assert users._ipython_key_completions_() == ["ada", MARKUP]
    assert repr(users) == repr(["ada", MARKUP])
    with pytest.raises(UsageError, match="lists no user 'bob'"):
        users["bob"]


def test_what_is_known_cannot_be_changed_through_a_listing() -> None:
    users = Users(ROWS, "http://node")
    users["ada"]["role"] = "owner"
    assert users["ada"]["role"] == "data scientist"


def test_a_listing_as_a_table_has_times_and_obeys_nobody() -> None:
    users = Users(ROWS, "http://node")
    frame = users.to_frame()
    assert list(frame["name"]) == ["ada", MARKUP] and str(frame["created_at"].dt.tz) == "UTC"
    odd = Users([{"name": "a", "created_at": 1.1}, {"name": "b", "created_at": 1e300}, {"name": "c"}], "").to_frame()
    assert odd["created_at"].iloc[0] == pd.Timestamp("1970-01-01T00:00:01.100Z") and odd["created_at"].isna().sum() == 2
    html = users._repr_html_()
    assert "2 users on http://node" in html and "<img" not in html and "2023-11-14" in html and "yes" in html


def test_an_empty_listing_is_shown_and_has_its_columns() -> None:
    tokens = Tokens([], "http://node")
    assert tokens == [] and "0 tokens" in tokens._repr_html_()
    assert list(tokens.to_frame().columns) == ["id", "user", "kind", "label", "scopes", "created_at", "expires_at"]


def test_many_ids_are_counted_in_the_repr() -> None:
    listing = Tokens([{"id": f"t{n}"} for n in range(1030)], "http://node")
    assert repr(listing).endswith("'t19', and 1,010 more]") and "and 1010 more" in listing._repr_html_()
