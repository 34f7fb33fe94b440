"""How an id stands in a path."""

from __future__ import annotations

from urllib.parse import quote


def path_of(route: str, id: str) -> str:
    """The path of an object: its id is one piece of it, whatever stands in it; "." and ".." would be taken for folders.

    >>> path_of("models", "a/b"), path_of("models", "..")
    ('/models/a%2Fb', '/models/%2E%2E')
    """
    quoted = quote(id, safe="")
    return f"/{route}/{quoted.replace('.', '%2E') if quoted.strip('.') == '' else quoted}"
