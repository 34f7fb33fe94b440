"""Pickles as symbols: only a few opcodes are known, and none of them does anything."""

from __future__ import annotations

import collections
import pickle
import pickletools

import pytest

from gridkit.errors import ErrorCode, WireError
from gridkit.wire import symbols
from gridkit.wire.symbols import Global, Made, read_symbols

P = b"\x80\x02"


class Thing:
    def __init__(self) -> None:
        self.a = 1


def read(data: bytes, *calls: str) -> object:
    return read_symbols(data, calls)[0]


def test_values_are_what_they_are() -> None:
    values = (None, True, False, 0, 300, -5, 1 << 40, 2.5, "ä", (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))
    assert read(pickle.dumps(values, 2)) == values


def test_objects_are_notes_of_what_would_be_made() -> None:
    ordered = collections.OrderedDict(x=1, y=[7, 8])
    made = read(pickle.dumps(ordered, 2), "collections.OrderedDict")
    assert isinstance(made, Made) and made.by == "collections.OrderedDict" and made.arguments == ()
    assert made.items[0] == ("x", 1) and made.items[1][1].items == [7, 8]
    thing, classes = read_symbols(pickle.dumps(Thing(), 2), ())
    assert classes == {thing.by} == {f"{__name__}.Thing"} and thing.state.items == [("a", 1)]
    assert isinstance(read(pickle.dumps(Thing, 2)), Global)


def test_remembered_objects_are_the_same() -> None:
    shared: list[int] = []
    loop: list[object] = [shared, shared]
    loop.append(loop)
    made = read(pickle.dumps(loop, 2))
    assert isinstance(made, Made) and made.items[0] is made.items[1] and made.items[2] is made


REFUSED = {
    "another protocol": b"\x80\x03N.",
    "no protocol": b"N.",
    "empty": b"",
    "not ended": P + b"N",
    "something behind": P + b"N.N.",
    "two results": P + b"NN.",
    "an open mark": P + b"(N.",
    "no mark": P + b"Nt.",
    "nothing to take": P + b"\x85.",
    "nothing remembered": P + b"h\x01.",
    "nothing to remember": P + b"q\x01.",
    "into a number": P + b"K\x01K\x02K\x03s.",
    "onto a number": P + b"K\x01K\x02a.",
    "a list's items set": P + b"]K\x02K\x03s.",
    "a dict's elements": P + b"}K\x02a.",
    "a state for a list": P + b"]}b.",
    "half a pair": P + b"}(K\x01u.",
    "two states": P + b"}}b}b.",
    "a string of protocol 0": P + b"S'a'\n.",
    "a number as text": P + b"I" + b"9" * 5000 + b"\n.",
    "an extension": P + b"\x82\x01.",
    "an instance of protocol 0": P + b"(iposix\nsystem\n.",
    "a stack global": P + b"X\x05\0\0\0posixX\x06\0\0\0system\x93.",
    "a text longer than the rest": P + b"X\xff\xff\xff\x7fabc.",
    "a class of two words": P + b"cposix more\nsystem\n.",
    "a class with a line's other end": P + "cposix\u2028\nsystem\n.".encode(),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_torch_does_not_write_is_refused(case: str) -> None:
    with pytest.raises(WireError):
        read(REFUSED[case], "posix.system")


CALLS = {
    "a function": P + b"cposix\nsystem\nX\x01\0\0\0a\x85R.",
    "a class with arguments": P + b"csubprocess\nPopen\nX\x01\0\0\0a\x85\x81.",
    "a text": P + b"X\x0b\0\0\0torch.Sized)R.",
    "with a list": P + b"ctorch\nSize\n]R.",
}


@pytest.mark.parametrize("case", CALLS)
def test_s1_calls_are_refused(case: str) -> None:
    with pytest.raises(WireError) as error:
        read(CALLS[case], "torch.Size")
    assert error.value.code == ErrorCode.UNSAFE_FORMAT


def test_every_opcode_is_known_or_refused() -> None:
    for opcode in pickletools.opcodes:
        body = P + b"]" * 3 + opcode.code.encode("latin-1") + b"\x01\n\0\0\0\0\0\0\n"
        with pytest.raises(WireError):
            read(body)


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WireError, match="opcodes"):
        read(P + b"N" * symbols.MAX_OPCODES + b".")
    monkeypatch.setattr(symbols, "MAX_OPCODES", 1000)
    with pytest.raises(WireError, match="more than 1,000 opcodes"):
        read(P + b"](" + b"N" * 1000 + b"e.")
    monkeypatch.setattr(symbols, "MAX_MEMO", 2)
    with pytest.raises(WireError, match="more than 2 objects"):
        read(P + b"]q\x01q\x02q\x03.")
    monkeypatch.setattr(symbols, "MAX_BYTES", 10)
    with pytest.raises(WireError, match="at most 10"):
        read(P + b"N" * 20)


def test_deep_nesting_needs_no_deep_stack() -> None:
    depth = 100_000
    assert isinstance(read(P + b"]" * depth + b"a" * (depth - 1) + b"."), Made)
    assert isinstance(read(P + b")" + b"\x85" * depth + b"."), tuple)
    with pytest.raises(WireError):
        read(P + b"(" * depth + b".")
