"""No program tells of a private tensor's values: two sessions that differ in nothing else say the same, to the bit."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gridkit.errors import GridkitError, PrivacyError
from gridkit.runner.tensors.arguments import tensors_in
from gridkit.runner.tensors.functions import FUNCTIONS
from gridkit.runner.tensors.passes import NodeFired
from gridkit.runner.tensors.session import TensorSession
from gridkit.runner.tensors.telling import Event, Teller, fired_form, state_form
from gridkit.runner.tensors.variables import Told
from gridkit.wire.rpc.values import Body
from tests.runner.tensors_cases import calls_of
from tests.runner.tensors_peer import form, ref


def shown(session: TensorSession, name: str) -> Told:
    """What a mirror is told of a variable, where there is one."""
    session.tensor(name)
    return session._variables.told([name])


class Watched:
    """A session, and all that it says, in bytes."""

    def __init__(self, secrets: dict[str, np.ndarray[Any, Any]]) -> None:
        self.session = TensorSession(64 << 20, 60.0, 10_000, preview=64)
        self.teller, self.spoiled = Teller(), 0
        self.said: list[Any] = []
        for name, values in secrets.items():
            self.tell(lambda n=name, v=values: self.session.create(n, v, v.dtype.kind == "f", private=True))

    def tell(self, do: Callable[[], Any]) -> bool:
        """Do this, and keep what it says; whether it went well."""
        try:
            outcome = do()
        except GridkitError as error:
            self.said.append((type(error).__name__, error.message, error.hint))
            if isinstance(error, PrivacyError) and "because of the values" in error.message:
                self.spoiled = self.spoiled or len(self.said)
            return False
        bodies: list[Body] = []
        events: list[Event] = self.teller.events(outcome, bodies) if hasattr(outcome, "variables") else [outcome]
        text = re.sub(r"'sequence': \d+", "", repr(events))  # torch counts all that a thread does
        self.said.append((text, [bytes(body) for body in bodies]))
        return True


def same_saying(one: Watched, other: Watched) -> None:
    """What both said; once something failed because of values, which only one of them may say, no further."""
    pairs = list(zip(one.said, other.said, strict=False))
    if one.spoiled != other.spoiled:
        pairs = pairs[: min(one.spoiled, other.spoiled, key=lambda place: place or len(pairs)) - 1]
    assert next((pair for pair in pairs if pair[0] != pair[1]), None) is None
    assert one.spoiled != other.spoiled or len(one.said) == len(other.said)


SECRET_A = np.array([[0.5, -1.5, 2.0], [3.0, 0.25, -0.75], [1.0, 1.25, -2.5]], np.float32)
SECRET_B = np.array([[-7.0, 9.5, 0.0], [0.0, 0.0, 31.0], [4.0, -4.0, 6.25]], np.float32)
ONE = [
    *("exp", "neg", "abs", "relu", "clone", "detach", "t", "sum", "argmax", "sort", "median", "nonzero", "unique"),
    *("cumsum", "bool", "long", "softmax", "data", "std", "var", "inverse", "isnan", "bernoulli", "poisson", "any"),
]
TWO = ["add", "mul", "matmul", "maximum", "where", "gt", "eq", "index", "masked_select", "div", "type_as", "expand_as"]
IN_PLACE = ["add_", "mul_", "copy_", "zero_", "neg_", "masked_fill_", "set item", "random_", "normal_"]
PASSES = [
    "backward",
    "grad",
    "retain",
    "step",
    "name grad",
    "set grad",
    "append grad",
    "state",
    "delete",
    "read",
    "rand",
]
NAMES = {"index": "torch.Tensor.__getitem__", "set item": "torch.Tensor.__setitem__", "inverse": "torch.linalg.inv"}
place = st.integers(0, 31)
steps = st.lists(
    st.tuples(st.sampled_from([*ONE, *TWO, *IN_PLACE, *PASSES, *PASSES]), place, place, st.booleans()),
    min_size=1,
    max_size=12,
)


class Program(Watched):
    """Does steps on the tensors that there are by then."""

    def __init__(self, secret: np.ndarray[Any, Any]) -> None:
        super().__init__({"p": secret, "i": np.argsort(secret, 1)})
        self.names = ["p", "x", "w", "i"]
        self.tell(lambda: self.session.create("x", np.eye(3, dtype=np.float32), requires_grad=True))
        self.tell(lambda: self.session.create("w", np.arange(9, dtype=np.float32).reshape(3, 3)))
        self.tell(lambda: self.session.call("torch.Tensor.mul", [ref("x"), ref("w")], {}, ["y"]))
        self.tell(lambda: self.session.call("torch.Tensor.mul", [ref("x"), ref("p")], {}, ["z"]))
        self.names += ["y", "z"]
        self.session.create_optimizer("o", "Adam", [{"params": ["x"]}], {"lr": 0.1})

    def new(self, do: Callable[[list[str]], Any], count: int = 1) -> None:
        names = [f"t{len(self.said)}.{number}" for number in range(count)]
        if self.tell(lambda: do(names)):
            self.names += [name for name in names if self.session._variables.has(name)]

    def do(self, step: tuple[str, int, int, bool]) -> None:
        kind, a, b, flag = step
        one, other = self.names[a % len(self.names)], self.names[b % len(self.names)]
        session = self.session
        if kind in ONE:
            full = "torch.Tensor.data.__get__" if kind == "data" else NAMES.get(kind, f"torch.Tensor.{kind}")
            args: list[Any] = [ref(one), *([0] if kind in ("cumsum", "softmax", "sort", "median") else [])]
            count = 2 if kind in ("sort", "median") else 1
            self.new(lambda names: session.call(full, args, {}, names, grad_enabled=flag), count)
        elif kind in TWO:
            full = NAMES.get(kind, f"torch.Tensor.{kind}")
            args = [ref(one), ref(other)]
            args = [{"__variable__": True, "variable_id": one}, ref(other), ref(other)] if kind == "where" else args
            full = "torch.where" if kind == "where" else full
            self.new(lambda names: session.call(full, args, {}, names, grad_enabled=flag))
        elif kind in IN_PLACE:
            more = {"masked_fill_": [ref(other), 1.0], "set item": [ref(other), 0.0], "zero_": [], "neg_": []}
            more |= {"random_": [], "normal_": []}
            args = [ref(one), *more.get(kind, [ref(other)])]
            out = [] if kind == "set item" else [one]
            full = NAMES.get(kind, f"torch.Tensor.{kind}")
            self.tell(lambda: session.call(full, args, {}, out, grad_enabled=flag))
        elif kind in ("backward", "grad"):
            emit = lambda event: self.said.append(  # noqa: E731
                repr(fired_form(event, "1")) if isinstance(event, NodeFired) else repr(event)
            )
            self.new(lambda names: session.call("torch.sum", [ref(one)], {}, names))
            root = self.names[-1]
            if kind == "backward":
                self.tell(lambda: session.backward([root], retain_graph=flag, emit=emit))
            else:
                self.new(lambda names: session.grad([root], [other], names, retain_graph=flag, allow_unused=True))
        else:
            act: dict[str, Callable[[], Any]] = {
                "retain": lambda: session.update(one, "retains_grad", True),
                "step": lambda: session.step("o"),
                "set grad": lambda: session.update(one, "grad", ref(other)),
                "append grad": lambda: session.append_grad(one, other),
                "state": lambda: state_form(session.state("o"), []),
                "delete": lambda: session.delete([one]),
                "read": lambda: session.read(one).tobytes(),
            }
            if kind == "name grad":
                self.new(lambda names: session.name_grad(one, names[0]))
            elif kind == "rand":
                self.new(lambda names: session.call("torch.rand", [2], {}, names))
            else:
                self.tell(act[kind])
                if kind == "delete" and len(self.names) > 2:
                    self.names = [name for name in self.names if session._variables.has(name)] or ["x"]

    def look(self) -> None:
        """All that can be asked for, before and after a step."""
        for _ in range(2):
            for name in tuple(self.names):
                self.new(lambda names, n=name: self.session.name_grad(n, names[0]))
            for name in self.names:
                self.tell(lambda n=name: shown(self.session, n))
                self.tell(lambda n=name: self.session.read(n).tobytes())
            self.tell(lambda: self.session.step("o"))
            self.tell(lambda: state_form(self.session.state("o"), []))
        self.tell(lambda: (self.session.held, len(self.session)))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps)
def test_programs(program: list[tuple[str, int, int, bool]]) -> None:
    both = [Program(SECRET_A), Program(SECRET_B)]
    for each in both:
        torch.default_generator.manual_seed(1)
        each.session.seed(1)
        for step in program:
            each.do(step)
        each.look()
    same_saying(*both)


def changed(tensor: torch.Tensor) -> torch.Tensor:
    """Other values, of the same kind."""
    if tensor.dtype == torch.bool:
        return ~tensor
    other = tensor.detach().flatten().flip(0)
    other = other * 0.5 if other.is_floating_point() else other
    other[:1] = 0
    return other.reshape(tensor.shape)


class OneCall(Watched):
    """Runs a function of which some arguments are private, and then asks for all that can be asked for."""

    def __init__(self, name: str, args: list[Any], kwargs: dict[str, Any], private: int, other: bool) -> None:
        super().__init__({})
        tensors = list({id(tensor): tensor for tensor in tensors_in([args, kwargs])}.values())
        names: dict[int, str] = {}
        for number, tensor in enumerate(tensors):
            hidden = number < private
            values = (changed(tensor) if hidden and other else tensor.detach()).numpy().copy()
            leaf = tensor.requires_grad
            self.session.create(f"leaf{number}", values, leaf, private=hidden)
            names[id(tensor)] = f"leaf{number}"
            if leaf:  # functions in place refuse leaves
                names[id(tensor)] = f"arg{number}"
                self.session.call("torch.clone", [ref(f"leaf{number}")], {}, [f"arg{number}"])
        forms = form(args, lambda tensor: names[id(tensor)])
        named = {key: form(value, lambda tensor: names[id(tensor)]) for key, value in kwargs.items()}
        given = [arg.clone() if isinstance(arg, torch.Tensor) else arg for arg in args]
        count = len(tensors_in(FUNCTIONS[name](*given, **kwargs)))
        self.session.seed(1)
        outs = [f"out{number}" for number in range(count)]
        self.tell(lambda: self.session.call(name, forms, named, outs))
        held = [*names.values(), *(out for out in outs if self.session._variables.has(out))]
        for each in held:
            if self.session._variables.find(each).requires_grad:
                self.tell(lambda e=each: self.session.call("torch.sum", [ref(e)], {}, [f"sum.{e}"]))
                self.tell(lambda e=each: self.session.backward([f"sum.{e}"], retain_graph=True, emit=self.keep))
        for number in range(len(tensors)):
            self.tell(lambda n=number: self.session.name_grad(f"leaf{n}", f"grad{n}"))
            held += [f"leaf{number}", f"grad{number}"]
        for each in held:
            self.tell(lambda e=each: shown(self.session, e))
            self.tell(lambda e=each: self.session.read(e).tobytes())
        self.tell(lambda: self.session.call("torch.rand", [3], {}, ["drawn"]))

    def keep(self, event: Any) -> None:
        self.said.append(repr(event))


SPACES = sorted({name.removesuffix(".__get__").rpartition(".")[0] for name in FUNCTIONS})


def check_functions(names: list[str]) -> None:
    tells = {}
    for name in names:
        for args, kwargs in calls_of(name)[:2]:
            count = len({id(tensor) for tensor in tensors_in([args, kwargs])})
            for private in {1, count} - {0}:
                one, other = (OneCall(name, args, kwargs, private, other) for other in (False, True))
                try:
                    same_saying(one, other)
                except AssertionError as error:
                    tells[name, private] = str(error)[:2000]
    assert tells == {}


@pytest.mark.filterwarnings("ignore")
def test_functions() -> None:
    """Some, and those of which it is known that they need care."""
    care = ("batch_norm", "rrelu", "poisson", "multinomial", "bernoulli", "one_hot", "nonzero", "unique", "__setitem__")
    check_functions(sorted({*list(FUNCTIONS)[::40], *(name for name in FUNCTIONS if name.endswith(care))}))


@pytest.mark.soak
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.filterwarnings("ignore")
def test_all_functions(space: str) -> None:
    check_functions([name for name in FUNCTIONS if name.removesuffix(".__get__").rpartition(".")[0] == space])
