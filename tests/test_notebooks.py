"""Every shipped notebook runs top to bottom unattended, and is saved as it ran."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
WIDGET = "application/vnd.jupyter.widget-view+json"
CLAIMS = r"gk\.verify\((run, simulated|once, again)\)|torch\.equal|refused\(lambda|\.diff == "
"""Cells whose text, saved with the notebook, must come out again."""


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell: Any) -> str:
    return "\n".join(
        str(output.get("text", "")) + "\n".join(str(v) for k, v in output.get("data", {}).items() if "image" not in k)
        for output in cell.outputs
    )


def test_there_are_notebooks() -> None:
    first = ["01_quickstart", "02_plans", "03_models_and_data_on_the_grid", "04_workers_that_come_and_go"]
    first += ["05_hospitals_that_wait_to_be_called", "06_autograd_on_another_machine"]
    assert [path.stem for path in NOTEBOOKS][:6] == first


@pytest.mark.kernel
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_unattended(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    client = NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    saved, fresh = (
        [texts(cell) for cell in code_cells(book) if re.search(CLAIMS, cell.source)]
        for book in (nbformat.read(path, as_version=4), notebook)
    )
    assert fresh == saved
    assert any("equal: " in text for text in fresh)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_saved_as_it_ran(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert not any(output.output_type in ("error", "stream") for output in cell.outputs), cell.source
        # a front-end shows an error in place of a widget whose kernel is gone
        assert not any(WIDGET in output.get("data", {}) for output in cell.outputs), cell.source
    assert {"kernelspec", "language_info"} == set(notebook.metadata)
    assert not any(cell.metadata for cell in notebook.cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_gives_no_secret_away(path: Path) -> None:
    """Neither tokens nor paths of the machine that ran it."""
    notebook = nbformat.read(path, as_version=4)
    for cell in code_cells(notebook):
        assert not re.search(r"[A-Za-z0-9_-]{32,}", re.sub(r"<style.*?</style>", "", texts(cell), flags=re.S))
        assert not re.search(r"(?<![\w:/])/(?:\w+/)+\w+", re.sub(r"<[^>]*>", "", texts(cell)))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_pictures_are_there_and_say_what_they_show(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            for tag in re.findall(r"<img [^>]*>", cell.source):
                source = re.search(r'src="([^"]+)"', tag)
                assert source and (FOLDER / source[1]).is_file()
                assert re.search(r'alt="[^"]{20,}"', tag)
