"""Models from a notebook's cells, in real kernels: a transfer's bar is the output of the cell that waits for it."""

from __future__ import annotations

import pytest

from tests.kernel.driver import Kernel

pytestmark = pytest.mark.kernel

SETUP = """
import torch
import gridkit as gk
from gridkit.widgets import progress

progress.AFTER = progress.EVERY = 0.0
model, x = torch.nn.Linear(1000, 1000), torch.ones(1, 1000)
grid = gk.launch(workers=0)
"""


@pytest.mark.parametrize("major", [7, 6], ids="ipykernel {}".format)
def test_a_transfer_has_its_bar_under_its_own_cell(major: int) -> None:
    kernel = Kernel(major)
    try:
        kernel.run(SETUP, seconds=60)
        up = kernel.run("served = grid.serve_model(model, 'large', example=x, allow_download=True)", seconds=60)
        down = kernel.run("again = grid.download_model('large'); torch.equal(again(x), model(x))", seconds=60)
        assert (up.reply, up.text, down.reply, down.text, down.result) == ("ok", "", "ok", "", "True")
        for cell, what in ((up, "large, up"), (down, "large, down")):
            ((name, texts),) = cell.shown.items()
            assert name and len(texts) > 2
            assert texts[0].startswith(f"{what}: ") and " of 4" in texts[0]
            assert texts[-1].startswith(f"{what}: 4") and " in " in texts[-1]
        kernel.run("grid.close()")
    finally:
        kernel.close()
