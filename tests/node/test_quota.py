"""How much one account may keep: in number and in bytes, over models and datasets, until it deletes some."""

from __future__ import annotations

from pathlib import Path

from gridkit.client.paths import path_of
from tests.datasets import MOCK, X, publish
from tests.node.grid import refused, serve
from tests.support import NodeUnderTest, tiny_model


def test_one_account_keeps_so_many(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "data", "--limit", "kept=3")
    ada, bob = node.http(node.add_user("ada")), node.http(node.add_user("bob"))
    assert serve(ada, "m").status_code == 200
    assert publish(ada, "d", X).status_code == 201
    before = node.files()
    refused(publish(ada, "with a mock", X + 1, MOCK + 1), 429, "TOO_MANY")
    assert node.files() == before
    assert serve(ada, "m", tiny_model(2.0), new_version="True").status_code == 200
    before = node.files()
    said = refused(serve(ada, "n", tiny_model(3.0)), 429, "TOO_MANY")
    assert "ada has 3 models and datasets" in said["error"] and "kept" in said["hint"]
    refused(publish(ada, "e", X + 2), 429, "TOO_MANY")
    assert node.files() == before
    assert serve(bob, "n").status_code == 200  # others are others
    assert ada.delete(path_of("models", "m")).status_code == 200
    assert serve(ada, "n2").status_code == 200
    node.terminate()


def test_one_account_keeps_so_many_bytes(tmp_path: Path) -> None:
    size = len(tiny_model())
    node = NodeUnderTest(tmp_path / "data", "--open", "--limit", f"kept_bytes={2 * size}")
    with node.http(None) as anonymous, node.http() as owner:
        assert serve(anonymous, "a").status_code == 200
        assert serve(anonymous, "b").status_code == 200
        said = refused(serve(anonymous, "c"), 429, "TOO_MANY")
        assert said["error"].startswith("anonymous clients")
        refused(publish(anonymous, "d", X), 429, "TOO_MANY")
        assert serve(owner, "c").status_code == 200
    node.terminate()
