"""What a person sees of an error."""

from __future__ import annotations

from gridkit import errors


def test_two_lines_are_two_lines() -> None:
    error = errors.UsageError("what\nhappened \x1b[31mhere", "this\r\nand that")
    assert error._render_traceback_() == ["UsageError: what happened [31mhere", "Try: this and that"]
    assert errors.GridkitError("only this")._render_traceback_() == ["GridkitError: only this"]
    assert str(error) == "what\nhappened \x1b[31mhere\nTry: this\r\nand that"


def test_every_error_is_shown_that_way_and_drawn_in_the_tree() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) >= 12
    for kind in kinds:
        assert kind.__name__ in (errors.__doc__ or "")
        assert kind("message", "hint")._render_traceback_() == [f"{kind.__name__}: message", "Try: hint"]


def test_in_a_script_the_traceback_is_pythons_own() -> None:
    import subprocess
    import sys

    code = "import gridkit as gk\nraise gk.errors.UsageError('wrong', 'right')"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stderr.startswith("Traceback (most recent call last)")
    assert ran.stderr.endswith("UsageError: wrong\nTry: right\n") and ran.stdout == ""
