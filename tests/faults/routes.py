"""The routes of a node, so that a test of all of them has those that are added later."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from tests.node.test_w12_matrix import all_routes, spelling

BYTES = {"/run-inference/", "/run-plan/", "/uploads/", "/model-centric/speed-test"}
"""how routes begin whose bodies are bytes"""
FORMS = {"/model-centric/host-training", "/push/api/models/"}
"""routes that take nothing but a multipart form"""
NO_BODY = {"/push/api/models/{id}/", "/push/api/models/{id}/metrics/", "/push/api/trainings/{id}/start/"}
"""routes that take none for an object that isn't there, or never"""


def routes_of(folder: Path, *methods: str) -> list[tuple[str, str]]:
    """(method, path) of each route with one of these methods, in its first spelling."""
    each: dict[tuple[str, str], str] = {}
    for method, path, _ in all_routes(folder):
        if method in methods:
            each.setdefault((method, spelling(path)), path)
    return [(method, path) for (method, _), path in each.items()]


def place_of(path: str, id: str = "nothing") -> str:
    """A path with an id in it."""
    before, brace, rest = path.partition("{")
    return before + (quote(id, safe="") + rest.partition("}")[2] if brace else "")


def json_routes(folder: Path) -> list[tuple[str, str]]:
    """Those that take a JSON object."""
    taken = routes_of(folder, "POST", "PUT")
    other = FORMS | NO_BODY
    return [(method, path) for method, path in taken if path not in other and not path.startswith(tuple(BYTES))]
