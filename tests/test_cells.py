"""What a cell made before, and where an error came from. In real kernels: tests/kernel/test_habits_in_kernels.py."""

from __future__ import annotations

from gridkit import cells


class Thing:
    closed = 0

    def close(self) -> None:
        self.closed += 1


def test_outside_of_a_notebook_nothing_is_closed() -> None:
    thing = Thing()
    cells.remember(thing)
    cells.renew()
    assert thing.closed == 0 and cells.shell() is None


def test_line_of_names_the_innermost_line_of_the_user() -> None:
    import json

    def user() -> None:
        json.loads("{")  # raises inside the standard library

    try:
        user()
    except ValueError as error:
        line = user.__code__.co_firstlineno + 1
        assert cells.line_of(error) == f"test_cells.py, line {line}"
    assert cells.line_of(ValueError("never raised")) is None
