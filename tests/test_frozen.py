"""A class of `frozen` is the frozen dataclass with the same fields, seen from all sides that are used."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from gridkit.frozen import frozen


@frozen
class Ours:
    """What came."""

    worker: str
    key: str = dataclasses.field(repr=False)
    slot: int = 3
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    note: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Theirs:
    """What came."""

    worker: str
    key: str = dataclasses.field(repr=False)
    slot: int = 3
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    note: str | None = None


@frozen
class Other:
    worker: str


@frozen
class Another:
    worker: str


@frozen
class Words:
    text: str

    def __repr__(self) -> str:
        return self.text


GIVEN: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (("a", "k"), {}),
    (("a",), {"key": "k"}),
    ((), {"key": "k", "worker": "a", "note": None}),
    (("a", "k", 4, {"loss": 1.0}, "late"), {}),
    (("a", "k"), {"metrics": {"loss": 1.0}, "slot": 0}),
]
WRONG: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (("a",), {}),
    ((), {}),
    (("a", "k", 1, {}, None, 6), {}),
    (("a", "k"), {"worker": "b"}),
    (("a", "k"), {"size": 1}),
]


@pytest.mark.parametrize(("args", "named"), GIVEN)
def test_it_is_made_shown_taken_apart_and_changed_as_a_dataclass_is(args: Any, named: Any) -> None:
    ours, theirs = Ours(*args, **named), Theirs(*args, **named)
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours") and "k'" not in repr(ours)
    assert dataclasses.asdict(ours) == dataclasses.asdict(theirs)
    assert dataclasses.astuple(dataclasses.replace(ours, slot=9)) == dataclasses.astuple(
        dataclasses.replace(theirs, slot=9)
    )
    assert [f.name for f in dataclasses.fields(ours)] == [f.name for f in dataclasses.fields(theirs)]
    assert Ours.__match_args__ == Theirs.__match_args__ and Ours.__doc__ == Theirs.__doc__
    assert ours == Ours(*args, **named) and ours != dataclasses.replace(ours, slot=9) and ours != theirs


@pytest.mark.parametrize(("args", "named"), WRONG)
def test_what_a_dataclass_does_not_take_it_does_not_take(args: Any, named: Any) -> None:
    with pytest.raises(TypeError):
        Theirs(*args, **named)
    with pytest.raises(TypeError, match="Ours"):
        Ours(*args, **named)


def test_it_cannot_be_changed_and_holds_nothing_else() -> None:
    ours = Ours("a", "k")
    for name in ("worker", "unknown"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(ours, name, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        del ours.worker  # type: ignore[misc]
    assert not hasattr(ours, "__dict__") and ours.metrics is not Ours("a", "k").metrics


def test_equal_values_of_two_classes_differ() -> None:
    assert Other("a") != Another("a") and Other("a") == Other("a") and Other("a") != ("a",) and Other("a") != "a"
    assert len({Other("a"), Other("a"), Other("b"), Another("a")}) == 3
    assert hash(Other("a")) == hash(Other("a")) and {Other("a"): 1}[Other("a")] == 1
    with pytest.raises(TypeError):
        hash(Ours("a", "k"))  # a dict is among its values


def test_what_a_class_says_of_itself_stays() -> None:
    assert repr(Words("as it is")) == "as it is" and Words("a") == Words("a") != Words("b")


def test_copies_are_equal_and_patterns_match() -> None:
    ours = Ours("a", "k", metrics={"loss": 1.0})
    deep = copy.deepcopy(ours)
    assert copy.copy(ours) == deep == ours and deep.metrics is not ours.metrics
    match ours:
        case Ours("a", key=key, slot=3):
            assert key == "k"
        case _:
            raise AssertionError
