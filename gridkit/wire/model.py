"""GKM1, a model as bytes: its plan, and every entry of its state_dict. And what else a node may be given for a model.

Layout: the four bytes ``GKM1``, the plan's length (u32, little-endian), the plan (GKP1: inputs of role "param" and
"buffer" are named as in the state_dict, those of role "arg" are what the model takes; outputs have role "result"), then
a safetensors file with the state_dict, in its order. Entries that are one tensor (tied weights) are there each; the
metadata says ``{"tied:decoder.weight": "encoder.weight"}``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import BinaryIO, Literal

from gridkit.errors import WireError
from gridkit.wire.foreign import refuse_unsafe
from gridkit.wire.safetensors import Packed, TensorFile, pack_file
from gridkit.wire.tensors import Array

MAGIC = b"GKM1"
MAX_PLAN = 80 << 20
_TIED = "tied:"
_HINT = "send a traced plan with safetensors, as grid.serve_model does"


def pack_model(plan: bytes, state: Mapping[str, Array], tied: Mapping[str, str] | None = None) -> Packed:
    """A model's bytes.

    Args:
        plan: GKP1 bytes.
        state: every entry of the state_dict, in its order; its memory isn't copied.
        tied: of each entry that is the same tensor as an earlier one, that one's name.

    Raises:
        WireError: a dtype that can't be sent.
    """
    metadata = {_TIED + name: source for name, source in (tied or {}).items()}
    return pack_file(state, metadata, MAGIC + struct.pack("<I", len(plan)) + plan)


class ModelFile:
    """A model in a seekable file; tensors are read only when asked for.

    Attributes:
        plan: GKP1 bytes; see `gridkit.plans.form.decode`.
        tensors: the state_dict.
        tied: of each entry that is the same tensor as an earlier one, that one's name.

    Raises:
        WireError: not GKM1, cut short, or tensors that break a rule.
    """

    def __init__(self, file: BinaryIO) -> None:
        file.seek(0)
        head = file.read(8)
        if head[:4] != MAGIC:
            raise WireError("these bytes are no model: they don't begin with GKM1", _HINT)
        if len(head) < 8:
            raise WireError("the model is cut short")
        (length,) = struct.unpack_from("<I", head, 4)
        if length > MAX_PLAN:
            raise WireError(f"the model's plan says it has {length:,} bytes; at most {MAX_PLAN:,} are read")
        self.plan = file.read(length)
        if len(self.plan) < length:
            raise WireError("the model is cut short")
        self.tensors = TensorFile(file, 8 + length)
        self.tied = {k[len(_TIED) :]: v for k, v in self.tensors.metadata.items() if k.startswith(_TIED)}
        places = {spec.name: place for place, spec in enumerate(self.tensors.specs)}
        for name, source in self.tied.items():
            known = name in places and source in places and source not in self.tied
            if not known or places[source] >= places[name] or not self._alike(places[source], places[name]):
                raise WireError("an entry of the model is tied to one that it can't be the same as")

    def _alike(self, place: int, other: int) -> bool:
        one, two = self.tensors.specs[place], self.tensors.specs[other]
        return (one.dtype, one.shape) == (two.dtype, two.shape)


def model_kind(head: bytes) -> Literal["plan", "opaque"]:
    """What a node was given for a model, by its first bytes.

    Args:
        head: the first `gridkit.wire.foreign.HEAD` bytes, or all where there are fewer.

    Returns:
        "plan" for GKM1, which is to be checked by its structure; "opaque" for PySyft's own encoding, known by its
        envelope, which may be stored and given back and is never looked into: one byte for the compression, 40 and
        msgpack's array, or 41 and LZ4's magic, or 42 and that of zstd or zlib.

    Raises:
        WireError: `UNSAFE_FORMAT` for pickles and archives, `MALFORMED` for anything else.
    """
    if head.startswith(MAGIC):
        return "plan"
    if _is_envelope(head):
        return "opaque"
    refuse_unsafe(head, _HINT)
    raise WireError("the bytes are no model that a node knows", _HINT)


def _is_envelope(head: bytes) -> bool:
    if len(head) < 3:
        return False
    scheme, body = head[0], head[1:]
    if scheme == 40:
        return 0x90 <= body[0] <= 0x9F or body[0] in (0xDC, 0xDD)
    if scheme == 41:
        return body.startswith(b"\x04\x22\x4d\x18")
    zlib = body[0] & 0x0F == 8 and body[0] >> 4 <= 7 and int.from_bytes(body[:2], "big") % 31 == 0
    return scheme == 42 and (zlib or body.startswith(b"\x28\xb5\x2f\xfd"))
