"""A session among nodes: who its node is, and which others it knows."""

from __future__ import annotations

import pytest

import gridkit as gk
from gridkit.errors import AccessError, UsageError


def test_two_launched_nodes_get_to_know_each_other_where_it_is_allowed() -> None:
    with gk.launch(workers=0, allow_targets=["127.0.0.1"]) as a, gk.launch(workers=0) as b:
        assert a.identity != b.identity
        for other in (b, b.url):
            answer = a.connect_nodes(other)
            assert answer == {"status": "Succesfully connected.", "id": b.identity, "address": b.url}
        assert a.peers == {b.identity: b.url} and b.peers == {}
        with pytest.raises(AccessError, match="this node itself"):
            a.connect_nodes(a)
        with pytest.raises(AccessError, match="may not call") as caught:
            b.connect_nodes(a)
        assert "--allow-target" in str(caught.value)
        with pytest.raises(UsageError, match="has no address"):
            a.connect_nodes(5)
