"""Formats that may hold code, known by how they begin. They are refused by name and never looked into."""

from __future__ import annotations

import re

from gridkit.errors import ErrorCode, WireError

HEAD = 512
"""bytes that tell a format"""

_ARCHIVES = (
    b"PK\x03\x04",  # zip, and with it torch's archives and .npz
    b"PK\x05\x06",
    b"\x93NUMPY",
    b"\x1f\x8b",  # gzip
    b"BZh",
    b"\xfd7zXZ",
    b"7z\xbc\xaf",
    b"Rar!",
    b"\x89HDF",
)
# Pickles of protocols 0 and 1 have no mark of their own: ``cposix\nsystem\n…``, ``(lp0\n…``, ``]q\x00…``
_OLD_PICKLE = re.compile(rb"[(\]})]*c[\w.]+\n[\w.]+\n|[(\]})]+[ldt]?p\d+\n|[(\]})]+[ldt]?q|\(?i[\w.]+\n[\w.]+\n", re.S)


def refuse_unsafe(head: bytes, hint: str) -> None:
    """Raise if bytes begin like a pickle or an archive.

    Args:
        head: the first `HEAD` bytes, or all where there are fewer.
        hint: what to send in its place.

    Raises:
        WireError: `UNSAFE_FORMAT`.
    """
    pickled = len(head) > 1 and head[0] == 0x80 and head[1] <= 5
    tar = head[257:262] == b"ustar"
    if pickled or tar or head.startswith(_ARCHIVES) or _OLD_PICKLE.match(head):
        raise WireError("the bytes are a pickle or an archive, which may hold code", hint, code=ErrorCode.UNSAFE_FORMAT)
