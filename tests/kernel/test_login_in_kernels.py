"""Logging in from a notebook, in real kernels: the form waits for nothing, and no secret is in any output."""

from __future__ import annotations

import pytest

from tests.kernel.driver import Kernel

pytestmark = pytest.mark.kernel

SETUP = """
import asyncio, time
import gridkit as gk

grid = gk.launch(workers=0)
grid.add_user("ada", password="analytical engine")

def until(form, text):
    end = time.monotonic() + 20
    while text not in form.said:
        assert time.monotonic() < end, form.said
        time.sleep(0.02)
    return form.said
"""

CELLS = [
    "form = grid.authenticate()\nform",
    "form.username.value, form.password.value = 'ada', 'wrong password'\nform.button.click()",
    "until(form, 'Invalid')",
    "form.password.value = 'analytical engine'\nform.button.click()\nuntil(form, 'acts as')",
    "grid",
    "token = grid.issue_token(label='script')\ntoken",
    "grid.tokens",
    "grid.users",
    "{'token': token, 'tokens': [token]}",
    "with gk.WebsocketGridClient(None, grid.url, auth={'token': token.secret}) as client: print(client, client.models)",
    "gk.connect(grid.url, user={'username': 'ada', 'password': 'wrong password'})",
    "session = await gk.aio.connect(grid.url, token=token.secret)\nother = await session.authenticate()\nother",
    "other.username.value, other.password.value = 'ada', 'analytical engine'\nother.button.click()\n"
    "while 'acts as' not in other.said: await asyncio.sleep(0.02)",
    "print(session)\nawait session.close()",
]


@pytest.mark.parametrize("major", [7, pytest.param(6, marks=pytest.mark.soak)], ids="ipykernel {}".format)
def test_w17_a_form_logs_in_and_nothing_that_is_shown_holds_a_secret(major: int) -> None:
    kernel = Kernel(major)
    try:
        kernel.run(SETUP, seconds=60)
        cells = kernel.finish([kernel.send(code) for code in CELLS], seconds=60)
        assert [cell.reply for cell in cells] == ["ok"] * 10 + ["error"] + ["ok"] * 3, cells
        assert "not logged in" in str(cells[0].shown)
        assert "Invalid username/password!" in (cells[2].result or "")
        assert "the session acts as ada" in (cells[3].result or "") and "acts as ada" in (cells[4].result or "")
        assert (cells[10].error, "Invalid username/password!" in cells[10].traceback) == ("AccessError", True)
        assert "acts as ada" in cells[13].text
        shown = "".join(f"{cell.text}{cell.result}{cell.shown}{cell.traceback}" for cell in cells)
        secrets = kernel.run(
            "print(token.secret, token.secret.rpartition('_')[2], grid._core._link.credentials['authorization'][7:], "
            "grid._core._embedded.token)"
        ).text.split()
        assert len(secrets) == 4 and not any(secret in shown for secret in (*secrets, "analytical engine"))
        kernel.run("grid.close()")
    finally:
        kernel.close()
