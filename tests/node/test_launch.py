"""An embedded node that can't start says why in its own words, in the cell of `gk.launch`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gridkit.errors import GridkitError, UsageError
from gridkit.node.launch import NodeProcess


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"certfile": "chain.pem"}, "TLS needs both a certificate and a key", "--keyfile"),
        ({"host": "192.0.2.1"}, "can't listen on 192.0.2.1", "--port"),  # of TEST-NET-1: nobody's
    ],
    ids=["half a certificate", "somebody else's address"],
)
def test_what_the_node_said_and_advised_are_the_two_lines(
    tmp_path: Path, options: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(GridkitError) as caught:
        NodeProcess(tmp_path / "data", **options)
    first, advice = str(caught.value).splitlines()
    assert first.startswith("the node didn't start; it said: ") and message in first and "gridkit:" not in first
    assert advice.startswith("Try: ") and hint in advice and "Try:" not in first


def test_one_target_as_a_text_is_no_list_of_its_letters(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="allow_targets is a text") as caught:
        NodeProcess(tmp_path / "data", allow_targets="127.0.0.1")
    assert "['127.0.0.1']" in str(caught.value) and not (tmp_path / "data").exists()
