"""The form in a real kernel, clicked as a front-end does it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.kernel.driver import Kernel
from tests.kernel.test_habits_in_kernels import COUNT, SETUP

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module", params=[7, pytest.param(6, marks=pytest.mark.soak)], ids="ipykernel {}".format)
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    started = Kernel(request.param)
    try:
        started.run(SETUP + COUNT, seconds=60)
        yield started
    finally:
        started.close()


def click(kernel: Kernel, button: str, times: int = 1) -> None:
    """Click a button: an expression of the kernel."""
    name = eval_text(kernel, f"{button}.comm.comm_id")
    for _ in range(times):
        content = {"comm_id": name, "data": {"method": "custom", "content": {"event": "click"}}}
        kernel.client.shell_channel.send(kernel.client.session.msg("comm_msg", content))


def eval_text(kernel: Kernel, expression: str) -> str:
    return kernel.run(f"print(({expression}))").text.strip()


def until(kernel: Kernel, expression: str, wanted: str = "True", seconds: float = 30) -> None:
    """Poll with short cells: the kernel is idle between them."""
    end = time.monotonic() + seconds
    while (now := eval_text(kernel, expression)) != wanted:
        assert time.monotonic() < end, f"{expression} is {now}; {eval_text(kernel, 'form.status.value')}"
        time.sleep(0.1)


def test_the_form_finds_what_is_in_the_notebook(kernel: Kernel) -> None:
    kernel.run("def evaluate(trained):\n    return {'one': 1.0}\nform = grid.launcher(); form")
    assert eval_text(kernel, "form.model.label") == "model with plan"
    assert eval_text(kernel, "form.clients.label") == "shards: 4 clients, 128 samples"
    assert eval_text(kernel, "form.evaluate.label, form.name.value") == "('evaluate', 'model')"
    kernel.run("other = shards[:3]; form.refresh()")
    assert eval_text(kernel, "[each for each, _ in form.clients.options][-1]") == "other: 3 clients, 96 samples"
    assert eval_text(kernel, "form.clients.label") == "shards: 4 clients, 128 samples"
    kernel.run("del other")


def test_a_double_click_launches_one_training_and_stop_stops_it(kernel: Kernel) -> None:
    kernel.run("form = grid.launcher(name='clicked'); form.rounds.value = 100_000; form")
    click(kernel, "form.launch_button", times=2)
    until(kernel, "len(form.below.children) == 1 and len(form._run.metrics) > 2")
    assert eval_text(kernel, "[name for name, _ in grid.runs].count('clicked')") == "1"
    assert eval_text(kernel, "form._run.metrics['one'].iloc[0]") == "1.0"
    assert eval_text(kernel, "form.launch_button.disabled, form.stop_button.disabled") == "(True, False)"
    click(kernel, "form.stop_button")
    until(kernel, "form._run.status", "stopped")
    until(kernel, "form.launch_button.disabled, form.stop_button.disabled", "(False, True)")
    assert eval_text(kernel, "len(form._run.reports) == 4 * len(form._run.metrics)") == "True"


def test_no_click_waits_for_a_node_that_does_not_answer(kernel: Kernel) -> None:
    kernel.run("""
import os, signal
remote = gk.connect(grid.url, token=grid._core._embedded.token)
form = remote.launcher(name='frozen')
os.kill(grid.pids['node'], signal.SIGSTOP)
""")
    try:
        click(kernel, "form.launch_button")
        click(kernel, "form.refresh_button")
        began = time.monotonic()
        assert eval_text(kernel, "form.launch_button.disabled, 'starting' in form.status.value") == "(True, True)"
        assert time.monotonic() - began < 5
    finally:
        kernel.run("os.kill(grid.pids['node'], signal.SIGCONT)")
    until(kernel, "len(form.below.children) == 1 and form._run.done")


def test_an_error_appears_in_the_form(kernel: Kernel) -> None:
    kernel.run("form = grid.launcher(name='wrong'); form.rounds.value = 0")
    click(kernel, "form.launch_button")
    until(kernel, "'UsageError: rounds is 0<br>Try: use a whole number' in form.status.value")
    until(kernel, "form.launch_button.disabled", "False")


def test_a_hosted_training_is_joined(kernel: Kernel) -> None:
    kernel.run("""
rules = {'num_cycles': 3, 'min_diffs': 4, 'max_diffs': 4}
hosted = grid.host_training(model, plan, name='hosted', server_config=rules)
form = grid.launcher(clients=shards); form.what.value = 'hosted'
""")
    click(kernel, "form.launch_button")
    until(kernel, "hosted.run.done and hosted.run.status", "completed")
    until(kernel, "form.launch_button.disabled", "False")


def test_a_panel_shows_the_newest_run_and_ends_with_its_cell(kernel: Kernel) -> None:
    again = "panel = grid.panel(); watch = run.watch(); form = grid.launcher(); panel"
    kernel.run("run = train('newest', rounds=100_000); from ipywidgets.widgets.widget import _instances")
    for _ in range(2):
        kernel.run(again)
    kernel.run("former = panel, watch, form; before = held(); many = len(_instances)")
    for _ in range(4):
        kernel.run(again)
    assert eval_text(kernel, "[each.comm is None for each in former]") == "[True, True, True]"
    assert eval_text(kernel, "len(_instances) - many") == "0"
    wait = "now = settled(before); print(all(a <= b for a, b in zip(now, before)) or (before, now))"
    assert kernel.run(wait).text == "True\n"
    assert eval_text(kernel, "panel.launcher.below.children[0]._run is run, len(run._listeners)") == "(True, 3)"
    click(kernel, "panel.launcher.stop_button", times=2)
    until(kernel, "run.status", "stopped")


def test_what_is_displayed_has_a_twin(kernel: Kernel) -> None:
    assert kernel.run("form = grid.launcher(); data = form._repr_mimebundle_(); sorted(data)").result == (
        "['application/vnd.jupyter.widget-view+json', 'text/html', 'text/plain']"
    )
    assert eval_text(kernel, "'shards: 4 clients' in data['text/html'] and 'shards: 4' in data['text/plain']") == "True"


def test_a_form_of_a_closed_session_is_a_picture(kernel: Kernel) -> None:
    kernel.run("other = gk.connect(grid.url, token=grid._core._embedded.token); both = other.launcher(), other.panel()")
    kernel.run("other.close()")
    kinds = "{kind for form in both for kind in form._repr_mimebundle_()} == {'text/html', 'text/plain'}"
    assert eval_text(kernel, kinds) == "True"
    assert eval_text(kernel, "'closed' in both[1]._repr_mimebundle_()['text/plain']") == "True"
