"""The quickstart in a real JupyterLab, as a person sees it."""

from __future__ import annotations

import pytest

from tests.browser.conftest import Open

pytestmark = pytest.mark.browser


def test_the_quickstart_runs_to_its_end(open_notebook: Open) -> None:
    notebook = open_notebook("01_quickstart.ipynb")
    assert notebook.run_all()
    assert notebook.errors() == []
