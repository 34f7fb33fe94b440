"""A training that changes far faster than anybody looks: the browser gets a few paints, and the last state."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import Open
from tests.browser.lab import Traffic

pytestmark = pytest.mark.browser

SECONDS, A_SECOND, ROUNDS = 10, 300, 500
MOST_PAINTS, MOST_BYTES = 60, 1_000_000

# A run fed with rows as a node would send them, six a round, at a steady pace.
FLOOD = f"""
import threading, time
import gridkit as gk

class Flood:
    begin = threading.Event()

    def start(self, take, fail):
        threading.Thread(target=self.pour, args=(take,), daemon=True).start()

    def pour(self, take):
        self.begin.wait()
        started = time.monotonic()
        for number, row in enumerate(self.rows(), 1):
            time.sleep(max(0, started + number / {A_SECOND} - time.monotonic()))
            take({{"seq": number, "run": "flood", "at": time.time(), **row}})
        self.seconds, self.taken = time.monotonic() - started, number

    def rows(self):
        for cycle in range(1, {ROUNDS} + 1):
            yield {{"kind": "opened", "cycle": cycle, "deadline": None, "cohort": [0, 1]}}
            loss = 2 * 0.99**cycle
            for slot in (0, 1):
                who = {{"cycle": cycle, "slot": slot, "worker": f"client {{slot}}"}}
                yield {{"kind": "assigned", **who}}
                yield {{"kind": "reported", **who, "verdict": "accepted", "message": "", "tensor": None,
                       "samples": 1000 + cycle, "metrics": {{"loss": loss}}, "error": None, "bytes": 4000,
                       "seconds": 0.01, "norm": 1.0, "warning": None}}
            yield {{"kind": "aggregated", "cycle": cycle, "checkpoint": cycle + 1, "accepted": 2, "refused": 0,
                   "samples": 2 * (1000 + cycle), "loss": loss, "seconds": 0.02, "bytes": 8000}}
        yield {{"kind": "finished", "outcome": "completed", "reason": None}}

flood = Flood()
run = gk.Run("flood", "1.0", flood, rounds={ROUNDS})
"""

# Counts, for each element of the panel that JupyterLab writes into, how often it did.
COUNT_PAINTS = """panel => {
    window.paints = { curves: 0, table: 0, progress: 0, status: 0 };
    const parts = { curves: 'svg', table: 'table', progress: 'progress', status: '[role=status]' };
    const holds = (node, selector) =>
        node instanceof Element && (node.matches(selector) || node.querySelector(selector));
    new MutationObserver(changes => {
        const touched = new Set();
        for (const change of changes) for (const [part, selector] of Object.entries(parts)) {
            const attribute = change.type === 'attributes' && change.target.matches(selector);
            if (attribute || [...change.addedNodes].some(node => holds(node, selector))) touched.add(part);
        }
        for (const part of touched) window.paints[part] += 1;
    }).observe(panel, { subtree: true, childList: true, attributes: true });
}"""


@pytest.mark.timeout(180)
def test_300_updates_a_second_are_few_paints_and_the_last_state_is_right(
    open_notebook: Open, page: Page, record_property: Callable[[str, object], None]
) -> None:
    traffic = Traffic(page)
    notebook = open_notebook([FLOOD, "run.watch()", "flood.begin.set()", "flood.taken, flood.seconds"])
    for index in (0, 1):
        assert notebook.run(index)
    panel = notebook.cell(1)
    panel.get_by_role("progressbar").wait_for()
    panel.evaluate(COUNT_PAINTS)
    frames, size = traffic.frames, traffic.bytes
    notebook.run(2)
    panel.get_by_role("status").get_by_text("completed, 500 of 500 rounds").wait_for(timeout=60_000)
    page.wait_for_timeout(1000)  # what is still to come comes

    paints: dict[str, int] = page.evaluate("window.paints")
    sent = {"frames": traffic.frames - frames, "bytes": traffic.bytes - size}
    for name, value in {**paints, **sent}.items():
        record_property(name, value)
    print("\n300 updates a second for 10 s:", paints, sent)
    assert max(paints.values()) <= MOST_PAINTS
    assert min(paints.values()) > 10  # it was painted all along, and all four were counted
    assert sent["bytes"] <= MOST_BYTES

    last = 2 * 0.99**ROUNDS
    assert f"loss {last:.4g}" in panel.get_by_role("status").inner_text()
    assert f"{ROUNDS} rounds: loss {last:.3g}" in (panel.get_by_role("img").get_attribute("aria-label") or "")
    bar = panel.get_by_role("progressbar")
    assert (bar.get_attribute("value"), bar.get_attribute("max")) == (str(ROUNDS), str(ROUNDS))
    rows = panel.get_by_role("row").filter(has_text="client").all_inner_texts()
    assert [re.split(r"\s+", row.strip())[:4] for row in rows] == [
        ["client", str(slot), "reported", f"{1000 + ROUNDS:,}"] for slot in (0, 1)
    ]
    assert notebook.run(3)
    taken, seconds = re.findall(r"[\d.]+", notebook.outputs(3)[0]["data"]["text/plain"])
    assert int(taken) == 6 * ROUNDS + 1
    assert int(taken) / float(seconds) > 0.8 * A_SECOND  # it was the flood that it was meant to be
