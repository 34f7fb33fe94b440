"""A pickle as symbols: what it would make, without making it.

Its opcodes are read one by one (`pickletools.genops`) and moved on a stack of our own, where a class or a function is
a name and a call is a note that it would be called. Nothing is imported, looked up or run. Only those opcodes are known
that torch's two writers use (protocol 2); a call is refused unless its function is on a list.

Source: the comments of Python's ``pickletools``.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Container
from typing import Any

from gridkit.errors import ErrorCode, WireError

MAX_BYTES = 8 << 20
MAX_OPCODES = 600_000
MAX_MEMO = 300_000

_GLOBAL = re.compile(r"[\w.]{1,200} [\w.]{1,200}", re.ASCII)
_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Global(str):
    """A class or a function, by its name: ``torch.nn.modules.linear.Linear``."""

    __slots__ = ()


class Made:
    """What a class, a function or a display would make.

    Attributes:
        by: the class or function; "dict", "list", or "persistent" (an object outside of the pickle, as `arguments[0]`
            says).
        arguments: what it would be called with.
        items: a list's elements; for anything else the pairs (key, value) that would be set, in order.
        state: what the object's attributes would be set from.
    """

    __slots__ = ("arguments", "by", "items", "state")

    def __init__(self, by: str, arguments: tuple[Any, ...] = ()) -> None:
        self.by = by
        self.arguments = arguments
        self.items: list[Any] = []
        self.state: Any = None


def read_symbols(data: bytes, calls: Container[str]) -> tuple[Any, set[str]]:
    """The object that a pickle describes, and the classes that it has instances of.

    Args:
        data: the pickle, whole.
        calls: the functions that may be called, ``module.name``.

    Raises:
        WireError: `UNSAFE_FORMAT` where it would call another function; `MALFORMED` for what isn't a pickle of protocol
            2, has opcodes that torch doesn't write, or is beyond a limit.

    >>> read_symbols(b"\\x80\\x02ctorch\\nfloat32\\n.", ())
    ('torch.float32', set())
    """
    if len(data) > MAX_BYTES:
        raise WireError(f"the archive's pickle has {len(data):,} bytes; at most {MAX_BYTES:,} are read")
    if data[:2] != b"\x80\x02":
        raise WireError("the archive's pickle isn't of protocol 2", "save it with torch.save's own pickle_protocol")
    machine = _Machine(calls)
    end = -1
    try:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
            if count > MAX_OPCODES:
                raise WireError(f"the archive's pickle has more than {MAX_OPCODES:,} opcodes")
            machine.step(opcode.name, argument)
            end = position or 0
    except WireError:
        raise
    except (ValueError, IndexError, KeyError):
        raise WireError("the archive's pickle can't be read") from None
    if end + 1 != len(data) or len(machine.stack) != 1 or machine.marked:
        raise WireError("the archive's pickle has something behind its end, or left over")
    return machine.stack[0], machine.classes


class _Machine:
    """The stack and the memo. Raises IndexError or KeyError where the pickle takes what isn't there."""

    def __init__(self, calls: Container[str]) -> None:
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.classes: set[str] = set()
        self._memo: dict[int, Any] = {}
        self._calls = calls

    def step(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        if opcode in ("BINPUT", "LONG_BINPUT"):
            if len(self._memo) >= MAX_MEMO:
                raise WireError(f"the archive's pickle remembers more than {MAX_MEMO:,} objects")
            self._memo[argument] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif opcode in _VALUES:
            stack.append(argument)
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode in _TUPLES:
            items = [stack.pop() for _ in range(_TUPLES[opcode])]
            stack.append(tuple(items[::-1]))
        elif opcode == "MARK":
            self.marked.append(stack)
            self.stack = []
        elif opcode == "TUPLE":
            items = self._since_mark()
            self.stack.append(tuple(items))
        elif opcode in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append(Made("dict" if opcode == "EMPTY_DICT" else "list"))
        elif opcode in ("SETITEM", "SETITEMS"):
            items = self._since_mark() if opcode == "SETITEMS" else [stack.pop(-2), stack.pop()]
            _made(self.stack[-1], listed=False).items += zip(items[::2], items[1::2], strict=True)
        elif opcode in ("APPEND", "APPENDS"):
            items = self._since_mark() if opcode == "APPENDS" else [stack.pop()]
            _made(self.stack[-1], listed=True).items += items
        elif opcode == "GLOBAL":
            if not _GLOBAL.fullmatch(argument):
                raise WireError("the archive's pickle names a class in a way that can't be read")
            stack.append(Global(argument.replace(" ", ".")))
        elif opcode in ("REDUCE", "NEWOBJ"):
            arguments, called = stack.pop(), stack.pop()
            stack.append(self._called(opcode, called, arguments))
        elif opcode == "BUILD":
            state, made = stack.pop(), _made(stack[-1], listed=False)
            if made.state is not None:
                raise WireError("an object in the archive's pickle gets its state twice")
            made.state = state
        elif opcode == "BINPERSID":
            stack.append(Made("persistent", (stack.pop(),)))
        elif opcode not in ("PROTO", "STOP"):
            raise WireError(f"the archive's pickle has the opcode {opcode}, which torch doesn't write")

    def _since_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marked.pop()
        return items

    def _called(self, opcode: str, called: Any, arguments: Any) -> Made:
        if not isinstance(called, Global) or not isinstance(arguments, tuple):
            raise WireError("the archive's pickle calls something that isn't a function", code=ErrorCode.UNSAFE_FORMAT)
        if opcode == "NEWOBJ" and not arguments:  # with arguments, a class's __new__ could be made to do something
            self.classes.add(str(called))
        elif opcode == "NEWOBJ" or called not in self._calls:
            raise WireError(
                f"the archive would call {called} when it is unpickled",
                "save model.state_dict()",
                code=ErrorCode.UNSAFE_FORMAT,
            )
        return Made(called, arguments)


def _made(target: Any, *, listed: bool) -> Made:
    if not isinstance(target, Made) or (target.by == "list") != listed:
        raise WireError("the archive's pickle puts something into what can't hold it")
    return target
